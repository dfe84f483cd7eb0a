"""Many workers, one memory: as if one process had played all their episodes."""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lemae import KSMT, ChainMemory, DagMemory, label
from lemae.algos.rollout import Episodes
from lemae.errors import ConfigError, IntegrityError, StateError
from lemae.integrations.shaping import Shaping
from lemae.integrations.workers import ProcessWorkers, Worker, gather, relabel, worker_seed
from lemae.labels import order


@pytest.fixture(scope="module")
def task():
    """The module that new processes import as well, from the path that they inherit."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    yield importlib.import_module("worker_task")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def key_states(task):
    return task.key_states()


@pytest.fixture
def weights(task):
    return task.make_actor(task.make_env())[1].state_dict()


def same(one, other):
    """Two lists of rollouts, bit for bit."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.memory, a.aborted) == (b.memory, b.aborted)
        assert a.episodes.chains == b.episodes.chains
        for name in ("states", "actions", "rewards", "lengths", "success", "random", "epsilon"):
            np.testing.assert_array_equal(getattr(a.episodes, name), getattr(b.episodes, name))


@pytest.mark.parametrize("kind", ["tree", "dag", "chain"])
@pytest.mark.parametrize("swap", [False, True])
def test_merged_memory_is_that_of_one_process(task, key_states, weights, kind, swap):
    worker = [
        Worker(task.make_env, task.make_actor, key_states, memory=kind, sticky=6) for _ in range(2)
    ]
    shaping = Shaping(key_states, kind)
    alone = Shaping(key_states, kind)
    for iteration in range(3):
        rollouts = [
            worker[i].collect(weights, shaping.memory.to_json(), 2 * iteration + i, step=iteration)
            for i in range(2)
        ]
        episodes = gather(shaping, rollouts[::-1] if swap else rollouts)
        assert len(episodes) == 2 * task.COPIES
        for rollout in rollouts:
            played = rollout.episodes
            assert played.chains == label(key_states, played.states, played.lengths)
            for chain, success in zip(played.chains, played.success, strict=True):
                alone.remember(chain, success=bool(success), step=iteration)
    mine, theirs = shaping.memory, alone.memory
    assert mine.episodes == 6 * task.COPIES
    assert mine.met[0] > 0
    for name in ("episodes", "successes", "met", "succeeded", "pruned", "allowed"):
        assert getattr(mine, name) == getattr(theirs, name), name
    if kind != "chain":
        assert mine.to_json() == theirs.to_json()
    elif not swap:  # its averages weigh episodes by how recent they are
        for name, value in theirs.state_dict().items():
            rounded = pytest.approx(value) if name in ("totals", "weights") else value
            assert mine.state_dict()[name] == rounded


def test_a_rollout_depends_on_what_is_sent_alone(task, key_states, weights):
    one, other = (Worker(task.make_env, task.make_actor, key_states) for _ in range(2))
    memory = KSMT(2).to_json()
    first = one.collect(weights, memory, 5)
    for seed in range(3):
        one.collect(weights, memory, seed)
    same([one.collect(weights, memory, 5)], [first])
    same([other.collect(weights, memory, 5)], [first])
    assert not np.array_equal(
        one.collect(weights, memory, 6).episodes.actions, first.episodes.actions
    )
    changed = {name: torch.randn_like(weight) for name, weight in weights.items()}
    solved = KSMT(2)
    solved.insert((0, 1), success=True)
    sure = one.collect(changed, solved.to_json(), 5).episodes
    assert not sure.random.any()  # explored no more
    assert first.episodes.random[first.episodes.valid].all()


def test_rewards_are_computed_by_the_learner(task, key_states, weights):
    shaping = Shaping(key_states, alpha=10, beta=0.5)
    worker = Worker(task.make_env, task.make_actor, key_states, sticky=6)
    rollouts = [worker.collect(weights, shaping.memory.to_json(), seed) for seed in range(4)]
    episodes = gather(shaping, rollouts)
    assert shaping.relabeler.bank.count(0) == shaping.memory.met[0]
    rng = shaping.state_dict()
    wanted = shaping.relabel(
        episodes.states, episodes.rewards, episodes.lengths, episodes.success, episodes.chains
    )
    shaping.load_state_dict(rng)
    np.testing.assert_array_equal(relabel(shaping, episodes), wanted.rewards)
    assert np.abs(wanted.rewards).sum() > 0


