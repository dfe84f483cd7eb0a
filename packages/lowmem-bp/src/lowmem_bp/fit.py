"""Fit step tables: the few-bit stand-ins for an activation's derivative.

Two objectives are offered. ``"derivative"`` minimises the mean squared error of the derivative
itself under a distribution of inputs (Lloyd-Max quantisation); it is the one to use for training.
``"function"`` minimises the squared error between the activation and the piecewise linear function
that the steps integrate to; it is the objective behind the published ReGELU2 and ReSiLU2 constants.

Reference: arXiv 2406.16282, Section 4 (the function objective and its two equalities). The
solvers are our own: an exact dynamic programme with a Newton polish, and L-BFGS on knots.
"""

from __future__ import annotations

import contextlib
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lowmem_bp.activations import get_activation, identify
from lowmem_bp.errors import ConfigError
from lowmem_bp.steps import StepTable

__all__ = [
    "StepFit",
    "calibrate",
    "derivative_error",
    "fit_stepwise",
    "function_error",
]

TensorFunction: TypeAlias = Callable[[Tensor], Tensor]
Weight: TypeAlias = "tuple[str, float, float] | Literal['uniform'] | TensorFunction"
Interval: TypeAlias = tuple[float, float]
Ends: TypeAlias = tuple[float, float] | None  # levels of the outer cells, if given

_DEFAULT_WEIGHT = ("normal", 0.0, 2.0)
_NORMAL_REACH = 10.0  # standard deviations; the mass beyond is 1.5e-23
_TAIL_ERROR = 1e-8  # |h - asymptote|, as in the paper
_GRID_CELLS = 1000
_STARTS = 6
_NO_MASS = 1e-14


class Line(NamedTuple):
    """The line ``slope * x + offset``."""

    slope: float
    offset: float


@dataclass(frozen=True)
class StepFit:
    """A fitted step table and how well it fits.

    Attributes:
        table: the fitted cuts and levels.
        error: value of the objective. For ``"derivative"`` the mean squared error of the
            derivative (the weight is normalised to a density); for ``"function"`` the integral of
            the squared error over ``interval``, or its mean where a weight or samples were given.
        relative_error: square root of ``error`` over the same measure of the exact target.
        objective: ``"derivative"`` or ``"function"``.
        interval: where the error was measured.
    """

    table: StepTable
    error: float
    relative_error: float
    objective: str
    interval: Interval


