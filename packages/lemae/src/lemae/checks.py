"""Do functions recognise key states as they should? Their code runs in a limited child process.

Every function is judged on its own and accepted or not, with every reason; what is left of a file
is a set of key states that can be used.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemae._codegen import ExecutionError, Limits, Outcome, run_in_child
from lemae._seeds import Purpose, generator
from lemae.discriminators.forms import call
from lemae.discriminators.graph import Graph, UnresolvedError, reachable
from lemae.discriminators.source import PREFIX, Candidate, capped, checked, policy, split
from lemae.discriminators.subspace import Mode, coordinates, find_subspace, influential
from lemae.discriminators.symbolic import execute
from lemae.discriminators.vectorize import vectorize
from lemae.errors import ConfigError, KeyStateError, ShapeError
from lemae.key_states import KeyState, KeyStateSet, problems_of, without_place
from lemae.probes import Probes, given
from lemae.probes import probes as collect
from lemae.task import TaskSpec

Array = NDArray[Any]

#: States that are asked a second time.
AGAIN = 256
#: Calls of one child process. It has 14 s, so that what never ends is over within 15 s, and what is
#: allowed is done in time by a machine that is several times too busy.
CALLS, _WALL_S = 2000, 14.0
#: What the check of a file may take, looked at before each child process.
MAX_SECONDS = 120.0
_TIMED = 32  # states on which a function that may be too slow is timed again
_KINDS = ("a first state of an episode", "a state under random actions", "a made-up state")


@dataclass(frozen=True)
class FunctionReport:
    """What was found about one function.

    Attributes:
        name: of the key state, without ``is_``.
        line: where the function stands in the file.
        failures: why it is rejected, empty if it is not.
        warnings: what is odd but allowed.
        same_as: name of an earlier key state that says the same; this one is then left out.
        subspace: indices that it is about; None if they were not looked for.
        origin: how they were found, see :class:`lemae.discriminators.subspace.Subspace`.
        declared: indices that its author names.
        vectorized: whether it takes many states at once.
        true_fraction: part of the probe states on which it is true.
        seconds_per_call: median over the probe states, in the child process.
    """

    name: str
    line: int
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    same_as: str | None = None
    subspace: tuple[int, ...] | None = None
    origin: str | None = None
    declared: tuple[int, ...] | None = None
    vectorized: bool = False
    true_fraction: float = 0.0
    seconds_per_call: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether it becomes a key state."""
        return not self.failures and self.same_as is None

    def __str__(self) -> str:
        """Everything found, addressed to whoever wrote the function."""
        head = f"{PREFIX}{self.name} (line {self.line}): "
        if self.failures:
            head += "rejected"
        elif self.same_as is not None:
            head += f"left out, it is true exactly where {PREFIX}{self.same_as} is"
        else:
            head += (
                f"accepted, about the indices {list(self.subspace or ())} ({self.origin}), true on "
                f"{self.true_fraction:.1%} of the states"
            )
        lines = [head, *(f"  - {failure}" for failure in self.failures)]
        lines += [f"  - (warning) {warning}" for warning in self.warnings]
        return "\n".join(lines)


