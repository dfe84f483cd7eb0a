"""The dialogue with a language model: what is asked, what is kept, where it ends."""

import ast
import inspect
import json
import threading
import time

import numpy as np
import pytest

from lemae import envs
from lemae._codegen import (
    LLMAuthError,
    LLMError,
    LLMRateLimitError,
    LLMServerError,
    LLMTimeoutError,
    Reply,
    ReplyError,
    Usage,
    run_in_child,
)
from lemae.answer import documented, read_answer, write_answer
from lemae.checks import check
from lemae.errors import ConfigError, KeyStateError, LemaeWarning, ShapeError
from lemae.generation import _Author, generate, requery
from lemae.key_states import KeyStateSet
from lemae.language_models import ReplayLLM, ReplyCache, ScriptedLLM, Transcript, UsageRecord
from lemae.probes import given, probes
from lemae.prompts import SCHEMA, first, rethink

ENV = envs.make("pass", 8)
TASK = ENV.task_spec
OPEN = "def is_open(state):\n    return state[4] == 1 and state[0] < 15 and state[1] >= 0"
NEAR = "def is_near(state):\n    return state[0] >= 13 and abs(state[1] - 15) <= 3"
OVER = "def is_over(state):\n    return state[0] > 15 and state[2] < 15"
BAD = "def is_near(state):\n    return state[5] > 3"


CHILDREN = {}


@pytest.fixture(autouse=True)
def _same_runs_once(monkeypatch):
    """Start one child for the same code and states: dialogues here are about a few functions."""

    def run(code, policy, calls, limits):
        key = (code.source, limits, np.stack([state for (state,) in calls]).tobytes())
        if key not in CHILDREN:
            CHILDREN[key] = run_in_child(code, policy, calls, limits)
        return CHILDREN[key]

    monkeypatch.setattr("lemae.checks.run_in_child", run)


@pytest.fixture(scope="module")
def states():
    return probes(ENV, 16, task=TASK)


def answer(*sources, subspaces=None, described=None, **more):
    """A reply with these functions."""
    names = [ast.parse(source).body[0].name.removeprefix("is_") for source in sources]
    fields = {
        "reasoning": "step by step",
        "key_states": {"init": "start", **(described or {}), "success": "end"},
        "discriminators": dict(zip(names, sources, strict=True)) | more,
        "subspaces": subspaces or {},
    }
    return json.dumps(fields)


def ask(llm, states, **options):
    """Without a second thought, so that there is one request less."""
    return generate(TASK, llm, states, **{"max_rethink": 0, **options})


def question(llm, number=-1):
    return llm.requests[number]["messages"][-1]["content"]


# --- what is asked ------------------------------------------------------------------------------


def test_answer_second_thought_and_nothing_more(states, tmp_path):
    described = {"open": "agent 0 keeps the door open"}
    llm = ScriptedLLM([answer(BAD), answer(OPEN, described=described, subspaces={"open": [0, 4]})])
    made = generate(TASK, llm, states, out=tmp_path, seed=5, usage=(usage := UsageRecord()))
    assert made.names == ("open",)
    assert made[0].description == described["open"]
    assert made[0].subspace == (0, 1, 4)  # the code wins
    assert made[0].declared == (0, 4)
    assert made.d == 5
    asked, again = llm.requests
    assert asked["messages"] == first(TASK)
    assert again["messages"][:2] == first(TASK)
    assert again["messages"][2]["role"] == "assistant"
    assert BAD in json.loads(again["messages"][2]["content"])["discriminators"].values()
    assert question(llm) == rethink(TASK)
    assert [request["temperature"] for request in llm.requests] == [1.0, 0.3]
    assert [request["seed"] for request in llm.requests] == [5, 6]
    assert asked["schema"] == SCHEMA
    assert usage.requests == 2


