"""The command ``go4align``: results to stdout, everything else to stderr.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from go4align._kit import KitError
from go4align.errors import ConfigError, Go4AlignError

app = typer.Typer(
    name="go4align",
    help="Weight the losses of multi-task training, and compare ways to do it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Benchmark(str, Enum):
    """What can be run."""

    toy = "toy"
    molecules = "molecules"
    multimnist = "multimnist"


class OptimizerName(str, Enum):
    """Optimizers of the benchmarks."""

    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")]
SeedsOption = Annotated[str, typer.Option(help="Such as 0..4, or 0,3,5.")]
JobsOption = Annotated[int, typer.Option(min=1, help="Processes, one thread each.")]


def _show(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    shown = Table(title=escape(title) or None, title_justify="left")
    for i, name in enumerate(head):
        shown.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows:
        shown.add_row(*map(escape, row))  # names are not markup
    # A table cut to fit a pipe is of no use: give it the width it needs.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(shown)


def _print_json(value: Any) -> None:
    from go4align._kit.run import _plain

    sys.stdout.write(json.dumps(_plain(value), indent=1) + "\n")


def _err(line: str, style: str = "") -> None:
    Console(stderr=True, soft_wrap=True).print(line, style=style, highlight=False, markup=False)


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        if match := re.fullmatch(r"\s*([0-9]{1,9})\s*\.\.\s*([0-9]{1,9})\s*", part):
            found += range(int(match[1]), int(match[2]) + 1)
        elif re.fullmatch(r"\s*[0-9]{1,9}\s*", part):
            found.append(int(part))
        else:
            raise typer.BadParameter(f"{text!r}: expected 0..4, or 0,3,5", param_hint="--seeds")
    if not found:
        raise typer.BadParameter(f"{text!r} holds no seed", param_hint="--seeds")
    return list(dict.fromkeys(found))


def _labels(text: str | None, default: Sequence[str]) -> list[str]:
    from go4align.bench import entry

    labels = [part.strip() for part in text.split(",")] if text else list(default)
    for label in labels:
        entry(label)
    return list(dict.fromkeys(labels))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, max=10**9, help="Of data, weights and batches.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the results; emptied first if it is one the demo wrote."),
    ] = Path("go4align-demo"),
    as_json: JsonOption = False,
) -> None:
    """Train one network on seven properties of molecules; 1 if a promised effect is missing."""
    from go4align import demo as job

    ours = job.is_of_demo(out)
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(
            f"{out} has content that the demo did not write", param_hint="--out"
        )
    _err("reading the tables of the package chemicals")
    names = {"stl": "one network per property", "ls": "sum of the losses"}
    rows = job.run(
        out,
        seed=seed,
        epochs=job.EPOCHS if epochs is None else epochs,
        overwrite=ours,
        progress=lambda label: _err(f"training: {names.get(label, label)}"),
    )
    _table(rows, as_json, "Seven properties of molecules, test part")
    _report(out)
    broken = job.broken_promises(rows)
    for line in broken:
        _err(f"missing effect: {line}", "red")
    if broken:
        raise typer.Exit(1)


@app.command()
def bench(
    name: Annotated[Benchmark, typer.Argument(help="The problem.")],
    methods: Annotated[
        str | None, typer.Option(help="Labels, with commas between; see `go4align info`.")
    ] = None,
    seeds: SeedsOption = "0..4",
    optimizer: Annotated[OptimizerName, typer.Option(help="Of all methods.")] = OptimizerName.adam,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="First choose learning rates and options on the validation parts of other seeds, "
            "instead of taking those that come with the package; kept in OUT/chosen.json.",
        ),
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Of the toy problem.")] = 50_000,
    jobs: JobsOption = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; finished runs in it are kept. [bench/NAME-OPTIMIZER]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare methods on a problem, seed by seed, and write a report.

    The toy problem has neither seeds nor settings to choose: of the options it takes --methods,
    --steps, --out and --json.
    """
    if name is Benchmark.toy:
        folder = out or Path("bench") / "toy"
        _bench_toy(methods, steps, folder, as_json)
        return
    folder = out or Path("bench") / f"{name.value}-{optimizer.value}"
    from go4align import bench as job
    from go4align import runs
    from go4align.report import table

    default = ["stl", "ls", "si", "uw", "go4align", "go4align-published"]
    labels = _labels(methods, default)
    numbers = _numbers(seeds)
    chosen = job.chosen_settings(name.value, optimizer.value)
    if tune:
        path = folder / "chosen.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ConfigError(f"{path} cannot be read ({error}): move it away") from error

        def save(choices: dict[str, Any]) -> None:
            from go4align._kit.files import write_text_atomic

            write_text_atomic(path, json.dumps(choices, indent=1) + "\n")

        chosen = job.tune(
            name.value, labels, optimizer.value, jobs=jobs, known=known, progress=_err, save=save
        )
    job.bench(name.value, labels, numbers, folder, chosen, optimizer.value, jobs, progress=_err)
    rows = table(runs.load(folder))
    _table(rows, as_json, f"{name.value}, {optimizer.value}")
    _report(folder)


