"""What a task is, told to a language model: its state, index by index, and its rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lemae.errors import TaskError


@dataclass(frozen=True)
class StateEntry:
    """One index of the state.

    Attributes:
        name: of the number, such as ``agent 0 x``.
        low: smallest value.
        high: largest value.
        integer: whether only whole numbers occur.
        unit: such as ``cells``.
        text: what it means, where the name does not say it.

    Raises:
        TaskError: if the range is empty or not finite.
    """

    name: str
    low: float
    high: float
    integer: bool = True
    unit: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low <= self.high):
            raise TaskError(
                f"{self.name!r} ranges from {self.low} to {self.high}: give finite numbers, the "
                "smaller first"
            )


@dataclass(frozen=True)
class TaskSpec:
    """All that anyone is told about a task.

    Attributes:
        name: such as ``pass``.
        description: goal and rules in plain words, without what the agents cannot know.
        configuration: the numbers of this map, as far as they are no secret.
        state: what each index of the global state is.
        n_agents: of the team.
        actions: what each action does, by number.
        episode_limit: steps.

    Raises:
        TaskError: if there is no state, no agent, no action or no step.
    """

    name: str
    description: str
    configuration: str
    state: tuple[StateEntry, ...]
    n_agents: int
    actions: tuple[str, ...]
    episode_limit: int

    def __post_init__(self) -> None:
        for name in ("state", "actions"):
            if not getattr(self, name):
                raise TaskError(f"{name} of the task {self.name!r} is empty: give at least one")
        for name in ("n_agents", "episode_limit"):
            if getattr(self, name) < 1:
                raise TaskError(
                    f"{name} of the task {self.name!r} is {getattr(self, name)}: give at least 1"
                )

    @property
    def d(self) -> int:
        """Length of the state."""
        return len(self.state)

    @property
    def n_actions(self) -> int:
        """Actions that each agent chooses from."""
        return len(self.actions)

    @property
    def lows(self) -> np.ndarray:
        """Smallest value per index, float64 ``[d]``."""
        return np.array([entry.low for entry in self.state])

    @property
    def highs(self) -> np.ndarray:
        """Largest value per index, float64 ``[d]``."""
        return np.array([entry.high for entry in self.state])

    @property
    def integers(self) -> np.ndarray:
        """Where only whole numbers occur, bool ``[d]``."""
        return np.array([entry.integer for entry in self.state])

    def layout(self) -> str:
        """The state, one line per index."""
        lines = []
        for index, entry in enumerate(self.state):
            kind = "integer" if entry.integer else "real"
            unit = f" {entry.unit}" if entry.unit else ""
            note = f"; {entry.text}" if entry.text else ""
            lines.append(
                f"state[{index}]: {entry.name}, {kind} from {entry.low:g} to {entry.high:g}{unit}"
                f"{note}"
            )
        return "\n".join(lines)

    def to_json(self) -> str:
        """The whole description."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> TaskSpec:
        """Read what :meth:`to_json` wrote, or what was written by hand in its form.

        Raises:
            TaskError: if the text is no JSON, or a part is missing or unknown.
        """
        try:
            values: Mapping[str, Any] = json.loads(text)
            entries = tuple(StateEntry(**entry) for entry in values["state"])
            return cls(**{**values, "state": entries, "actions": tuple(values["actions"])})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TaskError(
                f"this is no task description ({error}): give name, description, configuration, "
                "state (name, low, high of each index), n_agents, actions, episode_limit"
            ) from error
