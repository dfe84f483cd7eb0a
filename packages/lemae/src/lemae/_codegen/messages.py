"""What goes to a language model and what comes back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypedDict


class Message(TypedDict):
    """One turn of a dialogue: ``role`` is ``"system"``, ``"user"`` or ``"assistant"``."""

    role: str
    content: str


@dataclass(frozen=True)
class Usage:
    """Tokens of one reply, as the service counted them.

    The service counts a request with several replies as a whole: the first reply then carries all
    of it and the others none.
    """

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Reply:
    """One reply.

    Attributes:
        text: what the model wrote.
        model: the model as the service names it.
        usage: tokens, or None where the service did not say.
        cached: whether it came from a file instead of the service, at no cost.
        finish_reason: why the model stopped, ``"stop"`` or ``"length"`` for the most part.
    """

    text: str
    model: str
    usage: Usage | None = None
    cached: bool = False
    finish_reason: str | None = None


class LLM(Protocol):
    """Anything that completes dialogues."""

    model: str

    def complete(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        temperature: float | None = None,
        seed: int | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Reply]:
        """Give ``n`` replies to ``messages``.

        Args:
            messages: the dialogue so far.
            n: number of independent replies.
            temperature: spread of the replies; None leaves it to the service.
            seed: for services that repeat themselves for the same seed.
            schema: JSON schema that a reply should follow. Not every service holds to it.

        Returns:
            Exactly ``n`` replies.
        """
        ...


def digest(value: Any) -> str:
    """SHA-256 of any JSON value, as hex; the order of keys does not count."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_encodable(text: str) -> bool:
    """Whether ``text`` can be written to a file: JSON can smuggle in half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(text: str) -> str:
    r"""``text`` with halves of characters written as ``\ud800``."""
    return text.encode(errors="backslashreplace").decode()


def reply_to_json(reply: Reply) -> dict[str, Any]:
    """A reply in JSON's types."""
    return asdict(reply)


def reply_from_json(fields: dict[str, Any], *, cached: bool) -> Reply:
    """Undo :func:`reply_to_json`.

    Raises:
        KeyError, TypeError: if fields are missing or strange.
    """
    usage = fields.get("usage")
    return Reply(
        text=str(fields["text"]),
        model=str(fields["model"]),
        usage=None if usage is None else Usage(**usage),
        cached=cached,
        finish_reason=fields.get("finish_reason"),
    )
