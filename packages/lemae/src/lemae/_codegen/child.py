"""First run of generated code: in a fresh process without rights, memory or time to do harm.

The child starts with an empty environment in an empty folder, imports numpy, gives up what the
kernel lets it give up (see :mod:`runner`), and only then looks at the code. What it sends back is
data of a stranger: read up to a limit, never unpickled, and checked before an array is made of it.

On systems without POSIX only the time limit holds; :attr:`ChildReport.isolation` tells.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .allowlist import CheckedCode
from .errors import ExecutionError
from .policy import Policy, policy_to_json

Array = NDArray[Any]

_log = logging.getLogger(__name__)
_RUNNER = Path(__file__).with_name("runner.py")
_MAX_HEADER_BYTES = 65_536
_MAX_AXES = 32
_DTYPES = frozenset(
    ["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
)
_EXPECTED = ("network namespace", "landlock", "resource limits")
# What the loader of shared libraries needs to find Python's own; nothing else is passed on.
_LOADER_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True)
class Limits:
    """What one child process may use.

    Attributes:
        memory_bytes: address space beyond what the process has with numpy imported.
        cpu_s: processor time of the generated code.
        wall_s: time from start to end, the start of Python included.
        output_bytes: everything the child may send.
    """

    memory_bytes: int = 3 << 29
    cpu_s: float = 10.0
    wall_s: float = 10.0
    output_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value!r}: give a positive number")


@dataclass(frozen=True)
class Outcome:
    """What one call did.

    Attributes:
        outputs: the returned arrays, copies of dtype bool, integer or float; None after an error.
            A single array is a tuple of one, a number an array of shape ().
        returned: what was returned, in words, such as ``"list of 4 array(s)"``; empty if nothing.
        error: kind and text of the error and the line of the source it came from, or None.
        changed_inputs: places of the arguments that the call changed, although they are read-only.
        seconds: duration of the call.
    """

    outputs: tuple[Array, ...] | None
    returned: str
    error: str | None
    changed_inputs: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class ChildReport:
    """What a child process did.

    Attributes:
        outcomes: one for each call, in order.
        isolation: everything that held while the code ran, of ``"process"``, ``"user nobody"``,
            ``"network namespace"``, ``"landlock"`` (no access to files by path) and ``"resource
            limits"`` (memory, processor time, no new files, no new processes).
        seconds: from start to end.
    """

    outcomes: tuple[Outcome, ...]
    isolation: tuple[str, ...]
    seconds: float


def run_in_child(
    code: CheckedCode,
    policy: Policy,
    calls: Sequence[tuple[Array, ...]],
    limits: Limits | None = None,
) -> ChildReport:
    """Run checked code on given arrays in a process of its own.

    Args:
        code: what :func:`check` returned.
        policy: the same policy.
        calls: for each call its arguments, arrays of dtype bool, integer or float. They are copied.
        limits: memory, time and size of the output.

    Returns:
        What every call did. Errors of the generated code are part of it, and so is running out of
        memory, as far as Python can still tell.

    Raises:
        ExecutionError: if the process cannot start, dies, or goes over time or output; if an
            argument is no array of numbers; or if what the child sends makes no sense.
    """
    return _run(code.source, policy, calls, limits or Limits(), guarded=True)


def _run(
    source: str,
    policy: Policy,
    calls: Sequence[tuple[Array, ...]],
    limits: Limits,
    *,
    guarded: bool,
) -> ChildReport:
    """Run source; ``guarded=False`` leaves everything to the isolation, as its tests need."""
    header, contents = _job(source, policy, calls, limits, guarded)
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="generated-") as folder,
        tempfile.TemporaryFile() as job,
        tempfile.TemporaryFile() as complaints,
    ):
        # A file and not a pipe: a child that does not read cannot block the parent.
        job.write(json.dumps(header).encode() + b"\n")
        job.writelines(contents)
        job.seek(0)
        output, ending = _communicate(folder, job, complaints, limits)
        seconds = time.monotonic() - start
        isolation, outcomes = _parse(output, len(calls))
        if len(outcomes) < len(calls):
            raise ExecutionError(
                _explain(ending, len(outcomes), calls, bool(isolation), _tail(complaints)),
                isolation,
            )
    _warn_of_missing(isolation)
    return ChildReport(outcomes, isolation, seconds)


def _job(
    source: str,
    policy: Policy,
    calls: Sequence[tuple[Array, ...]],
    limits: Limits,
    guarded: bool,
) -> tuple[dict[str, Any], list[bytes]]:
    shapes, contents = [], []
    for number, arrays in enumerate(calls):
        items = []
        for place, value in enumerate(arrays):
            array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            if array.dtype.str not in _DTYPES:
                raise ExecutionError(
                    f"argument {place} of call {number} has dtype {array.dtype}: give an array of "
                    "numbers or booleans"
                )
            items.append({"dtype": array.dtype.str, "shape": list(array.shape)})
            contents.append(array.tobytes())
        shapes.append(items)
    header = {
        "source": source,
        "policy": policy_to_json(policy),
        "limits": asdict(limits),
        "guarded": guarded,
        "calls": shapes,
    }
    return header, contents


# --- the process --------------------------------------------------------------------------------


def _communicate(
    folder: str, job: IO[bytes], complaints: IO[bytes], limits: Limits
) -> tuple[bytes, str]:
    """Run the child to its end and give what it wrote, and in words how it ended."""
    numpy_folder = Path(np.__file__).parents[1]
    command = [
        sys.executable,
        "-I",
        "-S",
        "-B",
        str(_RUNNER),
        str(_RUNNER.parent),
        str(numpy_folder),
    ]
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment |= {name: os.environ[name] for name in _LOADER_VARIABLES if name in os.environ}
    try:
        process = subprocess.Popen(
            command,
            stdin=job,
            stdout=subprocess.PIPE,
            stderr=complaints,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise ExecutionError(f"no child process could be started: {error}") from error
    assert process.stdout is not None
    output = bytearray()
    reader = threading.Thread(
        target=_read, args=(process.stdout, output, limits.output_bytes), daemon=True
    )
    deadline = time.monotonic() + limits.wall_s
    try:
        reader.start()
        reader.join(limits.wall_s)
        timed_out = reader.is_alive()
        overflowed = len(output) > limits.output_bytes
        if not timed_out and not overflowed:
            timed_out = not _ended(process, deadline)
    finally:
        _kill(process)
        reader.join(1.0)
        if not reader.is_alive():
            process.stdout.close()
    if timed_out:
        return bytes(output), f"did not end within {limits.wall_s:g} s and was killed"
    if overflowed:
        return bytes(output), f"sent more than {limits.output_bytes} bytes and was killed"
    return bytes(output), _describe_status(process.returncode, limits)


def _read(stream: IO[bytes], output: bytearray, most: int) -> None:
    """Read until the end, or until there is more than ``most``."""
    try:
        while len(output) <= most:
            chunk = os.read(stream.fileno(), 65_536)
            if not chunk:
                return
            output += chunk
    except (OSError, ValueError):  # closed meanwhile
        return


def _ended(process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait for a child that closed its output; whether it ended in time."""
    try:
        process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and all processes of its group."""
    try:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass  # it ended by itself
    process.wait()


def _describe_status(status: int, limits: Limits) -> str:
    cpu_signals = {-getattr(signal, name, 0) for name in ("SIGXCPU", "SIGKILL")}
    if status < 0 and status in cpu_signals:
        return f"was killed, most likely after {limits.cpu_s:g} s of processor time"
    if status < 0:
        return f"died of signal {-status}"
    return f"ended with status {status}"


def _explain(
    ending: str,
    done: int,
    calls: Sequence[tuple[Array, ...]],
    ready: bool,
    complaints: str,
) -> str:
    """What to say of a child that did not answer every call."""
    said = f"; it wrote: {complaints}" if complaints else ""
    if not ready:
        return f"the child process {ending} before it was ready to run code{said}"
    shapes = ", ".join(str(np.shape(array)) for array in calls[done])
    return (
        f"the child process {ending} in call {done + 1} of {len(calls)}, with arrays of shape "
        f"{shapes}: the code must be fast, need little memory, and return small arrays{said}"
    )


def _tail(stream: IO[bytes]) -> str:
    """The end of what the child complained about, printable."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - 1000, 0))
    text = stream.read(1000).decode("ascii", "replace")
    return " ".join(part for part in text.split() if part.isprintable())


