"""Hindsight and planned rewards against equations 1 and 2, step by step."""

import copy
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lemae.errors import ConfigError, ShapeError, StateError
from lemae.explore import KsmtExplorer, RandomActions
from lemae.ksmt import KSMT, ChainMemory, make_memory
from lemae.labels import Labeler, label, order
from lemae.shir import ShirRelabeler
from lemae.stagnation import Stagnation

FakeKeyStates = runpy.run_path(str(Path(__file__).with_name("fake_key_states.py")))["FakeKeyStates"]
rewards_of = runpy.run_path(str(Path(__file__).with_name("reference_shir.py")))["rewards_of"]

#: One number per state, and key states at 3, 5 and 9.
LINE = FakeKeyStates((0, 3), (0, 5), (0, 9))


def along(*values):
    """States [T+1, 1, 1] of one episode."""
    return np.array(values, dtype=np.float32).reshape(-1, 1, 1)


def relabeled(states, *, keys=LINE, success=False, memory=None, raw=None, bank=None, **options):
    """One episode, whole, with its own chain."""
    relabeler = ShirRelabeler(keys, **{"alpha": 10, "beta": 0.5, **options})
    for k, state in (bank or {}).items():
        relabeler.bank.add(k, state)
    lengths = [len(states) - 1]
    raw = np.zeros((lengths[0], 1)) if raw is None else np.reshape(raw, (-1, 1))
    chains = label(keys, states, lengths)
    return relabeler.relabel(states, raw, lengths, [success], chains, memory)


def tree(*orders, success=(), n=3):
    memory = KSMT(n)
    for path in orders:
        memory.insert(path, success=False)
    for path in success:
        memory.insert(path, success=True)
    return memory


# --- by hand -------------------------------------------------------------------------------------


def test_an_episode_by_hand():
    # At 3 after two steps, at 5 after another three; then one step without a goal.
    out = relabeled(along(1, 2, 3, 2, 4, 5, 7), raw=[0, 0, 0, 0, 0, 1])
    assert out.intrinsic.ravel().tolist() == [1, 1, -1, 2, 1, 0]
    assert out.goals.ravel().tolist() == [0, 0, 1, 1, 1, -1]
    assert out.rewards.ravel().tolist() == [0.5, 0.5, -0.5, 1, 0.5, 10]


def test_every_environment_reward_is_scaled_once():
    raw = np.arange(1, 7.0)
    out = relabeled(along(1, 2, 3, 2, 4, 5, 7), raw=raw, alpha=7, beta=0)
    assert out.rewards.ravel().tolist() == (7 * raw).tolist()


def test_the_goal_is_where_the_episode_met_the_key_state():
    keys = FakeKeyStates((0, 1), subspaces=[(1, 2)])
    states = np.array([[[0, 5, 5]], [[0, 6, 4]], [[1, 9, 9]]], dtype=float)
    out = relabeled(states, keys=keys)
    assert out.intrinsic.ravel().tolist() == [8 - 8, 8]


def test_key_states_met_at_once_leave_the_later_one_no_way():
    keys = FakeKeyStates((0, 2), (0, 2), (0, 4))
    out = relabeled(along(0, 2, 3, 4), keys=keys)
    assert out.goals.ravel().tolist() == [0, 2, 2]
    assert out.intrinsic.ravel().tolist() == [2, 1, 1]


# --- against the reference -----------------------------------------------------------------------


@st.composite
def cases(draw):
    steps, episodes, d = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    states = draw(hnp.arrays(np.float32, (steps + 1, episodes, d), elements=st.integers(-2, 2)))
    index = st.integers(0, d - 1)
    subspaces = draw(st.lists(st.sets(index, min_size=1).map(sorted), min_size=1, max_size=3))
    pairs = [(draw(index), draw(st.integers(-1, 2))) for _ in subspaces]
    integers = hnp.arrays(np.int64, episodes, elements=st.integers(0, steps))
    return (
        FakeKeyStates(*pairs, subspaces=subspaces),
        states,
        draw(hnp.arrays(np.float64, (steps, episodes), elements=st.integers(-1, 2))),
        draw(integers),
        draw(hnp.arrays(bool, episodes)),
        draw(hnp.arrays(np.float64, (len(pairs), d), elements=st.integers(-3, 3))),
    )


