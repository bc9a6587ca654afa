"""The same schedules and checks, with one guarantee taken out: they must fail, or they would prove nothing."""

from __future__ import annotations

from tests.chaos.streams.drive import drive
from tests.redis_servers import Running
from tests.tcp_proxy import at_random, tcp_proxy


def test_without_fencing_zombies_repeat_effects() -> None:
    found = drive("--without", "fencing", "--seeds", "0,1,3-5,10", "--jobs", "6", "--stall-s", "5")
    assert found.code == 1
    assert found.total.duplicated > 0


def test_without_event_ids_whoever_comes_back_repeats_what_it_sent() -> None:
    found = drive("--without", "event_ids", "--seeds", "0-5", "--jobs", "6", "--stall-s", "5")
    assert found.code == 1
    assert found.total.duplicated > 0
    assert found.total.miscounted > 0


def test_without_sequences_a_lost_reply_repeats_records(redis_servers: Running) -> None:
    """Beside the same run with them: only the sequences tell a retry from a new record there."""
    redis_servers.empty()
    master = redis_servers.masters[0]
    with tcp_proxy(master.port) as proxy:
        arguments = ["--url", proxy.url, "--control-url", f"redis://{master.address}/0"]
        arguments += ["--peaceful", "send_many", "--no-event-ids", "--seeds", "0-3", "--jobs", "4", "--stall-s", "5"]
        proxy.decide = at_random(1, 0.1, ("lose_reply", "cut_before", "cut_within", "late"))
        without = drive(*arguments, "--without", "sequences")
        assert without.code == 1
        assert without.total.duplicated > 0
        with_them = drive(*arguments)
        assert not with_them.unsound
        assert proxy.counts["lose_reply"] > 10
        assert proxy.counts["late"] > 10