def test_aborted_episodes_are_counted(task, key_states, weights):
    worker = Worker(task.make_env_that_aborts, task.make_actor, key_states)
    for _ in range(2):
        rollout = worker.collect(weights, KSMT(2).to_json(), 0)
        assert rollout.aborted == 1
        assert len(rollout.episodes) == task.COPIES - 1
        assert KSMT.from_json(rollout.memory).episodes == task.COPIES - 1


def test_seeds_of_workers_differ():
    assert len({worker_seed(seed, i) for seed, i in itertools.product(range(10), range(10))}) == 100


def test_errors(task, key_states, weights):
    worker = Worker(task.make_env, task.make_actor, key_states)
    with pytest.raises(StateError, match="chain memory"):
        worker.collect(weights, ChainMemory(2).to_json(), 0)
    rollout = worker.collect(weights, KSMT(2).to_json(), 0)
    with pytest.raises(StateError, match="tree memory"):
        gather(Shaping(key_states, DagMemory(2)), [rollout])
    with pytest.raises(ConfigError, match="make both alike"):
        gather(Shaping(key_states, KSMT(2, max_nodes=5)), [rollout])
    broken = rollout._replace(memory=rollout.memory.replace('"episodes": 3', '"episodes": 4'))
    with pytest.raises(IntegrityError):
        gather(Shaping(key_states), [broken])
    with pytest.raises(ConfigError, match="count is 0"):
        ProcessWorkers(0, task.make_env, task.make_actor, key_states)


# --- in processes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_play_what_the_worker_plays(task, key_states, weights):
    shaping = Shaping(key_states)
    arguments = (task.make_env, task.make_actor, key_states)
    worker = Worker(*arguments, sticky=6)
    with ProcessWorkers(2, *arguments, sticky=6) as workers:
        for seed in range(2):
            rollouts = workers.collect(weights, shaping.memory, seed, step=seed)
            memory = shaping.memory.to_json()
            same(
                rollouts,
                [worker.collect(weights, memory, worker_seed(seed, i), seed) for i in range(2)],
            )
            assert len(gather(shaping, rollouts)) == 2 * task.COPIES
    assert shaping.memory.episodes == 4 * task.COPIES


@pytest.mark.slow
def test_processes_that_fail(task, key_states, weights):
    with (
        ProcessWorkers(1, task.no_env, task.make_actor, key_states) as workers,
        pytest.raises(FileNotFoundError, match="no game here"),
    ):
        workers.collect(weights, KSMT(2), 0)
    with (
        ProcessWorkers(1, task.make_env, task.make_actor_that_dies, key_states) as workers,
        pytest.raises(StateError, match="exit code 7"),
    ):
        workers.collect(weights, KSMT(2), 0)


def test_learning(task, key_states):
    """The loop of the module's docstring, with workers of this process."""
    workers = [Worker(task.make_env, task.make_actor, key_states, sticky=4) for _ in range(2)]
    learner, policy = task.make_actor(task.make_env())
    shaping = Shaping(key_states, beta=1)
    wins = []
    for iteration in range(25):
        memory = shaping.memory.to_json()
        rollouts = [
            worker.collect(policy.state_dict(), memory, worker_seed(iteration, i))
            for i, worker in enumerate(workers)
        ]
        episodes = gather(shaping, rollouts)
        assert isinstance(episodes, Episodes)
        learner.update(episodes, relabel(shaping, episodes))
        wins.append(episodes.success.mean())
    assert np.mean(wins[-5:]) > np.mean(wins[:5]) + 0.3
    assert [order(chain) for chain in episodes.chains]
