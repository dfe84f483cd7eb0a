"""The vectorised form against the PettingZoo form, and both against a slow reference."""

import numpy as np
import pytest

pytest.importorskip("mpe2")
pytest.importorskip("pettingzoo")

from lare.envs import ParallelMPE, VectorizedMPE, get_task, task_ids
from lare.errors import ConfigError


def crowded(task, rng):
    """A start with many contacts: everything in a fifth of the square, and moving."""
    shrink = 0.2 * task.radius
    return {
        "positions": rng.uniform(-shrink, shrink, (task.n_entities, 2)),
        "velocities": rng.uniform(-1, 1, (task.n_movers, 2)),
    }


def batch(states):
    return {key: np.stack([s[key] for s in states]) for key in ("positions", "velocities")}


@pytest.mark.parametrize("reward", ["dense", "episodic"])
@pytest.mark.parametrize("name", task_ids())
def test_both_forms_agree_at_every_step(name, reward):
    """Same start, same actions, a whole episode; one copy starts crowded, one as reset does."""
    task = get_task(name)
    rng = np.random.default_rng(7)
    singles = [ParallelMPE(task, reward=reward) for _ in range(2)]
    singles[0].reset(seed=1)
    singles[1].set_state(crowded(task, rng))
    vector = VectorizedMPE(task, 2, seed=0, reward=reward)
    vector.set_state(batch([single.get_state() for single in singles]))
    names = singles[0].possible_agents
    for step in range(task.horizon):
        actions = rng.integers(0, 5, (2, task.n_agents))
        observations, rewards, terminated, truncated, info = vector.step(actions)
        after = vector.get_state()
        for copy, single in enumerate(singles):
            chosen = dict(zip(names, actions[copy], strict=True))
            single_obs, single_rewards, ended, cut, single_infos = single.step(chosen)
            state = single.get_state()
            for key in ("positions", "velocities", "returns"):
                np.testing.assert_allclose(after[key][copy], state[key], rtol=0, atol=1e-9)
            for i, agent in enumerate(names):
                np.testing.assert_allclose(observations[copy, i], single_obs[agent], atol=1e-6)
                assert abs(rewards[copy, i] - single_rewards[agent]) < 1e-8
                true = single_infos[agent]["lare/true_reward"]
                assert abs(info["lare/true_reward"][copy, i] - true) < 1e-9
            assert set(ended.values()) == {False} == set(terminated.tolist())
            assert set(cut.values()) == {step == 24} == set(truncated.tolist())


def test_the_crowded_start_has_contacts():
    """Or else the test above would say little about them."""
    task = get_task("predator-prey-15")
    places = crowded(task, np.random.default_rng(7))["positions"]
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert (distances[:15, 15:20] < 0.125).any()
    assert (distances[:20, 20:] < 0.25).sum() > 20


def test_contact_force_by_hand():
    """Two agents 0.2 apart where 0.3 is contact: pushed with 100 * 0.1 for 0.1 s."""
    task = get_task("cooperative-navigation-6")
    places = np.array([[10.0 * i, 0.0] for i in range(12)])
    places[1] = [0.0, 0.2]
    env = VectorizedMPE(task, 1, seed=0)
    env.set_state({"positions": places[None], "velocities": np.zeros((1, 6, 2))})
    env.step(np.array([[0, 0, 1, 2, 3, 4]]))
    velocities = env.get_state()["velocities"][0]
    expected = [[0, -1], [0, 1], [-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]]
    np.testing.assert_allclose(velocities, expected, atol=1e-12)
    env.step(np.zeros((1, 6), int))
    moved = env.get_state()["positions"][0, :3] - places[:3]
    np.testing.assert_allclose(moved, [[0, -0.1], [0, 0.1], [-0.05, 0]], atol=1e-12)


@pytest.mark.parametrize(("team", "limit"), [(0, 1.0), (6, 1.3)])
def test_speed_limits(team, limit):
    env = VectorizedMPE("competitive-predator-prey-6", 4, seed=0)
    env.reset()
    for _ in range(20):
        env.step(np.full((4, 8), 4))
    speeds = np.linalg.norm(env.get_state()["velocities"], axis=-1)
    np.testing.assert_allclose(speeds[:, team].max(), limit)


