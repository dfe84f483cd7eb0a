"""Independent proximal policy optimization: an actor and a critic of its own for every agent."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from lemae._seeds import Purpose, generator, number
from lemae._values import flag, reading, real, whole
from lemae.algos._saved import check_networks, load_networks, networks_state
from lemae.algos.networks import OneHot, Perceptrons
from lemae.algos.rollout import Episodes
from lemae.errors import ShapeError
from lemae.settings import RandomActionTreatment, check_choice

_NEVER = -1e9  # logit of an action that cannot be taken; minus infinity has no entropy


@dataclass(frozen=True)
class IPPOSettings:
    """Hyper-parameters.

    Attributes:
        hidden: width of the two hidden layers of every actor and critic.
        learning_rate: of Adam.
        epochs: gradient steps per rollout, each on all of it.
        clip: the ratio of probabilities counts up to 1 +- this.
        entropy: weight of the entropy.
        value: weight of the value loss.
        gamma: discount.
        gae_lambda: of generalized advantage estimation.
        max_gradient: largest norm of the gradient of each network.
        random_actions: what becomes of actions that were drawn at random, not by the policy.
            ``"mask"`` leaves them out of the policy loss, but not out of the values; ``"mixture"``
            takes the probability of the mixture of both for the old one; ``"ignore"`` takes the
            policy's.
        self_imitation: weight of the likelihood of the actions of the latest successful episodes,
            random ones included, while the recent win rate is below ``imitate_below``. 0: none.
        imitated_episodes: how many of them.
        imitated_steps: drawn from these for each gradient step.
        imitate_below: share of the last 100 episodes.

    Raises:
        ConfigError: if a number is outside its range.

    Reference: arXiv 1707.06347, 1506.02438, 2011.09533 (IPPO). The treatments of random actions and
    self-imitation are not in the paper of LEMAE.
    """

    hidden: int = 64
    learning_rate: float = 1e-3
    epochs: int = 6
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.5
    gamma: float = 0.99
    gae_lambda: float = 0.95
    max_gradient: float = 1.0
    random_actions: RandomActionTreatment = "mask"
    self_imitation: float = 0.0
    imitated_episodes: int = 16
    imitated_steps: int = 1024
    imitate_below: float = 0.9

    def __post_init__(self) -> None:
        for name in ("hidden", "epochs", "imitated_episodes", "imitated_steps"):
            whole(name, getattr(self, name))
        for name in ("learning_rate", "clip", "max_gradient"):
            real(name, getattr(self, name), above=True)
        for name in ("entropy", "value", "self_imitation"):
            real(name, getattr(self, name))
        for name in ("gamma", "gae_lambda", "imitate_below"):
            real(name, getattr(self, name), 0, 1)
        check_choice("random_actions", self.random_actions, get_args(RandomActionTreatment))


def advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    lengths: np.ndarray,
    terminated: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalized advantage estimates of episodes of different lengths.

    The state after the last step has a value unless the episode terminated: a time limit is not
    the end of what can be earned.

    Args:
        rewards: ``[T, B]``.
        values: ``[T + 1, B, n]``, of every state up to the last of its episode.
        lengths: int ``[B]``.
        terminated: bool ``[B]``.
        gamma: discount.
        gae_lambda: weight of the longer estimates.

    Returns:
        ``[T, B, n]``; 0 after the end of an episode.

    Raises:
        ShapeError: if the shapes do not fit.

    Reference: arXiv 1506.02438, equation 16.
    """
    steps, count = rewards.shape
    if values.shape[:2] != (steps + 1, count):
        raise ShapeError(
            f"rewards have shape {rewards.shape} and values {values.shape}: give a value for "
            "every state, one more than rewards"
        )
    left = (lengths - np.arange(steps)[:, None])[..., None]  # steps of the episode, this included
    has_value = (left > 1) | ((left == 1) & ~terminated[:, None])
    surprises = rewards[..., None] + gamma * has_value * values[1:] - values[:-1]
    estimates: np.ndarray = np.where(left > 0, surprises, 0).astype(values.dtype)
    for step in range(steps - 2, -1, -1):
        estimates[step] += gamma * gae_lambda * estimates[step + 1]  # 0 after the end
    return estimates


