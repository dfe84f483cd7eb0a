"""The function: what it gets and gives, saving, what is shipped."""

import json
import pickle

import numpy as np
import pytest

from lare import LatentReward
from lare._codegen.errors import UnsafeCodeError
from lare.errors import ArtefactError, ConfigError, LareWarning, ShapeError
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

ROWS = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, -3.0]])
ACTIONS = np.array([[0.5], [-2.0]])


def test_factors_by_hand():
    found = LatentReward(PENDULUM)(ROWS, ACTIONS, ROWS)
    wanted = [[0, 4, 0.25], [(np.pi / 2) ** 2, 9, 4]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_batches_of_every_size(batch):
    rows = np.ones((batch, 3))
    assert LatentReward(PENDULUM)(rows, np.ones((batch, 1)), rows).shape == (batch, 3)


def test_a_function_of_the_observation_alone_gets_the_one_after_the_step():
    function = LatentReward("def evaluation_func(observation):\n    return [observation[:, 0:1]]\n")
    assert function(ROWS, ACTIONS, ROWS + 10)[:, 0].tolist() == [11.0, 10.0]


def test_names_come_from_the_source():
    assert LatentReward(PENDULUM).names == ("angle_error", "speed", "effort")
    assert LatentReward(PENDULUM, keep=[0, 2]).names == ("angle_error", "effort")
    plain = "def evaluation_func(observation):\n    return [observation[:, 0:1] * 2]\n"
    assert LatentReward(plain).names is None


def test_left_out_factors_are_gone():
    assert LatentReward(PENDULUM, keep=[2])(ROWS, ACTIONS, ROWS)[:, 0].tolist() == [0.25, 4.0]


def test_factors_that_are_not_finite_become_zero_with_one_warning():
    function = LatentReward(
        "import numpy as np\ndef evaluation_func(observation):\n"
        "    return [1.0 / observation[:, 0:1], observation[:, 1:2]]\n"
    )
    with pytest.warns(LareWarning, match="count as 0"), np.errstate(divide="ignore"):
        found = function(ROWS)
    assert found[1, 0] == 0
    assert function.n_repaired == 1
    with np.errstate(divide="ignore"):
        function(ROWS)  # -W error: a second warning would fail here
    assert function.n_repaired == 2


def test_inputs_are_not_changed():
    rows = ROWS.copy()
    LatentReward(PENDULUM)(rows, ACTIONS, rows)
    np.testing.assert_array_equal(rows, ROWS)
    assert rows.flags.writeable


def test_saved_and_loaded(tmp_path):
    LatentReward(PENDULUM, keep=[0, 1], meta={"model": "m"}).save(tmp_path / "f")
    loaded = LatentReward.load(tmp_path / "f")
    assert (loaded.source, loaded.keep, loaded.meta["model"]) == (PENDULUM, (0, 1), "m")
    np.testing.assert_array_equal(
        loaded(ROWS, ACTIONS, ROWS), LatentReward(PENDULUM, keep=[0, 1])(ROWS, ACTIONS, ROWS)
    )


def test_pickled_and_back():
    function = pickle.loads(pickle.dumps(LatentReward(PENDULUM, keep=[1])))
    assert function(ROWS, ACTIONS, ROWS).tolist() == [[4.0], [9.0]]


def test_changed_source_is_refused(tmp_path):
    LatentReward(PENDULUM).save(tmp_path)
    path = tmp_path / "latent_reward.py"
    path.write_text(path.read_text().replace("** 2", "** 3"))
    with pytest.raises(ArtefactError, match="changed after it was verified"):
        LatentReward.load(tmp_path)


@pytest.mark.parametrize("meta", ["", "{", "[]", "{}", '{"sha256": 1}', "null"])
def test_damaged_meta_is_named(tmp_path, meta):
    LatentReward(PENDULUM).save(tmp_path)
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(ArtefactError, match=r"meta\.json|SHA-256"):
        LatentReward.load(tmp_path)


@pytest.mark.parametrize("keep", [5, ["a"], "01", [0.5], {"0": 1}, [[0]], [], [0, 0], [True], [99]])
def test_indices_from_a_file_are_checked(tmp_path, keep):
    LatentReward(PENDULUM).save(tmp_path)
    path = tmp_path / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "keep": keep}))
    with pytest.raises(ArtefactError, match="keep"):
        LatentReward.load(tmp_path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ArtefactError, match=r"latent_reward\.py is missing"):
        LatentReward.load(tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        "return observation[:, 0:1]",
        "return []",
        "return [observation[:, 0]]",
        "return [observation.sum(axis=0, keepdims=True)]",
    ],
)
def test_wrong_shapes(body):
    function = LatentReward(f"def evaluation_func(observation):\n    {body}\n")
    with pytest.raises(ShapeError, match=r"list of arrays|has to be"):
        function(ROWS)


def test_unsafe_source_does_not_get_that_far(tmp_path):
    with pytest.raises(UnsafeCodeError, match="line 1"):
        LatentReward("import os\ndef evaluation_func(observation):\n    return [observation]\n")
    with pytest.raises(ConfigError, match="reads action, which was not given"):
        LatentReward(PENDULUM)(ROWS)


@pytest.mark.parametrize("direct", [False, True])
def test_what_is_shipped_is_what_the_recorded_dialogue_ended_with(direct):
    from importlib import resources

    from lare.language_models import Transcript

    functions = resources.files("lare") / "functions"
    names = shipped_functions(direct=direct)
    assert names
    for name in names:
        folder = functions / "_direct" / name if direct else functions / name
        turns = Transcript(folder / "transcript.jsonl").read()
        function = LatentReward.shipped(name, direct=direct)
        assert json.loads(turns[-1].replies[0].text)["Functions"] == function.source
        assert turns[-1].verdicts == ("accepted",)
        assert len(turns[0].replies) == 5
        assert function.meta["origin"] == "language model"
        assert function.meta["direct"] is direct


def test_no_function_for_a_task():
    with pytest.raises(ConfigError, match="lare generate"):
        LatentReward.shipped("CartPole-v1")


@pytest.mark.parametrize("source", [len, None, b"x", "function.py"])
def test_what_is_no_source_is_refused_with_the_way_in(source):
    with pytest.raises(ConfigError, match=r"from_source\(path\)"):
        LatentReward(source)


def test_a_file_is_no_saved_folder(tmp_path):
    path = tmp_path / "function.py"
    path.write_text("")
    with pytest.raises(ArtefactError, match="is a file, and saved functions are folders"):
        LatentReward.load(path)
