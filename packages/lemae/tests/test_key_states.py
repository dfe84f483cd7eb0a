"""Files of key states taken apart, sets of them evaluated, changed, saved and loaded."""

import dataclasses
import json
import logging
import pickle
import threading

import numpy as np
import pytest
import torch

from lemae import KeyState, KeyStateSet, StateEntry, TaskSpec
from lemae.discriminators.source import split
from lemae.errors import ConfigError, IntegrityError, KeyStateError, LemaeWarning, ShapeError

D = 5
#: Key states of a passage with a door: two agents, x at 0 and 2, the door at 4.
PASSAGE = '''
"""Key states by hand."""
import numpy as np

SUBSPACES = {"open": [0, 2, 4], "is_apart": [0, 2]}
WALL = 15

def left(x):
    return x < WALL

def is_open(state):
    """The door is open

    while both agents are on the left.
    """
    return state[4] == 1 and left(state[0]) and left(state[2])

def is_apart(state):
    x0, x1 = state[0], state[2]
    return left(x0) != left(x1)

def is_at_door(state):
    return np.abs(state[0] - WALL) <= 1 or int(state[4]) == 3
'''
STATES = np.random.default_rng(0).integers(0, 30, (200, D)).astype(np.float32)
STATES[:, 4] = np.arange(200) % 4
WANTED = np.stack(
    [
        (STATES[:, 4] == 1) & (STATES[:, 0] < 15) & (STATES[:, 2] < 15),
        (STATES[:, 0] < 15) != (STATES[:, 2] < 15),
        (np.abs(STATES[:, 0] - 15) <= 1) | (STATES[:, 4] == 3),
    ],
    axis=1,
)
FAILING = "def is_x(state):\n    return state[int(state[0])] > 1\n"


@pytest.fixture
def passage():
    return KeyStateSet.from_source(PASSAGE, D)


# --- a file -------------------------------------------------------------------------------------


def test_a_file_becomes_a_set(passage):
    assert passage.names == ("open", "apart", "at_door")
    assert passage[0].description.startswith("The door is open\n\nwhile both")
    assert passage[2].description == "at door"
    assert [k.subspace for k in passage] == [(0, 2, 4), (0, 2), (0, 4)]
    assert [k.declared for k in passage] == [(0, 2, 4), (0, 2), None]
    assert (len(passage), passage.d, passage[-1].name) == (3, D, "at_door")


def test_each_function_takes_along_what_it_needs_and_nothing_else():
    opened, _, at_door = split(PASSAGE).candidates
    assert "def left" in opened.source
    assert "WALL = 15" in opened.source
    assert "import numpy" not in opened.source
    assert "is_apart" not in opened.source
    assert "def left" not in at_door.source
    assert at_door.source.startswith("import numpy as np")


def test_lines_of_messages_are_those_of_the_file():
    text = PASSAGE + "\n\ndef is_bad(state):\n    return state.__class__\n"
    line = text.split("\n").index("    return state.__class__") + 1
    with pytest.raises(KeyStateError, match=rf"is_bad: line {line}, attribute `.__class__`"):
        KeyStateSet.from_source(text, D)