def test_what_is_saved(states, tmp_path):
    llm = ScriptedLLM([answer(OPEN, NEAR, described={"near": 'at the "door"'})])
    made = ask(llm, states, out=tmp_path)
    loaded = KeyStateSet.load(tmp_path)
    assert loaded == made
    assert [one.description for one in loaded] == ["open", "at the 'door'"]
    assert loaded.meta["origin"] == "language model"
    assert loaded.meta["model"] == "scripted"
    assert loaded.meta["task"]["name"] == "pass"
    assert loaded.meta["named"] == 2
    assert loaded.meta["rejected"] == loaded.meta["left_out"] == loaded.meta["doubts"] == {}
    assert [function["name"] for function in loaded.meta["check"]["functions"]] == ["open", "near"]
    assert len(loaded.meta["prompt_sha256"]) == 64
    (turn,) = Transcript(tmp_path / "transcript.jsonl").read()
    assert turn.verdicts == ("accepted",)
    assert list(turn.messages) == first(TASK)


def test_a_second_thought_without_an_answer_leaves_the_first_one(states, tmp_path):
    llm = ScriptedLLM([answer(OPEN), "I see nothing wrong with it."])
    assert generate(TASK, llm, states, out=tmp_path).names == ("open",)
    one, two = Transcript(tmp_path / "transcript.jsonl").read()
    assert one.verdicts == ("not tried yet: the model is to check it first",)
    assert two.verdicts == ("there is no answer in it: the one before stands", "accepted")


def test_a_repair_asks_for_what_failed_and_keeps_the_rest(states):
    boom = "def is_over(state):\n    return state[int(state[0])] > 3"
    llm = ScriptedLLM([answer(OPEN, BAD, boom), answer(NEAR), answer(BAD, OVER)])
    made = ask(llm, states, max_repair=2)
    assert made.names == ("open", "near")
    text = question(llm, 1)
    assert "attempt 1 of 3" in text
    assert "leave them out: open." in text
    assert "near: line 2: `state[5]`" in text
    assert "over: on" in text  # all failures at once
    assert "in their place: near, over." in text
    assert len(llm.requests) == 2  # the second answer left over out, and nothing is wrong with it
    assert made.meta["rejected"].keys() == {"over"}
    assert (made.meta["turns"], made.meta["repairs"]) == (2, 1)


def test_what_is_accepted_stays_even_if_it_is_answered_again(states):
    other = OPEN.replace("< 15", "< 3")
    made = ask(ScriptedLLM([answer(OPEN, BAD), answer(other, NEAR)]), states)
    assert made.names == ("open", "near")
    assert "< 15" in made[0].source


def test_fail_repair_pass(states):
    llm = ScriptedLLM(["sorry, no", answer(BAD), answer(NEAR)])
    made = ask(llm, states)
    assert made.names == ("near",)
    assert "no JSON object that can be parsed (there is no opening brace)" in question(llm, 1)
    assert "state[5]" in question(llm, 2)
    assert len(llm.requests[2]["messages"]) == 4  # the latest failure alone is sent back
    assert made.meta["rejected"] == {}


# --- where it ends ------------------------------------------------------------------------------


@pytest.mark.parametrize(("rethinks", "repairs"), [(0, 0), (1, 3), (2, 1)])
def test_it_stops_at_the_bound(states, tmp_path, rethinks, repairs):
    llm = ScriptedLLM(["no"] * 20)
    with pytest.raises(KeyStateError) as caught:
        generate(TASK, llm, states, out=tmp_path, max_rethink=rethinks, max_repair=repairs)
    assert len(llm.requests) == 1 + rethinks + repairs
    for part in ("0 usable", f"in {len(llm.requests)} request(s)", "no JSON", "transcript.jsonl"):
        assert part in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["transcript.jsonl"]


def test_a_model_that_always_fails_leads_to_the_base_algorithm(states):
    llm = ScriptedLLM([answer(BAD)] * 4)
    with pytest.warns(LemaeWarning, match=r"(?s)near: line 2.*train the plain algorithm"):
        assert ask(llm, states, on_failure="base") is None
    assert len(llm.requests) == 4


def test_one_good_of_three_is_kept(states):
    evil = 'def is_evil(state):\n    return open("/etc/passwd").read() and state[0] > 0'
    llm = ScriptedLLM([answer(BAD, NEAR.replace("near", "good"), evil)])
    made = ask(llm, states, max_repair=0)
    assert made.names == ("good",)
    assert set(made.meta["rejected"]) == {"near", "evil"}
    assert made.meta["named"] == 3


