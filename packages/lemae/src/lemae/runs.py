"""Folders of training runs: finished ones are read back, interrupted ones go on where they were."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lemae._kit import RunFolder, TensorBoardFolder
from lemae._kit.files import write_text_atomic
from lemae._kit.run import METRICS, SUMMARY
from lemae._version import __version__
from lemae.errors import ConfigError, IntegrityError, LemaeError, MissingExtraError, StateError
from lemae.settings import Settings, check_fields

CHECKPOINT = "checkpoint.pt"
POLICY = "policy.pt"
ARRAYS = "arrays.npz"
_NAMES = "|".join(re.escape(name) for name in (METRICS, SUMMARY, CHECKPOINT, POLICY, ARRAYS))
#: Halves of files, left by a run that was killed while it wrote.
_SCRATCH = re.compile(rf"\.(?:{_NAMES})\.\w+")
#: What a run writes.
_OURS = re.compile(rf"{_NAMES}|{_SCRATCH.pattern}|events\.out\.tfevents\..*|requery-\d+")


@contextlib.contextmanager
def interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Put off the first interrupt, so that a run can be saved before it ends; the second ends it.

    Yields:
        Tells whether there was one. Outside of the main thread, where Python does not say, never.
    """
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        sys.stderr.write("saving after this rollout; interrupt again to end at once\n")
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # somebody else's affair
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder, which is made if need be, from other processes that write runs to it.

    The system lets go of it when this process ends, however that happens. Where it has no such
    locks, as on some shared disks, the folder is not kept from anybody; on Windows it is not kept
    from other users and machines.

    Raises:
        ConfigError: if it is a file.
        LemaeError: if another process has it.
    """
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: name a folder for the run's results")
    folder.mkdir(parents=True, exist_ok=True)
    handle, lock = _lock_of(folder)
    try:
        try:
            lock(handle)
        except (BlockingIOError, PermissionError) as error:
            raise LemaeError(
                f"another process is writing to {folder}: wait until it is done, or name another "
                "folder"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def _lock_of(folder: Path) -> tuple[int, Callable[[int], None]]:
    """What is to be locked, and how; closing it lets go."""
    try:
        import fcntl
    except ImportError:  # Windows, which locks no folders: a file stands for this one
        msvcrt = importlib.import_module("msvcrt")
        name = hashlib.sha256(os.path.normcase(folder.resolve()).encode()).hexdigest()[:16]
        file = Path(tempfile.gettempdir()) / f"lemae-{name}.lock"
        handle = os.open(file, os.O_RDWR | os.O_CREAT)
        return handle, lambda handle: msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    handle = os.open(folder, os.O_RDONLY)
    return handle, lambda handle: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def strangers(folder: Path) -> list[str]:
    """Names of what a folder holds that no run writes."""
    return sorted(path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name))


def empty(folder: Path) -> None:
    """Delete what a folder holds, but not the folder, which may be :func:`locked`."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def finished(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Results of a run that was finished with these settings, None if there is none.

    Raises:
        ConfigError: if it had other settings, or its summary is damaged or of something else.
    """
    if not (folder / SUMMARY).is_file():
        return None
    summary = read(folder / SUMMARY)
    if summary is None:
        raise ConfigError(f"{folder / SUMMARY} is not of a training run: name another folder")
    if summary["settings"] != json.loads(json.dumps(settings)):
        raise ConfigError(
            f"{folder} holds a run with other settings: name another folder, or remove that one"
        )
    results: dict[str, Any] = summary["results"]
    return {**results, **read_arrays(folder)}


def read(path: Path) -> dict[str, Any] | None:
    """Read the summary of a run, None if it is of something else than training.

    Settings that a run of an earlier version did not know have their defaults.

    Raises:
        ConfigError: if it is damaged.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged ({error}): move it away") from error
    try:
        task = summary["settings"]["task"]
        found = {
            **summary,
            "settings": {**asdict(Settings(task)), **summary["settings"]},
            "results": dict(summary["results"]),
        }
        if not found["results"]["curve"]:
            return None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    try:
        _check(found["settings"], found["results"])
    except (KeyError, TypeError, ConfigError) as error:
        raise ConfigError(f"{path} is damaged ({error!r}): move it away") from error
    return found


