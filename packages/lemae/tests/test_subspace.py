"""Which indices a key state is about: by its code, by traces, by declaration, or all."""

import logging

import numpy as np
import pytest

from lemae import KeyStateSet, StateEntry, TaskSpec
from lemae.discriminators.subspace import coordinates, find_subspace, influential
from lemae.discriminators.symbolic import IndexProblemError
from lemae.errors import ConfigError, KeyStateError

D = 6


def source(text):
    lines = text.strip("\n")
    if "def is_x" not in lines:
        lines = f"def is_x(state):\n    return {lines}"
    return f"import numpy as np\nimport math\n{lines}\n"


def find(text, d=D, **options):
    return find_subspace(source(text), "x", d, **options)


CORPUS = [
    ("state[4] == 1", (4,)),
    ("state[4] == 1 and state[0] < 3", (0, 4)),
    ("state[-1] > 0", (5,)),
    ("state[-6] > 0 or state[+1] > 2", (0, 1)),
    ("state[2 * 2 - 1] > 0", (3,)),
    ("state[1:3].sum() > 0", (1, 2)),
    ("state[:2].max() > 0", (0, 1)),
    ("state[4:].min() > 0", (4, 5)),
    ("state[::2].max() > 0", (0, 2, 4)),
    ("state[-2:][0] > 0", (4,)),
    ("state[1:5][-1] > 0", (4,)),
    ("state[[1, 3]].any()", (1, 3)),
    ("np.linalg.norm(state[0:2] - state[2:4]) < 3", (0, 1, 2, 3)),
    ("np.sort(state[2:4])[0] > 1", (2, 3)),  # no elementwise form, and known all the same
    ("sum(state) > 3", (0, 1, 2, 3, 4, 5)),
    ("any([x > 3 for x in state])", (0, 1, 2, 3, 4, 5)),
    ("any([state[i] > 3 for i in (0, 2)])", (0, 2)),
    ("all([state[i] > 0 for i in range(1, 6, 2)])", (1, 3, 5)),
    ("len(state) > 5 and state[0] > 1", (0,)),
    ("state[0] > 1 if True else state[1] > 1", (0,)),
    ("False and state[0] > 1 or state[1] > 1", (1,)),
    ("(state[0], state[3]) == (1, 2)", (0, 3)),
    ("state[2] in (1, 3)", (2,)),
    ("state.shape[0] == 6 and state[1] > 1", (1,)),
    ("np.asarray(state)[3] > 1", (3,)),
    (
        """
def is_x(state):
    x0, y0, x1, y1, door, rest = state
    return door == 1 and x0 < 15
""",
        (0, 4),  # names that nobody uses are no reading
    ),
    (
        """
def is_x(state):
    s = state
    x = s[4]
    a, b = s[0:2]
    return x == 1 and a < b
""",
        (0, 1, 4),
    ),
    (
        """
AGENTS = [0, 2]
OFFSET = 1
def y_of(state, agent):
    return state[AGENTS[agent] + OFFSET]
def is_x(state):
    return y_of(state, 0) > 3 and y_of(state, 1) > 3
""",
        (1, 3),
    ),
    (
        """
def is_x(state):
    for i in range(3):
        if i == 1:
            continue
        if state[i] > 3:
            return True
        if state[3] > 1:
            break
    return False
""",
        (0, 2, 3),
    ),
    (
        """
def is_x(state):
    if state[0] > 3:
        return state[1] > 1
    if state[2] > 3:
        x = state[3]
    else:
        x = state[4]
    return x > 1
""",
        (0, 1, 2, 3, 4),  # every branch, also those that hide behind others
    ),
    (
        """
def is_x(state):
    x = state[0]
    if state[4] == 1:
        x = state[1]
    return state[2] > 1
""",
        (2, 4),
    ),
    (
        """
def is_x(state):
    found = []
    for i in (1, 5):
        found.append(state[i])
    return max(found) > 3
""",
        (1, 5),
    ),
]


@pytest.mark.parametrize(("text", "indices"), CORPUS)
def test_the_code_says_what_it_reads(text, indices):
    found = find(text)
    assert (found.indices, found.origin, found.warnings) == (indices, "code", ())


@pytest.mark.parametrize(("text", "indices"), CORPUS)
def test_the_code_reads_nothing_else(text, indices):
    """What is outside of the subspace never changes the result; some of what is inside does."""
    scope = {}
    exec(source(text), scope)
    rng = np.random.default_rng(0)
    states = rng.integers(-1, 6, (300, D)).astype(float)

    def function(rows):
        return np.array([bool(scope["is_x"](row)) for row in rows])

    lows, highs = np.full(D, -2.0), np.full(D, 7.0)
    found = influential(function, states, lows, highs, np.random.default_rng(1))
    assert set(found) <= set(indices)
    assert found


