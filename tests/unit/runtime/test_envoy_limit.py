"""The limit of calls that are with Python: what Envoy is told, and what its metrics say when it does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from runtime.envoy.limit import LEAST, limit
from runtime.envoy.limit_metrics import LimitMetrics


def controller(most: int, objective_ms: float) -> Any:
    return limit(most, objective_ms)["typed_config"]["gradient_controller_config"]


@pytest.mark.parametrize(("most", "least"), [(1, 1), (LEAST, LEAST), (1000, LEAST)])
def test_the_limit_is_between_the_least_and_the_most(most: int, least: int) -> None:
    told = controller(most, 50.0)
    assert told["concurrency_limit_params"]["max_concurrency_limit"] == most
    assert told["min_rtt_calc_params"]["min_concurrency"] == least


def test_nine_answers_of_ten_are_held_to_less_than_the_objective() -> None:
    assert controller(1000, 50.0)["min_rtt_calc_params"]["fixed_value"] == "0.025000s"


def test_metrics_of_an_envoy_that_is_not_there_are_left_out(tmp_path: Path) -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(LimitMetrics(str(tmp_path / "no.sock")))
    assert generate_latest(registry) == b""