@functools.cache
def _warn_once(missing: tuple[str, ...]) -> None:
    _log.warning(
        "generated code runs in a child process without: %s. This system does not offer it; the "
        "allow-list and the time limit still hold",
        ", ".join(missing),
    )


def _warn_of_missing(isolation: tuple[str, ...]) -> None:
    missing = tuple(name for name in _EXPECTED if name not in isolation)
    if missing:
        _warn_once(missing)


# --- what it sent -------------------------------------------------------------------------------


class _NonsenseError(Exception):
    """What the child sent is not what a working child sends."""


def _parse(output: bytes, n_calls: int) -> tuple[tuple[str, ...], tuple[Outcome, ...]]:
    """Read everything that is complete. Whatever the bytes are, only checked values come out."""
    isolation: tuple[str, ...] = ()
    outcomes: list[Outcome] = []
    view = memoryview(output)
    try:
        header, view = _header(view)
        if header is None:
            return (), ()
        isolation = _strings(header.get("isolation"))
        while len(outcomes) < n_calls:
            header, view = _header(view)
            if header is None:
                return isolation, tuple(outcomes)
            outcome, view = _outcome(header, view)
            if outcome is None:
                return isolation, tuple(outcomes)
            outcomes.append(outcome)
        if len(view):
            raise _NonsenseError("more than the results")
    except _NonsenseError as error:
        raise ExecutionError(
            f"the child process sent {error}: only the returned arrays may leave it", isolation
        ) from None
    return isolation, tuple(outcomes)


