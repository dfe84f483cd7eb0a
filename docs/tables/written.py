"""What the shipped functions of a language model say of themselves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .common import ROOT, markdown


@dataclass(frozen=True)
class Written:
    """One shipped set, from the files that lie beside it.

    Attributes:
        name: its task.
        model: the model, as the record names it.
        day: day of the first turn.
        candidates: replies to the first question.
        verdicts: what was said of each reply that was checked.
        replies: the last reply of every turn.
        meta: the file beside the source.
        direct: whether it is a whole reward.
    """

    name: str
    model: str
    day: str
    candidates: int
    verdicts: tuple[str, ...]
    replies: tuple[str, ...]
    meta: dict[str, Any]
    direct: bool = False


def _read(folder: Path, meta: dict[str, Any], **more: Any) -> Written:
    lines = (folder / "transcript.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    turns = [record for record in records if record["kind"] == "turn"]
    return Written(
        folder.name,
        meta["model"],
        turns[0]["time"][:10],
        len(turns[0]["replies"]),
        tuple(record["verdict"] for record in records if record["kind"] == "verdict"),
        tuple(turn["replies"][-1]["text"] for turn in turns),
        meta,
        **more,
    )


def _folders(place: str) -> list[Path]:
    return sorted(path.parent for path in (ROOT / place).glob("*/meta.json"))


def _meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


@cache
def lare() -> tuple[Written, ...]:
    """Latent rewards, then whole rewards."""
    place = "packages/lare/src/lare/functions"
    return (
        *(_read(folder, _meta(folder)) for folder in _folders(place)),
        *(_read(folder, _meta(folder), direct=True) for folder in _folders(f"{place}/_direct")),
    )


@cache
def lemae() -> tuple[Written, ...]:
    """Sets of key states."""
    folders = _folders("packages/lemae/src/lemae/key_state_sets")
    return tuple(_read(folder, _meta(folder)["meta"]) for folder in folders)


def functions(reply: str) -> dict[str, str]:
    """The source of each key state in a reply."""
    return json.loads(reply)["discriminators"]


def _authors(sets: Sequence[Written]) -> str:
    """Who wrote the sets, as they say."""
    names = Counter(f"{found.meta['origin']}, `{found.model}`" for found in sets)
    said = "; ".join(f"{name} ({count} of {len(sets)})" for name, count in names.items())
    return f"Origin, as the files state it: {said}."


def _never(found: Written) -> int:
    """How many key states were true on none of the states of the check."""
    return sum(each["true_fraction"] == 0 for each in found.meta["check"]["functions"])


def lare_table() -> str:
    """One line per latent reward."""
    rows = [
        [
            f"{found.name}{', whole reward' if found.direct else ''}",
            found.day,
            f"{found.candidates} and a summary",
            str(sum(verdict != "accepted" for verdict in found.verdicts)),
            str(len(found.meta["verification"]["factors"])),
            str(sum("is constant" in text for text in found.meta["verification"]["warnings"])),
        ]
        for found in lare()
    ]
    head = [
        *("function", "day", "replies", "refused", "factors"),
        "constant on random steps",
    ]
    return f"{markdown(head, rows, '---')}\n\n{_authors(lare())}"


def lemae_table() -> str:
    """One line per set of key states."""
    rows = []
    for found in lemae():
        first, second = found.replies[:2]
        last = found.verdicts[-1] == "accepted"
        rows.append(
            [
                found.name,
                found.day,
                "yes" if functions(first) != functions(second) else "no",
                str(found.meta["repairs"]),
                "accepted" if last else "kept, with objections",
                str(found.meta["named"]),
                str(_never(found)),
            ]
        )
    head = [
        *("set", "day", "changed by the self-check", "repairs", "last check", "key states"),
        "true on no state of the check",
    ]
    return f"{markdown(head, rows, '---')}\n\n{_authors(lemae())}"