def test_too_few_are_a_failure_and_asked_for(states):
    llm = ScriptedLLM([answer(OPEN), answer(OPEN)])
    with pytest.raises(KeyStateError, match=r"1 usable key state.*at least 2 are needed"):
        ask(llm, states, min_key_states=2, max_repair=1)
    assert "1 new key state(s) can be used, and at least 2 are needed: name more" in question(llm)


def test_more_than_asked_for_are_left_out(states, caplog):
    made = ask(ScriptedLLM([answer(OPEN, NEAR, OVER)]), states, max_key_states=2)
    assert made.names == ("open", "near")
    assert made.meta["left_out"] == {"over": "only 2 were asked for"}
    assert "over is left out" in caplog.text


def test_the_same_twice_counts_once(states):
    twin = OVER.replace("is_over", "is_past").replace("> 15 and", "> 15.5 and")
    made = ask(ScriptedLLM([answer(OVER, twin, OPEN)]), states)
    assert made.names == ("over", "open")
    assert made.meta["left_out"] == {"past": "says the same as over"}


def test_no_time_runs_out_on_what_was_accepted(states, monkeypatch):
    def hurried(source, *args, **options):
        if isinstance(source, KeyStateSet):
            options.setdefault("max_seconds", 1e-9)
        return check(source, *args, **options)

    monkeypatch.setattr("lemae.generation.check", hurried)
    made = ask(ScriptedLLM([answer(OPEN, NEAR)]), states)
    assert [found["accepted"] for found in made.meta["check"]["functions"]] == [True, True]


def test_they_keep_the_order_in_which_they_were_named(states):
    llm = ScriptedLLM([answer(BAD, OPEN), answer(NEAR, OVER)])
    assert ask(llm, states).names == ("near", "open", "over")


