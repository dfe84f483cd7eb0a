"""Which indices of the state a key state is about.

The paper measures distances "on the indices extracted by the discriminator" and does not say how.
Here the code decides: what it uses of the state, followed through names, slices, loops and helper
functions. Code that cannot be followed is traced on states, one path after the other; failing that
on one of them the declared list counts, to which :func:`lemae.check` adds what it sees change the
result, and failing that the whole state.

Reference: arXiv 2410.02511, subspace of a key state (Phi in its reward).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from lemae.discriminators.graph import UnresolvedError
from lemae.discriminators.symbolic import IndexProblemError, execute
from lemae.errors import ConfigError, KeyStateError
from lemae.task import TaskSpec

Origin = Literal["code", "trace", "declared", "full"]
Mode = Literal["auto", "code", "trace", "declared", "full"]

#: States that are traced at most, and with which the influence of an index is tried.
TRACED, TRIED = 64, 128

# Words for a place in the name of an entry, such as "agent 0 x", "x0" or "rel_y".
_PLACE = re.compile(
    r"(?<![a-z])(?:x|y|z|pos|positions?|rows?|col|cols|columns?|coordinates?)(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Subspace:
    """Indices of the state, and how they were found.

    Attributes:
        indices: ascending.
        origin: ``"code"``, ``"trace"``, ``"declared"`` or ``"full"``.
        warnings: what contradicts the indices, or makes them doubtful.
    """

    indices: tuple[int, ...]
    origin: Origin
    warnings: tuple[str, ...] = ()


def find_subspace(
    source: str,
    name: str,
    d: int | None,
    *,
    declared: Sequence[int] | None = None,
    states: Callable[[], np.ndarray] | None = None,
    mode: Mode = "auto",
    prune_inert: bool = False,
) -> Subspace:
    """Decide which indices a key state is about.

    Args:
        source: of the key state; passed the allow-list.
        name: of the key state.
        d: length of the state, None if it is not known.
        declared: what its author says; never added to what the code says.
        states: gives states ``[N, d]`` to trace the code on, if it cannot be followed.
        mode: ``"auto"``, or the only origin that counts.
        prune_inert: leave out indices that the code reads without a way to the result.

    Raises:
        IndexProblemError: if the code reaches beyond the state.
        KeyStateError: if no allowed origin knows the indices.
        ConfigError: for an unknown mode.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"subspace is {mode!r}: give one of {', '.join(get_args(Mode))}")
    warnings: list[str] = []
    stated = None if declared is None else tuple(sorted(set(declared)))
    found: tuple[int, ...] | None = None
    origin: Origin = "code"
    if mode in ("auto", "code"):
        found = _from_code(source, name, d, prune_inert, warnings)
    if found is None and mode in ("auto", "trace") and states is not None:
        found, origin = _from_trace(source, name, d, states(), warnings), "trace"
    if found is None and mode in ("auto", "declared"):
        found, origin = stated, "declared"
    if found is None and mode in ("auto", "full") and d is not None:
        found, origin = tuple(range(d)), "full"
    if found is None:
        known = f" ({'; '.join(warnings)})" if warnings else ""
        raise KeyStateError(
            f"the indices that is_{name} is about are not known{known}: declare them in SUBSPACES, "
            "give the length of the state, or index the state with constants"
        )
    if stated is not None and origin != "declared" and stated != found:
        where = {"code": "the code reads", "trace": "the traced code reads", "full": "all are"}
        warnings.append(
            f"{list(stated)} is declared, but {where[origin]} {list(found)}; this counts"
        )
    if origin == "full" and mode == "auto":
        warnings.append("the whole state is its subspace, because nothing better is known")
    return Subspace(found, origin, tuple(warnings))


def _from_code(
    source: str, name: str, d: int | None, prune_inert: bool, warnings: list[str]
) -> tuple[int, ...] | None:
    try:
        trace = execute(source, name, d)
    except IndexProblemError:
        raise
    except UnresolvedError as error:
        warnings.append(f"the code cannot be followed ({error})")
        return None
    return trace.influences if prune_inert else trace.reads


def _from_trace(
    source: str, name: str, d: int | None, states: np.ndarray, warnings: list[str]
) -> tuple[int, ...] | None:
    """The union over calls, each along its own path; unknown if one of them cannot be followed.

    Paths that can be are no sample of the others: often they are those that return early.
    """
    rows = np.linspace(0, len(states) - 1, min(TRACED, len(states))).astype(int)
    found: set[int] = set()
    for row in rows.tolist():
        try:
            trace = execute(source, name, d, state=np.asarray(states[row], np.float64))
        except UnresolvedError as error:
            warnings.append(f"the code cannot be traced ({error})")
            return None
        found |= set(trace.reads)
    return tuple(sorted(found))


def influential(
    function: Callable[[np.ndarray], np.ndarray],
    states: np.ndarray,
    lows: np.ndarray,
    highs: np.ndarray,
    rng: np.random.Generator,
) -> tuple[int, ...]:
    """Indices whose change alone changes the truth value in at least one of the states.

    An index may matter and not be found, where the states hold no place at which it decides.

    Args:
        function: of states ``[N, d]`` to bool ``[N]``.
        states: ``[N, d]``; ``TRIED`` of them are used, the function true on half of them if it is
            true on so many.
        lows: smallest values, ``[d]``.
        highs: largest values, ``[d]``.
        rng: chooses among the states.

    Returns:
        Ascending. Cost: up to 4 d calls.
    """
    states = np.asarray(states, np.float64)[rng.permutation(len(states))]
    truth = function(states)
    half = TRIED // 2
    rows = np.concatenate([np.flatnonzero(truth)[:half], np.flatnonzero(~truth)[:half]])
    chosen, truth = states[rows], truth[rows]
    others = states[rng.integers(len(states), size=len(chosen))]
    found = []
    for index in range(chosen.shape[1]):
        changed = chosen.copy()
        for values in (lows[index], highs[index], 0.0, others[:, index]):
            changed[:, index] = values
            if (function(changed) != truth).any():
                found.append(index)
                break
    return tuple(found)


def coordinates(task: TaskSpec) -> tuple[int, ...]:
    """Indices of the state that are places, by the names of the entries."""
    return tuple(
        index
        for index, entry in enumerate(task.state)
        if _PLACE.search(re.sub(r"[\d_]+", " ", entry.name))
    )
