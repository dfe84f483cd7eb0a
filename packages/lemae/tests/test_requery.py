"""Runs that ask for further key states when exploration stagnates."""

import json
from pathlib import Path

import numpy as np
import pytest

from lemae._codegen import run_in_child
from lemae.algos.rollout import Collector
from lemae.errors import ConfigError, TaskError
from lemae.key_states import KeyStateSet
from lemae.language_models import ScriptedLLM
from lemae.training import Settings, train

TESTS = Path(__file__).parent
COLLECT = Collector.collect
ROLLOUT = 8 * 12  # steps of eight copies
FAR = "def is_far(state):\n    return state[0] >= 4 and state[1] >= 4"


@pytest.fixture(autouse=True)
def line_task(monkeypatch):
    """Makes the module with the small task importable."""
    monkeypatch.syspath_prepend(str(TESTS))
    import line_task

    return line_task


CHILDREN = {}


@pytest.fixture(autouse=True)
def _same_checks_once(monkeypatch):
    """The same code and states are checked in one child process for all tests."""

    def run(code, policy, calls, limits):
        key = (code.source, limits, np.stack([state for (state,) in calls]).tobytes())
        if key not in CHILDREN:
            CHILDREN[key] = run_in_child(code, policy, calls, limits)
        return CHILDREN[key]

    monkeypatch.setattr("lemae.checks.run_in_child", run)


@pytest.fixture
def run(tmp_path, line_task):
    """A run that cannot succeed: the line is longer than an episode."""
    task = line_task.make(1, size=20).task_spec
    known = KeyStateSet.from_source(line_task.KEY_STATES, task).save(tmp_path / "key_states")

    def settings(rollouts=6, **options):
        chosen = {
            "num_envs": 8,
            "steps": rollouts * ROLLOUT,
            "evaluate_every": 10**9,
            "evaluation_episodes": 1,
            "options": {"size": 20},
            "key_states": str(known),
            "learner": {"hidden": 8, "epochs": 1},
            "requery_after": 5,
        }
        return Settings("line_task:make", "lemae", **{**chosen, **options})

    return settings


def answer(**functions):
    return json.dumps(
        {
            "reasoning": "step by step",
            "key_states": {"init": "start", **dict.fromkeys(functions, "there"), "success": "end"},
            "discriminators": functions,
            "subspaces": {name: [0, 1] for name in functions},
        }
    )


def model():
    """Answers, and confirms it when it is asked to think again."""
    return ScriptedLLM([answer(far=FAR), "It is right."])


def bits(results):
    timed = ("seconds", "steps_per_second", "guidance_share")
    kept = {key: value for key, value in results.items() if key not in timed}
    return json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in kept.items()})


def test_a_run_that_finds_nothing_new_asks_and_takes_what_it_gets(run, tmp_path):
    llm = model()
    results = train(run(rollouts=12), tmp_path / "run", llm=llm)
    (asked,) = results["requeries"]
    assert asked["new"] == ["far"]
    assert asked["step"] == asked["episodes"] * 12 < results["steps"]
    assert set(asked["hits"]) == {"first_halfway", "both_halfway"}
    assert f"first_halfway: {asked['hits']['first_halfway']} of {asked['episodes']}" in str(
        llm.requests[0]["messages"][-1]
    )
    assert results["key_states"] == ["first_halfway", "both_halfway", "far"]
    assert results["hits"]["far"]["episodes"] > 0
    assert results["hits"]["far"]["first_step"] > asked["step"]
    tree = results["tree"]["memory"]
    assert tree["episodes"] == results["episodes"]  # those before it as well
    assert any(2 in order for order, *_ in tree["nodes"])
    saved = KeyStateSet.load(tmp_path / "run" / "requery-1")
    assert list(saved.names) == results["key_states"]
    assert (tmp_path / "run" / "requery-1" / "transcript.jsonl").is_file()
    assert train(run(rollouts=12), tmp_path / "run")["requeries"] == results["requeries"]


def test_it_asks_no_more_often_than_it_may(run):
    same = answer(far=FAR.replace("4", "19"))  # where nobody gets
    llm = ScriptedLLM([same, "It is right.", same, "It is right.", same, same, same])
    results = train(run(rollouts=8, max_requery=2), llm=llm)
    assert [asked["new"] for asked in results["requeries"]] == [["far"], []]
    assert len(results["key_states"]) == 3
    assert results["requeries"][1]["hits"]["far"] == 0


def test_without_it_nothing_is_asked(run):
    llm = ScriptedLLM([])
    asked = train(run(requery_after=None), llm=llm)
    assert (asked["requeries"], llm.requests) == ([], [])
    never = train(run(requery_after=10**6), llm=llm)
    assert bits(never) == bits(asked)


class Cut(Exception):
    pass


@pytest.mark.parametrize(("algo", "after"), [("ippo", 1), ("ippo", 4), ("qmix", 6)])
def test_an_interrupted_run_goes_on_bit_for_bit(run, tmp_path, monkeypatch, algo, after):
    """Cut before the question, right after it, and later; it is put once."""
    learner = {"hidden": 8, "batch_size": 8, "embedding": 4} if algo == "qmix" else {"hidden": 8}
    settings = run(rollouts=8, algo=algo, learner=learner)
    whole = train(settings, tmp_path / "whole", llm=model())
    (asked,) = whole["requeries"]
    assert ROLLOUT < asked["step"] <= 4 * ROLLOUT
    calls = iter(range(100))

    def broken(self, *args, **options):
        if options.get("explorer") is not None and next(calls) == after:
            raise Cut
        return COLLECT(self, *args, **options)

    llm = model()
    monkeypatch.setattr(Collector, "collect", broken)
    with pytest.raises(Cut):
        train(settings, tmp_path / "cut", llm=llm, checkpoint_every_s=0)
    monkeypatch.setattr(Collector, "collect", COLLECT)
    assert bits(train(settings, tmp_path / "cut", llm=llm)) == bits(whole)
    assert len(llm.requests) == 2


def test_an_answer_is_kept_at_once(run, tmp_path, monkeypatch):
    """Though no checkpoint is due."""
    llm = model()
    whole = train(run(), llm=model())

    def broken(self, *args, **options):
        if llm.requests:
            raise Cut
        return COLLECT(self, *args, **options)

    monkeypatch.setattr(Collector, "collect", broken)
    with pytest.raises(Cut):
        train(run(), tmp_path / "run", llm=llm, checkpoint_every_s=1e9)
    monkeypatch.setattr(Collector, "collect", COLLECT)
    assert bits(train(run(), tmp_path / "run", llm=llm)) == bits(whole)


def test_who_is_to_be_asked(run, monkeypatch, line_task):
    with pytest.raises(ConfigError, match=r"requery_after is 5, and there is no model.*llm="):
        train(run())
    with pytest.raises(ConfigError, match="requery_after is 5, which is for lemae"):
        run(rollouts=1).__class__("pass", "plain", requery_after=5)
    with pytest.raises(ConfigError, match="max_requery is 2 and requery_after None"):
        run(requery_after=None, max_requery=2)
    with pytest.raises(ConfigError, match="requery_after is 0"):
        run(requery_after=0)

    def untold(*args, **options):
        env = line_task.Line(*args, **options)
        env.task_spec = None
        return env

    monkeypatch.setattr(line_task, "make", untold)
    with pytest.raises(TaskError, match="no task_spec to be told"):
        train(run(), llm=model())
