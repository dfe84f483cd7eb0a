"""What a fit returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lowmem_bp.steps import StepTable


@dataclass(frozen=True)
class StepFit:
    """A fitted step table and how well it fits.

    Attributes:
        table: The fitted cuts and levels.
        error: Value of the objective. For ``"derivative"`` the mean squared error of the
            derivative (the weight is normalised to a density); for ``"function"`` the integral of
            the squared error over ``interval``, or its mean where a weight or samples were given.
        relative_error: Square root of ``error`` over the same measure of the exact target.
        objective: ``"derivative"`` or ``"function"``.
        interval: Where the error was measured.
    """

    table: StepTable
    error: float
    relative_error: float
    objective: str
    interval: tuple[float, float]


def make_fit(
    cuts: Tensor,
    levels: Tensor,
    error: Tensor,
    exact: Tensor,
    objective: str,
    interval: tuple[float, float],
) -> StepFit:
    """Build a :class:`StepFit`; ``exact`` is the measure of the target that ``error`` is of."""
    table = StepTable(tuple(cuts.tolist()), tuple(levels.tolist()))
    lost, whole = max(float(error), 0.0), float(exact)
    relative = math.sqrt(lost / whole) if whole > 0 else 0.0
    return StepFit(table, lost, relative, objective, interval)
