r"""Exact one-dimensional K-means, for NumPy arrays and for tensors.

In one dimension an optimal cluster holds neighbours in the sorted order, so that a dynamic
programme over split points finds the optimum: no restarts, no randomness, no empty clusters. Arrays
take a NumPy path that may branch; tensors one of static shapes that never looks at a value, for
accelerators and ``torch.compile``.

Cost: :math:`O(K M^2)` time, :math:`O(M^2)` memory for M values.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from go4align.errors import ConfigError

Array = NDArray[Any]


class Clustering(NamedTuple):
    """What :func:`kmeans_1d` returns.

    Attributes:
        labels: int64 of shape (M,), the cluster of each value, numbered by rising mean.
        centers: float of shape (K,), the clusters' means; NaN beyond the number of clusters found,
            which is below K where fewer than K values differ.
        cost: float of shape (), the sum of squared distances to the means.
    """

    labels: Any
    centers: Any
    cost: Any


def kmeans_1d(values: ArrayLike | Tensor, n_clusters: int) -> Clustering:
    """Split numbers into clusters with the least sum of squared distances to the means.

    The result is a global optimum and depends on the values alone. Equal values share a cluster.
    Ties in cost go to fewer clusters, then to the smallest split index.

    Args:
        values: M finite numbers, shape (M,). A tensor stays on its device.
        n_clusters: K, from 1 to M.

    Returns:
        Labels, centers and cost, as tensors for a tensor and as arrays otherwise.

    Raises:
        ConfigError: if ``values`` is not one-dimensional, is empty or (on the CPU) not finite, or
            ``n_clusters`` is not between 1 and M.

    Example:
        >>> labels, centers, cost = kmeans_1d([1.0, 10.0, 1.5, 11.0, 1.25], 2)
        >>> labels.tolist(), centers.tolist(), float(cost)
        ([0, 1, 0, 1, 0], [1.25, 10.5], 0.625)

    Reference: arXiv 2404.06486, Eq. 3, whose lower level this solves.
    """
    x = _checked("values", values)
    n_clusters = _checked_count("n_clusters", n_clusters, x.shape[0])
    labels, costs = _partition(x, n_clusters)
    if isinstance(x, Tensor):
        members = labels[None, :] == torch.arange(n_clusters, device=x.device)[:, None]
        sums = torch.where(members, x[None, :], 0.0).sum(1)
        centers: Any = sums / members.sum(1)  # 0 / 0 is the NaN of a cluster that was not found
    else:
        sizes = np.bincount(labels)
        centers = np.full(n_clusters, np.nan)
        centers[: len(sizes)] = np.bincount(labels, x) / sizes
    return Clustering(labels, centers, costs[-1])


def cluster_costs(values: ArrayLike | Tensor, max_clusters: int | None = None) -> Any:
    """Give the optimal cost for every number of clusters, in one pass.

    Args:
        values: M finite numbers, shape (M,).
        max_clusters: Largest number of clusters; M by default.

    Returns:
        float of shape (max_clusters,): costs with at most 1, 2, ... clusters, never rising.

    Raises:
        ConfigError: as for :func:`kmeans_1d`.

    Example:
        >>> cluster_costs([0.0, 1.0, 5.0]).tolist()
        [14.0, 0.5, 0.0]
    """
    x = _checked("values", values)
    count = x.shape[0]
    most = count if max_clusters is None else _checked_count("max_clusters", max_clusters, count)
    return _partition(x, most).costs


def regroup(weights: ArrayLike | Tensor, n_groups: int, *, space: str = "linear") -> Any:
    """Replace each weight by the mean of its group: grouping on top of any weighting method.

    Args:
        weights: M task weights of any method, shape (M,), finite; positive for ``space="log"``.
        n_groups: K, from 1 to M.
        space: ``"linear"`` clusters the weights and takes means, which keeps their sum; ``"log"``
            clusters their logarithms and takes geometric means.

    Returns:
        Weights of shape (M,): a float64 array, or for a tensor one of its floating dtype (float64
        for whole numbers).

    Raises:
        ConfigError: as for :func:`kmeans_1d`, or for another ``space``, or weights that are not
            positive in log space.

    Example:
        >>> regroup([0.25, 0.75, 4.0], 2).tolist()
        [0.5, 0.5, 4.0]

    Reference: arXiv 2404.06486, Table 4 (grouping on top of MGDA, Nash-MTL, FAMO).
    """
    if space not in ("linear", "log"):
        raise ConfigError(f'space is {space!r}: give "linear" or "log"')
    x = _checked("weights", weights)
    n_groups = _checked_count("n_groups", n_groups, x.shape[0])
    if space == "log":
        if _on_host(x) and not bool((x > 0).all()):
            raise ConfigError(f"weights are {x.tolist()}: log space needs all of them positive")
        x = x.log() if isinstance(x, Tensor) else np.log(x)
    labels = _partition(x, n_groups).labels
    if isinstance(weights, Tensor):
        means = group_means_device(x, labels, torch.ones_like(labels, dtype=torch.bool))
        means = means.exp() if space == "log" else means
        return means.to(weights.dtype) if weights.is_floating_point() else means
    averages = group_means_host(x, labels)
    return np.exp(averages) if space == "log" else averages


def _partition(x: Any, n_groups: int) -> Partition:
    return partition_device(x, n_groups) if isinstance(x, Tensor) else partition_host(x, n_groups)


# --- for the weighting: no checks ---------------------------------------------------------------


class Partition(NamedTuple):
    """An optimal partition, before any means are taken.

    Attributes:
        labels: int64 (M,), numbered from 0 by rising value.
        costs: float (K,), the optimal cost with at most 1, 2, ..., K groups.
    """

    labels: Any
    costs: Any


def partition_host(x: Array, n_groups: int, unexplained: float | None = None) -> Partition:
    """Partition an array optimally into at most ``n_groups`` groups.

    Args:
        x: float64 (M,), finite.
        n_groups: K, at most M.
        unexplained: If given, take the fewest groups whose cost is at most this share of the cost
            of one group.

    Returns:
        Labels and costs.
    """
    count = len(x)
    order = x.argsort(kind="stable")
    ranked = x[order]
    unit = float(ranked[-1] - ranked[0]) or 1.0  # squares then neither overflow nor vanish
    ranked = (ranked - ranked[0]) / unit
    gaps = ranked[1:] - ranked[:-1]
    upper, forbidden, sizes = _constants(count)
    differences = np.subtract.outer(ranked, ranked)
    differences *= differences
    differences *= upper
    costs = differences.cumsum(1)[::-1].cumsum(0)[::-1] / sizes  # see _segment_costs
    costs += forbidden
    if not gaps.all():
        costs[1:][gaps == 0] = np.inf  # equal values would get unequal weights
    best = costs[0]
    totals, first = [best[-1]], []
    candidates = np.empty_like(costs)
    columns = np.arange(count)
    for _ in range(1, n_groups):
        # Row 0: no group more. Row i: the last group starts at i. argmin takes the first of equals.
        candidates[0] = best
        np.add(best[:-1, None], costs[1:], out=candidates[1:])
        starts = candidates.argmin(0)
        best = candidates[starts, columns]
        first.append(starts)
        totals.append(best[-1])
    wanted = n_groups
    if unexplained is not None:
        wanted = sum(total > unexplained * totals[0] for total in totals) + 1
    opened = np.zeros(count, np.int64)
    last = count - 1
    for starts in first[wanted - 2 :: -1] if wanted > 1 else ():
        start = int(starts[last])
        if start > 0:
            opened[start] = 1
            last = start - 1
    labels = np.empty(count, np.int64)
    labels[order] = opened.cumsum()
    # In this order, and not as NumPy numbers: an overflow is an infinite cost, and 0 stays 0.
    return Partition(labels, np.array([float(total) * unit * unit for total in totals]))


def partition_device(
    x: Tensor, n_groups: int, present: Tensor | None = None, unexplained: float | None = None
) -> Partition:
    """Do the same on a tensor, with static shapes and without a look at any value.

    Args:
        x: float (M,), finite where present.
        n_groups: K, at most M.
        present: bool (M,), the values that count; None for all. The labels of the others mean
            nothing.
        unexplained: As for :func:`partition_host`.

    Returns:
        Labels and costs.
    """
    weight = torch.ones_like(x)
    if present is not None:
        # At the upper end and without weight: they cost nothing and move no mean.
        most = torch.where(present, x, -float("inf")).max()
        x = torch.where(present, x, torch.where(most > -float("inf"), most, 0.0))
        weight = torch.where(present, weight, 0.0)
    order = torch.argsort(x, stable=True)
    ranked = x[order]
    span = ranked[-1:] - ranked[:1]
    unit = torch.where(span > 0, span, 1.0)
    costs = _segment_costs((ranked - ranked[:1]) / unit, weight[order])
    best = costs[0]
    totals, first = [best[-1:]], []
    for _ in range(1, n_groups):
        candidates = torch.cat((best[None], best[:-1, None] + costs[1:]))
        first.append(candidates.argmin(0))
        best = candidates.amin(0)
        totals.append(best[-1:])
    total = torch.cat(totals)
    wanted = None if unexplained is None else (total > unexplained * total[:1]).sum() + 1
    place = torch.arange(len(x), device=x.device)
    opened = torch.zeros_like(place)
    last = place[-1:]
    for level in range(n_groups, 1, -1):
        start = first[level - 2][last]  # start of the last of `level` groups, 0: one group fewer
        if wanted is not None:
            start = torch.where(level <= wanted, start, 0)
        opened = opened + ((place == start) & (start > 0))
        last = torch.where(start > 0, start - 1, last)
    labels = opened.cumsum(0)[torch.argsort(order)]
    return Partition(labels, total * unit * unit)


def ranks_host(x: Array) -> Array:
    """Rank of each value among the different ones, int64 (M,): every value is its own group."""
    order = x.argsort(kind="stable")
    ranked = x[order]
    ranks = np.zeros(len(x), np.int64)
    ranks[order[1:]] = (ranked[1:] > ranked[:-1]).cumsum()
    return ranks


def group_means_host(x: Array, labels: Array) -> Array:
    """Mean of each value's group, (M,): the same bits for all members."""
    means: Array = (np.bincount(labels, x) / np.bincount(labels))[labels]
    return means


