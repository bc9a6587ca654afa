"""What a work queue refuses before it is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from runtime.errors import InvalidInputError, NotFoundError
from streams import load_catalog
from streams.work_queue import WorkQueue

YAML = """
stream_backend: redis_streams
stream_max_lag_ms: 200
consumer_group: workers
streams:
  jobs:
    payload: google.protobuf.StringValue
    key: id
    delivery: at_least_once
    retention: {policy: committed, keep_hours: 1}
  ticks:
    payload: google.protobuf.StringValue
    key: id
    delivery: at_least_once
    retention: {policy: drop_oldest, max_records: 10}
"""


def make(tmp_path: Path, stream: str, group: str | None = None) -> WorkQueue:
    path = tmp_path / "streams.yaml"
    path.write_text(YAML)
    return WorkQueue(cast(Redis, None), load_catalog(4, path), stream, cast(Any, None), group=group)


def test_takes_a_stream_that_keeps_its_jobs(tmp_path: Path) -> None:
    make(tmp_path, "jobs")
    make(tmp_path, "jobs", "workers")


@pytest.mark.parametrize(("stream", "group"), [("ticks", None), ("jobs", "undeclared")])
def test_refuses_what_would_trim_jobs_that_are_not_done(tmp_path: Path, stream: str, group: str | None) -> None:
    with pytest.raises(InvalidInputError, match="trimmed before they are done") as error:
        make(tmp_path, stream, group)
    assert error.value.reason == "NOT_KEPT"


def test_refuses_an_unknown_stream(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        make(tmp_path, "nothing")
