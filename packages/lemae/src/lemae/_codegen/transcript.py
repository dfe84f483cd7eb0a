"""Every turn of a dialogue in a file of JSON lines, to read, to publish and to replay."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import LLMError
from .messages import Message, Reply, digest, is_encodable, reply_from_json, reply_to_json


@dataclass(frozen=True)
class Turn:
    """One request and what came of it.

    Attributes:
        time: when the reply was there, in UTC, ISO 8601.
        model: the model that was asked.
        messages: the request.
        settings: temperature, seed, schema and the number of replies asked for.
        replies: what came back, failed candidates included.
        verdicts: what was found about the replies, in the order of finding: ``"accepted"`` or the
            complete error.
    """

    time: str
    model: str
    messages: tuple[Message, ...]
    settings: dict[str, Any]
    replies: tuple[Reply, ...]
    verdicts: tuple[str, ...]


class Transcript:
    """Appends turns to a file. Keys never get here: only messages and replies do.

    Args:
        path: the file; made with its folders at the first turn. Existing turns stay.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def add(
        self,
        messages: Sequence[Message],
        replies: Sequence[Reply],
        *,
        verdict: str | None = None,
        model: str | None = None,
        **settings: Any,
    ) -> None:
        """Write one turn at once, so that a run that dies later keeps it.

        Args:
            messages: the request.
            replies: what came back.
            verdict: what was found about the replies, if that is known already.
            model: the model that was asked; by default the one the first reply names.
            settings: anything else of the request, of JSON's types.
        """
        record = {
            "kind": "turn",
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": model or (replies[0].model if replies else ""),
            "messages_sha256": digest(list(messages)),
            "messages": list(messages),
            "settings": settings,
            "replies": [reply_to_json(reply) for reply in replies],
        }
        self._append(record)
        if verdict is not None:
            self.add_verdict(verdict)

    def add_verdict(self, verdict: str) -> None:
        """Write what was found about the latest turn: ``"accepted"`` or the complete error."""
        self._append({"kind": "verdict", "verdict": verdict})

    def read(self) -> list[Turn]:
        """Read every turn back.

        Raises:
            LLMError: if a line is no record of a transcript.
            FileNotFoundError: if there is no file.
        """
        return read_turns(self.path)

    def _append(self, record: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="\n") as stream:
            text = json.dumps(record, ensure_ascii=False)
            stream.write((text if is_encodable(text) else json.dumps(record)) + "\n")


def read_turns(path: Path) -> list[Turn]:
    """Turns of a transcript, in order; a last line that was cut off is left out."""
    turns: list[Turn] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
            if record["kind"] == "verdict":
                turns[-1] = _with_verdict(turns[-1], str(record["verdict"]))
            else:
                turns.append(_turn(record))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise LLMError(
                f"{path}, line {number} is no record of a transcript ({type(error).__name__}): "
                "give a file that was written by one"
            ) from error
    return turns


def _turn(record: dict[str, Any]) -> Turn:
    if digest(record["messages"]) != record["messages_sha256"]:
        raise ValueError("the messages were changed")
    return Turn(
        time=str(record["time"]),
        model=str(record["model"]),
        messages=tuple(
            Message(role=str(item["role"]), content=str(item["content"]))
            for item in record["messages"]
        ),
        settings=dict(record["settings"]),
        replies=tuple(reply_from_json(item, cached=True) for item in record["replies"]),
        verdicts=(),
    )


def _with_verdict(turn: Turn, verdict: str) -> Turn:
    fields = {name: getattr(turn, name) for name in turn.__dataclass_fields__}
    return Turn(**{**fields, "verdicts": (*turn.verdicts, verdict)})
