"""QMIX on whole episodes, with VDN and independent Q-learning as its special cases."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import elu

from lemae._kit import seeded
from lemae._seeds import Purpose, generator, number
from lemae._values import reading, real, whole
from lemae.algos._saved import check_networks, load_networks, networks_state
from lemae.algos.networks import OneHot
from lemae.algos.replay import EpisodeReplay
from lemae.algos.rollout import Episodes
from lemae.errors import ConfigError, ShapeError

MIXERS = ("qmix", "vdn", "iql")
_WHOLE = (
    *("capacity", "batch_size", "gradient_steps", "target_every", "epsilon_steps"),
    *("hidden", "embedding"),
)


@dataclass(frozen=True)
class QSettings:
    """Hyper-parameters, as published unless said otherwise.

    The published ones, tuned for the ten million steps of SMAC, learn next to nothing in the steps
    that a task on a grid takes. Here every rollout is followed by many steps on few episodes each;
    :meth:`published` has the others.

    Attributes:
        mixer: ``"qmix"``, ``"vdn"`` or ``"iql"``.
        learning_rate: of Adam.
        gamma: discount.
        td_lambda: weight of the longer returns in the targets. Published: 0.6.
        double: the network that learns picks the next action, the older one rates it.
        capacity: episodes that are kept.
        batch_size: episodes per gradient step; there is none before as many are kept. Published:
            128.
        gradient_steps: per update. Published: 1.
        target_every: episodes played between two copies into the older network, without
            ``target_rate``.
        target_rate: instead of copies, the share by which the older network moves towards the one
            that learns, at every gradient step; None, as published, copies.
        epsilon_start: share of random actions at first. Where an explorer mixes in random actions
            of its own, this and ``epsilon_finish`` belong at 0.
        epsilon_finish, epsilon_steps: the same in the end, and the steps over which it falls.
        hidden: width of the agents' layers, and of those that write the weights of the mixer.
        embedding: width of the mixer.
        recurrent: agents remember what they saw (a GRU as second layer), as published. Off, since
            on the grid tasks every agent sees the whole state.
        max_gradient: largest norm of a gradient.

    Raises:
        ConfigError: if a number is outside its range, or the mixer unknown.

    Reference: arXiv 2410.02511, hyper-parameters, which are those of pymarl2 (arXiv 2102.03479).
    """

    mixer: Literal["qmix", "vdn", "iql"] = "qmix"
    learning_rate: float = 1e-3
    gamma: float = 0.99
    td_lambda: float = 0.8
    double: bool = True
    capacity: int = 5000
    batch_size: int = 4
    gradient_steps: int = 32
    target_every: int = 200
    target_rate: float | None = 0.01
    epsilon_start: float = 1.0
    epsilon_finish: float = 0.05
    epsilon_steps: int = 100_000
    hidden: int = 64
    embedding: int = 32
    recurrent: bool = False
    max_gradient: float = 10.0

    @classmethod
    def published(cls, **others: Any) -> QSettings:
        """Settings as published in every respect, but for ``others`` and ``recurrent``."""
        chosen = {"td_lambda": 0.6, "batch_size": 128, "gradient_steps": 1, "target_rate": None}
        return cls(**{**chosen, **others})

    def __post_init__(self) -> None:
        if self.mixer not in MIXERS:
            raise ConfigError(f"mixer is {self.mixer!r}: choose from {', '.join(MIXERS)}")
        for name in ("gamma", "td_lambda", "epsilon_start", "epsilon_finish"):
            real(name, getattr(self, name), 0, 1)
        if self.target_rate is not None:
            real("target_rate", self.target_rate, 0, 1, above=True)
        for name in ("learning_rate", "max_gradient"):
            real(name, getattr(self, name), above=True)
        for name in _WHOLE:
            whole(name, getattr(self, name))
        if self.target_rate is not None and self.target_every != QSettings.target_every:
            raise ConfigError(
                f"target_every is {self.target_every} and target_rate {self.target_rate}, beside "
                "which it has no effect: give target_rate=None"
            )
        if self.batch_size > self.capacity:
            raise ConfigError(
                f"batch_size is {self.batch_size} and capacity {self.capacity}: keep at least one "
                "batch of episodes"
            )


def input_layer(n_inputs: int, n_ones: int, width: int) -> nn.Module:
    """A linear layer of ``n_inputs`` numbers, or of a one-hot vector with ``n_ones`` ones.

    The latter reads the positions of the ones, int64 ``[R, n_ones]``, and needs no bias.
    """
    if not n_ones:
        return nn.Linear(n_inputs, width)
    layer = nn.EmbeddingBag(n_inputs, width, mode="sum")
    bound = 1 / math.sqrt(n_inputs)  # as in nn.Linear; larger ones make a mixer start far off
    nn.init.uniform_(layer.weight, -bound, bound)
    return layer


class Agents(nn.Module):
    """One network for all agents, from what they see to a utility of each action.

    A bias of its own in the first layer tells an agent which one it is, as its number in one-hot
    form would beside what it sees. With ``n_ones`` (:func:`input_layer`) all agents see the same.
    """

    def __init__(
        self, n_inputs: int, n_ones: int, n_agents: int, n_actions: int, settings: QSettings
    ) -> None:
        super().__init__()
        hidden = settings.hidden
        self.first = input_layer(n_inputs, n_ones, hidden)
        self.own = nn.Parameter(torch.randn(n_agents, hidden) / math.sqrt(hidden))
        self.second = (nn.GRUCell if settings.recurrent else nn.Linear)(hidden, hidden)
        self.last = nn.Linear(hidden, n_actions)

    def forward(self, seen: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Utilities ``[R, n, A]`` and the memory of this step.

        Args:
            seen: numbers ``[R, n, I]``, or what all agents see: ``[R, I]`` or positions ``[R, d]``.
            memory: ``[R, n, H]`` of the step before, which only a GRU reads; None at the start.
        """
        first = self.first(seen) if seen.ndim == 3 else self.first(seen)[:, None]
        inner = (first + self.own).relu()
        if isinstance(self.second, nn.GRUCell):
            before = None if memory is None else memory.flatten(0, 1)
            inner = self.second(inner.flatten(0, 1), before).view_as(inner)
        else:
            inner = self.second(inner).relu()
        return self.last(inner), inner