def group_means_device(x: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Mean of each value's group, (M,), over the present values: the same bits for all members."""
    together = (labels[:, None] == labels[None, :]) & present[None, :]
    return torch.where(together, x[None, :], 0.0).sum(1) / together.sum(1).clip(1)


def _segment_costs(ranked: Tensor, weight: Tensor) -> Tensor:
    """Cost of a group from the i-th to the j-th of the sorted values, (M, M); inf: not allowed.

    The cost is the sum of squared differences over all pairs, divided by the number of values.
    All terms have one sign, so that nothing cancels, however far the values lie apart.
    """
    gaps = ranked[None, :] - ranked[:, None]
    pairs = (gaps * gaps * weight[None, :] * weight[:, None]).triu(1)
    inside = pairs.cumsum(1).flip(0).cumsum(0).flip(0)
    before = weight.cumsum(0)
    sizes = (before[None, :] - (before - weight)[:, None]).clip(1.0)
    place = torch.arange(len(ranked), device=ranked.device)
    opens = torch.cat((ranked[:1] == ranked[:1], ranked[1:] > ranked[:-1]))
    allowed = (place[:, None] <= place[None, :]) & opens[:, None]
    return torch.where(allowed, inside / sizes, float("inf"))


@functools.lru_cache(maxsize=64)
def _constants(count: int) -> tuple[Array, Array, Array]:
    """Of (M, M): ones above the diagonal, inf below it, and the number of values from i to j."""
    ones = np.ones((count, count))
    rows, columns = np.indices((count, count))
    forbidden = np.where(columns < rows, np.inf, 0.0)
    return np.triu(ones, 1), forbidden, np.maximum(columns - rows + 1.0, 1.0)


def _on_host(x: Any) -> bool:
    return not isinstance(x, Tensor) or (
        x.device.type == "cpu" and not torch.compiler.is_compiling()
    )


def _checked(name: str, values: Any) -> Any:
    """``values`` as float64 (float32 where the device has no float64), shape (M,)."""
    x: Any
    if isinstance(values, Tensor):
        x = values.detach()
        x = x.to(torch.float32 if x.device.type == "mps" else torch.float64)
    else:
        try:
            x = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name} are {values!r}: give numbers of shape (M,)") from error
    if x.ndim != 1 or x.shape[0] == 0:
        raise ConfigError(f"{name} have shape {tuple(x.shape)}: give numbers of shape (M,), M >= 1")
    if _on_host(x) and not bool((x.isfinite() if isinstance(x, Tensor) else np.isfinite(x)).all()):
        raise ConfigError(f"{name} are {x.tolist()}: all must be finite")
    return x


def _checked_count(name: str, value: Any, count: int) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 1 <= value <= count:
        raise ConfigError(
            f"{name} is {value!r} for {count} values: give a whole number from 1 to {count}"
        )
    return int(value)