def fit_stepwise(
    fn: TensorFunction | str,
    derivative: TensorFunction | None = None,
    *,
    bits: int = 2,
    objective: Literal["derivative", "function"] = "derivative",
    weight: Weight | None = None,
    tails: Literal["free", "exact"] = "free",
    interval: Interval | None = None,
    samples: Tensor | None = None,
) -> StepFit:
    """Fit the step table of an activation.

    With ``objective="derivative"`` the cuts and levels minimise the mean of ``(h'(x) - v(x))**2``:
    an exact dynamic programme over a grid of at least 1000 cells finds the best cells and Newton
    steps (continuous weight) or exchanges of single samples then polish them.

    With ``objective="function"`` the steps are the slopes of a continuous piecewise linear
    function with ``2**bits - 1`` knots, which minimises the squared distance to ``fn``. Its outer
    lines are the asymptotes of ``fn`` (for GELU: 0 and x), unless an ``interval`` is given: then
    they are free too.

    Args:
        fn: the activation, elementwise on float64 tensors, or a name of the registry.
        derivative: its derivative; by default the registry's or autograd's.
        bits: 1, 2 or 4, for 2, 4 or 16 levels.
        objective: what to approximate, see above.
        weight: distribution of the inputs: ``("normal", mean, std)``, ``"uniform"`` or a callable
            density (not necessarily normalised); the last two need ``interval``. Default: a normal
            distribution with mean 0 and standard deviation 2 for ``"derivative"``, none for
            ``"function"``.
        tails: ``"exact"`` sets the first and last level to the slopes of the asymptotes, so that
            dead units get no gradient; ``"free"`` fits them.
        interval: ``(low, high)`` where the fit is done. Needed where ``fn`` has no linear
            asymptotes. Outside, the first and last level continue.
        samples: real inputs instead of ``weight``, any shape; non-finite ones are left out.

    Returns:
        The fit. Takes well under a second for ``"derivative"`` and a few seconds for
        ``"function"``; runs on the CPU in float64 and leaves the global random state alone.

    Raises:
        ConfigError: if an argument is unknown or contradicts another, ``fn`` is not finite or not
            elementwise, or asymptotes are needed and ``fn`` has none.

    Example:
        >>> fit = fit_stepwise("gelu", bits=2, weight=("normal", 0.0, 1.0))
        >>> [round(level, 4) for level in fit.table.levels]
        [-0.0464, 0.3127, 0.6873, 1.0464]

    Reference: arXiv 2406.16282, Section 4.
    """
    _check_choice("bits", bits, (1, 2, 4))
    _check_choice("objective", objective, ("derivative", "function"))
    _check_choice("tails", tails, ("free", "exact"))
    if samples is not None and (weight is not None or interval is not None):
        raise ConfigError(
            "samples was given together with weight or interval; expected one description of the "
            "inputs: pass samples alone, cut to the interval you want."
        )
    function, slope = _resolve(fn, derivative)
    with _workspace():
        points = None if samples is None else _clean_samples(samples, 2**bits)
        if objective == "function":
            return _fit_function(function, slope, bits, weight, tails, interval, points)
        moments = _moments(slope, weight, interval, points)
        return _fit_derivative(moments, function, bits, tails)


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
        fn: as in :func:`fit_stepwise`.
        table: the steps to measure.
        derivative: as in :func:`fit_stepwise`.
        weight: as in :func:`fit_stepwise`.
        interval: as in :func:`fit_stepwise`.
        samples: as in :func:`fit_stepwise`.

    Returns:
        Relative L2 error and cosine of the steps against the derivative, both weighted.

    Raises:
        ConfigError: as :func:`fit_stepwise`.
    """
    _, slope = _resolve(fn, derivative)
    with _workspace():
        points = None if samples is None else _clean_samples(samples, 1)
        moments = _moments(slope, weight, interval, points)
        # cuts outside the interval bound empty cells
        cuts = torch.tensor(table.cuts, dtype=torch.float64).clamp(moments.low, moments.high)
        levels = torch.tensor(table.levels, dtype=torch.float64)
        cells = moments.cells(cuts)
        exact = float(cells[2].sum())
        error = max(float(_costs(cells, levels).sum()), 0.0)
        product, square = float((levels * cells[1]).sum()), float((levels**2 * cells[0]).sum())
        return math.sqrt(error / exact), product / math.sqrt(exact * square)


def function_error(
    fn: TensorFunction | str, table: StepTable, *, interval: Interval | None = None
) -> float:
    """Integrate the squared distance between an activation and its piecewise linear stand-in.

    The stand-in is the integral of the steps. Its constant, which no gradient sees, is that of
    the left asymptote of ``fn``, or the best one where an ``interval`` is given.

    Args:
        fn: the activation or its name in the registry.
        table: the steps to measure.
        interval: where to integrate; by default ``(-T, T)``, well beyond the points from which
            on ``fn`` is within 1e-8 of its asymptotes.

    Returns:
        The integral of ``(fn(x) - standin(x))**2``.

    Raises:
        ConfigError: if no interval is given and ``fn`` has no linear asymptotes.

    Example:
        >>> from lowmem_bp.steps import preset
        >>> f"{function_error('gelu', preset('gelu', 'paper')):.8f}"
        '0.00950934'
    """
    function, _ = _resolve(fn, None)
    with _workspace():
        cuts = torch.tensor(table.cuts, dtype=torch.float64)
        levels = torch.tensor(table.levels, dtype=torch.float64)
        if interval is None:
            left, _right, reach = _asymptotes(function)
            low, high = -reach, reach
            anchor = levels[0] * cuts[0] + left.offset
        else:
            low, high = _check_interval(interval)
            anchor = torch.zeros((), dtype=torch.float64)
        x, weights = _split_quadrature(low, high, cuts.clamp(low, high))
        gap = function(x) - _standin(x, cuts, levels, anchor)
        if interval is not None:
            gap = gap - (weights * gap).sum() / (high - low)
        return float((weights * gap**2).sum())


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    bits: int = 2,
    objective: Literal["derivative", "function"] = "derivative",
    max_samples: int = 65536,
    forward: Callable[[nn.Module, Any], object] | None = None,
    seed: int = 0,
) -> dict[str, StepTable]:
    """Fit one step table per activation module to the inputs that real batches bring.

    The batches run without gradients in the model's current mode (call ``model.eval()`` first if
    dropout should be off). Buffers, such as running statistics, and the global random state are
    put back afterwards. Each module keeps a uniform random sample of the inputs it saw.

    Args:
        model: the model; activations that :func:`lowmem_bp.activations.identify` knows are fitted.
        batches: tensors, tuples or lists (passed as ``model(*batch)``) or mappings (passed as
            ``model(**batch)``), already on the model's device.
        bits: 1, 2 or 4.
        objective: as in :func:`fit_stepwise`.
        max_samples: how many inputs are kept per module (8 bytes each on the CPU).
        forward: how to run a batch, ``forward(model, batch)``, where the default does not fit.
        seed: seeds the choice of samples.

    Returns:
        Step tables by module name, as in ``model.named_modules()``.

    Raises:
        ConfigError: if there is no batch, no known activation module, or one saw too few inputs.
    """
    _check_choice("bits", bits, (1, 2, 4))
    _check_choice("objective", objective, ("derivative", "function"))
    activations = {
        name: (module, activation)
        for name, module in model.named_modules()
        if (activation := identify(module)) is not None
    }
    if not activations:
        raise ConfigError(
            f"{type(model).__name__} has no activation module that the registry knows; expected "
            "at least one such as nn.GELU or nn.SiLU. Functional calls (F.gelu) cannot be seen: "
            "fit those with fit_stepwise(samples=...)."
        )
    if max_samples < 2**bits:
        raise ConfigError(
            f"max_samples={max_samples} was given; expected at least 2**bits = {2**bits}."
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    reservoirs = {name: _Reservoir(max_samples, generator) for name in activations}
    run = forward or _run_batch
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {parameter.device for parameter in model.parameters()}
    handles = [
        module.register_forward_pre_hook(_collector(reservoirs[name]), with_kwargs=True)
        for name, (module, _) in activations.items()
    ]
    count = 0
    try:
        cuda = [device for device in devices if device.type == "cuda"]
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            for batch in batches:
                run(model, batch)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
    if count == 0:
        raise ConfigError(
            "batches was empty; expected at least one batch: a used-up generator yields none."
        )
    seen = {name: r.values for name, r in reservoirs.items() if r.values.numel()}
    if not seen:
        raise ConfigError(
            f"{count} batches ran but none of the activation modules {sorted(activations)} was "
            "called; expected at least one call. Pass forward= if the model is run another way."
        )
    tables = {}
    for name, values in seen.items():
        _, activation = activations[name]
        try:
            fit = fit_stepwise(
                activation.forward,
                activation.derivative,
                bits=bits,
                objective=objective,
                samples=values,
            )
        except ConfigError as error:
            raise ConfigError(f"module {name!r}: {error}") from error
        tables[name] = fit.table
    return tables


@contextlib.contextmanager
def _workspace() -> Iterator[None]:
    """Autograd on the CPU, whatever modes and default device the caller works under."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":  # this mode doubles the time of small ops
            stack.enter_context(torch.device("cpu"))
        yield