@dataclass(frozen=True)
class CheckReport:
    """What was found about a file.

    Attributes:
        functions: one report for each, in the order of the file.
        ignored: what else stands in the file and is left out.
        min_key_states: as given.
        probes: number of states that every function was tried on.
        isolation: what limited the child processes.
        seconds: wall time of the check.
        key_states: the accepted ones, with this report as ``meta["check"]``; None if there is none.
    """

    functions: tuple[FunctionReport, ...]
    ignored: tuple[str, ...]
    min_key_states: int
    probes: int
    isolation: tuple[str, ...]
    seconds: float
    key_states: KeyStateSet | None = field(default=None, repr=False)

    @property
    def accepted(self) -> bool:
        """Whether at least ``min_key_states`` functions were accepted."""
        return sum(function.accepted for function in self.functions) >= self.min_key_states

    def raise_for_failures(self) -> None:
        """Raise KeyStateError, which lists everything, unless accepted."""
        if not self.accepted:
            raise KeyStateError(str(self))

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON's types, without the key states."""
        values = asdict(replace(self, key_states=None))
        del values["key_states"]
        for entry, function in zip(values["functions"], self.functions, strict=True):
            entry["accepted"] = function.accepted
        found: dict[str, Any] = json.loads(json.dumps(values | {"accepted": self.accepted}))
        return found  # with lists for tuples, as it is when it comes back from a file

    def __str__(self) -> str:
        """Everything found, addressed to whoever wrote the file."""
        count = sum(function.accepted for function in self.functions)
        lines = [
            f"{count} of {len(self.functions)} key states accepted, {self.min_key_states} needed; "
            f"tried on {self.probes} states"
        ]
        if not self.functions:
            lines.append(f"there is no function {PREFIX}<name>(state)")
        lines += [str(function) for function in self.functions]
        lines += [f"(left out) {message}" for message in self.ignored]
        return "\n".join(lines)


def check(
    source: str | KeyStateSet,
    task: TaskSpec | int | None = None,
    probes: Probes | ArrayLike | None = None,
    *,
    min_key_states: int = 1,
    subspace: Mode = "auto",
    prune_inert: bool = False,
    seconds_per_call: float = 0.002,
    limits: Limits | None = None,
    max_seconds: float = MAX_SECONDS,
    meta: Mapping[str, Any] | None = None,
) -> CheckReport:
    """Check functions that recognise key states, each on its own.

    The allow-list comes first; nothing runs that does not pass it. Then a child process of its own,
    with limits on time, memory, files and network, calls each function on every state. It has to
    return True or False (0 or 1), the same each time, without changing its argument, soon enough,
    and not always True. What passed is then compared with its form for many states at once, and its
    subspace with what a change of each index does.

    Args:
        source: a file of functions ``is_<name>(state)``, or key states, which keep the subspaces
            that they have.
        task: what the state is; its length is enough.
        probes: from :func:`lemae.probes.probes`, or states ``[N, d]``. By default made up from the
            ranges of the task; then no state is known to be a first one.
        min_key_states: how many have to be accepted.
        subspace: how to find subspaces, see :func:`lemae.discriminators.subspace.find_subspace`.
        prune_inert: leave out indices that are read without a way to the result.
        seconds_per_call: most processor time for one state, in the median.
        limits: of each child process, of which there is one for every ``CALLS`` calls. By default
            processor time for that many calls, and 14 s in all.
        max_seconds: when this time is over, functions that are not yet checked are rejected, and
            their reports say so. It is looked at before each child process.
        meta: of the key states that are accepted.

    Raises:
        ConfigError: if there are no states to try, or no time.
        ShapeError: if the states do not fit the task.

    Cost: per function about one start of an interpreter with numpy for every ``CALLS`` states, and
    0.1 ms for each state.

    Reference: arXiv 2410.02511, self-check, which calls the functions on states until none fails.
    """
    start = time.monotonic()
    if not max_seconds > 0:
        raise ConfigError(f"max_seconds is {max_seconds}: give a positive number")
    tried = _probes(source, task, probes)
    own = {k.name: k for k in source} if isinstance(source, KeyStateSet) else {}
    file = split(source.source if isinstance(source, KeyStateSet) else source)
    judge = _Judge(task, tried, subspace, prune_inert, seconds_per_call, limits, max_seconds)
    judged = [judge(candidate, own.get(candidate.name)) for candidate in file.candidates]
    reports = _without_duplicates(judged)
    report = CheckReport(
        tuple(reports),
        file.ignored,
        min_key_states,
        len(tried),
        judge.isolation,
        time.monotonic() - start,
    )
    accepted = [
        one.key_state
        for one, found in zip(judged, reports, strict=True)
        if found.accepted and one.key_state is not None
    ]
    if not accepted:
        return report
    known = dict(meta or (source.meta if isinstance(source, KeyStateSet) else {}))
    key_states = KeyStateSet(accepted, tried.d, meta={**known, "check": report.as_dict()})
    return replace(report, key_states=key_states)