def test_nothing_more_is_asked_when_the_time_is_over(states, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("lemae.generation.time.monotonic", lambda: next(clock))
    llm = ScriptedLLM([answer(OPEN, BAD)] * 9)
    made = generate(TASK, llm, states, max_seconds=5)
    assert made.names == ("open",)
    assert len(llm.requests) == 1


class Counting(ScriptedLLM):
    """A script whose replies say what they cost."""

    usage = Usage(900, 100)

    def complete(self, messages, **options):
        replies = super().complete(messages, **options)
        return [Reply(reply.text, "priced", self.usage) for reply in replies]


@pytest.mark.parametrize(("tokens", "requests"), [(1, 1), (1000, 1), (1001, 2), (2500, 3)])
def test_nothing_more_is_asked_when_the_tokens_are_used_up(states, tokens, requests):
    llm = Counting(["no"] * 9)
    with pytest.raises(KeyStateError, match="max_tokens is used up"):
        generate(TASK, llm, states, max_tokens=tokens)
    assert len(llm.requests) == requests


def test_tokens_that_nobody_counts_are_estimated(states):
    llm = ScriptedLLM(["no"] * 9)
    with pytest.raises(KeyStateError, match="used up"):
        generate(TASK, llm, states, max_tokens=2500)
    assert 1 < len(llm.requests) < 4  # the prompt has between 800 and 2500 tokens
    meta = ask(ScriptedLLM([answer(OPEN)]), states).meta
    assert meta["tokens_are_estimated"] is True
    assert 800 < meta["prompt_tokens"] < 2500
    assert len(answer(OPEN)) / 8 < meta["completion_tokens"] < len(answer(OPEN)) / 2
    assert meta["cost"] is None


def test_the_cost_is_told(states):
    usage = UsageRecord({"priced": (2.0, 10.0)})
    made = ask(Counting([answer(OPEN, BAD), answer(NEAR)]), states, usage=usage)
    meta = made.meta
    assert (meta["requests"], meta["prompt_tokens"], meta["completion_tokens"]) == (2, 1800, 200)
    assert meta["cost"] == pytest.approx(usage.cost) == pytest.approx(0.0056)
    assert meta["tokens_are_estimated"] is False
    assert meta["seconds"] > 0


# --- answers that are wrong in other ways ---------------------------------------------------------


def read(text):
    return read_answer(text, 5)


@pytest.mark.parametrize("frame", ["{}", "```json\n{}\n```", "Here it is:\n{}\nGood luck!"])
def test_the_answer_is_found(frame):
    (proposal,) = read(frame.replace("{}", answer(OPEN, subspaces={"open": [4, 0]}))).proposals
    assert (proposal.name, proposal.source, proposal.declared) == ("open", OPEN, (4, 0))


def test_line_breaks_that_are_not_escaped_are_read():
    text = answer(OPEN).replace("\\n", "\n")
    assert read(text).proposals[0].source == OPEN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none", "no opening brace"),
        ('{"discriminators": {"a": ', r"can be parsed \(Expecting value in line 1"),
        ('{"reasoning": "a"}', 'has no "discriminators"'),
        ('{"discriminators": {}}', 'has no "discriminators"'),
        ('{"discriminators": ["def"]}', 'has no "discriminators"'),
        ("[" * 100_000, "no opening brace"),
        ('{"a":' * 30_000, "no JSON object"),
        ("x" * 300_000, "200000 are read"),
        (
            json.dumps({"discriminators": {f"a{i}": "" for i in range(65)}}),
            'has no "discriminators"',
        ),
    ],
)
def test_no_answer_at_all(text, message):
    with pytest.raises(ReplyError, match=message) as caught:
        read(text)
    assert '"subspaces"' in str(caught.value) or "shorter" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("success", "def is_success(state):\n    return state[0] > 1", "needs no function"),
        ("Door Open", OPEN, "this is no name"),
        ("a\ud800", OPEN, "this is no name"),
        ("x" * 65, OPEN, "this is no name"),
        ("open", 3, "as one string that starts with `def is_open(state):`"),
        ("open", None, "as one string"),
        ("open", NEAR, "`def is_open(state):`; it defines `is_near`"),
        ("open", f"{OPEN}\n\n{NEAR}", "it defines `is_open`, `is_near`"),
        ("open", "lambda state: state[0] > 1", "it defines none"),
        ("open", "def is_open(state):\n  return (", "it defines `is_open`"),
        ("open", "class is_open:\n    pass", "it defines none"),
    ],
)
def test_what_cannot_be_read_is_told_by_its_name(name, source, problem):
    found = read(answer(NEAR, **{name: source}))
    names = [proposal.name for proposal in found.proposals]
    if "return (" in str(source):  # Python's own complaint comes with the check
        assert names == ["near", "open"]
        return
    assert names == ["near"]
    (text,) = found.problems.values()
    assert problem in text


def test_duplicated_names():
    text = answer(NEAR).replace(
        '"discriminators": {', f'"discriminators": {{"near": {json.dumps(NEAR)}, '
    )
    assert text.count('"near"') == 2
    assert read(text).problems == {
        "near": "it is there more than once: give each key state a name of its own"
    }
    both = read(answer(NEAR, is_near=NEAR))
    assert len(both.proposals) == 1
    assert "is the same name" in both.problems["is_near"]


def test_names_may_carry_the_prefix_of_the_function():
    text = json.dumps(
        {"discriminators": {"is_near": NEAR}, "subspaces": {"near": [0, 1]}, "key_states": 3}
    )
    (proposal,) = read(text).proposals
    assert (proposal.name, proposal.declared, proposal.description) == ("near", (0, 1), "")


@pytest.mark.parametrize(
    ("value", "doubt"),
    [
        ("all", "a list of indices"),
        ([0, "1"], "a list of indices"),
        ([0.0], "a list of indices"),
        ([True], "a list of indices"),
        ([0, 5], "names 5, but the indices of state are 0 to 4"),
        ([-1, 10**400], "names -1, 1000"),
        ([0, 1], ""),
        (None, ""),
    ],
)
def test_what_is_wrong_with_a_declared_subspace(value, doubt):
    (proposal,) = read(answer(NEAR, subspaces={"near": value})).proposals
    assert doubt in proposal.doubt
    assert bool(doubt) == bool(proposal.doubt)
    assert proposal.declared == ((0, 1) if value == [0, 1] else None)


