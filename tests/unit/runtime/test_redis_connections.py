"""How commands are encoded: whoever does it, the bytes are redis-py's."""

from __future__ import annotations

from array import array
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection
from redis.exceptions import DataError

from runtime.redis_connections import Plain


class Number(IntEnum):
    ONE = 1


class Text(StrEnum):
    A = "a"


words = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(["EVALSHA", "CONFIG GET", " XADD  \t", "\x1cA\xa0B", Text.A, b"GET", b"CONFIG GET"]),
)
arguments = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.integers(),
    st.floats(),
    st.binary().map(bytearray),
    st.binary().map(memoryview),
    st.lists(st.integers(0, 99)).map(lambda numbers: memoryview(array("i", numbers))),
    st.sampled_from([Number.ONE, Text.A, -(2**70), b"\r\n$3\r\n", bytes(7000)]),
)


def packed(connection: Connection, command: tuple[Any, ...]) -> bytes:
    return b"".join(connection.pack_command(*command))


@given(words, st.lists(arguments, max_size=30))
@example("EVALSHA", ["a" * 40, 1, "key", b"payload", "", 1.5] * 200)
@example("SET", ["key", bytes(1_000_000)])
def test_a_command_is_the_same_bytes_as_by_redis_py(word: Any, given: list[Any]) -> None:
    assert packed(Plain(), (word, *given)) == packed(Connection(), (word, *given))


@given(st.lists(st.tuples(words, arguments, arguments), min_size=1, max_size=5))
def test_so_are_the_commands_of_a_pipeline(commands: list[tuple[Any, ...]]) -> None:
    assert b"".join(Plain().pack_commands(commands)) == b"".join(Connection().pack_commands(commands))


@pytest.mark.parametrize("refused", [True, None, ["a"], object()])
def test_what_redis_py_refuses_is_refused(refused: object) -> None:
    with pytest.raises(DataError, match="Invalid input of type"):
        Plain().pack_command("SET", "key", refused)


def test_a_batch_is_encoded_in_one_piece_and_large_arguments_are_not_copied() -> None:
    payload, large = bytes(200), bytes(1_000_000)
    assert len(Plain().pack_command("EVALSHA", *[payload] * 500)) == 1
    assert any(piece is large for piece in Plain().pack_command("SET", "key", large))