def test_every_reason_is_given_at_once():
    text = """
SUBSPACES = {"far": [5], "typed": "all"}
def is_loop(state):
    while True:
        pass
def is_out(state):
    return state[5] > 0
def is_far(state):
    return state[0] > 0
def is_typed(state):
    return state[0] > 0
def is_constant(state):
    return 1 > 0
def is_unread(state):
    return len(state) > 2
def is_named(s):
    return s[0] > 1
def is_adding(state):
    both = (state[0] > 1) + (state[1] > 1)
    return both == 2
LIMIT = 2
LIMIT = 3
def is_twice(state):
    return state[0] > LIMIT
"""
    with pytest.raises(KeyStateError) as caught:
        KeyStateSet.from_source(text, D)
    message = str(caught.value)
    for part in (
        "is_loop: line 4, `while` loop",
        "is_out: line 7: `state[5]` reaches index 5, and the indices there are 0 to 4",
        "is_far: SUBSPACES declares the indices [5], but indices are 0 to 4",
        "is_typed: line 2: SUBSPACES gives 'all'",
        "is_constant: its result does not depend on the state",
        "is_unread: its result does not depend on the state",
        "is_named: line 16, arguments (s): define `def is_named(state)`",
        "is_adding: line 19: `+` between two comparisons gives True or False here, never 2",
        "is_twice: line 22: `LIMIT` is assigned twice",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no function is_<name>"),
        ("def open(state):\n    return True\n", "no function is_<name>"),
        ("def is_a(state)\n    return 1\n", "is_a: line 1, syntax error"),
        ("x = " + "1 + " * 40_000 + "1", "longer than"),
        ("def is_a(state):\n    return '\ud800'\n", "surrogates not allowed"),
        ("def is_a(state):\n    return state[0] > 1\ndef is_a(state):\n    return 1\n", "twice"),
        ("def is_a(state, other):\n    return state[0] > 1\n", "arguments"),
        ("async def is_a(state):\n    return state[0] > 1\n", "async"),
        (
            "def is_a(state):\n    return is_b(state)\ndef is_b(state):\n    return is_a(state)",
            "recu",
        ),
    ],
)
def test_a_file_without_a_good_function_is_refused(text, message):
    with pytest.raises(KeyStateError, match=message):
        KeyStateSet.from_source(text, D)


def test_what_else_stands_in_a_file_is_left_out_and_logged(caplog):
    text = (
        "import os\nfrom typing import Any\nprint('hello')\nSUBSPACES = {1: 2, 'gone': [0]}\n"
        "SUBSPACES = [3]\ndef is_a(state):\n    return state[0] > 1\nif True:\n    x = 1\n"
    )
    with caplog.at_level(logging.WARNING):
        key_states = KeyStateSet.from_source(text, D)
    assert key_states.source == "def is_a(state):\n    return state[0] > 1\n"
    said = [record.message for record in caplog.records]
    assert [message.split(":")[0] for message in said[:4]] == [
        "line 1",
        "line 3",
        "line 5",
        "line 8",
    ]
    assert said[4:] == [
        "SUBSPACES names 'gone', but there is no function is_gone(state)",
        "SUBSPACES names '1', but there is no function is_1(state)",
    ]


def test_a_function_that_python_cannot_read_does_not_take_the_others_with_it():
    text = (
        "LIMIT = 3\n\ndef is_a(state):\n    return state[0] > LIMIT\n\n"
        "def is_b(state):\n    return state[0] >\n\n"
        "def helper(x)\n    return x\n\ndef is_c(state):\n    return state[1] > 1\n"
    )
    file = split(text)
    good = [candidate for candidate in file.candidates if not candidate.problems]
    assert [candidate.name for candidate in file.candidates] == ["a", "b", "c"]
    assert [candidate.name for candidate in good] == ["a", "c"]
    assert "line 7, syntax error" in file.candidates[1].problems[0]
    assert "line 9, syntax error" in file.ignored[0]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000,
        "x = " + "-" * 5000 + "1",
        "def is_a(state):\n" + "  return (\n" * 300,
        "\x00",
        "'''",
    ],
)
def test_hostile_text_is_no_crash(text):
    file = split(text)
    assert not [candidate for candidate in file.candidates if not candidate.problems]


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PASSAGE.strip(), encoding="utf-8-sig")
    assert KeyStateSet.from_path(path, D) == KeyStateSet.from_source(PASSAGE.strip(), D)


@pytest.mark.parametrize("line", ["x = 1\x00", "x = 1" + " + 1" * 4000])
def test_what_no_parser_may_see_is_found_in_its_line(line):
    text = f"def is_a(state):\n    return state[0] > 1\n\ndef is_b(state):\n    y = 1\n    {line}\n"
    good, bad = split(text).candidates
    assert not good.problems
    assert bad.problems[0].startswith("line 6, ")
    assert "\n" not in bad.problems[0]


def test_every_reason_is_told_if_nothing_can_be_used():
    text = (
        "class A:\n    pass\ndef is_a(state):\n    return A(state)\n"
        "def Is_b(state):\n    return state[0] > 1\n"
    )
    with pytest.raises(KeyStateError) as caught:
        KeyStateSet.from_source(text, D)
    for part in ("is_a: line 4", "line 1: this class is left out", "line 5: `Is_b` is left out"):
        assert part in str(caught.value)


