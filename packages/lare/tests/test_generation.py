"""The dialogue: candidates, summary, repairs, and what is left behind."""

import json

import gymnasium
import pytest

from lare import LatentReward, TaskSpec, collect, generate
from lare._codegen.errors import DialogueError, LLMError
from lare.errors import ConfigError
from lare.language_models import ReplayLLM, ScriptedLLM, Transcript, UsageRecord
from lare.prompts import first

TASK = TaskSpec.shipped("Pendulum-v1")
GOOD = """
import numpy as np

def evaluation_func(observation, action, next_observation):
    upright = observation[:, 0:1]
    effort = action ** 2
    return [upright, effort]
"""


@pytest.fixture(scope="module")
def steps():
    return collect(gymnasium.make("Pendulum-v1"), 300)


def reply(source):
    return json.dumps({"Understand": "a", "Analyze": "b", "Functions": source})


def contents(request):
    return [message["content"] for message in request["messages"]]


def test_candidates_then_a_summary(steps, tmp_path):
    llm = ScriptedLLM([[reply(GOOD)] * 4 + ["no JSON at all"], reply(GOOD)])
    usage = UsageRecord()
    function = generate(TASK, llm, steps, out=tmp_path / "f", usage=usage)
    asked, summed = llm.requests
    assert (asked["n"], asked["temperature"]) == (5, 1.0)
    assert summed["temperature"] == 0.3
    assert contents(asked) == [first(TASK)]
    assert contents(summed)[0] == first(TASK)
    assert contents(summed)[1].count("evaluation_func") == 4
    assert "5 answers" in contents(summed)[2]
    loaded = LatentReward.load(tmp_path / "f")
    assert loaded.source == function.source == GOOD
    assert loaded.meta["verification"]["accepted"]
    assert loaded.meta["candidates"] == 5
    turns = Transcript(tmp_path / "f" / "transcript.jsonl").read()
    assert [len(turn.replies) for turn in turns] == [5, 1]


def test_failures_go_back_in_one_message_until_one_passes(steps):
    bad = GOOD.replace("observation[:, 0:1]", "np.log(observation[:, 0:1])").replace(
        "action ** 2", "action - action.mean()"
    )
    llm = ScriptedLLM([reply(bad), reply("import os\n" + GOOD), "sorry", reply(GOOD)])
    assert generate(TASK, llm, steps, n=1).source == GOOD
    second, third, fourth = (contents(request) for request in llm.requests[1:])
    assert "factor 0 is not finite" in second[-1]
    assert "factor 1 of a row depends" in second[-1]
    assert "line 1" in third[-1]
    assert "import" in third[-1]
    assert "JSON" in fourth[-1]
    assert len(fourth) == 3  # only the latest failure is kept


def test_giving_up_is_bounded_and_saves_nothing_but_the_transcript(steps, tmp_path):
    llm = ScriptedLLM(["no"] * 4)
    with pytest.raises(DialogueError, match="transcript"):
        generate(TASK, llm, steps, n=1, max_repairs=3, out=tmp_path / "f")
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["transcript.jsonl"]


def test_a_service_that_fails_leaves_no_function(steps, tmp_path):
    llm = ScriptedLLM([[reply(GOOD)] * 5, LLMError("down")])
    with pytest.raises(LLMError, match="down"):
        generate(TASK, llm, steps, out=tmp_path / "f")
    assert not (tmp_path / "f" / "latent_reward.py").exists()


def test_played_back(steps, tmp_path):
    llm = ScriptedLLM([[reply(GOOD)] * 2, "no", reply(GOOD)])
    generate(TASK, llm, steps, n=2, out=tmp_path / "one")
    again = generate(TASK, ReplayLLM(tmp_path / "one" / "transcript.jsonl"), steps, n=2)
    assert again.source == GOOD


def test_form_of_the_paper(steps):
    source = GOOD.replace(", next_observation", "")
    llm = ScriptedLLM([reply(GOOD), reply(source)])
    function = generate(TASK, llm, steps, n=1, form="paper")
    assert "next_observation" not in contents(llm.requests[0])[0]
    assert "called with (observation, action)" in contents(llm.requests[1])[-1]
    assert function.arguments == ("observation", "action")


def test_the_reward_itself(steps):
    one = GOOD.replace("return [upright, effort]", "return [upright - effort]")
    llm = ScriptedLLM([reply(GOOD), reply(one)])
    assert generate(TASK, llm, steps, n=1, direct=True).source == one
    assert "return [reward]" in contents(llm.requests[0])[0]


def test_without_verification_the_allow_list_still_holds(steps):
    dependent = GOOD.replace("action ** 2", "action - action.mean()")
    llm = ScriptedLLM([reply("import os\n" + dependent), reply(dependent)])
    assert generate(TASK, llm, steps, n=1, preverify=False).source == dependent
    assert len(llm.requests) == 2


def test_duplicates_are_left_out(steps):
    twice = GOOD.replace("[upright, effort]", "[upright, effort, 2 * upright]")
    function = generate(TASK, ScriptedLLM([reply(twice)]), steps, n=1)
    assert function.keep == (0, 1)


def test_bad_n(steps):
    with pytest.raises(ConfigError, match="at least one candidate"):
        generate(TASK, ScriptedLLM([]), steps, n=0)


def test_the_prompt_says_nothing_of_the_reward_formula():
    text = first(TASK)
    assert "0.1" not in text
    assert "0.001" not in text
    assert "observation[:, 2]: angular velocity (rad/s), from -8 to 8" in text
    assert "action[:, 0]: torque" in text