def test_a_subspace_out_of_range_is_sent_back_and_in_the_end_the_code_wins(states):
    wrong = answer(NEAR, subspaces={"near": [0, 7]})
    llm = ScriptedLLM([wrong, wrong])
    made = ask(llm, states, max_repair=1)
    assert "near: its subspace names 7, but the indices of state are 0 to 4" in question(llm)
    assert made[0].subspace == (0, 1)
    assert made[0].declared is None
    assert list(made.meta["doubts"]) == ["near"]
    repaired = ScriptedLLM([wrong, answer(NEAR, subspaces={"near": [0, 1]})])
    made = ask(repaired, states)
    assert made[0].declared == (0, 1)
    assert made.meta["doubts"] == {}


def test_a_subspace_that_contradicts_the_code_is_reported_and_the_code_wins(states):
    llm = ScriptedLLM([answer(NEAR, subspaces={"near": [2, 3]})])
    made = ask(llm, states)
    assert made[0].subspace == (0, 1)
    (report,) = made.meta["check"]["functions"]
    assert any("[2, 3] is declared" in text for text in report["warnings"])


def test_a_function_of_little_use_is_sent_back_and_kept_if_nothing_better_comes(states):
    early = "def is_early(state):\n    return state[0] < 20"
    flag = "def is_flag(state):\n    return state[4] == 1"
    llm = ScriptedLLM([answer(early, flag), answer(early)])
    made = ask(llm, states, max_repair=1)
    assert "early: it is true in 1 of 1 first states" in question(llm)
    assert "flag: it reads [4], which is no position" in question(llm)
    assert made.names == ("early", "flag")
    assert set(made.meta["doubts"]) == {"early", "flag"}


def test_code_that_cannot_be_followed_is_not_said_to_read_no_position(states):
    door = "def is_open(state):\n    return np.array([[state[4], 2]])[0][0] == 1"
    llm = ScriptedLLM([answer(door, subspaces={"open": [4]})] * 9)
    made = ask(llm, states)
    assert made[0].subspace == (4,)
    assert len(llm.requests) == 1


def test_states_without_first_ones_raise_no_doubt_about_them():
    early = "def is_early(state):\n    return state[0] < 20"
    made = ask(ScriptedLLM([answer(early)]), given(np.arange(50.0).reshape(10, 5), TASK))
    assert made.meta["doubts"] == {}


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef is_evil(state):\n    return os.system('id') == state[0]",
        "def is_evil(state):\n    return ().__class__.__bases__[0].__subclasses__() and state[0]",
        "def is_evil(state):\n    while state[0] > -1:\n        pass\n    return True",
        "def is_evil(state):\n    return eval('state[0]') > 3",
        "def is_evil(state):\n    return np.load('/etc/passwd') and state[0] > 1",
        "def is_evil(state):\n    return np.fromfile('x')[0] > state[0]",
        "@print\ndef is_evil(state):\n    return state[0] > 3",
        "def is_evil(state, more=[]):\n    return state[0] > 3",
        "async def is_evil(state):\n    return state[0] > 3",
        "def is_evil(state):\n    state[0] = 3\n    return state[0] > 3",
        "def is_evil(state):\n    return 9 ** 9 ** 9 > state[0]",
    ],
)
def test_malicious_code_is_refused_before_it_runs(states, source, monkeypatch):
    def runs(*_):
        raise AssertionError("a child was started")

    monkeypatch.setattr("lemae.checks.run_in_child", runs)
    with pytest.raises(KeyStateError, match="evil: "):
        ask(ScriptedLLM([answer(source.replace("import os\n", ""))]), states, max_repair=0)


def test_a_key_state_that_says_something_else_with_a_name_of_another(states):
    """Helper functions are refused by the rules and taken where they do no harm."""
    near = "def far(x):\n    return x > 12\n\n\ndef is_near(state):\n    return far(state[0])"
    over = "def far(x):\n    return x > 15\n\n\ndef is_over(state):\n    return far(state[0])"
    fields = json.loads(answer(NEAR, OVER))
    fields["discriminators"] = {"near": near, "over": over}
    llm = ScriptedLLM([json.dumps(fields)])
    made = ask(llm, states, max_repair=0)
    assert made.names == ("near",)
    assert "different things named 'far'" in made.meta["rejected"]["over"][0]


