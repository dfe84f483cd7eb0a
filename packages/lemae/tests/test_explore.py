"""How often copies explore, and what they do then."""

import math

import numpy as np
import pytest
import torch

from lemae.errors import ConfigError, ShapeError, StateError
from lemae.explore import KsmtExplorer, RandomActions
from lemae.ksmt import KSMT, ChainMemory

N = 4000


def tree(*orders):
    memory = KSMT(5)
    for order in orders:
        memory.insert(order, success=False)
    return memory


def explorer(memory, n_envs=N, **options):
    return KsmtExplorer(memory, n_envs, **{"eps_low": 0.1, "eps_high": 0.9, **options})


def everywhere(*order, n_envs=N):
    """Events that take every copy along the same order."""
    return np.array([(env, k) for env in range(n_envs) for k in order])


def share(walker):
    """How many copies explore; every epsilon is one of the two."""
    assert set(walker.epsilon.tolist()) <= {0.1, 0.9}
    return (walker.epsilon == 0.9).mean()


def near(p, n=N):
    return pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n) + 1e-12)


# --- epsilon -------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_a_node_with_d_children_is_explored_once_in_d_plus_1(degree):
    walker = explorer(tree(*[(0, 1 + child) for child in range(degree)], *[(0,)] * 3))
    walker.reset()
    assert share(walker) == near(1 / 2)  # the root has one child
    walker.advance(everywhere(0))
    assert share(walker) == near(1 / (degree + 1))


@pytest.mark.parametrize("order", [(1,), (0, 1), (0, 2), (3,), (3, 0)])
def test_leaves_and_the_unknown_are_always_explored(order):
    walker = explorer(tree((0, 1), (0, 2), (1,)), n_envs=50)
    walker.reset()
    walker.advance(everywhere(*order, n_envs=50))
    assert share(walker) == 1


def test_an_empty_memory_is_explored_at_its_root():
    walker = explorer(KSMT(3), n_envs=50)
    walker.reset()
    assert share(walker) == 1


def test_the_draw_holds_until_the_next_key_state():
    walker = explorer(tree((0, 1), (0, 2)), n_envs=50)
    walker.reset()
    before = walker.epsilon.copy()
    for _ in range(20):
        walker.advance(np.empty((0, 2), dtype=np.int64))
        np.testing.assert_array_equal(walker.epsilon, before)
    walker.advance(np.array([[7, 0]]))
    others = np.arange(50) != 7
    np.testing.assert_array_equal(walker.epsilon[others], before[others])
    assert walker.orders[7] == (0,)
    assert walker.orders[6] == ()


def test_two_key_states_at_once_lead_to_the_second_node():
    walker = explorer(tree((0, 1)), n_envs=50)
    walker.reset()
    walker.advance(everywhere(0, 1, n_envs=50))
    assert walker.orders == [(0, 1)] * 50
    assert share(walker) == 1


