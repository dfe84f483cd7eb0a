"""Iterative relative credit refinement (IRCR): the return itself guides every step."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from lare.episodes import EpisodeBatch, EpisodeStore
from lare.errors import ConfigError


class ReturnGuidance(nn.Module):
    """Rewards a step by the return of its episode, scaled to [0, 1] over the stored ones.

    Nothing is learned but the lowest, highest and mean return. Rewards follow from where a step is
    stored, see :meth:`rewards_of_rows`; whoever holds whole episodes calls :meth:`fit` with the
    stored returns and :meth:`normalized` with those to be scaled.

    A step whose episode has not ended, or is not known, gets the mean of the stored episodes: it
    then looks neither better nor worse than the others. So rewards of steps out of the blue, as
    those of a rollout, are all the same, and an on-policy algorithm learns little from this method.

    Args:
        best: episodes that half of each batch comes from, those of the highest stored returns; 0
            leaves batches as they were drawn. It takes a replay buffer that asks, see
            :meth:`redraw`.

    Reference: arXiv 2412.11120, baseline IRCR, with the return undivided by the length as in the
    code of arXiv 2111.05024, whose ten best episodes outlive the replay buffer.
    """

    closed_form = True  # the Relabeler calls solve() and takes no steps on a loss
    low: Tensor
    high: Tensor
    mean: Tensor

    def __init__(self, best: int = 10) -> None:
        super().__init__()
        if best < 0:
            raise ConfigError(f"best is {best}: give a number of episodes, or 0")
        self.best = best
        for name in ("low", "high", "mean"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def observe(self, factors: Tensor) -> None:
        """Nothing: the inputs are not read."""

    def loss(self, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """There is none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("return guidance has no loss: call fit() with the stored returns")

    def solve(self, store: EpisodeStore) -> float:
        """:meth:`fit` to the returns of the stored episodes; NaN, since there is no loss."""
        self.fit(torch.from_numpy(store.returns))
        return float("nan")

    @torch.no_grad()
    def fit(self, returns: Tensor) -> None:
        """Learn the range of the returns; ``returns``: ``[E]``, without one nothing changes."""
        if len(returns):
            self.low.copy_(returns.min())
            self.high.copy_(returns.max())
            self.mean.copy_(returns.double().mean())

    def normalized(self, returns: Tensor) -> Tensor:
        """Scale returns by the fitted range.

        Args:
            returns: any shape, NaN where not known.

        Returns:
            float32 of that shape, within [0, 1]; 0 as long as all fitted returns are equal.
        """
        span = self.high - self.low
        known = torch.where(returns.isnan(), self.mean, returns.to(self.mean))
        scaled = ((known - self.low) / torch.where(span > 0, span, 1.0)).clamp(0, 1)
        return (scaled * (span > 0)).float()

    def rewards_of_rows(self, store: EpisodeStore, rows: ArrayLike, envs: ArrayLike) -> Tensor:
        """Rewards of stored steps, by the range of the returns as it is now.

        Args:
            store: holds the episodes.
            rows: int ``[B]``, rows of its ring.
            envs: int ``[B]``.

        Returns:
            float32 ``[B]``, on the model's device.
        """
        self.solve(store)
        return self.normalized(store.returns_of(rows, envs).to(self.mean))

    def redraw(
        self,
        store: EpisodeStore,
        rows: np.ndarray,
        envs: np.ndarray,
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw the first half of a batch from the best episodes, uniformly over their steps.

        Args:
            store: holds the episodes.
            rows: int ``[B]``, as drawn from all steps.
            envs: int ``[B]``.
            generator: of the draw.

        Returns:
            Rows and environments, ``[B]`` each.
        """
        where, firsts, lengths = store.best(self.best)
        if not len(where):
            return rows, envs
        rows, envs = rows.copy(), envs.copy()
        ends = np.cumsum(lengths)
        half = len(rows) // 2
        drawn = generator.integers(ends[-1], size=half)
        places = np.searchsorted(ends, drawn, side="right")
        rows[:half] = (firsts[places] + drawn - (ends - lengths)[places]) % store.capacity
        envs[:half] = where[places]
        return rows, envs

    def rewards(self, factors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards ``[...]`` of steps ``[..., D]`` of episodes not known: the same for all."""
        unknown = torch.full(factors.shape[:-1], torch.nan, device=self.mean.device)
        return self.normalized(unknown)
