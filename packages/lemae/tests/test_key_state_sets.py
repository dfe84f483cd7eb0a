"""The key states that come with the package: found by what is told, and as good as they say."""

import hashlib
import json
import re
from pathlib import Path

import pytest

import lemae
from lemae import KeyStateSet, TaskSpec, check, envs, prompts
from lemae._codegen.transcript import read_turns
from lemae.discriminators.subspace import coordinates
from lemae.errors import ConfigError
from lemae.key_states import shipped_for, shipped_key_states
from lemae.probes import probes


def test_shipped_key_states_have_a_name():
    with pytest.raises(ConfigError, match=r"no key states are shipped for 'chess'.* pass, .*river"):
        KeyStateSet.shipped("chess")


def test_shipped_key_states_are_found_by_what_is_told():
    def found(name, **options):
        return shipped_for(envs.make(name, **options).task_spec)

    assert [found(name) for name in envs.names()] == list(envs.names())
    assert found("secret-room", target_room=3) == "secret-room"  # nobody is told
    assert found("pass", size=50) == "large-pass"  # the same under another name
    assert found("pass", size=40) is None
    assert found("pass", episode_limit=299) is None


def made_for(name):
    """The environment that a shipped set was made for."""
    task = TaskSpec.from_json(json.dumps(KeyStateSet.shipped(name).meta["task"]))
    if task.name.startswith("smax-"):
        pytest.importorskip("jaxmarl.environments.smax")
        from lemae.integrations import smax

        env = smax.make(task.name.removeprefix("smax-"), 16)
    else:
        size = re.match(r"The grid has (\d+) x", task.configuration)
        options = {"size": int(size[1])} if task.name in ("pass", "pass-single") else {}
        env = envs.make(task.name, 16, **options)
    assert env.task_spec == task
    return env


@pytest.mark.parametrize("name", shipped_key_states())
def test_a_shipped_set_is_what_it_says(name):
    """Made by the prompt of today, in the dialogue beside it, with a way to each key state."""
    shipped = KeyStateSet.shipped(name)
    task = TaskSpec.from_json(json.dumps(shipped.meta["task"]))
    messages = json.dumps(prompts.first(task))
    assert shipped.meta["prompt_sha256"] == hashlib.sha256(messages.encode()).hexdigest()
    turns = read_turns(Path(lemae.__file__).parent / "key_state_sets" / name / "transcript.jsonl")
    assert len(turns) == shipped.meta["turns"]
    assert list(turns[0].messages) == prompts.first(task)
    assert shipped.meta["prompt_tokens"] > 0
    assert shipped.meta["completion_tokens"] > 0
    assert len(shipped) <= 4
    for key_state in shipped:
        assert key_state.vectorized
        assert set(key_state.subspace) & set(coordinates(task))


@pytest.mark.slow
@pytest.mark.timeout(600)  # SMAX is compiled first
@pytest.mark.parametrize("name", shipped_key_states())
def test_a_shipped_set_passes_the_check_of_its_task(name):
    shipped, env = KeyStateSet.shipped(name), made_for(name)
    report = check(shipped, env.task_spec, probes(env))
    assert report.key_states == shipped, report
    assert {found.origin for found in report.functions} == {"code"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_key_states() if "smax" in name])
def test_a_set_for_battles_passes_the_check_without_them(name):
    """On made-up states alone, where JAX is not installed."""
    shipped = KeyStateSet.shipped(name)
    report = check(shipped, TaskSpec.from_json(json.dumps(shipped.meta["task"])))
    assert report.key_states == shipped, report
    assert {found.origin for found in report.functions} == {"code"}