def _probes(
    source: str | KeyStateSet, task: TaskSpec | int | None, probes: Probes | ArrayLike | None
) -> Probes:
    spec = task if isinstance(task, TaskSpec) else None
    if probes is None and spec is None:
        raise ConfigError(
            "there are no states to try: give probes(env), states [N, d], or a TaskSpec with the "
            "ranges of the state"
        )
    if probes is None:
        probes = collect(spec)
    tried = probes if isinstance(probes, Probes) else given(probes, spec)
    lengths = {"the task": spec.d if spec else task}
    lengths["the key states"] = source.d if isinstance(source, KeyStateSet) else None
    for name, length in lengths.items():
        if length is not None and length != tried.d:
            raise ShapeError(
                f"the states have {tried.d} numbers, {name} {length}: give states of that length"
            )
    return tried


@dataclass(frozen=True)
class _Judged:
    """A function after the check: the report, and if it was accepted what it is."""

    report: FunctionReport
    key_state: KeyState | None = None
    truth: Array | None = None


class _Judge:
    """Judges functions, each on the same states."""

    def __init__(
        self,
        task: TaskSpec | int | None,
        probes: Probes,
        mode: Mode,
        prune_inert: bool,
        seconds_per_call: float,
        limits: Limits | None,
        max_seconds: float,
    ) -> None:
        self._places = set(coordinates(task)) if isinstance(task, TaskSpec) else None
        self._probes, self._states = probes, probes.states
        self._mode, self._prune_inert = mode, prune_inert
        self._seconds_per_call, self._limits = seconds_per_call, limits
        self._max_seconds, self._end = max_seconds, time.monotonic() + max_seconds
        self.isolation: tuple[str, ...] = ()

    def __call__(self, candidate: Candidate, own: KeyState | None) -> _Judged:
        report = FunctionReport(candidate.name, candidate.line, declared=candidate.declared)
        try:
            self._stop_in_time()
            problems = problems_of(candidate, self._probes.d)
            if problems:
                return _Judged(replace(report, failures=tuple(problems)))
            outcomes = self._run(candidate)
        except ExecutionError as error:
            return _Judged(replace(report, failures=(str(error),)))
        count = len(self._states)
        seconds = float(np.median([outcome.seconds for outcome in outcomes]))
        report = replace(report, seconds_per_call=seconds)
        values, failures = self._values(outcomes[:count])
        failures += self._broken_promises(values, outcomes)
        if not failures and seconds > self._seconds_per_call and self._is_slow(candidate):
            allowed = f"{self._seconds_per_call * 1e3:g} ms"
            failures.append(f"it takes more than {allowed} for one state: use fewer loops")
        if failures:
            return _Judged(replace(report, failures=tuple(failures)))
        return self._described(report, candidate, own, values.astype(bool))

    def _stop_in_time(self) -> None:
        if time.monotonic() >= self._end:
            raise ExecutionError(
                f"the {self._max_seconds:g} s for the whole file were over before all of this "
                "function was checked: use fewer loops, here and before it, or check fewer "
                "functions at once"
            )

    def _run(self, candidate: Candidate) -> tuple[Outcome, ...]:
        code = checked(candidate.padded, candidate.name)
        calls = iter((state,) for state in (*self._states, *self._repeated(self._states)))
        outcomes: list[Outcome] = []
        while some := list(itertools.islice(calls, CALLS)):
            self._stop_in_time()
            limits = self._limits or Limits(
                cpu_s=1 + len(some) * self._seconds_per_call, wall_s=_WALL_S
            )
            try:
                child = run_in_child(code, policy(candidate.name), some, limits)
            except ExecutionError as error:
                self.isolation = error.isolation or self.isolation
                raise ExecutionError(_without_measurements(str(error), len(some), limits)) from None
            self.isolation = child.isolation
            outcomes += child.outcomes
        return tuple(outcomes)

    def _is_slow(self, candidate: Candidate) -> bool:
        """Whether a function that did nothing else wrong takes too long.

        The child tells how long a call lasted, also while other processes had its core; here the
        time of this thread alone is taken.
        """
        seconds = []
        for state in self._repeated(self._states)[:_TIMED]:
            start = time.thread_time()
            call(candidate.source, candidate.name, state)
            seconds.append(time.thread_time() - start)
        return float(np.median(seconds)) > self._seconds_per_call

    def _repeated(self, values: Array) -> Array:
        """What is asked again: some rows, last ones first."""
        rows = np.linspace(len(values) - 1, 0, min(AGAIN, len(values))).astype(int)
        return np.asarray(values[rows])

    def _values(self, outcomes: Sequence[Outcome]) -> tuple[Array, list[str]]:
        """What was returned, and what is wrong with it: the first example of each kind."""
        values = np.full(len(outcomes), np.nan)
        wrong: dict[str, list[tuple[int, str]]] = {}
        for number, outcome in enumerate(outcomes):
            if outcome.returned == "None":
                kind = text = "it returned nothing: end every path in return True or return False"
            elif outcome.error is not None or outcome.outputs is None:
                text = str(outcome.error)
                kind = _kind_of(text)
            elif outcome.returned.startswith(("list", "tuple")) or outcome.outputs[0].ndim:
                text = f"it returned a {outcome.returned}: return True or False"
                kind = outcome.returned.partition(" ")[0]
            else:
                values[number] = outcome.outputs[0]
                if values[number] in (0, 1):
                    continue
                kind = text = "it returned a number that is neither 0 nor 1: return True or False"
            wrong.setdefault(kind, []).append((number, text))
        return values, capped(
            [
                f"on {len(found)} of {len(outcomes)} states, such as {self._name(found[0][0])}: "
                f"{found[0][1]}"
                for found in wrong.values()
            ]
        )

    def _name(self, number: int) -> str:
        """A probe state, for a message."""
        ends = np.cumsum([len(self._probes.reset), len(self._probes.rollout)])
        state = self._states[number]
        numbers = "" if len(state) > 32 else f" {[float(f'{value:g}') for value in state]}"
        return f"{_KINDS[int(np.searchsorted(ends, number, side='right'))]}{numbers}"

    def _broken_promises(self, values: Array, outcomes: Sequence[Outcome]) -> list[str]:
        """What the outcomes say together."""
        failures = []
        if any(outcome.changed_inputs for outcome in outcomes):
            failures.append("it changed its argument: work on a copy")
        again, _ = self._values(outcomes[len(values) :])
        if not np.array_equal(again, self._repeated(values), equal_nan=True):
            failures.append("two calls on the same state differ: it has to be deterministic")
        if (values == 1).all():
            failures.append(
                f"it is true on all {len(values)} states: a key state has to be false at first"
            )
        return failures

    def _described(
        self, report: FunctionReport, candidate: Candidate, own: KeyState | None, truth: Array
    ) -> _Judged:
        """The key state of a function without failures, and what is odd about it."""
        name = candidate.name
        warnings = self._odd_truths(truth)
        try:
            found = find_subspace(
                candidate.padded,
                name,
                self._probes.d,
                declared=candidate.declared,
                states=lambda: self._states,
                mode=self._mode,
                prune_inert=self._prune_inert,
            )
        except KeyStateError as error:
            return _Judged(replace(report, failures=(str(error),)))
        indices = found.indices if own is None else own.subspace
        warnings += found.warnings
        if own is not None and own.subspace != found.indices:
            warnings.append(
                f"its subspace was set to {list(indices)}; by itself it is {list(found.indices)}"
            )
        key_state = KeyState(
            name,
            candidate.description,
            candidate.source,
            indices,
            candidate.declared,
            self._probes.d,
        )
        if key_state.vectorized and (key_state.batch(self._states) != truth).any():
            key_state = replace(key_state, vectorize=False)
        if not key_state.vectorized:
            warnings.append(
                f"it is called state by state, {report.seconds_per_call * 1e6:.0f} us each: "
                f"{_why_not_vectorized(candidate, key_state)}"
            )
        if own is None:
            indices, more = self._confirmed(key_state, found.origin, truth)
            warnings += more
            key_state = replace(key_state, subspace=indices)
        if self._places is not None and not self._places & set(indices):
            warnings.append(without_place(indices))
        report = replace(
            report,
            warnings=tuple(warnings),
            subspace=indices,
            origin=found.origin if own is None or indices == found.indices else "given",
            vectorized=key_state.vectorized,
            true_fraction=float(truth.mean()),
        )
        return _Judged(report, key_state, truth)

    def _odd_truths(self, truth: Array) -> list[str]:
        first = truth[: len(self._probes.reset)]
        if first.any():
            return [
                f"it is true in {int(first.sum())} of {len(first)} first states of episodes: it "
                "counts only after it has been false once"
            ]
        if not truth.any():
            return ["it is true on none of the states: hard to reach, or impossible"]
        return []

    def _confirmed(
        self, key_state: KeyState, origin: str, truth: Array
    ) -> tuple[tuple[int, ...], list[str]]:
        """The subspace after every index has been changed alone, and what that showed."""
        lows, highs = self._probes.lows, self._probes.highs
        rng = generator(Purpose.KEY_STATES, 1)
        found = set(influential(key_state.batch, self._states, lows, highs, rng))
        indices, warnings = set(key_state.subspace), []
        if found - indices:
            warnings.append(
                f"a change of the indices {sorted(found - indices)} changes the result; they are "
                f"added to its subspace, which is {origin}"
            )
        if truth.any() and indices - found:
            warnings.append(
                f"a change of the indices {sorted(indices - found)} alone never changed the result"
            )
        return tuple(sorted(indices | found)), warnings


