"""One request of the protocol: from its tensors to the queue, and from what the model gave to the answer.

What asks for the prediction alone goes through the batcher, with everybody's rows; what asks for more runs the whole
graph on its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference import grpc_service_pb2 as pb
from inference_svc import metrics
from inference_svc.model_names import DEFAULT
from inference_svc.oip.datatypes import to_raw
from inference_svc.oip.graph_runs import GraphRuns, Run
from inference_svc.oip.inputs import check_id, feed, output_names, rows_of, tensors, terms
from inference_svc.oip.plan import Output, Plan, Plans
from inference_svc.predict import Pending, Predictor
from inference_svc.registry import Target
from inference_svc.rows import Matrix, check
from inference_svc.taps import Taps
from runtime.errors import NotFoundError, QuantmeshError, UnavailableError

Values: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Whole:
    """All rows of a request, as a part of the call that it has for itself."""

    request_id: str
    count: int
    first: int = 0


class Calls:
    """Begins requests."""

    def __init__(self, predictor: Predictor, plans: Plans, runs: GraphRuns, taps: Taps | None = None) -> None:
        self._predictor = predictor
        self._plans = plans
        self._runs = runs
        self._taps = taps or Taps()

    def target(self, name: str, version: str) -> Target:
        """The model of a name, in the version of a digest where there is one.

        Raises as `Snapshot.resolve`, and NotFoundError: UNKNOWN_VERSION when the name does not reach that version,
        UNKNOWN_MODEL for a challenger, whose graph is not in this process.
        """
        target = self._here(name)
        if version in ("", target.loaded.version):
            return target
        try:
            of_version = self._here(version)
        except QuantmeshError:
            of_version = None
        if of_version is None or of_version.loaded.version != version or of_version.strategy != target.strategy:
            raise NotFoundError(
                f"{name or DEFAULT!r} has no version {version[:80]!r} loaded; it is {target.loaded.version}",
                reason="UNKNOWN_VERSION",
                field="model_version",
                metadata={"model_name": name, "model_version": version[:80]},
            )
        return of_version

    def _here(self, name: str) -> Target:
        try:
            target = self._predictor.resolve(name)
        except UnavailableError:  # a challenger that is not ready
            target = None
        if target is None or target.role == "challenger":
            raise NotFoundError(
                f"{name!r} is a challenger, which this protocol does not reach: quantmesh.inference.v1 does",
                reason="UNKNOWN_MODEL",
                field="model_name",
                metadata={"model_name": name},
            )
        return target

    def plan(self, target: Target) -> Plan:
        """What the protocol needs of a model."""
        return self._plans.of(target.loaded)

    def begin(self, request: pb.ModelInferRequest, left_s: float | None, *, patient: bool = False) -> Begun:
        """Let a request's rows wait; it has so much time left. Raises QuantmeshError for a fault of its own."""
        started = time.perf_counter()
        target = self.target(request.model_name, request.model_version)
        plan = self._plans.of(target.loaded)
        try:
            check_id(request.id)
            wanted = plan.wanted(output_names(request.outputs))
            agreed = terms(request.parameters, started, left_s, patient=patient)
            arrays = tensors(request, plan, self._predictor)
            rows = rows_of(arrays)
            under_way: Pending | Run
            if wanted == [plan.batched]:
                under_way = self._predictor.begin(target, rows, plan.path, agreed, request.id)
            else:
                check(rows, target.loaded, plan.path)
                under_way = self._runs.submit(target.loaded, feed(arrays, plan), len(rows), agreed)
        except QuantmeshError:
            plan.statistics.failed(started)
            raise
        return Begun(request, target, plan, wanted, under_way, started, rows, self._taps)


class Begun:
    """A request that waits or is being run."""

    __slots__ = ("_let_in", "_plan", "_request", "_rows", "_started", "_taps", "_target", "_under_way", "_wanted")

    def __init__(
        self,
        request: pb.ModelInferRequest,
        target: Target,
        plan: Plan,
        wanted: list[Output],
        under_way: Pending | Run,
        started: float,
        rows: Matrix,
        taps: Taps,
    ) -> None:
        self._rows = rows
        self._taps = taps
        self._request = request
        self._target = target
        self._plan = plan
        self._wanted = wanted
        self._under_way = under_way
        self._started = started
        self._let_in = time.perf_counter()

    def cancel(self) -> None:
        """Nobody waits for the answer."""
        self._under_way.cancel()

    async def result(self) -> pb.ModelInferResponse:
        """The answer. Raises as `Pending.result` and `Run.result`."""
        under_way = self._under_way
        try:
            if isinstance(under_way, Pending):
                work = await under_way.result()
                began, rows, batch_rows = work.began, len(work.values), max(of for _, of in work.shapes)
                values: Iterable[Values] = (_as_output(work.values, self._wanted[0]),)
            else:
                found = await under_way.result()
                began, rows, batch_rows = under_way.began, under_way.rows, under_way.rows
                values = [found[output.spec.name] for output in self._wanted]
                if self._taps.batch is not None:
                    prediction = self._plan.model.prediction
                    predictions = found[prediction.output].reshape(rows, -1)[:, prediction.column].astype(np.float64)
                    parts = [_Whole(self._request.id, rows)]
                    took_s = time.perf_counter() - began
                    self._taps.batch(self._target.loaded, parts, self._rows, predictions, (), took_s)
        except QuantmeshError:
            self._plan.statistics.failed(self._started)
            raise
        scored = time.perf_counter()
        response = pb.ModelInferResponse(
            model_name=self._request.model_name or DEFAULT,
            model_version=self._target.loaded.version,
            id=self._request.id,
        )
        for output, tensor in zip(self._wanted, values, strict=True):
            response.outputs.add(name=output.spec.name, datatype=output.datatype.name, shape=tensor.shape)
            response.raw_output_contents.append(to_raw(tensor, output.datatype))
        response.parameters["generation"].int64_param = self._target.generation
        response.parameters["batch_rows"].int64_param = batch_rows
        metrics.PREDICTIONS.labels(self._target.strategy).inc(rows)
        # A run that need not wait has begun before its submission returns.
        let_in = min(self._let_in, began)
        self._plan.statistics.succeeded(self._started, let_in, began, scored, time.perf_counter())
        return response


def _as_output(predictions: NDArray[np.float64], output: Output) -> Values:
    """Predictions as the output that they were read from: the batcher made them float64, which loses nothing."""
    values = predictions.astype(output.datatype.layout, copy=False)
    return values if len(output.spec.shape) == 1 else values.reshape(-1, 1)
