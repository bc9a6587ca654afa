"""What requests of the protocol have had of one version. Plain numbers, written on the event loop alone."""

from __future__ import annotations

import time


class Statistics:
    """Counts, and seconds together. The model's calls are counted where they are made: `inference_svc.costs.Calls`."""

    __slots__ = (
        "compute_infer_s",
        "compute_input_s",
        "compute_output_s",
        "fail",
        "fail_s",
        "last_inference_ms",
        "queue_s",
        "success",
        "success_s",
    )

    def __init__(self) -> None:
        self.success = self.fail = self.last_inference_ms = 0
        self.success_s = self.fail_s = 0.0
        self.compute_input_s = self.queue_s = self.compute_infer_s = self.compute_output_s = 0.0

    def succeeded(self, started: float, let_in: float, began: float, scored: float, ended: float) -> None:
        """Count a request that was answered, by its moments in seconds of `time.perf_counter()`."""
        self.success += 1
        self.success_s += ended - started
        self.compute_input_s += let_in - started
        self.queue_s += began - let_in
        self.compute_infer_s += scored - began
        self.compute_output_s += ended - scored
        self.last_inference_ms = time.time_ns() // 1_000_000

    def failed(self, started: float) -> None:
        """Count a request that failed now."""
        self.fail += 1
        self.fail_s += time.perf_counter() - started
