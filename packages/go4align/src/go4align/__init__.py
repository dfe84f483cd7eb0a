"""Weight the losses of one network on several tasks from their values alone, grouped by risk.

``loss = GO4Align(n_tasks, n_groups)(losses)`` is the main entry. Around it: :func:`kmeans_1d` and
:func:`regroup`, the measures in :mod:`go4align.metrics`, and adapters in :mod:`go4align.torchjd`
and :mod:`go4align.integrations`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from go4align._version import __version__
from go4align.errors import Go4AlignError

if TYPE_CHECKING:
    from go4align import metrics
    from go4align.clustering import cluster_costs, kmeans_1d, regroup
    from go4align.weighting import GO4Align

__all__ = [
    "GO4Align",
    "Go4AlignError",
    "__version__",
    "cluster_costs",
    "kmeans_1d",
    "metrics",
    "regroup",
]

# Imported when first used: the command line answers --help without loading torch.
_HOMES = {
    "GO4Align": "weighting",
    "cluster_costs": "clustering",
    "kmeans_1d": "clustering",
    "regroup": "clustering",
}


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
