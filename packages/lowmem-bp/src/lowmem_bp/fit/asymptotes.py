"""The straight lines that the tails of an activation approach."""

from __future__ import annotations

from typing import NamedTuple

import torch

from lowmem_bp.errors import ConfigError
from lowmem_bp.fit.arguments import TensorFunction

_TAIL_ERROR = 1e-8  # |h - asymptote|, as in the paper


class Line(NamedTuple):
    """The line ``slope * x + offset``."""

    slope: float
    offset: float


def asymptotes(fn: TensorFunction) -> tuple[Line, Line, float]:
    """Return the lines that ``fn`` approaches on both sides, and a point well beyond them.

    Raises:
        ConfigError: A tail is not a straight line.
    """
    left, reach_left = _asymptote(fn, -1.0, "left")
    right, reach_right = _asymptote(fn, 1.0, "right")
    # the best knots of a function that joins its asymptotes at a kink lie beyond this
    return left, right, max(2 * reach_left, 2 * reach_right, 1.0)


def _asymptote(fn: TensorFunction, sign: float, side: str) -> tuple[Line, float]:
    for far in (64.0, 512.0, 4096.0):
        x = sign * far * torch.tensor([1.0, 1.25, 1.5, 1.9, 2.0], dtype=torch.float64)
        y = fn(x)
        slope = round(float((y[-1] - y[0]) / (x[-1] - x[0])), 12) + 0.0
        offset = round(float(y[0]) - slope * float(x[0]), 10) + 0.0
        # relative to x: that is how far rounding alone bends a line
        if float((slope * x + offset - y).abs().max()) < 1e-13 * far + 1e-10:
            break
    else:
        raise ConfigError(
            f"fn has no linear asymptote on the {side}; expected a function such as GELU whose "
            "tails become straight lines quickly: pass interval=(low, high) to fit it there."
        )
    grid = sign * torch.linspace(0.0, far, 2**14 + 1, dtype=torch.float64)
    off_line = ((fn(grid) - slope * grid - offset).abs() > _TAIL_ERROR).nonzero()
    reach = float(grid[int(off_line.max()) + 1].abs()) if off_line.numel() else 0.0
    return Line(slope, offset), reach
