"""Random network distillation: what a network has not learned to predict is new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lemae._kit import seeded
from lemae._seeds import Purpose, number
from lemae._values import real, whole
from lemae.algos._saved import check_networks, load_networks, networks_state
from lemae.baselines.novelty import NoveltyBonus
from lemae.errors import ConfigError, ShapeError
from lemae.task import TaskSpec

#: Whole numbers with at most so many values are read as one-hot.
_MOST_VALUES = 256


class RandomDistillation(NoveltyBonus):
    """Pays for states on which a trained network differs from a fixed random one.

    The trained network learns the output of the fixed one on the states that were observed, so that
    its error falls where it has been often. Errors are divided by their running root mean square.

    Args:
        lows: smallest value of each index of the state ``[d]``.
        highs: largest value.
        integers: bool ``[d]``, indices of whole numbers, which are read as one-hot if they have
            few values; all others are scaled to -1 to 1.
        scale: of the bonus.
        until_success: pay nothing any more once an episode succeeded.
        hidden: width of the networks.
        outputs: numbers to be predicted.
        learning_rate: of Adam.
        batch: states per gradient step; every state observed is learned from once.
        seed: of both networks and of the order of learning.

    Raises:
        ConfigError: if a range is empty or a size not positive.

    Reference: arXiv 1810.12894, without its separate value function for the bonus.
    """

    def __init__(
        self,
        lows: np.ndarray,
        highs: np.ndarray,
        integers: np.ndarray,
        *,
        scale: float = 0.1,
        until_success: bool = False,
        hidden: int = 64,
        outputs: int = 32,
        learning_rate: float = 1e-3,
        batch: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(scale, until_success=until_success)
        hidden, outputs, batch = (
            whole(name, value)
            for name, value in (("hidden", hidden), ("outputs", outputs), ("batch", batch))
        )
        learning_rate = real("learning_rate", learning_rate, above=True)
        self._read = _Features(lows, highs, integers)
        self._batch, self._seed, self._learned = batch, seed, 0
        self._square = 0.0  # running mean of squared errors
        with seeded(number(Purpose.BASELINE, seed)):
            self.target = nn.Sequential(
                nn.Linear(self._read.size, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
            ).requires_grad_(False)
            self.predictor = nn.Sequential(
                nn.Linear(self._read.size, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, outputs),
            )
        self._optimizer = torch.optim.Adam(self.predictor.parameters(), learning_rate, fused=True)

    @classmethod
    def for_task(cls, task: TaskSpec, **options: Any) -> RandomDistillation:
        """A bonus that reads the states of a task; ``options`` are those of the class."""
        return cls(task.lows, task.highs, task.integers, **options)

    @torch.no_grad()
    def error(self, states: np.ndarray) -> np.ndarray:
        """How wrong the trained network is about states ``[M, d]``: float64 ``[M]``."""
        errors: np.ndarray = self._errors(torch.from_numpy(self._read(states))).double().numpy()
        return errors

    def learn(self, states: np.ndarray) -> None:
        """Train on states ``[M, d]``, each once."""
        features = torch.from_numpy(self._read(states))
        self._learned += 1
        with torch.no_grad():
            square = float(self._errors(features).square().mean())
        self._square += (square - self._square) * max(1 / self._learned, 0.01)
        order = torch.Generator().manual_seed(number(Purpose.BASELINE, self._seed, self._learned))
        for rows in torch.randperm(len(features), generator=order).split(self._batch):
            loss = self._errors(features[rows]).mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()

    def novelty(self, states: np.ndarray) -> np.ndarray:
        """Errors in units of their running root mean square."""
        relative: np.ndarray = self.error(states) / max(self._square**0.5, 1e-12)
        return relative

    def _errors(self, features: Tensor) -> Tensor:
        errors: Tensor = (self.predictor(features) - self.target(features)).square().mean(-1)
        return errors

    def state_dict(self) -> dict[str, Any]:
        """Both networks, the state of Adam and the running mean."""
        return {
            **super().state_dict(),
            **networks_state(self._optimizer, target=self.target, predictor=self.predictor),
            "learned": self._learned,
            "square": self._square,
        }

    def _load_learned(self, state: Mapping[str, Any]) -> None:
        networks = {"target": self.target, "predictor": self.predictor}
        check_networks(state, self._optimizer, **networks)
        learned = whole("learned", state["learned"], lowest=0)
        square = real("square", state["square"])
        load_networks(state, self._optimizer, **networks)
        self._learned, self._square = learned, square


class _Features:
    """States as a network reads them: one-hot where few whole numbers occur, else -1 to 1."""

    def __init__(self, lows: np.ndarray, highs: np.ndarray, integers: np.ndarray) -> None:
        lows, highs = np.asarray(lows, np.float64), np.asarray(highs, np.float64)
        if (
            lows.ndim != 1
            or lows.shape != highs.shape
            or not (np.isfinite([lows, highs]).all() and (lows <= highs).all())
        ):
            raise ConfigError(
                f"lows are {lows.tolist()} and highs {highs.tolist()}: give one finite range per "
                "index"
            )
        self._one_hot = np.flatnonzero(np.asarray(integers, bool) & (highs - lows < _MOST_VALUES))
        self._scaled = np.setdiff1d(np.arange(len(lows)), self._one_hot)
        self._counts = (highs - lows)[self._one_hot].astype(np.int64) + 1
        self._starts = np.cumsum(self._counts) - self._counts + len(self._scaled)
        self._lows, self._spans = lows, np.where(highs > lows, highs - lows, 1.0)
        self.size = int(self._counts.sum()) + len(self._scaled)

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """float32 ``[M, size]`` of states ``[M, d]``."""
        if states.ndim != 2 or states.shape[1] != len(self._lows):
            raise ShapeError(f"states have shape {states.shape}: give [M, {len(self._lows)}]")
        from_low = states - self._lows
        features = np.zeros((len(states), self.size), np.float32)
        scaled = 2 * from_low / self._spans - 1
        features[:, : len(self._scaled)] = scaled[:, self._scaled]
        digits = from_low[:, self._one_hot].round().astype(np.int64)
        places = self._starts + digits.clip(0, self._counts - 1)
        np.put_along_axis(features, places, np.float32(1), axis=1)
        return features
