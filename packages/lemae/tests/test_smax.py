"""The adapter against JaxMARL itself: its rules, its layout, its rewards."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("jaxmarl.environments.smax")

import jax

from lemae.errors import ConfigError, ShapeError, StateError, TaskError
from lemae.integrations import smax

pytestmark = pytest.mark.slow  # importing jaxmarl takes 15 s, compiling a scenario as long
N = 32
STAY = 4


@pytest.fixture(scope="module")
def env():
    """Shared, since it compiles for long; every test begins with a reset."""
    return smax.make("3m", N)


@pytest.fixture(scope="module")
def mixed():
    return smax.make("smacv2_5_units", N)


def fight(env):
    """Attack the first enemy in range, otherwise walk east."""
    attacks = env.available()[..., STAY + 1 :]
    return np.where(attacks.any(-1), attacks.argmax(-1) + STAY + 1, 1)


def random(env, rng):
    return (rng.random(env.available().shape) * env.available()).argmax(-1)


def play(env, act, seed=0):
    """Every step of one episode in all copies: before, what step returned."""
    state, _ = env.reset(seed=seed)
    steps = []
    for _ in range(env.episode_limit):
        before = state
        result = env.step(act(env))
        steps.append((before, *result))
        state = result[0]
        if (result[2] | result[3]).all():
            return steps
    raise AssertionError("an episode goes on after its limit")


def units(states, n_units):
    """Health, x, y, cooldown and six type bits of each unit."""
    return states[..., : 10 * n_units].reshape(*states.shape[:-1], n_units, 10)


@pytest.mark.parametrize("name", smax.names())
def test_layout_of_every_scenario(name):
    spec = smax.describe(name)
    n_enemies = spec.n_actions - 5
    n_units = spec.n_agents + n_enemies
    assert spec.d == 12 * n_units
    assert spec.actions[5] == "attack enemy 0"
    assert spec.state[10 * spec.n_agents].name == "enemy 0 health"
    assert spec.lows[10 * n_units : 11 * n_units].tolist() == [0] * spec.n_agents + [1] * n_enemies
    bits = units(spec.highs, n_units)[:, 4:].sum(1)
    assert set(bits) == ({6} if name.startswith("smacv2") else {1})


def test_known_sizes():
    assert smax.describe("5m_vs_6m").d == 132
    spec = smax.describe("3s_vs_5z")
    names = [entry.name for entry, high in zip(spec.state, spec.highs, strict=True) if high == 1]
    assert "ally 2 is a stalker" in names
    assert "enemy 4 is a zealot" in names
    assert "ally 2 is a zealot" not in names
    assert "sight 10" in spec.configuration


@pytest.mark.parametrize("which", ["env", "mixed"])
def test_states_are_what_the_task_says(which, request):
    env = request.getfixturevalue(which)
    rng = np.random.default_rng(0)
    spec, n_units = env.task_spec, len(env.task_spec.state) // 12
    kinds = set()
    for before, *_ in play(env, lambda env: random(env, rng)):
        # Units that collide push each other, at the edge a little beyond it.
        slack = np.where(["cooldown" in e.name or "health" in e.name for e in spec.state], 1e-5, 1)
        assert (before >= spec.lows - np.where(spec.integers, 0, slack)).all()
        assert (before <= spec.highs + np.where(spec.integers, 0, slack)).all()
        whole = before[:, spec.integers]
        np.testing.assert_array_equal(whole, np.round(whole))
        unit = units(before, n_units)
        alive = unit[..., 0] > 0
        assert (unit[~alive] == 0).all()
        kind = before[:, -n_units:].astype(int)
        np.testing.assert_array_equal(unit[..., 4:].argmax(-1)[alive], kind[alive])
        assert (unit[..., 4:].sum(-1) == alive).all()
        kinds |= set(kind.ravel().tolist())
    assert kinds == ({0} if which == "env" else set(range(6)))


def test_a_dead_unit_is_zeros_and_can_only_stay(env):
    state = play(env, fight)[-1][1]
    dead = units(state, 6)[:, :3, 0] == 0
    assert dead.any()
    may = env.available()
    np.testing.assert_array_equal(may[dead], np.eye(env.n_actions, dtype=bool)[[STAY] * dead.sum()])
    assert (env.observations()[dead] == 0).all()


def test_reward_is_for_the_last_enemy_alone(env):
    steps = play(env, fight)
    total = np.zeros(N)
    for _, state, reward, terminated, _, info in steps:
        ally, enemy = (units(state, 6)[:, team, 0].any(1) for team in (slice(3), slice(3, 6)))
        np.testing.assert_array_equal(reward, info["active"] & ally & ~enemy)
        np.testing.assert_array_equal(terminated, ~(ally & enemy))
        total += reward
    success = steps[-1][-1]["success"]
    np.testing.assert_array_equal(total, success)
    assert 0 < success.sum() < N  # both outcomes were seen
    assert not steps[-1][4].any()  # nothing was truncated


def test_own_reward_pays_for_damage(env):
    steps = play(env, fight)
    lost = np.zeros(N)
    for before, state, _, _, _, info in steps:
        np.testing.assert_array_equal(info["dense_reward"][~info["active"]], 0)
        health = [units(states, 6)[:, 3:, 0].sum(1) / 3 for states in (before, state)]
        won = info["success"] & info["active"]
        np.testing.assert_allclose(
            info["dense_reward"], health[0] - health[1] + won, rtol=1e-5, atol=1e-6
        )
        lost += info["dense_reward"]
    dense = smax.make("3m", N, sparse=False)
    np.testing.assert_allclose(sum(step[2] for step in play(dense, fight)), lost)


def test_like_jaxmarl_one_copy_at_a_time(env):
    """The same keys and actions, through the library's own functions."""
    steps = play(env, fight, seed=3)
    own = env._game.rules
    copy = 5
    key = np.random.SeedSequence(3).generate_state(2 * N).reshape(N, 2)[copy]
    key, now = jax.random.split(key)
    _, game = own.reset(now)
    env.reset(seed=3)
    for before, _, _, terminated, _, info in steps:
        world = np.array(own.get_world_state(game))
        world[3:60:10] = world[3:60:10].clip(0)
        np.testing.assert_allclose(before[copy], world, rtol=1e-5, atol=1e-5)
        seen = own.get_obs(game)
        np.testing.assert_allclose(
            env.observations(before)[copy], [seen[agent] for agent in own.agents], atol=1e-5
        )
        if not info["active"][copy]:
            break
        actions = fight(env)
        key, now = jax.random.split(key)
        by_agent = dict(zip(own.agents, actions[copy], strict=True))
        _, game, rewards, dones, _ = own.step_env(now, game, by_agent)
        np.testing.assert_allclose(info["dense_reward"][copy], rewards["ally_0"], atol=1e-6)
        assert bool(dones["__all__"]) == terminated[copy]
        env.step(actions)


