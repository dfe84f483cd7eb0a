"""From latent rewards to a reward per step."""

from __future__ import annotations

import itertools
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lare import regression
from lare.errors import ConfigError, ShapeError

#: Spread of the mean factors of episodes, in deviations of a step, that is no spread.
SAME = 1e-6

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
    shift: Tensor
    scale: Tensor

    def __init__(self, n_features: int, warmup: int) -> None:
        super().__init__()
        self.warmup = warmup
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(n_features))  # the mean, as inputs are
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
        self.shift.copy_(self.mean)
        self.count.fill_(total)
        deviation = (self.squares / total).sqrt()
        # A factor that has not moved yet is only shifted.
        self.scale.copy_(torch.where(deviation > 1e-8, deviation, torch.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``(features - mean) / scale``, of the shape given."""
        if self.warmup == 0:
            return features
        return (features - self.shift) / self.scale


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
        if self.closed_form:  # worth nothing until it is solved: random rewards would be learned
            for parameter in self.network.parameters():
                nn.init.zeros_(parameter)

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
        # The weights of a closed form are those of raw factors: statistics may move after it.
        inputs = factors if self.closed_form else self.standardizer(factors)
        predicted: Tensor = self.network(inputs)
        return predicted.squeeze(-1)

    @torch.no_grad()
    def fit(
        self,
        sums: Tensor,
        returns: Tensor,
        lengths: Tensor,
        *,
        agents: int = 1,
        penalty: float = 1e-3,
    ) -> float:
        """Solve for the weights, given whole episodes.

        With a linear decoder, return decomposition is a regression of the mean reward of each
        episode on its mean factors, with D weights and a reward per step and agent.

        Args:
            sums: ``[E, D]``, sum of the factors over the steps and agents of each episode.
            returns: ``[E]``.
            lengths: ``[E]``, steps.
            agents: that were summed over in each step.
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
        shift, scale = np.zeros(self.n_factors), np.ones(self.n_factors)
        if self.standardizer.count > 0:
            shift = self.standardizer.mean.double().cpu().numpy()
            scale = self.standardizer.scale.double().cpu().numpy()
        steps = lengths.double().cpu().numpy()
        targets = returns.double().cpu().numpy() / steps
        columns = (sums.double().cpu().numpy() / steps[:, None] - agents * shift) / scale
        # What is the same in all episodes but for rounding says nothing about their returns.
        columns[:, columns.std(0) < SAME] = 0
        inputs = np.concatenate([columns, np.full((len(columns), 1), float(agents))], axis=1)
        if self.kind == "ridge":
            solved = regression.ridge(inputs, targets, penalty)
        else:
            solved = regression.sparse(inputs, targets)
        weights = solved[:-1] / scale
        (layer,) = self.network
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(torch.from_numpy(weights[None]))
        layer.bias.fill_(float(solved[-1] - weights @ shift))
        return float(np.square(inputs @ solved - targets).mean())

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