def _check(settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Raise an error if what is read of a summary is missing or of another type."""
    known = {one.name for one in fields(Settings)}
    check_fields({name: value for name, value in settings.items() if name in known})
    numbers = [results[name] for name in ("win_rate_sampled", "win_rate_greedy", "seconds")]
    numbers += [results[name] or 0 for name in ("first_success_step", "steps")]
    numbers += [point[name] for point in results["curve"] for name in ("step", "sampled")]
    for value in numbers:
        math.isfinite(value)  # takes nothing but numbers


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what is too long for the summary, by name."""
    with (folder / ARRAYS).open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Read what :func:`write_arrays` wrote; no code of a file is run.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    path = folder / ARRAYS
    try:
        with np.load(path, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}
    except Exception as error:  # of many kinds, by what the damage is
        raise ConfigError(f"{path} is missing or damaged ({error}): move the run away") from error


class Checkpoint:
    """The checkpoint in a run's folder.

    Args:
        folder: made when the log is opened.
        settings: of the run, in JSON's types.
        inputs: SHA-256 of what the run reads from files, by setting.
        every_s: seconds between two of them; None for none.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        inputs: Mapping[str, str],
        every_s: float | None,
    ) -> None:
        self.folder = folder
        self.path = folder / CHECKPOINT
        self.settings = settings
        self.inputs = dict(inputs)
        self.every_s = every_s
        self._saved_at_s = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state last saved; None if there is none.

        Raises:
            ConfigError: if it was saved with other settings.
            IntegrityError: if it is damaged.
            StateError: if another version saved it, or what the run reads from files has changed.
        """
        if not self.path.is_file():
            return None
        saved = load_tensors(self.path)
        version = saved.get("version", __version__)
        if version != __version__:
            raise StateError(
                f"{self.path} was written by lemae {version}, and this is {__version__}: go on "
                f"with lemae {version}, or begin anew in another folder (--out)"
            )
        if saved.keys() != {"version", "settings", "inputs", "state"}:
            raise IntegrityError(
                f"{self.path} is no checkpoint: remove {self.folder} to begin the run anew"
            )
        if saved["settings"] != self.settings:
            raise ConfigError(
                f"{self.folder} holds an interrupted run with other settings: name another folder, "
                "or remove that one"
            )
        check_inputs(self.folder, saved["inputs"], self.inputs)
        state: dict[str, Any] = saved["state"]
        return state

    def is_due(self) -> bool:
        """Whether the last one is old enough."""
        return self.every_s is not None and time.monotonic() - self._saved_at_s >= self.every_s

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state in one move; a run that is killed meanwhile keeps the old one."""
        saved = {"version": __version__, "settings": self.settings, "inputs": self.inputs}
        save_tensors({**saved, "state": state}, self.path)
        self._saved_at_s = time.monotonic()  # writing a large one does not count

    def open_log(self, steps: int, *, tensorboard: bool = False) -> RunFolder:
        """Open the folder for a run that goes on at ``steps``; what was logged later is dropped.

        Raises:
            ConfigError: if the folder holds files that no run writes.
            IntegrityError: if the log is damaged.
            MissingExtraError: without TensorBoard, if that was asked for.
        """
        if not self.path.is_file():
            return _start(self.folder, tensorboard=tensorboard)
        for path in self.folder.iterdir():
            if _SCRATCH.fullmatch(path.name):
                path.unlink()
        metrics = self.folder / METRICS
        try:
            log = _opened(self.folder, tensorboard=tensorboard, steps=steps, resume=True)
            if metrics.is_file():
                lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
                write_text_atomic(
                    metrics, "".join(line for line in lines if json.loads(line)["step"] <= steps)
                )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise IntegrityError(
                f"{metrics} is damaged ({error}): move it away to go on without what was logged"
            ) from error
        return log

    def remove(self) -> None:
        """Delete it; a finished run needs none."""
        self.path.unlink(missing_ok=True)


def _opened(folder: Path, *, tensorboard: bool, steps: int | None = None, **how: bool) -> RunFolder:
    """A run folder, with event files if they are asked for.

    Raises:
        MissingExtraError: without TensorBoard.
    """
    if not tensorboard:
        return RunFolder(folder, **how)
    try:
        return TensorBoardFolder(folder, steps=steps, **how)
    except ImportError as error:
        raise MissingExtraError(
            'event files need TensorBoard: pip install "lemae[tensorboard]"'
        ) from error


def _start(folder: Path, *, tensorboard: bool) -> RunFolder:
    """Empty the folder of a run that has no checkpoint, unless it holds anything of others."""
    if strange := strangers(folder):
        raise ConfigError(
            f"{folder} holds {', '.join(strange[:5])}, which no run wrote and which would be lost: "
            "name another folder, or move them away"
        )
    empty(folder)
    return _opened(folder, tensorboard=tensorboard, resume=True)


def check_inputs(folder: Path, saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to take a run of other inputs for that of these.

    Args:
        folder: of the run.
        saved: SHA-256 of what the run read, by setting.
        now: of what it would read.

    Raises:
        StateError: if one differs.
    """
    # A run of an earlier version did not say what it read.
    changed = [name for name in now if saved.get(name, now[name]) != now[name]]
    if changed:
        raise StateError(
            f"{folder} holds a run that was begun with other contents of {', '.join(changed)}: "
            "restore them, or name another folder"
        )


@contextlib.contextmanager
def read_from(path: Path) -> Iterator[None]:
    """Say of which file a state is that does not fit.

    Raises:
        StateError: the same, with the file and what to do.
    """
    try:
        yield
    except StateError as error:
        raise StateError(
            f"{path} cannot be used: {error}. If the task or lemae has changed since it was "
            "written, restore that, or begin anew in another folder (--out)"
        ) from error


def save_tensors(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors, NumPy arrays and plain values, replacing the file in one move.

    Behind what torch writes and reads comes the SHA-256 of it: one file cannot disagree with
    itself, wherever the writing is cut off.
    """
    import torch

    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(_packed(state), scratch)
        with scratch.open("r+b") as stream:
            stream.write(_sha256(stream, scratch.stat().st_size))
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what :func:`save_tensors` wrote; no code of a file is run.

    Raises:
        IntegrityError: if the file is missing or damaged.
    """
    import torch

    try:
        with path.open("rb") as stream:
            found = _sha256(stream, path.stat().st_size - _DIGEST_BYTES)
            if found != stream.read():
                raise ValueError(
                    f"its SHA-256 is {found.hex()[:12]}..., not the one that was saved at its end"
                )
        state: dict[str, Any] = _unpacked(torch.load(path, weights_only=True))
    except Exception as error:  # of many kinds, by what the damage is
        raise IntegrityError(
            f"{path} is damaged ({error}): restore it, or remove {path.parent} to begin the run "
            "anew"
        ) from error
    return state


_DIGEST_BYTES = 32


def _sha256(stream: BinaryIO, length: int) -> bytes:
    """Of the next ``length`` bytes, which are read in parts: they can fill most of the memory."""
    digest = hashlib.sha256()
    while part := stream.read(min(max(length, 0), 2**20)):
        digest.update(part)
        length -= len(part)
    return digest.digest()


def _packed(value: Any) -> Any:
    """``value`` with tensors, marked as such, in place of NumPy's arrays and numbers."""
    import torch

    if isinstance(value, np.ndarray):
        # Copied only where torch could not share it: a replay can fill most of the memory.
        return {_ARRAY: torch.from_numpy(np.require(value, requirements=["C", "W"]))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_packed(item) for item in value)
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {key: _unpacked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unpacked(item) for item in value)
    return value


_ARRAY = "numpy array"
