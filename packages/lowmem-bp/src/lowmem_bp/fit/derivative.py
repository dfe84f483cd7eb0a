"""Objective "derivative": Lloyd-Max quantisation of h', for a density or for samples.

Everything is expressed through the integrals of ``(w, w h', w h'**2)`` over cells, called moments
here, where the weight w has total mass 1: the best level of a cell is the second over the first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lowmem_bp.errors import ConfigError
from lowmem_bp.fit.arguments import (
    Interval,
    TensorFunction,
    Weight,
    clean_samples,
    density,
    resolve,
    workspace,
)
from lowmem_bp.fit.asymptotes import asymptotes
from lowmem_bp.fit.quadrature import dyadic, legendre, with_ends
from lowmem_bp.fit.result import StepFit, make_fit
from lowmem_bp.steps import StepTable

Ends: TypeAlias = tuple[float, float] | None  # levels of the outer cells, if given

_DEFAULT_WEIGHT = ("normal", 0.0, 2.0)
_GRID_CELLS = 1000
_NO_MASS = 1e-14


def fit_derivative(
    function: TensorFunction,
    slope: TensorFunction,
    bits: int,
    exact_tails: bool,
    weight: Weight | None,
    interval: Interval | None,
    samples: Tensor | None,
) -> StepFit:
    """Fit with the objective ``"derivative"``; see :func:`lowmem_bp.fit_stepwise`."""
    moments = _moments(slope, weight, interval, samples)
    ends: Ends = None
    if exact_tails:
        left, right, _reach = asymptotes(function)
        ends = (left.slope, right.slope)
    chosen = _best_cells(moments.until(moments.candidates), 2**bits, ends)
    cuts = moments.polish(moments.candidates[chosen], ends)
    cells, levels = moments.cells(cuts), moments.levels(cuts, ends)
    error, exact = _costs(cells, levels).sum(), cells[2].sum()
    return make_fit(cuts, levels, error, exact, "derivative", (moments.low, moments.high))


@workspace()
def derivative_error(
    fn: TensorFunction | str,
    table: StepTable,
    derivative: TensorFunction | None = None,
    *,
    weight: Weight | None = None,
    interval: Interval | None = None,
    samples: Tensor | None = None,
) -> tuple[float, float]:
    """Measure a step table against the exact derivative.

    Args:
        fn: As in :func:`fit_stepwise`.
        table: The steps to measure.
        derivative: As in :func:`fit_stepwise`.
        weight: As in :func:`fit_stepwise`.
        interval: As in :func:`fit_stepwise`.
        samples: As in :func:`fit_stepwise`.

    Returns:
        Relative L2 error and cosine of the steps against the derivative, both weighted.

    Raises:
        ConfigError: As :func:`fit_stepwise`.
    """
    _function, slope = resolve(fn, derivative)
    points = None if samples is None else clean_samples(samples, 1)
    moments = _moments(slope, weight, interval, points)
    # cuts outside the interval bound empty cells
    cuts = torch.tensor(table.cuts, dtype=torch.float64).clamp(moments.low, moments.high)
    levels = torch.tensor(table.levels, dtype=torch.float64)
    mass, first, second = cells = moments.cells(cuts)
    exact = float(second.sum())
    error = max(float(_costs(cells, levels).sum()), 0.0)
    product, square = float((levels * first).sum()), float((levels**2 * mass).sum())
    return math.sqrt(error / exact), product / math.sqrt(exact * square)


class _Moments(ABC):
    """Moments of one derivative under one weight.

    ``candidates`` are the sorted points between which the dynamic programme forms cells.
    """

    low: float
    high: float
    candidates: Tensor

    @abstractmethod
    def until(self, points: Tensor) -> Tensor:
        """Moments from ``low`` to each point, shape ``(3, points)``."""

    @abstractmethod
    def polish(self, cuts: Tensor, ends: Ends) -> Tensor:
        """Improve cuts that are optimal among the candidates."""

    def levels(self, cuts: Tensor, ends: Ends) -> Tensor:
        """Best levels for the cuts: the mean of h' on each cell."""
        mass, first, _second = self.cells(cuts)
        return _replace_ends(first / mass, ends)

    def cells(self, cuts: Tensor) -> Tensor:
        """Moments of the cells between cuts, shape ``(3, cuts + 1)``."""
        until = self.until(torch.cat([cuts, cuts.new_tensor([self.high])]))
        return nn.functional.pad(until, (1, 0)).diff(dim=1)


