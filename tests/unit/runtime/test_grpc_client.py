"""What is dialled for an address, and what a channel to several replicas is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runtime.errors import ConfigurationError
from runtime.grpc_client import SERVICE_CONFIG, is_several, target


@pytest.mark.parametrize(
    ("address", "dialled"),
    [
        ("localhost:50052", "localhost:50052"),
        ("[::1]:50052", "[::1]:50052"),
        ("dns:///inference:50052", "dns:///inference:50052"),
        ("10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (" 10.0.0.1:1 , 10.0.0.2:2, ", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2"),
        ("10.0.0.1:1,", "ipv4:10.0.0.1:1"),
    ],
)
def test_an_address_is_a_target(address: str, dialled: str) -> None:
    assert target(address) == dialled


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("localhost:1,10.0.0.2:2", "'localhost:1' is not one"),
        ("10.0.0.1,10.0.0.2:2", "'10.0.0.1' has no port"),
        ("10.0.0.1:x,10.0.0.2:2", "'10.0.0.1:x' is not one"),
        ("10.0.0.1:1,[::1]:2", "mixes IPv4 and IPv6"),
        (",", "is empty"),
    ],
)
def test_a_list_that_cannot_be_dialled_is_refused_in_words(address: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match="dns:///name:port") as caught:
        target(address)
    assert said in caught.value.message
    assert caught.value.reason == "ADDRESS_INVALID"


def test_one_address_is_no_list() -> None:
    assert [is_several(each) for each in ("h:1", "10.0.0.1:1", "10.0.0.1:1,10.0.0.2:1", "dns:///h:1")] == [
        False,
        False,
        True,
        True,
    ]


def test_the_documented_service_config_is_the_one_that_is_used() -> None:
    page = (Path(__file__).parents[3] / "docs" / "scale-out.md").read_text()
    documented = re.search(r"^```json\n(.*?)^```$", page, re.M | re.S)
    assert documented is not None
    assert json.loads(documented[1]) == SERVICE_CONFIG


def test_only_what_changes_nothing_is_tried_again() -> None:
    (method,) = SERVICE_CONFIG["methodConfig"]
    assert {name["service"] for name in method["name"]} == {
        "quantmesh.inference.v1.InferenceService",
        "grpc.health.v1.Health",
    }
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