@pytest.mark.filterwarnings("ignore:true at reset")
@given(
    case=cases(),
    metric=st.sampled_from(["l1", "l2", "cosine"]),
    scaled=st.booleans(),
    shaping=st.sampled_from(["paper", "gamma"]),
    success_tail=st.sampled_from(["none", "hindsight"]),
    hindsight=st.booleans(),
    planning=st.booleans(),
    pruned=st.booleans(),
    kind=st.sampled_from(["tree", "dag", "chain"]),
)
def test_rewards_are_those_of_the_equations(
    case, metric, scaled, shaping, success_tail, hindsight, planning, pruned, kind
):
    keys, states, raw, lengths, success, instances = case
    scale = 0.5 + np.arange(states.shape[2]) if scaled else None
    options = {"metric": metric, "scale": scale, "success_tail": success_tail}
    options |= {"hindsight": hindsight, "alpha": 3.0, "beta": 0.7}
    relabeler = ShirRelabeler(keys, shaping=shaping, gamma=0.9, planning=planning, **options)
    # One instance per key state: what is planned is known as soon as the goal is.
    for k, instance in enumerate(instances):
        relabeler.bank.add(k, instance)
    chains = label(keys, states, lengths)
    memory = make_memory(kind, len(keys))
    for chain, won in zip(chains, success, strict=True):
        memory.insert(order(chain), success=won)
    if pruned:
        memory.prune()
    out = relabeler.relabel(states, raw, lengths, success, chains, memory)
    for env, chain in enumerate(chains):
        kept = tuple((t, k) for t, k in chain if memory.allowed is None or k in memory.allowed)
        start = kept[-1][0] if kept else 0
        candidates = memory.candidates(order(kept))
        plan = None
        if planning and candidates and not success[env] and start < lengths[env]:
            goal = int(out.goals[start, env])
            assert goal in candidates
            plan = (goal, instances[goal])
        expected = rewards_of(
            states[:, env],
            raw[:, env],
            lengths[env],
            success[env],
            chain,
            keys.subspaces,
            plan=plan,
            allowed=memory.allowed,
            discount=0.9 if shaping == "gamma" else 1.0,
            **options,
        )
        np.testing.assert_allclose(out.rewards[:, env], expected[0], atol=1e-9)
        np.testing.assert_allclose(out.intrinsic[:, env], expected[1], atol=1e-9)
        assert out.goals[:, env].tolist() == expected[2]


@pytest.mark.filterwarnings("ignore:true at reset")
@given(case=cases(), metric=st.sampled_from(["l1", "l2"]))
def test_the_rewards_of_a_segment_telescope(case, metric):
    keys, states, raw, lengths, success, _ = case
    chains = label(keys, states, lengths)
    out = ShirRelabeler(keys, metric=metric).relabel(states, raw, lengths, success, chains)
    for env, chain in enumerate(chains):
        start = 0
        for t, k in chain:
            at = keys.subspaces[k]
            way = states[start, env][at].astype(float) - states[t, env][at]
            expected = np.abs(way).sum() if metric == "l1" else np.sqrt((way**2).sum())
            assert out.intrinsic[start:t, env].sum() == pytest.approx(expected, abs=1e-9)
            start = t
        assert not out.intrinsic[start:, env].any()


# --- planning ------------------------------------------------------------------------------------


def test_the_tail_leads_to_a_child_of_the_node():
    out = relabeled(along(1, 3, 4, 4, 2), memory=tree((0, 1), (2,)), bank={1: [5.0], 2: [0.0]})
    assert out.goals.ravel().tolist() == [0, 1, 1, 1]
    assert out.intrinsic.ravel().tolist() == [2, 1, 0, -2]


def test_children_are_planned_alike():
    memory = tree((0,), (1,), (2,))
    relabeler = ShirRelabeler(LINE, seed=1)
    for k in range(3):
        relabeler.bank.add(k, [1.0])
    states = np.zeros((2, 3000, 1))
    out = relabeler.relabel(
        states, np.zeros((1, 3000)), np.ones(3000), np.zeros(3000), [()] * 3000, memory
    )
    # 1000 each; the standard deviation is 26.
    assert np.abs(np.bincount(out.goals.ravel(), minlength=3) - 1000).max() < 5 * 26


