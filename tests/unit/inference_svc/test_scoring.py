"""Several strategies, many vectors: each for itself, each strategy in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inference_svc.determinism import ALONE, Call
from inference_svc.registry import Serving
from inference_svc.scoring import Scored
from inference_svc.scoring import score as score_either_way
from inference_svc.vectors import Vector
from tests.unit.inference_svc.loaded import Sum, Table, loaded, serving


def score(servings: Mapping[str, Serving], vectors: Sequence[Vector]) -> list[Scored]:
    """All rows in one call; the same comes out of a call for each row, as these models do not look at the batch."""
    together = score_either_way(servings, vectors, deterministic=False)
    alone = score_either_way(servings, vectors, deterministic=True)
    for one, other in zip(together, alone, strict=True):
        assert [(p.serving, p.value) for p in one.predictions] == [(p.serving, p.value) for p in other.predictions]
        assert [str(each.fault) for each in (one, other)] == [str(one.fault)] * 2
        assert {p.call for p in other.predictions} <= {ALONE}
    return together


def vector(*values: float, feature_set: str = "set", unusable: str = "") -> Vector:
    return Vector("AAPL", feature_set, 1, 2, 2, list(values), unusable, bytes(32))


def test_each_strategy_scores_the_rows_of_its_set_in_one_call() -> None:
    servings = {
        "carry": serving("carry", champion=loaded("c" * 64, 100.0)),
        "fx": serving("fx", champion=loaded("f" * 64, 7.0, feature_set="other", columns=1)),
        "momentum": serving("momentum", champion=loaded("m" * 64, 0.0)),
    }
    results = score(servings, [vector(1.0, 2.0), vector(5.0, feature_set="other"), vector(3.0, 4.0)])
    assert [[(s.strategy, p) for s, p, _ in r.predictions] for r in results] == [
        [("carry", 103.0), ("momentum", 3.0)],
        [("fx", 12.0)],
        [("carry", 107.0), ("momentum", 7.0)],
    ]
    models = [s.champion.model for s in servings.values()]
    assert [m.calls for m in models if isinstance(m, Sum)] == [1 + 2, 1 + 1, 1 + 2]


def test_a_vector_that_cannot_be_scored_says_why_and_its_neighbours_are_scored() -> None:
    servings = {"momentum": serving("momentum")}
    results = score(
        servings,
        [
            vector(1.0),
            vector(1e308, 1e308),
            vector(1.0, 2.0, unusable="stale"),
            vector(1.0, feature_set="x"),
            vector(1.0, 2.0),
        ],
    )
    assert [r.fault.reason if r.fault else "" for r in results] == [
        "FEATURE_COUNT_MISMATCH",
        "NON_FINITE_PREDICTION",
        "",
        "",
        "",
    ]
    assert [r.skipped for r in results] == ["", "", "stale", "no_model", ""]
    assert [len(r.predictions) for r in results] == [0, 0, 0, 0, 1]


def test_a_strategy_that_cannot_score_a_vector_does_not_silence_the_others() -> None:
    servings = {
        "broken": serving("broken", champion=loaded("b" * 64, columns=3)),
        "momentum": serving("momentum"),
    }
    (result,) = score(servings, [vector(1.0, 2.0)])
    assert result.fault is not None
    assert "broken" in result.fault.message
    assert [s.strategy for s, _, _ in result.predictions] == ["momentum"]


def test_a_vector_that_makes_a_model_fail_is_a_fault_and_its_neighbours_are_scored() -> None:
    servings = {
        "momentum": serving("momentum"),
        "table": serving("table", champion=loaded("t" * 64, model=Table((10.0, 20.0)))),
    }
    results = score(servings, [vector(0.0, 0.0), vector(9.0, 0.0), vector(1.0, 0.0)])
    assert [r.fault.reason if r.fault else "" for r in results] == ["", "MODEL_FAILED", ""]
    assert [[(s.strategy, p) for s, p, _ in r.predictions] for r in results] == [
        [("momentum", 0.0), ("table", 10.0)],
        [("momentum", 9.0)],
        [("momentum", 1.0), ("table", 20.0)],
    ]


def test_nothing_is_scored_without_rows() -> None:
    assert score({"momentum": serving("momentum")}, []) == []


def test_a_prediction_tells_which_call_it_was_in() -> None:
    servings = {
        "momentum": serving("momentum"),
        "table": serving("table", champion=loaded("t" * 64, model=Table((1.0,)))),
    }
    given = [vector(0.0, 0.0), vector(0.0, 0.0, unusable="stale"), vector(9.0, 0.0), vector(0.0, 0.0)]
    results = score_either_way(servings, given, deterministic=False)
    calls = [{p.serving.strategy: p.call for p in result.predictions} for result in results]
    assert [call.get("momentum") for call in calls] == [Call(3, 0), None, Call(3, 1), Call(3, 2)]
    assert [call.get("table") for call in calls] == [ALONE, None, None, ALONE], "the call of three failed"