def test_half_a_character_does_no_harm(states):
    llm = ScriptedLLM(["\ud800", answer(OPEN, described={"open": "\ud800 and \x00"}), answer(OPEN)])
    made = ask(llm, states)
    assert made.names == ("open",)
    assert "half a character" in question(llm, 1)
    assert "U+0000" in question(llm, 2)


# --- docstrings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        OPEN,
        "def is_open(state): return state[4] == 1",
        "def is_open(\n    state\n): a = state[4]; return a == 1",
        "def is_open(state):\n\tif state[4]:\n\t\treturn 1\n\treturn 0",
        "import numpy as np\n\n\ndef is_open(state):\n    # why\n    return np.abs(state[4]) == 1",
        "def is_open(st\u00e4te): return st\u00e4te[4] == 1",
    ],
)
def test_the_description_becomes_the_docstring(source):
    text = documented(source, "open", "the door is open")
    before, after = ({}, {})
    exec(source, before)
    exec(text, after)
    assert after["is_open"].__doc__ == "the door is open"
    for state in np.eye(5):
        assert after["is_open"](state) == before["is_open"](state)


def test_a_docstring_that_is_there_stays():
    source = 'def is_open(state):\n    """Mine."""\n    return state[4] == 1'
    assert documented(source, "open", "another") == source
    assert documented(OPEN, "open", "") == OPEN


