"""The program of the child process. It is started as a file, and knows no package by name.

Protocol: standard input holds one line of JSON, the job, and then the bytes of its arrays. Standard
output gets one line of JSON with the isolation that holds, before any generated code runs, and then
for every call one line of JSON and the bytes of its arrays.

Arguments: this folder, the folder that holds numpy.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

_NOBODY = 65534
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 38, 4
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446  # system calls, the same on all architectures
_LANDLOCK_RIGHTS = (13, 13, 14, 15, 15, 16)  # kinds of file access that version i + 1 knows
_MAX_MESSAGE = 600
_FILE_NAME = "<generated>"


def main() -> None:
    """Read the job, give up every right, run the calls."""
    folder, numpy_folder = sys.argv[1:3]
    sys.path.append(numpy_folder)
    # A package made of nothing, so that the neighbours can be imported without their own package.
    package = types.ModuleType("generated_code")
    package.__path__ = [folder]
    sys.modules["generated_code"] = package
    np = importlib.import_module("numpy")
    importlib.import_module("unicodedata")  # Python would, to read names beyond ASCII
    with contextlib.suppress(ImportError):
        importlib.import_module("numpy.ma")  # np.median would, when no file can be opened any more
    policy_module = importlib.import_module("generated_code.policy")
    loading = importlib.import_module("generated_code.loading")

    job = json.loads(sys.stdin.buffer.readline())
    calls = [[_read_array(np, item) for item in arrays] for arrays in job["calls"]]
    policy = policy_module.policy_from_json(job["policy"])
    if not job["guarded"]:
        _import_tools()
    results = _take_over_output()
    _write(results, {"isolation": isolate(job["limits"])})

    source = job["source"]
    try:
        if job["guarded"]:
            function = loading.load(source, policy)
        else:
            function = _load_unguarded(source, policy.entry)
    except Exception as error:
        for _ in calls:
            _write(results, {"error": describe(error, source), "seconds": 0.0})
        return
    for arrays in calls:
        _run_call(np, function, arrays, source, results)


def _import_tools() -> None:
    """For tests of the isolation alone: what an attacker would want to import later."""
    for name in ("_socket", "resource", "signal"):
        importlib.import_module(name)


def _load_unguarded(source: str, entry: str) -> Callable[..., Any]:
    """For tests of the isolation alone: the source with everything that Python offers."""
    namespace: dict[str, Any] = {"__name__": "generated"}
    exec(compile(source, _FILE_NAME, "exec"), namespace)
    function: Callable[..., Any] = namespace[entry]
    return function


# --- calls --------------------------------------------------------------------------------------


def _run_call(
    np: Any, function: Callable[..., Any], arrays: list[Any], source: str, results: BinaryIO
) -> None:
    inputs = [array.copy() for array in arrays]
    for array in inputs:
        array.setflags(write=False)
    start = time.perf_counter()
    header: dict[str, Any] = {}
    outputs: list[Any] = []
    try:
        result = function(*inputs)
        header["returned"] = describe_type(np, result)
        outputs = _as_arrays(np, result)
    except Exception as error:
        header["error"] = describe(error, source)
    header["seconds"] = time.perf_counter() - start
    header["changed"] = [
        place
        for place, (new, old) in enumerate(zip(inputs, arrays, strict=True))
        if new.tobytes() != old.tobytes()
    ]
    header["outputs"] = [{"dtype": out.dtype.str, "shape": list(out.shape)} for out in outputs]
    _write(results, header, *(out.tobytes() for out in outputs))


def _as_arrays(np: Any, result: Any) -> list[Any]:
    """The arrays of a result: a list or tuple of arrays or numbers, or one array or number."""
    items = list(result) if isinstance(result, list | tuple) else [result]
    for place, item in enumerate(items):
        number = isinstance(item, int | float | np.generic | np.ndarray)
        if not number or np.asarray(item).dtype.kind not in "biuf":
            raise TypeError(f"item {place} of the result is {describe_type(np, item)}, no array")
    return [np.asarray(item) for item in items]


def describe_type(np: Any, value: Any) -> str:
    """What a function returned, in words."""
    if isinstance(value, np.ndarray):
        return f"ndarray of dtype {value.dtype} and shape {value.shape}"
    if isinstance(value, list | tuple):
        arrays = sum(isinstance(item, np.ndarray) for item in value)
        rest = f" and {len(value) - arrays} other item(s)" if arrays < len(value) else ""
        return f"{type(value).__name__} of {arrays} array(s){rest}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def describe(error: BaseException, source: str) -> str:
    """Kind and text of an error, and the line of the source it came from."""
    line = 0
    if isinstance(error, SyntaxError):
        line = error.lineno or 0
    for frame in traceback.extract_tb(error.__traceback__, limit=200):
        if frame.filename == _FILE_NAME:
            line = frame.lineno or line
    lines = source.split("\n")
    text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    place = f" (line {line}: {text[:120]})" if text else ""
    return f"{type(error).__name__}: {str(error)[:_MAX_MESSAGE]}{place}"


# --- the pipe -----------------------------------------------------------------------------------


def _read_array(np: Any, item: dict[str, Any]) -> Any:
    dtype = np.dtype(item["dtype"])
    count = 1
    for length in item["shape"]:
        count *= length
    content = sys.stdin.buffer.read(count * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(item["shape"])


def _take_over_output() -> BinaryIO:
    """Keep the pipe for results alone: what is printed goes nowhere."""
    results = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    os.close(null)
    return results


def _write(results: BinaryIO, header: dict[str, Any], *contents: bytes) -> None:
    results.write(json.dumps(header).encode() + b"\n")
    results.writelines(contents)
    results.flush()


# --- isolation ----------------------------------------------------------------------------------


def isolate(limits: dict[str, Any]) -> list[str]:
    """Give up what the kernel lets a process give up.

    Args:
        limits: memory and processor time.

    Returns:
        Name of everything that worked.
    """
    held = ["process"]
    if os.name != "posix":
        return held
    wanted = _resource_limits(limits)  # reads a file, as nothing below can
    was_root = os.getuid() == 0
    if was_root and _unshare(_CLONE_NEWNET):
        held.append("network namespace")
    with contextlib.suppress(OSError):
        if was_root:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            held.append("user nobody")
    if "network namespace" not in held and _unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        held.append("network namespace")
    if _restrict_files():
        held.append("landlock")
    if _limit_resources(wanted):
        held.append("resource limits")
    return held


def _unshare(flags: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).unshare(flags) == 0)
    except (AttributeError, OSError):  # not Linux
        return False


def _restrict_files() -> bool:
    """Refuse every access to files by path, also deleting and renaming, for good."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
        if version < 1 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            return False
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no tracing by, and no look at, neighbours
        kinds = _LANDLOCK_RIGHTS[min(version, len(_LANDLOCK_RIGHTS)) - 1]
        rights = ctypes.c_uint64((1 << kinds) - 1)
        ruleset = libc.syscall(
            _LANDLOCK_CREATE,
            ctypes.byref(rights),
            ctypes.c_size_t(ctypes.sizeof(rights)),
            ctypes.c_uint32(0),
        )
        if ruleset < 0:
            return False
        held = libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0
        os.close(ruleset)
    except (AttributeError, OSError):
        return False
    return bool(held)


def _resource_limits(limits: dict[str, Any]) -> list[tuple[int, int]]:
    """Limit and value, in the order in which to set them."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CPU": int(used.ru_utime + used.ru_stime + limits["cpu_s"]) + 1,
        "RLIMIT_AS": _address_space_bytes() + limits["memory_bytes"],
        "RLIMIT_NOFILE": 0,  # last: what is open stays open, nothing else can be opened
    }
    return [(getattr(resource, name, -1), value) for name, value in wanted.items()]


def _limit_resources(wanted: list[tuple[int, int]]) -> bool:
    """Set limits that no later code can raise; every one is tried, all must hold."""
    import resource

    held = True
    for limit, value in wanted:
        try:
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError):
            held = False
    return held


def _address_space_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return 1 << 30  # no /proc: a generous guess of what numpy maps
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
