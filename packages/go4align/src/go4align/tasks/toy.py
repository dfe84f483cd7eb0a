r"""The two-task landscape in the plane on which weighting methods are compared since CAGrad.

Two valleys lead to one curve of optimal trade-offs. With :math:`s = 0.1`,
:math:`c_1 = \max(\tanh(x_2/2), 0)` and :math:`c_2 = \max(\tanh(-x_2/2), 0)`:

.. math::
    L_1 = s\,(f_1 c_1 + q_1 c_2), \qquad L_2 = f_2 c_1 + q_2 c_2.

Losses and their gradients are written out by hand, in float64, so that a step costs microseconds
and what is left to compare is the method.

Reference: arXiv 2110.14048 (CAGrad), 2306.03792 (FAMO).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from go4align._kit import seeded
from go4align.methods import Aggregated, Method, create

SCALE = 0.1
STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
#: Known least values of the two losses, which FAMO and GO4Align subtract.
LOWER_BOUNDS = (-21 * SCALE, -21.0)
#: A run reached the front if it ended within this distance of it, in (L1 / s, L2).
REACHED = 0.05
#: An end within this share of the front's length from one of its ends is a collapse onto one task.
COLLAPSED = 0.01
LEAST = 5e-6  # of the arguments of the logarithms

Floats = NDArray[np.float64]


def losses_and_gradients(x1: float, x2: float) -> tuple[Floats, Floats]:
    """Losses (2,) and their gradients with respect to (x1, x2), shape (2, 2), at a point."""
    t = math.tanh(-x2)
    dt = t * t - 1.0  # derivative of tanh(-x2)
    u, v = 0.5 * (-x1 - 7) - t, 0.5 * (-x1 + 3) + t + 2
    a, b = max(abs(u), LEAST), max(abs(v), LEAST)
    # As the reference does it: at 0 the gradient passes the lower limit and the sign is 0.
    sign_u = 0.0 if abs(u) < LEAST else math.copysign(1.0, u)
    sign_v = 0.0 if abs(v) < LEAST else math.copysign(1.0, v)
    f1, f2 = math.log(a) + 6, math.log(b) + 6
    f1x, f1y = sign_u * -0.5 / a, sign_u * -dt / a
    f2x, f2y = sign_v * -0.5 / b, sign_v * dt / b
    bowl = 0.1 * (x2 + 8) ** 2
    q1, q2 = ((7 - x1) ** 2 + bowl) / 10 - 20, ((x1 + 7) ** 2 + bowl) / 10 - 20
    q1x, q2x, qy = (x1 - 7) / 5, (x1 + 7) / 5, 0.02 * (x2 + 8)
    half = math.tanh(x2 / 2)
    slope = 0.5 * (1 - half * half)
    c1, c2 = max(half, 0.0), max(-half, 0.0)
    d1, d2 = slope * (half >= 0), -slope * (half <= 0)
    values = np.array([SCALE * (f1 * c1 + q1 * c2), f2 * c1 + q2 * c2])
    gradients = np.array(
        [
            [SCALE * (f1x * c1 + q1x * c2), SCALE * (f1y * c1 + f1 * d1 + qy * c2 + q1 * d2)],
            [f2x * c1 + q2x * c2, f2y * c1 + f2 * d1 + qy * c2 + q2 * d2],
        ]
    )
    return values, gradients


@dataclass(frozen=True)
class Descent:
    """One run from one start.

    Attributes:
        path: Points, float (n, 2), every ``record_every`` steps, first and last included.
        losses: Losses (L1 / s, L2) at those points, (n, 2).
        weights: What the method gave the two losses, normalised to a sum of 1, (n, 2); NaN where a
            method has no weights.
        distance: Of the end from the front, in (L1 / s, L2).
        position: Of the end along the front, from 0 (task 2 alone) to 1 (task 1 alone).
    """

    path: Floats
    losses: Floats
    weights: Floats
    distance: float
    position: float

    @property
    def reached(self) -> bool:
        """Whether the run ended on the front."""
        return self.distance < REACHED

    @property
    def collapsed(self) -> bool:
        """Whether it ended there at one end, where one of the tasks is given up."""
        return self.reached and not COLLAPSED < self.position < 1 - COLLAPSED


def make(name: str, **options: Any) -> Method:
    """A method for this landscape: bounds for those that need positive losses, no decay in FAMO."""
    if name == "famo":
        options = {"min_losses": torch.tensor(LOWER_BOUNDS), "weight_decay": 0.0, **options}
    if name == "uw":
        return _ShiftedUW(create(name, 2, **options)).double()
    if name == "si":
        options = {"lower_bounds": LOWER_BOUNDS, **options}
    if name.startswith("go4align"):
        options = {"n_groups": 2, "lower_bounds": LOWER_BOUNDS, **options}
    method = create(name, 2, **options)
    return method.double()


class _ShiftedUW(Method):
    """UW on losses above their bounds, as it needs, with its own Adam."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.optimizer = torch.optim.Adam(method.learned_parameters(), lr=0.025)

    def backward(
        self,
        losses: Sequence[torch.Tensor],
        features: torch.Tensor | Iterable[torch.Tensor] | None = None,
        shared_parameters: Iterable[torch.Tensor] = (),
    ) -> None:
        pairs = zip(losses, LOWER_BOUNDS, strict=True)
        self.optimizer.zero_grad()
        self.method.backward([loss - bound for loss, bound in pairs])
        self.optimizer.step()