# --- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_failure": "stop"}, "on_failure is 'stop'"),
        ({"min_key_states": 0}, "min_key_states is 0"),
        ({"min_key_states": 5}, "max_key_states 4"),
        ({"max_rethink": -1}, "max_rethink is -1"),
        ({"max_repair": -1}, "max_repair is -1"),
        ({"max_seconds": 0}, "max_seconds is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_asked(states, options, message):
    llm = ScriptedLLM([])
    with pytest.raises(ConfigError, match=message):
        generate(TASK, llm, states, **options)
    assert not llm.requests


def test_states_of_another_task_are_refused_before_anything_is_asked(states):
    llm = ScriptedLLM([])
    with pytest.raises(ShapeError, match="have 5 numbers, the task 'push-box' describes 6"):
        generate(envs.make("push-box").task_spec, llm, states)
    assert not llm.requests


def test_an_environment_gives_the_states():
    made = ask(ScriptedLLM([answer(OPEN)]), ENV, limits=None)
    assert made.meta["check"]["probes"] > 2048


def test_both_ways_to_ask_have_the_same_defaults():
    ours = inspect.signature(generate).parameters
    theirs = inspect.signature(_Author).parameters
    for name in set(ours) & set(theirs):
        assert ours[name].default == theirs[name].default


# --- asking again -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known():
    return KeyStateSet.from_source(f"{OPEN}\n\n\n{NEAR}", TASK).with_subspaces({"near": [0, 1, 2]})


def test_further_key_states_follow_the_old_ones(states, known, tmp_path):
    other = OPEN.replace("< 15", "< 3")  # under a name that is taken
    llm = ScriptedLLM([answer(other), "fine", answer(other, OVER)])
    made = requery(TASK, llm, states, known, np.array([40, 3]), 50, out=tmp_path)
    assert made.names == ("open", "near", "over")
    assert "< 15" in made[0].source
    assert made[1].subspace == (0, 1, 2)  # as it was set
    assert made.meta["named"] == 1
    assert KeyStateSet.load(tmp_path) == made
    messages = llm.requests[0]["messages"]
    assert messages[:2] == first(TASK, max_key_states=4)
    old = read(messages[2]["content"])
    assert [proposal.name for proposal in old.proposals] == ["open", "near"]
    assert [proposal.declared for proposal in old.proposals] == [(0, 1, 4), (0, 1, 2)]
    assert "- open: 40 of 50\n- near: 3 of 50\n" in messages[3]["content"]
    assert "0 new key state(s) can be used" in question(llm, 2)
    assert "leave them out: near, open." in question(llm, 2)


def test_nothing_new_leaves_the_old_ones(states, known, caplog):
    twin = OPEN.replace("is_open", "is_other")
    llm = ScriptedLLM([answer(twin), "no"])
    assert requery(TASK, llm, states, known, [1, 0], 50, max_repair=0) is known
    llm = ScriptedLLM(["no"])
    assert requery(TASK, llm, states, known, [1, 0], 50, max_repair=0, max_rethink=0) is known
    assert "0 usable key state(s) in 1 request(s)" in caplog.text


def test_no_more_are_added_than_asked_for(states, known):
    llm = ScriptedLLM([answer(OVER, OVER.replace("over", "late").replace("15", "20"))])
    made = requery(TASK, llm, states, known, [1, 0], 50, max_new=1, max_rethink=0)
    assert made.names == ("open", "near", "over")


def test_bad_hits_are_refused(states, known):
    llm = ScriptedLLM([])
    with pytest.raises(ShapeError, match=r"shape \(3,\).*each of the 2"):
        requery(TASK, llm, states, known, [1, 2, 3], 50)
    for options in ({"hits": [1, 60]}, {"hits": [-1, 0]}, {"max_new": 0}):
        with pytest.raises(ConfigError, match="at most once"):
            requery(TASK, llm, states, known, options.pop("hits", [1, 2]), 50, **options)
    with pytest.raises(TypeError, match="max_repairs"):
        requery(TASK, llm, states, known, [1, 2], 50, max_repairs=3)


def test_an_answer_that_is_written_is_read(known):
    found = read(write_answer(known))
    assert not found.problems
    text = "\n\n".join(proposal.file for proposal in found.proposals)
    assert [one.source.split("\n")[-2] for one in KeyStateSet.from_source(text, TASK)] == [
        one.source.split("\n")[-2] for one in known
    ]


# --- services -----------------------------------------------------------------------------------


def files_with(folder, text):
    return [p.name for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def test_a_dialogue_over_http(states, serve, tmp_path):
    replies = [answer(OPEN, BAD), answer(OPEN, BAD), answer(NEAR)]
    service = serve(lambda fields, number: (200, replies[number - 1]))
    made = generate(TASK, service.client(), states, out=tmp_path, seed=3)
    assert made.names == ("open", "near")
    assert service.requests[0]["messages"] == first(TASK)
    assert [request["seed"] for request in service.requests] == [3, 4, 5]
    form = service.requests[0]["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", SCHEMA)
    assert service.headers[0]["authorization"] == f"Bearer {service.key}"
    assert made.meta["model"] == "small"
    assert (made.meta["prompt_tokens"], made.meta["completion_tokens"]) == (3000, 600)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "key_states.py",
        "meta.json",
        "transcript.jsonl",
    ]
    assert not files_with(tmp_path, service.key)


def test_a_service_that_knows_no_schema_is_asked_without(states, serve):
    def reply(fields, number):
        if fields.get("response_format", {}).get("type") == "json_schema":
            return 400, {"error": {"message": "additionalProperties must be false"}}
        return 200, answer(OPEN)

    service = serve(reply)
    assert ask(service.client(), states).names == ("open",)
    assert len(service.requests) == 2


@pytest.mark.parametrize("on_failure", ["raise", "base"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, LLMAuthError), (429, LLMRateLimitError), (500, LLMServerError)],
)
def test_a_service_that_refuses_is_an_error_of_its_own(
    states, serve, tmp_path, status, kind, on_failure
):
    """It is no fault of a model, so that the base algorithm is no answer to it."""
    service = serve(lambda fields, number: (status, {"error": {"message": "no " + service.key}}))
    client = service.client(cache=ReplyCache(tmp_path / "replies.sqlite"), max_retries=0)
    with pytest.raises(kind) as caught:
        generate(TASK, client, states, out=tmp_path / "out", on_failure=on_failure)
    assert service.key not in str(caught.value)
    assert not (tmp_path / "out" / "key_states.py").exists()
    assert not files_with(tmp_path, service.key)


