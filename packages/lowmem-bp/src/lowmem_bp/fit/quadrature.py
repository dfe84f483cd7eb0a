"""Gauss-Legendre quadrature on intervals that are split where the integrand has kinks."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

_ORDER = 16


def with_ends(low: float, inner: Tensor, high: float) -> Tensor:
    """Put ``low`` before and ``high`` behind the last dimension of ``inner``."""
    shape = (*inner.shape[:-1], 1)
    return torch.cat([inner.new_full(shape, low), inner, inner.new_full(shape, high)], dim=-1)


def dyadic(low: float, high: float, cells: int) -> Tensor:
    """Multiples of a power of two inside an interval, ``cells`` to twice as many.

    Known activations have their kinks (at 0, -3, 3, 6, ...) on such a grid, where they do no harm
    to a quadrature.
    """
    step = 2.0 ** math.floor(math.log2((high - low) / cells))
    first, last = math.floor(low / step) + 1, math.ceil(high / step)
    return torch.arange(first, last, dtype=torch.float64) * step


@functools.cache  # takes longer than all the rest of one error evaluation
def _unit_legendre() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(_ORDER)
    return (nodes + 1) / 2, weights / 2


def legendre(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on each cell.

    Shape:
        low, high: ``(..., cells)``; nodes and weights: ``(..., cells, 16)``.
    """
    unit_nodes, unit_weights = map(torch.from_numpy, _unit_legendre())
    width = (high - low)[..., None]
    return low[..., None] + width * unit_nodes, width * unit_weights


def split_quadrature(low: float, high: float, knots: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes and weights on ``(low, high)``, split at the knots and at a dyadic grid.

    Shape:
        knots: ``(..., knots)``; nodes and weights: ``(..., nodes)``.
    """
    grid = dyadic(low, high, 16)
    inner = torch.cat([knots, grid.expand(*knots.shape[:-1], -1)], dim=-1).sort(dim=-1).values
    breaks = with_ends(low, inner, high)
    nodes, weights = legendre(breaks[..., :-1], breaks[..., 1:])
    return nodes.flatten(-2), weights.flatten(-2)