def _bench_toy(methods: str | None, steps: int, folder: Path, as_json: bool) -> None:
    from go4align import toy_bench as job

    labels = [part.strip() for part in methods.split(",")] if methods else list(job.DEFAULT)
    rows, page = job.run(labels, steps, folder, progress=_err)
    if as_json:
        _print_json({"rows": rows, "report": str(page)})
    else:
        _show(job.HEAD, [job.cells(row) for row in rows], f"toy, {steps} steps, 5 starts")
    _err(f"report: {page}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Holds run folders, at any depth.")],
    as_json: JsonOption = False,
) -> None:
    """Write report.html over finished runs, and print the tables."""
    from go4align import runs
    from go4align.report import table

    summaries = runs.load(folder)
    for name in dict.fromkeys(run["results"]["benchmark"] for run in summaries):
        here = [run for run in summaries if run["results"]["benchmark"] == name]
        _table(table(here), as_json, name)
    _report(folder)


@app.command()
def groups(
    folder: Annotated[Path, typer.Argument(help="A run folder with losses in metrics.jsonl.")],
    space: Annotated[str, typer.Option(help="linear or log.")] = "log",
    beta: Annotated[float, typer.Option(min=0, help="As of the weighting.")] = 1e-4,
    as_json: JsonOption = False,
) -> None:
    """Show, for every number of groups K, what grouping would lose over a recorded run.

    The share of the indicators' spread that lies inside the groups: choose the K beyond which it
    hardly falls. Any run that recorded losses will do, one of LS too.
    """
    from go4align import group_costs as job

    found = job.over_run(folder, space=space, beta=beta)
    if as_json:
        _print_json(found)
        return
    rows = [
        [str(k), f"{100 * row['mean']:.1f}", f"{100 * row['low']:.1f}", f"{100 * row['high']:.1f}"]
        for k, row in found["unexplained"].items()
    ]
    title = f"spread inside the groups, % of that with one group ({found['records']} records)"
    _show(["K", "mean", "lowest tenth", "highest tenth"], rows, title)


@app.command()
def info(as_json: JsonOption = False) -> None:
    """Show versions, devices, optional libraries and the labels of the benchmarks."""
    import importlib.util

    import torch

    from go4align import bench as job
    from go4align._kit import versions

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    libraries = ["torchjd", "chemicals", "rdkit", "mlxtend", "matplotlib", "lightning"]
    libraries += ["transformers", "LibMTL", "torch_geometric"]
    facts = {
        **versions(),
        "devices": ", ".join(["cpu", *cuda]),
        "threads": str(torch.get_num_threads()),
        "optional": ", ".join(n for n in libraries if importlib.util.find_spec(n)) or "none",
        "methods": ", ".join(job.ENTRIES),
    }
    if as_json:
        _print_json(facts)
    else:
        _show(["what", "value"], [[name, str(value)] for name, value in facts.items()])


def _report(folder: Path) -> None:
    """Write the page after the table has been shown: it needs one library more."""
    from go4align.report import write_report

    _err(f"report: {write_report(folder)}")


def _table(rows: Sequence[Any], as_json: bool, title: str) -> None:
    from go4align.report import HEAD, as_dict, cells

    if as_json:
        _print_json({"title": title, "rows": [as_dict(row) for row in rows]})
    else:
        _show(HEAD, [cells(row) for row in rows], title)


@contextlib.contextmanager
def _errors_as_exit_codes() -> Iterator[None]:
    try:
        yield
    except (Go4AlignError, KitError, OSError) as error:
        sys.stderr.write(f"go4align: {error}\n")
        raise SystemExit(2 if isinstance(error, ValueError) else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def main() -> None:
    """Run the command line; exit 0 ok, 1 failed, 2 usage, 130 interrupted."""
    with _errors_as_exit_codes():
        app()