def test_at_a_leaf_any_other_key_state_is_planned():
    out = relabeled(along(1, 3, 4), memory=tree((0,), (2,)), bank={0: [3.0], 2: [9.0]})
    assert out.goals.ravel().tolist() == [0, 2]


def test_without_a_candidate_the_tail_earns_what_the_environment_pays():
    memory = tree((0,))
    out = relabeled(along(1, 3, 4, 7), memory=memory, bank={0: [3.0], 2: [9.0]}, raw=[0, 2, 3])
    assert out.goals.ravel().tolist() == [0, -1, -1]
    assert out.rewards.ravel().tolist() == [1, 20, 30]


def test_a_key_state_without_an_instance_is_not_planned():
    memory = tree((1,), (2,))
    for bank, goal in [({}, -1), ({2: [9.0]}, 2)]:
        out = relabeled(along(1, 2, 1), memory=memory, bank=bank)
        assert out.goals.ravel().tolist() == [goal, goal]


def test_an_episode_that_succeeded_is_not_planned():
    options = {"memory": tree((0, 1)), "bank": {1: [5.0]}, "success": True}
    out = relabeled(along(1, 3, 4, 2), raw=[0, 0, 1], **options)
    assert out.goals.ravel().tolist() == [0, -1, -1]
    assert out.rewards.ravel().tolist() == [1, 0, 10]


def test_the_way_to_success_in_the_union_of_subspaces():
    keys = FakeKeyStates((0, 1), (1, 1), subspaces=[(0,), (1, 3)])
    states = np.array([[[5, 5, 5, 5]], [[4, 5, 9, 5]], [[2, 2, 2, 2]]], dtype=float)
    out = relabeled(states, keys=keys, success=True, success_tail="hindsight")
    assert out.goals.ravel().tolist() == [2, 2]
    assert out.intrinsic.ravel().tolist() == [1, 8]


def test_without_planning_or_a_memory_tails_have_no_goal():
    states, bank = along(1, 3, 4), {1: [5.0]}
    for options in [{"planning": False, "memory": tree((0, 1))}, {"memory": None}]:
        assert relabeled(states, bank=bank, **options).goals.ravel().tolist() == [0, -1]


def test_without_hindsight_only_the_plan_is_rewarded():
    out = relabeled(along(1, 3, 4), hindsight=False, memory=tree((0, 1)), bank={1: [5.0]})
    assert out.goals.ravel().tolist() == [-1, 1]
    assert out.intrinsic.ravel().tolist() == [0, 1]


def test_a_planned_goal_is_an_instance_of_the_same_order_if_there_is_one():
    relabeler = ShirRelabeler(LINE)
    relabeler.bank.extend(2, [[-100.0], [9.0]] * 20, [(1,), (0,)] * 20)
    states = along(1, 3, 4)
    for k, gain in [(0, 1), (1, -1)]:
        memory = tree((k, 2))
        out = relabeler.relabel(states, np.zeros((2, 1)), [2], [0], [((1, k),)], memory)
        assert out.intrinsic[1, 0] == gain
    relabeler.bank.add(1, [0.0], ())
    out = relabeler.relabel(states, np.zeros((2, 1)), [2], [0], [((1, 0),)], tree((0, 1)))
    assert out.intrinsic[1, 0] == -1  # met after another order, but the only one


@pytest.mark.parametrize(
    ("how", "goal"), [("recent", 20.0), ("nearest", 3.5), ("medoid", 10.0), ("uniform", None)]
)
def test_which_instance_is_planned(how, goal):
    keys = FakeKeyStates((1, 1), (1, 2), subspaces=[(0,), (0,)])
    relabeler = ShirRelabeler(keys, plan_instance=how)
    # What lies outside the subspace must not matter.
    relabeler.bank.extend(0, [[3.5, 900], [9, 0], [10, 0], [11, 0], [20, 5]], [()] * 5)
    states = np.array([[[4, 0]], [[4.25, 0]]])
    memory = tree((0,), n=2)
    out = relabeler.relabel(states, np.zeros((1, 1)), [1], [0], [()], memory)
    goals = [3.5, 9, 10, 11, 20] if goal is None else [goal]
    assert out.intrinsic[0, 0] in [abs(4 - g) - abs(4.25 - g) for g in goals]


