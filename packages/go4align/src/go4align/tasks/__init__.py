"""Real multi-task problems whose data comes inside Python packages, and the two-task landscape."""

from __future__ import annotations

from go4align.errors import ConfigError
from go4align.tasks.problem import Metric, MultiTaskNetwork, Part, Problem, Split

__all__ = ["Metric", "MultiTaskNetwork", "Part", "Problem", "Split", "problem"]

NAMES = ("molecules", "multimnist")


def problem(name: str) -> Problem:
    """Load a problem by name.

    Args:
        name: ``"molecules"`` or ``"multimnist"``.

    Returns:
        The problem, with its data in memory.

    Raises:
        ConfigError: for another name.
        MissingExtraError: if the package with the data is not installed.
    """
    if name == "molecules":
        from go4align.tasks.molecules import Molecules

        return Molecules()
    if name == "multimnist":
        from go4align.tasks.multimnist import MultiMNIST

        return MultiMNIST()
    raise ConfigError(f"unknown problem {name!r}: known are {', '.join(NAMES)}")
