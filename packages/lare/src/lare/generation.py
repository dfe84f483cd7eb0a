"""Ask a language model for a latent reward, and do not take the first answer on trust."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from lare._codegen import (
    LLM,
    Dialogue,
    Limits,
    Message,
    ReplyError,
    Transcript,
    UsageRecord,
    extract_json,
    generate_checked,
)
from lare.errors import ConfigError
from lare.latent_reward import LatentReward
from lare.prompts import KEYS, SCHEMA, Form, arguments, first, summary
from lare.task import TaskSpec
from lare.transitions import Transitions, collect
from lare.verification import fits, verify

TRANSCRIPT_FILE = "transcript.jsonl"


def generate(
    task: TaskSpec,
    llm: LLM,
    data: Transitions | Any,
    *,
    n: int = 5,
    form: Form = "next",
    direct: bool = False,
    preverify: bool = True,
    max_repairs: int = 5,
    temperature: float = 1.0,
    repair_temperature: float = 0.3,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    usage: UsageRecord | None = None,
) -> LatentReward:
    """Write a latent reward: candidates, a summary of them, verification, repairs.

    Args:
        task: all that the model is told about the environment.
        llm: a client, such as ``OpenAIChat``.
        data: real steps to verify on, or an environment to collect them from.
        n: candidates that the summary is made of; 1 leaves the summary out (an ablation).
        form: ``"next"`` lets the function see where a step ended, ``"paper"`` is as published.
        direct: ask for the reward itself (an ablation); train no decoder on it.
        preverify: False skips the checks on real steps (an ablation). The allow-list holds anyway.
        max_repairs: answers that may be asked for again after one that failed.
        temperature: of the candidates.
        repair_temperature: of the summary and of the repairs.
        seed: of the model's sampling, where it takes one, and of the collected steps.
        out: folder for the function, ``meta.json`` and the transcript; the transcript is written
            while the dialogue goes on, the rest only at the end.
        limits: of the child process.
        usage: where tokens and cost are added up; give one with prices to learn the cost.

    Returns:
        The verified function, with task, model, hash of the prompt and report in its ``meta``; the
        transcript has the prompts themselves.

    Raises:
        DialogueError: if no answer passed; it names the transcript, and nothing else is saved.
        LLMError: if the service failed; what was answered until then is reused by a client with a
            cache.
        ConfigError: if ``n`` is not positive.

    Reference: arXiv 2412.11120, environment prompting, self-prompting, pre-verification.
    """
    if n < 1:
        raise ConfigError(f"n is {n}: ask for at least one candidate")
    steps = data if isinstance(data, Transitions) else collect(data, seed=seed)
    fits(task, steps)  # before anything is asked and paid for
    transcript = None if out is None else Transcript(Path(out) / TRANSCRIPT_FILE)
    usage = UsageRecord() if usage is None else usage
    messages: list[Message] = [{"role": "user", "content": first(task, form, direct=direct)}]
    if n > 1:
        dialogue = Dialogue(llm, messages, transcript, usage)
        candidates = dialogue.ask(n=n, temperature=temperature, seed=seed, schema=SCHEMA)
        dialogue.add("assistant", "\n\n".join(reply.text for reply in candidates))
        dialogue.add("user", summary(len(candidates)))
        messages = dialogue.messages

    def accept(text: str) -> LatentReward:
        source = extract_json(text, KEYS)["Functions"]
        made = LatentReward(source)
        if made.arguments != arguments(task, form):
            raise ReplyError(
                f"evaluation_func takes ({', '.join(made.arguments)}): it is called with "
                f"({', '.join(arguments(task, form))})"
            )
        if not preverify:
            return made
        report = verify(made, steps, task=task, direct=direct, limits=limits)
        if not report.accepted:
            raise ReplyError(str(report))
        kept = report.keep if len(report.keep) < len(report.factors) else None
        return LatentReward(source, keep=kept, meta={"verification": report.as_dict()})

    made = generate_checked(
        llm,
        messages,
        accept,
        max_repairs=max_repairs,
        temperature=temperature if n == 1 else repair_temperature,
        repair_temperature=repair_temperature,
        schema=SCHEMA,
        transcript=transcript,
        seed=seed,
        usage=usage,
    )
    made.meta |= {
        "origin": "language model",
        "model": llm.model,
        "form": form,
        "direct": direct,
        "candidates": n,
        "task": task.as_dict(),
        "prompt_sha256": hashlib.sha256(messages[0]["content"].encode()).hexdigest(),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    if out is not None:
        made.save(out)
    return made
