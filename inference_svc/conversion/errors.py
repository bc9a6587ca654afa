"""What can go wrong in a conversion. Each has a stable `reason`; the message says what to do."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import FailedPreconditionError, InvalidInputError

UNSUPPORTED_MODEL = "UNSUPPORTED_MODEL"
MISSING_FRAMEWORK = "MISSING_FRAMEWORK"
SAMPLE_ROWS = "SAMPLE_ROWS"
FEATURE_NAMES_MISMATCH = "FEATURE_NAMES_MISMATCH"
FIXED_BATCH = "FIXED_BATCH"
PARITY_MISMATCH = "PARITY_MISMATCH"
NOTHING_TO_QUANTISE = "NOTHING_TO_QUANTISE"
INT8_PARITY = "INT8_PARITY"
UNTRUSTED_PICKLE = "UNTRUSTED_PICKLE"
UNREADABLE_FILE = "UNREADABLE_FILE"

SUPPORTED = (
    "scikit-learn regressors, and classifiers with predict_proba, also in pipelines; LightGBM and XGBoost, their "
    "scikit-learn estimators (also in pipelines) and their boosters; torch.nn.Module and torch.export programs; Keras "
    "3 models on TensorFlow; TensorFlow SavedModels"
)


class UnsupportedModelError(InvalidInputError):
    """The object is no model that can be converted, or uses something that has no ONNX form here."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the model cannot be converted: {why}", reason=UNSUPPORTED_MODEL, field="model")


class MissingFrameworkError(FailedPreconditionError):
    """A framework is not installed; the message names the extra that brings it."""

    def __init__(self, module: str, extra: str, why: str = "") -> None:
        """`module` is what cannot be imported; `extra` brings it; `why` is what the import said."""
        super().__init__(
            f"this needs {module}, which cannot be imported{f' ({why})' if why else ''}: "
            f"pip install 'quantmesh[{extra}]'",
            reason=MISSING_FRAMEWORK,
            metadata={"module": module, "extra": extra},
        )
        self.extra = extra


class SampleRowsError(InvalidInputError):
    """The sample rows cannot be used."""

    def __init__(self, description: str) -> None:
        super().__init__(f"sample_rows: {description}", reason=SAMPLE_ROWS, field="sample_rows")


class FixedBatchError(InvalidInputError):
    """The graph takes one number of rows only."""

    def __init__(self, description: str) -> None:
        super().__init__(
            f"{description}; a model here takes any number of rows: leave the first axis free where it is exported",
            reason=FIXED_BATCH,
            field="model",
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest excess over the tolerance: where, and both values (labels are compared as text)."""

    output: str
    row: int
    column: int
    original: float | str
    converted: float | str
    tolerance: float
    rows_over: int
    rows: int


class ParityError(InvalidInputError):
    """The ONNX model answers differently from the original."""

    def __init__(self, difference: Difference, hint: str = "") -> None:
        """`hint` says what may be behind it, in a sentence without its full stop."""
        at = f"{difference.output}[{difference.row}, {difference.column}]"
        message = (
            f"{at}: the original gives {difference.original!r}, the ONNX model {difference.converted!r}, and the "
            f"tolerance there is {difference.tolerance:.3g}; "
            f"{difference.rows_over} of {difference.rows} rows differ by more"
        )
        super().__init__(
            f"{message}. {hint}" if hint else message,
            reason=PARITY_MISMATCH,
            field="model",
            metadata={
                "output": difference.output,
                "row": str(difference.row),
                "column": str(difference.column),
                "original": str(difference.original),
                "converted": str(difference.converted),
                "tolerance": repr(difference.tolerance),
            },
        )
        self.difference = difference
