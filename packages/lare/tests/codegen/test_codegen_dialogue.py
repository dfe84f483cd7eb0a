"""Replies, dialogues, transcripts, recorded and scripted models, and what they cost."""

from __future__ import annotations

import contextlib
import json
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lare._codegen import (
    DialogueError,
    LLMError,
    LLMServerError,
    Message,
    ReplayLLM,
    Reply,
    ReplyError,
    ScriptedLLM,
    Transcript,
    Usage,
    UsageRecord,
    estimate_tokens,
    extract_code,
    extract_json,
    generate_checked,
)
from lare._codegen.usage import _tiktoken_counter

TASK = [Message(role="user", content="Give me a number.")]
KEYS = ["Understand", "Functions"]


def number(text):
    """Accept digits only."""
    if not text.isdigit():
        raise ReplyError(f"{text!r} is no number.")
    return int(text)


# --- replies ------------------------------------------------------------------------------------

GOOD = {"Understand": "yes", "Functions": "def f(x):\n    return {'a': 1}"}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"\n\n{json.dumps(GOOD, indent=2)}\n",
        f"Sure!\n```json\n{json.dumps(GOOD)}\n```\nDone.",
        f"Sure!\n```\n{json.dumps(GOOD)}\n```",
        f"Here: {json.dumps(GOOD)} I hope {{it}} helps.",
        f"For {{x}} and {{}}: {json.dumps(GOOD)}",
        json.dumps(GOOD).replace("\\n", "\n"),
        json.dumps({"Understand": "no"}) + json.dumps(GOOD),
    ],
)
def test_json_is_found_wherever_it_is(text):
    assert extract_json(text, KEYS) == GOOD


def test_further_strings_are_kept_and_other_values_are_not():
    text = json.dumps({**GOOD, "More": "text", "List": [1]})
    assert extract_json(text, KEYS) == {**GOOD, "More": "text"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no JSON object", "no opening brace", '"Understand", "Functions"']),
        ('{"Understand": "a"', ["no JSON object", "line 1"]),
        ("{'Understand': 'a'}", ["no JSON object", "double quotes"]),
        ("{}", ['"Understand" is missing', '"Functions" is missing']),
        ('{"understand": "a", "Functions": 3}', ["written differently", "holds a number"]),
        ('{"Understand": "", "Functions": ["a"]}', ["empty string", "holds a list"]),
        ('{"Understand": null, "Functions": {}}', ["holds null", "holds an object"]),
        ("[1, 2]", ["no JSON object"]),
        ("{" * 100_000, ["no JSON object"]),
        ('{"a":' * 50_000, ["no JSON object"]),
        ("x" * 1_000_001, ["answer shorter"]),
    ],
)
def test_a_reply_without_what_is_needed_is_described_completely(text, parts):
    with pytest.raises(ReplyError) as caught:
        extract_json(text, KEYS)
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value, ValueError)


@given(st.text(max_size=200))
def test_any_text_gives_json_or_a_reply_error(text):
    for extract in (lambda: extract_json(text, KEYS), lambda: extract_code(text)):
        with contextlib.suppress(ReplyError):
            extract()


def test_code_is_found_in_the_longest_block_with_a_function():
    text = "First\n```python\nimport numpy\n```\nthen\n```python\ndef f(x):\n    return x\n```\n"
    assert extract_code(text) == "def f(x):\n    return x\n"
    assert extract_code("def f(x):\n    return x") == "def f(x):\n    return x"
    for bad in ("no code", "```python\nx = 1\n```", "```bash\ndef f\n```", ""):
        with pytest.raises(ReplyError, match="```python"):
            extract_code(bad)


# --- dialogues ----------------------------------------------------------------------------------


def test_a_first_reply_that_is_fine_ends_the_dialogue():
    llm = ScriptedLLM(["7"])
    assert generate_checked(llm, TASK, number, temperature=1.0, seed=3, schema={"a": 1}) == 7
    assert llm.requests == [
        {"messages": TASK, "n": 1, "temperature": 1.0, "seed": 3, "schema": {"a": 1}}
    ]


def test_half_a_character_starts_a_repair(tmp_path):
    transcript = Transcript(tmp_path / "t.jsonl")
    llm = ScriptedLLM(["4\ud8001", "42"])
    found = generate_checked(
        llm, TASK, lambda text: int(text.encode()), transcript=transcript, usage=UsageRecord()
    )
    assert found == 42
    first, second = transcript.read()
    assert "\\ud800" in (tmp_path / "t.jsonl").read_text(encoding="utf-8")
    assert first.replies[0].text == "4\ud8001"
    assert "half a character" in first.verdicts[0]
    assert second.messages[1]["content"] == "4\\ud8001"
    json.dumps(second.messages, ensure_ascii=False).encode()
    assert estimate_tokens([Message(role="user", content="\ud800")], None, None).tokens > 0


