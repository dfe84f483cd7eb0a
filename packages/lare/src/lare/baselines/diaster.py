"""Episodic return decomposition by differences of sub-trajectory rewards (Diaster)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lare.decoder import RewardDecoder, Standardizer
from lare.episodes import EpisodeBatch
from lare.errors import ConfigError


class Diaster(nn.Module):
    """Learns what beginnings of episodes are worth, then what each step added.

    First stage: a recurrent network g reads a stretch of steps and predicts its reward. An episode
    is cut at a random place, and ``g(before) + g(after)``, each read from a fresh hidden state, is
    fitted to the return. Second stage: a network of single steps is fitted to the differences of g
    along the episode, where the value of the whole episode is set to the return, so that the
    differences add up to it. Gradients of the second stage do not reach g.

    Args:
        n_features: D.
        scale: returns are divided by it for learning, and rewards multiplied by it.
        hidden: width of the recurrent network, and of the two hidden layers of the step network.
        standardize: rows from which the inputs' mean and scale are learned; 0 for none, as
            published.

    Raises:
        ConfigError: if a size or ``scale`` is not positive, or ``standardize`` negative.

    Both stages take a step at every update, on the same episodes, where the published code runs
    them in rare, long bursts; g is deterministic; the cut may fall behind the last step, which
    fits g to whole episodes too and leaves a meaning to episodes of one step.

    Reference: arXiv 2412.11120, baseline Diaster (observation and action, scale 10, 500 for
    HumanoidStandup).
    """

    def __init__(
        self,
        n_features: int,
        *,
        scale: float = 10.0,
        hidden: int = 256,
        standardize: int = 10_000,
    ) -> None:
        super().__init__()
        if min(n_features, hidden) < 1 or scale <= 0 or standardize < 0:
            raise ConfigError(
                f"n_features={n_features}, hidden={hidden}, scale={scale}, "
                f"standardize={standardize}: sizes are at least 1, scale is positive, standardize "
                "at least 0"
            )
        self.scale = scale
        self.standardizer = Standardizer(n_features, standardize)
        self.recurrent = nn.GRU(n_features, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)
        self.step = RewardDecoder(n_features, hidden=hidden, layers=3, standardize=0)

    def observe(self, factors: Tensor) -> None:
        """Learn the statistics of the inputs from new rows ``[..., D]``."""
        self.standardizer.observe(factors)

    def rewards(self, factors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards ``[...]`` of steps ``[..., D]``; each stands for itself, so no mask is needed."""
        predicted: Tensor = self.step(self.standardizer(factors))
        return predicted * self.scale

    def loss(self, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """Sum of both stages' losses; a scalar with gradient.

        Args:
            batch: factors ``[E, T, D]``.
            generator: of the cuts, on the device of the batch.

        Cost: one pass of the recurrent network over ``2 E`` sequences of T steps, which yields the
        values of all beginnings and of the stretches after the cuts.
        """
        inputs = self.standardizer(batch.factors)
        lengths = batch.mask.sum(1)
        goals = batch.returns / self.scale
        cuts = _draw_cuts(lengths, generator)
        values = self._values(torch.cat([inputs, _after(inputs, cuts)]))
        beginnings, rests = values.chunk(2)
        before = beginnings.gather(1, cuts[:, None] - 1)[:, 0]
        last = (lengths - cuts - 1).clamp(min=0)
        after = rests.gather(1, last[:, None])[:, 0] * (cuts < lengths)
        first_stage = (before + after - goals).square().mean()
        wanted = differences(beginnings.detach(), lengths, goals)
        second_stage = (self.step(inputs) - wanted)[batch.mask].square().mean()
        both: Tensor = first_stage + second_stage
        return both

    def _values(self, inputs: Tensor) -> Tensor:
        """``[E, T]``: at t, what the first t + 1 steps are worth together."""
        states, _ = self.recurrent(inputs)
        values: Tensor = self.head(states).squeeze(-1)
        return values


def differences(values: Tensor, lengths: Tensor, goals: Tensor) -> Tensor:
    """What each step adds to the value of the steps so far.

    Args:
        values: ``[E, T]``, of the first t + 1 steps of each episode.
        lengths: int ``[E]``.
        goals: ``[E]``, takes the place of the value of a whole episode.

    Returns:
        ``[E, T]``; over the steps of an episode they add up to its goal. Behind its end they mean
        nothing.
    """
    values = values.scatter(1, lengths[:, None] - 1, goals[:, None])
    return values.diff(dim=1, prepend=torch.zeros_like(values[:, :1]))


def _draw_cuts(lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Steps before the cut, uniform on 1 to the length; int64 ``[E]``."""
    draws = torch.rand(lengths.shape, generator=generator, device=lengths.device)
    # Rounding may lift a draw just below 1 to the length itself.
    return torch.minimum((draws * lengths).long() + 1, lengths)


def _after(inputs: Tensor, cuts: Tensor) -> Tensor:
    """The steps behind the cuts, moved to the front; what follows them is of no account."""
    steps = cuts[:, None] + torch.arange(inputs.shape[1], device=inputs.device)
    rows = torch.arange(len(inputs), device=inputs.device)[:, None]
    return inputs[rows, steps.clamp(max=inputs.shape[1] - 1)]