class Mixer(nn.Module):
    """From the values of the agents' actions to the values that rewards teach.

    ``"iql"`` leaves every agent its own, ``"vdn"`` adds them up (arXiv 1706.05296), and ``"qmix"``
    mixes them by two layers whose weights depend on the state and are never negative, so that an
    action that is better for an agent is never worse for the team (arXiv 1803.11485).
    ``n_inputs`` and ``n_ones`` are those of the state, see :func:`input_layer`.
    """

    def __init__(self, n_inputs: int, n_ones: int, n_agents: int, settings: QSettings) -> None:
        super().__init__()
        self.kind, self.n_agents = settings.mixer, n_agents
        hidden, embedding = settings.hidden, settings.embedding
        self._parts = (hidden, hidden, embedding, embedding)
        if self.kind == "qmix":
            self.read = input_layer(n_inputs, n_ones, sum(self._parts))  # four first layers in one
            self.first_weight = nn.Linear(hidden, n_agents * embedding)
            self.last_weight = nn.Linear(hidden, embedding)
            self.last_bias = nn.Linear(embedding, 1)

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """``[R, n]`` to ``[R, m]``, m = n for ``"iql"``, else 1; states as read by the layer."""
        if self.kind == "iql":
            return values
        if self.kind == "vdn":
            return values.sum(-1, keepdim=True)
        one, two, three, first_bias = self.read(state).split(self._parts, -1)
        first_weight = self.first_weight(one.relu()).abs().unflatten(-1, (self.n_agents, -1))
        inner = elu((values[..., None] * first_weight).sum(-2) + first_bias)
        mixed = (inner * self.last_weight(two.relu()).abs()).sum(-1, keepdim=True)
        total: Tensor = mixed + self.last_bias(three.relu())
        return total


@torch.no_grad()
def td_lambda_targets(
    rewards: Tensor, values: Tensor, lengths: Tensor, terminated: Tensor, settings: QSettings
) -> Tensor:
    """What values should have been: mixtures of the returns over one, two, ... steps.

    Args:
        rewards: ``[T, B]``.
        values: ``[T + 1, B, m]``, of the best actions in each state.
        lengths: int ``[B]``, steps of each episode.
        terminated: bool ``[B]``, where nothing can be earned after the last step; an episode that
            was only cut goes on with the value of its last state.
        settings: for ``gamma`` and ``td_lambda``; 0 looks one step ahead, 1 to the end.

    Returns:
        ``[T, B, m]``; behind the end of an episode they mean nothing.

    Reference: arXiv 2102.03479, TD(lambda); without correction for actions that were not the best.
    """
    steps = torch.arange(1, len(values), device=values.device)[:, None, None]
    last = steps == lengths[:, None]  # [T, B, 1]
    after_last = torch.where(terminated[:, None], 0.0, values[1:])
    ahead = torch.where(last, after_last, (1 - settings.td_lambda) * values[1:])
    targets = rewards[..., None] + settings.gamma * ahead
    weights = settings.gamma * settings.td_lambda * ~last
    for step in range(len(targets) - 2, -1, -1):
        targets[step].addcmul_(weights[step], targets[step + 1])
    return targets