@pytest.mark.parametrize(
    "text", ['{"a": "x\ud800"}', '{"a": "x\\ud800"}', '{"a": "x", "\\udc00": 1}']
)
def test_half_a_character_in_json_is_refused(text):
    with pytest.raises(ReplyError, match="half a character"):
        extract_json(text, ["a"])


def test_half_a_character_in_code_is_refused():
    with pytest.raises(ReplyError, match="half a character"):
        extract_code("def f(x):\n    return '\ud800'")


def test_only_the_latest_failure_follows_the_task(tmp_path):
    transcript = Transcript(tmp_path / "folder" / "turns.jsonl")
    llm = ScriptedLLM(["a", "b", "8"])
    assert generate_checked(llm, TASK, number, temperature=1.0, seed=3, transcript=transcript) == 8
    first, second, third = (request["messages"] for request in llm.requests)
    assert first == TASK
    assert second[:1] == third[:1] == TASK
    assert [message["role"] for message in third] == ["user", "assistant", "user"]
    assert second[1]["content"] == "a"
    assert "'a' is no number." in second[2]["content"]
    assert third[1]["content"] == "b"
    assert "'a'" not in str(third)
    assert [request["temperature"] for request in llm.requests] == [1.0, 0.3, 0.3]
    assert [request["seed"] for request in llm.requests] == [3, 4, 5]
    turns = transcript.read()
    assert [turn.replies[0].text for turn in turns] == ["a", "b", "8"]
    assert [turn.verdicts for turn in turns] == [
        ("'a' is no number.",),
        ("'b' is no number.",),
        ("accepted",),
    ]
    assert turns[1].settings["temperature"] == 0.3
    assert turns[0].model == "scripted"
    assert list(turns[2].messages) == third


def test_the_same_failure_again_is_another_request():
    llm = ScriptedLLM(["a", "a", "a", "9"])
    assert generate_checked(llm, TASK, number) == 9
    assert len({json.dumps(request["messages"]) for request in llm.requests}) == 4


def test_the_dialogue_is_bounded_and_names_its_transcript(tmp_path):
    transcript = Transcript(tmp_path / "turns.jsonl")
    llm = ScriptedLLM(["a"] * 99)
    with pytest.raises(DialogueError, match=r"3 attempt.*turns\.jsonl.*'a' is no") as caught:
        generate_checked(llm, TASK, number, max_repairs=2, transcript=transcript)
    assert len(llm.requests) == 3
    assert caught.value.transcript == transcript.path
    assert len(transcript.read()) == 3
    with pytest.raises(DialogueError) as caught:
        generate_checked(ScriptedLLM(["a"]), TASK, number, max_repairs=0)
    assert caught.value.transcript is None
    with pytest.raises(ValueError, match="max_repairs"):
        generate_checked(llm, TASK, number, max_repairs=-1)


def test_a_failing_service_ends_the_dialogue_and_keeps_its_turns(tmp_path):
    transcript = Transcript(tmp_path / "turns.jsonl")
    llm = ScriptedLLM(["a", LLMServerError("down"), "9"])
    with pytest.raises(LLMServerError):
        generate_checked(llm, TASK, number, transcript=transcript)
    assert [turn.verdicts for turn in transcript.read()] == [("'a' is no number.",)]


def test_errors_of_the_caller_are_not_shown_to_the_model():
    def broken(text):
        raise KeyError("bug")

    llm = ScriptedLLM(["a", "b"])
    with pytest.raises(KeyError):
        generate_checked(llm, TASK, broken)
    assert len(llm.requests) == 1


def test_a_reply_that_was_cut_off_is_told_so():
    class Short(ScriptedLLM):
        def complete(self, messages, **options):
            (reply,) = super().complete(messages, **options)
            return [Reply(reply.text, reply.model, finish_reason="length")]

    llm = Short(["a", "5"])
    assert generate_checked(llm, TASK, number) == 5
    assert "cut off" in llm.requests[1]["messages"][-1]["content"]


# --- transcripts and replay ---------------------------------------------------------------------


def recorded(path):
    transcript = Transcript(path)
    generate_checked(ScriptedLLM(["a", "8"]), TASK, number, transcript=transcript)
    return transcript


def test_a_recorded_dialogue_is_replayed(tmp_path):
    transcript = recorded(tmp_path / "turns.jsonl")
    llm = ReplayLLM(transcript.path)
    assert llm.model == "scripted"
    assert generate_checked(llm, TASK, number) == 8
    with pytest.raises(LLMError, match="no reply left"):
        llm.complete(TASK)


