"""Rollouts in many processes, one memory: workers play, the learner merges and rewards.

A worker has copies of the task, the policy as it was sent, and the memory as it was sent. What it
brings back is raw: whole episodes with the key states that they met, and a memory of these episodes
alone. Memories add up (:meth:`lemae.ksmt.Memory.merge`), so the learner has the one of a single
process that played all the episodes itself, whoever played them. Rewards are computed by the
learner, which knows what all workers have met.

Here for the processes of one machine; :mod:`lemae.integrations.ray` has them on many::

    def make_env():
        return lemae.envs.make("pass", num_envs=8)

    def make_actor(env):
        learner = IPPO(env.n_agents, env.n_actions, env.d, n_values=env.n_values)
        return learner, learner.actor  # who acts, and whose weights are sent

    shaping = Shaping(KeyStateSet.shipped("pass"))
    with ProcessWorkers(2, make_env, make_actor, shaping.key_states) as workers:
        learner, policy = make_actor(make_env())
        for iteration in range(1000):
            rollouts = workers.collect(policy.state_dict(), shaping.memory, seed=iteration)
            episodes = gather(shaping, rollouts)
            learner.update(episodes, relabel(shaping, episodes))
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from lemae._seeds import Purpose, number
from lemae.algos.rollout import Actor, Collector, Episodes, VectorEnvLike
from lemae.errors import ConfigError, StateError
from lemae.explore import KsmtExplorer, RandomActions
from lemae.integrations.shaping import Shaping
from lemae.key_states import KeyStateSet
from lemae.ksmt import Memory, make_memory
from lemae.labels import Labeler, order

if TYPE_CHECKING:
    from typing_extensions import Self


class Weights(Protocol):
    """Whatever takes the weights that are sent, such as a network of torch."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take them."""


MakeEnv: TypeAlias = Callable[[], VectorEnvLike]
MakeActor: TypeAlias = Callable[[VectorEnvLike], "tuple[Actor, Weights]"]


class Rollout(NamedTuple):
    """What a worker brings.

    Attributes:
        episodes: with their chains; rewards are the environment's.
        memory: of these episodes alone, in the form of :meth:`lemae.ksmt.Memory.to_json`.
        aborted: episodes that broke off and are not among them.
    """

    episodes: Episodes
    memory: str
    aborted: int


class Worker:
    """Plays whole episodes by the policy and the memory that it is sent.

    Its rollouts depend on its arguments and on nothing that it did before.

    Args:
        make_env: makes the copies of the task.
        make_actor: from the copies to who acts, and to what its weights are loaded into.
        key_states: to be labelled.
        memory: kind of the memory.
        max_nodes: of a tree or graph.
        eps_low: share of random actions where the policy acts.
        eps_high: share of random actions where the team explores.
        rule: of :class:`lemae.KsmtExplorer`.
        sticky: mean number of steps a random action is kept; None draws at every step.
        edge: of :class:`lemae.Labeler`.
    """

    def __init__(
        self,
        make_env: MakeEnv,
        make_actor: MakeActor,
        key_states: KeyStateSet,
        *,
        memory: str = "tree",
        max_nodes: int = 10_000,
        eps_low: float = 0.0,
        eps_high: float = 1.0,
        rule: Any = "degree",
        sticky: float | None = None,
        edge: bool = True,
    ) -> None:
        self._env = make_env()
        self._actor, self._weights = make_actor(self._env)
        self._memory = (memory, len(key_states), max_nodes)
        self._explore = {"eps_low": eps_low, "eps_high": eps_high, "rule": rule}
        self._sticky = sticky
        self._collector = Collector(self._env, Labeler(key_states, self._env.num_envs, edge=edge))

    def collect(self, weights: Any, memory: str, seed: int, step: int | None = None) -> Rollout:
        """Play an episode in every copy.

        Args:
            weights: of the policy, as its ``state_dict()`` gave them.
            memory: to explore by, as :meth:`lemae.ksmt.Memory.to_json` gave it.
            seed: of everything that is drawn.
            step: environment steps so far, for the record of when something was first met.
        """
        env, new = self._env, make_memory(*self._memory)
        self._weights.load_state_dict(weights)
        known = type(new).from_json(memory)
        before = self._collector.aborted
        episodes = self._collector.collect(
            self._actor,
            seed=number(Purpose.START, seed),
            explorer=KsmtExplorer(
                known, env.num_envs, seed=number(Purpose.EPSILON, seed), **self._explore
            ),
            mixer=RandomActions(
                env.num_envs,
                env.n_agents,
                env.n_actions,
                sticky=self._sticky,
                seed=number(Purpose.RANDOM_ACTIONS, seed),
            ),
        )
        for chain, success in zip(episodes.chains, episodes.success.tolist(), strict=True):
            new.insert(order(chain), success=success, step=step)
        return Rollout(episodes, new.to_json(), self._collector.aborted - before)


