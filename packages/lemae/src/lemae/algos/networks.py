"""Small networks for several agents, computed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from lemae._values import real, whole
from lemae.errors import ConfigError, ShapeError


class OneHot:
    """Where each number of a state of whole numbers lies in a long one-hot vector.

    Args:
        n_values: number of values of each index of the state, counted from 0.

    Attributes:
        size: length of the one-hot vector.

    Raises:
        ConfigError: if there is no index, or one has no value.
    """

    def __init__(self, n_values: Sequence[int]) -> None:
        if not len(n_values):
            raise ConfigError("n_values is empty: give the number of values of each index")
        counts = [whole(f"n_values[{i}]", count) for i, count in enumerate(n_values)]
        self.n_values = np.array(counts, np.int64)
        self.size = int(self.n_values.sum())
        self._counts = self.n_values.astype(np.uint64)
        self._offsets = np.concatenate([[0], np.cumsum(self.n_values)[:-1]])

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Positions of the ones, int64 ``[..., d]``, for states ``[..., d]``.

        Raises:
            ShapeError: if the states have another length, or a number is no whole one of its range.
        """
        if states.shape[-1] != len(self.n_values):
            raise ShapeError(
                f"states have length {states.shape[-1]}, n_values {len(self.n_values)}: give one "
                "number of values per index"
            )
        values = states.astype(np.int64)
        # Below 0 is a huge number without a sign. count_nonzero is several times faster than any.
        if np.count_nonzero(values.view(np.uint64) >= self._counts) or np.count_nonzero(
            values.astype(states.dtype) != states
        ):
            raise ShapeError(
                "a state holds a fraction, or a number outside 0..n_values - 1 = "
                f"{tuple(self.n_values - 1)}: one-hot input is for whole numbers in these ranges"
            )
        positions: np.ndarray = values + self._offsets
        return positions


class Perceptrons(nn.Module):
    """Separate networks of one shape, two hidden layers with tanh, in batched products.

    The first layer reads numbers; or it adds up rows of its weights, one per one of a one-hot
    vector, which is the product with that vector without the zeros. It then needs no bias, since
    one of the rows of each index is always there.

    Args:
        networks: M.
        n_inputs: length of an input, the one-hot vector's where it is one.
        n_outputs: numbers per output.
        one_hot: inputs are positions of ones ``[B, d]``, the same for all networks; otherwise
            numbers ``[M, B, n_inputs]``.
        hidden: H, width of both hidden layers.
        last_gain: scale of the first weights of the last layer.
        seed: of the first weights, which are orthogonal.

    Raises:
        ConfigError: if a size is not positive, or the scale negative or not finite.
    """

    def __init__(
        self,
        networks: int,
        n_inputs: int,
        n_outputs: int,
        *,
        one_hot: bool,
        hidden: int = 64,
        last_gain: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        networks, n_inputs = whole("networks", networks), whole("n_inputs", n_inputs)
        n_outputs, hidden = whole("n_outputs", n_outputs), whole("hidden", hidden)
        last_gain = real("last_gain", last_gain)
        self.one_hot = one_hot
        random = torch.Generator().manual_seed(seed)
        sizes = (n_inputs, hidden, hidden, n_outputs)
        weights = []
        for inputs, outputs, gain in zip(sizes, sizes[1:], (5 / 3, 5 / 3, last_gain), strict=False):
            stack = torch.empty(networks, inputs, outputs)
            for weight in stack:
                nn.init.orthogonal_(weight, gain, generator=random)
            weights.append(stack)
        first, second, last = weights
        if one_hot:  # one table for all networks, so that a state is looked up once
            first = first.transpose(0, 1).reshape(n_inputs, networks * hidden)
        self.first = nn.Parameter(first)
        self.second = nn.Parameter(second)
        self.last = nn.Parameter(last)
        if not one_hot:
            self.first_bias = nn.Parameter(torch.zeros(networks, 1, hidden))
        self.second_bias = nn.Parameter(torch.zeros(networks, 1, hidden))
        self.last_bias = nn.Parameter(torch.zeros(networks, 1, n_outputs))
        self._views: list[np.ndarray] = []
        self._seen_at = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``[M, B, n_outputs]`` of inputs ``[B, d]`` (int64) or ``[M, B, n_inputs]``."""
        if self.one_hot:
            networks, _, hidden = self.second_bias.shape
            rows = embedding_bag(inputs, self.first, mode="sum")
            first = rows.view(-1, networks, hidden).transpose(0, 1)
        else:
            first = torch.baddbmm(self.first_bias, inputs, self.first)
        second = torch.baddbmm(self.second_bias, first.tanh(), self.second)
        return torch.baddbmm(self.last_bias, second.tanh(), self.last)

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> None:
        """Shorten the gradient of each network, on its own, to at most this length."""
        networks, _, hidden = self.second_bias.shape
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        by_network = [
            gradient.view(-1, networks, hidden).transpose(0, 1)
            if self.one_hot and gradient.ndim == 2
            else gradient
            for gradient in gradients
        ]
        squares = torch.stack([gradient.square().sum((1, 2)) for gradient in by_network])
        factors = (max_norm / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1)
        for gradient in by_network:
            gradient *= factors[:, None, None]

    def fast(self, inputs: np.ndarray) -> np.ndarray:
        """The same in NumPy, without gradient: on a few rows, a quarter of the time of torch."""
        first, second, last, *biases = self._as_arrays()
        if self.one_hot:
            networks, _, hidden = biases[0].shape
            layer = first[inputs].sum(-2).reshape(-1, networks, hidden).swapaxes(0, 1)
        else:
            layer = inputs @ first + biases[0]
        layer = np.tanh(np.tanh(layer) @ second + biases[-2])
        outputs: np.ndarray = layer @ last + biases[-1]
        return outputs

    def _as_arrays(self) -> list[np.ndarray]:
        """The weights; on the CPU they are seen, not copied, and change with the module's."""
        if self._views and self._seen_at == self.first.data_ptr():
            return self._views
        views = [weight.detach().cpu().numpy() for weight in self.parameters()]
        if self.first.device.type == "cpu":
            self._views, self._seen_at = views, self.first.data_ptr()
        return views

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_views": []}  # a copy has weights of its own
