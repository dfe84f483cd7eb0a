"""Workers as actors of Ray, on a cluster of this machine."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ray")

import ray

from lemae.errors import ConfigError
from lemae.integrations.ray import RayWorkers
from lemae.integrations.shaping import Shaping
from lemae.integrations.workers import Worker, gather, worker_seed

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TESTS = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def task():
    """A small cluster whose processes find the module of the task."""
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "disabled")
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    patch.syspath_prepend(TESTS)
    paths = os.pathsep.join(sys.path)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield importlib.import_module("worker_task")
    ray.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def key_states(task):
    return task.key_states()


def weights_of(task):
    return task.make_actor(task.make_env())[1].state_dict()


def test_actors_play_what_the_worker_plays(task, key_states):
    shaping, alone, weights = Shaping(key_states), Shaping(key_states), weights_of(task)
    arguments = (task.make_env, task.make_actor, key_states)
    worker = Worker(*arguments, sticky=6)
    with RayWorkers(2, *arguments, sticky=6) as workers:
        for seed in range(2):
            memory = shaping.memory.to_json()
            rollouts = workers.collect(weights, shaping.memory, seed, step=seed)
            for i, rollout in enumerate(rollouts):
                local = worker.collect(weights, memory, worker_seed(seed, i), seed)
                assert rollout.memory == local.memory
                assert rollout.episodes.chains == local.episodes.chains
                np.testing.assert_array_equal(rollout.episodes.actions, local.episodes.actions)
                for chain, won in zip(local.episodes.chains, local.episodes.success, strict=True):
                    alone.remember(chain, success=bool(won), step=seed)
            assert len(gather(shaping, rollouts)) == 2 * task.COPIES
    assert shaping.memory.to_json() == alone.memory.to_json()
    assert ray.is_initialized()  # the cluster is not theirs


def test_a_worker_that_fails(task, key_states):
    with (
        RayWorkers(1, task.no_env, task.make_actor, key_states, num_cpus=0.5) as workers,
        pytest.raises(ray.exceptions.RayError, match="no game here"),
    ):
        workers.collect(weights_of(task), Shaping(key_states).memory, 0)
    with pytest.raises(ConfigError, match="count is 0"):
        RayWorkers(0, task.make_env, task.make_actor, key_states)


def test_a_worker_that_is_lost_is_started_anew(task, key_states):
    shaping, weights = Shaping(key_states), weights_of(task)
    arguments = (task.make_env, task.make_actor, key_states)
    with RayWorkers(1, *arguments) as workers:
        before = workers.collect(weights, shaping.memory, 0)
        ray.kill(workers._actors[0], no_restart=False)
        after = workers.collect(weights, shaping.memory, 0)
        np.testing.assert_array_equal(before[0].episodes.states, after[0].episodes.states)
