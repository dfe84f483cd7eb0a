"""The largest memory of one step, over what was there before it.

On CUDA the allocator counts it. On a processor it is the resident size of a process that does
nothing else: a server imports torch once and forks for every competitor, so that each starts from
the same state and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lowmem_bp.bench.blocks import Case, Inside
from lowmem_bp.bench.competitors import COMPETITORS, Unavailable, is_compiled, reason
from lowmem_bp.bench.step import Stepper

#: Seconds that one competitor may take, compilation included.
LIMIT_S = 300

_SERVE = "from lowmem_bp.bench.peak import serve; serve()"
_ENVIRONMENT = {
    # Every large tensor gets pages of its own, given back when it is freed: what is resident is
    # then what is alive.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # a pool of compilers would outlive the measurement
}


def cuda_peak(case: Case, model: Inside) -> int:
    """Return the bytes that one step allocates at most, over those allocated before it."""
    stepper = Stepper(case)
    stepper(model)
    before = torch.cuda.memory_allocated(case.device)
    torch.cuda.reset_peak_memory_stats(case.device)
    stepper(model)
    return torch.cuda.max_memory_allocated(case.device) - before


def process_peaks(case: Case, names: Sequence[str], backend: str) -> dict[str, int | str]:
    """Return for each competitor the bytes by which one step grows a process, or why not.

    Args:
        case: On a processor.
        names: Of competitors.
        backend: Of the modes of this package.
    """
    if not hasattr(os, "fork"):
        return dict.fromkeys(names, "this system cannot fork processes")
    request = {
        "case": asdict(case),
        "names": list(names),
        "backend": backend,
        "threads": torch.get_num_threads(),
    }
    done = subprocess.run(
        [sys.executable, "-c", _SERVE],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, **_ENVIRONMENT},
    )
    found: dict[str, int | str] = dict.fromkeys(names, _last_line(done.stderr))
    for line in done.stdout.splitlines():
        found.update(json.loads(line))
    return found


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f"the measuring process failed: {lines[-1] if lines else 'it said nothing'}"


def serve() -> None:
    """Read a request from stdin; write one JSON object per competitor to stdout."""
    request = json.load(sys.stdin)
    case = Case(**request["case"])
    out = os.dup(1)
    os.dup2(2, 1)  # what compilers print is not an answer
    for name in request["names"]:

        def work(name: str = name) -> int:
            torch.set_num_threads(request["threads"])
            return _growth(case, name, request["backend"])

        os.write(out, (json.dumps({name: _in_a_fork(work)}) + "\n").encode())


def _in_a_fork(work: Callable[[], int]) -> int | str:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(LIMIT_S)
            os.write(write, json.dumps(_attempt(work)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        answer = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if answer:
        result: int | str = json.loads(answer)
        return result
    if status == -signal.SIGALRM:
        return f"it took over {LIMIT_S} s"
    return f"its process ended with status {status}: killed for memory, or crashed"


def _attempt(work: Callable[[], int]) -> int | str:
    try:
        return work()
    except Exception as error:
        return reason(error)


def _growth(case: Case, name: str, backend: str) -> int:
    model = case.build()
    COMPETITORS[name](model, case, backend)
    stepper = Stepper(case)
    if _reset_peak():
        stepper(model)  # compilers, thread pools and lookup tables are no part of a step
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        _reset_peak()
        before = _status("VmRSS")
        stepper(model)
        return _status("VmHWM") - before
    if is_compiled(name):
        raise Unavailable("the compiler's own memory cannot be told apart on this system")
    before = _largest_resident()
    stepper(model)
    return _largest_resident() - before


def _reset_peak() -> bool:
    """Let Linux forget the peak resident size so far; False where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _largest_resident() -> int:
    import resource

    size: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(size) * (1 if sys.platform == "darwin" else 1024)
