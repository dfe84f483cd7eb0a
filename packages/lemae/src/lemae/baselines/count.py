"""Count-based novelty: the rarer a cell of the state space, the more it pays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lemae._seeds import Purpose, generator
from lemae._values import array, whole
from lemae.baselines.novelty import NoveltyBonus
from lemae.errors import ConfigError, ShapeError, StateError
from lemae.task import TaskSpec

#: Cells of whole states beyond which hardly any would come twice.
MAX_CELLS = 10**9

# The unit that an entry belongs to: "agent 0 x", "ally 0 health", "enemy_relative_x_0".
_OWNER = re.compile(r"(agent|ally|enemy)[ _](?:[a-z_]+_)?(\d+)(?![a-z\d])")


class CountBonus(NoveltyBonus):
    """Pays ``scale / sqrt(n)`` for a state in whose cell n states were.

    With several groups of indices it pays the mean over the groups, each counted by itself. So an
    agent that goes where it has not been earns something wherever its team mates are.

    Args:
        d: length of the state.
        groups: indices of each group; None counts whole states.
        width: of a cell, per index ``[d]`` or one for all. 1 counts whole numbers as they are.
        scale: of the bonus.
        until_success: pay nothing any more once an episode succeeded.
        seed: of the 64-bit hash that tells cells apart; two of them hardly ever share a count.

    Raises:
        ConfigError: if an index is no index of the state, or a width is not positive and finite.

    Cost: 16 bytes per group and cell; per step a few microseconds.

    Reference: arXiv 1606.01868, with the counts themselves, for states that can be counted.
    """

    def __init__(
        self,
        d: int,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        width: float | Sequence[float] | np.ndarray = 1.0,
        scale: float = 0.1,
        until_success: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(scale, until_success=until_success)
        self.groups = tuple(map(tuple, [range(d)] if groups is None else groups))
        if not self.groups or not all(
            group and all(0 <= index < d for index in group) for group in self.groups
        ):
            raise ConfigError(
                f"groups is {self.groups}: give at least one group, of indices from 0 to {d - 1}"
            )
        self.width = np.broadcast_to(np.asarray(width, np.float64), (d,))
        if not (np.isfinite(self.width) & (self.width > 0)).all():
            raise ConfigError(f"width is {width}: give positive and finite numbers")
        # Odd multipliers of 64 bits, 0 for indices outside the group.
        odd = generator(Purpose.BASELINE, seed).integers(2**63, size=d, dtype=np.uint64) * 2 + 1
        self._multipliers = np.zeros((d, len(self.groups)), np.uint64)
        for number, group in enumerate(self.groups):
            self._multipliers[group, number] = odd[list(group)]
        self._cells = [np.empty(0, np.uint64) for _ in self.groups]  # ascending
        self._counts = [np.empty(0, np.int64) for _ in self.groups]

    @classmethod
    def for_task(cls, task: TaskSpec, *, bins: int = 10, **options: Any) -> CountBonus:
        """A bonus with cells that suit a task.

        Args:
            task: where entries are named after units, such as ``agent 0 x``, ``ally 0 x`` or
                ``enemy_health_0``, each unit is a group of its own, with the entries that are
                nobody's. Otherwise whole states are counted.
            bins: cells per index that is not a whole number, between its bounds.
            options: of the bonus, in place of these.

        Raises:
            ConfigError: if ``bins`` is not positive, or there are too many whole states to count.
        """
        bins = whole("bins", bins)
        ranges = task.highs - task.lows
        spans = np.maximum(ranges, np.finfo(np.float64).tiny)
        groups, width = groups_by_unit(task), np.where(task.integers, 1.0, spans / bins)
        options = {"groups": groups, "width": width, **options}
        made = cls(task.d, **options)
        cells = np.maximum(ranges / made.width + task.integers, 1)
        if options["groups"] is None and np.log(cells).sum() > np.log(MAX_CELLS):
            raise ConfigError(
                f"the state of {task.name!r} has about 10^{np.log10(cells).sum():.0f} cells, so "
                "that hardly any would come twice, and the names of its entries tell no units "
                "apart: name them such as 'agent 0 x' or 'ally 0 x', or give groups of indices"
            )
        return made

    def counts(self, states: np.ndarray) -> np.ndarray:
        """How many states were in the cells of these.

        Args:
            states: ``[M, d]``.

        Returns:
            int64 ``[M, groups]``.

        Raises:
            ShapeError: if the states have another length.
        """
        codes = self._codes(states)
        found = np.zeros(codes.shape, np.int64)
        for number, (cells, counts) in enumerate(zip(self._cells, self._counts, strict=True)):
            places, known = _find(codes[:, number], cells)
            found[known, number] = counts[places[known]]
        return found

    def learn(self, states: np.ndarray) -> None:
        """Count states ``[M, d]``."""
        for number, codes in enumerate(self._codes(states).T):
            codes, often = np.unique(codes, return_counts=True)
            cells, counts = self._cells[number], self._counts[number]
            places, known = _find(codes, cells)
            counts[places[known]] += often[known]
            self._cells[number] = np.insert(cells, places[~known], codes[~known])
            self._counts[number] = np.insert(counts, places[~known], often[~known])

    def novelty(self, states: np.ndarray) -> np.ndarray:
        """The mean of ``1 / sqrt(n)`` over the groups; a state never seen counts as seen once."""
        mean: np.ndarray = (1 / np.sqrt(np.maximum(self.counts(states), 1))).mean(axis=1)
        return mean

    def state_dict(self) -> dict[str, Any]:
        """The cells, as hashed, and their counts."""
        return {
            **super().state_dict(),
            "multipliers": self._multipliers.view(np.int64).copy(),
            "cells": [cells.view(np.int64).copy() for cells in self._cells],
            "counts": [counts.copy() for counts in self._counts],
        }

    def _load_learned(self, state: Mapping[str, Any]) -> None:
        if not np.array_equal(state["multipliers"], self._multipliers.view(np.int64)):
            raise StateError(
                "the saved counts are of other groups, states or another seed: make the bonus with "
                "the same arguments"
            )
        found, counts = [], []
        for _, cells, often in zip(self.groups, state["cells"], state["counts"], strict=True):
            found.append(array("cells", cells, (None,), np.int64).view(np.uint64))
            counts.append(array("counts", often, found[-1].shape, np.int64, 1))
            if (found[-1][1:] <= found[-1][:-1]).any():
                raise ConfigError("its cells are not in order")
        self._cells, self._counts = found, counts

    def _codes(self, states: np.ndarray) -> np.ndarray:
        """A number for the cell of each state and group, uint64 ``[M, groups]``."""
        if states.ndim != 2 or states.shape[1] != len(self.width):
            raise ShapeError(f"states have shape {states.shape}: give [M, {len(self.width)}]")
        digits = np.floor(states / self.width).astype(np.int64).view(np.uint64)
        return digits @ self._multipliers  # modulo 2**64


def _find(codes: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where codes are among the cells, or would be, and which are there."""
    places = np.searchsorted(cells, codes)
    known = places < len(cells)
    known[known] = cells[places[known]] == codes[known]
    return places, known


def groups_by_unit(task: TaskSpec) -> tuple[tuple[int, ...], ...] | None:
    """Per unit the indices that are its own or nobody's; None if no entry is a unit's."""
    found = [_OWNER.match(entry.name) for entry in task.state]
    owners = [None if match is None else (match[1], int(match[2])) for match in found]
    units = sorted({owner for owner in owners if owner is not None})
    if not units:
        return None
    return tuple(
        tuple(i for i, owner in enumerate(owners) if owner in (None, unit)) for unit in units
    )
