"""The method once more, from the paper's equations: slow, plain Python, one number at a time.

Q is kept as the product of Eq. 6 and not as a sum of losses; groups are found by trying every
partition. Both are what the package avoids, so that an error is not made twice.

Reference: arXiv 2404.06486, Eqs. 3 and 5 to 7.
"""

from __future__ import annotations

import copy
import itertools
import math

FLOOR = 1e-8  # a loss counts as at least this share of the mean loss
UNEXPLAINED = 0.1  # n_groups="auto": share of the cost of one group that may be left


# --- K-means by trial -----------------------------------------------------------------------------


def cost(members):
    """Sum of squared distances to the mean."""
    mean = math.fsum(members) / len(members)
    return math.fsum((x - mean) ** 2 for x in members)


def set_partitions(items):
    """Every way to split a list into groups, in any order: 877 for seven items."""
    if not items:
        yield []
        return
    head, *tail = items
    for groups in set_partitions(tail):
        yield [[head], *groups]
        for i, group in enumerate(groups):
            yield [*groups[:i], [head, *group], *groups[i + 1 :]]


def least_cost(values, n_clusters):
    """The optimum of K-means over all partitions into at most ``n_clusters`` groups."""
    return min(
        math.fsum(cost(group) for group in groups)
        for groups in set_partitions(list(values))
        if len(groups) <= n_clusters
    )


def splits(values, n_groups):
    """The best groups of neighbours, as lists of values; equal values stay together."""
    distinct = sorted(set(values))
    best, found = math.inf, None
    for starts in itertools.combinations(range(1, len(distinct)), min(n_groups, len(distinct)) - 1):
        edges = [0, *starts, len(distinct)]
        groups = [
            [x for x in values if distinct[a] <= x <= distinct[b - 1]]
            for a, b in itertools.pairwise(edges)
        ]
        total = math.fsum(cost(group) for group in groups)
        if total < best:
            best, found = total, groups
    return best, found


def group_labels(values, n_groups):
    """Label of each value, numbered by rising value."""
    if n_groups == "auto":
        whole = cost(values)
        n_groups = next(
            k
            for k in range(1, len(values) + 1)
            if splits(values, k)[0] <= UNEXPLAINED * whole or k == len(set(values))
        )
    groups = splits(values, n_groups)[1]
    return [next(k for k, group in enumerate(groups) if x in group) for x in values]


# --- the weighting --------------------------------------------------------------------------------


class Reference:
    """``weights = Reference(...).step(losses, mask)``: one step in training mode."""

    def __init__(
        self,
        n_tasks,
        n_groups,
        beta=1e-4,
        scale="none",
        space="log",
        decay=None,
        q_floor=None,
        lower_bounds=None,
        priors=None,
        max_ratio=None,
        update_every=1,
    ):
        self.n_tasks, self.n_groups, self.beta = n_tasks, n_groups, beta
        self.scale, self.space, self.decay, self.q_floor = scale, space, decay, q_floor
        self.bounds = lower_bounds or [0.0] * n_tasks
        self.priors = priors or [1.0] * n_tasks
        self.max_ratio, self.update_every = max_ratio, update_every
        self.product = [1.0] * n_tasks  # Q before it is divided by its sum
        self.weights = [1 / n_tasks if scale == "mean" else 1.0] * n_tasks
        self.known = [False] * n_tasks  # tasks that have a weight of their own
        self.groups, self.indicators = [0] * n_tasks, [1.0] * n_tasks
        self.window = []

    def step(self, losses, mask=None):
        """Weights of this step, 0 for absent tasks."""
        mask = [True] * self.n_tasks if mask is None else list(mask)
        losses = [x - b for x, b in zip(losses, self.bounds, strict=True)]
        if self.update_every == 1:
            self._solve(losses, mask)
            used = self.weights
        else:
            # The weights of this window were found at the end of the last one; a task that has
            # none yet takes that of this micro-batch.
            if any(here and not known for here, known in zip(mask, self.known, strict=True)):
                now = copy.deepcopy(self)
                now._solve(losses, mask)
                for m in range(self.n_tasks):
                    if mask[m] and not self.known[m]:
                        self.weights[m], self.known[m] = now.weights[m], True
            used = list(self.weights)
            self.window.append((losses, mask))
            if len(self.window) == self.update_every:
                self._close_window()
        return [w if here else 0.0 for w, here in zip(used, mask, strict=True)]

    def _close_window(self):
        means, seen = [], []
        for m in range(self.n_tasks):
            found = [losses[m] for losses, mask in self.window if mask[m]]
            seen.append(bool(found))
            means.append(math.fsum(found) / len(found) if found else 0.0)
        self.window = []
        self._solve(means, seen)

    def _solve(self, losses, mask):
        here = [m for m in range(self.n_tasks) if mask[m]]
        for m in here:
            if self.decay is not None:
                self.product[m] **= self.decay
            self.product[m] *= math.exp(-self.beta * losses[m])
        total = math.fsum(self.product[m] for m in here)
        smooth = {m: self.product[m] / total for m in here}  # Q_t, Eq. 6
        if self.q_floor:
            smooth = {
                m: (1 - len(here) * self.q_floor) * q + self.q_floor for m, q in smooth.items()
            }

        mean = math.fsum(losses[m] for m in here) / len(here)
        floored = {m: max(losses[m], FLOOR * mean) for m in here}
        total = math.fsum(floored.values())
        common = {"mean": total / len(here), "none": len(here)}.get(self.scale, total)
        gamma = {m: common / floored[m] * smooth[m] for m in here}  # Eqs. 5 and 7

        values = [math.log(gamma[m]) if self.space == "log" else gamma[m] for m in here]
        labels = group_labels(values, self.n_groups)
        means = []  # omega_t, Eq. 3
        for k in range(max(labels) + 1):
            members = [x for x, label in zip(values, labels, strict=True) if label == k]
            mean = math.fsum(members) / len(members)
            means.append(math.exp(mean) if self.space == "log" else mean)
        weights = [means[k] * self.priors[m] for m, k in zip(here, labels, strict=True)]
        if self.max_ratio is not None:
            before = sum(weights)
            weights = [max(w, max(weights) / self.max_ratio) for w in weights]
            weights = [w * before / sum(weights) for w in weights]
        if self.scale == "unit":
            weights = [w * len(here) / sum(weights) for w in weights]

        self.groups, self.indicators = [-1] * self.n_tasks, [0.0] * self.n_tasks
        for m, weight, label in zip(here, weights, labels, strict=True):
            self.weights[m], self.groups[m], self.indicators[m] = weight, label, gamma[m]
            self.known[m] = True
