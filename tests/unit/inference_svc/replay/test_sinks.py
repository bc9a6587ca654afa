"""The file of a replay: what is read back is what was written, to the last bit, or there is no file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from inference_svc.replay.sinks import COLUMNS, Row, check, opened
from runtime.errors import FailedPreconditionError

ROWS = [
    Row("AAPL", 1_547_758_800_000_001, "momentum", 0.1 + 0.2, "a" * 64, -0.0, "b" * 64, "reproduced"),
    Row('Q"u,ote', 0, "", None, "", 5e-324, "b" * 64, ""),
]


def test_a_csv_file_keeps_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with opened(path) as sink:
        for row in ROWS:
            sink.write(row)
        assert not path.exists()
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert lines[0][1] == "2019-01-17T21:00:00.000001Z"
    assert (float(lines[0][3]), lines[0][5]) == (0.1 + 0.2, "-0.0")
    assert (lines[1][0], lines[1][3], float(lines[1][5])) == ('Q"u,ote', "", 5e-324)
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


def test_a_parquet_file_keeps_every_bit(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    with opened(path) as sink:
        for row in ROWS * 7000:
            sink.write(row)
    table = parquet.read_table(path)
    assert table.num_rows == 14_000
    assert tuple(table.column_names) == COLUMNS
    first, second = table.slice(0, 2).to_pylist()
    assert repr(first["prediction"]) == "-0.0"
    assert first["as_of"].isoformat() == "2019-01-17T21:00:00.000001+00:00"
    assert (second["recorded"], second["prediction"]) == (None, 5e-324)


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def fail() -> None:
        with opened(path) as sink:
            sink.write(ROWS[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    (tmp_path / "out.csv.part").symlink_to("/dev/full")

    def fill() -> None:
        with opened(path) as sink:
            for row in ROWS * 1000:
                sink.write(row)

    with pytest.raises(FailedPreconditionError, match=r"out\.csv cannot be written: No space left"):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [("out.txt", "must end in"), ("nowhere/out.csv", "there is no folder"), ("folder.csv", "a folder")],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match=says):
        check(tmp_path / name)
