"""The balancer's configuration: what a reader of docs/scale-out.md may rely on, each by the field that holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.envoy.balancer import Balancer, configuration

REPLICAS = [("10.0.0.1", 50061), ("10.0.0.2", 50062), ("10.0.0.3", 50063)]


def balancer(**values: Any) -> Balancer:
    made = {
        "host": "127.0.0.1",
        "port": 50052,
        "replicas": REPLICAS,
        "admin": Path("/run/a.sock"),
        "metrics_port": 9102,
    }
    return Balancer(**{**made, **values})


def made(**values: Any) -> Any:
    """Through JSON, which is how Envoy gets it."""
    return json.loads(json.dumps(configuration(balancer(**values))))


def cluster(**values: Any) -> Any:
    return made(**values)["static_resources"]["clusters"][0]


def listener(**values: Any) -> Any:
    return made(**values)["static_resources"]["listeners"][0]


def connections(**values: Any) -> Any:
    return listener(**values)["filter_chains"][0]["filters"][0]["typed_config"]


def routes(**values: Any) -> dict[str, Any]:
    """Route by path; `/` is that of all others."""
    (host,) = connections(**values)["route_config"]["virtual_hosts"]
    return {route["match"].get("path", "/"): route["route"] for route in host["routes"]}


def test_every_replica_is_behind_it() -> None:
    (endpoints,) = cluster()["load_assignment"]["endpoints"]
    addresses = [each["endpoint"]["address"]["socket_address"] for each in endpoints["lb_endpoints"]]
    assert [(each["address"], each["port_value"]) for each in addresses] == REPLICAS
    assert (cluster()["type"], cluster()["lb_policy"]) == ("STATIC", "LEAST_REQUEST")
    assert cluster(replicas=[("inference", 50052)])["type"] == "STRICT_DNS"


def test_it_shares_its_port_with_nobody_and_its_admin_with_its_user() -> None:
    assert all(each["enable_reuse_port"] is False for each in made()["static_resources"]["listeners"])
    assert made()["admin"]["address"]["pipe"] == {"path": "/run/a.sock", "mode": 0o600}


def test_only_what_a_lost_replica_looks_like_is_retried() -> None:
    for route in routes().values():
        retries = route["retry_policy"]
        assert set(retries["retry_on"].split(",")) == {
            "connect-failure", "refused-stream", "reset", "unavailable", "cancelled"
        }  # fmt: skip
        assert retries["num_retries"] == 3
        assert [each["name"] for each in retries["retry_host_predicate"]] == ["previous_hosts"]


def test_a_try_of_a_unary_call_is_limited_and_nothing_else_is() -> None:
    service = "/quantmesh.inference.v1.InferenceService"
    limits = {path: route["retry_policy"].get("per_try_timeout") for path, route in routes(try_s=0.25).items()}
    assert limits == {
        f"{service}/Predict": "0.250s",
        f"{service}/ListModels": "0.250s",
        f"{service}/GetModel": "0.250s",
        f"{service}/BatchPredict": "2.500s",
        "/grpc.health.v1.Health/Check": "0.250s",
        "/": None,
    }
    assert all(route["timeout"] == "0s" for route in routes().values())
    assert all("max_stream_duration" not in route for route in routes().values())
    assert (connections()["stream_idle_timeout"], connections()["request_timeout"]) == ("0s", "0s")
    assert connections()["common_http_protocol_options"]["idle_timeout"] == "0s"


@pytest.mark.parametrize("count", [2, 3, 8])
def test_it_takes_what_the_replicas_take_and_retries_the_calls_of_one(count: int) -> None:
    replicas = [("10.0.0.1", 50061 + index) for index in range(count)]
    (limits,) = cluster(replicas=replicas, max_concurrent_rpcs=100)["circuit_breakers"]["thresholds"]
    assert (limits["max_requests"], limits["max_pending_requests"]) == (100 * count, 100 * count)
    assert limits["retry_budget"]["min_retry_concurrency"] == 100
    streams = connections(replicas=replicas, max_concurrent_rpcs=100)["http2_protocol_options"][
        "max_concurrent_streams"
    ]
    assert streams > 100 * count, "what is too much is refused, not kept waiting"


def test_a_message_of_any_size_can_be_sent_again() -> None:
    (host,) = connections(max_message_bytes=1 << 26)["route_config"]["virtual_hosts"]
    assert host["request_body_buffer_limit"] > 1 << 26


def test_an_ill_replica_gets_no_calls() -> None:
    (check,) = cluster()["health_checks"]
    assert check["grpc_health_check"] == {"service_name": "quantmesh.inference.v1.InferenceService"}
    assert cluster()["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}
    outliers = cluster()["outlier_detection"]
    assert outliers["enforcing_consecutive_gateway_failure"] == 100
    assert outliers["max_ejection_percent"] == 50
    # INTERNAL is 500 to Envoy, and a caller can bring it about.
    assert outliers["enforcing_consecutive_5xx"] == 0


def test_metrics_are_all_that_is_shown_of_the_admin_interface() -> None:
    public, metrics = made()["static_resources"]["listeners"]
    assert metrics["address"]["socket_address"]["port_value"] == 9102
    (host,) = metrics["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    assert [route["match"] for route in host["routes"]] == [{"path": "/metrics"}]
    assert host["routes"][0]["route"]["prefix_rewrite"] == "/stats/prometheus"
    without = made(metrics_port=None)["static_resources"]
    assert (len(without["listeners"]), len(without["clusters"])) == (1, 1)
    assert without["listeners"] == [public]
