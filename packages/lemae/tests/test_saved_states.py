"""Saved states that are none: each is refused with one kind of error, and changes nothing."""

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from lemae import InstanceBank, KeyStateSet, KsmtExplorer, Labeler, RandomActions, ShirRelabeler
from lemae.algos import IPPO, EpisodeReplay, FixedEpsilon, IPPOSettings, QLearner, QSettings
from lemae.algos.rollout import Collector
from lemae.baselines import (
    CMAE,
    CMAESettings,
    CountBonus,
    DiscriminatorBonus,
    HerBonus,
    RandomDistillation,
    RewardBonus,
)
from lemae.envs import make
from lemae.errors import StateError
from lemae.guidance import Guidance
from lemae.integrations.shaping import Shaping
from lemae.ksmt import make_memory
from lemae.settings import Settings
from lemae.stagnation import Stagnation
from lemae.training import _Run, _Visits

TESTS = Path(__file__).parent
Line = runpy.run_path(str(TESTS / "line_task.py"))["Line"]
FakeKeyStates = runpy.run_path(str(TESTS / "fake_key_states.py"))["FakeKeyStates"]
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


def stagnation():
    made = Stagnation(2, after=3)
    for order in ((0,), (0, 1), ()):
        made.observe(order, new=False, success=False)
    made.asked(2)
    made.observe((1,), new=True, success=False)
    made.observe((0,), new=False, success=False)
    return made


def shaping():
    made = Shaping(KeyStateSet.from_source(SOURCE, 2))
    made.observe(np.array([[[0.0, 0.0]], [[3.0, 0.0]]]), np.array([1]), np.array([False]))
    return made


def episodes(n_agents=2):
    """Random ones on a short line, some of them successful."""
    env = Line(6, size=3, n_agents=n_agents, restricted=True)
    mixer = RandomActions(6, n_agents, 3, sticky=3, seed=1)
    played = Collector(env).collect(
        ippo(n_agents), seed=0, explorer=FixedEpsilon(6, 1.0), mixer=mixer
    )
    played.chains[0] = ((1, 0),)
    return played


def ippo(n_agents=2, hidden=4):
    settings = IPPOSettings(hidden=hidden, epochs=1, self_imitation=0.1)
    return IPPO(n_agents, 3, n_agents, n_values=(6,) * n_agents, settings=settings)


def taught_ippo():
    made, played = ippo(), episodes()
    made.update(played, played.rewards)
    assert made.state_dict()["imitated"] is not None
    return made


def q_learner(n_agents=2, **settings):
    chosen = QSettings(**{"capacity": 8, "batch_size": 4, "hidden": 4, "embedding": 2, **settings})
    return QLearner(n_agents, 3, n_agents, 12, n_values=(6,) * n_agents, settings=chosen)


def taught_q_learner():
    made = q_learner()
    made.observe(episodes())
    made.update()
    return made


def replay():
    made = EpisodeReplay(8, 12)
    made.add(episodes())
    return made


def cmae(n_agents=2, n_values=(6, 6), **settings):
    chosen = CMAESettings(**{"capacity": 120, "batch_size": 4, **settings})
    return CMAE(n_agents, 3, n_values, 12, settings=chosen)


def taught_cmae():
    made, played = cmae(), episodes()
    made.update(played, played.rewards)
    return made


def count():
    made = CountBonus(2, groups=((0,), (0, 1)))
    made.observe(episodes())
    return made


def rnd(d=2, **options):
    lows = np.zeros(d)
    return RandomDistillation(lows, lows + 5, lows == 0, **{"hidden": 4, "outputs": 3, **options})


def taught_rnd():
    made = rnd()
    made.observe(episodes())
    return made


def her():
    made = HerBonus()
    made.bonus(episodes())
    return made


def visits():
    return _Visits(make("pass", 2, size=10))