class QLearner:
    """Learns from replayed whole episodes, which it keeps itself.

    Args:
        n_agents: of the environment.
        n_actions: that each agent has.
        d: length of the state.
        episode_limit: steps of the longest episode.
        n_values: values that each index of the state takes, from 0 up; the networks then read the
            state as one-hot. None: they read the numbers themselves.
        n_observed: length of an agent's observation; None where all agents see the state.
        settings: hyper-parameters.
        seed: of the weights and of the draws from the replay.
        device: of the networks; the replay is in memory.

    Attributes:
        replay: the episodes.
        steps, episodes, updates: what was observed so far, and the number of gradient steps.

    Raises:
        ConfigError: if a size is not positive.
    """

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        d: int,
        episode_limit: int,
        *,
        n_values: Sequence[int] | None = None,
        n_observed: int | None = None,
        settings: QSettings | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        sizes = (n_agents, n_actions, d, 1 if n_observed is None else n_observed)
        if min(sizes) < 1:
            raise ConfigError(f"agents, actions, d, n_observed are {sizes}: each must be positive")
        self.settings = chosen = settings or QSettings()
        self.seed, self.device = seed, torch.device(device)
        self.replay = EpisodeReplay(chosen.capacity, episode_limit)
        self.steps = self.episodes = self.updates = 0
        self._copied_at = 0
        self._one_hot = None if n_values is None else OneHot(n_values)
        state = (d, 0) if self._one_hot is None else (self._one_hot.size, d)
        seen = state if n_observed is None else (n_observed, 0)
        with seeded(number(Purpose.WEIGHTS, seed)):
            agents = Agents(*seen, n_agents, n_actions, chosen)
            mixer = Mixer(*state, n_agents, chosen)
        self.networks = nn.ModuleDict({"agents": agents, "mixer": mixer}).to(self.device)
        self._older = copy.deepcopy(self.networks).requires_grad_(False)
        self._weights = list(self.networks.parameters())
        self._optimizer = torch.optim.Adam(self._weights, chosen.learning_rate, fused=True)
        self.reseed(seed)

    @property
    def epsilon(self) -> float:
        """Share of random actions at this time."""
        first, final = self.settings.epsilon_start, self.settings.epsilon_finish
        return first + min(1.0, self.steps / self.settings.epsilon_steps) * (final - first)

    def reseed(self, seed: int) -> None:
        """Before a rollout: forget what was seen, and draw from the numbers of this seed."""
        self._rng = generator(Purpose.ACTIONS, seed)
        self._memory: Tensor | None = None

    @torch.no_grad()
    def act(
        self,
        states: np.ndarray,
        observations: np.ndarray | None,
        available: np.ndarray | None,
        greedy: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As an ``Actor`` does: the best action, or with probability :attr:`epsilon` any."""
        seen = self._seen(self._state(states), observations)
        rated, self._memory = self.networks["agents"](seen, self._memory)
        can = np.ones(rated.shape, bool) if available is None else np.asarray(available)
        best = np.where(can, rated.cpu().numpy(), -np.inf).argmax(-1)
        if greedy or not self.epsilon:
            return best, np.zeros(best.shape, np.float32)
        some = np.where(can, self._rng.random(can.shape), -1.0).argmax(-1)
        actions = np.where(self._rng.random(best.shape) < self.epsilon, some, best)
        chances = self.epsilon / can.sum(-1) + (1 - self.epsilon) * (actions == best)
        return actions, np.log(chances).astype(np.float32)

    def observe(self, episodes: Episodes) -> None:
        """Keep episodes to learn from, with the rewards of the environment."""
        if len(episodes):
            self.replay.add(episodes)
            self.steps += episodes.steps
            self.episodes += len(episodes)

    def update(self, relabel: Callable[[Episodes], ArrayLike] | None = None) -> dict[str, float]:
        """Take gradient steps, each on episodes drawn from the replay.

        Args:
            relabel: from the drawn episodes to the rewards ``[T, B]`` to learn from; None learns
                from those of the environment.

        Returns:
            Means of ``loss``, ``value``, ``target`` and ``gradient`` (its norm); empty as long as
            there are fewer than ``batch_size`` episodes.

        Raises:
            ShapeError: if ``relabel`` returns rewards of another shape.
        """
        if len(self.replay) < self.settings.batch_size:
            return {}
        taken = [self._step(relabel) for _ in range(self.settings.gradient_steps)]
        due = self.episodes - self._copied_at >= self.settings.target_every
        if self.settings.target_rate is None and due:
            self._older.load_state_dict(self.networks.state_dict())
            self._copied_at = self.episodes
        means = torch.stack(taken).mean(0).tolist()
        return dict(zip(("loss", "value", "target", "gradient"), means, strict=True))

    def _step(self, relabel: Callable[[Episodes], ArrayLike] | None) -> Tensor:
        rng = generator(Purpose.REPLAY, self.seed, self.updates)
        episodes = self.replay.sample(self.settings.batch_size, rng)
        rewards = np.asarray(episodes.rewards if relabel is None else relabel(episodes))
        if rewards.shape != episodes.rewards.shape:
            raise ShapeError(
                f"relabel returned rewards of shape {rewards.shape} for episodes of shape "
                f"{episodes.rewards.shape}: give one per step, [T, B]"
            )
        values, targets = self._values(episodes, self._tensor(rewards))
        loss = (values - targets).square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._weights, self.settings.max_gradient)
        self._optimizer.step()
        if self.settings.target_rate is not None:
            with torch.no_grad():
                for older, weight in zip(self._older.parameters(), self._weights, strict=True):
                    older.lerp_(weight, self.settings.target_rate)
        self.updates += 1
        return torch.stack([loss.detach(), values.detach().mean(), targets.mean(), norm])

    def _values(self, episodes: Episodes, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the actions taken and their targets, ``[steps of all episodes, m]`` each."""
        lengths, terminated = self._tensor(episodes.lengths), self._tensor(episodes.terminated)
        time = torch.arange(len(episodes.states), device=self.device)[:, None]
        real, left = time <= lengths, time < lengths  # states, and those that were not the last
        # What stands behind the end need not be a state.
        state = self._state(np.where(real.cpu().numpy()[..., None], episodes.states, 0))
        seen = self._seen(state, episodes.observations)
        utilities = self._utilities(self.networks, seen, real)
        actions = self._tensor(episodes.actions)[left[:-1]][..., None]
        taken = utilities[left[real]].gather(-1, actions).squeeze(-1)
        values = self.networks["mixer"](taken, state[left])
        with torch.no_grad():
            rated = self._utilities(self._older, seen, real)
            liked = utilities if self.settings.double else rated
            if episodes.available is not None:
                can = self._tensor(episodes.available)[real]
                liked = liked.masked_fill(~can, -torch.inf)
            best = rated.gather(-1, liked.argmax(-1, keepdim=True)).squeeze(-1)
            mixed = self._older["mixer"](best, state[real])
            following = mixed.new_zeros(*real.shape, mixed.shape[-1])
            following[real] = mixed
        targets = td_lambda_targets(rewards, following, lengths, terminated, self.settings)
        return values, targets[left[:-1]]

    def _utilities(self, networks: nn.ModuleDict, seen: Tensor, real: Tensor) -> Tensor:
        """``[R, n, A]`` of the R real states among ``seen [T + 1, B, ...]``."""
        if not self.settings.recurrent:
            utilities: Tensor = networks["agents"](seen[real])[0]
            return utilities
        memory, rated = None, []
        for now in seen:
            utilities, memory = networks["agents"](now, memory)
            rated.append(utilities)
        return torch.stack(rated)[real]

    def _state(self, states: np.ndarray) -> Tensor:
        """States as the networks read them: numbers, or positions of ones."""
        return (
            self._numbers(states) if self._one_hot is None else self._tensor(self._one_hot(states))
        )

    def _seen(self, state: Tensor, observations: np.ndarray | None) -> Tensor:
        """What the agents see: their observations, or the state."""
        return state if observations is None else self._numbers(observations)

    def _numbers(self, array: np.ndarray) -> Tensor:
        return self._tensor(np.asarray(array, np.float32))

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array).to(self.device)
        return tensor.float() if tensor.is_floating_point() else tensor

    def state_dict(self) -> dict[str, Any]:
        """Networks, state of Adam, the replay and the counts."""
        return {
            **networks_state(self._optimizer, networks=self.networks, older=self._older),
            "replay": self.replay.state_dict(),
            "counts": [self.steps, self.episodes, self.updates, self._copied_at],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it was taken of networks or a replay of other sizes, or is not what that
                method returns; nothing is changed then.
        """
        networks = {"networks": self.networks, "older": self._older}
        with reading("this learner"):
            check_networks(state, self._optimizer, **networks)
            steps, episodes, updates, copied_at = (
                whole("counts", count, lowest=0) for count in state["counts"]
            )
            replay = EpisodeReplay(self.replay.capacity, self.replay.episode_limit)
            replay.load_state_dict(state["replay"])
        load_networks(state, self._optimizer, **networks)
        self.replay = replay
        self.steps, self.episodes, self.updates = steps, episodes, updates
        self._copied_at = copied_at
