"""Fine-tune transformers with less activation memory.

``convert(model)`` is the main entry; ``profile(model, inputs)`` says what autograd holds. The
parts are in :mod:`lowmem_bp.functional` and :mod:`lowmem_bp.nn`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lowmem_bp._version import __version__
from lowmem_bp.errors import LowmemBPError

if TYPE_CHECKING:
    from lowmem_bp import functional, nn
    from lowmem_bp.conversion import (
        ConversionReport,
        MergeReport,
        convert,
        converted,
        merge_norms,
        revert,
        unmerge_norms,
    )
    from lowmem_bp.fit import calibrate, fit_stepwise
    from lowmem_bp.memory import MemoryReport, profile
    from lowmem_bp.steps import StepTable, preset

__all__ = [
    "ConversionReport",
    "LowmemBPError",
    "MemoryReport",
    "MergeReport",
    "StepTable",
    "__version__",
    "calibrate",
    "convert",
    "converted",
    "fit_stepwise",
    "functional",
    "merge_norms",
    "nn",
    "preset",
    "profile",
    "revert",
    "unmerge_norms",
]

# Imported when first used: the command line answers --help without loading torch.
_HOMES = {
    "ConversionReport": "conversion",
    "MemoryReport": "memory",
    "MergeReport": "conversion",
    "StepTable": "steps",
    "calibrate": "fit",
    "convert": "conversion",
    "converted": "conversion",
    "fit_stepwise": "fit",
    "merge_norms": "conversion",
    "preset": "steps",
    "profile": "memory",
    "revert": "conversion",
    "unmerge_norms": "conversion",
}


def __getattr__(name: str) -> Any:
    if name in ("functional", "nn"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
