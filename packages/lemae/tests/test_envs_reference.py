"""Every grid task, step for step, against a slow reference written from the rules."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from lemae.envs import make, names

# Test modules cannot import each other under --import-mode=importlib.
reference = runpy.run_path(str(Path(__file__).with_name("reference_grid.py")))["reference"]

VARIANTS = [
    *((name, {}) for name in names()),
    ("pass", {"size": 10}),
    ("pass", {"size": 25}),
    ("pass", {"size": 20}),
    ("pass-single", {"size": 37}),
    *(("secret-room", {"target_room": room, "compat": "exact"}) for room in (1, 2, 3)),
    ("secret-room-single", {"target_room": 2, "compat": "exact"}),
]


def sticky(rng, steps, copies, agents):
    """Random walks that keep a direction for about six steps, and so get around."""
    actions = rng.integers(0, 4, (steps, copies, agents))
    keep = rng.random(actions.shape) > 1 / 6
    for t in range(1, steps):
        actions[t][keep[t]] = actions[t - 1][keep[t]]
    return actions


def compare(env, copies, actions):
    """Step both forms; a copy that has ended is stepped on and must not change."""
    ended = np.zeros(len(copies), bool)
    last = {}
    for joint in actions:
        state, reward, terminated, truncated, info = env.step(joint)
        np.testing.assert_array_equal(info["active"], ~ended)
        for i, copy in enumerate(copies):
            if ended[i]:
                assert reward[i] == 0
                continue
            expected = copy.step(joint[i].tolist())
            assert (state[i].tolist(), reward[i], terminated[i], truncated[i]) == expected
        for i in np.flatnonzero(ended):
            assert (state[i].tolist(), terminated[i], truncated[i]) == last[i]
        ended |= terminated | truncated
        last = {i: (state[i].tolist(), terminated[i], truncated[i]) for i in np.flatnonzero(ended)}
    return ended


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_whole_episodes(name, options):
    """From the start to the limit, and on."""
    env = make(name, 4, seed=3, **options)
    states, _ = env.reset()
    copies = [reference(name, **options) for _ in range(4)]
    for copy, state in zip(copies, states, strict=True):
        copy.begin(state.tolist())
        if hasattr(copy, "start_state"):
            assert copy.start_state() == state.tolist()
        copy.limit = env.episode_limit
    rng = np.random.default_rng(5)
    assert compare(env, copies, sticky(rng, env.episode_limit + 3, 4, env.n_agents)).all()


def anywhere(env, rng, count):
    """States drawn from all that can be and are not yet the end, every other one at a door."""
    doors = np.argwhere(env.grid_map.doors)[:, ::-1]
    lows, highs = env.task_spec.lows.astype(int), env.task_spec.highs.astype(int)
    found = []
    while len(found) < count:
        state = rng.integers(lows, highs + 1)
        if len(found) % 2 and len(doors):
            apart = rng.integers(-1, 2, (env.n_agents, 2))
            state[: 2 * env.n_agents] = (rng.choice(doors) + apart).reshape(-1)
        try:
            env.reset_to(state)
        except ValueError:
            continue
        found.append(state)
    return np.array(found)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_from_anywhere(name, options):
    """Short walks from random states: doors, water and goals that no start would lead to."""
    rng = np.random.default_rng(8)
    starts = anywhere(make(name, **options), rng, 150)
    if name.startswith("push-box"):  # near the box, or it would hardly ever move
        starts[:, : starts.shape[1] - 2] = np.tile(
            starts[:, -2:] - [2, 0], starts.shape[1] // 2 - 1
        )
        starts = starts[starts[:, 0] >= 0]
    env = make(name, len(starts), **options)
    env.reset_to(starts)
    copies = [reference(name, **options) for _ in starts]
    for copy, state in zip(copies, starts.tolist(), strict=True):
        copy.begin(state)
    actions = sticky(rng, 40, len(starts), env.n_agents)
    if name == "push-box":  # two random agents seldom agree
        actions[..., 1] = np.where(rng.random(actions.shape[:2]) < 0.8, actions[..., 0], 0)
    ended = compare(env, copies, actions)
    assert ended.any()