def _moments(
    slope: TensorFunction,
    weight: Weight | None,
    interval: Interval | None,
    samples: Tensor | None,
) -> _Moments:
    if samples is not None:
        return _SampleMoments(slope, samples)
    return _DensityMoments(slope, *density(weight or _DEFAULT_WEIGHT, interval))


class _DensityMoments(_Moments):
    def __init__(self, slope: TensorFunction, weight: TensorFunction, interval: Interval) -> None:
        self.low, self.high = interval
        self._slope, self._weight = slope, weight
        self.candidates = with_ends(self.low, dyadic(*interval, _GRID_CELLS), self.high)
        self._step = float(self.candidates.diff().max())
        self._scale = 1.0
        pieces = self._integrals(self.candidates[:-1], self.candidates[1:])
        total = float(pieces[0].sum())
        if not total > 0:
            raise ConfigError(
                f"weight has no mass on ({self.low:g}, {self.high:g}); expected a positive density "
                "there: move the interval."
            )
        self._scale = 1 / total
        self._running = nn.functional.pad(pieces.cumsum(1), (1, 0)) / total

    def _integrals(self, low: Tensor, high: Tensor) -> Tensor:
        x, weights = legendre(low, high)
        mass = self._weight(x) * weights * self._scale
        exact = self._slope(x)
        return torch.stack([mass, mass * exact, mass * exact**2]).sum(2)

    def until(self, points: Tensor) -> Tensor:
        cell = torch.searchsorted(self.candidates, points, right=True) - 1
        cell = cell.clamp(0, self.candidates.numel() - 2)
        return self._running[:, cell] + self._integrals(self.candidates[cell], points)

    def levels(self, cuts: Tensor, ends: Ends) -> Tensor:
        mass, first, _second = self.cells(cuts)
        bounds = with_ends(self.low, cuts, self.high)
        middle = self._slope((bounds[1:] + bounds[:-1]) / 2)
        # a cell out in the tail may hold no mass that float64 can tell from 0
        return _replace_ends(torch.where(mass > _NO_MASS, first / mass, middle), ends)

    def polish(self, cuts: Tensor, ends: Ends) -> Tensor:
        """Newton steps on the stationarity conditions h'(cut) = mean of the levels beside it."""
        error, residual, step = self._newton_step(cuts, ends)
        for _ in range(100):
            for shrink in 0.5 ** torch.arange(20):
                trial = cuts + shrink * step
                if bool((with_ends(self.low, trial, self.high).diff() <= 0).any()):
                    continue
                new_error, new_residual, new_step = self._newton_step(trial, ends)
                # the error is flat at the optimum: there the residual tells better from worse
                if new_error < error - _NO_MASS or (
                    new_error < error + _NO_MASS and new_residual < residual
                ):
                    break
            else:
                break  # no progress: converged, or at a jump of h'
            cuts, error, residual, step = trial, new_error, new_residual, new_step
        return cuts

    def _newton_step(self, cuts: Tensor, ends: Ends) -> tuple[float, float, Tensor]:
        cells, levels = self.cells(cuts), self.levels(cuts, ends)
        small = 1e-4 * self._step
        exact = self._slope(cuts)
        bend = (self._slope(cuts + small) - self._slope(cuts - small)) / (2 * small)
        residual = exact - (levels[1:] + levels[:-1]) / 2
        # how the level left and right of each cut moves with it
        mobility = 1 / cells[0].clamp_min(_NO_MASS)
        if ends is not None:
            mobility[0] = mobility[-1] = 0
        weight = self._weight(cuts) * self._scale
        left = weight * (exact - levels[:-1]) * mobility[:-1]
        right = weight * (levels[1:] - exact) * mobility[1:]
        jacobian = torch.diag(bend - (left + right) / 2)
        jacobian -= torch.diag(left[1:], 1) / 2 + torch.diag(right[:-1], -1) / 2
        # pseudo-inverse: a cut between two equal levels may lie anywhere
        step = -torch.linalg.pinv(jacobian, rtol=1e-12) @ residual
        error = float(_costs(cells, levels).sum())
        return error, float(residual.abs().max()), step.clamp(-self._step, self._step)


