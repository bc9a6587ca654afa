"""How a replica is known to others."""

from __future__ import annotations

from inference_svc.app import replica_id


def test_a_restarted_replica_has_the_id_it_had() -> None:
    assert replica_id(50052) == replica_id(50052)
    assert replica_id(50052) != replica_id(50053)
