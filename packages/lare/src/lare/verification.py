"""Does a latent reward function keep its promises? Its code runs in a limited child process."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lare._codegen import Limits, Outcome, run_in_child
from lare._codegen.errors import ExecutionError, UnsafeCodeError
from lare.errors import ConfigError, ShapeError, VerificationError
from lare.latent_reward import LARGEST_BATCH, POLICY, LatentReward, stack
from lare.task import TaskSpec
from lare.transitions import Transitions, collect

#: Rows on which a factor must not depend on the other rows of its batch.
SINGLE_ROWS = 8
#: Factors that agree more than this over random data are one factor.
SAME = 0.999
EXTREMES = {"all zeros": 0.0, "all 1000": 1e3, "all -1000": -1e3}


@dataclass(frozen=True)
class FactorStats:
    """One factor over the random steps: mean, standard deviation, range."""

    name: str
    mean: float
    std: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.name}: mean {self.mean:.4g}, std {self.std:.4g}, from {self.low:.4g} to "
            f"{self.high:.4g}"
        )


@dataclass(frozen=True)
class VerificationReport:
    """What was found.

    Attributes:
        failures: every reason to reject, empty if accepted.
        warnings: what is odd but allowed.
        factors: statistics of each returned factor, duplicates included.
        keep: indices of the factors without duplicates.
        transitions: steps of real data that were tried.
        isolation: what limited the child process.
        seconds: wall time of the child.
    """

    failures: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    factors: tuple[FactorStats, ...] = ()
    keep: tuple[int, ...] = ()
    transitions: int = 0
    isolation: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether nothing failed; the truth value of the report, too."""
        return not self.failures

    def __bool__(self) -> bool:
        return self.accepted

    def raise_for_failures(self) -> None:
        """Raise VerificationError, which lists everything, unless accepted."""
        if self.failures:
            raise VerificationError(str(self))

    def as_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return asdict(self) | {"accepted": self.accepted}

    def __str__(self) -> str:
        """Everything found, addressed to whoever wrote the function."""
        lines = ["accepted" if self.accepted else "The function was rejected:"]
        lines += [f"- {failure}" for failure in self.failures]
        lines += [f"- (warning) {warning}" for warning in self.warnings]
        if self.factors:
            lines.append(f"Factors on {self.transitions} steps of random actions:")
            lines += [f"- {stats}" for stats in self.factors]
        return "\n".join(lines)


def verify(
    function: str | LatentReward,
    data: Transitions | Any,
    *,
    task: TaskSpec | None = None,
    direct: bool = False,
    limits: Limits | None = None,
    steps: int = 512,
    seed: int = 0,
) -> VerificationReport:
    """Check a function on real steps, on batches of every size and on extreme values.

    The allow-list comes first; nothing runs that does not pass it. Then one child process, with
    limits on time, memory, files and network, calls the function, and its outputs are checked
    here: a list of ``[batch, 1]``, finite, the same each time, row by row independent of the rest
    of the batch, with its inputs unchanged.

    Args:
        function: source text, or a function.
        data: real steps, at least 256 better, or an environment to collect ``steps`` from.
        task: if given, its counts are compared with the data.
        direct: demand exactly one factor, which is then the reward itself.
        limits: of the child process.
        steps: to collect where ``data`` is an environment.
        seed: of the collection.

    Returns:
        A report with every failure, not the first alone.

    Raises:
        ConfigError: if ``data`` holds fewer than two steps, or is neither steps nor environment.
        ShapeError: if its arrays do not belong together, or do not fit the task.

    Cost: about one start of an interpreter with numpy.

    Reference: arXiv 2412.11120, pre-verification, which runs the code on random pairs.
    """
    if not isinstance(data, Transitions) and not hasattr(data, "observation_space"):
        raise ConfigError(
            f"data is {data!r}: give Transitions, or an environment such as gymnasium.make(...)"
        )
    transitions = data if isinstance(data, Transitions) else collect(data, steps, seed)
    transitions.check()
    if len(transitions.observation) < 2:
        raise ConfigError("verification needs real steps: give at least two, better 256")
    if task is not None:
        fits(task, transitions)
    source = function if isinstance(function, str) else function.source
    try:
        made = LatentReward(source)
    except UnsafeCodeError as error:
        return VerificationReport((str(error),))
    outside = _indices_outside(made.source, transitions)
    calls = _calls(transitions)
    arguments = [made.select(*inputs) for inputs in calls.values()]
    try:
        child = run_in_child(made.code, POLICY, arguments, limits or Limits())
    except ExecutionError as error:
        return VerificationReport((*outside, str(error)), isolation=error.isolation)
    wrong: dict[str, list[str]] = {}
    outcomes = dict(zip(calls, child.outcomes, strict=True))
    factors = {
        name: _factors(name, outcome, len(calls[name][0]), wrong)
        for name, outcome in outcomes.items()
    }
    failures = [*outside, *_gathered(wrong), *_broken_promises(factors, outcomes, direct)]
    main = factors["real steps"]
    warnings, stats, keep = _describe(main, made.names) if main is not None else ([], [], [])
    if stats and len(keep) and all(_constant(entry) for entry in stats):
        failures.append(
            "every factor is constant on random steps: at least one has to depend on the step"
        )
    return VerificationReport(
        tuple(failures),
        tuple(warnings),
        tuple(stats),
        tuple(keep),
        len(transitions.observation),
        child.isolation,
        child.seconds,
    )


Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]


