"""Saved states that are none: each is refused with one kind of error, and changes nothing."""

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest

from lemae import InstanceBank, KeyStateSet, KsmtExplorer, Labeler, RandomActions, ShirRelabeler
from lemae.envs import make
from lemae.errors import StateError
from lemae.guidance import Guidance
from lemae.ksmt import make_memory
from lemae.settings import Settings

FakeKeyStates = runpy.run_path(str(Path(__file__).with_name("fake_key_states.py")))["FakeKeyStates"]
KEYS = FakeKeyStates((0, 1), (0, 2))
CHAINS = [((1, 0), (2, 1)), ((2, 0),)]
STATES = np.arange(6.0).reshape(3, 2, 1)
SOURCE = "def is_a(state):\n    return state[0] > 2\ndef is_b(state):\n    return state[1] > 2\n"
GARBAGE = (
    None,
    "x",
    -7,
    1.5,
    float("nan"),
    [[1.5]],
    np.full((2, 2), -7),
    np.full(2, np.nan),
    {"bit_generator": "PCG64"},
)


def labeler():
    made = Labeler(KEYS, 2)
    made.reset(np.zeros((2, 1)))
    made.step(np.array([[1.0], [0.0]]))
    return made


def bank():
    made = InstanceBank(2, 2)
    made.extend(0, [[1.0], [2.0], [3.0]], [(), (1,), ()])
    return made


def relabeler():
    made = ShirRelabeler(KEYS, capacity=2)
    made.observe(STATES, CHAINS)
    return made


def memory(kind):
    made = make_memory(kind, 2, 4)
    for order, success in (((0, 1), False), ((1,), True), ((), False)):
        made.insert(order, success=success, step=5)
    return made


def explorer():
    made = KsmtExplorer(memory("tree"), 2)
    made.reset()
    made.advance(np.array([[0, 1]]))
    return made


def random_actions():
    made = RandomActions(2, 1, 3, sticky=4)
    made.mix(np.zeros((2, 1)), np.ones(2))
    return made


def grid():
    made = make("pass", 2, seed=0)
    made.reset()
    made.step([[1, 1], [2, 2]])
    return made


def guidance():
    key_states = KeyStateSet.from_source(SOURCE, make("pass").task_spec)
    made = Guidance(key_states, Settings("pass", requery_after=3))
    made.memory.insert((0,), success=False, step=5)
    made.stagnation.observe((0,), new=True, success=False)
    made.first_steps[0] = 5
    return made


PARTS = {
    "labeler": labeler,
    "bank": bank,
    "relabeler": relabeler,
    "tree": lambda: memory("tree"),
    "dag": lambda: memory("dag"),
    "chain": lambda: memory("chain"),
    "explorer": explorer,
    "random actions": random_actions,
    "grid": grid,
    "guidance": guidance,
}


def refuses(part, state):
    """Whether a part keeps to its own state in place of this one."""
    before = copy.deepcopy(part.state_dict())
    with pytest.raises(StateError, match=r"give what state_dict|make it like|make the|restore"):
        part.load_state_dict(state)
    np.testing.assert_equal(part.state_dict(), before)


@pytest.mark.parametrize("name", PARTS)
def test_garbage_is_refused(name):
    part = PARTS[name]()
    for garbage in (*GARBAGE, [], {}):
        refuses(part, garbage)
    saved = part.state_dict()
    for key in saved:
        refuses(part, {other: value for other, value in saved.items() if other != key})
        for garbage in GARBAGE:
            if garbage is not saved[key]:
                refuses(part, {**saved, key: garbage})
    part.load_state_dict(copy.deepcopy(saved))
    np.testing.assert_equal(part.state_dict(), saved)


TRUE, FALSE = np.ones((2, 2), bool), np.zeros((2, 2), bool)
EMPTY = [np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int16), np.zeros((0, 0))]


