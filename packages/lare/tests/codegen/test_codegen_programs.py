"""What models write for real must pass, and mean what it meant before the guards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lare._codegen
from lare._codegen import (
    ExecutionError,
    Limits,
    Policy,
    UnsafeCodeError,
    check,
    load_function,
    run_in_child,
)
from lare._codegen.policy import (
    MATH_NAMES,
    METHOD_RULES,
    NUMPY_RULES,
    policy_from_json,
    policy_to_json,
)

POLICY = Policy(
    entry="evaluation_func",
    signatures=(("observation", "action"), ("observation", "action", "next_observation")),
)
RNG = np.random.default_rng(3)
OBSERVATION = RNG.normal(size=(16, 8))
ACTION = RNG.uniform(-1, 1, size=(16, 3))

USUAL = '''
from __future__ import annotations
import math
import numpy as np
from typing import List

"""A reward for a walker."""

SCALES: list = [0.5, 2.0]
OFFSETS = np.array([0.1, 0.2, 0.3])
GOAL = -1.5


def norm(values: np.ndarray, axis: int = 1) -> np.ndarray:
    """Length of each row."""
    return np.linalg.norm(values, axis=axis, keepdims=True)


def evaluation_func(observation: np.ndarray, action: np.ndarray) -> List[np.ndarray]:
    """Factors, each (batch, 1)."""
    n: int = observation.shape[0]
    position = observation[:, 3:6]
    velocity = observation[:, -2:]
    a, b = observation[:, 0], observation[..., 1]
    factors = [norm(position - OFFSETS), -np.sum(np.square(action), axis=1, keepdims=True)]
    factors.append(np.arctan2(a, b).reshape(-1, 1))
    factors.append(np.where((a > 0) & ~(b < 0), 1.0, 0.0)[:, np.newaxis])
    total = np.zeros((n, 1), dtype=np.float32)
    for i in range(6):
        if i % 2 == 0:
            continue
        total += np.abs(observation[:, i : i + 1]).astype(np.float32)
    factors.append(total)
    out = np.ones((n, 2))
    out[:, 0] = np.clip(velocity[:, 0], -1.0, 1.0)
    out[:, 1] *= SCALES[1]
    factors.append(out.mean(axis=1)[:, None])
    bonus = np.exp(-norm(velocity)) if n > 0 else np.zeros((n, 1))
    factors.append(np.maximum(bonus, 0.1) * math.sqrt(2.0) + GOAL)
    factors.append(np.concatenate([a[:, None], b[:, None]], axis=1).max(axis=1, keepdims=True))
    pairs = [observation[:, k] * s for k, s in enumerate(SCALES)]
    factors.append(np.stack(pairs, axis=-1).sum(axis=-1).reshape((n, 1)).astype(float))
    factors.append(observation[:, [0, 2]] @ np.array([[1.0], [0.5]]))
    x, y = (a, b) if n is not None else (b, a)
    factors.append(np.expand_dims(np.hypot(x, y) / (1e-6 + np.abs(x).max(initial=1)
        if False else 2.0), 1))
    factors.append(((0 < a) | (a == 0.0)).astype("float32").reshape(-1, 1))
    near = [norm(position) < r for r in (0.1, 1.0)]
    factors.append(np.select(near, [np.ones((n, 1)), np.full((n, 1), 0.5)], default=0.0))
    return factors
'''


def plain(source, *arrays):
    """What Python without any guard computes."""
    namespace = {"np": np}
    exec(compile(source, "plain", "exec"), namespace)
    with np.errstate(all="ignore"):
        return namespace["evaluation_func"](*arrays)


def same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


def usual():
    # Without `initial=`, which is no part of the allow-list.
    return USUAL.replace(".max(initial=1)", ".max()")


def test_usual_code_computes_the_same_bits_plain_guarded_and_in_the_child():
    code = check(usual(), POLICY)
    calls = [(OBSERVATION[:size], ACTION[:size]) for size in (16, 2, 1, 0)]
    report = run_in_child(code, POLICY, calls)
    function = load_function(code, POLICY)
    for arrays, outcome in zip(calls, report.outcomes, strict=True):
        assert outcome.error is None, outcome.error
        wanted = plain(code.source, *arrays)
        same(function(*arrays), wanted)
        same(outcome.outputs, wanted)
        assert outcome.returned == f"list of {len(wanted)} array(s)"
        assert outcome.changed_inputs == ()
        assert outcome.seconds >= 0
    assert report.seconds < 5
    assert "process" in report.isolation


def test_unknown_keywords_are_named():
    with pytest.raises(UnsafeCodeError, match=r"argument `initial=`.*keepdims"):
        check(USUAL, POLICY)


def test_all_problems_are_in_one_message():
    source = (
        "import os\n\ndef evaluation_func(observation, action):\n    while True:\n        pass\n"
        "    observation[0] = 1\n    return open('f').__class__, 2 ** 10 ** 6\n"
    )
    with pytest.raises(UnsafeCodeError) as caught:
        check(source, POLICY)
    lines = {problem.line for problem in caught.value.problems}
    assert lines == {1, 4, 6, 7}
    for part in ("line 1, import", "`while` loop", ".copy()", "`open()`", "__class__", "`**`"):
        assert part in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_checked_code_keeps_lines_and_digest():
    source = "\r\n\r\ndef evaluation_func(observation, action):\r\n    return [1]   \r\n\r\n"
    code = check(source, POLICY)
    assert code.source == "def evaluation_func(observation, action):\n    return [1]\n"
    assert code == check(code.source, POLICY)
    assert len(code.sha256) == 64
    assert code.signature == ("observation", "action")
    with pytest.raises(FrozenInstanceError):
        code.source = ""


def test_loading_happens_once_for_each_code_and_policy():
    code = check(usual(), POLICY)
    function = load_function(code, POLICY)
    assert load_function(check(usual(), POLICY), replace(POLICY)) is function
    assert load_function(code, replace(POLICY, max_work=10**9)) is not function


def test_constants_are_the_same_in_every_call():
    source = (
        "WEIGHTS = [1.0]\nTABLE = np.zeros(2)\nPAIR = ([1.0], 2)\n"
        "def evaluation_func(observation, action):\n"
        "    w, p = WEIGHTS, PAIR\n    w.append(2.0)\n    p[0].append(1.0)\n"
        "    return [np.array(w), np.array(p[0])]\n"
    )
    function = load_function(check(source, POLICY), POLICY)
    for _ in range(2):
        assert [len(item) for item in function(OBSERVATION, ACTION)] == [2, 2]
    source = (
        "TABLE = np.zeros(2)\ndef evaluation_func(observation, action):\n"
        "    t = TABLE\n    t[0] = 1.0\n    return [t]\n"
    )
    with pytest.raises(ValueError, match="read-only"):
        load_function(check(source, POLICY), POLICY)(OBSERVATION, ACTION)


def test_math_can_be_left_out():
    policy = replace(POLICY, math_functions=())
    with pytest.raises(UnsafeCodeError, match="import"):
        check("import math\ndef evaluation_func(observation, action):\n    return [1]", policy)
    with pytest.raises(UnsafeCodeError, match=r"math\.sqrt"):
        check("def evaluation_func(observation, action):\n    return [math.sqrt(1)]", policy)


def test_a_policy_takes_only_names_that_are_bounded():
    for name, value in {
        "numpy_functions": ("load",),
        "math_functions": ("factorial",),
        "methods": ("tofile",),
        "attributes": ("ctypes",),
        "builtins": ("open",),
        "keywords": ("out",),
        "dtype_strings": ("O",),
    }.items():
        with pytest.raises(ValueError, match=value[0]):
            replace(POLICY, **{name: value})
    for bad in ({"entry": "_f"}, {"entry": "def"}, {"signatures": ()}, {"max_work": 0}):
        with pytest.raises(ValueError, match=r".+"):
            replace(POLICY, **bad)


def test_a_policy_goes_through_json():
    assert policy_from_json(json.loads(json.dumps(policy_to_json(POLICY)))) == POLICY


def calls_of_every_function():
    """One program for every function and method of the policy, in its plainest form."""
    two = "add subtract multiply divide true_divide floor_divide mod remainder fmod power "
    two += "float_power maximum minimum fmax fmin arctan2 hypot copysign heaviside logaddexp "
    two += "greater greater_equal less less_equal equal not_equal logical_and logical_or "
    two += "logical_xor isclose matmul dot outer"
    special = {
        "cross": "np.cross(x[:, :3], x[:, 3:6])",
        "where": "np.where(x > 0, x, 0)",
        "clip": "np.clip(x, -1, 1)",
        "expand_dims": "np.expand_dims(x, 0)",
        "swapaxes": "np.swapaxes(x, 0, 1)",
        "moveaxis": "np.moveaxis(x, 0, 1)",
        "reshape": "np.reshape(x, (-1, 1))",
        "array": "np.array([1.0, 2.0])",
        "zeros": "np.zeros((3, 2))",
        "ones": "np.ones(3, dtype=np.float32)",
        "full": "np.full((2, 2), 7.0)",
        "full_like": "np.full_like(x, 3.0)",
        "arange": "np.arange(2, 9, 2)",
        "linspace": "np.linspace(0, 1, num=5)",
        "eye": "np.eye(3)",
        "tile": "np.tile(x, (2, 1))",
        "repeat": "np.repeat(x, 2, axis=0)",
        "select": "np.select([x > 0], [x], 0)",
        "finfo": "np.finfo(np.float32).eps",
        "squeeze": "np.squeeze(x[:, :1])",
    }
    for name in "concatenate stack hstack vstack column_stack".split():  # noqa: SIM905
        special[name] = f"np.{name}([x, x])"
    for name in two.split():
        special.setdefault(
            name, f"np.{name}(x, x.T)" if name in ("matmul", "dot") else f"np.{name}(x, x)"
        )
    found = []
    for name, (kind, _) in NUMPY_RULES.items():
        last = name.rpartition(".")[2]
        if kind == "constant":
            found.append("x if np.newaxis is None else x" if last == "newaxis" else f"np.{name}")
        else:
            found.append(special.get(name, f"np.{name}(x)"))
    methods = {
        "astype": "x.astype(int)",
        "dot": "x.dot(x.T)",
        "clip": "x.clip(0, 1)",
        "swapaxes": "x.swapaxes(0, 1)",
        "repeat": "x.repeat(2)",
        "reshape": "x.reshape(-1)",
        "transpose": "x.transpose(1, 0)",
        "item": "x.sum().item()",
        "append": "[x][0]",
        "extend": "[x][0]",
        "squeeze": "x[:, :1].squeeze(1)",
    }
    found += [methods.get(name, f"x.{name}()") for name in METHOD_RULES]
    for name in MATH_NAMES:
        two_arguments = name in ("atan2", "hypot", "pow", "copysign")
        constant = name in ("pi", "e", "inf", "nan", "tau")
        found.append(
            f"math.{name}" + ("" if constant else "(0.5, 2)" if two_arguments else "(0.5)")
        )
    found += [
        "abs(-3)", "all([1, 0])", "any([1, 0])", "bool(3)", "float(x[0, 0])", "int(2.7)",
        "len(x)", "max(1, 2.5)", "min([3, 2])", "round(2.675, 2)", "round(7.4)",
        "sum([1, 2])", "sum([x, x])", "list((1, 2))", "tuple([1, 2])",
        "[i * j for i, j in zip([1, 2], (3, 4))]", "[i for i in range(5) if i in (1, 3)]",
        "[i for i, r in enumerate(x, 1)]", "7 // 2 + 7 % 4 - 2 ** 3", "(1 << 3) | 5 & ~2 ^ 1",
        "[1] * 3 + [2]", "x[0:3] is not None", "x[:, [True, False] * 4].shape == (16, 4)",
        "x[x[:, 0] > 0]", "x[[0, 1], [1, 2]]", "x[..., None].shape", "-x[-1, ::-1]", "1 < 2 < 3",
        "x.shape[0] == 16 and not x.ndim != 2", "(x > 0).astype(bool) ^ (x < 1)",
        "np.mean([x[:, 0], x[:, 1]], axis=0)", "np.float32(2.5) * x", "x.astype(x.dtype)",
        "np.nan_to_num(x, nan=0.0, posinf=1.0)", "np.round(x, 2)", "np.ones_like(x, dtype=int)",
    ]  # fmt: skip
    return found


def test_every_allowed_function_gives_the_plain_result_in_process_and_in_the_child():
    expressions = [text for text in calls_of_every_function() if _exists(text)]
    helpers = "\n".join(
        f"def part{number}(x):\n    return {text}" for number, text in enumerate(expressions)
    )
    chosen = "\n".join(
        f"    if action[0, 0] == {number}:\n        return part{number}(observation)"
        for number in range(len(expressions))
    )
    source = (
        f"import math\nimport numpy as np\n{helpers}\n"
        f"def evaluation_func(observation, action):\n{chosen}\n    return [1]\n"
    )
    policy = replace(POLICY, max_source_bytes=10**6)
    code = check(source, policy)
    calls = [(OBSERVATION, np.array([[float(number)]])) for number in range(len(expressions))]
    report = run_in_child(code, policy, calls)
    function = load_function(code, policy)
    for text, arrays, outcome in zip(expressions, calls, report.outcomes, strict=True):
        assert outcome.error is None, (text, outcome.error)
        wanted = plain(code.source, *arrays)
        got = function(*arrays)
        same(*([item] if not isinstance(item, list | tuple) else item for item in (got, wanted)))
        same(outcome.outputs, wanted if isinstance(wanted, list | tuple) else [wanted])


def _exists(text):
    """Whether this version of NumPy has the function of an expression."""
    name = text.partition("(")[0].removeprefix("np.")
    return not text.startswith("np.") or "." in name or hasattr(np, name)


# --- small random programs ----------------------------------------------------------------------

columns = st.integers(0, 7).map(lambda i: f"observation[:, {i}]")
numbers = st.sampled_from(["0.5", "2", "-1.0", "3", "WEIGHTS[1]", "n"])
leaves = st.one_of(columns, columns, numbers)


def grow(inner):
    return st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "<", ">="]), inner).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        st.tuples(st.sampled_from(["np.tanh", "np.abs", "np.sin", "-"]), inner).map(
            lambda parts: f"{parts[0]}({parts[1]})"
        ),
        st.tuples(inner, inner).map(lambda parts: f"np.maximum({parts[0]}, {parts[1]})"),
        st.tuples(inner, inner).map(lambda parts: f"np.where({parts[0]} > 0, {parts[1]}, 1.0)"),
        inner.map(lambda part: f"(np.array({part}) * 1.0).clip(-9, 9)"),
    )


programs = st.lists(st.recursive(leaves, grow, max_leaves=8), min_size=1, max_size=4)


@settings(max_examples=60)
@given(programs)
def test_random_programs_compute_the_same_bits_as_plain_python(expressions):
    code = check(_program(expressions), POLICY)
    arrays = (OBSERVATION, ACTION)
    same(load_function(code, POLICY)(*arrays), plain(code.source, *arrays))


@settings(max_examples=4)
@given(programs)
def test_random_programs_compute_the_same_bits_in_the_child(expressions):
    code = check(_program(expressions), POLICY)
    report = run_in_child(code, POLICY, [(OBSERVATION, ACTION), (OBSERVATION[:1], ACTION[:1])])
    same(report.outcomes[0].outputs, load_function(code, POLICY)(OBSERVATION, ACTION))


def _program(expressions):
    steps = "\n".join(
        f"    value = {text}\n    total += value * 1.0\n    found.append(total + 0.0)"
        for text in expressions
    )
    return (
        "WEIGHTS = [0.5, -2.0]\ndef evaluation_func(observation, action):\n"
        "    n = observation.shape[0]\n    found = []\n    total = np.zeros(n)\n"
        f"{steps}\n    return found\n"
    )


texts = st.text(st.characters(codec="utf-8"), max_size=60)


@given(
    st.one_of(texts, texts.map(lambda text: f"def evaluation_func(observation, action):\n {text}"))
)
def test_any_text_is_accepted_or_refused_and_nothing_else(text):
    try:
        code = check(text, POLICY)
    except UnsafeCodeError:
        return
    assert code.entry == "evaluation_func"


# --- the child ----------------------------------------------------------------------------------


def run(returned, *arrays, **limits):
    source = f"def evaluation_func(observation, action):\n    return {returned}\n"
    calls = [arrays or (OBSERVATION, ACTION)]
    return run_in_child(check(source, POLICY), POLICY, calls, Limits(**limits)).outcomes[0]


def test_names_beyond_ascii_run():
    source = "def evaluation_func(observation, action):\n    maß = observation\n    return maß\n"
    outcome = run_in_child(check(source, POLICY), POLICY, [(OBSERVATION, ACTION)]).outcomes[0]
    assert outcome.error is None


def test_what_was_returned_is_told():
    source = (
        "def evaluation_func(observation, action):\n"
        "    which = action[0, 0]\n"
        "    if which == 0:\n        return observation\n"
        "    if which == 1:\n        return (observation, 2)\n"
        "    if which == 2:\n        return 3.5\n"
        "    if which == 3:\n        return [[observation]]\n"
        "    if which == 4:\n        return []\n"
    )
    calls = [(OBSERVATION, np.array([[float(which)]])) for which in range(6)]
    outcomes = run_in_child(check(source, POLICY), POLICY, calls).outcomes
    assert [outcome.returned for outcome in outcomes] == [
        "ndarray of dtype float64 and shape (16, 8)",
        "tuple of 1 array(s) and 1 other item(s)",
        "a value of type float",
        "list of 0 array(s) and 1 other item(s)",
        "list of 0 array(s)",
        "None",
    ]
    assert [None if o.outputs is None else len(o.outputs) for o in outcomes] == [
        1, 2, 1, None, 0, None,
    ]  # fmt: skip
    assert outcomes[3].error.startswith("TypeError: item 0 of the result is list of 1 array")


def test_an_error_names_the_line_of_the_source():
    source = (
        "# a comment\n\ndef helper(values):\n    return values + np.zeros((3, 3))\n\n\n"
        "def evaluation_func(observation, action):\n    return [helper(observation)]\n"
    )
    (outcome,) = run_in_child(check(source, POLICY), POLICY, [(OBSERVATION, ACTION)]).outcomes
    assert outcome.error.startswith("ValueError: ")
    assert outcome.error.endswith("(line 3: return values + np.zeros((3, 3)))") or (
        "line 4: return values + np.zeros((3, 3))" in outcome.error
    )


def test_an_error_at_the_top_level_is_the_error_of_every_call():
    source = "A = 1 // 0\n\ndef evaluation_func(observation, action):\n    return [A]\n"
    report = run_in_child(check(source, POLICY), POLICY, [(OBSERVATION, ACTION)] * 2)
    for outcome in report.outcomes:
        assert "ZeroDivisionError" in outcome.error
        assert "line 1: A = 1 // 0" in outcome.error


@pytest.mark.parametrize(
    "dtype", ["?", "i1", "u1", "i2", "i4", "i8", "u8", "f2", "f4", "f8", ">f8", ">i4"]
)
def test_arrays_arrive_with_dtype_and_order(dtype):
    array = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)[:, ::-1].transpose(2, 0, 1)
    outcome = run("[observation, action]", array, np.array(3.0))
    np.testing.assert_array_equal(outcome.outputs[0], array)
    assert outcome.outputs[0].dtype == array.dtype.newbyteorder("=")
    assert outcome.outputs[1].shape == ()


def test_no_calls_and_empty_arrays():
    code = check("def evaluation_func(observation, action):\n    return [observation]\n", POLICY)
    assert run_in_child(code, POLICY, []).outcomes == ()
    outcome = run("[observation]", np.zeros((0, 5)), np.zeros((3, 0)))
    assert outcome.outputs[0].shape == (0, 5)


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([None]), np.zeros(2, complex)])
def test_arguments_must_be_numbers(value):
    with pytest.raises(ExecutionError, match="argument 1 of call 0"):
        run("[observation]", OBSERVATION, value)


@pytest.mark.parametrize("name", ["memory_bytes", "cpu_s", "wall_s", "output_bytes"])
def test_limits_are_positive(name):
    for value in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=name):
            Limits(**{name: value})


def test_a_python_that_does_not_start_is_an_execution_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ExecutionError, match="could be started"):
        run("[observation]")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ExecutionError, match="before it was ready"):
        run("[observation]")


def test_missing_isolation_is_logged_once(caplog):
    lare._codegen.child._warn_once.cache_clear()
    for _ in range(2):
        lare._codegen.child._warn_of_missing(("process", "resource limits"))
    assert len(caplog.records) == 1
    assert "network namespace, landlock" in caplog.text


# --- the folder ---------------------------------------------------------------------------------


def test_the_folder_stands_alone(tmp_path):
    """It works under another name, and imports no package but numpy until it is asked to."""
    folder = Path(lare._codegen.__file__).parent
    copy = tmp_path / "elsewhere" / "_generated"
    copy.mkdir(parents=True)
    (tmp_path / "elsewhere" / "__init__.py").write_text("")
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "lare" not in text.replace("declare", ""), path.name
        (copy / path.name).write_text(text, encoding="utf-8")
    program = (
        "import sys\nimport numpy as np\nfrom elsewhere._generated import *\n"
        "policy = Policy(entry='f', signatures=(('x',),))\n"
        "code = check('def f(x):\\n    return [x * 2]', policy)\n"
        "report = run_in_child(code, policy, [(np.ones(3),)])\n"
        "assert report.outcomes[0].outputs[0].tolist() == [2, 2, 2]\n"
        "assert load_function(code, policy)(np.ones(2))[0].tolist() == [2, 2]\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'openai', 'tiktoken', 'httpx', 'torch', 'lare'}, loaded\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path)
