"""A file of key states, taken apart: one source for each function ``is_<name>(state)``.

Every function is judged on its own, so that one good function of three is kept. Its source holds
the function and what it needs of the file: helper functions, constants, and nothing else.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lemae._codegen import CheckedCode, Policy, UnsafeCodeError, check
from lemae._codegen.allowlist import _parsed as parse_guarded
from lemae._codegen.loading import parse
from lemae.errors import KeyStateError

PREFIX = "is_"
ARGUMENT = "state"
SUBSPACES = "SUBSPACES"

_NUMPY = (
    "abs absolute add all amax amin any arctan2 array asarray bool_ ceil clip count_nonzero cos "
    "divide dot equal exp fabs float64 floor fmax fmin greater greater_equal hypot inf int64 "
    "isclose isfinite less less_equal linalg.norm log logical_and logical_not logical_or max "
    "maximum mean median min minimum mod multiply not_equal pi power prod rint round sign sin sort "
    "sqrt square subtract sum trunc where"
)
_MATH = "pi e inf sqrt exp log sin cos atan2 hypot fabs pow floor ceil isfinite"
_METHODS = "all any append astype copy item max mean min prod round sum"

#: What a discriminator may use; :func:`policy` puts in the function's name.
POLICY = Policy(
    entry="is_key_state",
    signatures=((ARGUMENT,),),
    numpy_functions=tuple(_NUMPY.split()),
    math_functions=tuple(_MATH.split()),
    methods=tuple(_METHODS.split()),
    attributes=("shape", "size", "ndim"),
    keywords=("axis", "dtype", "rtol", "atol", "decimals", "a_min", "a_max", "ord"),
    max_elements=2**16,
    max_work=2**22,
)
_FILE_BYTES = 2**17
_FILE_POLICY = replace(POLICY, max_source_bytes=_FILE_BYTES)
_MAX_REASONS, _MAX_CHARACTERS = 40, 1200  # of a list of reasons, and of each of them
_BLOCK = re.compile(r"[A-Za-z@]")  # how a statement at the top level begins
_DEFINITION = re.compile(r"(?:async\s+)?def\s+is_(\w+)")


@dataclass(frozen=True)
class Candidate:
    """A function that may become a key state; nothing of it has been checked yet.

    Attributes:
        name: without ``is_``.
        description: its docstring, else its name in words.
        line: where it stands in the file, from 1.
        source: the function and what it needs; empty if Python cannot read it.
        padded: the same with every line where it stands in the file, for messages.
        declared: what ``SUBSPACES`` says it reads, None if nothing.
        problems: why it cannot be one, found so far.
    """

    name: str
    description: str
    line: int
    source: str
    padded: str
    declared: tuple[int, ...] | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceFile:
    """What a file holds.

    Attributes:
        candidates: in the order of the file.
        ignored: what else stands there and is left out, one message each.
    """

    candidates: tuple[Candidate, ...]
    ignored: tuple[str, ...]


@functools.lru_cache(maxsize=256)
def policy(name: str) -> Policy:
    """What the function of key state ``name`` may use."""
    return replace(POLICY, entry=PREFIX + name)


@functools.lru_cache(maxsize=256)
def checked(source: str, name: str) -> CheckedCode:
    """Pass the source of one key state through the allow-list.

    Raises:
        UnsafeCodeError: with every reason there is.
    """
    return check(source, policy(name))


def split(text: str) -> SourceFile:
    """Take a file apart. Nothing is executed, and nothing is judged beyond its grammar.

    A function that Python cannot read does not take the others with it.

    Args:
        text: the file, perhaps with a byte order mark in front.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if len(text.encode("utf-8", "surrogatepass")) > _FILE_BYTES:
        return SourceFile((), (f"the file is longer than {_FILE_BYTES} bytes: write less",))
    readable, broken, ignored = _without_broken_blocks(text)
    parts = _Parts(readable)
    ignored += parts.ignored
    good = [parts.candidate(node) for node in parts.entries()]
    lost = set(text.split("\n")) - set(readable.split("\n"))  # what they use is not known
    ignored += parts.unused(set(re.findall(r"\w+", "\n".join(lost))))
    candidates = sorted((*good, *broken), key=lambda candidate: candidate.line)
    names = {candidate.name for candidate in candidates}
    ignored += [
        f"{SUBSPACES} names {name!r}, but there is no function {PREFIX}{name}(state)"
        for name in (*parts.declared, *parts.declared_wrongly)
        if name not in names
    ]
    return SourceFile(tuple(candidates), tuple(capped(ignored)))