def _header(view: memoryview) -> tuple[dict[str, Any] | None, memoryview]:
    """The next line as a JSON object; None where the output ends before its end."""
    head = bytes(view[:_MAX_HEADER_BYTES])
    end = head.find(b"\n")
    if end < 0:
        if len(head) == _MAX_HEADER_BYTES:
            raise _NonsenseError("an endless header")
        return None, view
    try:
        header = json.loads(head[:end])
    except (ValueError, RecursionError):
        raise _NonsenseError("a header that is no JSON") from None
    if not isinstance(header, dict):
        raise _NonsenseError("a header that is no object")
    return header, view[end + 1 :]


def _outcome(header: dict[str, Any], view: memoryview) -> tuple[Outcome | None, memoryview]:
    error, returned = header.get("error"), header.get("returned", "")
    seconds = header.get("seconds", 0.0)
    if not isinstance(error, str | None) or not isinstance(returned, str):
        raise _NonsenseError("a header with wrong types")
    if not isinstance(seconds, float | int) or not 0 <= seconds < math.inf:
        raise _NonsenseError("a header with wrong types")
    changed = header.get("changed", [])
    if not isinstance(changed, list) or not all(type(place) is int for place in changed):
        raise _NonsenseError("a header with wrong types")
    described = header.get("outputs", [])
    if not isinstance(described, list):
        raise _NonsenseError("a header with wrong types")
    arrays: list[Array] = []
    for item in described:
        array, view = _array(item, view)
        if array is None:
            return None, view
        arrays.append(array)
    outputs = None if error is not None else tuple(arrays)
    return Outcome(outputs, returned, error, tuple(changed), float(seconds)), view


def _array(item: Any, view: memoryview) -> tuple[Array | None, memoryview]:
    """The next array; None where the output ends before its end."""
    if not isinstance(item, dict) or item.get("dtype") not in list(_DTYPES):
        raise _NonsenseError("an array of a strange dtype")
    shape = item.get("shape")
    plain = isinstance(shape, list) and len(shape) <= _MAX_AXES
    if not plain or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape or ()):
        raise _NonsenseError("an array of a strange shape")
    dtype = np.dtype(item["dtype"])
    size = math.prod(shape or []) * dtype.itemsize
    if size > len(view):
        return None, view
    try:
        array = np.frombuffer(view[:size], dtype).reshape(shape or ()).copy()
    except ValueError:
        raise _NonsenseError("an array of a strange shape") from None
    return array, view[size:]


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _NonsenseError("a first line that is not its own")
    return tuple(value)
