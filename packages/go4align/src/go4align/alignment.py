r"""The rule: from losses, and what was accumulated before, to task weights.

Written twice, for two needs. :func:`align_host` takes NumPy arrays of the tasks that are present
and may branch: it is what a step on a CPU runs. :func:`align_device` takes tensors and a mask, has
static shapes and no branches on values: accelerators run it without synchronisation,
``torch.compile`` traces it. Both work in logarithms until the end, so that neither a loss of 1e6
nor one of 1e-6 leaves the range.

Reference: arXiv 2404.06486, Eqs. 3 and 5 to 7.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from go4align.clustering import (
    group_means_device,
    group_means_host,
    partition_device,
    partition_host,
    ranks_host,
)

#: A loss counts as at least this share of the mean loss: a zero loss gets a finite weight.
FLOOR = 1e-8
#: ``n_groups="auto"``: the fewest groups that leave at most this share of the spread inside them.
UNEXPLAINED = 0.1
#: How far above the smallest normal number losses are told apart with ``scale="none"``: what they
#: are divided into must not leave the range, nor the sum of a group.
HEADROOM = 1e14

Array = NDArray[Any]


class Alignment(NamedTuple):
    """One solution of the lower level.

    Attributes:
        weights: w, float (M,), what the losses are multiplied by.
        groups: int64 (M,), the group of each task, numbered by rising indicator.
        indicators: gamma, float (M,), Eq. 7.
    """

    weights: Any
    groups: Any
    indicators: Any


class Rule(NamedTuple):
    """How losses become weights; the fields are the arguments of ``GO4Align`` of these names."""

    n_groups: int | str
    beta: float
    scale: str
    space: str
    q_floor: float | None = None
    max_ratio: float | None = None


def align_host(rule: Rule, losses: Array, accumulated: Array, priors: Array | None) -> Alignment:
    """Solve the lower level for the tasks that are present.

    Args:
        rule: The settings.
        losses: L_t, float64 (n,), finite and not negative.
        accumulated: A_t, float64 (n,), the sum of losses up to this step, up to a constant.
        priors: Factors of the user, (n,), positive; None for ones.

    Returns:
        Weights, groups and indicators, each (n,).
    """
    count = len(losses)
    unit = float(losses.max()) or 1.0  # sums in units of the largest loss cannot overflow
    share = losses / unit
    mean = float(share.sum()) / count
    share = np.maximum(share, FLOOR * (mean or 1.0))
    total = float(share.sum())

    smooth = rule.beta * (accumulated.min() - accumulated)  # Eq. 6 in closed form, logarithm
    smooth -= math.log(float(np.exp(smooth).sum()))
    if rule.q_floor is not None:
        smooth = np.log((1 - count * rule.q_floor) * np.exp(smooth) + rule.q_floor)

    if rule.scale == "none":  # Eq. 5 up to the choice of the common factor
        factor = math.log(count / max(unit, HEADROOM * sys.float_info.min))
    else:
        factor = math.log(total / count if rule.scale == "mean" else total)
    logarithms = factor - np.log(share) + smooth  # Eq. 7
    indicators = np.exp(logarithms)

    values = logarithms if rule.space == "log" else indicators
    if rule.n_groups == "auto":
        groups = partition_host(values, count, UNEXPLAINED).labels
    elif int(rule.n_groups) < count:
        groups = partition_host(values, int(rule.n_groups)).labels
    else:
        groups = ranks_host(values)
    weights = group_means_host(values, groups)  # Eq. 3: the mean of each group
    if rule.space == "log":
        # For "unit" the factor does not matter; without it not all weights can vanish.
        weights = np.exp(weights - weights.max() if rule.scale == "unit" else weights)
    if priors is not None:
        weights = weights * priors
    if rule.max_ratio is not None:
        raised = np.maximum(weights, weights.max() / rule.max_ratio)
        weights = raised * (weights.sum() / (raised.sum() or 1.0))
    if rule.scale == "unit":
        weights = weights * (count / weights.sum())
    return Alignment(weights, groups, indicators)


def align_device(
    rule: Rule, losses: Tensor, accumulated: Tensor, present: Tensor, priors: Tensor | None
) -> Alignment:
    """Solve the lower level without a look at any value.

    Args:
        rule: The settings.
        losses: L_t, float (M,), finite and not negative where present.
        accumulated: A_t, float (M,).
        present: bool (M,).
        priors: Factors of the user, (M,), positive; None for ones.

    Returns:
        Weights (0 where absent), groups (-1) and indicators (0), each (M,).
    """
    zero = torch.zeros_like(losses)
    count = present.sum().clip(1).to(losses.dtype)

    def mean_of(x: Tensor) -> Tensor:
        return torch.where(present, x, 0.0).sum() / count

    losses = torch.where(present, losses, 0.0)
    unit = losses.max()
    unit = torch.where(unit > 0, unit, 1.0)
    share = losses / unit
    mean = mean_of(share)
    share = torch.maximum(share, zero + FLOOR * torch.where(mean > 0, mean, 1.0))
    total = mean_of(share) * count

    smooth = torch.where(present, -rule.beta * accumulated, -float("inf"))
    smooth = smooth - torch.where(present.any(), smooth.max(), 0.0)
    normaliser = torch.where(present, smooth.exp(), 0.0).sum()
    smooth = torch.where(present, smooth, 0.0) - normaliser.clip(1e-30).log()
    if rule.q_floor is not None:
        smooth = ((1 - count * rule.q_floor) * smooth.exp() + rule.q_floor).log()

    least = HEADROOM * torch.finfo(losses.dtype).tiny
    factor = {"mean": total / count, "none": count / unit.clip(least)}.get(rule.scale, total).log()
    logarithms = factor - share.log() + smooth
    indicators = torch.where(present, logarithms.exp(), 0.0)

    values = logarithms if rule.space == "log" else indicators
    if rule.n_groups == "auto":
        groups = partition_device(values, len(values), present, UNEXPLAINED).labels
    else:
        groups = partition_device(values, int(rule.n_groups), present).labels
    weights = group_means_device(values, groups, present)
    if rule.space == "log":
        if rule.scale == "unit":
            weights = weights - torch.where(present, weights, -float("inf")).max()
        weights = weights.exp()
    if priors is not None:
        weights = weights * priors
    weights = torch.where(present, weights, 0.0)
    if rule.max_ratio is not None:
        raised = torch.where(present, torch.maximum(weights, weights.max() / rule.max_ratio), 0.0)
        together = raised.sum()
        weights = raised * (weights.sum() / torch.where(together > 0, together, 1.0))
    if rule.scale == "unit":
        weights = weights * (count / torch.where(present.any(), weights.sum(), 1.0))
    return Alignment(weights, torch.where(present, groups, -1), indicators)