def capped(reasons: Sequence[str]) -> list[str]:
    """The first of many reasons, each of a bounded length, and how many more there are."""
    shown = [
        reason if len(reason) <= _MAX_CHARACTERS else f"{reason[:_MAX_CHARACTERS]} ..."
        for reason in reasons[:_MAX_REASONS]
    ]
    more = len(reasons) - len(shown)
    return [*shown, f"and {more} more"] if more else shown


def join(sources: Iterable[str], declared: Mapping[str, Sequence[int]]) -> str:
    """Put sources of key states into one file; what several of them need stands there once.

    Raises:
        KeyStateError: if two of them mean different things by one name.
    """
    segments: dict[str, str] = {}
    for source in sources:
        parts = _Parts(source)
        for name, segment in parts.segments():
            if segments.setdefault(name, segment) != segment:
                raise KeyStateError(
                    f"two key states need different things named {name!r}: rename one of them"
                )
    if declared:
        entries = "".join(f'    "{name}": {list(place)},\n' for name, place in declared.items())
        segments[SUBSPACES] = f"{SUBSPACES} = {{\n{entries}}}"
    return "\n\n\n".join(segments.values()) + "\n"


class _Parts:
    """The statements at the top level of a file that Python can read."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._definitions: dict[str, list[ast.stmt]] = {}
        self.declared: dict[str, tuple[int, ...]] = {}
        self.declared_wrongly: dict[str, str] = {}
        self.ignored: list[str] = []
        for node in parse(text).body:
            self._take(node)

    def entries(self) -> list[ast.stmt]:
        """The functions that are meant as key states."""
        found = [nodes[-1] for nodes in self._definitions.values()]
        called = {name for node in found for name in _names(node) - {_defined(node)}}
        return [node for node in found if _is_entry(node, called)]

    def candidate(self, node: Any) -> Candidate:
        """What belongs to one of :meth:`entries`."""
        name = node.name.removeprefix(PREFIX)
        needed = self._lines_of(self._needed(node.name))
        lines = [""] * len(self._lines)
        for start, end in needed:
            lines[start:end] = self._lines[start:end]
        lines[0] = lines[0] or '""'  # so that no reader strips empty lines and counts others
        problems = self._assigned_twice(node.name)
        if name in self.declared_wrongly:
            problems.append(self.declared_wrongly[name])
        return Candidate(
            name,
            inspect.cleandoc(ast.get_docstring(node) or name.replace("_", " ")),
            node.lineno,
            "\n\n\n".join("\n".join(self._lines[start:end]) for start, end in needed) + "\n",
            "\n".join(lines),
            self.declared.get(name),
            tuple(problems),
        )

    def unused(self, elsewhere: set[str]) -> list[str]:
        """Why definitions are left out that belong to no key state.

        Args:
            elsewhere: names that may be used by what is not here.
        """
        used = {name for node in self.entries() for name in self._needed(_defined(node))}
        return [
            f"line {node.lineno}: `{name}` is left out: no key state uses it, and to be one it has "
            f"to begin with `def {PREFIX}<name>({ARGUMENT}):`"
            for name, nodes in self._definitions.items()
            for node in nodes
            if name not in used | elsewhere and not isinstance(node, ast.Import)
        ]

    def segments(self) -> list[tuple[str, str]]:
        """The text of every definition, by its name."""
        return [
            (name, "\n".join(self._lines[start:end]))
            for name, nodes in self._definitions.items()
            for start, end in map(_span, nodes)
        ]

    def _take(self, node: ast.stmt) -> None:
        name = _defined(node)
        if name == SUBSPACES:
            self._declare(node)
        elif name:
            self._definitions.setdefault(name, []).append(node)
        elif not _means_nothing(node):
            kinds = {"Import": "import", "ImportFrom": "import", "ClassDef": "class"}
            kind = kinds.get(type(node).__name__, "statement")
            self.ignored.append(
                f"line {node.lineno}: this {kind} is left out; only functions, constants and "
                "`import numpy as np` or `import math` stand at the top level"
            )

    def _declare(self, node: Any) -> None:
        try:
            found = ast.literal_eval(node.value)
            pairs = [(str(name).removeprefix(PREFIX), value) for name, value in found.items()]
        except (ValueError, TypeError, AttributeError, MemoryError, RecursionError):
            self.ignored.append(
                f"line {node.lineno}: {SUBSPACES} is left out; write "
                f'{SUBSPACES} = {{"name": [0, 4]}} with plain numbers'
            )
            return
        for name, value in pairs:
            if isinstance(value, list | tuple) and all(type(index) is int for index in value):
                self.declared[name] = tuple(value)
            else:
                self.declared_wrongly[name] = (
                    f"line {node.lineno}: {SUBSPACES} gives {value!r:.60} for it; give a list of "
                    "indices of the state"
                )

    def _assigned_twice(self, function: str) -> list[str]:
        """Why the constants that a function needs cannot be told apart (functions: allow-list)."""
        return [
            f"line {nodes[-1].lineno}: `{name}` is assigned twice at the top level; give each "
            "constant a name of its own"
            for name in self._needed(function)
            if len(nodes := self._definitions[name]) > 1 and isinstance(nodes[0], ast.Assign)
        ]

    def _lines_of(self, names: Iterable[str]) -> list[tuple[int, int]]:
        return sorted({_span(node) for name in names for node in self._definitions[name]})

    def _needed(self, function: str) -> list[str]:
        """Names of a function and of all that it refers to."""
        needed, new = set[str](), {function}
        while new:
            needed |= new
            nodes = [node for name in new for node in self._definitions[name]]
            new = {name for node in nodes for name in _names(node)} & set(self._definitions)
            new -= needed
        return [name for name in self._definitions if name in needed]


def _without_broken_blocks(text: str) -> tuple[str, list[Candidate], list[str]]:
    """``text`` without what Python cannot read of it, and what that was."""
    try:
        parse_guarded(text, _FILE_POLICY)
        return text, [], []
    except UnsafeCodeError:
        pass
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if _BLOCK.match(line)] or [0]
    broken, ignored = [], []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        try:
            parse_guarded("\n".join(lines[start:end]), _FILE_POLICY)
        except UnsafeCodeError as error:
            problem = error.problems[0]
            problem = replace(problem, line=start + max(problem.line, 1))
            found = _DEFINITION.match(lines[start])
            if found:
                name = found[1]
                broken.append(Candidate(name, name, start + 1, "", "", problems=(str(problem),)))
            else:
                ignored.append(str(problem))
            lines[start:end] = [""] * (end - start)
    text = "\n".join(lines)
    try:
        parse_guarded(text, _FILE_POLICY)
    except UnsafeCodeError as error:  # pieces that fit alone and not together
        return "", broken, [*ignored, str(error.problems[0])]
    return text, broken, ignored


def _defined(node: ast.stmt) -> str:
    """The name that a statement defines for good; empty for any other statement."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    if len(targets) == 1 and isinstance(targets[0], ast.Name):
        return targets[0].id
    if isinstance(node, ast.Import) and len(node.names) == 1:
        alias = node.names[0]
        if (alias.name, alias.asname) in (("numpy", "np"), ("numpy", None), ("math", None)):
            return alias.asname or alias.name
    return ""


def _means_nothing(node: ast.stmt) -> bool:
    """Whether it is a docstring, or an import for annotations."""
    if isinstance(node, ast.ImportFrom):
        return node.module in ("typing", "__future__", "collections.abc") and not node.level
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _names(node: ast.stmt) -> set[str]:
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}


def _is_entry(node: ast.stmt, called: set[str]) -> bool:
    """Whether a definition is meant as a key state and not as a helper of one."""
    name = _defined(node)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(name) <= len(PREFIX):
        return False
    is_helper = len(node.args.args) != 1 and name in called
    return name.startswith(PREFIX) and not is_helper


def _span(node: ast.stmt) -> tuple[int, int]:
    """Its lines, decorators included, as a half-open range from 0."""
    lines = [decorator.lineno for decorator in getattr(node, "decorator_list", [])]
    return min([node.lineno, *lines]) - 1, node.end_lineno or node.lineno
