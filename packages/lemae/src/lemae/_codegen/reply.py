"""From the text of a reply to the parts that were asked for.

Errors are written for the model: they name everything that is wrong at once and say what to send.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import ReplyError
from .messages import is_encodable

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
_PYTHON = ("python", "py", "python3", "")
_MAX_CHARACTERS = 1_000_000
_MAX_STARTS = 64  # places where an object may begin: bounds the work on a hostile reply
_DECODER = json.JSONDecoder(strict=False)  # models forget to escape line breaks


def extract_json(text: str, required_keys: Sequence[str]) -> dict[str, str]:
    """Find the JSON object of a reply.

    Args:
        text: JSON alone, JSON in a fenced block, or an object somewhere in prose.
        required_keys: keys that must be there, each with a string that is not empty.

    Returns:
        The strings of the first object with all required keys, further keys included.

    Raises:
        ReplyError: if there is no such object, with what is wrong about the best one.

    Example:
        >>> extract_json('Here it is: {"Functions": "def f(x): ..."}', ["Functions"])
        {'Functions': 'def f(x): ...'}
    """
    wanted = ", ".join(f'"{key}"' for key in required_keys)
    _check_length(text)
    best: list[str] | None = None
    for found in _objects(text):
        problems = _problems(found, required_keys)
        if not problems:
            return {key: value for key, value in found.items() if isinstance(value, str)}
        if best is None or len(problems) < len(best):
            best = problems
    if best is None:
        raise ReplyError(
            f"The reply holds no JSON object that can be parsed{_parser_says(text)}. Answer with "
            f"one JSON object with the keys {wanted} and nothing else; inside strings, write line "
            'breaks as \\n and quotes as \\".'
        )
    raise ReplyError(
        "The JSON object of the reply is not complete:\n"
        + "\n".join(f"- {problem}" for problem in best)
        + f"\nAnswer with one JSON object with the keys {wanted}."
    )


def extract_code(text: str) -> str:
    """Find the Python code of a reply without JSON.

    Args:
        text: code in fenced blocks, or code alone.

    Returns:
        The longest block that defines a function; else the whole text, if a line of it does.

    Raises:
        ReplyError: if there is no function.
    """
    _check_length(text)
    blocks = [body for kind, body in _FENCE.findall(text) if kind.lower() in _PYTHON]
    blocks = [body for body in blocks if _defines_function(body)]
    if blocks:
        return str(max(blocks, key=len))
    if "```" not in text and _defines_function(text):
        return text
    raise ReplyError(
        "The reply holds no Python function. Answer with the complete code in one block that "
        "starts with ```python and ends with ```."
    )


def check_characters(text: str) -> None:
    """Refuse halves of characters, which no file can hold.

    Raises:
        ReplyError: if there are some.
    """
    if not is_encodable(text):
        raise ReplyError(
            "The reply holds half a character (a lone surrogate, \\ud800 to \\udfff): answer "
            "with whole characters, or better with plain ASCII."
        )


def _check_length(text: str) -> None:
    check_characters(text)
    if len(text) > _MAX_CHARACTERS:
        raise ReplyError(
            f"The reply has {len(text)} characters, and {_MAX_CHARACTERS} are read: answer shorter."
        )


def _defines_function(text: str) -> bool:
    return re.search(r"^def \w+", text, re.MULTILINE) is not None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects in the order of trust: the whole text, fenced blocks, anything in braces."""
    blocks = [body for kind, body in _FENCE.findall(text) if kind.lower() in ("json", "")]
    for candidate in (text.strip(), *blocks):
        try:
            found = _DECODER.decode(candidate.strip())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
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


def _problems(found: dict[str, Any], required_keys: Sequence[str]) -> list[str]:
    problems = []
    for key in required_keys:
        value = found.get(key)
        if key not in found:
            near = [name for name in found if name.lower() == key.lower()]
            hint = f' ("{near[0]}" is written differently)' if near else ""
            problems.append(f'the key "{key}" is missing{hint}')
        elif not isinstance(value, str):
            problems.append(f'"{key}" holds {_json_type(value)}, where a string is needed')
        elif not value.strip():
            problems.append(f'"{key}" holds an empty string')
    if not all(is_encodable(text) for item in found.items() for text in item if type(text) is str):
        problems.append("a string holds half a character (\\ud800 to \\udfff)")
    return problems


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


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
