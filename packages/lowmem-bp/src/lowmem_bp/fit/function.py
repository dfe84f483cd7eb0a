"""Objective "function": the best continuous piecewise linear function, by its knots.

The function is held by points and values, between which it is linear. With asymptotes the outer
two points lie on these, so that the paper's two equalities hold by construction; without, the ends
of the interval are points too. What is free is one vector per candidate: knots, then values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lowmem_bp.errors import ConfigError
from lowmem_bp.fit.arguments import (
    Interval,
    TensorFunction,
    Weight,
    check_interval,
    density,
    resolve,
    workspace,
)
from lowmem_bp.fit.asymptotes import Line, asymptotes
from lowmem_bp.fit.quadrature import split_quadrature, with_ends
from lowmem_bp.fit.result import StepFit, make_fit
from lowmem_bp.steps import StepTable

_STARTS = 6
_SAMPLES = 4096


def fit_function(
    function: TensorFunction,
    slope: TensorFunction,
    bits: int,
    exact_tails: bool,
    weight: Weight | None,
    interval: Interval | None,
    samples: Tensor | None,
) -> StepFit:
    """Fit with the objective ``"function"``; see :func:`lowmem_bp.fit_stepwise`."""
    lines = None
    if interval is None or exact_tails:
        left, right, reach = asymptotes(function)
        lines = (left, right)
        interval = interval or (-reach, reach)
    low, high = interval = check_interval(interval)
    if samples is not None:  # a few thousand order statistics are as good, and fast
        stride = math.ceil(samples.numel() / _SAMPLES)
        samples = samples.sort().values[stride // 2 :: stride].contiguous()
    weighting = None if weight is None else density(weight, interval)[0]
    problem = _Problem(function, low, high, lines, weighting, samples)
    count = 2**bits - 1
    if count == 1 and lines is not None:
        free = torch.tensor([_corner(*lines)], dtype=torch.float64)
    else:
        free = _newton(problem, _descend(problem, _starts(problem, slope, count)))
    error, exact = problem.errors(free)
    points, _values, slopes = problem.shape(free)
    if lines is None:
        points, slopes = points[1:-1], slopes[1:-1]
    return make_fit(points, slopes, error, exact, "function", interval)


@workspace()
def function_error(
    fn: TensorFunction | str, table: StepTable, *, interval: Interval | None = None
) -> float:
    """Integrate the squared distance between an activation and its piecewise linear stand-in.

    The stand-in is the integral of the steps. Its constant, which no gradient sees, is that of
    the left asymptote of ``fn``, or the best one where an ``interval`` is given.

    Args:
        fn: The activation or its name in the registry.
        table: The steps to measure.
        interval: Where to integrate; by default ``(-T, T)``, well beyond the points from which
            on ``fn`` is within 1e-8 of its asymptotes.

    Returns:
        The integral of ``(fn(x) - standin(x))**2``.

    Raises:
        ConfigError: No interval is given and ``fn`` has no linear asymptotes.

    Example:
        >>> from lowmem_bp.steps import preset
        >>> f"{function_error('gelu', preset('gelu', 'paper')):.8f}"
        '0.00950934'
    """
    function, _slope = resolve(fn, None)
    cuts = torch.tensor(table.cuts, dtype=torch.float64)
    levels = torch.tensor(table.levels, dtype=torch.float64)
    constant = 0.0
    if interval is None:
        left, _right, reach = asymptotes(function)
        low, high = -reach, reach
        constant = left.offset
    else:
        low, high = check_interval(interval)
    x, weights = split_quadrature(low, high, cuts.clamp(low, high))
    gap = function(x) - levels[0] * x - (x[:, None] - cuts).clamp_min(0.0) @ levels.diff()
    if interval is not None:
        constant = float((weights * gap).sum()) / (high - low)
    return float((weights * (gap - constant) ** 2).sum())


@dataclass(frozen=True)
class _Problem:
    """What to approximate and where; leading dimensions of ``free`` are candidates."""

    function: TensorFunction
    low: float
    high: float
    lines: tuple[Line, Line] | None
    density: TensorFunction | None
    samples: Tensor | None

    def free(self, knots: Tensor) -> Tensor:
        """Put the values of the function itself at the knots."""
        points = knots[..., 1:-1] if self.lines else with_ends(self.low, knots, self.high)
        return torch.cat([knots, self.function(points)], dim=-1)

    def count(self, free: Tensor) -> int:
        """Number of knots; values are two more, or two fewer with asymptotes."""
        return (free.shape[-1] + (2 if self.lines else -2)) // 2

    def shape(self, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return points, values, and the slopes between and outside them."""
        count = self.count(free)
        points, values = free[..., :count].contiguous(), free[..., count:]
        outer = (0.0, 0.0)  # never looked at without asymptotes
        if self.lines is None:
            points = with_ends(self.low, points, self.high)
        else:
            left, right = self.lines
            first = left.slope * points[..., :1] + left.offset
            last = right.slope * points[..., -1:] + right.offset
            values = torch.cat([first, values, last], dim=-1) if count > 1 else first
            outer = (left.slope, right.slope)
        slopes = with_ends(outer[0], values.diff() / points.diff(), outer[1])
        return points, values, slopes

    def clamp(self, free: Tensor) -> Tensor:
        """Move knots that left the interval to its ends."""
        count, gap = self.count(free), 1e-8 * (self.high - self.low)
        knots = free[..., :count].clamp(self.low + gap, self.high - gap)
        return torch.cat([knots, free[..., count:]], dim=-1)

    def feasible(self, free: Tensor) -> Tensor:
        """Whether the knots are sorted and inside the interval."""
        knots = with_ends(self.low, free[..., : self.count(free)], self.high)
        return (knots.diff() > 1e-9 * (self.high - self.low)).all(dim=-1)

    def errors(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the stand-in, and of the stand-in 0."""
        weights, exact, gap, _jacobian = self._residuals(free)
        return (weights * gap**2).sum(-1), (weights * exact**2).sum(-1)

    def linearised(self, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return half the error, its gradient, and its Gauss-Newton matrix."""
        weights, _exact, gap, jacobian = self._residuals(free)
        weighted = jacobian * weights[..., None]
        # where the nodes lie has no part in this: the quadrature is exact wherever they are
        gradient = -(weighted.mT @ gap[..., None])[..., 0]
        return (weights * gap**2).sum(-1) / 2, gradient, weighted.mT @ jacobian

    def _residuals(self, free: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weights, the exact function and its gap to the stand-in, and d stand-in."""
        points, values, slopes = self.shape(free)
        x, weights = self._quadrature(points if self.lines else points[..., 1:-1])
        exact = self.function(x)
        # cell -1 is left of all points, the last one right of them
        cell = torch.searchsorted(points, x, right=True) - 1
        if self.lines is None:
            cell = cell.clamp(0, points.shape[-1] - 2)
        anchor, slope = cell.clamp_min(0), slopes.gather(-1, cell + 1)
        run = x - points.gather(-1, anchor)
        standin = values.gather(-1, anchor) + slope * run

        # hats: piecewise linear, 1 at one point and 0 at the others and outside
        inside = (cell >= 0) & (cell < points.shape[-1] - 1)
        right = (anchor + 1).clamp_max(points.shape[-1] - 1)
        width = torch.where(inside, points.gather(-1, right) - points.gather(-1, anchor), 1.0)
        share = torch.where(inside, run / width, 0.0)[..., None]
        hats = x.new_zeros(*x.shape, points.shape[-1])
        hats.scatter_(-1, right[..., None], share)
        hats.scatter_(-1, anchor[..., None], torch.where(inside[..., None], 1 - share, 0.0))
        if self.lines is None:
            jacobian = torch.cat([-slope[..., None] * hats[..., 1:-1], hats], dim=-1)
        else:
            along = torch.zeros_like(points)  # the outer values move with their points
            along[..., 0], along[..., -1] = self.lines[0].slope, self.lines[1].slope
            moves = (along[..., None, :] - slope[..., None]) * hats
            jacobian = torch.cat([moves, hats[..., 1:-1]], dim=-1)
        return weights, exact, exact - standin, jacobian

    def _quadrature(self, knots: Tensor) -> tuple[Tensor, Tensor]:
        if self.samples is not None:
            x = self.samples.expand(*knots.shape[:-1], -1).contiguous()
            return x, torch.full_like(x, 1 / x.shape[-1])
        x, weights = split_quadrature(self.low, self.high, knots)
        if self.density is not None:
            weights = weights * self.density(x)
            weights = weights / weights.sum(-1, keepdim=True)
        return x, weights


def _corner(left: Line, right: Line) -> float:
    """Return the one knot, where two asymptotes meet."""
    if left.slope == right.slope:
        raise ConfigError(
            f"bits=1 was given for a function with parallel asymptotes (slope {left.slope:g}); "
            "expected asymptotes that meet: use bits=2 or more, or pass interval=(low, high)."
        )
    return (left.offset - right.offset) / (right.slope - left.slope) + 0.0


def _starts(problem: _Problem, slope: TensorFunction, count: int) -> Tensor:
    """Candidates, one row each, with knots that are dense where the function bends.

    The best free-knot density for L2 is proportional to ``|h''|**(2/5)``. The first start takes
    its even quantiles, the others random ones.
    """
    grid = torch.linspace(problem.low, problem.high, 2001, dtype=torch.float64)
    bend = slope(grid).diff().abs() ** 0.4
    mass = nn.functional.pad((bend + 1e-3 * bend.mean() + 1e-9).cumsum(0), (1, 0))
    generator = torch.Generator("cpu").manual_seed(0)
    shifts = torch.rand(_STARTS, count, generator=generator, dtype=torch.float64) - 0.5
    shifts[0] = 0.0
    # shifts below half a cell keep the order
    shares = (torch.arange(1, count + 1) + shifts) / (count + 1)
    knots = np.interp(shares.numpy(), (mass / mass[-1]).numpy(), grid.numpy())
    return problem.free(torch.from_numpy(knots))


def _descend(problem: _Problem, free: Tensor) -> Tensor:
    """Levenberg-Marquardt on all candidates at once; return the best."""
    error, gradient, matrix = problem.linearised(free)
    damping, settled = torch.ones_like(error), torch.zeros_like(error, dtype=torch.bool)
    for _ in range(300):
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        # the error is quadratic in the values: only knots need damping. The rest keeps the matrix
        # regular where a knot sees no mass.
        scale = damping[:, None] * (torch.arange(free.shape[-1]) < problem.count(free)) + 1e-12
        scale = scale * diagonal.clamp_min(1e-12 * diagonal.amax(-1, keepdim=True))
        damped = matrix + torch.diag_embed(scale)
        step = torch.linalg.solve_ex(damped, -gradient).result
        trial = problem.clamp(free + step)
        possible = problem.feasible(trial)
        trial = torch.where(possible[:, None], trial, free)
        new = problem.linearised(trial)
        better = possible & (new[0] < error)
        settled |= torch.where(
            better, (error - new[0] <= 1e-12 * error) & (damping < 1), damping > 1e6
        )
        free = torch.where(better[:, None], trial, free)
        gradient = torch.where(better[:, None], new[1], gradient)
        matrix = torch.where(better[:, None, None], new[2], matrix)
        error = torch.where(better, new[0], error)
        if bool(settled.all()):
            break
        damping = torch.where(better, damping / 5, damping * 4).clamp(1e-12, 1e8)
    return free[error.argmin()]


def _newton(problem: _Problem, free: Tensor) -> Tensor:
    """Newton steps, down to the rounding error of the gradient."""
    small = 1e-5
    gradient = problem.linearised(free)[1]
    offsets = small * torch.eye(free.numel(), dtype=torch.float64)
    for _ in range(10):
        around = torch.cat([free + offsets, free - offsets])
        ahead, behind = problem.linearised(around)[1].chunk(2)
        hessian = (ahead - behind) / (2 * small)
        hessian = (hessian + hessian.T) / 2
        # a knot between two equal slopes may lie anywhere: pseudo-inverse
        trial = free - torch.linalg.pinv(hessian, rtol=1e-10, hermitian=True) @ gradient
        if not bool(problem.feasible(trial)):
            break
        improved = problem.linearised(trial)[1]
        if not improved.norm() < gradient.norm():
            break
        free, gradient = trial, improved
    return free
