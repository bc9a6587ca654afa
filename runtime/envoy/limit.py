"""How many calls may be with Python at once; the surplus is refused before Python is told of it.

Python knows how long its own queue is, but nothing of calls that it has not been told of yet; and when callers send
several times what can be answered, to tell it of each, and to have each refused there, takes all the time there is. So
the number of whole requests that are with Python is limited here, where a refusal costs a few microseconds.

The limit follows how long answers take (Envoy's adaptive concurrency: a gradient controller, with a target that is
given to it instead of one that it measures): it falls while they take too long, and rises again while they do not.
"""

from __future__ import annotations

from runtime.envoy.values import FILTERS, Json

NAME = "limit"

LEAST = 32
"""Calls that may always be in flight, so that a model whose every call takes long does not shut its callers out."""

_EVERY_S = 0.05
_PERCENTILE = 90
_SHARE = 0.5
"""Of the objective: what the 90th of 100 answers may take. The slowest of them take almost twice that."""


def limit(most: int, objective_ms: float) -> Json:
    """The filter: at most `most` calls, and fewer, down to LEAST, while answers take too long for `objective_ms`."""
    controller = {
        "sample_aggregate_percentile": {"value": _PERCENTILE},
        "concurrency_limit_params": {"max_concurrency_limit": most, "concurrency_update_interval": f"{_EVERY_S}s"},
        "min_rtt_calc_params": {
            "fixed_value": f"{_SHARE * objective_ms / 1000:.6f}s",
            "min_concurrency": min(LEAST, most),
            "buffer": {"value": 0},
        },
    }
    return {
        "name": NAME,
        "typed_config": {
            "@type": f"{FILTERS}.http.adaptive_concurrency.v3.AdaptiveConcurrency",
            "gradient_controller_config": controller,
            "concurrency_limit_exceeded_status": {"code": "TooManyRequests"},
        },
    }
