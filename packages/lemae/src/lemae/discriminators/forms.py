"""The two forms of a key state's function: the guarded one, and the one for many states at once."""

from __future__ import annotations

import ast
import functools
import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lemae._codegen import load_function
from lemae._seeds import Purpose, generator
from lemae.discriminators.graph import Node, UnresolvedError, reachable
from lemae.discriminators.source import PREFIX, checked, policy
from lemae.discriminators.symbolic import execute
from lemae.discriminators.vectorize import ArrayFunction, vectorize
from lemae.errors import LemaeWarning

Array = NDArray[Any]

_TRIALS = 512  # states on which the two forms of a function are compared

_log = logging.getLogger(__name__)


class Discriminator(Protocol):
    """What is asked here of a :class:`lemae.KeyState`."""

    @property
    def name(self) -> str:
        """Without the prefix."""

    @property
    def source(self) -> str:
        """Code that defines the function."""

    @property
    def d(self) -> int | None:
        """Length of a state; None if the code does not need it."""

    @property
    def vectorized(self) -> bool:
        """Whether it has the form for many states."""


def call(source: str, name: str, row: Array) -> bool:
    """Call the guarded function on float64 ``[d]``; raises whatever the code raises."""
    return bool(load_function(checked(source, name), policy(name))(row))


@functools.lru_cache(maxsize=1024)
def array_form(source: str, name: str, d: int | None) -> tuple[ArrayFunction | None, str]:
    """The form for many states at once, or None and why there is none.

    It is compared with the function on single states around the constants of the code, where truth
    values change; after the first difference it is not used.
    """
    try:
        function = vectorize([(source, name)], d)
    except UnresolvedError as error:
        return None, str(error)
    length = d or 1 + max(execute(source, name, None).reads, default=0)
    row = _differing(source, name, function, trials(source, name, length))
    if row is None:
        return function, ""
    text = f"it differs from the function on single states, such as {row.tolist()}"
    _log.warning("%s%s is called state by state: %s", PREFIX, name, text)
    return None, text


def _differing(source: str, name: str, function: ArrayFunction, states: Array) -> Array | None:
    """A state on which the two forms say different things; None if there is none.

    States on which the guarded function fails do not count.
    """
    few = [function(states[start : start + 8]) for start in range(0, len(states), 8)]
    for state, one, other in zip(states, function(states), np.concatenate(few), strict=True):
        try:
            wanted = call(source, name, state)
        except Exception:  # whatever the generated code raises
            continue
        if not bool(one[0]) == bool(other[0]) == wanted:
            return np.asarray(state)
    return None


@functools.lru_cache(maxsize=64)
def trials(source: str, name: str, d: int) -> Array:
    """States around the constants of the code, where truth values change, float64 ``[N, d]``."""
    rng = generator(Purpose.KEY_STATES)
    constants = [
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)
    ]
    everywhere = _around(constants)
    near: dict[int, list[float]] = {}  # constants that an index is compared with
    try:
        nodes = reachable([execute(source, name, d).root])
    except UnresolvedError:
        nodes = []
        near = {index: [] for index in range(d)}
    for node in nodes:
        for arg in node.args:
            if isinstance(arg, Node) and arg.op == "load":
                near.setdefault(arg.args[0], []).extend(_around(node.args))
    states = rng.normal(scale=np.abs(everywhere).max(), size=(_TRIALS, d))
    for index, values in near.items():
        kind = rng.random(_TRIALS)
        special = rng.choice(values or everywhere, _TRIALS)
        states[kind < 0.8, index] = rng.choice(everywhere, _TRIALS)[kind < 0.8]
        states[kind < 0.6, index] = special[kind < 0.6]
    return states


def _around(values: Iterable[Any]) -> list[float]:
    """The numbers among ``values``, 0 and 1, and what is just beside them."""
    numbers = {0.0, 1.0}
    for value in values:
        if isinstance(value, int | float) and abs(value) < 1e9:
            numbers |= {value + step for step in (-1.0, -0.5, 0.0, 0.5, 1.0)}
    return sorted(numbers)


class Evaluator:
    """Truth values of several key states on states ``[N, d]``."""

    def __init__(self, key_states: Sequence[Discriminator]) -> None:
        self.n_failed = 0
        self._count = len(key_states)
        self._loops = [(n, k) for n, k in enumerate(key_states) if not k.vectorized]
        places = [n for n, k in enumerate(key_states) if k.vectorized]
        groups = [places] if places else []
        try:
            self._parts = [(group, self._together(key_states, group)) for group in groups]
        except UnresolvedError:  # too large together, though not one by one
            self._parts = [([n], self._together(key_states, [n])) for n in places]

    def _together(self, key_states: Sequence[Discriminator], places: list[int]) -> ArrayFunction:
        entries = [(key_states[n].source, key_states[n].name) for n in places]
        return vectorize(entries, key_states[places[0]].d)

    def __call__(self, states: Array) -> Array:
        """Bool ``[N, K]`` of ``[N, d]``."""
        if len(self._parts) == 1 and not self._loops:
            return self._parts[0][1](states)
        found = np.empty((len(states), self._count), bool)
        for places, function in self._parts:
            found[:, places] = function(states)
        rows = states.astype(np.float64)
        for place, key_state in self._loops:
            for number, row in enumerate(rows):
                try:
                    found[number, place] = call(key_state.source, key_state.name, row)
                except Exception as error:  # whatever the generated code raises
                    found[number, place] = False
                    self._count_failure(key_state, row, error)
        return found

    def _count_failure(self, key_state: Discriminator, row: Array, error: Exception) -> None:
        if not self.n_failed:
            warnings.warn(
                f"{PREFIX}{key_state.name} fails on {row.tolist()} ({type(error).__name__}: "
                f"{error}); it counts as false. Further failures are counted in n_failed without "
                "a warning",
                LemaeWarning,
                stacklevel=4,
            )
        self.n_failed += 1
