"""Language models without a service: recorded ones, and scripted ones for tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .errors import LLMError
from .messages import Message, Reply, digest
from .transcript import read_turns

Script: TypeAlias = "str | Sequence[str] | Exception | Callable[[Sequence[Message]], Any]"


class ReplayLLM:
    """Gives the replies of a recorded dialogue again.

    Args:
        path: a file that a :class:`Transcript` wrote.
        strict: give a recorded reply only to the very messages it was a reply to. Otherwise replies
            come in the recorded order, whatever is asked.

    Raises:
        LLMError: if the file cannot be read as a transcript, or has no turn.
    """

    def __init__(self, path: str | os.PathLike[str], *, strict: bool = True) -> None:
        self.path = Path(path)
        try:
            self._left = read_turns(self.path)
        except OSError as error:
            raise LLMError(f"no recorded dialogue can be read from {self.path}: {error}") from error
        if not self._left:
            raise LLMError(f"{self.path} has no recorded turn")
        self._strict = strict
        self.model = self._left[0].model

    def complete(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        temperature: float | None = None,
        seed: int | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Reply]:
        """Give the recorded replies, each turn once.

        Raises:
            LLMError: if no turn is left that fits, or it has fewer than ``n`` replies.
        """
        wanted = digest(list(messages))
        fitting = [
            turn for turn in self._left if not self._strict or digest(list(turn.messages)) == wanted
        ]
        if not fitting:
            raise LLMError(
                f"{self.path} has no reply left for these messages (SHA-256 {wanted[:12]}): the "
                "recorded dialogue was about another prompt or is over. Ask a model instead, or "
                "replay with strict=False"
            )
        turn = fitting[0]
        if len(turn.replies) < n:
            raise LLMError(
                f"{self.path} has {len(turn.replies)} replies to these messages, not {n}: ask for "
                "as many as were recorded"
            )
        self._left.remove(turn)
        return list(turn.replies[:n])


class ScriptedLLM:
    """Gives prepared replies, one script item for each request.

    Args:
        replies: each a string (given n times), a list of n strings, an exception to raise, or a
            function of the messages that returns one of these.
        model: name to answer under.

    Attributes:
        requests: what was asked so far: ``messages``, ``n``, ``temperature``, ``seed``, ``schema``.
    """

    def __init__(self, replies: Sequence[Script], model: str = "scripted") -> None:
        self.model = model
        self.requests: list[dict[str, Any]] = []
        self._left: list[Any] = list(replies)

    def complete(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        temperature: float | None = None,
        seed: int | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Reply]:
        """Give the next prepared replies.

        Raises:
            LLMError: if the script is over, or its next item has another number of replies.
        """
        self.requests.append(
            {
                "messages": list(messages),
                "n": n,
                "temperature": temperature,
                "seed": seed,
                "schema": schema,
            }
        )
        if not self._left:
            raise LLMError(f"the script has no reply left for request {len(self.requests)}")
        item = self._left.pop(0)
        if callable(item):
            item = item(messages)
        if isinstance(item, Exception):
            raise item
        texts = [item] * n if isinstance(item, str) else list(item)
        if len(texts) != n:
            raise LLMError(f"the script has {len(texts)} replies where {n} are asked for")
        return [Reply(text, self.model, finish_reason="stop") for text in texts]
