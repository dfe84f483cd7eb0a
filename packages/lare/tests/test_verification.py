"""Each promise of a function, broken on purpose."""

import gymnasium
import numpy as np
import pytest

from lare import LatentReward, TaskSpec, Transitions, catalogue, collect, verify
from lare._codegen import Limits
from lare.errors import ConfigError, ShapeError, VerificationError
from lare.latent_reward import shipped_functions

#: Three factors of a step of Pendulum-v1.
PENDULUM = """
import numpy as np

def evaluation_func(observation, action, next_observation):
    angle = np.arctan2(observation[:, 1:2], observation[:, 0:1])
    angle_error = angle ** 2
    speed = observation[:, 2:3] ** 2
    effort = action[:, 0:1] ** 2
    return [angle_error, speed, effort]
"""


@pytest.fixture(scope="module")
def steps():
    return collect(gymnasium.make("Pendulum-v1"), 300, seed=0)


def source(*lines, arguments="observation, action"):
    head = ["import numpy as np", f"def evaluation_func({arguments}):"]
    return "\n".join([*head, *(f"    {line}" for line in lines)])


def test_a_good_function_is_accepted(steps):
    report = verify(PENDULUM, steps, task=TaskSpec.shipped("Pendulum-v1"))
    assert report.accepted, report
    assert report
    assert [factor.name for factor in report.factors] == ["angle_error", "speed", "effort"]
    assert report.factors[1].mean == pytest.approx((steps.observation[:, 2] ** 2).mean(), rel=1e-4)
    assert (report.keep, report.transitions) == ((0, 1, 2), 300)
    report.raise_for_failures()


X = "observation[:, 0:1]"
ROW_BY_ROW = ["a = []", "for i in range(observation.shape[0]):", "    a.append(observation[i, 0])"]
ROW_BY_ROW += ["return [np.array(a).reshape(-1, 1)]"]
UNEVEN = ["if observation.shape[0] > 2:", f"    return [{X}]", f"return [{X}, action]"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"return [{X} - {X}.mean()]"], "other rows"),
        ([f"return [np.sort({X}, axis=0)]"], "other rows"),
        ([f"return [{X} / np.max(np.abs(observation), axis=0)[0]]"], "other rows"),
        ([f"return [np.log({X})]"], "factor 0 is not finite"),
        ([f"return [1 / ({X} - 1000)]"], "all 1000"),
        (["return [np.exp(np.abs(observation[:, 2:3]))]"], "not finite"),
        (["return [observation[:, 0]]"], r"has to be \(300, 1\)"),
        ([f"return {X}"], "return a list of arrays"),
        (["return [observation[:, 3:4]]"], "column 4, but observation has the columns 0 to 2"),
        (["return [observation[:, 7:8]]"], "reaches column 7"),
        ([f"return [action[:, 1:2], {X}]"], "action has the columns 0 to 0"),
        (["return [observation[:, 5]]"], "IndexError"),
        (UNEVEN, "number of factors differs"),
        ([f"return [{X} * np.array([1.0, 2.0])]"], "has to be"),
        (["return [undefined_name]"], "undefined_name"),
        (["observation[:, 0] = 0", f"return [{X}]"], "line 3"),
        ([f"return [observation[0:1, 0:1] + 0 * {X}]"], "other rows"),
        ([f"return [np.zeros(({X}.shape[0], 1))]"], "every factor is constant"),
        (["x = observation", "return [x[:, 2:9].sum(axis=1, keepdims=True)]"], "column 9"),
        (ROW_BY_ROW, "the largest batch"),
    ],
)
def test_a_broken_promise_is_named(steps, lines, message):
    report = verify(source(*lines), steps)
    assert not report.accepted
    with pytest.raises(VerificationError, match=message):
        report.raise_for_failures()


def test_everything_wrong_is_said_at_once(steps):
    lines = [f"return [np.log({X}), {X} - {X}.mean(), observation[:, 1:9].sum(axis=1)[:, None]]"]
    text = str(verify(source(*lines), steps))
    assert "factor 0 is not finite" in text
    assert "factor 1 of a row depends" in text
    assert "reaches column 9" in text


