"""The text that a language model gets: a task, what to name in it, and how to answer.

Everything comes from the :class:`lemae.TaskSpec` and from the files beside this one, so that what
the agents cannot know is in no prompt unless somebody writes it into the description.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from string import Template

from lemae._codegen import Message
from lemae.discriminators.source import POLICY
from lemae.errors import TaskError
from lemae.task import TaskSpec

_TEXT = {"type": "string"}
_BY_NAME = {"type": "object", "additionalProperties": _TEXT}
#: What an answer looks like, for services that can follow a schema.
SCHEMA = {
    "type": "object",
    "properties": {
        "reasoning": _TEXT,
        "key_states": _BY_NAME,
        "discriminators": _BY_NAME,
        "subspaces": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "integer"}},
        },
    },
    "required": ["reasoning", "key_states", "discriminators", "subspaces"],
    "additionalProperties": False,
}


def first(task: TaskSpec, *, max_key_states: int = 4) -> list[Message]:
    """The messages that open a dialogue.

    Args:
        task: what is told of the environment.
        max_key_states: how many may be named.

    Returns:
        The system's message (role, description, layout of the state, rules, form of the answer)
        and the user's (this map, its agents, actions and length of an episode).

    Raises:
        TaskError: if the task has no description.

    Reference: arXiv 2410.02511, the prompt's two parts; the wording is ours.
    """
    if not task.description.strip():
        raise TaskError(
            f"the task {task.name!r} has no description, and a model has to know the goal and the "
            "rules: say them in plain words, as description= of the TaskSpec or of wrap()"
        )
    several = task.n_agents > 1
    system = [
        _fill("role", team="a team of agents" if several else "an agent"),
        f"TASK\n{task.description.strip()}",
        f"STATE, {task.d} numbers\n{task.layout()}",
        f"RULES\n{_rules(task, max_key_states)}",
        f"ANSWER\n{_fill('format')}",
    ]
    user = _fill(
        "configuration",
        count=str(task.n_agents),
        each="each agent, by number" if several else "the agent, by number",
        actions="\n".join(f"{number}: {action}" for number, action in enumerate(task.actions)),
        limit=str(task.episode_limit),
        configuration=task.configuration.strip(),
    )
    return [
        Message(role="system", content="\n\n".join(system)),
        Message(role="user", content=user),
    ]


def rethink(task: TaskSpec) -> str:
    """The message that has an answer checked by the model itself."""
    labour = ", and do the agents share the work where that helps" if task.n_agents > 1 else ""
    return _fill("rethink", labour=labour)


def repair(
    problems: Sequence[str], failed: Sequence[str], kept: Sequence[str], attempt: int, attempts: int
) -> str:
    """The message that tells all that is wrong, and asks for that alone.

    Args:
        problems: everything that is wrong, addressed to the model.
        failed: names of key states to be repaired; empty where none could be read.
        kept: names of those that are accepted and need no answer.
        attempt: number of the answer that failed, from 1.
        attempts: how many there may be.
    """
    stay = "These key states are accepted and stay as they are; leave them out: {}.\n\n"
    return _fill(
        "repair",
        attempt=str(attempt),
        attempts=str(attempts),
        kept=stay.format(", ".join(kept)) if kept else "",
        problems="\n".join(f"- {problem}" for problem in problems),
        wanted=f"these key states, or others in their place: {', '.join(failed)}"
        if failed
        else "key states that keep all the rules",
    )


def stagnation(
    task: TaskSpec, names: Sequence[str], hits: Sequence[int], episodes: int, max_new: int
) -> str:
    """The message that asks for further key states; it tells how often each was met, nothing else.

    Args:
        task: as in :func:`first`.
        names: of the key states that were used.
        hits: episodes that met each of them.
        episodes: in all.
        max_new: how many may be added.
    """
    met = zip(names, hits, strict=True)
    return _fill(
        "stagnation",
        episodes=str(episodes),
        hits="\n".join(f"- {name}: {count} of {episodes}" for name, count in met),
        team="team" if task.n_agents > 1 else "agent",
        most=str(max_new),
    )


def _rules(task: TaskSpec, max_key_states: int) -> str:
    several = task.n_agents > 1
    rules = _fill(
        "rules",
        most=str(max_key_states),
        who="the agents" if several else "the agent",
        division=_fill("division", count=str(task.n_agents)) + "\n" if several else "",
        causer="the agents that cause the jump" if several else "the agent that causes the jump",
    )
    return f"{rules}\n{_code_rules(task.d)}"


def _code_rules(size: int) -> str:
    return _fill(
        "code",
        size=str(size),
        last=str(size - 1),
        builtins=", ".join(sorted(POLICY.builtins)),
        numpy=", ".join(sorted(POLICY.numpy_functions)),
        math=", ".join(sorted(POLICY.math_functions)),
        methods=", ".join(sorted(POLICY.methods)),
    )


def _fill(name: str, **values: str) -> str:
    text = (resources.files(__name__) / f"{name}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(values).strip()
