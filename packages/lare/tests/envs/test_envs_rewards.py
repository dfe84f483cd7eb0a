"""Rewards computed by hand, in both forms, and how they become episodic."""

import numpy as np
import pytest

pytest.importorskip("mpe2")
pytest.importorskip("pettingzoo")

from lare.envs import ParallelMPE, VectorizedMPE, get_task
from lare.envs.mpe.evader import escape_direction

FAR = 50.0


class Vector:
    """One copy of the vectorised form, with the single form's shapes."""

    def __init__(self, task, reward="dense"):
        self.env = VectorizedMPE(task, 1, seed=0, reward=reward)
        self.task = self.env.task

    def reset(self, seed):
        self.env.reset(seed)

    def set(self, positions):
        velocities = np.zeros((1, self.task.n_movers, 2))
        self.env.set_state({"positions": np.array(positions)[None], "velocities": velocities})

    def step(self, actions):
        _, rewards, _, _, info = self.env.step(np.array([actions]))
        return rewards[0], info["lare/true_reward"][0]


class Single:
    def __init__(self, task, reward="dense"):
        self.env = ParallelMPE(task, reward=reward)
        self.task = self.env.task

    def reset(self, seed):
        self.env.reset(seed)

    def set(self, positions):
        velocities = np.zeros((self.task.n_movers, 2))
        self.env.set_state({"positions": positions, "velocities": velocities})

    def step(self, actions):
        names = self.env.possible_agents
        _, rewards, _, _, infos = self.env.step(dict(zip(names, actions, strict=True)))
        true = [infos[name]["lare/true_reward"] for name in names]
        return np.array([rewards[name] for name in names]), np.array(true)


@pytest.fixture(params=[Vector, Single])
def form(request):
    return request.param


def scattered(task):
    """Everybody far from everybody: 50 apart along a line, agents above, landmarks below."""
    agents = [[FAR * i, FAR] for i in range(task.n_movers)]
    return np.array(agents + [[FAR * i, 0.0] for i in range(task.n_landmarks)])


def earn(form, name, positions):
    """Rewards for these positions: nobody moves in a step that starts at rest."""
    env = form(name)
    env.set(positions)
    return env.step(np.zeros(env.task.n_agents, int))[0]


def test_navigation_alone_pays_the_distance(form):
    # 1 - distance - 1 contact (with itself) = -distance.
    places = scattered(get_task("cooperative-navigation-6"))
    places[0] = [3.0, 4.0]  # nearest landmark: the one at the origin
    expected = [-5.0, *[-FAR] * 5]
    np.testing.assert_allclose(earn(form, "cooperative-navigation-6", places), expected)


@pytest.mark.parametrize(("gap", "contacts"), [(0.2999, 1), (0.3001, 0)])
def test_navigation_collides_within_0_3(form, gap, contacts):
    places = scattered(get_task("cooperative-navigation-6"))
    places[0], places[1] = [0.0, 1.0], [0.0, 1.0 + gap]
    rewards = earn(form, "cooperative-navigation-6", places)
    np.testing.assert_allclose(rewards[:3], [-1 - contacts, -1 - gap - contacts, -FAR])


def test_predators_are_paid_for_each_prey_they_touch(form):
    places = scattered(get_task("predator-prey-6"))
    places[6], places[7] = [0.0, -9.0], [0.0, -9.11]  # the preys
    places[0] = [0.0, -9.05]  # touches both (0.125), nearest at 0.05
    places[1] = [0.0, -8.0]  # touches none, nearest at 1
    rewards = earn(form, "predator-prey-6", places)
    np.testing.assert_allclose(rewards[:2], [-0.005 + 20.0, -0.1])


@pytest.mark.parametrize(("gap", "touched"), [(0.1249, 10.0), (0.1251, 0.0)])
def test_predators_touch_within_the_sum_of_sizes(form, gap, touched):
    places = scattered(get_task("predator-prey-6"))
    places[6], places[0] = [0.0, -9.0], [0.0, -9.0 - gap]
    rewards = earn(form, "predator-prey-6", places)
    np.testing.assert_allclose(rewards[0], touched - 0.1 * gap)


def test_competing_preys_pay_for_each_predator_that_touches_them(form):
    places = scattered(get_task("competitive-predator-prey-6"))
    places[6] = [0.0, -9.0]
    places[0], places[1] = [0.1, -9.0], [-0.1, -9.0]
    rewards = earn(form, "competitive-predator-prey-6", places)
    np.testing.assert_allclose(rewards[[0, 1, 6, 7]], [9.99, 9.99, -20.0, 0.0])