# --- observations, written out from the published description -----------------------------------


def nearest(places, own, count):
    order = sorted(range(len(places)), key=lambda i: (np.hypot(*(places[i] - own)), i))
    return order[:count]


def slow_observation(name, places, speeds, agent):
    """What the description says, task by task; nothing of the package's tables is used."""
    own = places[agent]
    seen = [*speeds[agent], *own]
    if name.startswith("cooperative"):
        count = int(name.rsplit("-", 1)[1])
        marks, mates = places[count:], np.delete(places[:count], agent, 0)
        for group, shown in ((marks, 6), (mates, 5)):
            for i in nearest(group, own, shown):
                seen += [*(group[i] - own)]
    elif name.startswith("predator-prey"):
        count, preys, stones, preys_seen = {
            "6": (6, 2, 3, 2), "15": (15, 5, 4, 3), "30": (30, 10, 6, 5)
        }[name.rsplit("-", 1)[1]]  # fmt: skip
        prey, prey_speed = places[count : count + preys], speeds[count : count + preys]
        mates, marks = np.delete(places[:count], agent, 0), places[count + preys :]
        for group, shown in ((marks, stones), (mates, 5), (prey, preys_seen)):
            for i in nearest(group, own, shown):
                seen += [*(group[i] - own)]
        for i in nearest(prey, own, preys_seen):
            seen += [*prey_speed[i]]
    elif name.startswith("competitive"):
        hunters, preys = places[:6], places[6:8]
        groups = [places[8:], hunters, preys]
        groups[1 if agent < 6 else 2] = np.delete(
            *((hunters, agent, 0) if agent < 6 else (preys, agent - 6, 0))
        )
        for group in groups:
            for i in nearest(group, own, len(group)):
                seen += [*(group[i] - own)]
        seen += [float(i == agent) for i in range(8)]
    else:
        for mark in places[3:]:
            seen += [*(mark - own)]
        for other in sorted(np.delete(places[:3], agent, 0).tolist()):
            seen += [*(np.array(other) - own)]
    return np.array(seen)


@pytest.mark.parametrize("name", task_ids())
def test_observations_match_the_description(name):
    env = VectorizedMPE(name, 5, seed=3)
    rng = np.random.default_rng(2)
    env.reset()
    for _ in range(4):
        observations = env.step(rng.integers(0, 5, (5, env.n_agents)))[0]
    state = env.get_state()
    for copy in range(5):
        for agent in range(env.n_agents):
            expected = slow_observation(
                name, state["positions"][copy], state["velocities"][copy], agent
            )
            np.testing.assert_allclose(observations[copy, agent], expected, atol=1e-6)


def test_equal_distances_go_by_index_in_both_forms():
    """Six landmarks at distance 5 and four agents at distance 2, in exact coordinates."""
    task = get_task("cooperative-navigation-6")
    places = np.zeros((12, 2))
    places[0] = [0.0, 0.0]
    places[1:6] = [[0.0, 2.0], [2.0, 0.0], [0.0, -2.0], [-2.0, 0.0], [0.0, 1.0]]
    places[6:] = [[3, 4], [-3, 4], [0, 5], [5, 0], [4, -3], [0, -5]]
    state = {"positions": places, "velocities": np.zeros((6, 2))}
    single, vector = ParallelMPE(task), VectorizedMPE(task, 1)
    single.set_state(state)
    vector.set_state(batch([state]))
    seen = vector.observe()[0, 0]
    np.testing.assert_array_equal(seen[4:16].reshape(6, 2), places[6:])
    np.testing.assert_array_equal(seen[16:].reshape(5, 2), places[[5, 1, 2, 3, 4]])
    stays = dict.fromkeys(single.possible_agents, 0)
    np.testing.assert_array_equal(single.step(stays)[0]["agent_0"], seen)


