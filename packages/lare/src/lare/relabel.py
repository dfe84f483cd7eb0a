"""Steps in, episodes kept, rewards out: what an RL algorithm talks to."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lare._kit import seeded
from lare.decoder import RewardDecoder
from lare.episodes import EpisodeStore, Weighting
from lare.errors import ConfigError, LareWarning, ShapeError, StateError
from lare.features import Features
from lare.latent_reward import LatentReward
from lare.models import Decomposition, Loss
from lare.normalizer import Normalizer
from lare.task import numbers, sizes
from lare.transitions import Transitions

T = TypeVar("T", Tensor, np.ndarray)

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.spaces import Space


class Relabeler:
    """Learns a reward for every step from the returns of episodes, while they come in.

    Each step is turned into factors once, when it is observed, and only these are kept. Learning
    and relabelling read the stored factors: no generated code runs there.

    Args:
        features: a :class:`LatentReward`, or :class:`RawFeatures` for the methods without one.
        observation_space: of one environment; a one-dimensional Box.
        action_space: of one environment; a one-dimensional Box or Discrete.
        model: what is trained, a :class:`lare.models.RewardModel`, or a function from the number
            of factors to one. None is a decoder, by ``decoder`` and ``loss``.
        decoder: keyword arguments of :class:`RewardDecoder`. Without these and without ``loss`` it
            is linear, solved in closed form with as few factors as explain the returns (kind
            ``"sparse"``), which takes the fewest episodes; with one of them it is an MLP, as
            published.
        loss: of a decoder that is trained, see :class:`Decomposition`; None is
            ``"rrd-unbiased"``.
        k: steps that the random losses draw per episode.
        batch_steps: steps per update; an update takes ``batch_steps / k`` episodes with a random
            loss, and ``batch_steps`` over the mean length otherwise.
        episodes: per update, in place of what ``batch_steps`` says.
        update_every: steps on the loss are taken in the first of so many updates.
        capacity: steps kept per environment. A replay buffer sets its own, see :meth:`attach`.
        n_envs: environments that step together.
        lr: of Adam.
        normalize: pay rewards of standard deviation 1, and of mean 0 as long as no episode was seen
            to terminate, see :class:`Normalizer`. The critic then learns much faster; what is the
            best policy stays.
        weighting: how episodes are drawn, see :meth:`EpisodeStore.sample`.
        solve_every: a closed form is solved anew when there are a tenth more episodes, or any more
            after so many updates.
        device: of the model; factors are kept on the CPU.
        seed: of the first weights and of every draw.

    Example:
        >>> import gymnasium
        >>> from lare import LatentReward, Relabeler
        >>> env = gymnasium.make("Pendulum-v1")
        >>> relabeler = Relabeler(
        ...     LatentReward.shipped("Pendulum-v1"), env.observation_space, env.action_space
        ... )
        >>> observation, _ = env.reset(seed=0)
        >>> action = env.action_space.sample()
        >>> relabeler.relabel(observation[None], action[None], observation[None]).shape
        (1,)

    Reference: arXiv 2412.11120, Algorithm 1.
    """

    def __init__(
        self,
        features: Features,
        observation_space: Space[Any],
        action_space: Space[Any],
        *,
        model: Decomposition | Any = None,
        decoder: dict[str, Any] | None = None,
        loss: Loss | None = None,
        k: int = 64,
        batch_steps: int = 256,
        episodes: int | None = None,
        update_every: int = 1,
        capacity: int = 1_000_000,
        n_envs: int = 1,
        lr: float = 3e-4,
        normalize: bool = True,
        weighting: Weighting = "uniform",
        solve_every: int = 100,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self.features = features
        self.observation_space = observation_space
        self.action_space = action_space
        self.n_observations, self.n_actions, _ = sizes(observation_space, action_space)
        self.n_factors = self._probe()
        if update_every < 1 or (episodes is not None and episodes < 1):
            raise ConfigError(
                f"episodes={episodes}, update_every={update_every}: give at least 1 of each"
            )
        self.batch_steps = batch_steps
        self.episodes = episodes
        self.update_every = update_every
        self.weighting = weighting
        self.solve_every = solve_every
        self.device = torch.device(device)
        self.updates = 0
        self._solved_loss = self._last_loss = float("nan")
        self._solved_at, self._solved_updates = 0, 0  # episodes ended and updates done then
        self._forgotten, self._warned = 0, False
        self.normalizer = Normalizer() if normalize else None
        self._shown = 0  # rows that the model's statistics are made of
        self._numpy, self._torch = _generators(seed, self.device)
        if model is not None and decoder is not None:
            raise ConfigError("give model= or decoder=, not both: a model has its own decoder")
        with seeded(seed):
            if model is None:
                model = _decomposition(self.n_factors, decoder, loss, k)
            elif not isinstance(model, torch.nn.Module):
                model = model(self.n_factors)
        self.model: Any = model.to(self.device)
        # As a group: a bare empty list, of a model without parameters, would be refused.
        self._optimizer = torch.optim.Adam([{"params": list(self.model.parameters())}], lr)
        self.store = EpisodeStore(capacity, (self.n_factors,), n_envs)
        self._reset_running()

    @classmethod
    def for_env(
        cls, env: gymnasium.Env[Any, Any], features: Features | None = None, **options: Any
    ) -> Relabeler:
        """Build one for an environment.

        Args:
            env: its id chooses the shipped latent reward, unless ``features`` is given.
            features: a latent reward of your own.
            options: as of the class.

        Raises:
            ConfigError: if none is shipped for the environment.
        """
        plain = env.unwrapped
        if (env.observation_space, env.action_space) != (
            plain.observation_space,
            plain.action_space,
        ):
            warnings.warn(
                "a wrapper changes observations or actions of this environment: a latent reward "
                "reads them raw, so put such wrappers outside and pass their raw values to observe",
                LareWarning,
                stacklevel=2,
            )
        if features is None:
            name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
            features = LatentReward.shipped(name)
        return cls(features, env.observation_space, env.action_space, **options)

    def _probe(self) -> int:
        """Number of factors: that of one step of zeros."""
        if not callable(self.features):
            raise ConfigError(
                f"features is {self.features!r}: give LatentReward(source), or "
                "LatentReward.from_source(path) for a file"
            )
        zeros = np.zeros((1, self.n_observations)), np.zeros((1, self.n_actions))
        found = self.features(zeros[0], zeros[1], zeros[0])
        if getattr(found, "ndim", 0) != 2:
            raise ConfigError(
                f"features gave {found!r} for one step: give a function that returns one array "
                "[B, D]; code that returns a list of factors belongs into LatentReward(source)"
            )
        return int(found.shape[1])

    def _reset_running(self) -> None:
        n_envs = self.store.n_envs
        self._last = np.zeros((n_envs, self.n_observations), dtype=np.float32)
        self._running = np.zeros(n_envs, dtype=bool)  # whether the next step goes on from there
        self._was_done = np.zeros(n_envs, dtype=bool)

    def attach(self, capacity: int, n_envs: int) -> None:
        """Start an empty store of a replay buffer's size, so that rows have the same numbers.

        What the decoder has learned stays, so that a model that was loaded without its replay
        buffer goes on with it.
        """
        self.store = EpisodeStore(capacity, (self.n_factors,), n_envs)
        self._solved_at = 0
        self._reset_running()

    def reset(self, envs: Any = None) -> None:
        """Say that environments were reset in the midst of an episode, which is forgotten.

        Args:
            envs: index, indices or bool mask; None for all.
        """
        chosen = np.arange(self.store.n_envs) if envs is None else np.atleast_1d(envs)
        if chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        for env in chosen:
            self.store.abandon(int(env))
        self._running[chosen] = False
        self._was_done[chosen] = False

    # --- steps in --------------------------------------------------------------------------------

    def observe(
        self,
        observation: Any,
        action: Any,
        next_observation: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        *,
        real: Any = None,
    ) -> int:
        """Take in one step of every environment.

        Args:
            observation: ``[n_envs, S]``, raw; ``[S]`` for a single environment.
            action: ``[n_envs, A]``, as given to the environment; ``[n_envs]`` for discrete ones.
            next_observation: where the step ended: at the end of an episode its last observation,
                not the first one after the reset.
            reward: ``[n_envs]``, finite; only the sum over an episode is used.
            terminated: bool ``[n_envs]``.
            truncated: bool ``[n_envs]``.
            real: bool ``[n_envs]``, False where a vector environment inserted a step after the
                end of an episode, ``infos["lare/real_step"]`` of
                :class:`lare.envs.EpisodicRewardVector`. None recognises these by themselves: they
                start where the episode ended and pay 0.

        Returns:
            The row under which the step is stored.

        Raises:
            ShapeError: if a shape is another.
            ConfigError: if a reward is not finite.

        Say :meth:`reset` when an environment is reset in the midst of an episode. Without it a
        running episode is forgotten where a step does not start where the one before ended.
        """
        start, actions, end = self._rows(observation, action, next_observation)
        done = np.reshape(np.logical_or(terminated, truncated), -1)
        rewards = np.reshape(np.asarray(reward, dtype=np.float64), -1)
        if len(start) != self.store.n_envs:
            raise ShapeError(
                f"the step is of {len(start)} environments: this relabeler was built for "
                f"n_envs={self.store.n_envs}"
            )
        if not np.isfinite(rewards).all():
            raise ConfigError(
                f"the rewards are {rewards}: the return of the episode has to be finite. Clip the "
                "rewards, or leave the episode out with reset()"
            )
        # In one dtype: what was stored as float32 by the caller is compared with its own rounding.
        continued = (start.astype(np.float32) == self._last).all(axis=1)
        inserted = continued & self._was_done & ~done & (rewards == 0)
        if real is not None:
            inserted = ~np.reshape(np.asarray(real, dtype=bool), -1)
        self._forget(np.flatnonzero(self._running & ~continued))
        if self.normalizer is not None and (np.reshape(terminated, -1) & ~inserted).any():
            self.normalizer.terminated()
        factors = torch.from_numpy(self.features(start, actions, end))
        row = self.store.add(factors, rewards, done & ~inserted)
        self._learn_statistics()
        for env in np.flatnonzero(inserted):
            self.store.abandon(int(env))
        self._last = end.astype(np.float32)
        self._was_done = done & ~inserted
        self._running = ~done & ~inserted
        return row

    def _forget(self, envs: np.ndarray) -> None:
        """Drop running episodes, and say so if that is what happens to most of them."""
        for env in envs:
            self.store.abandon(int(env))
        self._forgotten += len(envs)
        if self._forgotten >= 20 and self._forgotten > 5 * self.store.ended and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._forgotten} running episodes were forgotten, because a step did not start "
                f"where the one before ended, and {self.store.ended} were kept: pass as "
                "next_observation where the step ended, unchanged, as the next step's observation",
                LareWarning,
                stacklevel=4,
            )

    def _learn_statistics(self) -> None:
        """Show the model new rows when their number has doubled: next to nothing per step."""
        written = min(self.store.added, self.store.capacity)
        if written > self._shown and written >= 2 * self._shown:
            self.model.observe(self.store.factors[self._shown : written])
            self._shown = written

    def observe_recorded(
        self, data: Transitions, ends: np.ndarray, *, terminated: bool = False
    ) -> None:
        """Take in recorded steps of one environment, in the order of time.

        Args:
            data: whole episodes one after the other.
            ends: bool ``[B]``, True at the last step of each.
            terminated: whether episodes can end before a time limit.

        The factors of all steps are computed in one call.
        """
        if self.store.n_envs != 1:
            raise ConfigError("recorded steps are of one environment: build with n_envs=1")
        factors = torch.from_numpy(self.features(*data[:3]))
        self.reset()
        if terminated and self.normalizer is not None:
            self.normalizer.terminated()
        for row, reward, end in zip(factors, data.reward, ends, strict=True):
            self.store.add(row[None], [reward], [end])
        self._learn_statistics()
        self.reset()

    def _rows(self, observation: Any, action: Any, next_observation: Any) -> tuple[np.ndarray, ...]:
        """One step per row, actions as numbers."""
        start, end = self._observations(observation), self._observations(next_observation)
        actions = np.asarray(action)
        if actions.ndim == len(self.action_space.shape or ()):
            actions = actions[None]
        actions = numbers(actions, self.action_space)
        if not len(start) == len(end) == len(actions):
            raise ShapeError(
                f"{len(start)} observations, {len(actions)} actions, {len(end)} next observations: "
                "give one of each per step"
            )
        return start, actions, end

    def _observations(self, values: Any) -> np.ndarray:
        """Rows of observations; ``[..., S]`` or one of them."""
        rows = np.asarray(values)
        if rows.ndim == 0 or rows.shape[-1] != self.n_observations:
            raise ShapeError(
                f"observations have shape {rows.shape}: the last dimension of this environment's "
                f"is {self.n_observations}"
            )
        return rows.reshape(-1, self.n_observations)

    # --- learning --------------------------------------------------------------------------------

    def update(self, n: int = 1) -> float:
        """Take optimizer steps on stored episodes.

        Args:
            n: steps, at least 1.

        Returns:
            Mean loss; NaN as long as no episode has ended, when nothing is done.
        """
        if not len(self.store):
            return float("nan")
        losses = [self._update() for _ in range(n)]
        if self.normalizer is not None:
            self.normalizer.observe(self.store, self.model.rewards, self.updates, self.device)
        return float(np.mean(losses))

    def _update(self) -> float:
        self.updates += 1
        if getattr(self.model, "closed_form", False):
            self._solve()
            return self._solved_loss
        if (self.updates - 1) % self.update_every:
            return self._last_loss
        batch = self.store.sample(self._episodes(), self._numpy, weighting=self.weighting)
        batch = type(batch)(*(tensor.to(self.device) for tensor in batch))
        loss = self.model.loss(batch, self._torch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._last_loss = float(loss.detach())
        return self._last_loss

    def _solve(self) -> None:
        """Solve anew once there is more to learn from: a tenth more episodes, or after a while."""
        ended = self.store.ended
        due = self.updates - self._solved_updates >= self.solve_every
        if ended > self._solved_at and (due or ended >= 1.1 * self._solved_at):
            self._solved_loss = self.model.solve(self.store)
            self._solved_at, self._solved_updates = ended, self.updates

    def _episodes(self) -> int:
        """Episodes per update: as asked, else so that it costs about ``batch_steps`` steps."""
        if self.episodes is not None:
            return self.episodes
        kind = getattr(self.model, "kind", "rd")
        if kind in ("rrd", "rrd-unbiased"):
            return max(1, self.batch_steps // int(self.model.k))
        return max(1, round(self.batch_steps / self.store.mean_length))

    # --- rewards out -----------------------------------------------------------------------------

    @torch.no_grad()
    def relabel(self, observation: Any, action: Any, next_observation: Any) -> np.ndarray:
        """Rewards of steps that need not be stored; computes their factors.

        Args:
            observation: ``[B, S]``, raw.
            action: ``[B, A]`` or ``[B]`` of discrete ones.
            next_observation: ``[B, S]``.

        Returns:
            float32 ``[B]``, by the model as it is now.
        """
        rewards = self._predict(*self._rows(observation, action, next_observation))
        return self._paid(rewards)

    @torch.no_grad()
    def model_rewards(self, data: Transitions) -> np.ndarray:
        """What the model says of recorded steps, not normalized: float32 ``[B]``."""
        return self._predict(*data[:3])

    def _paid(self, rewards: T) -> T:
        return rewards if self.normalizer is None else self.normalizer(rewards)

    def _predict(self, *steps: np.ndarray) -> np.ndarray:
        factors = torch.from_numpy(self.features(*steps)).to(self.device)
        rewards: np.ndarray = self.model.rewards(factors).cpu().numpy()
        return rewards

    @torch.no_grad()
    def relabel_factors(self, factors: Tensor) -> Tensor:
        """Rewards of steps whose factors were kept by the caller.

        Args:
            factors: ``[..., D]``, rows of ``store.factors``.

        Returns:
            float32 ``[...]``, on the model's device.

        Raises:
            ConfigError: if the model looks at the episode a step is from (IRCR).
        """
        if hasattr(self.model, "rewards_of_rows"):
            raise ConfigError(
                f"{type(self.model).__name__} rewards a step by its episode: use relabel_rows"
            )
        rewards: Tensor = self.model.rewards(factors.to(self.device))
        return self._paid(rewards)

    @torch.no_grad()
    def relabel_rows(self, rows: Any, envs: Any) -> Tensor:
        """Rewards of stored steps, from their stored factors.

        Args:
            rows: int ``[B]``, as :meth:`observe` returned them.
            envs: int ``[B]``.

        Returns:
            float32 ``[B]``, on the model's device.
        """
        if hasattr(self.model, "rewards_of_rows"):
            rewards: Tensor = self.model.rewards_of_rows(self.store, rows, envs)
        else:
            rewards = self.model.rewards(self.store.lookup(rows, envs).to(self.device))
        return self._paid(rewards)

    def redraw(self, rows: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Let the model replace some of the rows that a replay buffer drew for a batch.

        Args:
            rows: int ``[B]``.
            envs: int ``[B]``.

        Returns:
            Rows and environments, ``[B]`` each; as given, but for IRCR.
        """
        if not hasattr(self.model, "redraw"):
            return rows, envs
        chosen: tuple[np.ndarray, np.ndarray] = self.model.redraw(
            self.store, rows, envs, self._numpy
        )
        return chosen

    def relabel_rollout(
        self, observations: Any, actions: Any, next_observations: Any
    ) -> np.ndarray:
        """Rewards of a rollout, to be called just before advantages are computed.

        Args:
            observations: ``[T, n_envs, S]``, raw.
            actions: ``[T, n_envs, ...]``.
            next_observations: ``[T, n_envs, S]``, at the end of an episode its last observation.

        Returns:
            float32 ``[T, n_envs]``.
        """
        shape = np.shape(observations)[:-1]
        flat = np.asarray(actions).reshape(-1, *(self.action_space.shape or ()))
        return self.relabel(observations, flat, next_observations).reshape(shape)

    # --- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer, episodes, running statistics and random generators."""
        return {
            "features": getattr(self.features, "sha256", None),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "store": self.store.state_dict(),
            "last": torch.from_numpy(self._last.copy()),
            "running": torch.from_numpy(self._running.copy()),
            "was_done": torch.from_numpy(self._was_done.copy()),
            "last_loss": self._last_loss,
            "solved": [self._solved_loss, self._solved_at, self._solved_updates],
            "normalizer": None if self.normalizer is None else self.normalizer.state_dict(),
            "updates": self.updates,
            "shown": self._shown,
            "numpy": self._numpy.bit_generator.state,
            "torch": self._torch.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if the state is of another latent reward, or of other sizes.
        """
        self._check_state(state)
        self.store.load_state_dict(state["store"])
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._last = state["last"].numpy().copy()
        self._running = state["running"].numpy().copy()
        self._was_done = state["was_done"].numpy().copy()
        self._last_loss = state["last_loss"]
        self._solved_loss, self._solved_at, self._solved_updates = state["solved"]
        if self.normalizer is not None:
            self.normalizer.load_state_dict(state["normalizer"])
        self.updates = state["updates"]
        self._shown = state["shown"]
        self._numpy.bit_generator.state = state["numpy"]
        self._torch.set_state(state["torch"])

    def _check_state(self, state: dict[str, Any]) -> None:
        """Refuse a state of something else before anything is changed."""
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise StateError(f"the state has no {', '.join(missing)}: it is not of a relabeler")
        mine = getattr(self.features, "sha256", None)
        if state["features"] != mine:
            raise StateError(
                f"the state was saved with the latent reward {state['features']}, this one is "
                f"{mine}: load that function first"
            )
        if (state["normalizer"] is None) != (self.normalizer is None):
            raise StateError(
                f"the state is of normalize={state['normalizer'] is not None}: build the relabeler "
                "so"
            )
        here, there = self.model.state_dict(), state["model"]
        if {k: v.shape for k, v in here.items()} != {k: v.shape for k, v in there.items()}:
            raise StateError(
                "the state is of another model: build the relabeler with the same decoder and loss"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Stable-Baselines3 pickles replay buffers, and this with them."""
        state = dict(self.__dict__)
        state["_torch"] = self._torch.get_state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The reverse of ``__getstate__``."""
        self.__dict__.update(state)
        generator = torch.Generator(self.device)
        generator.set_state(state["_torch"])
        self._torch = generator


def _decomposition(
    n_factors: int, decoder: dict[str, Any] | None, loss: Loss | None, k: int
) -> Decomposition:
    """The closed form, unless something was asked of a decoder that is trained."""
    options = dict(decoder or {})
    options.setdefault("kind", "sparse" if decoder is None and loss is None else "mlp")
    made = RewardDecoder(n_factors, **options)
    if made.closed_form and loss is not None:
        raise ConfigError(
            f"loss={loss!r} trains a decoder, kind={made.kind!r} solves one: give one of the two"
        )
    return Decomposition(made, loss or "rrd-unbiased", k)


def _generators(seed: int, device: torch.device) -> tuple[np.random.Generator, torch.Generator]:
    """Independent generators for the draw of episodes and for that of steps."""
    one, other = np.random.SeedSequence(seed).spawn(2)
    generator = torch.Generator(device)
    generator.manual_seed(int(other.generate_state(1, np.uint64)[0] >> 1))
    return np.random.default_rng(one), generator