# --- pruning -------------------------------------------------------------------------------------


def test_pruned_key_states_are_dropped_from_old_chains_too():
    memory = tree((0, 1), success=[(1, 2)])
    before = relabeled(along(1, 3, 4, 5, 6), memory=memory, bank={2: [9.0]})
    assert before.goals.ravel().tolist() == [0, 1, 1, 2]
    memory.prune()
    after = relabeled(along(1, 3, 4, 5, 6), memory=memory, bank={2: [9.0]})
    assert after.goals.ravel().tolist() == [1, 1, 1, 2]
    assert after.intrinsic.ravel().tolist() == [2, 1, 1, 1]


def test_off_the_pruned_tree_planning_goes_on_from_the_deepest_node():
    memory = tree(success=[(0, 1, 2)])
    memory.prune()
    # Met 1 (at 5) first, which the tree knows only after 0.
    out = relabeled(along(1, 5, 4), memory=memory, bank={0: [3.0], 2: [9.0]})
    assert out.goals.ravel().tolist() == [1, 0]


def test_after_pruning_orders_are_compared_without_what_was_pruned():
    memory = tree((1, 0), success=[(0, 2)])
    memory.prune()
    relabeler = ShirRelabeler(LINE, hindsight=False)
    relabeler.bank.add(2, [0.0], (1, 0))  # the same as after (0,): 1 does not count any more
    relabeler.bank.add(2, [9.0], ())
    states, chains = along(1, 3, 4), [((1, 0),)]
    ways = [
        relabeler.relabel(states, [[0], [0]], [2], [False], chains, memory).intrinsic[1, 0]
        for _ in range(20)
    ]
    assert ways == [-1] * 20


def test_further_key_states():
    """Old instances and orders hold; the new key state is aimed at like others."""
    relabeler = ShirRelabeler(FakeKeyStates((0, 3), (0, 5)))
    relabeler.bank.add(1, [6.0], (0,))
    relabeler.add_key_states(LINE)
    relabeler.bank.add(1, [7.0], (2,))
    relabeler.bank.add(2, [9.0], (0, 1))
    rng = np.random.default_rng(0)
    assert set(relabeler.bank.sample(1, order=(0,), size=20, rng=rng).ravel()) == {6}
    assert set(relabeler.bank.sample(1, order=(2,), size=20, rng=rng).ravel()) == {7}
    memory = tree((0, 1, 2))
    chain = ((1, 0), (2, 1))
    out = relabeler.relabel(along(1, 3, 5, 6), [[0]] * 3, [3], [False], [chain], memory)
    assert out.goals.ravel().tolist() == [0, 1, 2]
    assert out.intrinsic.ravel().tolist() == [2, 2, 1]
    with pytest.raises(ConfigError, match="count is -1"):
        relabeler.add_key_states(FakeKeyStates((0, 3), (0, 5)))


# --- subspaces, metrics, scale -------------------------------------------------------------------


WIDE = FakeKeyStates((2, 1), subspaces=[(2,)])
#: Meets the key state in its second step; every coordinate moves.
MOVES = np.array([[[0, 0, 0, 0]], [[3, 0, 0, 4]], [[9, 9, 1, 9]]], dtype=float)


@pytest.mark.parametrize(
    ("options", "gains"),
    [
        ({}, [0, 1]),
        ({"subspace_extra": (0,)}, [3, 7]),
        ({"subspace_extra": (0, 2)}, [3, 7]),
        ({"subspace": "full"}, [7, 21]),
        ({"subspace": "full", "scale": [1, 0, 0, 2]}, [3 + 8, 6 + 10]),
        ({"subspace_extra": (0, 3), "metric": "l2", "scale": [1, 1, 0, 1]}, None),
        ({"metric": lambda x, g: 5 * abs(x - g)[..., 0]}, [0, 5]),
        ({"shaping": "gamma", "gamma": 0.5}, [0.5, 1]),
        ({"shaping": "paper", "gamma": 0.5}, [0, 1]),
    ],
)
def test_in_which_coordinates_and_how_it_is_measured(options, gains):
    out = relabeled(MOVES, keys=WIDE, **options)
    if gains is None:
        now = np.hypot(6, 5)
        gains = [np.hypot(9, 9) - now, now]
    np.testing.assert_allclose(out.intrinsic.ravel(), gains)