@pytest.mark.parametrize("ties", [[1.0, 1.0], [0.0, 1.0]])
def test_triangle_orders_others_by_x_then_y(ties):
    places = np.array([[9.0, 9.0], [ties[1], 5.0], [ties[0], 3.0], [20, 0], [30, 0], [40, 0]])
    state = {"positions": places, "velocities": np.zeros((3, 2))}
    single, vector = ParallelMPE("triangle-area-3"), VectorizedMPE("triangle-area-3", 1)
    single.set_state(state)
    vector.set_state(batch([state]))
    seen = vector.observe()[0, 0]
    np.testing.assert_array_equal(seen[10:].reshape(2, 2), places[[2, 1]] - places[0])
    np.testing.assert_array_equal(single.step(dict.fromkeys(single.agents, 0))[0]["agent_0"], seen)


# --- seeds, states, errors ----------------------------------------------------------------------


def test_same_seed_same_episode_and_reset_without_seed_goes_on():
    one, two = (VectorizedMPE("predator-prey-6", 3, seed=5) for _ in range(2))
    first = one.reset()
    np.testing.assert_array_equal(first, two.reset())
    assert not np.array_equal(first, one.reset())
    np.testing.assert_array_equal(first, one.reset(seed=5))
    assert not np.array_equal(first, VectorizedMPE("predator-prey-6", 3, seed=6).reset())


def test_the_same_seed_starts_both_forms_alike():
    single, vector = ParallelMPE("predator-prey-6"), VectorizedMPE("predator-prey-6", 1)
    observations, _ = single.reset(seed=11)
    np.testing.assert_array_equal(vector.reset(seed=11)[0], list(observations.values()))


def test_starts_fill_the_square():
    env = VectorizedMPE("cooperative-navigation-15", 200, seed=0)
    env.reset()
    places = env.get_state()["positions"]
    assert 2.19 < places.max() <= 2.2
    assert -2.2 <= places.min() < -2.19


@pytest.mark.parametrize("form", ["vectorized", "single"])
def test_a_resumed_episode_has_the_same_bits(form):
    def make():
        if form == "vectorized":
            return VectorizedMPE("predator-prey-6", 1, reward="episodic")
        return ParallelMPE("predator-prey-6", reward="episodic")

    def run(env, steps):
        rewards = []
        for actions in np.random.default_rng(0).integers(0, 5, (25, 6))[steps]:
            if isinstance(env, VectorizedMPE):
                rewards.append(env.step(actions[None])[1][0].tolist())
            else:
                taken = dict(zip(env.possible_agents, actions, strict=True))
                rewards.append(list(env.step(taken)[1].values()))
        return rewards, env.get_state()

    whole, resumed = make(), make()
    whole.reset(seed=1)
    run(whole, slice(10))
    middle = whole.get_state()
    expected = run(whole, slice(10, 25))
    resumed.set_state(middle)
    got = run(resumed, slice(10, 25))
    assert got[0] == expected[0]
    np.testing.assert_equal(got[1], expected[1])
    whole.reset(), resumed.reset()  # the generator goes on from the same place, too
    np.testing.assert_equal(whole.get_state(), resumed.get_state())


def test_returned_arrays_and_states_are_the_callers_own():
    env = VectorizedMPE("cooperative-navigation-6", 2, seed=0)
    env.reset()
    state = env.get_state()
    kept = {key: np.copy(state[key]) for key in ("positions", "velocities", "returns")}
    env.set_state(state)
    observations, rewards, *_, info = env.step(np.ones((2, 6), int))
    for key, value in kept.items():
        np.testing.assert_array_equal(state[key], value)
    before = observations.copy(), info["lare/true_reward"].copy()
    rewards[:] = 7
    env.step(np.ones((2, 6), int))
    np.testing.assert_array_equal(observations, before[0])
    np.testing.assert_array_equal(info["lare/true_reward"], before[1])


def test_actions_of_wrong_shape_kind_or_range():
    env = VectorizedMPE("cooperative-navigation-6", 2, seed=0)
    env.reset()
    with pytest.raises(ConfigError, match=r"shape \(6,\) and type int64.*shape \(2, 6\)"):
        env.step(np.zeros(6, int))
    with pytest.raises(ConfigError, match="type float64: give whole numbers"):
        env.step(np.zeros((2, 6)))
    with pytest.raises(ConfigError, match="contain 5: choose from 0 stay, 1 left, 2 right"):
        env.step(np.full((2, 6), 5))
    with pytest.raises(ConfigError, match="contain -1"):
        env.step(np.full((2, 6), -1))
    assert env.get_state()["step"] == 0  # nothing of this counted