PARTS = {
    "stagnation": stagnation,
    "shaping": shaping,
    "ippo": taught_ippo,
    "qmix": taught_q_learner,
    "replay": replay,
    "cmae": taught_cmae,
    "count": count,
    "rnd": taught_rnd,
    "her": her,
    "visits": visits,
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


def arrays(value):
    """A state without tensors, which NumPy does not compare."""
    if isinstance(value, dict):
        return {key: arrays(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [arrays(one) for one in value]
    return value.numpy(force=True).copy() if isinstance(value, torch.Tensor) else value


def refuses(part, state):
    """Whether a part keeps to its own state in place of this one."""
    before = copy.deepcopy(arrays(part.state_dict()))
    with pytest.raises(StateError, match=r"give what state_dict|make it|make the|restore"):
        part.load_state_dict(state)
    np.testing.assert_equal(arrays(part.state_dict()), before)


#: What is garbage elsewhere and may be saved here.
TAKEN = [("rnd", "square", 1.5), ("ippo", "imitated", None)]


@pytest.mark.parametrize("name", PARTS)
def test_garbage_is_refused(name):
    part = PARTS[name]()
    for garbage in (*GARBAGE, [], {}):
        refuses(part, garbage)
    saved = part.state_dict()
    for key in saved:
        refuses(part, {other: value for other, value in saved.items() if other != key})
        for garbage in GARBAGE:
            if garbage is not saved[key] and not any(
                (name, key) == taken[:2] and garbage is taken[2] for taken in TAKEN
            ):
                refuses(part, {**saved, key: garbage})
    before = copy.deepcopy(arrays(saved))
    part.load_state_dict(copy.deepcopy(saved))
    np.testing.assert_equal(arrays(part.state_dict()), before)


def leaves(value, path=()):
    """Arrays and tensors in a state, and the dictionaries they are in, by where they are."""
    if isinstance(value, dict):
        yield path, value
    if isinstance(value, dict | list | tuple):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*path, key))
    elif isinstance(value, np.ndarray | torch.Tensor):
        yield path, value


def replaced(value, path, new):
    """A state with something else in one place."""
    if not path:
        return new
    key, *rest = path
    if isinstance(value, dict):
        return {**value, key: replaced(value[key], rest, new)}
    return [replaced(one, rest, new) if i == key else one for i, one in enumerate(value)]


LEARNERS = ("ippo", "qmix", "replay", "cmae", "count", "rnd", "visits")


@pytest.mark.parametrize("name", LEARNERS)
def test_what_lies_deeper_is_looked_at_too(name):
    part = PARTS[name]()
    saved = part.state_dict()
    places = list(leaves(saved))
    assert len(places) > 2
    for path, value in places:
        if isinstance(value, dict):
            for key in value.keys() - {"available", "observations"}:  # which not every task has
                without = {other: one for other, one in value.items() if other != key}
                refuses(part, replaced(saved, path, without))
            continue
        strange = value.astype("U") if isinstance(value, np.ndarray) else value.to(torch.complex64)
        for wrong in (value[None], strange):
            refuses(part, replaced(saved, path, wrong))


def small_run(**options):
    return _Run(Settings("pass", "plain", options={"size": 10}, num_envs=2, **options))


OTHERS = {
    "ippo": [lambda: ippo(3), lambda: ippo(hidden=5)],
    "qmix": [
        lambda: q_learner(3),
        lambda: q_learner(hidden=5),
        lambda: q_learner(capacity=9),
        lambda: q_learner(mixer="vdn"),
        lambda: q_learner(recurrent=True),
    ],
    "replay": [lambda: EpisodeReplay(9, 12), lambda: EpisodeReplay(8, 13)],
    "cmae": [
        lambda: cmae(3),
        lambda: cmae(n_values=(6, 7)),
        lambda: cmae(n_values=(6, 6, 6)),
        lambda: cmae(capacity=240),
    ],
    "count": [
        lambda: CountBonus(2, groups=((0,), (0, 1)), seed=1),
        lambda: CountBonus(3, groups=((0,), (0, 1))),
        lambda: CountBonus(2),
        rnd,
        HerBonus,
    ],
    "rnd": [lambda: rnd(3), lambda: rnd(hidden=5), lambda: rnd(outputs=4), HerBonus],
    "her": [rnd, DiscriminatorBonus, lambda: RewardBonus(None)],
    "visits": [
        lambda: _Visits(make("pass", 2)),
        lambda: _Visits(make("pass-single", 2, size=10)),
        lambda: _Visits(Line(2)),  # without cells
    ],
    "shaping": [lambda: Shaping(KeyStateSet.from_source(SOURCE, 2)[:1])],
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_state_of_another_is_refused(name):
    saved = PARTS[name]().state_dict()
    for other in OTHERS[name]:
        refuses(other(), saved)


UNTAUGHT = {
    "ippo": ippo,
    "qmix": q_learner,
    "cmae": cmae,
    "count": lambda: CountBonus(2, groups=((0,), (0, 1))),
    "rnd": rnd,
    "shaping": lambda: Shaping(KeyStateSet.from_source(SOURCE, 2)),
}


@pytest.mark.parametrize("name", UNTAUGHT)
def test_nothing_is_loaded_by_half(name):
    saved = PARTS[name]().state_dict()
    for key in saved:
        refuses(UNTAUGHT[name](), {**saved, key: "x"})


@pytest.mark.parametrize("name", ["ippo", "qmix", "rnd"])
def test_a_loaded_learner_shares_nothing_with_the_other(name):
    first, second = PARTS[name](), PARTS[name]()
    second.load_state_dict(first.state_dict())
    before = copy.deepcopy(arrays(first.state_dict()))
    played = episodes()
    if name != "ippo":
        second.observe(played)
    if name != "rnd":
        second.update(*[(), (played, played.rewards)][name == "ippo"])
    np.testing.assert_equal(arrays(first.state_dict()), before)


def test_what_learns_nothing_takes_nothing():
    for part in (DiscriminatorBonus(), RewardBonus(None)):
        part.load_state_dict({})
        for garbage in (*GARBAGE, []):
            refuses(part, garbage)


def test_a_run_refuses_what_is_no_run():
    saved = small_run().state_dict()
    for key, own in saved.items():
        for garbage in (*GARBAGE, {}, ["x"]):
            if garbage is not own:
                with pytest.raises(StateError, match="give what state_dict"):
                    small_run().load_state_dict({**saved, key: garbage})
    with pytest.raises(StateError, match=r"actions has shape .*, 3\): give .*, 2\)"):
        small_run().load_state_dict({**saved, "example": vars(episodes(3))})
    with pytest.raises(StateError, match=r"it has the parts \['learner', 'visits'\], not .*'count"):
        small_run(count_bonus=0.1).load_state_dict(saved)


TRUE, FALSE = np.ones((2, 2), bool), np.zeros((2, 2), bool)
EMPTY = [np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int16), np.zeros((0, 0))]


def shelf(numbers=(5, 6), stamps=(0, 2), after=((-1, -1), (1, -1)), states=((1.0,), (3.0,))):
    return [np.array(column) for column in (numbers, stamps, after, states)]


def longer_columns():
    longer = EpisodeReplay(8, 13)
    longer.add(episodes())
    return longer.state_dict()["columns"]


def replay_of_cmae(name, value):
    columns = taught_cmae().state_dict()["replay"]
    columns[name].flat[0] = value
    return columns


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
        ("stagnation", {"hits": [1, 3]}, "hits holds 3"),
        ("stagnation", {"hits": [1, -1]}, "hits holds -1"),
        ("stagnation", {"hits": [1]}, "counts 1 key states, this one 2"),
        ("stagnation", {"episodes": 3}, "episodes is 3: give a whole number from 0 to 2"),
        ("stagnation", {"queries": True}, "queries is True"),
        ("stagnation", {"solved": "no"}, "solved is 'no': give True or False"),
        ("her", {"drawn": -1}, "drawn is -1"),
        ("her", {"more": 1}, r"has the keys \['drawn', 'more'\]: give \['drawn'\]"),
        ("count", {"counts": [[1], [1]]}, r"counts has shape \(1,\): give \(3,\)"),
        ("count", {"cells": [[2, 1], [1]], "counts": [[1, 1], [1]]}, "not in order"),
        ("count", {"cells": [[1]], "counts": [[1]]}, "zip"),
        ("rnd", {"learned": 1.5}, "learned is 1.5"),
        ("rnd", {"square": -1.0}, "square is -1.0"),
        ("ippo", {"wins": [0.5]}, "wins is 0.5"),
        ("ippo", {"imitated": vars(episodes(3))}, r"actions has shape .*, 3\): give .*, 2\)"),
        (
            "ippo",
            {"imitated": {**vars(episodes()), "states": np.zeros((13, 6, 3))}},
            "inputs of another length than 2",
        ),
        ("qmix", {"counts": [1, 2, 3]}, "values to unpack"),
        ("qmix", {"counts": [1, 2, 3, -1]}, "counts is -1"),
        ("qmix", {"replay": EpisodeReplay(8, 13).state_dict()}, "episode_limit 13, this one 12"),
        ("replay", {"next": 3}, "holds 6 episodes, and 3 is next"),
        ("replay", {"next": 8}, "next is 8: give a whole number from 0 to 7"),
        ("replay", {"chains": [[]] * 5}, "zip|holds 5 episodes"),
        ("replay", {"chains": [[[9, 0]], *[[]] * 5]}, "does not fit an episode of 8 steps"),
        ("replay", {"columns": {}}, "lacks 'actions'"),
        ("replay", {"columns": longer_columns()}, "its episodes have room for 13 steps"),
        ("cmae", {"progress": [6, 1, [1, 0]]}, r"its part is \[1, 0\], in which it does not"),
        ("cmae", {"progress": [-6, 1, [0]]}, "episodes is -6"),
        ("cmae", {"codes": [36]}, "codes holds 36"),
        ("cmae", {"codes": [1, 1]}, "holds a state twice"),
        ("cmae", {"ways": [[[99], np.zeros((1, 2, 3))]]}, "a row is 99"),
        ("cmae", {"ways": [[[0], np.zeros((2, 2, 3))]]}, r"ways has shape \(2, 2, 3\)"),
        ("cmae", {"replay": replay_of_cmae("rows", 99)}, "rows holds 99"),
        ("cmae", {"replay": replay_of_cmae("actions", 3)}, "actions holds 3"),
        ("cmae", {"replay": replay_of_cmae("lengths", 13)}, "lengths holds 13"),
        ("cmae", {"counts": []}, "does not count in every index"),
        ("cmae", {"counts": [[[1, 0], np.zeros((36, 9), int)]]}, r"\(1, 0\) is none of the state"),
        ("cmae", {"counts": [[[0], np.zeros((6, 8), int)]]}, r"give \(6, 9\)"),
        ("shaping", {"relabeler": 1}, "give what state_dict"),
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