def test_a_service_that_does_not_answer_in_time(states, serve):
    ended = threading.Event()

    def reply(fields, number):
        ended.wait(5)
        return 200, answer(OPEN)

    service = serve(reply)
    start = time.monotonic()
    with pytest.raises(LLMTimeoutError, match=r"within 0\.2 s"):
        generate(TASK, service.client(timeout_s=0.2, max_retries=0), states)
    ended.set()
    assert time.monotonic() - start < 4


def test_a_dialogue_that_was_cut_goes_on_without_paying_twice(states, serve, tmp_path):
    replies = {1: answer(OPEN, BAD), 2: answer(OPEN, BAD), 4: answer(NEAR)}

    def reply(fields, number):
        refusal = {"error": {"message": "no " + service.key}}
        return (200, replies[number]) if number in replies else (401, refusal)

    service = serve(reply)
    path = tmp_path / "replies.sqlite"
    client = service.client(cache=ReplyCache(path))
    with pytest.warns(LemaeWarning, match=r"\(LLMAuthError: .*is kept: open") as caught:
        part = generate(TASK, client, states, out=tmp_path / "out")
    assert service.key not in str(caught[0].message)
    assert caught[0].filename == __file__
    assert len(service.requests) == 3
    assert KeyStateSet.load(tmp_path / "out") == part
    assert part.names == ("open",)
    assert part.meta["rejected"].keys() == {"near"}
    client = service.client(cache=ReplyCache(path))
    made = generate(TASK, client, states, out=tmp_path / "out")
    assert made.names == ("open", "near")
    assert len(service.requests) == 4
    assert service.requests[3]["messages"] == service.requests[2]["messages"]
    assert (made.meta["requests"], made.meta["cached"]) == (1, 2)
    assert made.meta["prompt_tokens"] == 1000
    assert not files_with(tmp_path, service.key)
    again = generate(TASK, service.client(cache=ReplyCache(path)), states)
    assert again == made
    assert len(service.requests) == 4


def test_played_back(states, tmp_path):
    llm = ScriptedLLM([answer(OPEN, BAD), "fine", answer(NEAR)])
    made = generate(TASK, llm, states, out=tmp_path)
    assert generate(TASK, ReplayLLM(tmp_path / "transcript.jsonl"), states) == made


@pytest.mark.parametrize(("sources", "least"), [((BAD,), 1), ((OPEN, BAD), 2)])
def test_a_service_that_fails_leaves_nothing_half_done(states, tmp_path, sources, least):
    llm = ScriptedLLM([answer(*sources), LLMError("down")])
    with pytest.raises(LLMError, match="down"):
        ask(llm, states, out=tmp_path, on_failure="base", min_key_states=least)
    assert [path.name for path in tmp_path.iterdir()] == ["transcript.jsonl"]


def test_what_was_accepted_before_the_service_failed_is_kept(states, known):
    llm = ScriptedLLM([answer(OVER, BAD.replace("near", "far")), LLMError("down")])
    with pytest.warns(LemaeWarning, match=r"\(LLMError: down\); .* is kept: over"):
        made = requery(TASK, llm, states, known, [1, 0], 50, max_rethink=0)
    assert made.names == ("open", "near", "over")


def test_a_repair_is_short_however_much_is_wrong(states):
    lines = "".join(f"    x.f{i}\n" for i in range(300))
    many = {f"a{i}": f"def is_a{i}(state):\n{lines}" for i in range(3)}
    llm = ScriptedLLM([answer(OPEN, **many)] * 2)
    ask(llm, states, max_repair=1)
    assert len(question(llm)) < 20_000
    assert "\n- and 83 more\n" in question(llm)  # of three lists of 40 with a line of their own


def test_a_repair_tells_what_was_left_out(states):
    source = OVER.replace("state[0] >", "FAR(state[0]) >") + "\n\nclass FAR:\n    pass\n"
    llm = ScriptedLLM([answer(OVER).replace(json.dumps(OVER), json.dumps(source)), answer(OVER)])
    ask(llm, states)
    assert "over: line 4: this class is left out" in question(llm)