def test_actions_of_the_single_form():
    env = ParallelMPE("triangle-area-3")
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"lack \['agent_2'\] and name unknown \['agent_9'\]"):
        env.step({"agent_0": 0, "agent_1": 0, "agent_9": 0})
    with pytest.raises(ConfigError, match="contain 7: choose from 0 stay"):
        env.step({"agent_0": 0, "agent_1": 0, "agent_2": 7})
    with pytest.raises(ConfigError, match="no agent 'agent_9': choose from agent_0, agent_1"):
        env.action_space("agent_9")


def test_no_step_before_a_reset_or_after_the_end():
    single, vector = ParallelMPE("triangle-area-3"), VectorizedMPE("triangle-area-3", 1)
    for call in (vector.observe, vector.get_state, single.state, single.get_state):
        with pytest.raises(ConfigError, match=r"no episode has been started: call reset\(\)"):
            call()
    with pytest.raises(ConfigError, match="no episode has been started"):
        vector.step(np.zeros((1, 3), int))
    vector.reset(), single.reset()
    for _ in range(25):
        vector.step(np.zeros((1, 3), int))
        single.step(dict.fromkeys(single.agents, 0))
    assert single.agents == []
    with pytest.raises(ConfigError, match=r"ended after its 25 steps: call reset\(\)"):
        vector.step(np.zeros((1, 3), int))
    with pytest.raises(ConfigError, match=r"ended after its 25 steps: call reset\(\)"):
        single.step({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"velocities": None}, r"lacks \['velocities'\]"),
        ({"speed": 1}, r"unknown \['speed'\]"),
        ({"positions": np.zeros((3, 2))}, r"positions have shape \(3, 2\).*shape \(1, 6, 2\)"),
        ({"velocities": np.full((1, 3, 2), np.nan)}, "velocities have .*: give finite"),
        ({"positions": np.zeros((1, 6, 2))}, "two solid entities in exactly the same place"),
        ({"step": 26}, "step is 26: give a whole number from 0 to 25"),
    ],
)
def test_states_that_cannot_be(change, message):
    env = VectorizedMPE("triangle-area-3", 1, seed=0)
    env.reset()
    state = {**env.get_state(), **change}
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        env.set_state(state)


def test_wrong_constructor_arguments():
    with pytest.raises(ConfigError, match="n_envs is 0: give a whole number of at least 1"):
        VectorizedMPE("triangle-area-3", 0)
    with pytest.raises(ConfigError, match='reward is \'sparse\': give "dense" or "episodic"'):
        VectorizedMPE("triangle-area-3", 1, reward="sparse")
    with pytest.raises(ConfigError, match="render_mode is 'human'"):
        ParallelMPE("triangle-area-3", render_mode="human")
    with pytest.raises(ConfigError, match="did you mean triangle-area-3"):
        ParallelMPE("triangle-area")


def test_picture_shows_entities_where_they_are():
    env = ParallelMPE("triangle-area-3", render_mode="rgb_array")
    places = np.array([[1.0, 1.0], [-1, 1], [1, -1], [-1, -1], [0, 0], [0, 1.4]])
    env.set_state({"positions": places, "velocities": np.zeros((3, 2))})
    picture = env.render()
    assert picture.shape == (400, 400, 3)
    assert picture.dtype == np.uint8
    extent = 1.5 + 0.4

    def pixel(x, y):
        return picture[int((1 - y / extent) * 200), int((1 + x / extent) * 200)].tolist()

    assert pixel(1, 1) == pixel(-1, 1) == pixel(1, -1) == [90, 90, 217]
    assert pixel(-1, -1) == pixel(0, 0) == [64, 64, 64]
    assert pixel(1.8, 0) == [255, 255, 255]
    assert ParallelMPE("triangle-area-3").render() is None


def test_global_state_lists_positions_then_velocities():
    env = ParallelMPE("predator-prey-6")
    env.reset(seed=0)
    state, parts = env.state(), env.get_state()
    assert env.state_space.contains(state)
    np.testing.assert_array_equal(state[:22], parts["positions"].reshape(-1).astype(np.float32))
    assert state.shape == (22 + 16,)