def test_cosine_of_a_zero_vector():
    keys = FakeKeyStates((0, 1), subspaces=[(0, 1)])
    states = np.array([[[0, 0]], [[0, 2]], [[1, 0]]], dtype=float)
    out = relabeled(states, keys=keys, metric="cosine")
    assert out.intrinsic.ravel().tolist() == [0, 1]
    keys = FakeKeyStates((0, 0), subspaces=[(0, 1)])
    out = relabeled(states[[2, 0]], keys=keys, metric="cosine")
    assert out.intrinsic.ravel().tolist() == [1]


# --- what is given stays, what is cut off ends ---------------------------------------------------


@pytest.mark.filterwarnings("ignore:true at reset")
@given(case=cases(), garbage=st.sampled_from([np.nan, 1e30]))
def test_what_comes_after_the_end_does_not_matter(case, garbage):
    keys, states, raw, lengths, success, _ = case
    chains = label(keys, states, lengths)
    relabeler = ShirRelabeler(keys, success_tail="hindsight")
    clean = relabeler.relabel(states, raw, lengths, success, chains)
    times = np.arange(len(states))[:, None]
    states[times > lengths] = garbage
    raw[times[:-1] >= lengths] = garbage
    out = relabeler.relabel(states, raw, lengths, success, chains)
    for one, other in zip(clean, out, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not out.rewards[times[:-1] >= lengths].any()
    assert (out.goals[times[:-1] >= lengths] == -1).all()


def test_nothing_given_is_changed_and_twice_is_the_same():
    states, raw = along(1, 2, 3, 4, 5), np.array([[0.0], [1.0], [0.0], [2.0]])
    lengths, success = np.array([4]), np.array([False])
    memory, chains = tree((0, 2)), [((2, 0),)]
    relabeler = ShirRelabeler(LINE)
    relabeler.bank.add(2, [9.0])
    given_before = copy.deepcopy((states, raw, lengths, success, chains))
    tree_before = memory.to_json()
    first = relabeler.relabel(states, raw, lengths, success, chains, memory)
    second = relabeler.relabel(states, raw, lengths, success, chains, memory)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    now = (states, raw, lengths, success, chains)
    for one, other in zip(given_before, now, strict=True):
        np.testing.assert_array_equal(one, other)
    assert memory.to_json() == tree_before
    assert not np.shares_memory(first.rewards, raw)


def test_an_episode_that_was_cut_off_is_planned_like_any_that_failed():
    # Truncated at the limit: the length says so; nothing else is special.
    out = relabeled(along(1, 3, 4), memory=tree((0, 2)), bank={2: [9.0]})
    assert out.goals.ravel().tolist() == [0, 2]


def test_an_aborted_episode_of_length_zero_earns_nothing():
    relabeler = ShirRelabeler(LINE)
    relabeler.bank.add(2, [9.0])
    states = np.concatenate([along(1, 3, 4), along(1, 3, 4)], axis=1)
    out = relabeler.relabel(
        states, np.ones((2, 2)), [0, 2], [False, False], [((1, 0),)] * 2, tree((0, 2))
    )
    assert out.rewards[:, 0].tolist() == [0, 0]
    assert out.goals.T.tolist() == [[-1, -1], [0, 2]]


def test_a_batch_without_any_goal():
    out = ShirRelabeler(LINE).relabel(
        np.zeros((3, 2, 1)), np.ones((2, 2)), [2, 2], [0, 0], [()] * 2
    )
    assert out.rewards.tolist() == [[10, 10], [10, 10]]


def test_no_key_states_leave_the_scaled_reward():
    out = ShirRelabeler(FakeKeyStates(), success_tail="hindsight").relabel(
        np.zeros((3, 1, 4)), np.ones((2, 1)), [2], [True], [()], KSMT(0)
    )
    assert out.rewards.ravel().tolist() == [10, 10]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_are_taken_as_well(dtype):
    states = torch.from_numpy(along(1, 2, 3)).to(dtype).requires_grad_()
    relabeler = ShirRelabeler(LINE)
    relabeler.observe(states, [((2, 0),)])
    out = relabeler.relabel(
        states, torch.zeros(2, 1).to(dtype), torch.tensor([2]), torch.tensor([False]), [((2, 0),)]
    )
    assert out.intrinsic.ravel().tolist() == [1, 1]
    assert out.rewards.dtype == out.intrinsic.dtype == np.float64
    assert out.goals.dtype == np.int64


# --- instances -----------------------------------------------------------------------------------


def test_states_in_which_key_states_were_met_go_into_the_bank():
    relabeler = ShirRelabeler(LINE)
    states = np.arange(8.0).reshape(4, 2, 1)
    relabeler.observe(states, [((1, 2), (3, 0)), ((1, 0),)])
    assert [relabeler.bank.states(k).tolist() for k in range(3)] == [[[6], [3]], [], [[2]]]
    rng = np.random.default_rng(0)
    after = {path: relabeler.bank.sample(0, order=path, rng=rng)[0, 0] for path in [(2,), ()]}
    assert after == {(2,): 6, (): 3}


def test_relabelling_adds_no_instance():
    states = along(1, 3, 4)
    relabeler = ShirRelabeler(LINE)
    relabeler.relabel(states, np.zeros((2, 1)), [2], [0], [((1, 0),)])
    assert relabeler.bank.count(0) == 0


# --- state and errors ----------------------------------------------------------------------------


def test_a_saved_relabeler_goes_on_the_same():
    memory = tree((0, 1), (2, 1), (1,))
    states = np.random.default_rng(0).integers(0, 10, (20, 6, 1)).astype(float)
    states[0] = 0
    lengths, failed, raw = np.full(6, 19), np.zeros(6), np.zeros((19, 6))
    chains = [chain[:1] for chain in label(LINE, states, lengths)]
    one, other = (ShirRelabeler(LINE, capacity=3, seed=seed) for seed in (1, 2))
    for _ in range(3):
        one.observe(states, chains)
        one.relabel(states, raw, lengths, failed, chains, memory)
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        outs = []
        for relabeler in (one, other):
            relabeler.observe(states, chains)
            outs.append(relabeler.relabel(states, raw, lengths, failed, chains, memory))
        np.testing.assert_array_equal(outs[0].goals, outs[1].goals)
        np.testing.assert_array_equal(outs[0].rewards, outs[1].rewards)


def test_states_go_through_a_checkpoint_of_tensors(tmp_path):
    def tensors(value):
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value)
        if isinstance(value, dict):
            return {name: tensors(part) for name, part in value.items()}
        return [tensors(part) for part in value] if isinstance(value, list | tuple) else value

    def parts(seed):
        return {
            "labeler": Labeler(LINE, 2),
            "explorer": KsmtExplorer(tree((0, 1)), 2, seed=seed),
            "mixer": RandomActions(2, 1, 5, sticky=3, seed=seed),
            "relabeler": ShirRelabeler(LINE, seed=seed),
            "memory": tree((0, 1)) if seed == 1 else tree(),
            "watch": Stagnation(3, after=2),
        }

    saved = parts(1)
    saved["labeler"].reset(np.zeros((2, 1)))
    saved["labeler"].step([[3.0], [0.0]])
    saved["explorer"].reset()
    saved["mixer"].mix(np.zeros((2, 1)), np.ones(2))
    saved["relabeler"].observe(along(1, 3, 4), [((1, 0),)])
    saved["watch"].observe((0,), new=False, success=False)
    torch.save({name: tensors(part.state_dict()) for name, part in saved.items()}, tmp_path / "c")
    loaded = torch.load(tmp_path / "c", weights_only=True)
    for name, part in parts(2).items():
        part.load_state_dict(loaded[name])
        np.testing.assert_equal(part.state_dict(), saved[name].state_dict())


