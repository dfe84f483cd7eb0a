"""Direct generation: the function's single number is the reward, and nothing is learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lare.episodes import EpisodeBatch, EpisodeStore
from lare.errors import ConfigError


class DirectReward(nn.Module):
    """Passes the only factor on as the reward.

    Args:
        n_factors: has to be 1.

    Raises:
        ConfigError: if there are more: factors need weights, and those need a decoder.

    Reference: arXiv 2412.11120, ablation without the decoder.
    """

    closed_form = True  # the Relabeler calls solve() and takes no steps on a loss

    def __init__(self, n_factors: int) -> None:
        super().__init__()
        if n_factors != 1:
            raise ConfigError(
                f"the function returns {n_factors} factors: direct generation takes one that "
                "returns the reward alone, as `lare generate --direct` asks for"
            )

    def observe(self, factors: Tensor) -> None:
        """Nothing: no statistics are kept."""

    def loss(self, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """There is none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a directly generated reward has no loss: there is nothing to train")

    def solve(self, store: EpisodeStore) -> float:
        """Nothing; NaN, since there is no loss."""
        return float("nan")

    def rewards(self, factors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards ``[...]`` of steps ``[..., 1]``."""
        return factors.squeeze(-1)