def _calls(transitions: Transitions) -> dict[str, Inputs]:
    """What the function is called with, by a name that messages can use."""
    real: Inputs = transitions[:3]
    count = len(real[0])

    def rows(index: Any) -> Inputs:
        return tuple(values[index] for values in real)

    calls = {"real steps": real, "the same steps again": real}
    calls["the steps in reverse order"] = rows(slice(None, None, -1))
    calls["a batch of 2"] = rows(slice(0, 2))
    calls["an empty batch"] = rows(slice(0, 0))
    for index in np.linspace(0, count - 1, min(SINGLE_ROWS, count)).astype(int).tolist():
        calls[f"row {index} alone"] = rows(slice(index, index + 1))
    calls["the largest batch"] = rows(np.resize(np.arange(count), LARGEST_BATCH))
    for name, value in EXTREMES.items():
        calls[name] = tuple(np.full_like(v[:4], value, dtype=float) for v in real)  # type: ignore[assignment]
    return calls


def _factors(
    name: str, outcome: Outcome, batch: int, wrong: dict[str, list[str]]
) -> np.ndarray | None:
    """The factors ``[batch, D]`` of one call, or None; what is wrong goes to ``wrong``."""
    if outcome.error is not None or outcome.outputs is None:
        wrong.setdefault(str(outcome.error), []).append(name)
        return None
    if not outcome.returned.startswith(("list", "tuple")):
        text = f"it returned {outcome.returned}: return a list of arrays, each of shape (batch, 1)"
        wrong.setdefault(text, []).append(name)
        return None
    try:
        factors = stack(list(outcome.outputs), batch)
    except ShapeError as error:
        wrong.setdefault(str(error), []).append(name)
        return None
    for index in np.flatnonzero(~np.isfinite(factors).all(axis=0)):
        text = f"factor {index} is not finite: guard divisions, logarithms, roots and exponentials"
        wrong.setdefault(text, []).append(name)
    return factors


def _gathered(wrong: dict[str, list[str]]) -> list[str]:
    """One message per thing that is wrong, with the calls where it showed."""
    found = []
    for text, names in wrong.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        found.append(f"on {', '.join(names[:2])}{more}: {text}")
    return found


def _broken_promises(
    factors: dict[str, np.ndarray | None], outcomes: dict[str, Outcome], direct: bool
) -> list[str]:
    """What the outputs of several calls say together."""
    failures = [
        f"on {name} it changed its argument {index}: compute new arrays"
        for name, outcome in outcomes.items()
        for index in outcome.changed_inputs
    ]
    counts = {values.shape[1] for values in factors.values() if values is not None}
    if len(counts) > 1:
        failures.append(
            f"the number of factors differs between batches ({sorted(counts)}): it has to be fixed"
        )
        return failures
    main = factors["real steps"]
    if main is None:
        return failures
    if direct and main.shape[1] != 1:
        failures.append(f"it returned {main.shape[1]} arrays: the reward itself is exactly one")
    again = factors["the same steps again"]
    if again is not None and not np.array_equal(main, again, equal_nan=True):
        failures.append("two calls on the same steps differ: the function has to be deterministic")
    parts = {"the steps in reverse order": slice(None, None, -1)}
    parts |= {
        name: slice(int(name.split()[1]), int(name.split()[1]) + 1)
        for name in factors
        if name.endswith(" alone")
    }
    dependent = set()
    for name, index in parts.items():
        values = factors[name]
        if values is None:
            continue
        close = np.isclose(values, main[index], rtol=1e-4, atol=1e-6, equal_nan=True)
        dependent |= set(np.flatnonzero(~close.all(axis=0)).tolist())
    failures += [
        f"factor {index} of a row depends on the other rows of the batch (a mean, maximum or sort "
        "over the batch?): compute each row from that row alone"
        for index in sorted(dependent)
    ]
    return failures