def test_a_state_of_other_key_states_is_refused():
    with pytest.raises(StateError, match="of 3 key states"):
        ShirRelabeler(WIDE).load_state_dict(ShirRelabeler(LINE).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "l3"}, "metric is 'l3': give one of l1, l2, cosine, or a function"),
        ({"shaping": "none"}, "shaping is 'none': give one of paper, gamma"),
        ({"success_tail": "plan"}, "success_tail is 'plan': give one of none, hindsight"),
        ({"plan_instance": "first"}, "give one of uniform, recent, nearest, medoid"),
        ({"subspace": "auto"}, "subspace is 'auto': give one of key, full"),
        ({"alpha": 0}, "alpha is 0: give a finite number above 0"),
        ({"alpha": math.inf}, "alpha is inf: give a finite number"),
        ({"beta": -1}, "beta is -1: give a finite number of at least 0"),
        ({"beta": math.inf}, "beta is inf"),
        ({"beta": math.nan}, "beta is nan"),
        ({"beta": "much"}, "beta is 'much'"),
        ({"gamma": 2}, "gamma is 2: give a finite number of at least 0 and at most 1"),
        ({"capacity": math.nan}, "capacity is nan: give a whole number of at least 1"),
        ({"subspace_extra": [0.5]}, r"subspace_extra is 0\.5: give a whole number"),
        ({"scale": [1, -1]}, "finite weights, not negative"),
        ({"scale": 2.0}, "one per state index"),
    ],
)
def test_wrong_options_say_what_to_give(options, message):
    with pytest.raises(ConfigError, match=message):
        ShirRelabeler(LINE, **options)