def shelf(numbers=(5, 6), stamps=(0, 2), after=((-1, -1), (1, -1)), states=((1.0,), (3.0,))):
    return [np.array(column) for column in (numbers, stamps, after, states)]


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("labeler", {"armed": np.ones((3, 2), bool)}, r"armed has shape \(3, 2\): give \(2, 2\)"),
        ("labeler", {"t": np.array([1, -1])}, "t holds -1"),
        ("labeler", {"chains": [[(2, 0)], []]}, "does not fit an episode of 1 steps"),
        ("labeler", {"chains": [[(1, 2)], []]}, "does not fit an episode"),
        ("labeler", {"chains": [[(1, 0.5)], []]}, "float"),
        ("labeler", {"chains": [[(1, 0)]]}, "zip"),
        ("labeler", {"armed": TRUE}, "may fire again"),
        ("labeler", {"armed": TRUE, "held": TRUE, "chains": [[], []]}, "held and fires"),
        ("bank", {"seen": np.array([1, 0])}, "holds 2 of 1 instances"),
        ("bank", {"shelves": [shelf(numbers=(5, -6)), EMPTY]}, "numbers holds -6"),
        ("bank", {"shelves": [shelf(stamps=(0, 3)), EMPTY]}, "stamps holds 3"),
        ("bank", {"shelves": [shelf(after=((0, 2), (1, -1))), EMPTY]}, "after holds 2"),
        ("bank", {"shelves": [shelf(states=((1.0,),)), EMPTY]}, r"states has shape \(1, 1\)"),
        ("bank", {"shelves": [shelf()[:3], EMPTY]}, "values to unpack"),
        (
            "bank",
            {"seen": np.array([3, 3]), "shelves": [shelf(), shelf(states=np.zeros((2, 5)))]},
            "several lengths",
        ),
        ("tree", {"episodes": 0}, "successes is 1"),
        ("tree", {"met": [4, 0]}, "met holds 4"),
        ("tree", {"met": [1, 0]}, "did not count"),
        ("tree", {"successes": 0, "succeeded": [0, 0], "pruned": True}, "did not count"),
        ("tree", {"nodes": [[[], 3, 1, 5, [0]]]}, "no whole graph"),
        ("tree", {"nodes": [[[], 2, 1, 5, []]]}, "no whole graph"),
        ("tree", {"nodes": [[[], 3, 1, 5, []]] * 2}, "no whole graph"),
        ("tree", {"nodes": [[[], 3, 1, 5, []], [[0, 0], 1, 0, 5, []]]}, "different numbers"),
        ("tree", {"nodes": []}, r"lacks \(\)"),
        ("dag", {"nodes": [[[], 3, 1, 5, []], [[1, 0], 1, 0, 5, []]]}, "no whole graph"),
        ("chain", {"first_steps": [None]}, "first_steps are 1: give 2"),
        ("chain", {"totals": [0.1, float("inf")]}, "totals holds inf"),
        ("explorer", {"epsilon": np.array([0.5, 1.5])}, "epsilon holds 1.5"),
        ("explorer", {"orders": [(), (2,)]}, "different numbers from 0 to 1"),
        ("explorer", {"orders": [()]}, "orders are 1"),
        ("random actions", {"kept": np.array([[0], [3]])}, "kept holds 3"),
        ("grid", {"states": [4, 4, 3, 3, 0]}, r"give \(2, 5\)"),
        ("grid", {"states": [[4, 4, 3, 3, 0], [99, 4, 3, 3, 0]]}, "state 1 has 99"),
        ("grid", {"states": [[4, 4, 3, 3, 0], [4.5, 4, 3, 3, 0]]}, "type float64"),
        ("grid", {"elapsed": 1}, r"elapsed has shape \(\)"),
        ("grid", {"elapsed": [0, 301]}, "elapsed holds 301"),
        ("guidance", {"first_steps": [None]}, "1 first_steps of 2 key states"),
        ("guidance", {"memory": make_memory("tree", 3).state_dict()}, "'n_key_states': 3"),
        ("guidance", {"added": [{"name": "c"}]}, "argument"),
    ],
)
def test_what_cannot_be_is_refused(name, changes, reason):
    part = PARTS[name]()
    state = {**part.state_dict(), **changes}
    refuses(part, state)
    with pytest.raises(StateError, match=reason):
        part.load_state_dict(state)


def test_a_random_state_that_would_be_cut_is_refused():
    state = explorer().state_dict()
    numbers = state["rng"]["state"]
    for cut in (1.5, 2**130, -1, "x"):
        state["rng"] = {**state["rng"], "state": {**numbers, "state": cut}}
        refuses(explorer(), state)
