"""Fine-tune transformers with less activation memory.

``convert(model)`` is the main entry; ``profile(model, inputs)`` says what autograd holds. The
parts are in :mod:`lowmem_bp.functional` and :mod:`lowmem_bp.nn`.
"""

from lowmem_bp import functional, nn
from lowmem_bp._version import __version__
from lowmem_bp.convert import ConversionReport, convert, converted, revert
from lowmem_bp.errors import LowmemBPError
from lowmem_bp.fit import calibrate, fit_stepwise
from lowmem_bp.profile import MemoryReport, profile
from lowmem_bp.steps import StepTable, preset

__all__ = [
    "ConversionReport",
    "LowmemBPError",
    "MemoryReport",
    "StepTable",
    "__version__",
    "calibrate",
    "convert",
    "converted",
    "fit_stepwise",
    "functional",
    "nn",
    "preset",
    "profile",
    "revert",
]
