"""The command ``go4align``: results to stdout, everything else to stderr.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from go4align._kit.command import (
    DemoOutOption,
    JobsOption,
    JsonOption,
    RunsArgument,
    SeedOption,
    SeedsOption,
    application,
    end_if_missing,
    execute,
    log,
    machine,
    numbers,
    of_demo,
    print_facts,
    print_json,
    print_table,
)
from go4align.errors import ConfigError, DataError, Go4AlignError, MissingExtraError

app = application("Weight the losses of multi-task training, and compare ways to do it.")


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


def _labels(text: str | None, default: Sequence[str]) -> list[str]:
    from go4align.bench import entry

    labels = [part.strip() for part in text.split(",")] if text else list(default)
    for label in labels:
        entry(label)
    return list(dict.fromkeys(labels))


@app.command()
def demo(
    seed: SeedOption = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    out: DemoOutOption = Path("go4align-demo"),
    as_json: JsonOption = False,
) -> None:
    """Train one network on seven properties of molecules.

    Ends with 1 if a promised effect is missing.
    """
    from go4align import demo as job
    from go4align.report import HEAD, cells

    ours = of_demo(out, job.is_of_demo)
    log("reading the tables of the package chemicals")
    names = {"stl": "stl, one network per property", "ls": "ls, the sum of the losses"}
    rows, results = job.run(
        out,
        seed=seed,
        epochs=job.EPOCHS if epochs is None else epochs,
        overwrite=ours,
        progress=lambda label: log(f"training: {names.get(label, label)}"),
    )
    if as_json:
        print_json(results)
    else:
        print_table(HEAD, [cells(row) for row in rows], "Seven properties of molecules, test part")
        log("Δm: change of all metrics against stl, in percent; lower is better")
    _report(out)
    end_if_missing(results["headline"]["missing"])


@app.command()
def bench(
    context: typer.Context,
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
        typer.Option(
            file_okay=False, help="Folder; finished runs in it are kept. [bench/NAME-OPTIMIZER]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare methods on a problem, seed by seed, and write a report.

    The toy problem has neither seeds nor settings to choose: of the options it takes --methods,
    --steps, --out and --json.
    """
    mute = ["seeds", "optimizer", "tune", "jobs"] if name is Benchmark.toy else ["steps"]
    for option in mute:
        source = context.get_parameter_source(option)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(
                f"{name.value} does not take it: leave it out", param_hint=f"--{option}"
            )
    if name is Benchmark.toy:
        folder = out or Path("bench") / "toy"
        _bench_toy(methods, steps, folder, as_json)
        return
    chosen_seeds = numbers(seeds)
    folder = out or Path("bench") / f"{name.value}-{optimizer.value}"

    from go4align import bench as job
    from go4align import runs
    from go4align.report import table

    default = ["stl", "ls", "si", "uw", "go4align", "go4align-published"]
    labels = _labels(methods, default)
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
            name.value, labels, optimizer.value, jobs=jobs, known=known, progress=log, save=save
        )
    job.bench(name.value, labels, chosen_seeds, folder, chosen, optimizer.value, jobs, progress=log)
    _print({f"{name.value}, {optimizer.value}": table(runs.load(folder))}, as_json)
    try:
        _report(folder)
    except MissingExtraError as error:  # the results are there all the same
        log(f"no report.html: {error}")


def _bench_toy(methods: str | None, steps: int, folder: Path, as_json: bool) -> None:
    from go4align import toy_bench as job

    labels = [part.strip() for part in methods.split(",")] if methods else list(job.DEFAULT)
    rows, page = job.run(labels, steps, folder, progress=log)
    if as_json:
        print_json([{"benchmark": "toy", **row} for row in rows])
    else:
        print_table(job.HEAD, [job.cells(row) for row in rows], f"toy, {steps} steps, 5 starts")
    log(f"report: {page}")


@app.command()
def report(folder: RunsArgument, as_json: JsonOption = False) -> None:
    """Write report.html over finished runs, and print the tables."""
    from go4align import runs
    from go4align.report import table

    summaries = runs.load(folder)
    tables = {}
    for name in dict.fromkeys(run["results"]["benchmark"] for run in summaries):
        tables[name] = table([run for run in summaries if run["results"]["benchmark"] == name])
    _print(tables, as_json)
    _report(folder)


@app.command()
def groups(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="A run folder with losses in metrics.jsonl.",
        ),
    ],
    space: Annotated[str, typer.Option(help="linear or log.")] = "log",
    beta: Annotated[float, typer.Option(min=0, help="As of the weighting.")] = 1e-4,
    as_json: JsonOption = False,
) -> None:
    """Show what grouping would lose, for every number of groups K.

    The share of the indicators' spread that lies inside the groups: choose the K beyond which it
    hardly falls. Any run that recorded losses will do, one of LS too.
    """
    from go4align import group_costs as job

    found = job.over_run(folder, space=space, beta=beta)
    if as_json:
        print_json(found)
        return
    rows = [
        [str(k), f"{100 * row['mean']:.1f}", f"{100 * row['low']:.1f}", f"{100 * row['high']:.1f}"]
        for k, row in found["unexplained"].items()
    ]
    title = f"spread inside the groups, % of that with one group ({found['records']} records)"
    print_table(["K", "mean", "lowest tenth", "highest tenth"], rows, title)


@app.command()
def info(as_json: JsonOption = False) -> None:
    """Show versions, devices, optional libraries and methods."""
    from go4align import bench as job

    libraries = ["torchjd", "chemicals", "rdkit", "mlxtend", "matplotlib", "lightning"]
    libraries += ["transformers", "LibMTL", "torch_geometric"]
    print_facts({**machine(libraries), "methods": ", ".join(job.ENTRIES)}, as_json=as_json)


def _report(folder: Path) -> None:
    """Write the page after the table has been shown: it needs one library more."""
    from go4align.report import write_report

    log(f"report: {write_report(folder)}")


def _print(tables: Mapping[str, Sequence[Any]], as_json: bool) -> None:
    """Print the rows of benchmarks, by their names."""
    from go4align.report import HEAD, as_dict, cells

    if as_json:
        rows_of = tables.items()
        print_json([{"benchmark": name, **as_dict(row)} for name, rows in rows_of for row in rows])
        return
    for name, rows in tables.items():
        print_table(HEAD, [cells(row) for row in rows], name)
    log("Δm: change of all metrics against one network per task (stl), in percent; lower is better")
    if not all(any(row.method == "stl" for row in rows) for rows in tables.values()):
        log("Without stl among the methods there is no Δm: add it to --methods")


def main() -> None:
    """Run the command line; exit 0 ok, 1 failed, 2 usage, 130 interrupted."""
    again = "Finished runs are kept: `go4align bench` with the same words goes on."
    execute(app, failures=(Go4AlignError,), usage=(ValueError, DataError), interrupted=again)