def _describe(
    factors: np.ndarray, names: tuple[str, ...] | None
) -> tuple[list[str], list[FactorStats], list[int]]:
    """Warnings, statistics per factor, and which factors to keep."""
    count = factors.shape[1]
    labels = names if names is not None and len(names) == count else None
    finite = np.where(np.isfinite(factors), factors, 0).astype(np.float64)
    stats = [
        FactorStats(
            labels[i] if labels else f"factor {i}",
            float(finite[:, i].mean()),
            float(finite[:, i].std()),
            float(finite[:, i].min()),
            float(finite[:, i].max()),
        )
        for i in range(count)
    ]
    warnings = [
        f"{entry.name} is constant on random steps: it can tell good from bad only elsewhere"
        for entry in stats
        if _constant(entry)
    ]
    keep: list[int] = []
    for i in range(count):
        twin = next((j for j in keep if _same(finite[:, i], finite[:, j])), None)
        if twin is None:
            keep.append(i)
        else:
            warnings.append(
                f"{stats[i].name} says the same as {stats[twin].name} (correlation above {SAME}) "
                "and is left out"
            )
    return warnings, stats, keep


def _constant(entry: FactorStats) -> bool:
    return entry.std <= 1e-8 * max(1.0, abs(entry.mean))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the correlation is beyond ``SAME``; constants are the same as nothing."""
    if one.std() <= 1e-8 or other.std() <= 1e-8:
        return False
    return bool(abs(np.corrcoef(one, other)[0, 1]) > SAME)


def _indices_outside(source: str, transitions: Transitions) -> list[str]:
    """Constant column indices that reach past the data; numpy is silent about slices that do."""
    widths = {
        "observation": transitions.observation.shape[1],
        "action": transitions.action.shape[1],
        "next_observation": transitions.observation.shape[1],
    }
    tree = ast.parse(source)
    for node in ast.walk(tree):  # other names for an argument, and arguments that mean another
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        same = isinstance(node.value, ast.Name) and node.value.id in widths
        if same and name not in widths:
            widths[name] = widths[node.value.id]  # type: ignore[attr-defined]
        elif not same:
            widths.pop(name, None)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
            continue
        width = widths.get(node.value.id)
        if width is None or not isinstance(node.slice, ast.Tuple) or len(node.slice.elts) != 2:
            continue
        for value, limit in _column_bounds(node.slice.elts[1], width):
            if not -width <= value <= limit:
                found.append(
                    f"line {node.lineno}: {ast.unparse(node)} reaches column {value}, but "
                    f"{node.value.id} has the columns 0 to {width - 1}"
                )
    return found


def _column_bounds(index: ast.expr, width: int) -> list[tuple[int, int]]:
    """Constant integers in a column index, each with the largest value it may have."""
    parts: Sequence[tuple[ast.expr | None, int]] = [(index, width - 1)]
    if isinstance(index, ast.Slice):
        parts = [(index.lower, width - 1), (index.upper, width)]
    if isinstance(index, ast.List):
        parts = [(element, width - 1) for element in index.elts]
    found = []
    for part, limit in parts:
        if part is None:
            continue
        try:
            value = ast.literal_eval(part)
        except ValueError:
            continue
        if isinstance(value, int):
            found.append((value, limit))
    return found


def fits(task: TaskSpec, transitions: Transitions) -> None:
    """Compare the counts of a task with real steps.

    Raises:
        ShapeError: if they differ.
    """
    sizes = (transitions.observation.shape[1], transitions.action.shape[1])
    wanted = (len(task.observation), len(task.action) or sizes[1])
    if sizes != wanted:
        raise ShapeError(
            f"{task.name} describes {wanted[0]} observation and {wanted[1]} action entries, the "
            f"steps have {sizes[0]} and {sizes[1]}"
        )