def descend(
    method: Method,
    start: tuple[float, float],
    steps: int = 50_000,
    lr: float = 1e-3,
    record_every: int = 100,
    seed: int = 0,
) -> Descent:
    """Follow a method from a start, with Adam.

    Args:
        method: From :func:`make`; its state is used up.
        start: (x1, x2).
        steps: Number of steps.
        lr: Learning rate of Adam.
        record_every: Steps between recorded points.
        seed: For methods that draw random numbers.

    Returns:
        The path and where it ended.
    """
    with seeded(seed):
        return _descend(method, start, steps, lr, record_every)


def _descend(
    method: Method, start: tuple[float, float], steps: int, lr: float, record_every: int
) -> Descent:
    x = np.array(start, dtype=np.float64)
    first, second = np.zeros(2), np.zeros(2)
    path, seen, shares = [], [], []
    for step in range(steps + 1):
        values, gradients = losses_and_gradients(float(x[0]), float(x[1]))
        direction, weights = _direction(method, values, gradients)
        if step % record_every == 0 or step == steps:
            path.append(x.copy())
            seen.append(values / (SCALE, 1.0))
            total = None if weights is None else float(weights.sum())
            shares.append(weights / total if weights is not None and total else [np.nan] * 2)
        if step == steps:
            break
        first = 0.9 * first + 0.1 * direction
        second = 0.999 * second + 0.001 * direction * direction
        size = lr / (1 - 0.9 ** (step + 1))
        spread = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        x = x - size * first / spread
        if not np.isfinite(x).all():
            return Descent(np.array(path), np.array(seen), np.array(shares), math.nan, math.nan)
        method.after_step(functools.partial(_as_losses, x))
        if step % 25 == 24:  # what DWA calls an epoch
            method.end_epoch()
    distance, position = place_on_front(seen[-1])
    return Descent(np.array(path), np.array(seen), np.array(shares), distance, position)


def front(points: int = 2001) -> tuple[Floats, Floats]:
    """The optimal trade-offs: points (n, 2) and losses (L1 / s, L2) of shape (n, 2).

    Near the front both losses are bowls of the same shape, so that every optimal trade-off is the
    minimum of a weighted sum.
    """
    share = np.linspace(0, 1, points)
    x1 = 14 * share - 7
    x2 = np.full(points, -8.4)
    for _ in range(100):  # Newton on one coordinate after the other
        x1 = x1 - _newton(_mixed, x1, x2, share, (1, 0))
        x2 = x2 - _newton(_mixed, x1, x2, share, (0, 1))
    return np.stack([x1, x2], 1), np.stack([_bowls(x1, x2, 7.0), _bowls(x1, x2, -7.0)], 1)


def place_on_front(losses: Floats) -> tuple[float, float]:
    """Distance of (L1 / s, L2) to the front, and the place of the nearest point from 0 to 1."""
    curve = _FRONT.setdefault("losses", front()[1])
    gaps = np.linalg.norm(curve - losses, axis=1)
    nearest = int(gaps.argmin())
    return float(gaps[nearest]), nearest / (len(curve) - 1)


_FRONT: dict[str, Floats] = {}


def _direction(method: Method, values: Floats, gradients: Floats) -> tuple[Floats, Floats | None]:
    if isinstance(method, Aggregated):
        direction = method.aggregate(torch.from_numpy(gradients))
        return direction.numpy(), None
    leaf = torch.from_numpy(values).requires_grad_()
    # The derivative of the weighted loss by the losses is the weights.
    method.backward(list(leaf.unbind()))
    assert leaf.grad is not None
    weights = leaf.grad.numpy()
    return weights @ gradients, weights


def _as_losses(x: Floats) -> list[torch.Tensor]:
    values, _ = losses_and_gradients(float(x[0]), float(x[1]))
    return list(torch.from_numpy(values).unbind())


def _bowls(x1: Floats, x2: Floats, center: float) -> Floats:
    value: Floats = (((x1 - center) ** 2 + 0.1 * (x2 + 8) ** 2) / 10 - 20) * np.tanh(-x2 / 2)
    return value


def _mixed(x1: Floats, x2: Floats, share: Floats) -> Floats:
    return share * _bowls(x1, x2, 7.0) + (1 - share) * _bowls(x1, x2, -7.0)


def _newton(
    function: Callable[..., Floats],
    x1: Floats,
    x2: Floats,
    share: Floats,
    axis: tuple[int, int],
    step: float = 1e-4,
) -> Floats:
    """First over second derivative along an axis, by central differences."""
    low, middle, high = (
        function(x1 + sign * step * axis[0], x2 + sign * step * axis[1], share)
        for sign in (-1, 0, 1)
    )
    ratio: Floats = ((high - low) / (2 * step)) / ((high - 2 * middle + low) / step**2)
    return ratio
