"""What of a loaded model the protocol needs at each request, looked up once. Knows no protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inference_svc.oip.datatypes import BY_DTYPE, Datatype, accepted
from inference_svc.oip.statistics import Statistics
from inference_svc.registry import LoadedModel, Registry
from inference_svc.rows import Path
from modelstore.onnx_model import OnnxModel
from modelstore.signature import TensorSpec
from runtime.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that the model takes, and the columns of a row that it is."""

    spec: TensorSpec
    accepted: Mapping[str, Datatype]
    first: int


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that the model gives."""

    spec: TensorSpec
    datatype: Datatype


@dataclass(frozen=True, slots=True)
class Plan:
    """A model's tensors. `inputs_at` is the place of an input by its name; `outputs` leaves out what is no tensor.

    `batched` is the output that the batcher's predictions are; None when no output is the prediction alone, as with
    the probabilities of a classifier.
    """

    loaded: LoadedModel
    model: OnnxModel
    inputs: tuple[Input, ...]
    inputs_at: Mapping[str, int]
    outputs: Mapping[str, Output]
    batched: Output | None
    statistics: Statistics = field(default_factory=Statistics)

    @classmethod
    def of(cls, loaded: LoadedModel) -> Plan:
        """Make the plan of a model."""
        model = loaded.model
        assert isinstance(model, OnnxModel)  # the loader makes no other
        inputs, first = [], 0
        for spec in model.signature.inputs:
            inputs.append(Input(spec, accepted(spec.dtype), first))
            first += spec.columns
        outputs = {
            spec.name: Output(spec, BY_DTYPE[spec.dtype]) for spec in model.signature.outputs if spec.dtype in BY_DTYPE
        }
        prediction = outputs[model.prediction.output]
        return cls(
            loaded,
            model,
            tuple(inputs),
            {each.spec.name: at for at, each in enumerate(inputs)},
            outputs,
            prediction if prediction.spec.shape in ((None,), (None, 1)) else None,
        )

    @property
    def path(self) -> Path:
        """Names a value by its input, row and column there: `inputs["x"][3][7]`."""

        def path(row: int, column: int) -> str:
            of = next(each for each in reversed(self.inputs) if each.first <= column)
            at = f"[{column - of.first}]" if len(of.spec.shape) == 2 else ""
            return f'inputs["{of.spec.name}"][{row}]{at}'

        return path

    def wanted(self, names: list[str]) -> list[Output]:
        """Outputs of those names, in their order; without names, all. Raises InvalidInputError (UNKNOWN_OUTPUT)."""
        if not names:
            return list(self.outputs.values())
        for name in names:
            if name not in self.outputs:
                known = ", ".join(self.outputs)
                raise InvalidInputError.of_field(
                    f'outputs["{name[:80]}"]', f"the model does not give it; it gives {known}", reason="UNKNOWN_OUTPUT"
                )
        return [self.outputs[name] for name in dict.fromkeys(names)]


class Plans:
    """Plans of what is loaded, made when first asked for."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._plans: dict[str, Plan] = {}

    def of(self, loaded: LoadedModel) -> Plan:
        """The plan of a model."""
        plan = self._plans.get(loaded.version)
        if plan is None or plan.loaded is not loaded:
            # Whoever comes first to a new model lets the plans of those go that are not loaded any more.
            current = {target.loaded.version for target in self._registry.current.targets()}
            self._plans = {version: kept for version, kept in self._plans.items() if version in current}
            plan = self._plans[loaded.version] = Plan.of(loaded)
        return plan
