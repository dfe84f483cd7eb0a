"""From latent rewards to a reward per step."""

from __future__ import annotations

import itertools
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lare import regression
from lare.errors import ConfigError, ShapeError

Kind = Literal["mlp", "linear", "ridge", "sparse"]


class Standardizer(nn.Module):
    """Shifts and scales features by the statistics of the first ones seen, frozen after that.

    Args:
        n_features: size of the last dimension.
        warmup: rows that the statistics are learned from. 0 leaves the features as they are.

    Factors of a generated function can differ in scale by a factor of 1000. The statistics stop
    changing after ``warmup`` rows, since a moving input would make the decoder chase it.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    scale: Tensor

    def __init__(self, n_features: int, warmup: int) -> None:
        super().__init__()
        self.warmup = warmup
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(n_features))

    def observe(self, features: Tensor) -> None:
        """Take rows into the statistics, as long as these are open; ``features``: ``[..., D]``."""
        rows = features.detach().reshape(-1, features.shape[-1]).to(self.mean)
        left = int(self.warmup - self.count)
        if left <= 0 or not len(rows):
            return
        rows = rows[:left]
        total = self.count + len(rows)
        # Chan's update: exact for any split of the rows into batches.
        gap = rows.mean(0) - self.mean
        self.squares += (rows - rows.mean(0)).square().sum(0)
        self.squares += gap.square() * (self.count * len(rows) / total)
        self.mean += gap * (len(rows) / total)
        self.count.fill_(total)
        deviation = (self.squares / total).sqrt()
        # A factor that has not moved yet is only shifted.
        self.scale.copy_(torch.where(deviation > 1e-8, deviation, torch.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(features - mean) / scale``, of the shape given."""
        if self.warmup == 0:
            return features
        return (features - self.mean.to(features)) / self.scale


class RewardDecoder(nn.Module):
    """A network from the factors of one step to its reward.

    Args:
        n_factors: D, size of the last dimension of the input.
        kind: ``"mlp"``; ``"linear"``, trained by gradient like it; ``"ridge"`` and ``"sparse"``,
            linear and solved in closed form by :meth:`fit`, the latter with as few factors as
            explain the returns.
        hidden: width of the hidden layers.
        layers: linear layers, the last one included.
        standardize: rows from which the inputs' mean and scale are learned; 0 for none, as
            published.

    Shape:
        ``[..., D]`` to ``[...]``, float32.

    Raises:
        ConfigError: if a size is not positive or ``kind`` is unknown.

    Reference: arXiv 2412.11120 (3 layers of 256 for one agent, 5 of 64 for several).
    """

    def __init__(
        self,
        n_factors: int,
        kind: Kind = "mlp",
        *,
        hidden: int = 256,
        layers: int = 3,
        standardize: int = 10_000,
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ConfigError(f"kind is {kind!r}: give one of {', '.join(get_args(Kind))}")
        if min(n_factors, hidden, layers) < 1 or standardize < 0:
            raise ConfigError(
                f"n_factors={n_factors}, hidden={hidden}, layers={layers}, "
                f"standardize={standardize}: sizes are at least 1, standardize at least 0"
            )
        self.n_factors = n_factors
        self.kind = kind
        self.standardizer = Standardizer(n_factors, standardize)
        self.network = _mlp(n_factors, hidden, layers if kind == "mlp" else 1)

    def observe(self, factors: Tensor) -> None:
        """Let the input's statistics learn from new rows; ``factors``: ``[..., D]``."""
        self.standardizer.observe(factors)

    def forward(self, factors: Tensor) -> Tensor:
        """Predict rewards.

        Args:
            factors: float ``[..., D]``.

        Returns:
            ``[...]``.

        Raises:
            ShapeError: if the last dimension is not D.
        """
        if factors.shape[-1:] != (self.n_factors,):
            raise ShapeError(
                f"the factors have shape {tuple(factors.shape)}: the last dimension of this "
                f"decoder is {self.n_factors}"
            )
        predicted: Tensor = self.network(self.standardizer(factors))
        return predicted.squeeze(-1)

    @torch.no_grad()
    def fit(
        self, sums: Tensor, returns: Tensor, lengths: Tensor, *, penalty: float = 1e-3
    ) -> float:
        """Solve for the weights, given whole episodes.

        With a linear decoder, return decomposition is a regression of the mean reward of each
        episode on its mean factors, with D weights and a reward per step.

        Args:
            sums: ``[E, D]``, sum of the factors over each episode.
            returns: ``[E]``.
            lengths: ``[E]``, steps.
            penalty: of kind ``"ridge"``, on the squared weights; at least 0.

        Returns:
            Mean square of what is left, as :func:`lare.losses.rd` has it.

        Raises:
            ConfigError: if the decoder is trained by gradient, or the penalty negative.

        Reference: arXiv 2412.11120, the regression of its regret bound; :mod:`lare.regression`.
        """
        if not self.closed_form:
            raise ConfigError('fit() solves a linear decoder: build it with kind="sparse"')
        if penalty < 0:
            raise ConfigError(f"penalty is {penalty}: give at least 0")
        means = sums.double().cpu() / lengths.double().cpu()[:, None]
        targets = returns.double().cpu() / lengths.double().cpu()
        if self.standardizer.warmup:
            scale = self.standardizer.scale.double().cpu()
            means = (means - self.standardizer.mean.cpu()) / scale
        inputs = torch.cat([means, torch.ones_like(means[:, :1])], 1)
        columns, wanted = inputs.numpy(), targets.numpy()
        if self.kind == "ridge":
            solved = regression.ridge(columns, wanted, penalty)
        else:
            solved = regression.sparse(columns, wanted)
        weights = torch.from_numpy(solved)
        (layer,) = self.network
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(weights[None, :-1])
        layer.bias.copy_(weights[-1:])
        return float((inputs @ weights - targets).square().mean())

    @property
    def closed_form(self) -> bool:
        """Whether :meth:`fit` takes the place of training."""
        return self.kind in ("ridge", "sparse")


def _mlp(n_inputs: int, hidden: int, layers: int) -> nn.Sequential:
    sizes = [n_inputs, *[hidden] * (layers - 1), 1]
    modules: list[nn.Module] = []
    for one, following in itertools.pairwise(sizes):
        modules += [nn.Linear(one, following), nn.ReLU()]
    return nn.Sequential(*modules[:-1])
