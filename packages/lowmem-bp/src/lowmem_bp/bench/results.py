"""Show what was measured: a table for the terminal, and ``summary.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lowmem_bp._kit import RunFolder
from lowmem_bp.bench.comparison import Measurement, Spread

_HEAD = ("competitor", "bytes/token", "held", "gradient error")
_TIMED = ("forward ms", "backward ms", "time", "peak MiB", "peak")


def table(measurements: Sequence[Measurement]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a printed table of one block, the head first.

    "held", "time" and "peak" are relative to stock; brackets hold the interval of the median.
    """
    timed = any(m.time_ratio for m in measurements)
    notes = any(note(m) for m in measurements)
    yield (*_HEAD, *(_TIMED if timed else ()), *(("note",) if notes else ()))
    for m in measurements:
        row: tuple[str, ...] = (
            m.competitor,
            _number(m.bytes_per_token, ",.0f"),
            _number(m.ratio, ".3f"),
            _number(m.gradient_error, ".1e"),
        )
        if timed:
            row += (
                _interval(m.forward, ".1f", 1e3),
                _interval(m.backward, ".1f", 1e3),
                _interval(m.time_ratio, ".2f"),
                _number(m.peak_bytes and m.peak_bytes / 2**20, ".1f"),
                _number(m.peak_ratio, ".3f"),
            )
        yield (*row, note(m)) if notes else row


def note(m: Measurement) -> str:
    """Return why a competitor, or its peak, was not measured."""
    if m.not_run:
        return f"not run: {m.not_run}"
    return f"peak not measured: {m.peak_missing}" if m.peak_missing else ""


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _interval(value: Spread | None, form: str, scale: float = 1.0) -> str:
    if value is None:
        return "-"
    text = format(scale * value.median, form)
    if value.low is None or value.high is None:
        return text
    return f"{text} [{scale * value.low:{form}}, {scale * value.high:{form}}]"


def write(
    out: str | Path,
    measurements: Sequence[Measurement],
    settings: dict[str, Any],
    *,
    device: str = "cpu",
    overwrite: bool = False,
) -> Path:
    """Write ``summary.json`` with every figure, the machine and the versions.

    Args:
        out: New or empty folder.
        measurements: From :func:`lowmem_bp.bench.measure`.
        settings: Sizes of the blocks.
        device: The torch device used.
        overwrite: Empty a folder that has content.

    Returns:
        The path written.
    """
    rows = [asdict(m) for m in measurements]
    folder = RunFolder(out, overwrite=overwrite)
    return folder.write_summary({"measurements": rows}, settings=settings, seed=0, device=device)
