"""Check what the user gave and turn it into float64 callables and tensors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lowmem_bp.activations import get_activation
from lowmem_bp.errors import ConfigError

TensorFunction: TypeAlias = Callable[[Tensor], Tensor]
Weight: TypeAlias = "tuple[str, float, float] | Literal['uniform'] | TensorFunction"
Interval: TypeAlias = tuple[float, float]

_NORMAL_REACH = 10.0  # standard deviations; the mass beyond is 1.5e-23


@contextlib.contextmanager
def workspace() -> Iterator[None]:
    """Plain tensors on the CPU, whatever modes and default device the caller works under."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if torch.get_default_device().type != "cpu":  # this mode doubles the time of small ops
            stack.enter_context(torch.device("cpu"))
        yield


def check_choice(argument: str, given: object, choices: tuple[object, ...]) -> None:
    """Raise ConfigError unless ``given`` is one of ``choices``."""
    if given not in choices:
        options = " or ".join(map(repr, choices))
        raise ConfigError(f"{argument}={given!r} was given; expected {options}.")


def check_interval(interval: Interval) -> Interval:
    """Return the interval as floats; raise ConfigError unless it is finite and ordered."""
    low, high = map(float, interval)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            f"interval={interval!r} was given; expected two finite numbers, the lower first."
        )
    return low, high


def clean_samples(samples: Tensor, minimum: int) -> Tensor:
    """Return the finite samples, float64 on the CPU, flat; at least ``minimum`` distinct ones."""
    points = samples.detach().to("cpu", torch.float64).flatten()
    points = points[points.isfinite()]
    distinct = torch.unique(points).numel()
    if distinct < minimum:
        raise ConfigError(
            f"samples holds {distinct} distinct finite values; expected at least {minimum}, one "
            "per level: pass more samples or fewer bits."
        )
    return points


def resolve(
    fn: TensorFunction | str, derivative: TensorFunction | None
) -> tuple[TensorFunction, TensorFunction]:
    """Return function and derivative as checked callables."""
    if isinstance(fn, str):
        activation = get_activation(fn)
        fn, derivative = activation.forward, derivative or activation.derivative
    return _checked("fn", fn), _checked("derivative", derivative or _autograd_slope(fn))


def density(weight: Weight, interval: Interval | None) -> tuple[TensorFunction, Interval]:
    """Return the weight as a callable, not normalised, and the interval on which it is used."""
    bounds = None if interval is None else check_interval(interval)
    if isinstance(weight, tuple):
        if len(weight) != 3 or weight[0] != "normal" or not weight[2] > 0:
            raise ConfigError(
                f'weight={weight!r} was given; expected ("normal", mean, std) with std > 0.'
            )
        _, mean, std = weight
        bounds = bounds or (mean - _NORMAL_REACH * std, mean + _NORMAL_REACH * std)
        return lambda x: torch.exp(-0.5 * ((x - mean) / std) ** 2), bounds
    if weight != "uniform" and not callable(weight):
        raise ConfigError(
            f"weight={weight!r} was given; expected ('normal', mean, std), 'uniform' or a density "
            "callable on tensors."
        )
    if bounds is None:
        raise ConfigError(
            f"weight={weight!r} was given without interval; expected interval=(low, high) too."
        )
    return (_checked("weight", weight) if callable(weight) else torch.ones_like), bounds


def _checked(argument: str, fn: TensorFunction) -> TensorFunction:
    def call(x: Tensor) -> Tensor:
        y = fn(x).detach()
        if y.shape != x.shape or y.dtype != x.dtype:
            raise ConfigError(
                f"{argument} returned {y.dtype} of shape {tuple(y.shape)} for float64 input of "
                f"shape {tuple(x.shape)}; expected the same dtype and shape: pass an elementwise "
                "function that keeps float64."
            )
        if not bool(y.isfinite().all()):
            worst = float(x[~y.isfinite()][0])
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
