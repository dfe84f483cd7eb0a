"""Functions that break a promise, attack or mislead; states to try them on."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from lemae import KeyStateSet, StateEntry, TaskSpec, checks, envs
from lemae._codegen import ChildReport, Limits, Outcome
from lemae.checks import check
from lemae.errors import ConfigError, KeyStateError, ShapeError, TaskError
from lemae.probes import Probes, given, probes

ENTRIES = (
    StateEntry("agent 0 x", 0, 29),
    StateEntry("agent 0 y", 0, 29),
    StateEntry("agent 1 x", 0, 29),
    StateEntry("agent 1 y", 0, 29),
    StateEntry("door", 0, 1),
)
TASK = TaskSpec("pass", "Get through.", "30 cells.", ENTRIES, 2, ("up", "down"), 300)
FEW = probes(TASK, n=64)

GOOD = '''
def is_open(state):
    """The door is open while both agents are on the left."""
    return state[4] == 1 and state[0] < 15 and state[2] < 15
'''


def function(body, name="x"):
    lines = body if "\n" in body or body.startswith("return") else f"return {body}"
    return f"def is_{name}(state):\n" + "".join(f"    {line}\n" for line in lines.split("\n"))


def failures(source, **options):
    """What is wrong with the only function of a source."""
    report = check(source, TASK, options.pop("probes", FEW), **options)
    assert not report.accepted
    assert report.key_states is None
    (found,) = report.functions
    return "\n".join(found.failures)


# --- acceptance ---------------------------------------------------------------------------------


def test_a_good_function_is_accepted():
    report = check(GOOD, TASK, FEW, meta={"model": "m"})
    assert report.accepted, report
    (found,) = report.functions
    assert (found.name, found.line, found.subspace, found.origin) == ("open", 2, (0, 2, 4), "code")
    assert (found.failures, found.warnings, found.same_as) == ((), (), None)
    assert found.vectorized
    states = FEW.states
    wanted = (states[:, 4] == 1) & (states[:, 0] < 15) & (states[:, 2] < 15)
    assert found.true_fraction == pytest.approx(wanted.mean())
    assert 0 < found.seconds_per_call < 0.01
    assert report.probes == len(FEW)
    assert "process" in report.isolation
    np.testing.assert_array_equal(report.key_states.evaluate(states)[:, 0], wanted)
    assert report.key_states.meta["model"] == "m"
    assert report.key_states.meta["check"]["accepted"] is True
    report.raise_for_failures()


def test_one_good_function_of_three_is_kept(tmp_path):
    source = (
        "def is_broken(state):\n    return state[0] >\n\n"
        + GOOD
        + function("while True:\n    pass", "endless")
        + function("1 / int(state[0]) > 0.2", "failing")
    )
    report = check(source, TASK, FEW)
    assert report.accepted
    assert [found.accepted for found in report.functions] == [False, True, False, False]
    assert report.key_states.names == ("open",)
    assert "endless" not in report.key_states.source
    text = str(report)
    assert text.startswith("1 of 4 key states accepted, 1 needed; tried on")
    assert "is_broken (line 1): rejected\n  - line 2, syntax error" in text
    assert "is_endless (line 8): rejected\n  - line 9, `while` loop" in text
    assert "ZeroDivisionError: division by zero (line 12: return 1 / int(state[0]) > 0.2)" in text
    assert "is_open (line 5): accepted, about the indices [0, 2, 4] (code), true on" in text
    assert KeyStateSet.load(report.key_states.save(tmp_path)) == report.key_states
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    assert [entry["accepted"] for entry in report.as_dict()["functions"]] == [False, True] + [
        False
    ] * 2


def test_how_many_are_needed_can_be_said():
    report = check(GOOD, TASK, FEW, min_key_states=2)
    assert not report.accepted
    assert report.key_states.names == ("open",)
    with pytest.raises(KeyStateError, match="1 of 1 key states accepted, 2 needed"):
        report.raise_for_failures()


@pytest.mark.parametrize("source", ["", "x = 1\n", "'''", "def is_x(state)\n  return 1"])
def test_nothing_to_accept(source):
    report = check(source, TASK, FEW)
    assert not report.accepted
    assert report.key_states is None
    assert report.isolation == ()
    with pytest.raises(KeyStateError, match="0 of"):
        report.raise_for_failures()


# --- broken promises ----------------------------------------------------------------------------

STRIPPED = "\n".join(["if state[0] > 20:", "    return True"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("state[0]", "it returned a number that is neither 0 nor 1: return True or False"),
        ("np.sqrt(-1 - state[0])", "neither 0 nor 1"),  # not a number
        (STRIPPED, "it returned nothing: end every path in return True or return False"),
        ("[state[0] > 1]", r"it returned a list of 0 array\(s\) and 1 other"),
        ("state[0:2] > 1", r"it returned a ndarray of dtype bool and shape \(2,\)"),
        ("range(3) if state[0] > 1 else 1", "type range"),
        ("1 / int(state[0]) > 0.2", "ZeroDivisionError"),
        ("math.sqrt(state[0] - 15) > 1", "ValueError"),
        ("[1, 2][int(state[0])] > 1", "IndexError"),
        ("state[0] > 1 or state", r"shape \(5,\)"),
        ("state[0] >= 0", "it is true on all"),
        ("state[0] == state[0]", "it is true on all"),
        ("True", "its result does not depend on the state"),
        ("0 * len(state) == 1", "its result does not depend on the state"),
        ("state[5] > 1", r"`state\[5\]` reaches index 5, and the indices there are 0 to 4"),
        ("(state[0] > 1) + (state[1] > 1) == 2", "never 2"),
        ("state[0] = 1\nreturn state[0] > 1", "changes the argument in place"),
        ("return undefined > 1", "`undefined`"),
    ],
)
def test_a_broken_promise_is_named(body, message):
    found = failures("import math\nimport numpy as np\n" + function(body))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found)


def test_errors_that_differ_from_state_to_state_are_one():
    errors = "n = int(state[0])\nif n > 3:\n    return range(n * 9999)\nreturn [0][n + 3]"
    tried = given(np.arange(200.0).reshape(40, 5))
    index, limit = failures(function(errors), probes=tried).split("\n")
    assert index.startswith("on 1 of 40 states, such as a state under random actions [0.0, ")
    assert limit.startswith("on 39 of 40 states, such as a state under random actions [5.0, ")
    assert "range(49995,) has more than 4096 steps" in limit
    assert limit.endswith("(line 4: return range(n * 9999))")
    lists = failures(function("[0] * (int(state[0]) + 1)"), probes=given(tried.states[:12]))
    assert "\n" not in lists
    assert "it returned a list of 0 array(s) and 1 other item(s)" in lists


def test_reasons_are_bounded_in_number_and_length(monkeypatch):
    """Whatever a child sends, such as an error of its own for every state."""

    def forged(good):
        return [
            replace(one, outputs=None, error=f"E{n}: {'x' * 9000}") for n, one in enumerate(good)
        ]

    monkeypatch.setattr(checks, "run_in_child", child(forged))
    found = failures(function("state[0] > 9"), probes=given(FEW.states[:64]))
    lines = found.split("\n")
    assert f"and {min(64, len(FEW)) - 40} more" in lines
    assert max(map(len, lines)) < 1300
    assert len(lines) < 45
    names = "\n".join(f"x.f{i}" for i in range(2000))
    lines = failures(function(names + "\nreturn state[0] > 1")).split("\n")
    assert len(lines) == 41
    assert lines[-1].startswith("and ")
    assert len(check("x += 1\n" * 9000, TASK, FEW).ignored) == 41


def test_everything_wrong_is_said_at_once():
    body = "import os\nx = [y for y in state if __name__]\nwith x:\n    pass\nreturn x.real > 1"
    found = failures(function(body))
    for part in ("line 2, import", "line 3, name `__name__`", "line 4, `with`", "`.real`"):
        assert part in found
    found = failures(function("if state[0] > 9:\n    return 7\nreturn 1 / int(state[1]) > 0.1"))
    assert "neither 0 nor 1" in found
    assert "ZeroDivisionError" in found


def test_a_message_names_a_state_and_how_it_was_found():
    env = envs.make("pass", 4)
    source = function("1 / int(state[0] - 4) > 0.3")
    found = failures(source, probes=probes(env, n=16))
    assert (
        "such as a first state of an episode [4.0, 4.0, 3.0, 3.0, 0.0]: ZeroDivisionError" in found
    )
    found = failures(function("1 / int(state[0]) > 0.2"))
    assert "such as a made-up state [0.0, " in found


SLOW = "n = 0\nfor i in range({}):\n    n = n + state[0] * i\nreturn n > 9e6"


def test_a_slow_function_is_rejected():
    found = failures(
        function(SLOW.format(500)), probes=given(FEW.states[:20]), seconds_per_call=1e-4
    )
    assert found == "it takes more than 0.1 ms for one state: use fewer loops"


def test_a_function_is_not_slow_because_the_machine_is_busy(monkeypatch):
    """The child measures from start to end of a call, also while other processes run."""
    busy = child(lambda good: [replace(outcome, seconds=0.5) for outcome in good])
    monkeypatch.setattr(checks, "run_in_child", busy)
    assert check(function("state[0] > 9"), TASK, FEW).accepted


def test_a_function_that_takes_too_long_is_killed():
    many = given(np.tile(FEW.states, (200, 1)))
    found = failures(function(SLOW.format(4000)), probes=many, limits=Limits(wall_s=1.0))
    assert found == (
        "it did not end within 10 s of processor time, or 1 s in all, on 2000 states: use fewer "
        "loops"
    )


def test_what_holds_a_child_is_told_even_if_it_is_killed():
    many = given(np.tile(FEW.states, (20, 1)))
    report = check(function(SLOW.format(4000)), TASK, many, limits=Limits(wall_s=2.0))
    assert "did not end" in str(report)
    assert "process" in report.isolation


def test_the_time_for_a_file_is_bounded(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(checks.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(checks, "run_in_child", child(lambda good: good))
    source = "".join(function("state[0] > 9", name) for name in "abcd")
    report = check(source, TASK, FEW, max_seconds=25)
    late = [found.failures for found in report.functions]
    assert late[0] == ()
    assert late[1] == late[2] == late[3] != ()
    assert "the 25 s for the whole file were over before" in str(report)
    assert report.key_states.names == ("a",)
    with pytest.raises(ConfigError, match="max_seconds is 0"):
        check(source, TASK, FEW, max_seconds=0)


@pytest.mark.slow  # 6 s of processor time
def test_what_never_ends_is_over_within_15_seconds():
    body = (
        "n = 0\nfor i in range(60):\n    for j in range(60):\n"
        "        n = n + np.sin(state * i).sum()\nreturn n > 9e6"
    )
    start = time.monotonic()
    many = given(np.tile(FEW.states, (80, 1)))
    found = failures("import numpy as np\n" + function(body), probes=many)
    assert time.monotonic() - start < 15
    assert found == (
        "it did not end within 5 s of processor time, or 14 s in all, on 2000 states: use fewer "
        "loops"
    )


def test_the_time_depends_on_the_number_of_states(monkeypatch):
    seen = []

    def run(code, policy, calls, limits):
        seen.append((len(calls), limits.cpu_s, limits.wall_s))
        return child(lambda good: good)(code, policy, calls, limits)

    monkeypatch.setattr(checks, "run_in_child", run)
    assert check(function("state[0] > 9"), TASK, given(np.tile(FEW.states, (80, 1)))).accepted
    counts, cpu, wall = zip(*seen, strict=True)
    assert sum(counts) == 80 * len(FEW) + checks.AGAIN
    assert len(counts) > 1
    assert counts[:-1] == (checks.CALLS,) * (len(counts) - 1)
    assert cpu == pytest.approx([1 + 0.002 * count for count in counts])
    assert set(wall) == {14.0}


def child(change):
    """A child process in which ``state[0] > 9`` runs, but for what ``change`` makes of it."""

    def run(code, policy, calls, limits):
        good = [Outcome((np.array(state[0] > 9),), "bool", None, (), 1e-5) for (state,) in calls]
        return ChildReport(tuple(change(good)), ("process",), 0.1)

    return run


def test_a_function_that_changes_its_argument_is_rejected(monkeypatch):
    changed = child(lambda good: [replace(good[0], changed_inputs=(0,)), *good[1:]])
    monkeypatch.setattr(checks, "run_in_child", changed)
    assert "it changed its argument" in failures(function("state[0] > 9"))


def test_a_function_that_changes_its_mind_is_rejected(monkeypatch):
    changed = child(lambda good: [*good[:-1], replace(good[-1], outputs=(~good[-1].outputs[0],))])
    monkeypatch.setattr(checks, "run_in_child", changed)
    assert "two calls on the same state differ" in failures(function("state[0] > 9"))


# --- odd, but allowed ---------------------------------------------------------------------------


def warnings_of(source, tried=FEW, **options):
    report = check(source, TASK, tried, **options)
    assert report.accepted, report
    return "\n".join(report.functions[0].warnings)


def test_a_key_state_that_is_true_at_reset_is_warned_of():
    tried = probes(envs.make("pass", 4), n=32)
    found = warnings_of(function("state[0] < 15"), tried)
    assert (
        "true in 1 of 1 first states of episodes: it counts only after it has been false" in found
    )
    assert "first states" not in warnings_of(GOOD, tried)


def test_a_key_state_that_is_never_true_is_warned_of():
    assert "true on none of the states" in warnings_of(function("state[0] == 15.5"))


def test_a_place_is_missed():
    assert "holds no coordinate" in warnings_of(function("state[4] == 1"))
    spec = replace(TASK, state=(*ENTRIES[:4], StateEntry("x of the box", 0, 1)))
    report = check(function("state[4] == 1"), spec, FEW)
    assert report.functions[0].warnings == ()


def test_a_wrong_declaration_is_reported_and_the_code_wins():
    report = check('SUBSPACES = {"open": [0, 1]}\n' + GOOD, TASK, FEW)
    assert report.functions[0].warnings == (
        "[0, 1] is declared, but the code reads [0, 2, 4]; this counts",
    )
    assert report.key_states[0].subspace == (0, 2, 4)
    found = failures('SUBSPACES = {"open": [0, 5]}\n' + GOOD)
    assert "SUBSPACES declares the indices [5], but indices are 0 to 4" in found


def test_a_declaration_that_leaves_something_out_is_completed():
    source = 'SUBSPACES = {"x": [0]}\n' + function("state[int(state[4])] > 20")
    report = check(source, TASK, FEW, subspace="declared")
    assert report.functions[0].subspace == (0, 1, 4)
    assert (
        "indices [1, 4] changes the result; they are added to its subspace, which is declared"
        in (report.functions[0].warnings[-1])
    )


def test_an_index_without_influence_is_warned_of():
    source = function("unused = state[3] + 1\nreturn state[0] > 15")
    assert "[3] alone never changed the result" in warnings_of(source)
    report = check(source, TASK, FEW, prune_inert=True)
    assert report.functions[0].subspace == (0,)
    assert report.functions[0].warnings == ()


def test_a_function_that_is_called_state_by_state_is_warned_of():
    source = "\n\n" + function("state[int(state[4])] > 20")
    found = warnings_of(source)
    assert "it is called state by state" in found
    assert "us each: line 4: an index or a number of steps depends on the state" in found


def test_a_form_that_differs_from_the_child_is_not_used(monkeypatch):
    from lemae.discriminators import forms, vectorize

    original = vectorize.operation
    monkeypatch.setattr(
        vectorize, "operation", lambda op: np.less_equal if op == "less" else original(op)
    )
    monkeypatch.setattr(forms, "trials", lambda source, name, d: np.zeros((32, d)))
    report = check(function("state[0] < 29 and state[1] > 1"), TASK, FEW)
    assert not report.functions[0].vectorized
    assert "found to differ" in report.functions[0].warnings[0]
    assert report.key_states[0].vectorize is False
    states = FEW.states
    wanted = (states[:, 0] < 29) & (states[:, 1] > 1)
    np.testing.assert_array_equal(report.key_states.evaluate(states)[:, 0], wanted)


def test_functions_that_say_the_same_are_one():
    source = (
        GOOD
        + function("all([state[4] == 1, state[0] <= 14, state[2] <= 14])", "twin")
        + function("state[0] == 15.5 and state[1] > 3", "never")
        + function("state[0] == 16.5", "never_too")
        + function("state[0] == 15.5 and state[1] > 3", "never_again")
    )
    report = check(source, TASK, FEW)
    assert [found.same_as for found in report.functions] == [None, "open", None, None, "never"]
    assert report.key_states.names == ("open", "never", "never_too")
    assert "is_twin (line 5): left out, it is true exactly where is_open is" in str(report)


# --- key states that exist ----------------------------------------------------------------------


def test_a_set_is_checked_and_keeps_its_subspaces():
    own = KeyStateSet.from_source(GOOD, TASK).with_subspaces({"open": [0, 1, 2, 3, 4]})
    own.meta["model"] = "m"
    report = check(own, TASK, FEW)
    assert report.accepted
    assert report.functions[0].origin == "given"
    assert "set to [0, 1, 2, 3, 4]; by itself it is [0, 2, 4]" in report.functions[0].warnings[0]
    assert report.key_states == own
    assert report.key_states.meta["model"] == "m"


def test_states_and_key_states_have_to_fit():
    own = KeyStateSet.from_source(GOOD, 5)
    with pytest.raises(ShapeError, match="have 6 numbers, the task 5"):
        check(GOOD, TASK, np.zeros((3, 6)))
    with pytest.raises(ShapeError, match="have 6 numbers, the task 7"):
        check(GOOD, 7, np.zeros((3, 6)))
    with pytest.raises(ShapeError, match="have 6 numbers, the key states 5"):
        check(own, None, np.zeros((3, 6)))
    with pytest.raises(ShapeError, match=r"shape \(5,\)"):
        check(own, None, np.zeros(5))
    with pytest.raises(ConfigError, match="no states to try"):
        check(own)


def test_states_alone_are_enough():
    report = check(GOOD, probes=FEW.states)
    assert report.accepted
    assert report.key_states.d == 5


# --- attacks ------------------------------------------------------------------------------------

# Bodies of functions. None of these may reach execution.
REFUSED = {
    "import": "import os\nreturn state[0] > 1",
    "import in disguise": "import numpy.ctypeslib as np\nreturn state[0] > 1",
    "dunder import": "__import__('os').system('id')\nreturn state[0] > 1",
    "open": "open('f', 'w')\nreturn state[0] > 1",
    "eval": "return eval('1')",
    "exec": "exec('1')\nreturn state[0] > 1",
    "getattr": "return getattr(state, 'tofile')('f')",
    "globals": "return globals()['np']",
    "class walk": "return ().__class__.__base__.__subclasses__()",
    "function globals": "return is_x.__globals__",
    "builtins": "return __builtins__",
    "guards by name": "return _method(state, 'tofile', 'f')",
    "full-width underscore": "return state.＿＿class＿＿",  # noqa: RUF001
    "format": "return '{0.__class__}'.format(state)",
    "f-string": "return f'{state.__class__}'",
    "np.load": "return np.load('f')",
    "np.save": "np.save('f', state)\nreturn state[0] > 1",
    "np.fromfile": "return np.fromfile('/etc/passwd', dtype=np.int64)",
    "np.memmap": "return np.memmap('f', dtype=np.float64, mode='w+', shape=(9,))",
    "np.genfromtxt": "return np.genfromtxt('/etc/passwd')",
    "np.ctypeslib": "return np.ctypeslib.ctypes.CDLL(None)",
    "np.f2py": "return np.f2py.os.system('id')",
    "np.vectorize": "return np.vectorize(is_x)(state)",
    "np.random": "return np.random.rand() > 0.5",
    "np.zeros": "return np.zeros(10**9).sum() > state[0]",
    "object dtype": "return state.astype(object)[0] > 1",
    "tofile": "state.tofile('f')\nreturn state[0] > 1",
    "while": "while True:\n    pass",
    "endless loop": "for i in range(10**9):\n    pass\nreturn state[0] > 1",
    "nested loops": "for i in range(99):\n    for j in range(99):\n        pass\nreturn state[0]",
    "huge power": "return 9 ** 9 ** 9 > state[0]",
    "huge list": "return len([0] * 10**9) > state[0]",
    "recursion": "return is_x(state)",
    "lambda": "return (lambda: state[0] > 1)()",
    "class": "class A:\n    pass\nreturn state[0] > 1",
    "try": "try:\n    return state[0] > 1\nexcept Exception:\n    return False",
    "global": "global np\nreturn state[0] > 1",
    "in place": "state[0] += 1\nreturn state[0] > 1",
    "method in place": "state.sort()\nreturn state[0] > 1",
    "walrus": "return (x := state[0]) > 1",
    "generator": "return any(x > 1 for x in state)",
}
# Bodies that pass the allow-list and would cost too much, were they not bounded when they run.
RUNNING = {
    "power of variables": "x = int(state[0]) + 9\ny = x ** x\nreturn y ** y > 1",
    "growing integer": "x = int(state[0]) + 9\nfor i in range(60):\n    x = x * x\nreturn x > 1",
    "growing list": "x = [0]\nfor i in range(60):\n    x = x + x\nreturn len(x) > state[0]",
    "growing array": "x = state\nfor i in range(60):\n    x = np.array([x, x])\nreturn x.sum() > 1",
    "hidden loop": "n = int(state[0]) * 10**9\nreturn sum([i for i in range(n)]) > 1",
    "shift": "return (1 << int(state[0]) * 10**6) > 1",
    "digits": "return round(1.5, int(state[0]) * -10**8) > 1",
    "steps": "n = 0\nfor i in range(100):\n    for j in state:\n        for k in range(40):\n"
    "            n = n + 1\nreturn n > state[0]",
}


def test_attacks_never_start(monkeypatch):
    monkeypatch.setattr(checks, "run_in_child", lambda *_: pytest.fail("it was executed"))
    assert "not defined" in failures("import numpy as np\n" + function("nothing > 1"))
    for name, body in REFUSED.items():
        source = "import numpy as np\n" + function(body)
        assert failures(source), name
        with pytest.raises(KeyStateError):
            KeyStateSet.from_source(source, TASK)


@pytest.mark.parametrize("name", RUNNING)
def test_attacks_that_start_are_stopped(name):
    source = "import numpy as np\n" + function(RUNNING[name])
    tried = given(FEW.states[FEW.states[:, 0] > 3][:10])
    found = failures(source, probes=tried)
    assert any(word in found for word in ("Limit", "Error", "killed")), found


def test_attacks_at_the_top_level_are_left_out(tmp_path):
    path = tmp_path / "f"
    source = (
        f"import os\nos.system('touch {path}')\nopen({str(path)!r}, 'w')\n"
        f"x = open({str(path)!r}, 'w')\n" + GOOD + function("state[0] > x", "x")
    )
    report = check(source, TASK, FEW)
    assert report.key_states.names == ("open",)
    assert "line 4" in report.functions[1].failures[0]
    assert [message.split(":")[0] for message in report.ignored] == ["line 1", "line 2", "line 3"]
    assert "(left out) line 2: this statement is left out" in str(report)
    assert not path.exists()


def test_what_is_no_key_state_is_named():
    source = (
        "import numpy as np\nNEAR, FAR = 3, 9\nLIMIT = 3\nUNUSED = 4\n\n"
        "is_b = lambda state: state[0] > 1\n\n"
        "def Is_c(state):\n    return state[0] > 1\n\n"
        "class D:\n    pass\n\n"
        "async def is_e(state):\n    return state[0] > 1\n\n"
        "def far(x):\n    return x > LIMIT\n\n"
        "def broken(x)\n    return known(x)\n\n"
        "def known(x):\n    return x > 1\n\n"
        "def is_f(state):\n    return far(state[0])\n"
    )
    report = check(source, TASK, FEW)
    assert [found.accepted for found in report.functions] == [False, True]
    assert "line 14, `async`: use a plain `def`" in report.functions[0].failures
    told = [message.partition(":")[0] for message in report.ignored]
    assert told == ["line 20, syntax error", "line 2", "line 11", *("line 4", "line 6", "line 8")]
    assert "line 11: this class is left out" in report.ignored[2]
    for name in ("UNUSED", "is_b", "Is_c"):
        assert f"`{name}` is left out: no key state uses it" in str(report)


# --- states to try ------------------------------------------------------------------------------


def test_states_of_an_environment():
    env = envs.make("pass", 8)
    found = probes(env, n=100, seed=3)
    assert found.reset.tolist() == [[4, 4, 3, 3, 0]]
    assert found.rollout.shape == (100, 5)
    assert len(np.unique(found.rollout, axis=0)) > 50
    assert len(found) == len(found.states) == 1 + 100 + len(found.made)
    assert found.d == 5
    assert (found.states == np.floor(found.states)).all()
    assert found.lows.tolist() == [0] * 5
    assert found.highs.tolist() == [29, 29, 29, 29, 1]
    again = probes(envs.make("pass", 8), n=100, seed=3)
    np.testing.assert_array_equal(found.states, again.states)
    other = probes(env, n=100, seed=4)
    assert (found.rollout != other.rollout).any()


@pytest.mark.parametrize("n", [1, 64, 2048])
def test_each_index_is_pushed_to_its_bounds_to_zero_and_elsewhere(n):
    spec = replace(TASK, state=(*ENTRIES[:4], StateEntry("energy", -1.5, 1.5, integer=False)))
    found = probes(spec, n=n)
    assert len(found.reset) == len(found.rollout) == 0
    for index, entry in enumerate(spec.state):
        values = found.made[:, index]
        assert {entry.low, entry.high, 0.0} <= set(values.tolist())
        assert len(set(values.tolist())) > 3 or n == 1
        assert entry.low <= values.min() <= values.max() <= entry.high
        assert (values == np.floor(values)).all() == entry.integer or n == 1
    assert n / 2 <= len(found) <= 2 * n + 40


class Walk:
    """Two copies of one agent on a line of real numbers, without a description."""

    num_envs, n_agents, n_actions, d = 2, 1, 3, 2

    def reset(self, seed=None):
        self.position, self.steps = np.full(2, 0.5), np.zeros(2)
        return self.state(), {}

    def state(self):
        return np.stack([self.position, self.steps], axis=1).astype(np.float32)

    def available(self):
        found = np.ones((2, 1, 3), bool)
        found[:, 0, 2] = False
        return found

    def step(self, actions):
        assert actions.shape == (2, 1)
        assert actions.max() < 2  # the last action is never available
        self.position += actions[:, 0] * 0.25
        self.steps += [1, 2]
        ended = self.steps >= 5
        return self.state(), np.zeros(2), np.zeros(2, bool), ended, {}


def test_environments_without_a_description_show_their_ranges():
    env = Walk()
    found = probes(env, n=40)
    assert found.rollout.shape == (40, 2)
    # The copy that takes double steps is over first; what it does until the other one is over too
    # is no state of an episode.
    assert sorted(set(found.rollout[:, 1])) == [1, 2, 3, 4, 5, 6]
    assert found.lows.tolist() == [0.5, 0]
    assert found.highs[1] == 6
    steps = found.made[:, 1]
    assert (steps == np.floor(steps)).all()
    assert not (found.made[:, 0] == np.floor(found.made[:, 0])).all()
    assert found.rollout.dtype == np.float64


def test_bad_requests_for_states():
    with pytest.raises(ConfigError, match="n is 0"):
        probes(TASK, n=0)
    with pytest.raises(TaskError, match="num_envs, n_agents, n_actions, reset and step"):
        probes(object())
    with pytest.raises(
        TaskError, match="describes 5 indices, the states of the environment have 2"
    ):
        probes(Walk(), n=10, task=TASK)
    with pytest.raises(ShapeError, match=r"shape \(0, 3\)"):
        given(np.zeros((0, 3)))


def test_given_states():
    found = given([[1, 2], [3, 0]])
    assert isinstance(found, Probes)
    assert (found.lows.tolist(), found.highs.tolist()) == ([1, 0], [3, 2])
    assert found.states.tolist() == [[1, 2], [3, 0]]
