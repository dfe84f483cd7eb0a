"""EPyMARL and PyMARL2: rewards for their learners, exploration for their controllers.

Neither is a package: they are run from their source, and recognised by what they pass around, an
episode batch with the keys ``state``, ``actions``, ``reward``, ``filled`` and ``terminated``. In
``run.py`` of either, these lines change::

    shaping = Shaping(key_states, alpha=10, beta=1)
    explorer = ExploringController(mac, shaping, runner.batch_size, eps_high=0.5)
    scheme["battle_won"] = {"vshape": (1,)}
    runner.setup(scheme=scheme, groups=groups, preprocess=preprocess, mac=explorer)
    ...
    def won(batch):
        return batch["battle_won"].flatten(1).any(1)
    ...
    episode_batch = runner.run(test_mode=False)
    # Once per training batch:
    observe(shaping, episode_batch, success=won, step=runner.t_env)
    buffer.insert_episode_batch(episode_batch)
    ...
    sample = relabel(shaping, episode_sample, success=won, sparse=True)
    learner.train(sample, runner.t_env, episode)

A batch does not hold what the environment's info said, so the runner has to write down who won,
beside ``"reward"``: ``"battle_won": [(env_info.get("battle_won", False),)]``. Without ``success=``
an episode succeeded if its last step paid and terminated it, which is right for sparse rewards
only: a reward on the way, such as that for damage, is refused.

What a batch cannot tell either: whether the connection to the game was lost. Such an episode looks
like one that terminated without reward, and counts as a failure; the adapter
:mod:`lemae.integrations.smacv2`, which has the environment itself, drops it.

In the configuration, set ``standardise_rewards: False`` and ``standardise_returns: False``, which
would undo the weights of the rewards, and the exploration of its own (``epsilon_start``,
``epsilon_finish``) to 0. What PyMARL2 calls ``save_probs`` is kept: the probabilities are those of
the mixture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from lemae._arrays import as_array
from lemae._success import by_reward
from lemae.errors import ShapeError
from lemae.explore import KsmtExplorer, RandomActions
from lemae.integrations.shaping import Shaping
from lemae.labels import Chain, Labeler

#: Per episode, bool ``[B]``; or a function of the batch that gives that.
Success: TypeAlias = "Sequence[bool] | np.ndarray | torch.Tensor | Callable[[Any], Any]"


class _Columns(NamedTuple):
    """A batch in the order of this package.

    Attributes:
        states: ``[T + 1, B, d]``.
        rewards: ``[T, B]``; of several agents, their mean.
        lengths: int64 ``[B]``.
        success: bool ``[B]``.
    """

    states: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray
    success: np.ndarray


def observe(
    shaping: Shaping, batch: Any, *, success: Success | None = None, step: int | None = None
) -> Sequence[Chain]:
    """Take in what a runner brought. Not for batches in test mode.

    Args:
        shaping: of the learner.
        batch: an episode batch, or a mapping with the same keys: ``state`` ``[B, T + 1, d]``,
            ``reward`` ``[B, T + 1, 1 or n]``, ``filled`` ``[B, T + 1, 1]``, 1 for each state of the
            episode including its last, and ``terminated`` ``[B, T + 1, 1]``, 1 for the step that
            terminated it, unless ``success`` is given.
        success: which episodes succeeded; None takes those whose last step paid and terminated
            them, and refuses other rewards above 0.
        step: environment steps so far.

    Returns:
        The chains.

    Raises:
        ShapeError: if the batch has other shapes.
        ConfigError: if rewards do not tell success.
    """
    columns = _columns(batch, success)
    return shaping.observe(columns.states, columns.lengths, columns.success, step=step)


def relabel(
    shaping: Shaping, batch: Any, *, success: Success | None = None, sparse: bool = False
) -> Any:
    """What a batch pays by what is known now.

    Args:
        shaping: of the learner.
        batch: as for :func:`observe`, new or from the replay buffer.
        success: as for :func:`observe`.
        sparse: count 1 for the last step of an episode that succeeded and nothing else, whatever
            the environment paid. SMAC's sparse reward needs it: it is scaled, and -1 for a defeat.

    Returns:
        A shallow copy of the batch with new rewards, of their shape, type and device; the batch
        that was given keeps its own.

    Raises:
        ShapeError: if the batch has other shapes.
        ConfigError: if rewards do not tell success.
    """
    columns = _columns(batch, success)
    if sparse:
        columns.rewards[:] = 0
        won = np.flatnonzero(columns.success & (columns.lengths > 0))
        columns.rewards[columns.lengths[won] - 1, won] = 1
    relabeled = shaping.relabel(*columns)
    old = batch["reward"]
    new = torch.zeros_like(old)
    if old.shape[-1] == 1 or sparse:
        new[:, :-1] = torch.from_numpy(relabeled.rewards.T)[..., None].to(old)
    else:  # each agent has a reward of its own
        steps = np.arange(old.shape[1] - 1) < columns.lengths[:, None]
        intrinsic = torch.from_numpy(relabeled.intrinsic.T).to(old)[..., None]
        both = shaping.relabeler.alpha * old[:, :-1] + shaping.relabeler.beta * intrinsic
        new[:, :-1] = both * torch.from_numpy(steps).to(old)[..., None]
    return _with_reward(batch, new)


class ExploringController:
    """A multi-agent controller that acts at random where the memory says so.

    Everything but ``select_actions`` is the controller's own. The learner gets the controller
    itself, the runner this one.

    Args:
        mac: the controller.
        shaping: whose memory is read; :func:`observe` writes it.
        n_envs: N, environments of the runner (``batch_size_run``).
        eps_low: share of random actions where the policy acts; published 0.05 for QMIX, 0 for IPPO.
        eps_high: share of random actions where the team explores.
        rule: of :class:`lemae.KsmtExplorer`.
        sticky: mean number of steps a random action is kept; None draws at every step.
        seed: of the draws.

    Attributes:
        mac: as given.
        explorer: has ``epsilon`` of each environment.
    """

    def __init__(
        self,
        mac: Any,
        shaping: Shaping,
        n_envs: int,
        *,
        eps_low: float = 0.05,
        eps_high: float = 0.5,
        rule: Any = "degree",
        sticky: float | None = None,
        seed: int = 0,
    ) -> None:
        self.mac = mac
        self.explorer = KsmtExplorer(
            shaping.memory, n_envs, eps_low=eps_low, eps_high=eps_high, rule=rule, seed=seed
        )
        self._labeler = Labeler(shaping.key_states, n_envs, edge=shaping.edge)
        self._mixer: RandomActions | None = None
        self._sticky = sticky
        self._seed = seed

    def __getattr__(self, name: str) -> Any:
        """Whatever else a controller has."""
        if name == "mac":  # while it is copied
            raise AttributeError(name)
        return getattr(self.mac, name)

    def select_actions(
        self,
        ep_batch: Any,
        t_ep: int,
        t_env: int,
        bs: Any = slice(None),
        test_mode: bool = False,
    ) -> Any:
        """Choose actions, as the controller does, and replace some by random ones.

        Args:
            ep_batch: the running episodes, all N environments.
            t_ep: step of the episodes, 0 at their start.
            t_env: environment steps so far.
            bs: environments that go on.
            test_mode: leave the controller's actions as they are.

        Returns:
            What the controller returns: actions ``[len(bs), n]``, or those and probabilities.
        """
        chosen = self.mac.select_actions(
            ep_batch, t_ep=t_ep, t_env=t_env, bs=bs, test_mode=test_mode
        )
        if test_mode:
            return chosen
        actions, *probabilities = chosen if isinstance(chosen, tuple) else (chosen,)
        n_envs = self.explorer.n_envs
        going = np.zeros(n_envs, bool)
        going[bs] = True
        available = as_array(ep_batch["avail_actions"])[:, t_ep] > 0
        mixer = self._follow(as_array(ep_batch["state"])[:, t_ep], going, t_ep, available.shape)
        everyone = np.zeros(available.shape[:2], np.int64)
        everyone[going] = as_array(actions)
        mixed, _ = mixer.mix(everyone, self.explorer.epsilon, available)
        taken = torch.from_numpy(mixed[going]).to(actions)
        if not probabilities:
            return taken
        epsilon = torch.from_numpy(self.explorer.epsilon[going]).to(probabilities[0])[:, None, None]
        uniform = torch.from_numpy(available[going]).to(probabilities[0])
        uniform = uniform / uniform.sum(-1, keepdim=True).clamp(min=1)
        return taken, (1 - epsilon) * probabilities[0] + epsilon * uniform

    def _follow(
        self, states: np.ndarray, going: np.ndarray, t_ep: int, shape: tuple[int, ...]
    ) -> RandomActions:
        """Take note of what the episodes have met; who draws their random actions."""
        if self._mixer is None:
            self._mixer = RandomActions(*shape, sticky=self._sticky, seed=self._seed)
        if t_ep == 0:
            self._labeler.reset(states)
            self.explorer.reset()
            self._mixer.reset()
        else:
            self.explorer.advance(self._labeler.step(states, going))
        return self._mixer


_REMEDY = "give success=, which says of a batch which episodes succeeded"


def _columns(batch: Any, success: Success | None) -> _Columns:
    """A batch in the order of this package."""
    states, rewards, filled = (as_array(batch[key]) for key in ("state", "reward", "filled"))
    if states.ndim != 3 or rewards.ndim != 3 or filled.shape != (*states.shape[:2], 1):
        raise ShapeError(
            f"state has shape {states.shape}, reward {rewards.shape} and filled {filled.shape}: "
            "give [B, T + 1, d], [B, T + 1, 1 or n] and [B, T + 1, 1]"
        )
    lengths = np.maximum(filled[..., 0].astype(np.int64).sum(1) - 1, 0)
    steps = np.arange(states.shape[1]) < lengths[:, None]
    if success is None:
        paid = (rewards > 0).any(-1) & steps
        won = by_reward(paid, as_array(batch["terminated"])[..., 0] > 0, _REMEDY).any(1)
    else:
        won = as_array(success(batch) if callable(success) else success, bool).reshape(-1)
        if won.shape != lengths.shape:
            raise ShapeError(
                f"success tells of {len(won)} episodes, the batch holds {len(lengths)}: give one "
                "per episode"
            )
    return _Columns(
        states.swapaxes(0, 1),
        rewards[:, :-1].mean(-1, dtype=np.float64).T,
        lengths,
        won,
    )


def _with_reward(batch: Any, reward: torch.Tensor) -> Any:
    """A shallow copy of a batch with other rewards."""
    if isinstance(batch, Mapping):
        return {**batch, "reward": reward}
    other = copy.copy(batch)
    other.data = copy.copy(batch.data)
    other.data.transition_data = {**batch.data.transition_data, "reward": reward}
    return other
