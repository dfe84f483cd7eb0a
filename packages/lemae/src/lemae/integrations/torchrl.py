"""TorchRL: rewards for what a collector brings or a replay buffer holds, and exploration.

Needs the extra ``torchrl``: ``pip install "lemae[torchrl]"``.

On-policy, rewards are computed once::

    transform = ShirTransform(Shaping(key_states), state="state", reward=("agent", "reward"))
    for batch in collector:
        batch = transform.relabel(transform.observe(batch))
        ...

Off-policy, the transform belongs to the replay buffer: it observes what is put in, and rewards what
is taken out by what is known then::

    buffer.append_transform(transform)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from lemae._arrays import as_array
from lemae._success import by_reward
from lemae.errors import ConfigError, MissingExtraError, ShapeError
from lemae.explore import KsmtExplorer, RandomActions
from lemae.integrations._stream import Marks, Stream, intrinsic
from lemae.integrations.shaping import Shaping
from lemae.labels import Labeler

try:
    from tensordict import TensorDictBase
    from tensordict.nn import TensorDictModuleBase
    from torchrl.envs.transforms import Transform
    from torchrl.envs.utils import ExplorationType, exploration_type
except ImportError as error:
    raise MissingExtraError(
        'lemae.integrations.torchrl needs torchrl and tensordict: pip install "lemae[torchrl]"'
    ) from error

#: A key of a TensorDict.
Key: TypeAlias = "str | tuple[str, ...]"
_REMEDY = "give success=, the key of an entry that says so"
#: Where the marks of a step are kept beside it.
MARKS = ("lemae_time", "lemae_met")


class ShirTransform(Transform):  # type: ignore[misc]
    """Observes steps as they enter a replay buffer, and rewards those that are sampled from it.

    At ``extend`` steps come as a collector returns them, ``[time]`` of one environment or
    ``[n_envs, time]``, in the order of time; where a batch ends in the middle of an episode, the
    next one goes on. They get two marks, ``"lemae_time"`` and ``"lemae_met"``. Steps that have them
    already pass as they are, so that a batch can be observed first and then reshaped.

    At ``sample`` the reward of every step is ``alpha`` times what the environment paid plus
    ``beta`` times what it is worth on the way to a key state. Steps that follow each other are
    rewarded together: store ``[n_envs, time]`` to sample rows, or take a ``SliceSampler``, so that
    there is some hindsight in it; single steps are all rewarded by plan. What is stored stays as
    the environment paid it.

    Args:
        shaping: of the learner.
        state: key of the global state, or a list of keys to join. What comes after the batch
            dimensions is flattened, so that ``("agents", "observation")`` joins the agents'.
        reward: key of the reward, which may be one per agent, or a list of keys, for several teams.
        done: key of the end of an episode, in whatever way. Beside it stands ``"terminated"``.
        success: key, under ``"next"``, of a number that is positive where an episode ends by
            success, for any agent; None takes a positive reward in a step that terminates one, and
            refuses other rewards above 0.

    Attributes:
        shaping: as given.
    """

    def __init__(
        self,
        shaping: Shaping,
        *,
        state: Key | list[Key] = "observation",
        reward: Key | list[Key] = "reward",
        done: Key = "done",
        success: Key | None = None,
    ) -> None:
        self.state_keys = state if isinstance(state, list) else [state]
        self.reward_keys = reward if isinstance(reward, list) else [reward]
        super().__init__(in_keys=[], out_keys=[_next(key) for key in self.reward_keys])
        self.shaping = shaping
        self.done_key = done
        self.success_key = success
        self._stream = Stream(shaping)

    def observe(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Take in what a collector brought, and mark its steps.

        Args:
            tensordict: ``[time]`` or ``[n_envs, time]``; it is changed.

        Returns:
            ``tensordict``.

        Raises:
            ShapeError: if it has another number of batch dimensions.
            ConfigError: if rewards do not tell success.
        """
        shape = tuple(tensordict.batch_size)
        if len(shape) not in (1, 2):
            raise ShapeError(
                f"the batch has shape {shape}: give [time] of one environment or [n_envs, time]"
            )
        rows = (1, *shape) if len(shape) == 1 else shape
        states, following, done, success = (
            values.reshape(*rows, *values.shape[1:]) for values in self._columns(tensordict)
        )
        marks = self._stream.observe(states, following, done, success)
        for key, mark in zip(MARKS, marks, strict=True):
            flat = torch.from_numpy(mark.reshape(*shape, *mark.shape[2:]))
            tensordict.set(key, flat.to(tensordict.device))
        return tensordict

    def relabel(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Reward steps by what is known now.

        Args:
            tensordict: marked steps in any order, ``[...]``; its rewards are replaced, and their
                old tensor is left as it is.

        Returns:
            ``tensordict``.

        Raises:
            ConfigError: if the steps have no marks.
        """
        if not _is_marked(tensordict):
            raise ConfigError(
                "the steps have no marks: call observe, or put them into a buffer with this "
                "transform, before they are rewarded"
            )
        states, following, _, success = self._columns(tensordict)
        time, met = (_numpy(tensordict, key) for key in MARKS)
        starts = np.zeros(len(states), bool)
        starts[:: tensordict.batch_size[-1]] = True
        marks = Marks(time.reshape(-1), met.reshape(-1, met.shape[-1]))
        nearer = intrinsic(self.shaping, states, following, success, marks, starts)
        gain = torch.from_numpy(self.shaping.relabeler.beta * nearer)
        for key in map(_next, self.reward_keys):
            old = tensordict.get(key)
            shape = (*tensordict.batch_size, *[1] * (old.ndim - tensordict.ndim))
            new = self.shaping.relabeler.alpha * old + gain.reshape(shape).to(old)
            tensordict.set(key, new)
        return tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Called by a replay buffer on what it samples; :meth:`relabel`."""
        return self.relabel(tensordict)

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict if _is_marked(tensordict) else self.observe(tensordict)

    def _columns(self, tensordict: TensorDictBase) -> tuple[np.ndarray, ...]:
        """States before and after, ends and successes, of all steps in one row."""

        def joined(keys: Sequence[Key]) -> np.ndarray:
            columns = [_numpy(tensordict, key).reshape(tensordict.numel(), -1) for key in keys]
            return np.concatenate(columns, axis=1)

        states = joined(self.state_keys)
        following = joined([_next(key) for key in self.state_keys])
        done = joined([_next(self.done_key)]).max(1) > 0
        if self.success_key is not None:
            return states, following, done, done & (joined([_next(self.success_key)]).max(1) > 0)
        paid = joined([_next(key) for key in self.reward_keys]).max(1) > 0
        terminated = joined([(*_next(self.done_key)[:-1], "terminated")]).max(1) > 0
        return states, following, done, by_reward(paid, terminated, _REMEDY)


class KsmtExploration(TensorDictModuleBase):  # type: ignore[misc]
    """Acts at random where the memory says so; to be put behind a policy.

    ``TensorDictSequential(policy, KsmtExploration(shaping, n_agents, n_actions))``, in an
    environment with the transform ``InitTracker``. As other exploration modules it does nothing
    unless the exploration type is ``RANDOM``, as it is in collectors. The entry ``"lemae_random"``,
    bool ``[n_envs, n_agents]``, says which actions were replaced. Learners of values need nothing
    more; a policy gradient must leave those actions out, since their log-probabilities are the
    policy's for other actions.

    Args:
        shaping: whose memory is read; the transform writes it.
        n_agents: n.
        n_actions: A of each agent.
        state: key of the global state.
        action: key of the actions, numbers ``[..., n]`` or one-hot ``[..., n, A]``; without the
            dimension of agents where there is one.
        mask: key of the available actions, bool ``[..., n, A]``; None if there are no others.
        eps_low: share of random actions where the policy acts.
        eps_high: share of random actions where the team explores.
        rule: of :class:`lemae.KsmtExplorer`.
        sticky: mean number of steps a random action is kept; None draws at every step.
        seed: of the draws.
    """

    def __init__(
        self,
        shaping: Shaping,
        n_agents: int,
        n_actions: int,
        *,
        state: Key = "observation",
        action: Key = "action",
        mask: Key | None = None,
        eps_low: float = 0.05,
        eps_high: float = 1.0,
        rule: Any = "degree",
        sticky: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.in_keys = [state, action, "is_init", *([] if mask is None else [mask])]
        self.out_keys = [action, "lemae_random"]
        self.shaping = shaping
        self.state_key = state
        self.action_key = action
        self.mask_key = mask
        self._sizes = (n_agents, n_actions)
        self._explore = {"eps_low": eps_low, "eps_high": eps_high, "rule": rule, "seed": seed}
        self._sticky = sticky
        self._parts: tuple[KsmtExplorer, Labeler, RandomActions] | None = None

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Replace some of the actions of one step in all environments, ``[n_envs]`` or ``[]``."""
        if exploration_type() not in (ExplorationType.RANDOM, None):
            return tensordict
        states = _numpy(tensordict, self.state_key)
        states = states.reshape(max(tensordict.numel(), 1), -1)
        explorer, mixer = self._follow(states, _numpy(tensordict, "is_init").reshape(-1))
        actions = tensordict.get(self.action_key)
        n_agents, n_actions = self._sizes
        one_hot = actions.numel() == len(states) * n_agents * n_actions
        numbers = actions.long().argmax(-1) if one_hot else actions
        available = None
        if self.mask_key is not None:
            shape = (len(states), n_agents, n_actions)
            available = _numpy(tensordict, self.mask_key).reshape(shape)
        numbers = numbers.reshape(len(states), n_agents).cpu().numpy()
        mixed, random = mixer.mix(numbers, explorer.epsilon, available)
        taken = torch.from_numpy(mixed).to(actions.device)
        if one_hot:
            taken = torch.nn.functional.one_hot(taken, n_actions)
        tensordict.set(self.action_key, taken.reshape(actions.shape).to(actions.dtype))
        drawn = torch.from_numpy(random).to(actions.device)
        return tensordict.set("lemae_random", drawn.reshape(*tensordict.batch_size, n_agents))

    def _follow(self, states: np.ndarray, first: np.ndarray) -> tuple[KsmtExplorer, RandomActions]:
        """Take note of what the episodes have met."""
        count = len(states)
        if self._parts is None or self._parts[0].n_envs != count:
            self._parts = (
                KsmtExplorer(self.shaping.memory, count, **self._explore),
                Labeler(self.shaping.key_states, count, edge=self.shaping.edge),
                RandomActions(count, *self._sizes, sticky=self._sticky, seed=self._explore["seed"]),
            )
            first = np.ones(count, bool)
        explorer, labeler, mixer = self._parts
        if not first.all():
            explorer.advance(labeler.step(states, ~first))
        if first.any():
            labeler.reset(states, envs=first)
            explorer.reset(first)
            mixer.reset(first)
        return explorer, mixer


def _is_marked(tensordict: TensorDictBase) -> bool:
    return MARKS[0] in set(tensordict.keys())


def _next(key: Key) -> tuple[str, ...]:
    return ("next", key) if isinstance(key, str) else ("next", *key)


def _numpy(tensordict: TensorDictBase, key: Key) -> np.ndarray:
    return as_array(tensordict.get(key))