@pytest.mark.parametrize(
    ("text", "kept", "pruned"),
    [
        ("state[3] * 0 + state[1] > 2", (1, 3), (1, 3)),  # only a way to the result counts
        ("def is_x(state):\n    unused = state[3] + 1\n    return state[1] > 2", (1, 3), (1,)),
        (
            "def is_x(state):\n    if state[3] > 1:\n        y = 1\n    return state[1] > 2",
            (1, 3),
            (1,),
        ),
        ("state[4] == 1", (4,), (4,)),
    ],
)
def test_indices_without_a_way_to_the_result_can_be_left_out(text, kept, pruned):
    assert find(text).indices == kept
    assert find(text, prune_inert=True).indices == pruned


STATES = np.random.default_rng(0).integers(0, 4, (200, D)).astype(float)


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("state[int(state[0])] > 2", (0, 1, 2, 3)),
        ("state[0] > 1 and state[int(state[1]) + 2] > 2", (0, 1, 2, 3, 4, 5)),
        ("state[int(state[0])] > 2 if state[5] else False", (0, 1, 2, 3, 5)),
        ("sum([state[i] for i in range(int(state[5]))]) > 2", (0, 1, 2, 5)),
        (
            "def is_x(state):\n    n = 0\n    for i in range(int(state[0])):\n"
            "        n += state[i]\n    return n > 4 and state[4] > 2",
            (0, 1, 2, 4),
        ),
    ],
)
def test_code_that_computes_indices_is_traced(text, indices):
    found = find(text, states=lambda: STATES)
    assert (found.indices, found.origin) == (indices, "trace")
    assert "depends on the state" in found.warnings[0]
    assert find(text, declared=[3], states=lambda: STATES).indices == indices


def test_a_trace_follows_the_branches_that_the_states_take():
    text = "state[int(state[0])] > 2 if state[5] > 100 else state[1] > 1"
    assert find(text, states=lambda: STATES).indices == (1, 5)


GUARDED = """
def is_x(state):
    if state[4] > 1:
        return False
    return np.array([[state[0], state[1]]])[0][0] > 1
"""


def test_paths_that_return_early_do_not_stand_for_those_that_cannot_be_traced():
    found = find(GUARDED, declared=[0, 4], states=lambda: STATES)
    assert (found.indices, found.origin) == ((0, 4), "declared")
    assert "cannot be traced (line 6: " in found.warnings[1]
    assert find(GUARDED, states=lambda: STATES).indices == tuple(range(D))


def test_states_are_made_only_to_trace():
    def never():
        raise AssertionError

    assert find("state[4] == 1", states=never).origin == "code"


DYNAMIC = "state[int(state[0])] > 2"


def test_without_a_trace_the_declaration_counts_and_then_the_whole_state():
    found = find(DYNAMIC, declared=[3, 0, 3])
    assert (found.indices, found.origin) == ((0, 3), "declared")
    found = find(DYNAMIC)
    assert (found.indices, found.origin) == (tuple(range(D)), "full")
    assert "whole state" in found.warnings[-1]
    assert find(DYNAMIC, states=lambda: STATES - 1e9).origin == "full"  # no index at all


def test_a_declaration_that_says_something_else_is_reported_and_does_not_count():
    found = find("state[4] == 1", declared=[4, 0])
    assert found.indices == (4,)
    assert found.warnings == ("[0, 4] is declared, but the code reads [4]; this counts",)
    assert find("state[4] == 1 or state[0] > 1", declared=[4, 0]).warnings == ()


@pytest.mark.parametrize(
    ("mode", "indices"), [("code", (4,)), ("trace", (4,)), ("declared", (0, 1)), ("full", range(D))]
)
def test_the_origin_can_be_chosen(mode, indices):
    found = find("state[4] == 1", mode=mode, declared=[0, 1], states=lambda: STATES)
    assert (found.indices, found.origin) == (tuple(indices), mode)


def test_an_origin_that_knows_nothing_is_an_error():
    with pytest.raises(KeyStateError, match=r"is_x is about are not known.*depends on the state"):
        find(DYNAMIC, mode="code")
    with pytest.raises(KeyStateError, match="declare them in SUBSPACES"):
        find("state[4] == 1", mode="declared")
    with pytest.raises(KeyStateError, match="give the length of the state"):
        find(DYNAMIC, d=None)
    with pytest.raises(ConfigError, match=r"'ast'.*auto, code, trace, declared, full"):
        find("state[4] == 1", mode="ast")


@pytest.mark.parametrize(
    "text",
    ["state[6] > 0", "state[-7] > 0", "state[4:8].sum() > 0", "state[0] > 0 and state[9] > 1"],
)
def test_an_index_beyond_the_state_is_an_error(text):
    with pytest.raises(IndexProblemError, match=r"line 4: `state\[.*\]` reaches index"):
        find(text)


