"""Conversion of trained models to ONNX, verified against the original: docs/conversion.md is its guide.

`convert` takes a fitted model of any supported framework. What is specific to a framework is in its module:
`from_sklearn`, `from_torch`, `from_tensorflow`, `from_lightgbm`, `from_xgboost`.
"""

from inference_svc.conversion.converting import Conversion, convert, export
from inference_svc.conversion.verify import Tolerance, Verification

__all__ = ["Conversion", "Tolerance", "Verification", "convert", "export"]
