"""Linear regressions in closed form: with a penalty, and with as few inputs as will do."""

from __future__ import annotations

import torch
from torch import Tensor

#: Precision of a weight beyond which it is zero for all purposes, and iterations at most.
OFF, ITERATIONS = 1e8, 300


def ridge(inputs: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Least squares with a penalty on the squared weights.

    Args:
        inputs: float64 ``[E, D]``; the last column is the constant, which is spared.
        targets: float64 ``[E]``.
        penalty: relative to the mean square of each column.

    Returns:
        Weights float64 ``[D]``; of several solutions the one of least norm.
    """
    size = _size(inputs)
    penalties = torch.full_like(size, penalty**0.5)
    penalties[-1] = 0
    rows = torch.cat([inputs / size / len(inputs) ** 0.5, penalties.diag()])
    wanted = torch.cat([targets / len(inputs) ** 0.5, torch.zeros_like(size)])
    # Not the normal equations: they would square the condition number of the inputs.
    solved: Tensor = torch.linalg.lstsq(rows, wanted[:, None], driver="gelsd").solution
    return solved[:, 0] / size


def sparse(inputs: Tensor, targets: Tensor) -> Tensor:
    """Bayesian regression with a prior of its own for every weight.

    Each weight has a normal prior of mean 0 whose precision is chosen, along with the noise, to
    make the targets most likely. Weights that the targets do not ask for end at zero. Of many
    inputs, the few that matter are so found from fewer targets than there are inputs.

    Args:
        inputs: float64 ``[E, D]``; the last column is the constant, which has no prior.
        targets: float64 ``[E]``.

    Returns:
        Weights float64 ``[D]``. Targets that do not differ leave the constant alone.

    Reference: MacKay, Neural Computation 4 (1992); Tipping, JMLR 1 (2001), equations 16 to 18.
    """
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64)
    spread = targets.std(correction=0)
    if len(targets) < 2 or spread <= 1e-12 * targets.abs().max():
        weights[-1] = targets.mean()
        return weights
    size = _size(inputs)
    rows, wanted = inputs / size, targets / spread
    gram, moment = rows.T @ rows, rows.T @ wanted
    precision = torch.ones_like(size)  # alpha
    precision[-1] = 1 / OFF
    certainty = 100.0  # beta, one over the variance of the noise
    for _ in range(ITERATIONS):
        covariance = torch.linalg.inv(precision.diag() + certainty * gram)
        found = certainty * covariance @ moment
        # How far each weight is determined by the targets: 0 by its prior alone, 1 by them alone.
        determined = (1 - precision * covariance.diagonal()).clamp(1e-12, 1)
        precision = (determined / (found.square() + 1e-12)).clamp(1 / OFF, OFF)
        precision[-1] = 1 / OFF
        residual = float((wanted - rows @ found).square().sum())
        freedom = float(len(targets) - determined.sum())
        certainty = min(max(freedom / (residual + 1e-12), 1.0), 1e6)
        if torch.allclose(found, weights, rtol=1e-6, atol=1e-9):
            break
        weights = found
    return weights / size * spread


def _size(inputs: Tensor) -> Tensor:
    """Root mean square of each column, which makes them comparable."""
    return inputs.square().mean(0).clamp(min=1e-24).sqrt()