# --- arguments ------------------------------------------------------------------------------


def _check_choice(argument: str, given: object, choices: tuple[object, ...]) -> None:
    if given not in choices:
        options = " or ".join(map(repr, choices))
        raise ConfigError(f"{argument}={given!r} was given; expected {options}.")


def _check_interval(interval: Interval) -> Interval:
    low, high = map(float, interval)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            f"interval={interval!r} was given; expected two finite numbers, the lower first."
        )
    return low, high


def _clean_samples(samples: Tensor, minimum: int) -> Tensor:
    """Return the finite samples, float64 on the CPU, flat."""
    points = samples.detach().to("cpu", torch.float64).flatten()
    points = points[points.isfinite()]
    distinct = torch.unique(points).numel()
    if distinct < minimum:
        raise ConfigError(
            f"samples holds {distinct} distinct finite values; expected at least {minimum}, one "
            "per level: pass more samples or fewer bits."
        )
    return points


def _resolve(
    fn: TensorFunction | str, derivative: TensorFunction | None
) -> tuple[TensorFunction, TensorFunction]:
    """Return function and derivative as checked float64 callables."""
    if isinstance(fn, str):
        activation = get_activation(fn)
        function, slope = activation.forward, derivative or activation.derivative
    else:
        function, slope = fn, derivative or _autograd_slope(fn)
    return _checked("fn", function), _checked("derivative", slope)


def _checked(argument: str, fn: TensorFunction) -> TensorFunction:
    def call(x: Tensor) -> Tensor:
        y = fn(x)
        if y.shape != x.shape or y.dtype != x.dtype:
            raise ConfigError(
                f"{argument} returned {y.dtype} of shape {tuple(y.shape)} for float64 input of "
                f"shape {tuple(x.shape)}; expected the same dtype and shape: pass an elementwise "
                "function that keeps float64."
            )
        if not bool(y.isfinite().all()):
            worst = float(x.detach()[~y.isfinite()][0])
            raise ConfigError(
                f"{argument}({worst:g}) is not finite; expected finite values wherever the fit "
                "looks: pass an interval= on which the function is defined."
            )
        return y

    return call


