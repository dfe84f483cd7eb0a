"""What a language model is told, and above all what it is not told."""

import ast
import re
from dataclasses import replace

import pytest

from lemae import envs
from lemae.discriminators.source import POLICY
from lemae.envs.registry import names
from lemae.envs.tasks import EPISODE_LIMIT
from lemae.errors import TaskError
from lemae.prompts import SCHEMA, first, repair, rethink, stagnation
from lemae.task import StateEntry, TaskSpec

TASK = TaskSpec(
    "two-lifts",
    "Two lifts carry goods to a roof.",
    "The roof is floor 9.",
    (
        StateEntry("lift 0 floor", 0, 9),
        StateEntry("lift 1 floor", 0, 9, unit="floors"),
        StateEntry("load", 0, 80, integer=False, unit="kg", text="of both"),
    ),
    2,
    ("up", "down"),
    60,
)


def everything(task):
    """All that is ever said about a task, of whatever kind."""
    parts = [message["content"] for message in first(task)]
    parts += [rethink(task), stagnation(task, ["a", "b"], [7, 0], 100, 2)]
    parts += [repair(["a: wrong"], ["a"], ["b"], 1, 4), repair(["no JSON"], [], [], 1, 4)]
    return "\n".join(parts)


def single(name):
    return name.endswith("-single")


def test_the_first_messages_hold_the_whole_task():
    system, user = first(TASK)
    assert (system["role"], user["role"]) == ("system", "user")
    assert TASK.description in system["content"]
    assert TASK.layout() in system["content"]
    assert "state[2]: load, real from 0 to 80 kg; of both" in system["content"]
    assert "at most 4," in system["content"]
    assert "def is_<name>(state):" in system["content"]
    assert "indices run from 0 to 2" in system["content"]
    assert TASK.configuration in user["content"]
    assert "0: up\n1: down\n" in user["content"]
    assert "Agents: 2" in user["content"]
    assert "at most: 60" in user["content"]
    assert TASK.configuration not in system["content"]


def test_the_rules_of_the_method_are_told():
    system = first(TASK, max_key_states=7)[0]["content"]
    for rule in (
        "milestones on the way from the start to success",
        "at most 7,",
        "Use nothing that is not written here",
        "do not guess where it is",
        "Be general",
        "division of labour: 2 agents",
        "positions that make its key state happen",
        "independent of the others",
        "nothing left out or shortened",
        "Think step by step",
        "one JSON object and nothing else",
    ):
        assert rule in system


def test_the_names_that_code_may_use_are_those_of_the_checker():
    system = first(TASK)[0]["content"]
    for title, allowed in {
        "these built-in functions: ": POLICY.builtins,
        "Of numpy there is: ": POLICY.numpy_functions,
        "Of math: ": POLICY.math_functions,
        "Methods of arrays: ": POLICY.methods,
    }.items():
        told = re.search(re.escape(title) + r"(.*?)\.(?:\s|$)", system)[1]
        assert told.split(", ") == sorted(allowed)


def test_the_example_answer_is_one_that_would_be_read():
    from lemae.answer import read_answer

    system = first(TASK)[0]["content"]
    answer = read_answer(system[system.index('{"reasoning"') :], 3)
    assert [proposal.name for proposal in answer.proposals] == ["loaded", "rising"]
    assert not answer.problems
    for proposal in answer.proposals:
        read = {
            node.slice.value
            for node in ast.walk(ast.parse(proposal.source))
            if isinstance(node, ast.Subscript)
        }
        assert set(proposal.declared) == read


def test_the_form_of_the_answer_is_that_of_the_schema():
    system = first(TASK)[0]["content"]
    assert re.findall(r'^"(\w+)":', system, re.MULTILINE) == SCHEMA["required"]
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"])


def test_one_agent_is_told_nothing_of_a_team():
    for name in filter(single, names()):
        text = everything(envs.make(name).task_spec)
        for word in ("division of labour", "team", "each agent,", "share the work"):
            assert word not in text


def test_the_repair_keeps_what_is_good_and_asks_for_the_rest():
    text = repair(["far: line 2: wrong", "near: late"], ["far", "near"], ["open"], 2, 4)
    assert "attempt 2 of 4" in text
    assert "stay as they are; leave them out: open." in text
    assert "- far: line 2: wrong\n- near: late\n" in text
    assert "in their place: far, near." in text
    unread = repair(["no JSON"], [], [], 1, 4)
    assert "leave them out" not in unread
    assert "in their place" not in unread


def test_a_model_has_to_be_told_the_goal():
    with pytest.raises(TaskError, match=r"has no description.*say them in plain words"):
        first(replace(TASK, description=" "))


def test_stagnation_tells_hits_and_nothing_else():
    text = stagnation(TASK, ["open", "near"], [90, 0], 100, 2)
    assert "- open: 90 of 100\n- near: 0 of 100\n" in text
    assert "at most 2 further ones" in text
    others = stagnation(TASK, ["open", "near"], [10, 20], 500, 2)
    assert re.sub(r"\d+", "#", text) == re.sub(r"\d+", "#", others)


# --- hidden facts -------------------------------------------------------------------------------


MAPS = [*names(), *(("pass", {"size": size}) for size in (40, 70, 100))]


@pytest.mark.parametrize("chosen", MAPS, ids=str)
def test_no_position_of_a_switch_is_told(chosen):
    name, options = (chosen, {}) if isinstance(chosen, str) else chosen
    env = envs.make(name, **options)
    text = everything(env.task_spec)
    switches = env.grid_map.switches
    assert bool(switches) == any(word in name for word in ("pass", "room"))
    for switch in switches:
        for x, y in ((switch.x, switch.y), (switch.y, switch.x)):
            assert not re.search(rf"(?<!\d){x}\D{{1,12}}{y}(?!\d)", text), (x, y)
        assert f"{switch.radius:g}" not in re.findall(r"\d+\.\d+", text)
    assert "radius" not in text


def test_the_map_of_pass_has_the_published_switches():
    """So that the test above looks for what has to be hidden."""
    found = [(switch.x, switch.y) for switch in envs.make("pass").grid_map.switches]
    assert found == [(3, 24), (24, 3)]


@pytest.mark.parametrize("name", ["secret-room", "secret-room-single"])
def test_nothing_depends_on_the_target_room(name):
    kinds = [{"target_room": room} for room in (1, 2, 3)]
    kinds.append({"target_room": 1, "compat": "exact"})
    texts = {everything(envs.make(name, **options).task_spec) for options in kinds}
    assert len(texts) == 1


@pytest.mark.parametrize("name", names())
def test_what_may_be_known_is_told(name):
    """The other side of the tests above: a prompt without facts would pass them too."""
    spec = envs.make(name).task_spec
    system, user = (message["content"] for message in first(spec))
    assert spec.description in system
    assert spec.layout() in system
    assert spec.configuration in user
    assert f"at most: {EPISODE_LIMIT}" in user
    assert "$" not in everything(spec)