def test_moves_are_as_described(env):
    state, _ = env.reset(seed=0)
    for action, (dx, dy) in enumerate([(0, 1), (1, 0), (0, -1), (-1, 0), (0, 0)]):
        start, _ = env.reset(seed=0)
        np.testing.assert_array_equal(start, state)
        moved = env.step(np.full((N, 3), action))[0]
        way = (units(moved, 6) - units(start, 6))[:, :3, 1:3].mean((0, 1))
        assert np.sign(np.round(way, 1)).tolist() == [dx, dy], env.task_spec.actions[action]


def test_out_of_steps_is_no_end_of_the_task():
    env = smax.make("3m", N, episode_limit=5)
    assert env.task_spec.episode_limit == 5
    steps = play(env, lambda env: np.full((N, 3), STAY))
    assert len(steps) == 5
    _, _, reward, terminated, truncated, info = steps[-1]
    assert truncated.all()
    assert [flag.any() for flag in (terminated, reward, info["success"])] == [False] * 3


def test_a_copy_that_is_over_stays(env):
    play(env, fight)
    state, seen, may = env.state(), env.observations(), env.available()
    after, reward, terminated, truncated, info = env.step(np.zeros((N, 3), int))
    np.testing.assert_array_equal(after, state)
    np.testing.assert_array_equal(env.observations(after), seen)
    np.testing.assert_array_equal(env.available(), may)
    assert (terminated | truncated).all()
    flags = (reward, info["active"], info["dense_reward"])
    assert [flag.any() for flag in flags] == [False] * 3


def test_some_copies_begin_anew(env):
    ended = play(env, fight)[-1][1]
    mask = np.arange(N) % 2 == 0
    state, info = env.reset(envs=mask)
    np.testing.assert_array_equal(state[~mask], ended[~mask])
    assert (units(state, 6)[mask][..., 0] == 1).all()
    assert not info["success"][mask].any()
    active = env.step(fight(env))[-1]["active"]
    np.testing.assert_array_equal(active, mask)


def test_seeds(env):
    one = play(env, fight, seed=2**62)
    again = play(env, fight, seed=2**62)
    assert len(one) == len(again)
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a[1], b[1])
    assert not np.array_equal(env.reset()[0], env.reset()[0])
    assert not np.array_equal(env.reset(seed=0)[0], env.reset(seed=1)[0])
    state, _ = env.reset(seed=0)
    assert len(np.unique(state, axis=0)) == N
    fresh = smax.make("3m", N, seed=7)
    np.testing.assert_array_equal(fresh.reset()[0], env.reset(seed=7)[0])


def test_one_compilation_per_shape(env):
    play(env, fight)
    env.reset(envs=[1, 2])
    env.step(fight(env))
    game = smax.make("3m", N)._game
    assert game is env._game
    assert (game.begin._cache_size(), game.step._cache_size()) == (1, 1)


def test_errors(env):
    with pytest.raises(TaskError, match=r"did you mean .*5m_vs_6m"):
        smax.make("5m_vs_7m")
    with pytest.raises(TaskError, match="choose from"):
        smax.make("x")
    with pytest.raises(TaskError, match="episode_limit of the task 'smax-3m' is 0"):
        smax.make("3m", episode_limit=0)
    with pytest.raises(ConfigError, match="num_envs is 0"):
        smax.make("3m", 0)
    with pytest.raises(ConfigError, match="seed is -1"):
        smax.make("3m", seed=-1)
    with pytest.raises(ConfigError, match=r"call reset\(\) first"):
        smax.make("3m", 2).step(np.zeros((2, 3), int))
    with pytest.raises(ConfigError, match="reset all of them first"):
        smax.make("3m", 2).reset(envs=[0])
    state, _ = env.reset()
    with pytest.raises(StateError, match="another state"):
        env.observations(state + 1)
    with pytest.raises(ShapeError, match=r"\(32, 3\)"):
        env.step(np.zeros((N, 2), int))
    with pytest.raises(ConfigError, match="actions hold 8"):
        env.step(np.full((N, 3), 8))
    with pytest.raises(ConfigError, match="whole numbers"):
        env.step(np.zeros((N, 3)))


def test_import_says_nothing_and_leaves_stdout_alone():
    code = "import sys; out = sys.stdout\nfrom lemae.integrations import smax\n"
    code += "assert sys.stdout is out is sys.__stdout__; print('quiet')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "quiet\n"
