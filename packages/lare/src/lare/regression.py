"""Linear regressions in closed form: with a penalty, and with as few inputs as will do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Precision of a weight beyond which it is zero for all purposes, and iterations at most.
OFF, ITERATIONS = 1e8, 300


def ridge(inputs: Array, targets: Array, penalty: float) -> Array:
    """Least squares with a penalty on the squared weights.

    Args:
        inputs: ``[E, D]``; the last column is the constant, which is spared.
        targets: ``[E]``.
        penalty: relative to the mean square of each column.

    Returns:
        Weights ``[D]``; of several solutions the one of least norm.
    """
    size = _size(inputs)
    penalties = np.full(len(size), penalty**0.5)
    penalties[-1] = 0
    rows = np.concatenate([inputs / size / len(inputs) ** 0.5, np.diag(penalties)])
    wanted = np.concatenate([targets / len(inputs) ** 0.5, np.zeros(len(size))])
    # Not the normal equations: they would square the condition number of the inputs.
    weights: Array = np.linalg.lstsq(rows, wanted, rcond=None)[0] / size
    return weights


def sparse(inputs: Array, targets: Array) -> Array:
    """Bayesian regression with a prior of its own for every weight.

    Each weight has a normal prior of mean 0 whose precision is chosen, along with the noise, to
    make the targets most likely. Weights that the targets do not ask for end at zero. Of many
    inputs, the few that matter are so found from fewer targets than there are inputs.

    Args:
        inputs: ``[E, D]``; the last column is the constant, which has no prior.
        targets: ``[E]``.

    Returns:
        Weights ``[D]``. Targets that do not differ leave the constant alone.

    Cost: at most 300 inversions of ``[D, D]``.

    Reference: MacKay, Neural Computation 4 (1992); Tipping, JMLR 1 (2001), equations 16 to 18.
    """
    weights = np.zeros(inputs.shape[1])
    spread = targets.std()
    if len(targets) < 2 or spread <= 1e-12 * np.abs(targets).max():
        weights[-1] = targets.mean()
        return weights
    size = _size(inputs)
    rows, wanted = inputs / size, targets / spread
    gram, moment = rows.T @ rows, rows.T @ wanted
    precision = np.ones(len(size))  # alpha
    precision[-1] = 1 / OFF
    certainty = 100.0  # beta, one over the variance of the noise
    for _ in range(ITERATIONS):
        covariance = np.linalg.inv(np.diag(precision) + certainty * gram)
        found = certainty * covariance @ moment
        # How far each weight is determined by the targets: 0 by its prior alone, 1 by them alone.
        determined = np.clip(1 - precision * np.diag(covariance), 1e-12, 1)
        precision = np.clip(determined / (found**2 + 1e-12), 1 / OFF, OFF)
        precision[-1] = 1 / OFF
        residual = float(np.square(wanted - rows @ found).sum())
        freedom = len(targets) - float(determined.sum())
        certainty = min(max(freedom / (residual + 1e-12), 1.0), 1e6)
        if np.allclose(found, weights, rtol=1e-6, atol=1e-9):
            break
        weights = found
    weights = np.where(precision >= OFF, 0.0, weights)
    solved: Array = weights / size * spread
    return solved


def _size(inputs: Array) -> Array:
    """Root mean square of each column, which makes them comparable."""
    size: Array = np.sqrt(np.square(inputs).mean(0).clip(min=1e-24))
    return size