def test_line_ends_of_other_systems():
    windows = KeyStateSet.from_source(PASSAGE.replace("\n", "\r\n"), D)
    assert windows == KeyStateSet.from_source(PASSAGE, D)


def test_the_length_of_the_state_may_stay_unknown():
    key_states = KeyStateSet.from_source(PASSAGE)
    np.testing.assert_array_equal(key_states.evaluate(STATES), WANTED)
    longer = np.concatenate([STATES, STATES], axis=1)
    np.testing.assert_array_equal(key_states.evaluate(longer), WANTED)
    with pytest.raises(ShapeError, match=r"\(200, 4\).*at least 5 numbers"):
        key_states.evaluate(STATES[:, :4])
    with pytest.raises(KeyStateError, match="length"):
        KeyStateSet.from_source("def is_a(state):\n    return state[-1] > 1\n")


# --- evaluation ---------------------------------------------------------------------------------


def test_both_forms_say_what_was_worked_out_by_hand(passage):
    np.testing.assert_array_equal(passage.evaluate(STATES), WANTED)
    for k, key_state in enumerate(passage):
        assert key_state.vectorized
        np.testing.assert_array_equal(key_state.batch(STATES), WANTED[:, k])
        assert [key_state(state) for state in STATES[:20]] == WANTED[:20, k].tolist()


@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (4, 50), (0, 3), (2, 5, 20)])
def test_states_of_any_shape(passage, shape):
    count = int(np.prod(shape))
    states = STATES[:count].reshape(*shape, D)
    found = passage.evaluate(states)
    assert (found.shape, found.dtype) == ((*shape, 3), bool)
    np.testing.assert_array_equal(found, WANTED[:count].reshape(*shape, 3))
    assert passage[1].batch(states).shape == shape


def test_tensors_and_lists_and_integers(passage):
    for states in (torch.from_numpy(STATES), STATES.tolist(), STATES.astype(np.int64)):
        np.testing.assert_array_equal(passage.evaluate(states), WANTED)
    assert isinstance(passage.evaluate(torch.from_numpy(STATES)), np.ndarray)


def test_some_of_the_key_states(passage):
    np.testing.assert_array_equal(passage.evaluate(STATES, [2, 0]), WANTED[:, [2, 0]])
    np.testing.assert_array_equal(passage.evaluate(STATES[0], which=(1,)), WANTED[0, [1]])
    assert passage.evaluate(STATES, []).shape == (200, 0)


def test_results_are_new_and_states_are_unchanged(passage):
    before = STATES.copy()
    first, second = passage.evaluate(STATES), passage.evaluate(STATES)
    first[:] = True
    np.testing.assert_array_equal(second, WANTED)
    np.testing.assert_array_equal(STATES, before)


@pytest.mark.parametrize("states", [np.zeros(4), np.zeros((3, 6)), np.zeros((2, 5, 1)), 1.0])
def test_states_of_the_wrong_length_are_refused(passage, states):
    for call in (passage.evaluate, passage[0].batch):
        with pytest.raises(ShapeError, match=r"states of 5 numbers"):
            call(states)


def test_states_that_are_no_numbers_are_refused(passage):
    with pytest.raises(ShapeError, match="dtype <U1: give numbers"):
        passage.evaluate(np.full((2, D), "x"))
    with pytest.raises(ShapeError, match="one state"):
        passage[0](STATES)


def test_a_failure_counts_as_false_is_warned_of_once_and_counted():
    key_states = KeyStateSet.from_source(FAILING, 2)
    states = np.array([[0.0, 2.0], [1.0, 2.0], [7.0, 2.0], [9.0, 2.0]])
    with pytest.warns(LemaeWarning, match=r"is_x fails on \[7.0, 2.0\].*IndexError.*as false"):
        found = key_states.evaluate(states)
    assert found[:, 0].tolist() == [False, True, False, False]
    assert key_states.n_failed == 2
    key_states.evaluate(states)  # -W error: a second warning would fail here
    assert key_states.n_failed == 4
    with pytest.raises(KeyStateError, match=r"is_x fails on \[7.0, 2.0\]"):
        key_states[0](states[2])