class _SampleMoments(_Moments):
    def __init__(self, slope: TensorFunction, samples: Tensor) -> None:
        self._values, counts = torch.unique(samples, return_counts=True)
        self.low, self.high = float(self._values[0]), float(self._values[-1])
        mass = counts.double() / counts.sum()
        exact = slope(self._values)
        self._running = nn.functional.pad(
            torch.stack([mass, mass * exact, mass * exact**2]).cumsum(1), (1, 0)
        )
        distinct = self._values.numel()
        cells = min(distinct, _GRID_CELLS)
        self._window = 2 * math.ceil(distinct / cells)
        ranks = torch.linspace(0, distinct, cells + 1, dtype=torch.float64).round().long()
        self.candidates = self._cut_at(ranks)

    def _cut_at(self, ranks: Tensor) -> Tensor:
        """Return the points that have ``ranks`` of the distinct values on their left."""
        between = (self._values[:-1] + self._values[1:]) / 2
        # a value equal to the cut is left of it, so nothing finite cuts off the first one
        return with_ends(-math.inf, between, self.high)[ranks]

    def until(self, points: Tensor) -> Tensor:
        return self._running[:, torch.searchsorted(self._values, points, right=True)]

    def polish(self, cuts: Tensor, ends: Ends) -> Tensor:
        """Move one cut at a time to the best of the nearby gaps between values."""
        inner = torch.searchsorted(self._values, cuts, right=True).tolist()
        ranks: list[int] = [0, *inner, self._values.numel()]
        levels: list[float | None] = [None] * (len(ranks) - 1)
        if ends is not None:
            levels[0], levels[-1] = ends
        for _ in range(100):
            before = list(ranks)
            for k in range(1, len(ranks) - 1):
                low = max(ranks[k - 1] + 1, ranks[k] - self._window)
                high = min(ranks[k + 1] - 1, ranks[k] + self._window)
                start = self._running[:, ranks[k - 1], None]
                trial = self._running[:, low : high + 1]
                stop = self._running[:, ranks[k + 1], None]
                cost = _best_costs(trial - start, levels[k - 1])
                cost += _best_costs(stop - trial, levels[k])
                if float(cost.min()) < float(cost[ranks[k] - low]):
                    ranks[k] = low + int(cost.argmin())
            if ranks == before:
                break
        return self._cut_at(torch.tensor(ranks[1:-1]))


def _replace_ends(levels: Tensor, ends: Ends) -> Tensor:
    if ends is not None:
        levels[0], levels[-1] = ends
    return levels


def _costs(cells: Tensor, levels: Tensor | float) -> Tensor:
    """Squared error of each cell, given its level."""
    mass, first, second = cells.unbind()
    return second - 2 * levels * first + levels**2 * mass


def _best_costs(cells: Tensor, level: float | None) -> Tensor:
    """Squared error of each cell with its best level, or with the given one."""
    if level is not None:
        return _costs(cells, level)
    mass, first, second = cells.unbind()
    return (second - torch.where(mass > _NO_MASS, first**2 / mass, 0.0)).clamp_min(0.0)


def _best_cells(running: Tensor, count: int, ends: Ends) -> Tensor:
    """Choose ``count`` cells with the least total cost, by dynamic programming.

    Args:
        running: Moments up to each candidate, shape ``(3, candidates)``.
        count: Number of cells.
        ends: Levels of the first and last cell, if they are given.

    Returns:
        Indices of the ``count - 1`` inner candidates that bound the cells.
    """
    first, last = ends or (None, None)
    best = _best_costs(running - running[:, :1], first)
    to_end = _best_costs(running[:, -1:] - running, last)
    cost = _best_costs(running[:, None, :] - running[:, :, None], None)  # [from, to]
    cost.masked_fill_(torch.ones_like(cost, dtype=torch.bool).tril(), math.inf)
    best[0] = to_end[-1] = math.inf
    choices = []
    for _ in range(count - 2):
        best, previous = (best[:, None] + cost).min(dim=0)
        choices.append(previous)
    # Mirrored cells tie for GELU-like functions: rounding keeps noise from choosing between them.
    chosen = [int((best + to_end).round(decimals=12).argmin())]
    for previous in reversed(choices):
        chosen.append(int(previous[chosen[-1]]))
    return torch.tensor(chosen[::-1])