def test_constants_and_duplicates_are_warned_of_and_left_out(steps):
    report = verify(
        source("a = observation[:, 2:3]", "b = 3 * a + 1", "c = a * 0 + 5", "return [a, b, c]"),
        steps,
    )
    assert report.accepted
    assert report.keep == (0, 2)
    assert any("b says the same as a" in warning for warning in report.warnings)
    assert any("c is constant" in warning for warning in report.warnings)


def test_an_argument_may_be_given_another_meaning(steps):
    lines = ["observation = np.concatenate([observation, action], axis=1)"]
    report = verify(source(*lines, "return [observation[:, 3:4]]"), steps)
    assert report.accepted, report


def test_the_reward_itself_is_exactly_one(steps):
    assert not verify(PENDULUM, steps, direct=True).accepted
    assert verify(source("return [-(observation[:, 2:3] ** 2)]"), steps, direct=True).accepted


def test_unsafe_code_never_starts(steps, tmp_path):
    path = tmp_path / "x"
    report = verify(source(f"open({str(path)!r}, 'w')", "return [observation]"), steps)
    assert not report.accepted
    assert not path.exists()
    assert report.isolation == ()  # no child was started


def test_what_holds_a_child_is_told_even_if_it_is_killed(steps):
    # Many calls on one element each: an allowance of elements would end large ones before.
    sines = "np.sin(" * 20 + "x" + ")" * 20
    slow = ["x = observation[0:1, 0:1]", "for i in range(60):", "    for j in range(60):"]
    slow += [f"        x = {sines}"] * 60
    slow += ["return [observation[:, 0:1] + x]"]
    report = verify(source(*slow), steps, limits=Limits(wall_s=2.0))
    assert "did not end" in str(report)
    assert "process" in report.isolation


def test_a_byte_order_mark_is_no_part_of_a_function(steps, tmp_path):
    path = tmp_path / "function.py"
    path.write_text(PENDULUM, encoding="utf-8-sig")
    marked = path.read_text(encoding="utf-8")
    assert marked.startswith("\ufeff")
    assert verify(marked, steps).accepted
    function = LatentReward.from_path(path)
    assert function.source == PENDULUM
    saved = LatentReward.load(function.save(tmp_path / "saved"))
    assert saved.sha256 == LatentReward(PENDULUM).sha256
    outside = verify("\ufeff" + source("return [observation[:, 7:8]]"), steps)
    assert "reaches column 7" in str(outside)


SHIPPED = [(name, direct) for direct in (False, True) for name in shipped_functions(direct=direct)]


@pytest.mark.parametrize(("name", "direct"), SHIPPED)
def test_every_shipped_function_passes(name, direct, tmp_path, monkeypatch):
    if "-v5" in name:
        pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    function = LatentReward.shipped(name, direct=direct)
    steps, task = catalogue.steps(name, seed=1), catalogue.task(name)
    report = verify(function, steps, task=task, direct=direct)
    assert report.accepted, report
    assert report.seconds < 5


def test_data_that_does_not_fit(steps):
    with pytest.raises(ShapeError, match="describes 17 observation"):
        verify(PENDULUM, steps, task=TaskSpec.shipped("HalfCheetah-v5"))
    with pytest.raises(ConfigError, match="at least two"):
        verify(PENDULUM, Transitions(*(column[:1] for column in steps)))
    with pytest.raises(ShapeError, match=r"\[steps, entries\]"):
        verify(PENDULUM, steps._replace(action=np.zeros(300)))


def test_a_rejected_report_is_false(steps):
    assert not verify(source("return [observation]"), steps)


@pytest.mark.parametrize("data", ["Pendulum-v1", None, [1, 2]])
def test_what_is_neither_steps_nor_environment_is_refused(data):
    with pytest.raises(ConfigError, match="give Transitions, or an environment"):
        verify(PENDULUM, data)
