"""The command line that the four scripts share."""

import argparse
import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from go4align.errors import Go4AlignError
from go4align.methods import NAMES

from .errors import ProtocolError
from .protocol import STL, Protocol, Settings
from .training import train

PUBLISHED = "go4align-published"


def option(text: str) -> tuple[str, Any]:
    """Parse ``key=value``; the value is a Python literal or else text."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}: expected key=value, such as n_groups=2")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key, value


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def parser(protocol: type[Protocol], description: str) -> argparse.ArgumentParser:
    """Return the options of one protocol, with its published values as defaults."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    name = protocol.name
    add("--data", type=Path, required=True, metavar="DIR", help="Folder of the data set.")
    add(
        "--method",
        choices=[*NAMES, STL],
        default=PUBLISHED,
        metavar="NAME",
        help=f"{', '.join(NAMES)}, or {STL} with --task. Default: %(default)s.",
    )
    add("--task", help=f"Task that --method {STL} trains.")
    add(
        "--option",
        type=option,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"Option of the method, repeatable, such as n_groups={protocol.n_groups}.",
    )
    add("--seed", type=int, default=0, help="Seed of weights, order and augmentation. Default: 0.")
    add("--epochs", type=positive, default=protocol.epochs, help="Default: %(default)s.")
    add("--batch", type=positive, default=protocol.batch, help="Batch size. Default: %(default)s.")
    add("--lr", type=float, default=protocol.lr, help="Learning rate. Default: %(default)s.")
    add(
        "--method-lr",
        type=float,
        default=0.025,
        help="Learning rate of weights that the method learns (uw). Default: %(default)s.",
    )
    add(
        "--width",
        type=positive,
        default=64,
        help="Channels of the narrowest layer, other layers in proportion. Default: %(default)s.",
    )
    add(
        "--base",
        type=Path,
        metavar="DIR",
        help=f"Folder of --method {STL} runs to compute the relative drop against, "
        f"{'instead of the published results' if protocol.published else 'as none are published'}.",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"Folder of the run. Default: runs/{name}/METHOD-seedN (or stl-TASK-seedN).",
    )
    add("--device", default="cpu", help="Such as cuda. Default: %(default)s.")
    add("--workers", type=int, default=0, help="Processes that read data. Default: %(default)s.")
    add("--limit", type=positive, metavar="N", help="Use the first N items of each split.")
    add(
        "--log-every",
        type=positive,
        default=50,
        metavar="N",
        help="Steps between records of losses, weights and groups. Default: %(default)s.",
    )
    add("--resume", action="store_true", help="Go on after the last epoch finished in --out.")
    add("--overwrite", action="store_true", help="Replace what is in --out.")
    for flag, how in protocol.own_options.items():
        add(flag, **how)
    return made


def settings(protocol: type[Protocol], description: str, argv: Sequence[str] | None) -> Settings:
    """Parse a command line."""
    given = vars(parser(protocol, description).parse_args(argv))
    protocol.check_task(given["method"], given["task"])
    options = dict(given.pop("option"))
    name = "-".join(filter(None, [given["method"], given["task"], f"seed{given['seed']}"]))
    out = given.pop("out") or Path("runs", protocol.name, name)
    return Settings(**given, options=options, out=out)


def main(protocol: type[Protocol], description: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """Parse, open the data, train; return what :func:`train` returns."""
    return train(protocol(settings(protocol, description, argv)))


def script(main: Callable[[], Any]) -> None:
    """Run ``main``; what a user can mend ends in one sentence instead of a traceback."""
    try:
        main()
    except (ProtocolError, Go4AlignError) as error:
        sys.exit(f"error: {error}")
