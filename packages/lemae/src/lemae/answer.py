"""What a language model answers, key state by key state: one that cannot be read spoils no other.

Errors and problems are written for the model: what is wrong, and what to send.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lemae._codegen import ReplyError
from lemae._codegen.loading import parse
from lemae._codegen.messages import escaped
from lemae.discriminators.source import ARGUMENT, PREFIX, split

if TYPE_CHECKING:
    from lemae.key_states import KeyState

#: Fields of an answer, in the order in which they are asked for.
FIELDS = ("reasoning", "key_states", "discriminators", "subspaces")
#: Names among the key states that have no function.
ENDS = ("init", "success")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_CHARACTERS = 200_000
_MAX_FUNCTIONS = 64
_MAX_STARTS = 64  # places where an object may begin: bounds the work on a hostile reply


@dataclass(frozen=True)
class Proposal:
    """One key state as it was answered; nothing of it has been run.

    Attributes:
        name: such as ``door_open``; the function is ``is_<name>``.
        description: one line, empty where there is none.
        source: of the function, as it was answered.
        declared: indices that it is said to read; None where nothing usable is said.
        doubt: what is wrong with what is said, empty if nothing is.
    """

    name: str
    description: str
    source: str
    declared: tuple[int, ...] | None = None
    doubt: str = ""

    @property
    def file(self) -> str:
        """The source with the declared indices below it, so that its lines keep their numbers."""
        if self.declared is None:
            return self.source
        return f'{self.source.rstrip()}\n\n\nSUBSPACES = {{"{self.name}": {list(self.declared)}}}\n'


@dataclass(frozen=True)
class Answer:
    """What could be read of a reply.

    Attributes:
        proposals: key states in the order of the answer.
        problems: by name, why a key state could not be read; it is then not among the proposals.
    """

    proposals: tuple[Proposal, ...]
    problems: dict[str, str]


def read_answer(text: str, d: int) -> Answer:
    """Read a reply.

    Args:
        text: JSON alone, JSON in a fenced block, or an object somewhere in prose.
        d: length of the state.

    Raises:
        ReplyError: if there is no JSON object with discriminators.
    """
    found = _find(text)
    described, subspaces = _object(found, "key_states"), _object(found, "subspaces")
    proposals: dict[str, Proposal] = {}
    problems: dict[str, str] = {}
    functions = found["discriminators"]
    for key, source in functions.items():
        shown = escaped(key)[:80]
        if key in functions.repeated:
            problems[shown] = "it is there more than once: give each key state a name of its own"
            continue
        try:
            name = _name(key, source)
        except ReplyError as error:
            problems[shown] = str(error)
            continue
        if name in proposals:
            problems[shown] = f"{name!r} is the same name: give each key state one of its own"
            continue
        description = _sentence(described.get(key, described.get(name)))
        declared, doubt = _indices(subspaces.get(key, subspaces.get(name)), d)
        proposals[name] = Proposal(name, description, source, declared, doubt)
    return Answer(tuple(proposals.values()), problems)


def write_answer(key_states: Sequence[KeyState]) -> str:
    """Key states in the form in which a model answers them."""
    entries = {key_state.name: key_state for key_state in key_states}
    fields: dict[str, Any] = {
        "reasoning": "These key states were named before.",
        "key_states": {name: entry.description for name, entry in entries.items()},
        "discriminators": {name: entry.source for name, entry in entries.items()},
        "subspaces": {name: list(entry.subspace) for name, entry in entries.items()},
    }
    return json.dumps(fields)


def documented(source: str, name: str, description: str) -> str:
    """``source`` with the description as docstring of ``is_<name>``, unless there is one already.

    Args:
        source: passed the allow-list.
        name: of the key state.
        description: one line without quotes and backslashes.
    """
    (node,) = (
        statement
        for statement in parse(source).body
        if isinstance(statement, ast.FunctionDef) and statement.name == PREFIX + name
    )
    if not description or ast.get_docstring(node) is not None:
        return source
    lines = source.split("\n")
    first = node.body[0]
    number, text = first.lineno - 1, f'"""{description}"""'
    head, body = (part.decode() for part in _cut(lines[number], first.col_offset))
    if head.strip():  # the body begins on the line of the head
        lines[number : number + 1] = [head.rstrip(), f"    {text}", f"    {body}"]
    else:
        lines.insert(number, head + text)
    return "\n".join(lines)


def _cut(line: str, place: int) -> tuple[bytes, bytes]:
    """Both parts of a line; Python counts its columns in bytes."""
    data = line.encode()
    return data[:place], data[place:]


class _Object(dict[str, Any]):
    """A JSON object that knows which of its keys were there more than once."""

    repeated: frozenset[str] = frozenset()

    @classmethod
    def from_pairs(cls, pairs: list[tuple[str, Any]]) -> _Object:
        made = cls(pairs)
        if len(made) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            made.repeated = frozenset(name for name, count in counts.items() if count > 1)
        return made


# Not strict: models forget to escape line breaks.
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_Object.from_pairs)


def _find(text: str) -> _Object:
    """The first object with discriminators.

    Raises:
        ReplyError: if there is none.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ReplyError(
            f"The reply has {len(text)} characters, and {_MAX_CHARACTERS} are read: answer shorter."
        )
    some = False
    for found in _objects(text):
        some = True
        functions = found.get("discriminators")
        if isinstance(functions, _Object) and 0 < len(functions) <= _MAX_FUNCTIONS:
            return found
    keys = ", ".join(f'"{name}"' for name in FIELDS)
    if some:
        raise ReplyError(
            'The JSON object of the reply has no "discriminators", an object with the source of '
            f"1 to {_MAX_FUNCTIONS} functions by the names of their key states. Answer with the "
            f"keys {keys}."
        )
    raise ReplyError(
        f"The reply holds no JSON object that can be parsed{_parser_says(text)}. Answer with one "
        f"JSON object with the keys {keys} and nothing else; inside strings, write line breaks as "
        '\\n and quotes as \\".'
    )