def _autograd_slope(fn: TensorFunction) -> TensorFunction:
    def slope(x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(fn(leaf).sum(), leaf)
        return gradient

    return slope


def _density(weight: Weight, interval: Interval | None) -> tuple[TensorFunction, float, float]:
    """Return the weight as a callable and the interval on which it is used."""
    bounds = None if interval is None else _check_interval(interval)
    if isinstance(weight, tuple):
        if len(weight) != 3 or weight[0] != "normal" or not weight[2] > 0:
            raise ConfigError(
                f'weight={weight!r} was given; expected ("normal", mean, std) with std > 0.'
            )
        _, mean, std = weight
        low, high = bounds or (mean - _NORMAL_REACH * std, mean + _NORMAL_REACH * std)
        return lambda x: torch.exp(-0.5 * ((x - mean) / std) ** 2), low, high
    if weight != "uniform" and not callable(weight):
        raise ConfigError(
            f"weight={weight!r} was given; expected ('normal', mean, std), 'uniform' or a density "
            "callable on tensors."
        )
    if bounds is None:
        raise ConfigError(
            f"weight={weight!r} was given without interval; expected interval=(low, high) too."
        )
    if callable(weight):
        return _checked("weight", weight), *bounds
    return torch.ones_like, *bounds


# --- asymptotes and quadrature --------------------------------------------------------------


def _asymptotes(fn: TensorFunction) -> tuple[Line, Line, float]:
    """Return the lines that ``fn`` approaches on both sides, and a point well beyond them."""
    lines = []
    reach = 0.0
    for sign, side in ((-1.0, "left"), (1.0, "right")):
        for far in (64.0, 512.0, 4096.0):
            x = sign * far * torch.tensor([1.0, 1.25, 1.5, 1.9, 2.0], dtype=torch.float64)
            with torch.no_grad():
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
        with torch.no_grad():
            off_line = (fn(grid) - slope * grid - offset).abs() > _TAIL_ERROR
        last = int(off_line.nonzero().max()) + 1 if bool(off_line.any()) else 0
        reach = max(reach, float(grid[last].abs()))
        lines.append(Line(slope, offset))
    # the best knots of a function that joins its asymptotes at a kink lie beyond this
    return lines[0], lines[1], max(2.0 * reach, 1.0)


def _breaks(low: float, high: float, cuts: Tensor) -> Tensor:
    return torch.cat([cuts.new_tensor([low]), cuts, cuts.new_tensor([high])])


def _dyadic(low: float, high: float, cells: int) -> Tensor:
    """Multiples of a power of two inside an interval, ``cells`` to twice as many.

    Known activations have their kinks (at 0, -3, 3, 6, ...) on such a grid, where they do no harm
    to a quadrature.
    """
    step = 2.0 ** math.floor(math.log2((high - low) / cells))
    first, last = math.floor(low / step) + 1, math.ceil(high / step)
    return torch.arange(first, last, dtype=torch.float64) * step


@functools.cache  # takes longer than all the rest of one error evaluation
def _unit_legendre(order: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2


def _legendre(low: Tensor, high: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on each cell, differentiable in its ends.

    Shape:
        low, high: ``(cells,)``; nodes and weights: ``(cells, order)``.
    """
    unit_nodes, unit_weights = map(torch.from_numpy, _unit_legendre(order))
    width = (high - low)[:, None]
    return low[:, None] + width * unit_nodes, width * unit_weights


def _split_quadrature(low: float, high: float, knots: Tensor) -> tuple[Tensor, Tensor]:
    """Flat nodes and weights on ``(low, high)``, split at the knots and at a dyadic grid."""
    inner = torch.cat([knots, _dyadic(low, high, 16)]).sort().values
    breaks = _breaks(low, high, inner)
    nodes, weights = _legendre(breaks[:-1], breaks[1:], 16)
    return nodes.flatten(), weights.flatten()


# --- objective "derivative" -----------------------------------------------------------------


class _Moments(ABC):
    """Integrals of ``(w, w h', w h'**2)``, where the weight w has total mass 1.

    ``candidates`` are the sorted points between which the dynamic programme forms cells.
    """

    low: float
    high: float
    candidates: Tensor

    @abstractmethod
    def until(self, points: Tensor) -> Tensor:
        """Integrals from ``low`` to each point, shape ``(3, points)``."""

    @abstractmethod
    def polish(self, cuts: Tensor, ends: Ends) -> Tensor:
        """Improve cuts that are optimal among the candidates."""

    @abstractmethod
    def levels(self, cuts: Tensor, ends: Ends) -> Tensor:
        """Best levels for the cuts: the mean of h' on each cell."""

    def cells(self, cuts: Tensor) -> Tensor:
        """Integrals over the cells between cuts, shape ``(3, cuts + 1)``."""
        start, stop = (
            torch.zeros(3, 1, dtype=torch.float64),
            self.until(cuts.new_tensor([self.high])),
        )
        return torch.cat([start, self.until(cuts), stop], dim=1).diff(dim=1)


class _DensityMoments(_Moments):
    def __init__(
        self, slope: TensorFunction, density: TensorFunction, low: float, high: float
    ) -> None:
        self.low, self.high = low, high
        self._slope, self._density = slope, density
        self.candidates = _breaks(low, high, _dyadic(low, high, _GRID_CELLS))
        self._step = float(self.candidates.diff().max())
        self._scale = 1.0
        pieces = self._integrals(self.candidates[:-1], self.candidates[1:])
        total = float(pieces[0].sum())
        if not total > 0:
            raise ConfigError(
                f"weight has no mass on ({low:g}, {high:g}); expected a positive density there: "
                "move the interval."
            )
        self._scale = 1 / total
        self._running = nn.functional.pad(pieces.cumsum(1), (1, 0)) / total

    def _integrals(self, low: Tensor, high: Tensor) -> Tensor:
        x, weights = _legendre(low, high, 16)
        mass = self._density(x) * weights * self._scale
        exact = self._slope(x).detach()
        return torch.stack([mass, mass * exact, mass * exact**2]).sum(2)

    def until(self, points: Tensor) -> Tensor:
        cell = torch.searchsorted(self.candidates, points, right=True) - 1
        cell = cell.clamp(0, self.candidates.numel() - 2)
        return self._running[:, cell] + self._integrals(self.candidates[cell], points)

    def levels(self, cuts: Tensor, ends: Ends) -> Tensor:
        mass, first, _ = self.cells(cuts).unbind()
        bounds = _breaks(self.low, self.high, cuts)
        middle = self._slope((bounds[1:] + bounds[:-1]) / 2).detach()
        # a cell out in the tail may hold no mass that float64 can tell from 0
        return _with_ends(torch.where(mass > _NO_MASS, first / mass, middle), ends)

    def polish(self, cuts: Tensor, ends: Ends) -> Tensor:
        """Newton steps on the stationarity conditions h'(cut) = mean of the levels beside it."""
        error, residual, step = self._newton_step(cuts, ends)
        for _ in range(100):
            for shrink in 0.5 ** torch.arange(20):
                trial = cuts + shrink * step
                bounds = _breaks(self.low, self.high, trial)
                if bool((bounds.diff() <= 0).any()):
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
        exact = self._slope(cuts).detach()
        bend = (self._slope(cuts + small) - self._slope(cuts - small)).detach() / (2 * small)
        residual = exact - (levels[1:] + levels[:-1]) / 2
        # how the level left and right of each cut moves with it
        density = self._density(cuts) * self._scale
        fixed = torch.zeros_like(levels)
        if ends is not None:
            fixed[0] = fixed[-1] = 1
        leverage = (1 - fixed) / cells[0].clamp_min(_NO_MASS)
        left = density * (exact - levels[:-1]) * leverage[:-1]
        right = density * (levels[1:] - exact) * leverage[1:]
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
        exact = slope(self._values).detach()
        self._running = nn.functional.pad(
            torch.stack([mass, mass * exact, mass * exact**2]).cumsum(1), (1, 0)
        )
        cells = min(self._values.numel(), _GRID_CELLS)
        self._window = 2 * math.ceil(self._values.numel() / cells)
        self.candidates = self._cut_at(
            torch.linspace(0, self._values.numel(), cells + 1, dtype=torch.float64).round().long()
        )

    def _cut_at(self, ranks: Tensor) -> Tensor:
        """Return the points that have ``ranks`` of the distinct values on their left."""
        between = (self._values[:-1] + self._values[1:]) / 2
        # a value equal to the cut is left of it, so nothing finite cuts off the first one
        return _breaks(-math.inf, self.high, between)[ranks]

    def until(self, points: Tensor) -> Tensor:
        return self._running[:, torch.searchsorted(self._values, points, right=True)]

    def levels(self, cuts: Tensor, ends: Ends) -> Tensor:
        mass, first, _ = self.cells(cuts).unbind()
        return _with_ends(first / mass, ends)

    def polish(self, cuts: Tensor, ends: Ends) -> Tensor:
        """Move one cut at a time to the best of the nearby gaps between values."""
        inner = torch.searchsorted(self._values, cuts, right=True).tolist()
        ranks: list[int] = [0, *inner, self._values.numel()]
        for _ in range(100):
            before = list(ranks)
            for k in range(1, len(ranks) - 1):
                low = max(ranks[k - 1] + 1, ranks[k] - self._window)
                high = min(ranks[k + 1] - 1, ranks[k] + self._window)
                start, trial, stop = (
                    self._running[:, ranks[k - 1], None],
                    self._running[:, low : high + 1],
                    self._running[:, ranks[k + 1], None],
                )
                first = ends[0] if ends is not None and k == 1 else None
                last = ends[1] if ends is not None and k == len(ranks) - 2 else None
                cost = _cell_cost(trial - start, first) + _cell_cost(stop - trial, last)
                if float(cost.min()) < float(cost[ranks[k] - low]):
                    ranks[k] = low + int(cost.argmin())
            if ranks == before:
                break
        return self._cut_at(torch.tensor(ranks[1:-1]))


def _moments(
    slope: TensorFunction,
    weight: Weight | None,
    interval: Interval | None,
    samples: Tensor | None,
) -> _Moments:
    if samples is not None:
        return _SampleMoments(slope, samples)
    return _DensityMoments(slope, *_density(weight or _DEFAULT_WEIGHT, interval))


def _with_ends(levels: Tensor, ends: Ends) -> Tensor:
    if ends is not None:
        levels[0], levels[-1] = ends
    return levels


def _costs(cells: Tensor, levels: Tensor) -> Tensor:
    """Squared error of each cell, given its level."""
    mass, first, second = cells.unbind()
    return second - 2 * levels * first + levels**2 * mass


def _cell_cost(cells: Tensor, level: float | None) -> Tensor:
    """Squared error of each cell with its best level, or with the given one."""
    mass, first, second = cells.unbind()
    if level is not None:
        return second - 2 * level * first + level**2 * mass
    return (second - torch.where(mass > _NO_MASS, first**2 / mass, 0.0)).clamp_min(0.0)


def _best_cells(running: Tensor, count: int, ends: Ends) -> Tensor:
    """Choose ``count`` cells with the least total cost, by dynamic programming.

    Args:
        running: integrals up to each candidate, shape ``(3, candidates)``.
        count: number of cells.
        ends: levels of the first and last cell, if they are given.

    Returns:
        Indices of the ``count - 1`` inner candidates that bound the cells.
    """
    first, last = ends or (None, None)
    from_start = _cell_cost(running - running[:, :1], first)
    to_end = _cell_cost(running[:, -1:] - running, last)
    cost = _cell_cost(running[:, None, :] - running[:, :, None], None)  # [from, to]
    size = cost.shape[0]
    cost.masked_fill_(torch.ones(size, size, dtype=torch.bool).tril(), math.inf)
    best = from_start
    best[0] = math.inf
    choices = []
    for _ in range(count - 2):
        best, previous = (best[:, None] + cost).min(dim=0)
        choices.append(previous)
    to_end[-1] = math.inf
    # Mirrored cells tie for GELU-like functions: rounding keeps noise from choosing between them.
    chosen = [int((best + to_end).round(decimals=12).argmin())]
    for previous in reversed(choices):
        chosen.append(int(previous[chosen[-1]]))
    return torch.tensor(chosen[::-1])


def _fit_derivative(moments: _Moments, function: TensorFunction, bits: int, tails: str) -> StepFit:
    ends: Ends = None
    if tails == "exact":
        left, right, _ = _asymptotes(function)
        ends = (left.slope, right.slope)
    indices = _best_cells(moments.until(moments.candidates), 2**bits, ends)
    cuts = moments.polish(moments.candidates[indices], ends)
    cells, levels = moments.cells(cuts), moments.levels(cuts, ends)
    error, exact = max(float(_costs(cells, levels).sum()), 0.0), float(cells[2].sum())
    return StepFit(
        table=StepTable(tuple(cuts.tolist()), tuple(levels.tolist())),
        error=error,
        relative_error=math.sqrt(error / exact) if exact > 0 else 0.0,
        objective="derivative",
        interval=(moments.low, moments.high),
    )


# --- objective "function" -------------------------------------------------------------------


def _standin(x: Tensor, cuts: Tensor, levels: Tensor, anchor: Tensor) -> Tensor:
    """Evaluate the continuous function with slopes ``levels`` and value ``anchor`` at cut 0."""
    hinges = (x[:, None] - cuts).clamp_min(0.0) @ levels.diff()
    return anchor + levels[0] * (x - cuts[0]) + hinges


class _KnotProblem:
    """Squared error as a function of the knots alone: the values at the knots are solved for.

    Knots are parametrised by logits of the widths between them, which keeps them sorted and
    inside the interval. With asymptotes (``lines``) the outer two knots lie on these, so that the
    paper's two equalities hold by construction and only the inner values are free; without, so
    are all values, those at the ends of the interval included.
    """

    def __init__(
        self,
        function: TensorFunction,
        interval: Interval,
        lines: tuple[Line, Line] | None,
        density: TensorFunction | None,
        samples: Tensor | None,
    ) -> None:
        self.low, self.high = interval
        self._function, self._lines, self._density = function, lines, density
        self._samples = samples
        if samples is not None:  # a few thousand order statistics are as good, and fast
            stride = math.ceil(samples.numel() / 4096)
            self._samples = samples.sort().values[stride // 2 :: stride].contiguous()

    def knots(self, logits: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * logits.softmax(0).cumsum(0)[:-1]

    def logits(self, knots: Tensor) -> Tensor:
        return _breaks(self.low, self.high, knots).diff().log()

    def __call__(self, logits: Tensor) -> Tensor:
        """Error of the best values; its gradient needs none of theirs, as they are optimal."""
        knots = self.knots(logits)
        return self.errors(knots, *self.slopes(knots))[0]

    def errors(self, knots: Tensor, slopes: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the stand-in, and of the stand-in 0."""
        x, weights, exact = self._quadrature(knots)
        gap = exact - _standin(x, knots, slopes, anchor)
        return (weights * gap**2).sum(), (weights * exact**2).sum()

    def slopes(self, knots: Tensor) -> tuple[Tensor, Tensor]:
        """Best slopes between the knots, and the value at the first one."""
        points = knots if self._lines else _breaks(self.low, self.high, knots)
        with torch.no_grad():
            x, weights, exact = self._quadrature(knots)
            values = self._function(points)
            gap = exact - _standin(x, knots, *self._join(knots, values))
            hats = _hats(x, points)
            if self._lines:
                hats = hats[:, 1:-1]
            root = weights.sqrt()[:, None]
            change = torch.linalg.lstsq(root * hats, root * gap[:, None]).solution[:, 0]
            values += nn.functional.pad(change, (1, 1)) if self._lines else change
        return self._join(knots, values)

    def _join(self, knots: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self._lines is None:
            return values.diff() / _breaks(self.low, self.high, knots).diff(), values[1]
        left, right = self._lines
        first = left.slope * knots[:1] + left.offset
        last = right.slope * knots[-1:] + right.offset
        inner = torch.cat([first, values[1:-1], last]).diff() / knots.diff()
        return _breaks(left.slope, right.slope, inner), first[0]

    def _quadrature(self, knots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self._samples is not None:
            x, weights = self._samples, torch.ones_like(self._samples)
        else:
            x, weights = _split_quadrature(self.low, self.high, knots)
        if self._density is not None:
            weights = weights * self._density(x)
        if self._density is not None or self._samples is not None:
            weights = weights / weights.sum()
        return x, weights, self._function(x)


def _hats(x: Tensor, points: Tensor) -> Tensor:
    """Piecewise linear functions that are 1 at one point and 0 at the others and outside.

    Shape:
        ``(x, points)``
    """
    cell = (torch.searchsorted(points, x, right=True) - 1).clamp(0, points.numel() - 2)
    share = ((x - points[cell]) / points.diff()[cell])[:, None]
    inside = (share >= 0) & (share <= 1)
    columns = torch.arange(points.numel())
    left, right = columns == cell[:, None], columns == cell[:, None] + 1
    return torch.where(inside, (1 - share) * left + share * right, 0.0)


def _fit_function(
    function: TensorFunction,
    slope: TensorFunction,
    bits: int,
    weight: Weight | None,
    tails: str,
    interval: Interval | None,
    samples: Tensor | None,
) -> StepFit:
    lines = None
    if interval is None or tails == "exact":
        left, right, reach = _asymptotes(function)
        lines = (left, right)
        interval = interval or (-reach, reach)
    interval = _check_interval(interval)
    density = None if weight is None else _density(weight, interval)[0]
    problem = _KnotProblem(function, interval, lines, density, samples)
    count = 2**bits - 1
    if count == 1 and lines is not None:
        knots, slopes, anchor = _corner(*lines)
    else:
        starts = [problem.logits(knots) for knots in _start_knots(problem, slope, count)]
        best = min((_descend(problem, start) for start in starts), key=lambda found: found[0])
        knots = problem.knots(_newton_polish(problem, best[1]))
        slopes, anchor = problem.slopes(knots)
    error, exact = (float(value) for value in problem.errors(knots, slopes, anchor))
    return StepFit(
        table=StepTable(tuple(knots.tolist()), tuple(slopes.tolist())),
        error=error,
        relative_error=math.sqrt(error / exact) if exact > 0 else 0.0,
        objective="function",
        interval=interval,
    )


def _corner(left: Line, right: Line) -> tuple[Tensor, Tensor, Tensor]:
    """Return the one knot at which two asymptotes meet."""
    if left.slope == right.slope:
        raise ConfigError(
            f"bits=1 was given for a function with parallel asymptotes (slope {left.slope:g}); "
            "expected asymptotes that meet: use bits=2 or more, or pass interval=(low, high)."
        )
    knot = (left.offset - right.offset) / (right.slope - left.slope)
    values = torch.tensor(
        [knot, left.slope, right.slope, left.slope * knot + left.offset], dtype=torch.float64
    )
    return values[:1], values[1:3], values[3]


def _start_knots(problem: _KnotProblem, slope: TensorFunction, count: int) -> Tensor:
    """Starting knots, one row each, dense where the function bends.

    The best free-knot density for L2 is proportional to ``|h''|**(2/5)``. The first start takes
    its even quantiles, the others random ones.
    """
    grid = torch.linspace(problem.low, problem.high, 2001, dtype=torch.float64)
    bend = slope(grid).detach().diff().abs() ** 0.4
    mass = nn.functional.pad((bend + 1e-3 * bend.mean() + 1e-9).cumsum(0), (1, 0))
    generator = torch.Generator("cpu").manual_seed(0)
    shifts = torch.rand(_STARTS, count, generator=generator, dtype=torch.float64) - 0.5
    shifts[0] = 0.0
    # shifts below half a cell keep the order
    shares = (torch.arange(1, count + 1) + shifts) / (count + 1)
    return torch.from_numpy(np.interp(shares.numpy(), (mass / mass[-1]).numpy(), grid.numpy()))


def _descend(problem: _KnotProblem, start: Tensor) -> tuple[float, Tensor]:
    flat = start.clone().requires_grad_()
    # errors differ by orders of magnitude between functions, the optimiser's tolerances do not
    unit = float(problem(start)) or 1.0
    optimizer = torch.optim.LBFGS(
        [flat],
        max_iter=200,
        history_size=20,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem(flat) / unit
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(problem(flat.detach())), flat.detach()


def _newton_polish(problem: _KnotProblem, flat: Tensor) -> Tensor:
    """Newton steps, down to the rounding error of the gradient."""

    def gradient(point: Tensor) -> Tensor:
        leaf = point.detach().requires_grad_()
        return torch.autograd.grad(problem(leaf), leaf)[0]

    small = 1e-5
    current = gradient(flat)
    for _ in range(10):
        offsets = small * torch.eye(flat.numel(), dtype=torch.float64)
        hessian = torch.stack([gradient(flat + row) - gradient(flat - row) for row in offsets])
        hessian = (hessian + hessian.T) / (4 * small)
        # the logits are free up to a constant: pseudo-inverse
        trial = flat - torch.linalg.pinv(hessian, rtol=1e-10, hermitian=True) @ current
        improved = gradient(trial)
        if not improved.norm() < current.norm():
            break
        flat, current = trial, improved
    return flat


# --- collecting inputs ----------------------------------------------------------------------


class _Reservoir:
    """A uniform random sample of a stream of values."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.values = torch.empty(0, dtype=torch.float64)
        self._keys = torch.empty(0, dtype=torch.float64)
        self._generator = generator

    def add(self, x: Tensor) -> None:
        with _workspace():
            self._add(x.detach().flatten())

    def _add(self, flat: Tensor) -> None:
        count = flat.numel()
        kept = min(count, self.size)
        # Every input gets a uniform random key and the largest keys stay. Only the largest `kept`
        # of a chunk have a chance, and these can be drawn directly, as order statistics.
        shares = torch.rand(kept, generator=self._generator, dtype=torch.float64).log()
        keys = (shares / (count - torch.arange(kept))).cumsum(0)
        if count <= 4 * self.size:
            index = torch.randperm(count, generator=self._generator)[:kept]
        else:  # a permutation of millions would be slow, and repetitions are few
            index = torch.randint(count, (kept,), generator=self._generator)
        chosen = flat[index.to(flat.device)].to("cpu", torch.float64)
        self._keys, self.values = torch.cat([self._keys, keys]), torch.cat([self.values, chosen])
        if self._keys.numel() > self.size:
            self._keys, best = self._keys.topk(self.size)
            self.values = self.values[best]


def _collector(reservoir: _Reservoir) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if x is not None:
            reservoir.add(x)

    return hook


def _run_batch(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        model(batch)