def _kind_of(error: str) -> str:
    """Type and line of an error; the rest of its text may differ from state to state."""
    return error.partition(":")[0] + "".join(re.findall(r"\(line \d+: ", error)[-1:])


def _without_measurements(text: str, count: int, limits: Limits) -> str:
    """Why a child process failed, the same in every run: replies to it can be cached.

    Where it was when its time was up, and which of the two times, is a matter of the machine.
    """
    if "did not end within" in text or "of processor time" in text:
        return (
            f"it did not end within {limits.cpu_s:g} s of processor time, or {limits.wall_s:g} s "
            f"in all, on {count} states: use fewer loops"
        )
    return text


def _why_not_vectorized(candidate: Candidate, key_state: KeyState) -> str:
    """The reason, with the lines of the file."""
    try:
        vectorize([(candidate.padded, candidate.name)], key_state.d)
    except UnresolvedError as error:
        return str(error)
    return key_state.why_not_vectorized


def _without_duplicates(judged: Sequence[_Judged]) -> list[FunctionReport]:
    """The reports, where a function says what an earlier one says marked as such."""
    reports: list[FunctionReport] = []
    kept: list[_Judged] = []
    for one in judged:
        twin = next((other for other in kept if _is_same(one, other)), None)
        reports.append(
            one.report if twin is None else replace(one.report, same_as=twin.report.name)
        )
        if one.key_state is not None and twin is None:
            kept.append(one)
    return reports


def _is_same(one: _Judged, other: _Judged) -> bool:
    """Whether both are true on the same states; if on none, whether they do the same."""
    if one.truth is None or other.truth is None or (one.truth != other.truth).any():
        return False
    if one.truth.any():
        return True
    graph = Graph()
    try:
        roots = [
            execute(k.source, k.name, k.d, graph=graph).root
            for k in (one.key_state, other.key_state)
            if k is not None
        ]
    except UnresolvedError:
        return False
    is_known = all(node.op != "opaque" for node in reachable(roots))
    return roots[0] is roots[1] and is_known