def test_key_states_of_both_forms_in_one_set():
    text = PASSAGE + FAILING.replace("is_x", "is_dynamic").replace("state[0]", "state[4]")
    key_states = KeyStateSet.from_source(text, D)
    assert [k.vectorized for k in key_states] == [True, True, True, False]
    rows = np.arange(200)
    dynamic = STATES[rows, STATES[:, 4].astype(int)] > 1
    found = key_states.evaluate(STATES)
    np.testing.assert_array_equal(found, np.column_stack([WANTED, dynamic]))
    np.testing.assert_array_equal(key_states.evaluate(STATES, [3, 1]), found[:, [3, 1]])


def test_a_form_that_differs_is_not_used(monkeypatch, caplog):
    """The comparison on trial states is what finds it."""
    from lemae.discriminators import vectorize as module

    text = "def is_x(state):\n    return state[0] < 7.25 and state[1] > 3\n"
    monkeypatch.setitem(module._PYTHON, "less", "{} <= {}")
    with caplog.at_level(logging.WARNING):
        key_states = KeyStateSet.from_source(text, 2)
        assert not key_states[0].vectorized
    assert "differs from the function on single states, such as [7.25" in caplog.text
    assert key_states.evaluate([[7.25, 4], [7, 4]])[:, 0].tolist() == [False, True]


def test_several_threads(passage):
    wrong = []

    def work():
        found = [passage.evaluate(STATES) for _ in range(50)]
        wrong.extend(one for one in found if not np.array_equal(one, WANTED))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_runs_before_the_first_call(monkeypatch):
    from lemae._codegen import loading

    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("the code was loaded"))
    text = PASSAGE.replace("WALL = 15", "WALL = 15.5")
    KeyStateSet.from_source(text, D)


# --- one key state ------------------------------------------------------------------------------


def test_a_key_state_checks_its_source_and_its_subspace():
    good = "def is_a(state):\n    return state[0] > 1\n"
    assert KeyState("a", "", good, (0,))(np.array([2.0]))
    with pytest.raises(KeyStateError, match=r"is_a: [^$]*line 2, import"):
        KeyState("a", "", "def is_a(state):\n    import os\n    return state[0] > 1\n", (0,))
    with pytest.raises(KeyStateError, match="no function `is_b`"):
        KeyState("b", "", good, (0,))
    for subspace in ((), (1, 0), (0, 0), (5,), (-1,)):
        with pytest.raises(KeyStateError, match=r"subspace of 'a' is .*up to 4, ascending"):
            KeyState("a", "", good, subspace, d=5)


# --- other sets ---------------------------------------------------------------------------------


def test_parts_of_a_set(passage):
    part = passage.subset([2, 0])
    assert part.names == ("at_door", "open")
    np.testing.assert_array_equal(part.evaluate(STATES), WANTED[:, [2, 0]])
    assert passage[1:].names == ("apart", "at_door")
    with pytest.raises(IndexError):
        passage.subset([3])
    with pytest.raises(KeyStateError, match="no key state"):
        passage.subset([])
    with pytest.raises(KeyStateError, match="share a name"):
        passage.subset([0, 0])


@pytest.mark.parametrize(("fraction", "left"), [(0, 3), (0.25, 2), (0.5, 1), (1, 1)])
def test_reduction(passage, fraction, left):
    reduced = passage.reduced(fraction, seed=1)
    assert len(reduced) == left
    assert list(reduced.names) == sorted(reduced.names, key=passage.names.index)
    assert reduced == passage.reduced(fraction, seed=1)
    several = {passage.reduced(fraction, seed=s).names for s in range(20)}
    assert len(several) == (1 if left == 3 else 3)
    assert len(passage[:2].reduced(0.25, seed=0)) == 1  # halves are rounded up


@pytest.mark.parametrize(("fraction", "added"), [(0, 0), (0.5, 2), (1, 3)])
def test_distraction(passage, fraction, added):
    more = passage.with_distractions(fraction, seed=0)
    assert more.names[:3] == passage.names
    assert len(more) == 3 + added
    assert more == passage.with_distractions(fraction, seed=0)
    for k in range(3, len(more)):
        (index,) = more[k].subspace
        np.testing.assert_array_equal(more.evaluate(STATES)[:, k], STATES[:, index] == 0)
    names = {passage.with_distractions(1, seed=s).names for s in range(10)}
    assert len(names) > 3


