"""A folder for one run: ``metrics.jsonl`` while it goes on, then ``summary.json``."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, SupportsFloat

from .errors import RunFolderError
from .files import write_text_atomic

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"

_OWN: set[Path] = set()  # folders that this process writes


class RunFolder:
    """Writes one run's numbers to a folder of its own.

    Args:
        path: the folder; made where it is missing.
        overwrite: empty a folder that has content, instead of refusing it.
        resume: go on in a folder that has content: records are appended, the summary is replaced.

    Raises:
        RunFolderError: if ``path`` is a file, or a folder with content and neither flag is set.

    Example:
        >>> import tempfile
        >>> run = RunFolder(tempfile.mkdtemp())
        >>> run.log(0, "loss", 2.5)
        >>> path = run.write_summary({"final_loss": 2.5}, seed=0)
        >>> [record["value"] for record in read_metrics(run.path)]
        [2.5]
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, resume: bool = False
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file: name a folder for the run's results")
        if self.path.is_dir() and any(self.path.iterdir()) and not resume:
            if not overwrite:
                raise RunFolderError(
                    f"{self.path} is not empty, and two runs in one folder cannot be told apart: "
                    "name another folder, or ask for this one to be overwritten"
                )
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        _OWN.add(self.path.resolve())
        _drop_cut_off_record(self.path / METRICS)
        self._start_s = time.monotonic()

    def log(self, step: int, name: str, value: SupportsFloat) -> None:
        """Append one number to ``metrics.jsonl``.

        Args:
            step: position in the run, such as the count of optimizer steps.
            name: what was measured.
            value: anything ``float`` takes, such as a tensor with one element (which is copied
                from its device). Values that are not finite are written as strings, because
                JSON has no word for them.
        """
        record = {
            "step": int(step),
            "wall_s": round(time.monotonic() - self._start_s, 4),
            "name": name,
            "value": _plain(float(value)),
        }
        # Opened anew each time: a run that is killed keeps every record before that moment.
        with (self.path / METRICS).open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(json.dumps(record) + "\n")

    def write_summary(
        self,
        results: Mapping[str, Any],
        *,
        settings: Mapping[str, Any] | None = None,
        seed: int | None = None,
        device: str = "cpu",
    ) -> Path:
        """Write ``summary.json``: the results, and what is needed to get them again.

        Args:
            results: the run's outcome, of JSON's types, numpy numbers and arrays, and paths.
            settings: every option of the run.
            seed: the seed everything random was made from.
            device: the torch device the run used, such as ``"cpu"`` or ``"cuda:0"``.

        Returns:
            The path of the file.
        """
        summary = {
            "results": results,
            "settings": dict(settings or {}),
            "seed": seed,
            # Without the folder of the program, which says nothing to another reader.
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "wall_s": round(time.monotonic() - self._start_s, 3),
            "device": _describe_device(device),
            "versions": versions(),
            "git": _git_state(),
        }
        text = json.dumps(_plain(summary), indent=2, ensure_ascii=False)
        return write_text_atomic(self.path / SUMMARY, text + "\n")


class TensorBoardFolder(RunFolder):
    """A run folder whose numbers can be watched in TensorBoard as well.

    Args:
        path: of the run, which gets the event files too.
        steps: where the run goes on; later points of an earlier try are not shown.
        options: as of :class:`RunFolder`.

    Raises:
        ImportError: without TensorBoard.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, steps: int | None = None, **options: bool
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(path, **options)
        purge = None if steps is None else steps + 1
        self._writer: Any = SummaryWriter(str(self.path), purge_step=purge)

    def log(self, step: int, name: str, value: SupportsFloat) -> None:
        """Append one number, and let it be seen at once."""
        super().log(step, name, value)
        self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

    def write_summary(self, results: Mapping[str, Any], **options: Any) -> Path:
        """Write ``summary.json``, and close the event file."""
        self._writer.close()
        return super().write_summary(results, **options)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read back the ``metrics.jsonl`` of a run folder.

    Args:
        path: the run folder.

    Returns:
        One dict per record, in the order of writing, with keys ``step``, ``wall_s``, ``name`` and
        ``value`` (a float, not finite ones included). A last line that was cut off is left out.

    Raises:
        FileNotFoundError: if the folder has no ``metrics.jsonl``.
    """
    records = []
    for line in (Path(path) / METRICS).read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        record = json.loads(line)
        record["value"] = float(record["value"])
        records.append(record)
    return records


def _drop_cut_off_record(path: Path) -> None:
    """Shorten a file whose last line a killed run did not finish: nothing may be added to it."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            write_text_atomic(path, text[: text.rfind("\n") + 1])


def versions() -> dict[str, str | None]:
    """Versions of Python, numpy, torch and the package this folder lies in, without importing them.

    Returns:
        Version by name; None for what is not installed.
    """
    package = __name__.partition(".")[0]
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("numpy", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found[package] = str(importlib.import_module(f"{package}._version").__version__)
    return found


def _plain(value: Any) -> Any:
    """``value`` in JSON's types; numbers that are not finite become strings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist"):  # numpy numbers and arrays, and tensors
        return _plain(value.tolist())
    return str(value)


def _describe_device(device: str) -> dict[str, Any]:
    described: dict[str, Any] = {"device": device, "machine": platform.machine()}
    described["system"] = platform.system()
    described["cores"] = os.cpu_count()
    torch = sys.modules.get("torch")  # a run without torch does not import it for this
    if torch is not None:
        described["threads"] = torch.get_num_threads()
        if device.startswith("cuda") and torch.cuda.is_available():
            described["name"] = torch.cuda.get_device_name(device)
    return described


def _git_state() -> dict[str, Any] | None:
    """Commit of the checkout the process works in, and whether it has changes; None outside one.

    What a program writes itself, perhaps over results that are committed, is no change of it.
    """
    commit, top = _git("rev-parse", "HEAD"), _git("rev-parse", "--show-toplevel")
    if commit is None or top is None:
        return None
    own = [path.relative_to(top).as_posix() for path in _OWN if path.is_relative_to(top)]
    others = [":/", *(f":(top,exclude,literal){path}" for path in own if path != ".")]
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", *others))}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
