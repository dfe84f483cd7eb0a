"""The entry: check the arguments, choose the solver."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lowmem_bp.errors import ConfigError
from lowmem_bp.fit.arguments import (
    Interval,
    TensorFunction,
    Weight,
    check_choice,
    clean_samples,
    resolve,
    workspace,
)
from lowmem_bp.fit.derivative import fit_derivative
from lowmem_bp.fit.function import fit_function
from lowmem_bp.fit.result import StepFit


@workspace()
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
        fn: The activation, elementwise on float64 tensors, or a name of the registry.
        derivative: Its derivative; by default the registry's or autograd's.
        bits: 1, 2 or 4, for 2, 4 or 16 levels.
        objective: What to approximate, see above.
        weight: Distribution of the inputs: ``("normal", mean, std)``, ``"uniform"`` or a callable
            density (not necessarily normalised); the last two need ``interval``. Default: a normal
            distribution with mean 0 and standard deviation 2 for ``"derivative"``, none for
            ``"function"``.
        tails: ``"exact"`` sets the first and last level to the slopes of the asymptotes, so that
            dead units get no gradient; ``"free"`` fits them.
        interval: ``(low, high)`` where the fit is done. Needed where ``fn`` has no linear
            asymptotes. Outside, the first and last level continue.
        samples: Real inputs instead of ``weight``, any shape; non-finite ones are left out.

    Returns:
        The fit. Takes about a second at most; runs on the CPU in float64 and leaves the global
        random state alone.

    Raises:
        ConfigError: An argument is unknown or contradicts another, ``fn`` is not finite or not
            elementwise, or asymptotes are needed and ``fn`` has none.

    Example:
        >>> fit = fit_stepwise("gelu", bits=2, weight=("normal", 0.0, 1.0))
        >>> round(fit.table.cuts[2], 4)
        0.499

    Reference: arXiv 2406.16282, Section 4.
    """
    check_choice("bits", bits, (1, 2, 4))
    check_choice("objective", objective, ("derivative", "function"))
    check_choice("tails", tails, ("free", "exact"))
    if samples is not None and (weight is not None or interval is not None):
        raise ConfigError(
            "samples was given together with weight or interval; expected one description of the "
            "inputs: pass samples alone, cut to the interval you want."
        )
    function, slope = resolve(fn, derivative)
    points = None if samples is None else clean_samples(samples, 2**bits)
    fit = fit_derivative if objective == "derivative" else fit_function
    return fit(function, slope, bits, tails == "exact", weight, interval, points)
