"""Frames: what is written is read, however the bytes are cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference_svc.shadow import frames
from inference_svc.shadow.frames import Ask, Kind, Origin, Reader, Rows

finite = st.floats(allow_nan=False, allow_infinity=False)
origins = st.builds(
    Origin,
    st.text(max_size=128),
    st.integers(0, 2**32 - 1),
    st.text(max_size=64),
    st.binary(max_size=32),
    st.integers(-(2**63), 2**63 - 1),
)


@st.composite
def matrices(draw: st.DrawFn, least: int = 0) -> NDArray[np.float64]:
    count, columns = draw(st.integers(least, 5)), draw(st.integers(1, 5))
    return np.array(draw(st.lists(finite, min_size=count * columns, max_size=count * columns))).reshape(count, columns)


@given(matrices(), st.data())
def test_rows_are_read_as_they_were_written(values: NDArray[np.float64], data: st.DataObject) -> None:
    count = len(values)
    predictions = np.array(data.draw(st.lists(finite, min_size=count, max_size=count)))
    given_ = Rows(
        data.draw(st.integers(0, 2**32 - 1)),
        data.draw(st.integers(0, 2**62)),
        data.draw(finite),
        count,
        values,
        predictions,
        data.draw(st.lists(origins, min_size=count, max_size=count)),
    )
    ((kind, body),) = Reader().feed(frames.rows_frame(given_))
    read = frames.read_rows(body)
    assert kind is Kind.ROWS
    assert (read.slot, read.scored_at_us, read.latency_us, read.batch_rows) == (
        given_.slot,
        given_.scored_at_us,
        given_.latency_us,
        given_.batch_rows,
    )
    assert np.array_equal(read.values, values)
    assert np.array_equal(read.predictions, predictions)
    assert read.origins == given_.origins


@given(matrices(least=1), st.integers(0, 2**32 - 1))
def test_asks_and_answers_are_read_as_they_were_written(values: NDArray[np.float64], number: int) -> None:
    ((kind, body),) = Reader().feed(frames.ask_frame(Ask(number, "a" * 64, values)))
    ask = frames.read_ask(body)
    assert (kind, ask.number, ask.version) == (Kind.ASK, number, "a" * 64)
    assert np.array_equal(ask.values, values)
    ((kind, body),) = Reader().feed(frames.answer_frame(number, values[:, 0]))
    answered, predictions = frames.read_answer(body)
    assert (kind, answered) == (Kind.ANSWER, number)
    assert np.array_equal(predictions, values[:, 0])


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=5), st.data())
def test_frames_are_found_however_the_bytes_are_cut(notes: list[dict[str, int]], data: st.DataObject) -> None:
    written = b"".join(map(frames.note, notes))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=8)))
    reader, read = Reader(), []
    for start, end in zip([0, *cuts], [*cuts, len(written)], strict=True):
        read += [frames.read_note(body) for _, body in reader.feed(written[start:end])]
    assert read == notes