def test_reduction_and_distraction_need_sensible_fractions(passage):
    for fraction in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            passage.reduced(fraction, 0)
    for fraction in (-1, 2):
        with pytest.raises(ConfigError, match="has 5 indices for them"):
            passage.with_distractions(fraction, 0)
    with pytest.raises(ConfigError, match="give the task"):
        KeyStateSet.from_source(PASSAGE).with_distractions(1, 0)
    full = passage.with_distractions(5 / 3, 0)
    with pytest.raises(ConfigError, match="has 0 indices"):
        full.with_distractions(0.5, 0)


def test_other_subspaces(passage):
    changed = passage.with_subspaces({"open": [4, 1, 0]})
    assert [k.subspace for k in changed] == [(0, 1, 4), (0, 2), (0, 4)]
    assert changed != passage
    np.testing.assert_array_equal(changed.evaluate(STATES), WANTED)
    with pytest.raises(KeyStateError, match=r"no key state is named \['shut'\]"):
        passage.with_subspaces({"shut": [0]})
    with pytest.raises(KeyStateError, match="up to 4"):
        passage.with_subspaces({"open": [5]})


@pytest.mark.parametrize("strange", [[0.5], [True], ["1"], [np.nan], [None], "01", 3, None, [-1]])
def test_indices_of_a_subspace_are_whole_numbers(passage, strange):
    with pytest.raises(KeyStateError, match=r"the subspace of 'open' is .*: give indices of the"):
        passage.with_subspaces({"open": strange})
    if isinstance(strange, list):
        with pytest.raises(KeyStateError, match=r"'open' is .*: give different whole num"):
            dataclasses.replace(passage[0], subspace=tuple(strange))


def test_indices_of_a_subspace_may_be_numpys(passage, tmp_path):
    changed = passage.with_subspaces({"open": np.array([4, 1])})
    assert KeyStateSet.load(changed.save(tmp_path))[0].subspace == (1, 4)


def test_sets_of_several_files_need_different_names_for_different_things(passage):
    other = "def left(x):\n    return x < 3\n\ndef is_near(state):\n    return left(state[0])\n"
    near = KeyStateSet.from_source(other, D)
    with pytest.raises(KeyStateError, match="different things named 'left'"):
        KeyStateSet([*passage, *near], D)
    near = KeyStateSet.from_source(other.replace("left", "close"), D)
    assert KeyStateSet([*passage, *near], D).evaluate(STATES).shape == (200, 4)


def test_the_source_of_a_set_gives_the_set_again(passage):
    for key_states in (passage, passage.subset([2, 0]), passage.with_distractions(1, 0)):
        assert KeyStateSet.from_source(key_states.source, D) == key_states
    assert passage.source.count("def left") == 1


# --- equality, pickle, files --------------------------------------------------------------------


def test_equality_and_pickle(passage):
    twin = KeyStateSet.from_source(PASSAGE, D)
    assert passage == twin
    assert hash(passage) == hash(twin)
    assert passage != passage.subset([1, 0, 2])
    assert passage != KeyStateSet.from_source(PASSAGE.replace("15", "16"), D)
    assert passage != "passage"
    passage.evaluate(STATES)
    back = pickle.loads(pickle.dumps(passage))
    assert back == passage
    np.testing.assert_array_equal(back.evaluate(STATES), WANTED)
    assert pickle.loads(pickle.dumps(passage[0])) == passage[0]
    assert "open [0, 2, 4]" in repr(passage)