def test_arrays_that_do_not_fit_are_refused():
    states, raw = along(1, 3, 4), np.zeros((2, 1))
    relabeler = ShirRelabeler(LINE)
    with pytest.raises(ShapeError, match=r"\(3, 1\) and there are 1 chains"):
        relabeler.relabel(states[:, 0], raw, [2], [0], [()])
    with pytest.raises(ShapeError, match="there are 2 chains"):
        relabeler.observe(states, [(), ()])
    with pytest.raises(ShapeError, match=r"rewards have shape \(1, 1\).*need \(2, 1\)"):
        relabeler.relabel(states, raw[:1], [2], [0], [()])
    with pytest.raises(ShapeError, match=r"success \(2,\)"):
        relabeler.relabel(states, raw, [2], [0, 0], [()])
    with pytest.raises(ShapeError, match="0 to 2 steps"):
        relabeler.relabel(states, raw, [3], [0], [()])
    with pytest.raises(ShapeError, match=r"key state 0 is \[2\].*indices 0 to 0"):
        ShirRelabeler(WIDE).relabel(states, raw, [2], [0], [()])
    with pytest.raises(ShapeError, match="scale has 2 weights, the states 1 numbers"):
        ShirRelabeler(LINE, scale=[1, 1]).relabel(states, raw, [2], [0], [()])


def test_a_memory_of_other_key_states_is_refused():
    with pytest.raises(ConfigError, match="memory is of 5 key states and there are 3"):
        relabeled(along(1, 3, 4), memory=KSMT(5))


def test_a_chain_names_a_key_state_once():
    chains = [((1, 0), (2, 0))]
    with pytest.raises(ConfigError, match="names a key state twice"):
        ShirRelabeler(LINE).observe(along(1, 3, 4), chains)
    with pytest.raises(ConfigError, match="names a key state twice"):
        ShirRelabeler(LINE).relabel(along(1, 3, 4), [[0], [0]], [2], [False], chains)


@pytest.mark.parametrize("chain", [((3, 0),), ((0, 0),), ((1, 3),), ((1, -1),), ((2, 0), (1, 1))])
def test_a_chain_of_another_episode_is_refused(chain):
    states = along(1, 3, 4)
    relabeler = ShirRelabeler(LINE)
    with pytest.raises(ConfigError, match="does not fit an episode of 2 steps and 3 key states"):
        relabeler.relabel(states, np.zeros((2, 1)), [2], [0], [chain])
    with pytest.raises(ConfigError, match="does not fit"):
        relabeler.observe(states, [chain])
    assert relabeler.bank.seen.sum() == 0


def test_a_single_branch_plans_its_next_key_state():
    memory = ChainMemory(3)
    memory.insert((0, 1), success=False)
    memory.insert((0, 2), success=False)
    out = relabeled(along(1, 3, 4), memory=memory, bank={1: [5.0], 2: [9.0]})
    assert out.goals.ravel().tolist() == [0, 1]
