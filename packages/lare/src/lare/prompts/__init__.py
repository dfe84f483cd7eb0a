"""The text that a language model gets: a task, what to do, and how to answer."""

from __future__ import annotations

from importlib import resources
from string import Template
from typing import Literal

from lare.task import TaskSpec

#: ``"next"`` lets the function see where a step ended; ``"paper"`` is as published, observation
#: and action for one agent, the observation alone for several.
Form = Literal["next", "paper"]
KEYS = ("Understand", "Analyze", "Functions")
SCHEMA = {
    "type": "object",
    "properties": {key: {"type": "string"} for key in KEYS},
    "required": list(KEYS),
    "additionalProperties": False,
}
_INPUTS = {
    "observation": "observation: float array (batch, {observation}), the observation {when};",
    "action": "action: float array (batch, {action}), what the agent did;",
    "next_observation": (
        "next_observation: float array (batch, {observation}), laid out as observation, after the "
        "step;"
    ),
}


def arguments(task: TaskSpec, form: Form) -> tuple[str, ...]:
    """Names of the arguments that the function is to have."""
    if form == "next":
        return ("observation", "action", "next_observation")
    return ("observation",) if task.agents > 1 else ("observation", "action")


def first(task: TaskSpec, form: Form = "next", *, direct: bool = False) -> str:
    """The first message: task, layout, role, form of the answer.

    Args:
        task: what the environment is about.
        form: which arguments the function gets.
        direct: ask for the reward itself instead of factors (an ablation).
    """
    names = arguments(task, form)
    when = "before the step" if "action" in names else "after the step"
    sizes = {"observation": len(task.observation), "action": len(task.action), "when": when}
    inputs = "\n- ".join(_INPUTS[name].format(**sizes) for name in names)
    role = _read("direct" if direct else "role").substitute(
        arguments=", ".join(names),
        inputs=inputs,
        and_action=" and of the action" if "action" in names else "",
    )
    parts = [f"TASK\n{task.description}"]
    if task.agents > 1:
        parts.append(
            f"There are {task.agents} agents. The function is called for each agent by itself, "
            "with what that agent observes and does."
        )
    parts.append(f"OBSERVATION, size {len(task.observation)}\n{task.observation_text()}")
    if "action" in names:
        kind = "one of these choices" if task.discrete else f"size {len(task.action)}"
        parts.append(f"ACTION, {kind}\n{task.action_text()}")
    return "\n\n".join([*parts, f"WHAT TO DO\n{role.strip()}", _read("format").template.strip()])


def summary(count: int) -> str:
    """The message that asks for one function out of several candidates."""
    return _read("summary").substitute(count=count).strip()


def _read(name: str) -> Template:
    return Template((resources.files(__name__) / f"{name}.txt").read_text(encoding="utf-8"))
