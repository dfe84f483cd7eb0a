"""A command line called within this process, for tests: no seconds pass until torch is imported."""

from __future__ import annotations

import contextlib
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
    """Call ``main`` as the interpreter would in a process of its own.

    Modules that it imports from ``folder`` are forgotten: another folder may have others of their
    name.

    Args:
        main: of a command line; ends with ``SystemExit``.
        arguments: behind the command's name.
        folder: to be in meanwhile.
        environment: variables that differ meanwhile.

    Raises:
        Exception: what ``main`` lets pass.
    """
    here, modules = Path.cwd(), set(sys.modules)
    there = (folder or here).resolve()
    out, err, code = io.StringIO(), io.StringIO(), None
    with (
        mock.patch.dict(os.environ, environment or {}),
        mock.patch.object(sys, "argv", ["command", *map(str, arguments)]),
        mock.patch.object(sys, "path", ["", *sys.path]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.resetwarnings()
        os.chdir(there)
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            os.chdir(here)
            for name in set(sys.modules) - modules:
                if Path(getattr(sys.modules[name], "__file__", None) or here).parent == there:
                    del sys.modules[name]
    return Invoked(code, out.getvalue(), err.getvalue())
