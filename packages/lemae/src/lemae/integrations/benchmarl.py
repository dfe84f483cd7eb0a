"""BenchMARL: a callback that rewards what is collected.

Needs ``pip install benchmarl``. BenchMARL asks for certain versions of TorchRL, so give it an
environment of its own, and a constraint on torch: without one, the newest CUDA build is installed.
Tried: benchmarl 1.5.2, torchrl 0.11.1, tensordict 0.11.0, torch 2.13.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

from lemae.errors import MissingExtraError
from lemae.integrations.shaping import Shaping
from lemae.integrations.torchrl import MARKS, Key, ShirTransform

try:
    from benchmarl.experiment import Callback
except ImportError as error:
    raise MissingExtraError(
        "lemae.integrations.benchmarl needs benchmarl: pip install benchmarl, with a constraint on "
        "torch"
    ) from error

_SAVED = "lemae"


class KeyStateCallback(Callback):  # type: ignore[misc]
    """Shows every collected batch to a :class:`Shaping`, and rewards it before it is learned from.

    ``Experiment(..., callbacks=[KeyStateCallback(shaping)])``. Rewards are computed once, when a
    batch has been collected, also for algorithms with a replay buffer. What is logged about the
    collection is what the environment paid. The agents explore as the algorithm does.

    Args:
        shaping: of the learner. It is saved and restored with the experiment.
        state: key of the global state, or a list of keys to join; None takes ``"state"`` where the
            task has one, and else joins the observations of all agents.
        success: as for :class:`~lemae.integrations.torchrl.ShirTransform`.

    Attributes:
        shaping: as given.
    """

    def __init__(
        self,
        shaping: Shaping,
        *,
        state: Key | list[Key] | None = None,
        success: Key | None = None,
    ) -> None:
        super().__init__()
        self.shaping = shaping
        self.state = state
        self.success = success
        self._transform: ShirTransform | None = None

    def on_batch_collected(self, batch: TensorDictBase) -> None:
        """Replace the rewards of ``batch``, ``[n_envs, time]``."""
        if self._transform is None:
            self._transform = self._build(batch)
        marked = self._transform.relabel(self._transform.observe(batch))
        for key in MARKS:
            del marked[key]

    def on_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Add what was learned of the task to a checkpoint."""
        state_dict[_SAVED] = _tensors(self.shaping.state_dict())

    def on_load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.shaping.load_state_dict(state_dict[_SAVED])

    def _build(self, batch: TensorDictBase) -> ShirTransform:
        """The transform for the keys that the task has."""
        known, groups = batch.keys(True), list(self.experiment.group_map)
        state: Any = self.state
        if state is None:
            own = "state" in known
            state = "state" if own else [(group, "observation") for group in groups]
        rewards = [(group, "reward") for group in groups if ("next", group, "reward") in known]
        return ShirTransform(
            self.shaping, state=state, reward=[*rewards] or "reward", success=self.success
        )


def _tensors(saved: Any) -> Any:
    """The same with tensors for arrays, which ``torch.load`` reads without trust."""
    if isinstance(saved, dict):
        return {name: _tensors(value) for name, value in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(_tensors(value) for value in saved)
    return torch.from_numpy(saved.copy()) if isinstance(saved, np.ndarray) else saved
