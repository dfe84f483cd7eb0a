"""Measure competitors side by side: in rounds, so that the machine's drift hits all alike."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowmem_bp._kit import bootstrap_interval
from lowmem_bp.backends import resolve
from lowmem_bp.bench.blocks import Case, Inside
from lowmem_bp.bench.competitors import COMPETITORS, DEFAULT, MODES, is_compiled, reason
from lowmem_bp.bench.peak import cuda_peak, process_peaks
from lowmem_bp.bench.step import Stepper
from lowmem_bp.errors import ConfigError, LowmemBPError
from lowmem_bp.memory import MemoryReport, profile


@dataclass(frozen=True)
class Spread:
    """Median of repeated measurements and its 95 % bootstrap interval (None for a single one)."""

    median: float
    low: float | None
    high: float | None


def spread(values: Sequence[float]) -> Spread:
    """Return the median of ``values`` and its interval."""
    median = float(np.median(values))
    if len(values) == 1:
        return Spread(median, None, None)
    return Spread(median, *bootstrap_interval(values, statistic=np.median))


@dataclass(frozen=True)
class Measurement:
    """One competitor at one block. What was not measured is None.

    Attributes:
        case: Title of the block.
        competitor: ``"stock"``, a mode of ``convert`` or another of ``COMPETITORS``.
        not_run: Why it took no part; all figures are None then.
        bytes_per_token: Held by autograd between forward and backward, weight copies left out.
        ratio: The same relative to stock.
        gradient_error: Relative error of all gradients together, against stock.
        forward: Seconds.
        backward: Seconds.
        time_ratio: Forward and backward together, relative to the stock step of the same round.
        peak_bytes: Largest memory of a step, over what was there before it.
        peak_ratio: The same relative to stock.
        peak_missing: Why the peak was not measured.
        seconds: Forward and backward of every round.
        kinds: Bytes per token by kind of module.
    """

    case: str
    competitor: str
    not_run: str | None = None
    bytes_per_token: float | None = None
    ratio: float | None = None
    gradient_error: float | None = None
    forward: Spread | None = None
    backward: Spread | None = None
    time_ratio: Spread | None = None
    peak_bytes: int | None = None
    peak_ratio: float | None = None
    peak_missing: str | None = None
    seconds: tuple[tuple[float, float], ...] = ()
    kinds: dict[str, float] = field(default_factory=dict)


class _Opaque(nn.Module):
    """A compiled model whose modules cannot be watched, with its parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = nn.ParameterList(model.parameters())
        self._model = (model,)  # in a tuple, so that it is no child

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._model[0](x)
        return result


def models(case: Case, modes: Sequence[str] = MODES) -> dict[str, Inside]:
    """Return the block stock and converted in each mode, with equal weights."""
    found = {"stock": case.build()}
    for mode in modes:
        found[mode] = copy.deepcopy(found["stock"])
        COMPETITORS[mode](found[mode], case, "auto")
    return found


def held(case: Case, model: nn.Module, label: str) -> MemoryReport:
    """Return what autograd holds after the forward pass of a block."""
    watched = _Opaque(model) if is_compiled(label) else model
    with case.autocast():
        return profile(watched, case.input(), label=label)


