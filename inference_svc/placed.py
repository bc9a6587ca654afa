"""Calls of models on threads: long ones, which the event loop is not to wait for.

ONNX Runtime lets go of the interpreter while it runs, so a call on a thread costs the loop nothing but the hand-over. A
thread has one model at a time, and of that at most two calls: one that runs, and one behind it. With the second there,
the thread goes on by itself, and does not wait for the event loop to hand out one answer and bring the next call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from inference_svc.registry import LoadedModel

MOST_CALLS = 2


class Slot:
    """One thread, while it has calls of a model."""

    __slots__ = ("_expected_s", "_until", "executor", "loaded")

    def __init__(self, loaded: LoadedModel, executor: ThreadPoolExecutor) -> None:
        self.loaded = loaded
        self.executor = executor
        self._expected_s: deque[float] = deque()
        self._until = 0.0

    @property
    def calls(self) -> int:
        """How many have not returned."""
        return len(self._expected_s)

    def left_s(self, now: float) -> float:
        """Seconds until all its calls are expected to have returned."""
        return max(self._until - now, 0.0)

    def place(self, call: Callable[[], None], expected_s: float, now: float) -> None:
        """Run a call after those that are there. It is to tell the loop that it is over, and that calls `returned`."""
        self._expected_s.append(expected_s)
        self._until = now + self.left_s(now) + expected_s
        self.executor.submit(call)

    def returned(self, now: float) -> None:
        """Its oldest call is over."""
        self._expected_s.popleft()
        self._until = now + sum(self._expected_s)


class Threads:
    """So many threads, and the models that have one at the moment."""

    def __init__(self, count: int) -> None:
        self._free = [ThreadPoolExecutor(1, thread_name_prefix="model") for _ in range(count)]
        self._executors = tuple(self._free)
        self.slots: dict[int, Slot] = {}
        """By the identity of the model."""

    def slot(self, loaded: LoadedModel) -> Slot | None:
        """The thread that a model has, or a free one; None without one."""
        slot = self.slots.get(id(loaded))
        if slot is None and self._free:
            slot = self.slots[id(loaded)] = Slot(loaded, self._free.pop())
        return slot

    def wait_s(self, loaded: LoadedModel, now: float) -> float:
        """Seconds until a call of a model can begin on a thread, as far as calls that are placed are concerned."""
        slot = self.slots.get(id(loaded))
        if slot is not None:
            return slot.left_s(now)
        return 0.0 if self._free else min(slot.left_s(now) for slot in self.slots.values())

    def free(self, slot: Slot) -> None:
        """Take the thread away from a model that has no calls on it."""
        del self.slots[id(slot.loaded)]
        self._free.append(slot.executor)

    def close(self) -> None:
        """Let go of the threads; a call that still runs is not waited for."""
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