def _objects(text: str) -> Iterator[_Object]:
    """The JSON objects of a text, whatever stands around them."""
    start, tries = text.find("{"), 0
    while start >= 0 and tries < _MAX_STARTS:
        tries += 1
        end = start + 1
        try:
            found, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            pass
        else:
            yield found
        start = text.find("{", end)


def _parser_says(text: str) -> str:
    start = text.find("{")
    if start < 0:
        return " (there is no opening brace)"
    try:
        _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        return f" ({error.msg} in line {error.lineno}, column {error.colno})"
    except (ValueError, RecursionError):
        pass
    return ""


def _object(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A field that helps and is not needed: empty where it is no object."""
    value = found.get(name)
    return value if isinstance(value, _Object) else {}


def _name(key: str, source: Any) -> str:
    """The name of a key state.

    Raises:
        ReplyError: if it is no name, or the source does not define one function of that name.
    """
    if key in ENDS:
        raise ReplyError("it needs no function: leave it out of the discriminators")
    name = key.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise ReplyError(
            "this is no name: use a few lower-case words with underscores, 64 characters at most"
        )
    head = f"def {PREFIX}{name}({ARGUMENT}):"
    if not isinstance(source, str):
        raise ReplyError(f"give the source of its function as one string that starts with `{head}`")
    file = split(source)
    if [candidate.name for candidate in file.candidates] != [name]:
        defined = ", ".join(f"`{PREFIX}{candidate.name}`" for candidate in file.candidates)
        raise ReplyError(
            f"its source has to define one key state, by `{head}`; it defines "
            + "; ".join([escaped(defined) or "none", *map(escaped, file.ignored)])
        )
    return name


def _sentence(value: Any) -> str:
    """One line without what could end a docstring."""
    if not isinstance(value, str):
        return ""
    return " ".join(escaped(value).replace("\\", "/").replace('"', "'").split())


def _indices(value: Any, d: int) -> tuple[tuple[int, ...] | None, str]:
    """A declared subspace, or what is wrong with it."""
    if value is None:
        return None, ""
    if not isinstance(value, list) or not all(type(index) is int for index in value):
        return None, "its subspace has to be a list of indices of state, such as [0, 1]"
    outside = [index for index in dict.fromkeys(value) if not 0 <= index < d]
    if outside:
        shown = ", ".join(str(index)[:12] for index in outside[:8])
        return None, f"its subspace names {shown}, but the indices of state are 0 to {d - 1}"
    return tuple(dict.fromkeys(value)), ""
