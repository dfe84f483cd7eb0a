"""Ask a language model for a reward, and do not take it on trust."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from lemae._codegen import (
    LLM,
    ExecutionError,
    Limits,
    Message,
    Outcome,
    ReplyError,
    Transcript,
    UnsafeCodeError,
    UsageRecord,
    check,
    extract_json,
    generate_checked,
    run_in_child,
)
from lemae.baselines.llm_reward import LARGEST_BATCH, POLICY, RewardFunction
from lemae.probes import Probes, probes
from lemae.task import TaskSpec

TRANSCRIPT_FILE = "transcript.jsonl"
#: Steps whose reward must not depend on the others of their batch.
SINGLE_STEPS = 8
_KEYS = ("reasoning", "reward")
_SCHEMA = {
    "type": "object",
    "properties": {key: {"type": "string"} for key in _KEYS},
    "required": list(_KEYS),
    "additionalProperties": False,
}


def generate_reward(
    task: TaskSpec,
    llm: LLM,
    probes_or_env: Probes | Any,
    *,
    max_repair: int = 3,
    temperature: float | None = 1.0,
    repair_temperature: float | None = 0.3,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    usage: UsageRecord | None = None,
) -> RewardFunction:
    """Have a reward written: an answer, checks, repairs.

    Args:
        task: all that the model is told; it is told the same for key states.
        llm: a client, such as ``OpenAIChat``.
        probes_or_env: states to check on, or an environment to collect them from.
        max_repair: how often an answer that failed may be repaired.
        temperature: of the answer.
        repair_temperature: of repairs.
        seed: of the model's sampling, where it takes one, and of the collected states.
        out: folder for ``reward.py``, ``meta.json`` and the transcript.
        limits: of the child process.
        usage: where the cost is added up.

    Returns:
        The function; its ``meta`` tells model, task, hash of the prompt and tokens.

    Raises:
        DialogueError: if no answer passed; it names the transcript.
        LLMError: if the service failed.
    """
    given = isinstance(probes_or_env, Probes)
    tried = probes_or_env if given else probes(probes_or_env, seed=seed, task=task)
    usage = UsageRecord() if usage is None else usage
    messages = [Message(role="user", content=prompt(task))]

    def accept(text: str) -> RewardFunction:
        source = extract_json(text, _KEYS)["reward"]
        check(source, POLICY)  # its error is written for the model
        if found := problems(source, tried, limits):
            listed = "\n".join(f"- {problem}" for problem in found)
            raise ReplyError(f"The function was rejected:\n{listed}")
        return RewardFunction(source)

    made = generate_checked(
        llm,
        messages,
        accept,
        max_repairs=max_repair,
        temperature=temperature,
        repair_temperature=repair_temperature,
        schema=_SCHEMA,
        transcript=None if out is None else Transcript(Path(out) / TRANSCRIPT_FILE),
        seed=seed,
        usage=usage,
    )
    made.meta |= {
        "origin": "language model",
        "model": llm.model,
        "task": json.loads(task.to_json()),
        "prompt_sha256": hashlib.sha256(messages[0]["content"].encode()).hexdigest(),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    if out is not None:
        made.save(out)
    return made


def prompt(task: TaskSpec) -> str:
    """The message that asks for a reward."""
    text = (resources.files("lemae.prompts") / "reward.txt").read_text(encoding="utf-8")
    return Template(text).substitute(
        team="a team of agents" if task.n_agents > 1 else "an agent",
        description=task.description.strip(),
        configuration=task.configuration.strip(),
        count=str(task.n_agents),
        actions="\n".join(f"{number}: {action}" for number, action in enumerate(task.actions)),
        limit=str(task.episode_limit),
        size=str(task.d),
        layout=task.layout(),
    )


def problems(source: str, tried: Probes, limits: Limits | None = None) -> list[str]:
    """Run a reward function in a limited child process, and say what is wrong with it.

    Args:
        source: of the function.
        tried: states to try it on.
        limits: of the child process.

    Returns:
        Every reason to reject it, addressed to its author; empty if there is none.
    """
    try:
        code = check(source, POLICY)
    except UnsafeCodeError as error:
        return [str(error)]
    before = tried.states
    after = np.roll(before, -1, axis=0)
    calls: dict[str, Any] = {
        "steps": slice(None),
        "the same steps again": slice(None),
        "the steps in reverse order": slice(None, None, -1),
        "the largest batch": np.resize(np.arange(len(before)), LARGEST_BATCH),
    }
    for row in np.linspace(0, len(before) - 1, SINGLE_STEPS).astype(int).tolist():
        calls[f"step {row} alone"] = slice(row, row + 1)
    arrays = [(before[rows], after[rows]) for rows in calls.values()]
    try:
        outcomes = run_in_child(code, POLICY, arrays, limits or Limits()).outcomes
    except ExecutionError as error:
        return [str(error)]
    paid, found = {}, []
    for name, outcome in zip(calls, outcomes, strict=True):
        rewards = _rewards(outcome, before[calls[name]].shape[:1])
        if isinstance(rewards, str):
            found.append(f"on {name}: {rewards}")
        else:
            paid[name] = rewards
    return found or _broken_promises(paid, calls)


def _rewards(outcome: Outcome, shape: tuple[int, ...]) -> np.ndarray | str:
    """The rewards of one call, or what is wrong with them."""
    if outcome.error is not None or outcome.outputs is None:
        return str(outcome.error)
    if outcome.changed_inputs:
        return f"it changed argument {outcome.changed_inputs[0]}: compute new arrays"
    shapes = [output.shape for output in outcome.outputs]
    if shapes != [shape]:
        return (
            f"it returned {outcome.returned} with the shapes {shapes}: return one array of shape "
            f"{shape}, one reward per step"
        )
    if not np.isfinite(outcome.outputs[0]).all():
        return "a reward is not finite: guard divisions, logarithms, roots and exponentials"
    return outcome.outputs[0]


def _broken_promises(paid: Mapping[str, np.ndarray], calls: Mapping[str, Any]) -> list[str]:
    """What the rewards of several calls say together."""
    reference, broken = paid["steps"], []
    if not np.array_equal(reference, paid["the same steps again"]):
        broken.append("two calls on the same steps differ: the function has to be deterministic")
    if not all(
        np.allclose(paid[name], reference[rows], rtol=1e-6, atol=1e-9)
        for name, rows in calls.items()
    ):
        broken.append(
            "the reward of a step depends on the other steps of the batch (a mean, maximum or sort "
            "over the batch?): compute each row from that row alone"
        )
    if np.ptp(reference) <= 1e-9 * max(1.0, float(np.abs(reference).max())):
        broken.append("the reward is the same for every step: it has to tell steps apart")
    return broken