class _Entry:
    """A competitor while it is measured; the first failure ends its part."""

    def __init__(self, name: str, model: Inside | None) -> None:
        self.name, self.model = name, model
        self.failure: BaseException | None = None
        self.report: MemoryReport | None = None
        self.error: float | None = None
        self.seconds: list[tuple[float, float]] = []
        self.peak: int | str | None = None

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.failure, self.model = error, None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def measure(
    case: Case,
    names: Sequence[str] = DEFAULT,
    *,
    repeats: int = 0,
    backend: str = "auto",
    progress: Callable[[str], None] = lambda _what: None,
) -> list[Measurement]:
    """Measure one block as each competitor runs it, in this process.

    Compiled code that torch holds in this process is discarded where a compiler takes part.

    Args:
        case: The block.
        names: Of competitors; stock is always measured, and first.
        repeats: Timed rounds; each takes one step of every competitor, in a new order. With 0,
            neither time nor peak memory is measured, only bytes held and gradients.
        backend: Kernels of this package's modes; see :mod:`lowmem_bp.backends`.
        progress: Called with a few words before every part.

    Returns:
        One measurement per competitor, those that could not run with the reason in ``not_run``.

    Raises:
        ConfigError: Unknown names.
        BackendError: The backend is not available.
        LowmemBPError: The stock block itself cannot run.
    """
    names = list(dict.fromkeys(["stock", *names]))
    unknown = [name for name in names if name not in COMPETITORS]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: expected some of {', '.join(COMPETITORS)}.")
    resolve(backend, torch.device(case.device))
    if any(map(is_compiled, names)):
        torch._dynamo.reset()  # else sizes of other cases would count as recompilations
    stepper, entries = Stepper(case), []
    stock, reference = case.build(), None
    for name in names:
        progress(f"{case.title}: {name}")
        entry = _Entry(name, copy.deepcopy(stock))
        with entry.part():
            reference = _examine(entry, case, stepper, reference, backend)
        entries.append(entry)
        if reference is None:
            raise LowmemBPError(f"the stock block of {case} does not run: {entry.failure}")
    _time(entries, stepper, repeats, lambda what: progress(f"{case.title}: {what}"))
    if repeats:
        progress(f"{case.title}: peak memory")
        _find_peaks(entries, case, backend)
    return [_measurement(entry, entries[0], case) for entry in entries]


def _examine(
    entry: _Entry, case: Case, stepper: Stepper, reference: Tensor | None, backend: str
) -> Tensor:
    assert entry.model is not None
    COMPETITORS[entry.name](entry.model, case, backend)
    gradient = stepper(entry.model).gradient
    reference = gradient if reference is None else reference
    entry.error = ((gradient - reference).norm() / reference.norm()).item()
    entry.report = held(case, entry.model, entry.name)
    return reference


def _time(
    entries: Sequence[_Entry], stepper: Stepper, repeats: int, progress: Callable[[str], None]
) -> None:
    shuffle = random.Random(0).shuffle
    order = list(entries)
    for i in range(-1, repeats) if repeats else ():  # one round more, to warm up
        progress(f"round {max(i + 1, 0)} of {repeats}")
        shuffle(order)  # what one leaves in caches and allocator does not always hit the same
        for entry in order:
            if entry.model is not None:
                with entry.part():
                    step = stepper(entry.model)
                    if i >= 0:
                        entry.seconds.append((step.forward, step.backward))
                    del step  # its gradients would count for the next one's memory


def _find_peaks(entries: Sequence[_Entry], case: Case, backend: str) -> None:
    running = [entry for entry in entries if entry.model is not None]
    if torch.device(case.device).type == "cuda":
        for entry in running:
            assert entry.model is not None
            with entry.part():
                entry.peak = cuda_peak(case, entry.model)
    elif case.device == "cpu":
        peaks = process_peaks(case, [entry.name for entry in running], backend)
        for entry in running:
            entry.peak = peaks[entry.name]
    else:
        for entry in running:
            entry.peak = f"torch does not tell it for {case.device!r}"


def _measurement(entry: _Entry, stock: _Entry, case: Case) -> Measurement:
    if entry.failure is not None or entry.report is None:
        assert entry.failure is not None
        return Measurement(case.title, entry.name, not_run=reason(entry.failure))
    assert stock.report is not None
    figures: dict[str, Any] = {}
    if entry.seconds:
        pairs = zip(entry.seconds, stock.seconds, strict=True)
        figures["forward"] = spread([forward for forward, _backward in entry.seconds])
        figures["backward"] = spread([backward for _forward, backward in entry.seconds])
        figures["time_ratio"] = spread([sum(mine) / sum(theirs) for mine, theirs in pairs])
    if isinstance(entry.peak, str):
        figures["peak_missing"] = entry.peak
    elif entry.peak is not None:
        figures["peak_bytes"] = entry.peak
        if isinstance(stock.peak, int) and stock.peak > 0:
            figures["peak_ratio"] = entry.peak / stock.peak
    return Measurement(
        case.title,
        entry.name,
        bytes_per_token=entry.report.activation_bytes / case.tokens,
        ratio=entry.report.activation_bytes / stock.report.activation_bytes,
        gradient_error=entry.error,
        seconds=tuple(entry.seconds),
        kinds={kind: n / case.tokens for kind, n in entry.report.by_kind().items()},
        **figures,
    )