class ProcessWorkers:
    """Workers in processes of this machine, one thread each.

    The processes are started anew, not forked: ``make_env`` and ``make_actor`` have to be functions
    of a module, and the program that calls this needs its ``if __name__ == "__main__"``.

    Args:
        count: how many.
        *args: of :class:`Worker`.
        **kwargs: of :class:`Worker`.

    Raises:
        ConfigError: if there is no worker.
    """

    def __init__(self, count: int, *args: Any, **kwargs: Any) -> None:
        if count < 1:
            raise ConfigError(f"count is {count}: give the number of workers, at least 1")
        context = get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, args, kwargs), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def collect(
        self, weights: Any, memory: Memory, seed: int, step: int | None = None
    ) -> list[Rollout]:
        """A rollout of every worker, in their order.

        Args:
            weights: of the policy.
            memory: to explore by.
            seed: from which each worker gets one of its own.
            step: environment steps so far.

        Raises:
            StateError: if a process has died.
            Exception: whatever a worker raised.
        """
        text = memory.to_json()
        pairs = list(zip(self._processes, self._connections, strict=True))
        for index, (process, connection) in enumerate(pairs):
            # By value: torch would share the memory of tensors between the processes.
            job = pickle.dumps((weights, text, worker_seed(seed, index), step))
            _talk(process, connection.send, job)
        answers = [_talk(process, connection.recv) for process, connection in pairs]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def close(self) -> None:
        """End the processes."""
        for process, connection in zip(self._processes, self._connections, strict=True):
            connection.close()
            process.join(5)
            process.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def gather(shaping: Shaping, rollouts: Iterable[Rollout]) -> Episodes:
    """Let the learner know what its workers have seen; prune its memory at the first success.

    Args:
        shaping: of the learner. The rollouts must be new to it.
        rollouts: of all workers; their order changes nothing but that of the episodes, which
            instances a full bank keeps, and which episodes a chain memory takes for the latest.

    Returns:
        All episodes, side by side.

    Raises:
        ConfigError: if a worker has a memory of another kind or size.
        IntegrityError: if a memory was damaged on its way.
    """
    rollouts = list(rollouts)
    for rollout in rollouts:
        shaping.memory.merge(type(shaping.memory).from_json(rollout.memory))
    shaping.memory.prune()
    episodes = Episodes.concatenate([rollout.episodes for rollout in rollouts])
    shaping.relabeler.observe(episodes.states, episodes.chains)
    return episodes


def relabel(shaping: Shaping, episodes: Episodes) -> np.ndarray:
    """What episodes pay by what is known now, float64 ``[T, B]``."""
    return shaping.relabel(
        episodes.states, episodes.rewards, episodes.lengths, episodes.success, episodes.chains
    ).rewards


def worker_seed(seed: int, index: int) -> int:
    """The seed of a worker, by the seed of all and its place among them."""
    return number(Purpose.START, seed, index)


def _serve(connection: Connection, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """The life of a worker process: jobs in, rollouts or exceptions out, until nobody asks."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the learner
    worker = None
    while True:
        try:
            job = pickle.loads(connection.recv())
        except (EOFError, ConnectionResetError):
            return
        try:
            worker = worker or Worker(*args, **kwargs)
            connection.send(worker.collect(*job))
        except Exception as error:  # for the learner to raise
            connection.send(error)


def _talk(process: Any, do: Callable[..., Any], *args: Any) -> Any:
    """Send to a process or receive from it.

    Raises:
        StateError: if nobody is there.
    """
    try:
        return do(*args)
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        process.join(5)
        raise StateError(
            f"a worker process has ended (exit code {process.exitcode}): make new workers; nothing "
            "that was gathered is lost"
        ) from error
