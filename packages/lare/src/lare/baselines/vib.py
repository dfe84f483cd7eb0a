"""Reward decomposition behind an information bottleneck (VIB)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lare.decoder import RewardDecoder, Standardizer
from lare.episodes import EpisodeBatch
from lare.errors import ConfigError
from lare.losses import rrd_on, subset
from lare.models import team_rewards


class InformationBottleneck(nn.Module):
    """A learned, compressed latent in the place of the one a language model writes.

    An encoder turns the raw numbers of a step into a Gaussian of a few dimensions, a reward network
    reads a sample of it. The loss is the randomized decomposition plus ``beta`` times the
    divergence of the Gaussian from the standard normal one, summed over its dimensions and averaged
    over the drawn steps. Rewards are read at the mean. With factors ``[E, T, agents, D]`` each
    agent gets a reward of its own, as in :class:`lare.Decomposition`.

    Args:
        n_features: D.
        latent: dimensions of the bottleneck.
        beta: weight of the divergence.
        k: steps drawn per episode.
        hidden: width of the two hidden layers of the encoder and of the reward network.
        normalize: fit returns per step; False fits plain sums, against which a given ``beta`` is
            weaker by the square of the length.
        standardize: rows from which the inputs' mean and scale are learned; 0 for none, as
            published.

    Raises:
        ConfigError: if a size is not positive, or ``beta`` or ``standardize`` negative.

    Reference: arXiv 2412.11120, baseline VIB (8 dimensions and 5e-3 for one agent, 4 and 1.0 on
    plain sums for several). The reconstruction head of its code has no part in the loss and is left
    out.
    """

    kind = "rrd"  # the Relabeler draws batch_steps / k episodes

    def __init__(
        self,
        n_features: int,
        *,
        latent: int = 8,
        beta: float = 5e-3,
        k: int = 64,
        hidden: int = 256,
        normalize: bool = True,
        standardize: int = 10_000,
    ) -> None:
        super().__init__()
        if min(n_features, latent, k, hidden) < 1 or min(beta, standardize) < 0:
            raise ConfigError(
                f"n_features={n_features}, latent={latent}, k={k}, hidden={hidden}, beta={beta}, "
                f"standardize={standardize}: the first four are at least 1, the others at least 0"
            )
        self.beta = beta
        self.k = k
        self.normalize = normalize
        self.standardizer = Standardizer(n_features, standardize)
        self.encoder = nn.Sequential(
            nn.Linear(n_features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * latent),
        )
        self.decoder = RewardDecoder(latent, hidden=hidden, layers=3, standardize=0)

    def observe(self, factors: Tensor) -> None:
        """Learn the statistics of the inputs from new rows ``[..., D]``."""
        self.standardizer.observe(factors)

    def encode(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each ``[..., latent]``, of steps ``[..., D]``."""
        mean, log_variance = self.encoder(self.standardizer(factors)).chunk(2, dim=-1)
        return mean, log_variance

    def rewards(self, factors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards ``[...]`` of steps ``[..., D]``; each stands for itself, so no mask is needed."""
        predicted: Tensor = self.decoder(self.encode(factors)[0])
        return predicted

    def loss(self, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """The loss on some episodes; a scalar with gradient.

        ``generator``, on the device of the batch, draws first the steps and then the latents.
        """
        steps, chosen = subset(batch.mask, self.k, generator)
        rows = torch.arange(len(steps), device=steps.device)[:, None]
        mean, log_variance = self.encode(batch.factors[rows, steps])
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        team = team_rewards(self.decoder(mean + (log_variance / 2).exp() * noise))
        lengths = batch.mask.sum(1)
        # T times the reward per step, against T times R / T, is the comparison of plain sums.
        scale = torch.ones_like(lengths) if self.normalize else lengths
        fit = rrd_on(team * scale[:, None], batch.returns * scale, chosen, lengths)
        return fit + self.beta * divergence(mean, log_variance)[chosen].mean()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of diagonal Gaussians from the standard normal one.

    Args:
        mean: ``[..., dimensions]``.
        log_variance: of the same shape.

    Returns:
        ``[...]``, summed over the dimensions.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
