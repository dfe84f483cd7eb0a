"""Losses that fit step rewards to the return of whole episodes.

All take predictions ``[episodes, time]`` with a mask, so that episodes of every length stand in one
batch. With several agents, sum the predictions over the agents first: the return is the team's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lare.errors import ConfigError, ShapeError


def rd(predictions: Tensor, returns: Tensor, mask: Tensor, *, normalize: bool = True) -> Tensor:
    """Return decomposition over the whole episode.

    ``mean_j (sum_t r_jt / T_j - R_j / T_j)^2``; both forms have one minimiser where the returns can
    be met, ``normalize=False`` gives long episodes more weight.

    Args:
        predictions: float ``[E, T]``, predicted step rewards.
        returns: float ``[E]``, sum of the true rewards of each episode.
        mask: bool ``[E, T]``, True where the episode has a step; at least one per episode.
        normalize: divide by the length; False compares the plain sums.

    Returns:
        Scalar, with gradient.

    Raises:
        ShapeError: if the shapes do not fit, or an episode has no step.

    Reference: arXiv 2412.11120, equation of the objective; arXiv 2111.05024 calls it RD.
    """
    lengths = _lengths(predictions, returns, mask)
    gaps = (predictions * mask).sum(1) - returns
    return (gaps / lengths if normalize else gaps).square().mean()


def rrd(
    predictions: Tensor,
    returns: Tensor,
    mask: Tensor,
    k: int,
    generator: torch.Generator | None = None,
    *,
    unbiased: bool = False,
) -> Tensor:
    """Randomized return decomposition: each episode is judged by ``k`` of its steps.

    ``mean_j (mean_{t in I_j} r_jt - R_j / T_j)^2`` with ``min(k, T_j)`` steps drawn without
    replacement. In expectation this is :func:`rd` plus the variance of the mean of the subset,
    which pulls the rewards of an episode together; ``unbiased`` subtracts an estimate of it,
    ``(1 - k / T_j) / k * S2_j``, so that the expectation is :func:`rd` exactly. The unbiased loss
    may be negative.

    Args:
        predictions: float ``[E, T]``.
        returns: float ``[E]``.
        mask: bool ``[E, T]``.
        k: steps per episode. Episodes no longer than that are taken whole, without correction.
        generator: of the draws, on the device of ``mask``; None takes torch's own.
        unbiased: subtract the variance.

    Returns:
        Scalar, with gradient.

    Raises:
        ShapeError: if the shapes do not fit, or an episode has no step.
        ConfigError: if ``k`` is not positive, or 1 with ``unbiased``, where no variance can be
            estimated.

    Reference: arXiv 2111.05024, equations 5 and 7.
    """
    lengths = _lengths(predictions, returns, mask)
    steps, chosen = subset(mask, k, generator)
    return rrd_on(predictions.gather(1, steps), returns, chosen, lengths, unbiased=unbiased)


def subset(mask: Tensor, k: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw ``min(k, T_j)`` steps of each episode without replacement.

    Args:
        mask: bool ``[E, T]``.
        k: steps per episode.
        generator: of the draws, on the mask's device; None takes torch's own.

    Returns:
        Indices of steps, int64 ``[E, min(k, T)]``, and which of them count, bool of that shape:
        an episode with fewer steps has its own, then some that do not count.

    Raises:
        ConfigError: if ``k`` is not positive.
    """
    if k < 1:
        raise ConfigError(f"k is {k}: give the number of steps to draw per episode, at least 1")
    keys = torch.rand(mask.shape, generator=generator, device=mask.device)
    # The k largest of independent keys are a draw without replacement; steps that do not exist
    # have keys below all others.
    steps = keys.masked_fill(~mask, -1.0).topk(min(k, mask.shape[1]), dim=1).indices
    return steps, mask.gather(1, steps)


def rrd_on(
    predictions: Tensor,
    returns: Tensor,
    chosen: Tensor,
    lengths: Tensor,
    *,
    unbiased: bool = False,
) -> Tensor:
    """:func:`rrd` on predictions for drawn steps alone, which spares computing the others.

    Args:
        predictions: float ``[E, k]``, at the steps from :func:`subset`.
        returns: float ``[E]``.
        chosen: bool ``[E, k]``, from :func:`subset`; at least one per episode.
        lengths: int ``[E]``, of the whole episodes.
        unbiased: subtract the variance of the mean of the subset.

    Returns:
        Scalar, with gradient.

    Raises:
        ConfigError: if ``unbiased`` and an episode of several steps has a single chosen one.
    """
    counts = chosen.sum(1)
    means = (predictions * chosen).sum(1) / counts
    losses = (means - returns / lengths).square()
    if unbiased:
        if ((counts == 1) & (lengths > 1)).any():
            raise ConfigError(
                "k is 1: from one step no variance can be estimated, so that the loss cannot be "
                "unbiased; give k of at least 2 or unbiased=False"
            )
        deviations = ((predictions - means[:, None]) * chosen).square().sum(1)
        variance = deviations / (counts - 1).clamp(min=1)
        losses = losses - (1 - counts / lengths) / counts * variance
    return losses.mean()


def _lengths(predictions: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    if predictions.ndim != 2 or mask.shape != predictions.shape or mask.dtype != torch.bool:
        raise ShapeError(
            f"predictions have shape {tuple(predictions.shape)} and the mask {tuple(mask.shape)} "
            f"of {mask.dtype}: give both as [episodes, time], the mask as bool"
        )
    if returns.shape != predictions.shape[:1]:
        raise ShapeError(
            f"returns have shape {tuple(returns.shape)} for {len(predictions)} episodes: give one "
            "per episode"
        )
    lengths = mask.sum(1)
    if (lengths == 0).any():
        raise ShapeError("the mask of an episode has no step: leave such episodes out")
    return lengths