@pytest.mark.parametrize(
    ("text", "indices"), [("state[4] > 1", (4,)), ("state[1:3].sum() > 1", (1, 2))]
)
def test_the_length_of_the_state_need_not_be_known(text, indices):
    assert find(text, d=None).indices == indices


@pytest.mark.parametrize("text", ["state[-1] > 1", "sum(state) > 1", "len(state) > state[0]"])
def test_code_that_needs_the_length_of_the_state_says_so(text):
    with pytest.raises(KeyStateError, match="length"):
        find(text, d=None)


def test_reading_ends_soon_whatever_the_code_is():
    text = """
def is_x(state):
    n = state[0]
    for i in range(4000):
        for j in range(1000):
            n = n + state[1] * i
    return n > 2
"""
    found = find(text)
    assert found.origin == "full"
    assert "steps" in found.warnings[0]
    for hostile in (
        "x = 9\n    y = x ** x\n    return state[0] > y ** y",
        "x = [0]\n    for i in range(60):\n        x = [x, x]\n    return state[0] > len(x)",
        "x = [state[0]]\n    for i in range(60):\n        x = [x, x]\n    return x == [x[0], x[1]]",
        "x = [0]\n    for i in range(60):\n        x = x + x\n    return state[0] > len(x)",
        "x = [state[0]]\n    for i in range(60):\n        x = x + x\n    return len(x) > state[1]",
        "x = state\n    for i in range(60):\n        x = np.array([x, x])\n    return x[0] > 1",
        "x = [i for i in range(4000)]\n    return sum([state[0] * j for i in x for j in x]) > 1",
    ):
        assert find("def is_x(state):\n    " + hostile).origin == "full"


# --- what changes the result --------------------------------------------------------------------


def test_influence_is_found_through_conditions_that_are_rarely_met():
    states = np.random.default_rng(0).integers(0, 30, (2000, 4)).astype(float)

    def function(rows):
        return (rows[:, 0] == 15) & (rows[:, 1] > 20) & (rows[:, 3] < 10)

    found = influential(function, states, np.zeros(4), np.full(4, 29.0), np.random.default_rng(0))
    assert found == (0, 1, 3)


def test_influence_of_a_function_that_is_nearly_always_true():
    states = np.random.default_rng(0).integers(0, 30, (2000, 3)).astype(float)

    def function(rows):
        return (rows[:, 0] > 1) | (rows[:, 2] > 1)

    found = influential(function, states, np.zeros(3), np.full(3, 29.0), np.random.default_rng(0))
    assert found == (0, 2)


# --- places -------------------------------------------------------------------------------------


def task(*names):
    entries = tuple(StateEntry(name, 0, 9) for name in names)
    return TaskSpec("t", "d", "c", entries, 2, ("stay", "go"), 10)


def test_places_are_told_by_their_names():
    yes = ["agent 0 x", "agent_1_y", "x0", "rel_x", "ally 3: Y", "box row", "position 2", "pos_x"]
    yes += ["column of the box", "coordinate 1"]
    no = ["door", "max health", "shield", "energy", "exit open", "type of unit 4", "boxes"]
    assert coordinates(task(*yes, *no)) == tuple(range(len(yes)))


def test_a_key_state_without_a_place_is_warned_of(caplog):
    text = "def is_open(state):\n    return state[2] == 1\n"
    with caplog.at_level(logging.WARNING):
        KeyStateSet.from_source(text, task("agent 0 x", "agent 0 y", "door"))
    assert "is_open: its subspace [2] holds no coordinate" in caplog.text
    caplog.clear()
    text = "def is_open(state):\n    return state[2] == 1 and state[0] > 2\n"
    with caplog.at_level(logging.WARNING):
        KeyStateSet.from_source(text, task("agent 0 x", "agent 0 y", "door"))
    assert not caplog.records


def test_warnings_about_subspaces_are_logged(caplog):
    text = 'SUBSPACES = {"open": [0]}\ndef is_open(state):\n    return state[2] == 1\n'
    with caplog.at_level(logging.WARNING):
        KeyStateSet.from_source(text, 3)
    assert "is_open: [0] is declared, but the code reads [2]; this counts" in caplog.text


def test_a_set_traces_its_code_on_the_ranges_of_the_task():
    entries = tuple(StateEntry(f"number {i}", 0, 3) for i in range(D))
    spec = TaskSpec("t", "d", "c", entries, 2, ("stay", "go"), 10)
    key_states = KeyStateSet.from_source(source(DYNAMIC), spec)
    assert key_states[0].subspace == (0, 1, 2, 3)
    assert 0 in KeyStateSet.from_source(source(DYNAMIC), D)[0].subspace
    assert KeyStateSet.from_source(source(DYNAMIC), D, subspace="full")[0].subspace == tuple(
        range(D)
    )