def test_a_replay_of_another_prompt_is_refused_unless_asked_for(tmp_path):
    path = recorded(tmp_path / "turns.jsonl").path
    other = [Message(role="user", content="Another question.")]
    with pytest.raises(LLMError, match="another prompt"):
        ReplayLLM(path).complete(other)
    llm = ReplayLLM(path, strict=False)
    (reply,) = llm.complete(other)
    assert reply.text == "a"
    assert reply.cached
    assert generate_checked(llm, other, number) == 8


def test_candidates_are_replayed_together(tmp_path):
    transcript = Transcript(tmp_path / "turns.jsonl")
    replies = ScriptedLLM([["a", "b", "c"]]).complete(TASK, n=3)
    transcript.add(TASK, replies, verdict="candidates", n=3)
    assert transcript.read()[0].verdicts == ("candidates",)
    assert [reply.text for reply in ReplayLLM(transcript.path).complete(TASK, n=3)] == list("abc")
    with pytest.raises(LLMError, match="has 3 replies"):
        ReplayLLM(transcript.path).complete(TASK, n=4)


def test_a_transcript_survives_a_cut_and_refuses_changes(tmp_path):
    path = recorded(tmp_path / "turns.jsonl").path
    text = path.read_text(encoding="utf-8")
    path.write_text(text + '{"kind": "tu', encoding="utf-8")
    assert len(Transcript(path).read()) == 2
    for bad in (text.replace("Give me", "Send me", 1), "{}\n", "no json\n", "[]\n", text[200:]):
        path.write_text(bad, encoding="utf-8")
        with pytest.raises(LLMError, match="line 1"):
            ReplayLLM(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(LLMError, match="no recorded turn"):
        ReplayLLM(path)
    with pytest.raises(LLMError, match="missing"):
        ReplayLLM(tmp_path / "missing.jsonl")


def test_scripts_are_strings_lists_functions_and_errors():
    llm = ScriptedLLM(
        ["a", ["b", "c"], lambda messages: messages[0]["content"], ValueError("x"), ["d"]]
    )
    assert [reply.text for reply in llm.complete(TASK, n=2)] == ["a", "a"]
    assert [reply.text for reply in llm.complete(TASK, n=2)] == ["b", "c"]
    assert llm.complete(TASK)[0].text == TASK[0]["content"]
    with pytest.raises(ValueError, match="x"):
        llm.complete(TASK)
    with pytest.raises(LLMError, match="1 replies where 2"):
        llm.complete(TASK, n=2)
    with pytest.raises(LLMError, match="no reply left"):
        llm.complete(TASK)
    assert len(llm.requests) == 6


# --- cost ---------------------------------------------------------------------------------------


@pytest.fixture
def _no_counter_kept():
    _tiktoken_counter.cache_clear()
    yield
    _tiktoken_counter.cache_clear()


@pytest.mark.usefixtures("_no_counter_kept")
def test_tokens_are_estimated_from_bytes_without_tiktoken(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    messages = [Message(role="user", content="abcde"), Message(role="user", content="ä" * 4)]
    for _ in range(2):
        assert estimate_tokens(messages, "gpt-4o") == (4, True)
    assert len(caplog.records) == 1
    assert estimate_tokens(messages, count_tokens=len) == (9, False)


@pytest.mark.usefixtures("_no_counter_kept")
def test_tiktoken_counts_where_it_works(monkeypatch):
    encoding = types.SimpleNamespace(encode=lambda text, disallowed_special: text.split())

    def unknown(model):
        raise KeyError(model)

    fake = types.SimpleNamespace(encoding_for_model=unknown, get_encoding=lambda name: encoding)
    monkeypatch.setitem(sys.modules, "tiktoken", fake)
    assert estimate_tokens(TASK, "new") == (4, False)


@pytest.mark.usefixtures("_no_counter_kept")
def test_a_table_that_cannot_be_loaded_is_no_error(monkeypatch):
    def fail(name):
        raise ConnectionError("no network")

    fake = types.SimpleNamespace(encoding_for_model=fail, get_encoding=fail)
    monkeypatch.setitem(sys.modules, "tiktoken", fake)
    assert estimate_tokens(TASK).is_estimate


def test_costs_add_up():
    record = UsageRecord({"m": (2.0, 10.0)})
    record.add(Reply("a", "m", Usage(1000, 100)))
    record.add(Reply("a", "m", Usage(500, 50), cached=True))
    assert (record.requests, record.cached) == (1, 1)
    assert (record.prompt_tokens, record.completion_tokens) == (1000, 100)
    assert record.cost == pytest.approx(0.003)
    record.add(Reply("a", "other", Usage(1, 1)))
    assert record.cost is None
    silent = UsageRecord({"m": (2.0, 10.0)})
    silent.add(Reply("a", "m"))
    assert (silent.unknown, silent.cost) == (1, None)


def test_a_dialogue_counts_its_usage():
    record = UsageRecord()
    generate_checked(ScriptedLLM(["a", "1"]), TASK, number, usage=record)
    assert record.requests == 2
