"""Where the rows of a replay go: a CSV or Parquet file, which appears when it is complete."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from inference_svc.replay.instants import show
from runtime.errors import FailedPreconditionError

CSV, PARQUET = ".csv", ".parquet"

_BATCH = 10_000


class Row(NamedTuple):
    """One recorded signal, or one vector that a model was asked to score, and what was made of it."""

    symbol: str
    as_of_us: int
    strategy: str
    recorded: float | None
    """The recorded prediction."""
    recorded_model: str
    prediction: float | None
    """What was computed now; None when nothing could be."""
    model: str
    """Digest of the model that computed it."""
    outcome: str
    """What became of the recorded signal; see `report`. Empty when there is none."""


COLUMNS = ("symbol", "as_of", "strategy", "recorded", "recorded_model", "prediction", "model", "outcome")


class Sink(Protocol):
    """Takes rows."""

    def write(self, row: Row) -> None:
        """Take one row."""


class Nowhere:
    """Takes rows and keeps none."""

    def write(self, row: Row) -> None:
        """Do nothing."""


def check(path: Path) -> None:
    """Raise ValueError, which says what to do, when a file cannot be written as its name asks."""
    if path.suffix not in (CSV, PARQUET):
        raise ValueError(f"{path} must end in {CSV} or {PARQUET}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path.parent} may not be written to")
    if path.suffix == PARQUET and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{PARQUET} needs pyarrow (pip install pyarrow), which is not there; {CSV} needs nothing")


@contextmanager
def opened(path: Path | None) -> Iterator[Sink]:
    """A sink that fills a file. It is written beside its place, and moved there when the block ends well.

    Its methods, and the end of the block, raise FailedPreconditionError (OUT_FAILED) when the system does not let it.
    """
    if path is None:
        yield Nowhere()
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with ExitStack() as stack:
            with _told(path):
                file: AbstractContextManager[Sink] = _csv(part) if path.suffix == CSV else _parquet(part)
                sink = stack.enter_context(file)
            yield _Telling(sink, path)
            with _told(path):
                stack.close()
                part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be written: Redis fails with the same kind of errors."""
    try:
        yield
    except OSError as error:
        raise FailedPreconditionError(
            f"{path} cannot be written: {error.strerror or error}", reason="OUT_FAILED", field="--out"
        ) from error


class _Telling:
    def __init__(self, sink: Sink, path: Path) -> None:
        self._sink = sink
        self._path = path

    def write(self, row: Row) -> None:
        with _told(self._path):
            self._sink.write(row)


class _Csv:
    def __init__(self, writer: Any) -> None:
        self._writer = writer
        writer.writerow(COLUMNS)

    def write(self, row: Row) -> None:
        # None is written as nothing, and a float by repr: the shortest text that reads back as the same bits.
        self._writer.writerow(row._replace(as_of_us=show(row.as_of_us)))  # type: ignore[arg-type]


@contextmanager
def _csv(path: Path) -> Iterator[_Csv]:
    with path.open("w", newline="", encoding="utf-8") as file:
        yield _Csv(csv.writer(file))


class _Parquet:
    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[Row] = []

    def write(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        import pyarrow

        if self._rows:
            columns = zip(zip(*self._rows, strict=True), self._schema.types, strict=True)
            arrays = [pyarrow.array(values, kind) for values, kind in columns]
            self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))
            self._rows.clear()


@contextmanager
def _parquet(path: Path) -> Iterator[_Parquet]:
    # Not a dependency of serving: only who wants this file needs it.
    import pyarrow
    import pyarrow.parquet

    text, number = pyarrow.string(), pyarrow.float64()
    kinds = (text, pyarrow.timestamp("us", "UTC"), text, number, text, number, text, text)
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        sink = _Parquet(writer, schema)
        yield sink
        sink.flush()