def test_new_episodes_begin_at_the_root():
    walker = explorer(tree((0, 1), (1,), (2,)))
    walker.reset()
    walker.advance(everywhere(0, 1))
    walker.reset(np.arange(N) % 2 == 0)
    assert walker.orders[:2] == [(), (0, 1)]
    assert (walker.epsilon[::2] == 0.9).mean() == near(1 / 4, N // 2)
    assert (walker.epsilon[1::2] == 0.9).all()


def test_after_a_success_the_policy_acts():
    walker = explorer(KSMT(3), n_envs=20)
    walker.reset()
    walker.success()
    assert walker.solved
    assert share(walker) == 0
    walker.advance(everywhere(0, n_envs=20))
    walker.reset()
    assert share(walker) == 0


def test_a_success_in_the_memory_counts_from_the_next_draw():
    memory = KSMT(3)
    walker = explorer(memory, n_envs=2)
    walker.reset()
    memory.insert((), success=True)
    assert share(walker) == 1
    walker.advance(np.array([[0, 1]]))
    assert walker.epsilon.tolist() == [0.1, 0.9]
    walker.reset()
    assert share(walker) == 0


def test_a_worker_goes_on_with_an_old_tree():
    worker = explorer(tree((0,)), n_envs=50)
    worker.reset()
    worker.advance(everywhere(0, 4, 2, n_envs=50))
    assert share(worker) == 1
    worker.memory = tree((0, 4, 2, 1), (0, 4, 2, 3))
    worker.reset()
    worker.advance(everywhere(0, 4, 2, n_envs=50))
    assert share(worker) < 1


def test_the_explorer_leaves_the_memory_alone():
    memory = tree((0, 1))
    before = memory.to_json()
    walker = explorer(memory, n_envs=5)
    walker.reset()
    walker.advance(everywhere(0, 3, n_envs=5))
    assert memory.to_json() == before


def test_a_single_branch_is_a_leaf_when_all_that_is_known_was_met():
    memory = ChainMemory(3)
    memory.insert((0, 1), success=False)
    walker = explorer(memory)
    walker.reset()
    assert share(walker) == near(1 / 2)
    walker.advance(everywhere(0, 1))
    assert share(walker) == 1


def test_exploration_ends_with_the_success_that_completes_the_number():
    memory = tree((0, 1))
    walker = explorer(memory, n_envs=50, until=3)
    walker.reset()
    walker.success()  # the first: its episode is not in the memory yet
    assert not walker.solved
    for _ in range(2):
        memory.insert((0, 1), success=True)
    walker.reset()
    assert share(walker) > 0
    walker.success()
    assert walker.solved
    walker.reset()
    assert share(walker) == 0
    memory.insert((0, 1), success=True)
    assert explorer(memory, until=3).solved
    with pytest.raises(ConfigError, match="until is 0: give a whole number"):
        explorer(memory, until=0)


# --- rules ---------------------------------------------------------------------------------------


def test_leaf_explores_leaves_only():
    walker = explorer(tree((0, 1)), rule="leaf")
    walker.reset()
    assert share(walker) == 0
    walker.advance(everywhere(0, 1))
    assert share(walker) == 1


def test_ucb_explores_while_visits_find_new_children():
    memory = tree(*[(0,)] * 300, *[(1,)] * 300)
    walker = explorer(memory, rule="ucb")
    walker.reset()
    assert share(walker) == near(2 / 600 + math.sqrt(2 * math.log(600) / 600))
    few = explorer(tree((0,), (1,)), rule="ucb")
    few.reset()
    assert share(few) == 1


def test_thompson_draws_from_the_posterior():
    walker = explorer(tree(*[(0,)] * 18, (1,)), rule="thompson")
    walker.reset()
    assert share(walker) == near((1 + 2) / (2 + 19))


def test_a_rule_of_ones_own():
    asked = []

    def rule(degree, node):
        asked.append((degree, node))
        return 0.25

    memory = KSMT(5)
    memory.insert((0, 1), success=False, step=7)
    memory.insert((2,), success=False, step=9)
    walker = explorer(memory, rule=rule)
    walker.reset()
    assert share(walker) == near(0.25)
    walker.advance(everywhere(0))
    assert share(walker) == near(0.25)
    assert set(asked) == {(2, (2, 0, 7, 2)), (1, (1, 0, 7, 2))}
    asked.clear()
    walker.advance(everywhere(1))  # a leaf: the rule is not asked
    assert share(walker) == 1
    assert not asked


def test_a_rule_must_give_a_probability():
    walker = explorer(tree((0,)), n_envs=1, rule=lambda degree, node: 1.5)
    with pytest.raises(ConfigError, match=r"the rule gave 1.5 at \(\)"):
        walker.reset()


# --- state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["degree", "thompson"])
def test_a_saved_explorer_goes_on_the_same(rule):
    memory = tree((0, 1), (0, 2), (1, 0), (2, 0))
    one, other = (explorer(memory, n_envs=9, rule=rule, seed=seed) for seed in (1, 2))
    one.reset()
    one.advance(everywhere(0, n_envs=9))
    other.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(one.epsilon, other.epsilon)
    for walker in (one, other):
        walker.advance(np.array([[3, 1], [4, 2]]))
        walker.reset([0, 1, 2, 5])
    np.testing.assert_array_equal(one.epsilon, other.epsilon)
    assert one.orders == other.orders


def test_a_saved_success_is_not_forgotten():
    one, other = (explorer(KSMT(2), n_envs=3) for _ in range(2))
    one.success()
    other.load_state_dict(one.state_dict())
    other.reset()
    assert share(other) == 0


def test_wrong_arguments_say_what_to_give():
    for low, high in [(0.5, 0.2), (-0.1, 1), (0, 1.1)]:
        with pytest.raises(ConfigError, match="0 <= eps_low <= eps_high <= 1"):
            KsmtExplorer(KSMT(2), 1, eps_low=low, eps_high=high)
    with pytest.raises(ConfigError, match="degree, leaf, ucb, thompson, or a function"):
        KsmtExplorer(KSMT(2), 1, rule="best")
    with pytest.raises(ConfigError, match="n_envs is 0"):
        KsmtExplorer(KSMT(2), 0)
    for until in (math.nan, math.inf, 1.5):
        with pytest.raises(ConfigError, match=f"until is {until}"):
            KsmtExplorer(KSMT(2), 1, until=until)
    with pytest.raises(StateError, match=r"this explorer of 2 copies \(epsilon has shape \(3,\)"):
        KsmtExplorer(KSMT(2), 2).load_state_dict(KsmtExplorer(KSMT(2), 3).state_dict())


# --- random actions ------------------------------------------------------------------------------


@pytest.mark.parametrize("sticky", [None, 6])
def test_the_share_of_random_actions_is_epsilon(sticky):
    # The policy's action is never available, so that every random action shows.
    mixer = RandomActions(N, 2, 4, sticky=sticky)
    available = np.ones((N, 2, 4), dtype=bool)
    available[..., 0] = False
    policy = np.zeros((N, 2), dtype=np.int64)
    epsilon = np.where(np.arange(N) % 2, 0.3, 0.0)
    actions, random = mixer.mix(policy, epsilon, available)
    np.testing.assert_array_equal(random, actions != 0)
    assert not random[::2].any()
    assert random[1::2].mean() == near(0.3, N)
    # Agents of a team draw for themselves.
    assert (random[1::2, 0] & random[1::2, 1]).mean() == near(0.09, N // 2)
    assert not policy.any()  # not changed


def test_without_epsilon_the_policy_acts():
    mixer = RandomActions(3, 2, 4)
    policy = np.arange(6).reshape(3, 2) % 4
    actions, random = mixer.mix(policy, np.zeros(3))
    np.testing.assert_array_equal(actions, policy)
    assert not random.any()
    assert actions is not policy


@pytest.mark.parametrize("sticky", [None, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_random_actions_are_uniform_over_the_available(sticky, masked):
    rng = np.random.default_rng(1)
    mixer = RandomActions(N, 1, 5, sticky=sticky)
    available = np.zeros((N, 1, 5), dtype=bool)
    available[:, :, [1, 2, 4]] = True
    counts = np.zeros(5)
    for _ in range(3):
        mixer.reset()  # what is kept from other masks is not uniform over the next
        if masked:
            order = rng.permutation(5)
            actions, _ = mixer.mix(np.zeros((N, 1)), np.ones(N), available[..., order])
            assert np.take_along_axis(available[..., order], actions[..., None], 2).all()
            counts += np.bincount(order[actions.ravel()], minlength=5)
        else:
            actions, _ = mixer.mix(np.zeros((N, 1)), np.ones(N))
            counts += np.bincount(actions.ravel(), minlength=5)
    expected = [0, 1 / 3, 1 / 3, 0, 1 / 3] if masked else [1 / 5] * 5
    np.testing.assert_allclose(counts / (3 * N), expected, atol=0.03)


def test_an_agent_without_any_action_keeps_the_policys():
    mixer = RandomActions(2, 2, 3)
    available = np.ones((2, 2, 3), dtype=bool)
    available[0, 1] = False
    actions, random = mixer.mix([[2, 2], [2, 2]], np.ones(2), available)
    assert random.tolist() == [[True, False], [True, True]]
    assert actions[0, 1] == 2


def test_sticky_actions_last_for_their_mean():
    # Of a thousand actions the same is hardly drawn twice: a change is a draw.
    mixer = RandomActions(50, 4, 1000, sticky=6)
    taken = np.array([mixer.mix(np.zeros((50, 4)), np.ones(50))[0] for _ in range(400)])
    drawn = (taken[1:] != taken[:-1]).reshape(399, -1)
    assert drawn.mean() == pytest.approx(1 / 6, rel=0.03)
    # Geometric: after a draw the next is as likely as at any time.
    assert drawn[1:][drawn[:-1]].mean() == pytest.approx(1 / 6, rel=0.06)
    # Every agent for itself.
    assert (drawn[:, 0] & drawn[:, 1]).mean() < 0.06


def test_without_sticky_every_step_draws():
    mixer = RandomActions(50, 4, 1000)
    taken = np.array([mixer.mix(np.zeros((50, 4)), np.ones(50))[0] for _ in range(20)])
    assert (taken[1:] != taken[:-1]).mean() > 0.99


def test_a_direction_is_kept_while_the_policy_acts_in_between():
    mixer = RandomActions(50, 1, 1000, sticky=1e9)
    policy = np.full((50, 1), -1)
    steps = [mixer.mix(policy, np.full(50, 0.5)) for _ in range(100)]
    for env in range(50):
        assert len({int(a[env, 0]) for a, random in steps if random[env, 0]}) == 1
    assert np.mean([random for _, random in steps]) == pytest.approx(0.5, abs=0.05)


def test_a_direction_that_is_closed_is_drawn_anew():
    mixer = RandomActions(N, 1, 3, sticky=1e9)
    policy, every = np.zeros((N, 1)), np.ones((N, 1, 3), dtype=bool)
    first, _ = mixer.mix(policy, np.ones(N), every)
    closed = every.copy()
    closed[..., 1] = False
    second, _ = mixer.mix(policy, np.ones(N), closed)
    third, _ = mixer.mix(policy, np.ones(N), every)
    assert set(np.unique(second)) == {0, 2}
    np.testing.assert_array_equal(second[first != 1], first[first != 1])
    assert (second[first == 1] == 0).mean() == near(1 / 2, (first == 1).sum())
    np.testing.assert_array_equal(third, second)


def test_directions_are_forgotten_at_reset_and_where_epsilon_is_zero():
    mixer = RandomActions(4, 1, 10**6, sticky=1e9)
    policy, epsilon = np.zeros((4, 1)), np.ones(4)
    first, _ = mixer.mix(policy, epsilon)
    mixer.reset([1])
    mixer.mix(policy, [1, 1, 0, 1])
    third, _ = mixer.mix(policy, epsilon)
    assert (first == third).ravel().tolist() == [True, False, False, True]
    mixer.mix(policy, np.zeros(4))
    fourth, _ = mixer.mix(policy, epsilon)
    assert not (third == fourth).any()


def test_tensors_are_taken_as_well():
    actions, random = RandomActions(2, 1, 3).mix(
        torch.zeros(2, 1, dtype=torch.int64), torch.ones(2), torch.ones(2, 1, 3)
    )
    assert actions.dtype == np.int64
    assert random.all()


def test_saved_random_actions_go_on_the_same():
    one, other = (RandomActions(5, 2, 7, sticky=4, seed=seed) for seed in (1, 2))
    for _ in range(5):
        one.mix(np.zeros((5, 2)), np.full(5, 0.7))
    other.load_state_dict(one.state_dict())
    for _ in range(20):
        mixed = [mixer.mix(np.zeros((5, 2)), np.full(5, 0.7)) for mixer in (one, other)]
        np.testing.assert_array_equal(mixed[0][0], mixed[1][0])
        np.testing.assert_array_equal(mixed[0][1], mixed[1][1])


def test_wrong_shapes_and_sizes_say_what_to_give():
    mixer = RandomActions(2, 3, 4)
    with pytest.raises(ShapeError, match=r"give \(2, 3\) and \(2,\)"):
        mixer.mix(np.zeros((2, 2)), np.ones(2))
    with pytest.raises(ShapeError, match=r"epsilon \(3,\)"):
        mixer.mix(np.zeros((2, 3)), np.ones(3))
    with pytest.raises(ShapeError, match=r"give \(2, 3, 4\)"):
        mixer.mix(np.zeros((2, 3)), np.ones(2), np.ones((2, 3)))
    for sticky in (0.5, math.nan, math.inf):
        with pytest.raises(ConfigError, match=f"sticky is {sticky}: give a finite number of at le"):
            RandomActions(2, 3, 4, sticky=sticky)
    with pytest.raises(StateError, match=r"kept has shape \(2, 1\): give \(2, 3\)"):
        mixer.load_state_dict(RandomActions(2, 1, 4).state_dict())
