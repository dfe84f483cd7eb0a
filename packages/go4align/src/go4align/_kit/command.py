"""What all command lines have in common: options, tables, JSON, what goes where, exit codes.

Needs typer and rich, which every package depends on. Nothing else of this folder imports it.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .errors import KitError

PACKAGE = __name__.partition(".")[0]
COMMAND = PACKAGE.replace("_", "-")
MOST_SEEDS = 10_000

# --- options ----------------------------------------------------------------------------------

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document in place of tables.")
]
SeedOption = Annotated[int, typer.Option(min=0, max=10**9, help="Of everything random.")]
SeedsOption = Annotated[str, typer.Option(help="Such as 0..4, or 0,3,5.")]
JobsOption = Annotated[int, typer.Option(min=1, help="Processes, one thread each.")]
DeviceOption = Annotated[str, typer.Option(help="Where to run, as torch names it: cpu, cuda:1.")]
DemoOutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        file_okay=False,
        help="Folder for the results; emptied first if it is one the demo wrote.",
    ),
]
RunsOption = Annotated[
    Path, typer.Option("--out", file_okay=False, help="Folder; finished runs in it are kept.")
]
RunsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", exists=True, file_okay=False, help="Holds run folders, at any depth."
    ),
]


def numbers(text: str) -> list[int]:
    """The numbers that ``--seeds`` names, each once, in the order given.

    Args:
        text: such as ``"0..4"``, ``"0,3,5"`` or ``"0..2,7"``.

    Raises:
        typer.BadParameter: if it is something else, or names no seed or very many.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:\.\.\s*([0-9]{1,9})\s*)?", part)
        if match is None:
            raise typer.BadParameter(f"{text!r}: expected 0..4, or 0,3,5", param_hint="--seeds")
        some = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(some) > MOST_SEEDS:
            raise typer.BadParameter(
                f"{text!r} are {len(some)} runs: give at most {MOST_SEEDS} seeds",
                param_hint="--seeds",
            )
        found |= dict.fromkeys(some)
    if not found:
        raise typer.BadParameter(f"{text!r} holds no seed", param_hint="--seeds")
    return list(found)


def of_demo(out: Path, is_of_demo: Callable[[Path], bool]) -> bool:
    """Whether a demo's folder is to be emptied first.

    Args:
        out: the folder, there or not.
        is_of_demo: whether all that a folder holds was written by an earlier demo.

    Raises:
        typer.BadParameter: if it holds anything else.
    """
    ours = is_of_demo(out)
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise typer.BadParameter(
            f"{out} has content that the demo did not write: name another folder, or move it away",
            param_hint="--out",
        )
    return ours


# --- output -----------------------------------------------------------------------------------


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", left: Sequence[str] = ()
) -> None:
    """Print a table to stdout.

    Args:
        head: headings.
        rows: cells, plain text.
        title: a line above.
        left: columns of text; the first is one, and the others are aligned right, as numbers are.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for i, name in enumerate(head):
        table.add_column(
            escape(name), justify="left" if i == 0 or name in left else "right", no_wrap=i == 0
        )
    for row in rows:
        table.add_row(*map(escape, row))  # names are not markup
    # A table cut to fit a pipe is of no use: give it the width it needs.
    console = Console(width=None if sys.stdout.isatty() else 160)
    if title:  # not as part of the table, which would wrap it to its own width
        console.print(title, markup=False, highlight=False)
    console.print(table)


def print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print names and values, as a table or as JSON."""
    if as_json:
        print_json(facts)
    else:
        print_table(["what", "value"], [[n, str(v)] for n, v in facts.items()], left=["value"])


def print_json(value: Any) -> None:
    """Print a JSON document to stdout; numbers that are not finite become strings."""
    from .run import _plain

    sys.stdout.write(json.dumps(_plain(value), indent=1) + "\n")


def print_text(text: str) -> None:
    """Print a text to stdout as it is."""
    sys.stdout.write(text + "\n")


def log(line: str, style: str = "") -> None:
    """Print a line to stderr, where everything goes that is no result."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(line, style=style, highlight=False, markup=False)


def end_if_missing(effects: Sequence[str]) -> None:
    """End the command with 1 if effects that it promises are missing, and say which."""
    for effect in effects:
        log(f"missing effect: {effect}", "red")
    if effects:
        raise typer.Exit(1)


def machine(optional: Sequence[str]) -> dict[str, Any]:
    """Versions, devices, threads and which of the ``optional`` libraries are installed."""
    import torch

    from .run import versions

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    there = [name for name in optional if importlib.util.find_spec(name)]
    return {
        **versions(),
        "devices": ", ".join(["cpu", *cuda]),
        "threads": torch.get_num_threads(),
        "optional": ", ".join(there) or "none",
    }


# --- the whole command ------------------------------------------------------------------------


def _print_version(wanted: bool) -> None:
    if wanted:
        version = importlib.import_module(f"{PACKAGE}._version").__version__
        print_text(f"{COMMAND} {version}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def application(what: str) -> typer.Typer:
    """A command line without commands yet.

    Args:
        what: what the package does, for ``--help``.
    """
    # Without rich's markup: loading what draws its frames takes longer than all the rest.
    app = typer.Typer(
        name=COMMAND, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    app.callback(help=what)(_common)
    return app


# Of click, which lies inside newer versions of typer and beside older ones.
_UsageError: Any = typer.BadParameter.__base__


def execute(
    app: typer.Typer,
    failures: tuple[type[Exception], ...],
    usage: tuple[type[Exception], ...],
    interrupted: str = "",
) -> None:
    """Run a command line and end the process: 0 ok, 1 failed, 2 usage, 130 interrupted.

    Args:
        app: from :func:`application`.
        failures: errors that are told in one line; what is none of them is a fault of ours.
        usage: those among them that end with 2.
        interrupted: what is said of work that was interrupted, if there is a way to go on.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for terminals that have no letter for it
    warnings.showwarning = _show_warning
    arguments = sys.argv[1:]
    told: tuple[type[Exception], ...] = (*failures, KitError, OSError)
    try:
        code = app(arguments or ["--help"], prog_name=COMMAND, standalone_mode=False)
    except _UsageError as error:
        where = error.ctx.command_path if error.ctx else COMMAND
        _end(2, f"{where}: {' '.join(error.format_message().split())}")
    except told as error:
        _end(2 if isinstance(error, usage) else 1, f"{COMMAND}: {error}")
    except MemoryError as error:
        _end(1, f"{COMMAND}: out of memory: {error}")
    except (KeyboardInterrupt, typer.Abort):
        _end(130, f"{COMMAND}: {' '.join(('interrupted.', interrupted)).strip()}")
    raise SystemExit(code or 0 if arguments else 2)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    sys.stderr.write(f"{COMMAND}: {message}\n")  # without the place in the code, no user's affair


def _end(code: int, message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(code)