def test_triangle_pays_everybody_area_and_all_hits(form):
    places = scattered(get_task("triangle-area-3"))
    places[:3] = [[0.0, 10.0], [4.0, 10.0], [1.0, 13.0]]  # area 6
    rewards = earn(form, "triangle-area-3", places)
    np.testing.assert_allclose(rewards, [3 * 0.1 * 6] * 3)
    places[3] = [0.0, 10.4]  # hit by the first agent: 0.4 < 0.45
    places[4] = [4.4, 10.1]  # hit by the second
    rewards = earn(form, "triangle-area-3", places)
    np.testing.assert_allclose(rewards, [1.8 - 2.0] * 3)


def test_triangle_area_does_not_depend_on_the_order_of_the_corners(form):
    places = scattered(get_task("triangle-area-3"))
    places[:3] = [[4.0, 10.0], [0.0, 10.0], [1.0, 13.0]]
    np.testing.assert_allclose(earn(form, "triangle-area-3", places), [1.8] * 3)


@pytest.mark.parametrize("name", ["cooperative-navigation-6", "triangle-area-3"])
def test_episodic_reward_is_the_team_return_at_the_last_step(form, name):
    dense, episodic = form(name), form(name, reward="episodic")
    rng = np.random.default_rng(0)
    dense.reset(3), episodic.reset(3)
    total = 0.0
    for step in range(25):
        actions = rng.integers(0, 5, dense.task.n_agents)
        rewards, true = episodic.step(actions)
        expected, also_true = dense.step(actions)
        np.testing.assert_array_equal(true, expected)
        np.testing.assert_array_equal(also_true, expected)
        shared = name.startswith("triangle")  # each agent has the team's sum already: count it once
        total += expected[0] if shared else expected.sum()
        np.testing.assert_allclose(rewards, total if step == 24 else 0.0, rtol=1e-12)
    episodic.reset(3)
    assert not episodic.step(actions)[0].any()


def test_episodic_reward_is_separate_for_each_role(form):
    name = "competitive-predator-prey-6"
    dense, episodic = form(name), form(name, reward="episodic")
    dense.reset(5), episodic.reset(5)
    total = np.zeros(8)
    for _ in range(25):
        last, _ = episodic.step(np.zeros(8, int))
        total += dense.step(np.zeros(8, int))[0]
    np.testing.assert_allclose(last[:6], total[:6].sum())
    np.testing.assert_allclose(last[6:], total[6:].sum())


def test_prey_flees_straight_from_a_single_predator():
    heading = escape_direction(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), radius=100.0)
    np.testing.assert_allclose(heading, [[-0.6, -0.8]])


def test_prey_minds_the_nearer_predator_more():
    heading = escape_direction(np.zeros((1, 2)), np.array([[1.0, 0.0], [-2.0, 0.0]]), 100.0)
    np.testing.assert_allclose(heading, [[-1.0, 0.0]])  # pushes of 1 and 1/2


@pytest.mark.parametrize(("gap", "direction"), [(0.26, -1.0), (0.24, 1.0)])
def test_prey_turns_around_at_the_border(gap, direction):
    # Pushed out with 1 / gap, about 4; pushed back with 20 * (1.4 - 0.8 * 1.5) = 4.
    heading = escape_direction(np.array([[1.4, 0.0]]), np.array([[1.4 - gap, 0.0]]), radius=1.5)
    np.testing.assert_allclose(heading, [[direction, 0.0]])


def test_prey_between_two_predators_stands_still():
    heading = escape_direction(np.zeros((1, 2)), np.array([[1.0, 0.0], [-1.0, 0.0]]), 1.5)
    np.testing.assert_array_equal(heading, [[0.0, 0.0]])


def test_fleeing_pays_and_chasing_works():
    """The script escapes standing predators; greedy predators still touch it now and then."""

    def touches(policy):
        env = VectorizedMPE("predator-prey-6", 64, seed=0)
        observations, found = env.reset(), 0.0
        for _ in range(25):
            observations, rewards, *_ = env.step(policy(observations))
            found += (rewards > 0).mean()
        return found

    def greedy(observations):
        x, y = observations[..., 20], observations[..., 21]
        sideways = np.where(x > 0, 2, 1)
        return np.where(np.abs(x) > np.abs(y), sideways, np.where(y > 0, 4, 3))

    still = touches(lambda observations: np.zeros(observations.shape[:2], int))
    assert still < 0.1
    assert touches(greedy) > 5 * still