@dataclass(frozen=True)
class _Rows:
    """Steps of episodes, one after the other: M rows.

    Attributes:
        inputs: int64 ``[M, d]``, positions of ones; or float32 ``[n, M, o]``.
        actions: int64 ``[n, M, 1]``.
        available: bool ``[n, M, A]`` or None.
    """

    inputs: Tensor
    actions: Tensor
    available: Tensor | None

    def draw(self, count: int, random: np.random.Generator) -> _Rows:
        """Some of the rows, all equally likely, with repetition."""
        rows = torch.from_numpy(random.integers(self.actions.shape[1], size=count))
        rows = rows.to(self.actions.device)
        return _Rows(
            self.inputs[rows] if self.inputs.ndim == 2 else self.inputs[:, rows],
            self.actions[:, rows],
            None if self.available is None else self.available[:, rows],
        )


class IPPO:
    """Learns one policy per agent, all from the same reward.

    Args:
        n_agents: n.
        n_actions: A.
        n_inputs: length of an agent's observation, or of the state where it sees that.
        n_values: of :class:`OneHot`, if the agents see states of whole numbers; None otherwise.
        settings: hyper-parameters.
        seed: of the first weights.
        device: where the update is computed; acting is on the CPU.

    Attributes:
        actor: the policies, n networks.
        critic: the values, n networks.
    """

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        n_inputs: int,
        *,
        n_values: Sequence[int] | None = None,
        settings: IPPOSettings | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.settings = settings or IPPOSettings()
        self.device = torch.device(device)
        self._n_agents = n_agents
        self._n_inputs = n_inputs if n_values is None else len(n_values)
        self._one_hot = None if n_values is None else OneHot(n_values)
        size = n_inputs if self._one_hot is None else self._one_hot.size

        def networks(n_outputs: int, last_gain: float, seed: int) -> Perceptrons:
            made = Perceptrons(
                n_agents,
                size,
                n_outputs,
                one_hot=n_values is not None,
                hidden=self.settings.hidden,
                last_gain=last_gain,
                seed=seed,
            )
            return made.to(self.device)

        # At first all actions are about equally likely.
        self.actor = networks(n_actions, 0.01, number(Purpose.WEIGHTS, seed, 0))
        self.critic = networks(1, 1.0, number(Purpose.WEIGHTS, seed, 1))
        # On networks this small, a kernel per weight would cost more time than the numbers.
        self._optimizer = torch.optim.Adam(
            [*self.actor.parameters(), *self.critic.parameters()],
            self.settings.learning_rate,
            eps=1e-5,
            fused=True,
        )
        self.reseed(seed)
        self._wins: deque[bool] = deque(maxlen=100)
        self._imitated: Episodes | None = None

    # --- acting ----------------------------------------------------------------------------------

    def reseed(self, seed: int) -> None:
        """Draw from the numbers of this seed from now on."""
        self._random = generator(Purpose.ACTIONS, seed)

    def act(
        self,
        states: np.ndarray,
        observations: np.ndarray | None,
        available: np.ndarray | None,
        greedy: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw actions, or take the likeliest.

        Args:
            states: ``[B, d]``.
            observations: ``[B, n, o]``; None where every agent sees the state.
            available: bool ``[B, n, A]``; None where every action can be taken.
            greedy: take the likeliest.

        Returns:
            Actions, int64 ``[B, n]``, and their log-probabilities, float32 ``[B, n]``.
        """
        logits = self.actor.fast(self._encode(states, observations))  # [n, B, A]
        if available is not None:
            logits = np.where(available.swapaxes(0, 1), logits, np.float32(_NEVER))
        agents, copies, choices = logits.shape
        rows = logits.reshape(-1, choices)
        rows -= rows.max(-1, keepdims=True)
        cumulated = np.exp(rows).cumsum(-1)
        if greedy:
            actions = rows.argmax(-1)
        else:
            thresholds = self._random.random(len(rows)) * cumulated[:, -1]
            actions = (cumulated <= thresholds[:, None]).sum(-1)
        log_probs = rows[np.arange(len(rows)), actions] - np.log(cumulated[:, -1])
        return actions.reshape(agents, copies).T, log_probs.reshape(agents, copies).T

    def _encode(self, states: np.ndarray, observations: np.ndarray | None) -> np.ndarray:
        """What the networks read: int64 ``[B, d]``, or float32 ``[n, B, o]``."""
        if self._one_hot is not None:
            return self._one_hot(states)
        if observations is not None:
            return np.ascontiguousarray(observations.swapaxes(0, 1), np.float32)
        shape = (self._n_agents, *states.shape)
        return np.broadcast_to(states.astype(np.float32, copy=False), shape)

    # --- learning --------------------------------------------------------------------------------

    def update(self, episodes: Episodes, rewards: np.ndarray) -> dict[str, float]:
        """Learn from one rollout of this policy as it is.

        Args:
            episodes: at least one.
            rewards: ``[T, B]``, to learn from.

        Returns:
            Means over the gradient steps: ``policy_loss``, ``value_loss``, ``entropy``,
            ``imitation_loss``, each the mean over agents.

        Raises:
            ShapeError: if there is not one reward per step.
        """
        if rewards.shape != episodes.rewards.shape or not len(episodes):
            raise ShapeError(
                f"rewards have shape {rewards.shape}, the episodes {episodes.rewards.shape}: give "
                "one per step, of at least one episode"
            )
        settings, valid = self.settings, episodes.valid
        rows = self._rows(episodes, valid)
        estimates, targets = self._estimate(episodes, rewards, valid)
        weights = torch.ones_like(estimates)
        before = self._columns(episodes.log_probs[valid])
        if settings.random_actions == "mask":
            weights = self._columns(~episodes.random[valid]).float()
        else:
            before = self._old_log_probs(rows, self._columns(episodes.epsilon[valid][:, None]))
        total = weights.sum(1, keepdim=True).clamp(min=1)
        estimates = _normalize(estimates, weights, total)
        weights = weights / total
        imitated = self._imitation(episodes)
        sums = torch.zeros(4, device=self.device)
        for _ in range(settings.epochs):
            log_probs = self._log_probs(rows)
            ratio = (log_probs.gather(-1, rows.actions)[..., 0] - before).exp()
            policy_loss = -(weights * clipped(ratio, estimates, settings.clip)).sum(1).mean()
            entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
            value_loss = (self.critic(rows.inputs)[..., 0] - targets).square().mean()
            imitation_loss = torch.zeros((), device=self.device)
            if imitated is not None:
                drawn = imitated.draw(settings.imitated_steps, self._random)
                imitation_loss = -self._log_probs(drawn).gather(-1, drawn.actions).mean()
            # Summed over agents, each of which learns on its own.
            loss = self._n_agents * (
                policy_loss
                + settings.value * value_loss
                - settings.entropy * entropy
                + settings.self_imitation * imitation_loss
            )
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.actor.clip_gradients(settings.max_gradient)
            self.critic.clip_gradients(settings.max_gradient)
            self._optimizer.step()
            sums += torch.stack([policy_loss, value_loss, entropy, imitation_loss]).detach()
        names = ("policy_loss", "value_loss", "entropy", "imitation_loss")
        return dict(zip(names, (sums / settings.epochs).tolist(), strict=True))

    def _rows(self, episodes: Episodes, valid: np.ndarray) -> _Rows:
        observations, available = episodes.observations, episodes.available
        return _Rows(
            self._inputs(
                episodes.states[:-1][valid],
                None if observations is None else observations[:-1][valid],
            ),
            self._columns(episodes.actions[valid])[..., None],
            None if available is None else self._columns(available[:-1][valid]),
        )

    def _inputs(self, states: np.ndarray, observations: np.ndarray | None) -> Tensor:
        encoded = np.ascontiguousarray(self._encode(states, observations))
        return torch.from_numpy(encoded).to(self.device)

    def _columns(self, values: np.ndarray) -> Tensor:
        """``[n, M, ...]`` of rows ``[M, n, ...]``."""
        turned = np.ascontiguousarray(values.swapaxes(0, 1))
        return torch.from_numpy(turned).to(self.device)

    def _log_probs(self, rows: _Rows) -> Tensor:
        """Of all actions, ``[n, M, A]``."""
        logits: Tensor = self.actor(rows.inputs)
        if rows.available is not None:
            logits = logits.masked_fill(~rows.available, _NEVER)
        return logits.log_softmax(-1)

    @torch.no_grad()
    def _old_log_probs(self, rows: _Rows, epsilon: Tensor) -> Tensor:
        """Of the actions taken, ``[n, M]``, with or without the random ones' share."""
        own = self._log_probs(rows).gather(-1, rows.actions)[..., 0]
        if self.settings.random_actions == "ignore":
            return own
        choices = float(self.actor.last_bias.shape[-1])
        if rows.available is not None:
            return ((1 - epsilon) * own.exp() + epsilon / rows.available.sum(-1)).log()
        return ((1 - epsilon) * own.exp() + epsilon / choices).log()

    @torch.no_grad()
    def _estimate(
        self, episodes: Episodes, rewards: np.ndarray, valid: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Advantages and targets of the critics, float32 ``[n, M]``."""
        states, observations = episodes.states, episodes.observations
        seen = np.arange(len(states))[:, None] <= episodes.lengths
        inputs = self._inputs(states[seen], None if observations is None else observations[seen])
        values = np.zeros((*states.shape[:2], self._n_agents), np.float32)
        values[seen] = self.critic(inputs)[..., 0].T.cpu().numpy()
        estimates = advantages(
            rewards,
            values,
            episodes.lengths,
            episodes.terminated,
            self.settings.gamma,
            self.settings.gae_lambda,
        )
        return self._columns(estimates[valid]), self._columns((estimates + values[:-1])[valid])

    def _imitation(self, episodes: Episodes) -> _Rows | None:
        """Steps of the latest successful episodes; None if there are none or no need."""
        self._wins.extend(episodes.success.tolist())
        if not self.settings.self_imitation:
            return None
        if episodes.success.any():
            new = episodes.select(episodes.success)
            known = new if self._imitated is None else Episodes.concatenate([self._imitated, new])
            oldest = max(0, len(known) - self.settings.imitated_episodes)
            self._imitated = known.select(np.arange(oldest, len(known)))
        often = sum(self._wins) >= self.settings.imitate_below * len(self._wins)
        if self._imitated is None or often:
            return None
        return self._rows(self._imitated, self._imitated.valid)

    # --- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Weights, state of Adam, recent wins, and the episodes to imitate."""
        return {
            **networks_state(self._optimizer, actor=self.actor, critic=self.critic),
            "wins": list(self._wins),
            "imitated": None if self._imitated is None else vars(self._imitated),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit; :meth:`reseed` then as well.

        Raises:
            StateError: if it was taken of networks of other sizes, or is not what that method
                returns; nothing is changed then.
        """
        networks = {"actor": self.actor, "critic": self.critic}
        with reading("this learner"):
            check_networks(state, self._optimizer, **networks)
            wins = [flag("wins", won) for won in state["wins"]]
            imitated = None if state["imitated"] is None else self._playable(state["imitated"])
        load_networks(state, self._optimizer, **networks)
        self._wins = deque(wins, maxlen=100)
        self._imitated = imitated

    def _playable(self, saved: Mapping[str, Any]) -> Episodes:
        """Episodes that these networks can learn from."""
        found = Episodes(**saved).checked(self._n_agents, self.actor.last_bias.shape[-1])
        of_state = self._one_hot is not None or found.observations is None
        inputs = found.states if of_state else found.observations
        if inputs is None or inputs.shape[-1] != self._n_inputs:
            raise ShapeError(f"the episodes have inputs of another length than {self._n_inputs}")
        return found


def clipped(ratio: Tensor, estimates: Tensor, clip: float) -> Tensor:
    """The objective per action: no gain from moving the ratio further than ``clip`` from 1.

    Reference: arXiv 1707.06347, equation 7.
    """
    return torch.minimum(ratio * estimates, ratio.clamp(1 - clip, 1 + clip) * estimates)


def _normalize(values: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """Mean 0 and deviation 1 per agent, over the rows of weight 1."""
    mean = (weights * values).sum(1, keepdim=True) / total
    centered = values - mean
    deviation = ((weights * centered.square()).sum(1, keepdim=True) / total).sqrt()
    return centered / (deviation + 1e-8)
