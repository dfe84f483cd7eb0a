"""A command line called within this process, for tests: without the seconds that imports take."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock


@dataclass(frozen=True)
class Invoked:
    """How a command ended and what it wrote."""

    code: int | str | None
    stdout: str
    stderr: str


def invoke(
    main: Callable[[], None],
    arguments: Sequence[object],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Invoked:
    """Call ``main`` nearly as in a process of its own.

    What child processes and libraries in C write is not caught. Modules that ``main`` imports from
    ``folder`` are forgotten: another folder may have others of their name.

    Args:
        main: of a command line; ends with ``SystemExit``.
        arguments: behind the command's name.
        folder: to be in meanwhile.
        environment: variables that differ meanwhile.

    Raises:
        KeyboardInterrupt: if somebody interrupts it.
        Exception: what ``main`` lets pass.
    """
    here, modules = Path.cwd(), set(sys.modules)
    there = (folder or here).resolve()
    importlib.invalidate_caches()  # a module may have been written just now
    out, err, code = io.StringIO(), io.StringIO(), None
    with (
        mock.patch.dict(os.environ, environment or {}),
        mock.patch.object(sys, "argv", ["command", *map(str, arguments)]),
        mock.patch.object(sys, "path", list(sys.path)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.resetwarnings()
        for name in ("Deprecation", "PendingDeprecation", "Import", "Resource"):  # as Python does
            warnings.simplefilter("ignore", getattr(builtins, f"{name}Warning"))
        os.chdir(there)
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(here)
            for name in set(sys.modules) - modules:
                file = getattr(sys.modules[name], "__file__", None)
                if folder and file and Path(file).is_relative_to(there):
                    del sys.modules[name]
    if code == 130:
        raise KeyboardInterrupt
    return Invoked(code, out.getvalue(), err.getvalue())
