"""What ``convert`` did, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowmem_bp._kit.files import write_text_atomic
from lowmem_bp.conversion.sites import Site, Skip
from lowmem_bp.memory import MemoryReport


@dataclass(frozen=True)
class Change:
    """One converted module: its name, kind and what it keeps for backward now."""

    name: str
    kind: str
    keeps: str


@dataclass(frozen=True)
class ConversionReport:
    """The result of :func:`lowmem_bp.convert`.

    Attributes:
        mode: The mode asked for.
        changed: What was converted.
        skipped: What was looked at and left alone, with the reason.
        check: How the result was checked: ``"whole model on example inputs"``, ``"module by module
            on synthetic input"`` or ``"off"``.
        difference: Largest relative difference of the whole model's outputs; None when the check
            was module by module.
        before: Memory held before; only with ``example_inputs``.
        after: Memory held after; only with ``example_inputs``.
        notes: Things to know about this model.
        backend: Whose kernels run, ``"native"``, ``"triton"`` or ``"torch"``: the one asked for, or
            the best for the device of the model's first parameter.
    """

    mode: str
    changed: tuple[Change, ...]
    skipped: tuple[Skip, ...]
    check: str
    difference: float | None = None
    before: MemoryReport | None = None
    after: MemoryReport | None = None
    notes: tuple[str, ...] = field(default=())
    backend: str = "torch"

    @property
    def ratio(self) -> float | None:
        """Activation bytes after over before; None without ``example_inputs``."""
        if self.before is None or self.after is None or self.before.activation_bytes == 0:
            return None
        return self.after.activation_bytes / self.before.activation_bytes

    def __str__(self) -> str:
        lines = [f"converted {len(self.changed)} modules, mode {self.mode!r}; check: {self.check}"]
        if self.difference is not None:
            lines[0] += f" (difference {self.difference:.1e})"
        groups = Counter((change.kind, change.keeps) for change in self.changed)
        lines += [f"  {n:4d} x {kind:<10} keeps {keeps}" for (kind, keeps), n in groups.items()]
        reasons = Counter((skip.kind, skip.reason) for skip in self.skipped)
        if reasons:
            lines.append("left alone:")
            lines += [f"  {n:4d} x {kind:<10} {reason}" for (kind, reason), n in reasons.items()]
        if self.ratio is not None and self.before is not None and self.after is not None:
            lines.append(
                f"held for backward: {self.before.bytes_per_token:,.0f} -> "
                f"{self.after.bytes_per_token:,.0f} bytes per token ({self.ratio:.3f})"
            )
        if self.changed:
            lines.append(f"backend: {self.backend}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "mode": self.mode,
            "check": self.check,
            "difference": self.difference,
            "ratio": self.ratio,
            "changed": [vars(change) for change in self.changed],
            "skipped": [vars(skip) for skip in self.skipped],
            "before": self.before.to_dict() if self.before else None,
            "after": self.after.to_dict() if self.after else None,
            "notes": list(self.notes),
            "backend": self.backend,
        }

    def to_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict` to ``path``."""
        write_text_atomic(path, json.dumps(self.to_dict(), indent=1) + "\n")


def changes(sites: list[Site]) -> tuple[Change, ...]:
    """Return what a report says of ``sites``."""
    return tuple(Change(site.name, site.kind, site.keeps) for site in sites)