def test_saved_and_loaded(passage, tmp_path):
    key_states = passage.with_subspaces({"open": [0, 1]}).with_distractions(0.5, 0)
    key_states.meta.update(model="by hand", note=None, nested={"a": [1, 2.5]})
    folder = key_states.save(tmp_path / "new" / "set")
    assert sorted(path.name for path in folder.iterdir()) == ["key_states.py", "meta.json"]
    for back in (KeyStateSet.load(folder), KeyStateSet.from_path(folder, D)):
        assert back == key_states
        assert back.meta == key_states.meta
        assert [k.subspace for k in back] == [k.subspace for k in key_states]
        assert [k.description for k in back] == [k.description for k in key_states]
        np.testing.assert_array_equal(back.evaluate(STATES), key_states.evaluate(STATES))
    passage.save(folder)
    assert KeyStateSet.load(folder) == passage


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("key_states.py", "WALL = 15", "WALL = 16"),
        ("key_states.py", "def is_apart", "# a comment\ndef is_apart"),
        ("meta.json", '"d": 5', '"d": 6'),
        ("meta.json", '"model": "m"', '"model": "n"'),
        ("meta.json", '"accepted": true', '"accepted": false'),
        ("meta.json", '"vectorize": true', '"vectorize": false'),
        ("meta.json", '"name": "open"', '"name": "apart"'),
    ],
)
def test_a_changed_file_is_refused(passage, tmp_path, name, old, new):
    passage.meta.update(model="m", check={"accepted": True})
    folder = passage.save(tmp_path)
    edit(folder / name, old, new)
    with pytest.raises(IntegrityError, match=r"changed after it was saved.*lemae check"):
        KeyStateSet.load(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("meta.json", "{", "damaged"),
        ("meta.json", "[]", "damaged"),
        ("meta.json", "{}", "damaged"),
        ("meta.json", "[" * 100_000, "damaged"),
        ("meta.json", None, "missing"),
        ("key_states.py", None, "missing"),
        ("key_states.py", "\xff", "changed"),
        ("key_states.py", "", "changed"),
    ],
)
def test_a_damaged_folder_is_refused(passage, tmp_path, name, content, message):
    folder = passage.save(tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(IntegrityError, match=message):
        KeyStateSet.load(folder)


def forge(folder, **changes):
    """Change the meta file and make its hash fit, as somebody with bad intentions would."""
    from lemae.key_states import _digest

    meta = json.loads((folder / "meta.json").read_text())
    meta.update(changes)
    del meta["sha256"]
    (folder / "meta.json").write_text(json.dumps({**meta, "sha256": _digest(meta)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format 99, this version reads 1"),
        ({"d": "five"}, "damaged"),
        ({"d": True}, "damaged"),
        ({"meta": []}, "damaged"),
        ({"key_states": [{"name": "gone", "subspace": [0], "vectorize": True}]}, "damaged"),
        ({"key_states": [{"name": "open", "subspace": ["a"], "vectorize": True}]}, "damaged"),
        ({"key_states": [{"name": "open"}]}, "damaged"),
        ({"key_states": 3}, "damaged"),
    ],
)
def test_a_forged_file_is_refused(passage, tmp_path, changes, message):
    folder = passage.save(tmp_path)
    forge(folder, **changes)
    with pytest.raises(IntegrityError, match=message):
        KeyStateSet.load(folder)


def test_unsafe_code_in_a_forged_folder_is_refused(passage, tmp_path):
    import hashlib

    folder = passage.save(tmp_path)
    text = (folder / "key_states.py").read_text().replace("x < WALL", "open('f', 'w')")
    (folder / "key_states.py").write_text(text)
    forge(folder, source=hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(KeyStateError, match=r"`open\(\)`"):
        KeyStateSet.load(folder)


def test_an_interrupted_save_leaves_nothing_that_loads_wrongly(passage, tmp_path, monkeypatch):
    from lemae import key_states as module

    folder = passage.save(tmp_path)
    write, calls = module.write_text_atomic, []

    def fail_second(path, text):
        calls.append(path)
        if len(calls) == 2:
            raise OSError("no space left")
        return write(path, text)

    monkeypatch.setattr(module, "write_text_atomic", fail_second)
    with pytest.raises(OSError, match="no space"):
        passage.subset([0]).save(folder)
    with pytest.raises(IntegrityError):
        KeyStateSet.load(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["key_states.py", "meta.json"]


def test_a_file_by_its_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PASSAGE)
    assert KeyStateSet.from_path(path, D).names == ("open", "apart", "at_door")
    with pytest.raises(FileNotFoundError):
        KeyStateSet.from_path(tmp_path / "none.py")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(IntegrityError, match="UTF-8"):
        KeyStateSet.from_path(path)


def test_a_folder_for_another_task_is_refused(passage, tmp_path):
    folder = passage.save(tmp_path)
    entries = tuple(StateEntry(f"number {i}", 0, 1) for i in range(6))
    task = TaskSpec("other", "d", "c", entries, 2, ("go",), 10)
    with pytest.raises(ShapeError, match="states of 5 numbers, the task has 6"):
        KeyStateSet.from_path(folder, task)
