"""The command ``lowmem-bp``: results to stdout, everything else to stderr.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from lowmem_bp._kit import KitError
from lowmem_bp.errors import ConfigError, LowmemBPError

if TYPE_CHECKING:
    from lowmem_bp._models import Loaded
    from lowmem_bp.bench import Case, Measurement

app = typer.Typer(
    name="lowmem-bp",
    help="Fine-tune transformers with less activation memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class ModeName(str, Enum):
    """Modes of ``convert``."""

    exact = "exact"
    int8 = "int8"
    two_bit = "2bit"
    paper = "paper"


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face model folder or name, or module:factory (a function that returns "
        "a pair of model and example inputs). The module is imported and run.",
    ),
]
ModeOption = Annotated[ModeName, typer.Option("--mode", help="How to keep less.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Sequences or images per batch.")]
LengthOption = Annotated[int, typer.Option(min=1, help="Tokens per sequence.")]
DtypeOption = Annotated[str, typer.Option(help="fp32, bf16, or amp: fp32 under bf16 autocast.")]
RandomOption = Annotated[
    bool, typer.Option("--random", help="Random weights from the model's config: nothing heavy.")
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Allow fetching the model from the Hugging Face hub.")
]
DeviceOption = Annotated[str, typer.Option(help="Where to run, such as cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")]
OutOption = Annotated[Path | None, typer.Option(help="Folder (or file) to write results to.")]


def _show(rows: Sequence[Sequence[str]], title: str = "") -> None:
    table = Table(title=title or None, title_justify="left")
    for i, name in enumerate(rows[0]):
        side: Literal["left", "right"] = "left" if i == 0 or name == "note" else "right"
        table.add_column(name, justify=side, no_wrap=i == 0)
    for row in rows[1:]:
        table.add_row(*row)
    # A table cut to fit a pipe is of no use: give it the width it needs.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def _load(
    model: str, batch: int, length: int, dtype: str, device: str, random: bool, download: bool
) -> Loaded:
    from lowmem_bp._models import load

    with contextlib.redirect_stdout(sys.stderr):  # what a factory prints is not our result
        return load(
            model,
            batch=batch,
            length=length,
            dtype=dtype,
            device=device,
            random=random,
            download=download,
        )


def _must_be_new(out: Path | None) -> None:
    """Refuse a place for results that holds something already, before any work is done."""
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(f"{out} exists and is not an empty folder", param_hint="--out")


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="minilm (about 2 minutes) or smollm2.")] = "minilm",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps per mode.")] = None,
    seed: Annotated[int, typer.Option(help="Of data order and dropout.")] = 0,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the results; emptied first if it is one the demo wrote."),
    ] = Path("lowmem-bp-demo"),
    as_json: JsonOption = False,
) -> None:
    """Fine-tune real weights on real text, stock and in each mode; 1 if an effect is missing."""
    from rich.progress import Progress

    from lowmem_bp import demo as job

    overwrite = job.is_of_demo(out)
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(
            f"{out} has content that the demo did not write", param_hint="--out"
        )
    err = Console(stderr=True)
    err.print(f"loading {model} and the docstrings of this Python installation")
    task = job.task_named(model, seed, steps)
    with Progress(console=err, transient=True) as progress:
        bar = progress.add_task("training", total=task.steps * len(job.ROWS))

        def advance(row: str, step: int, steps: int) -> None:
            progress.update(bar, advance=1, description=f"{row}, step {step}/{steps}")

        results, reports = job.run(task, job.ROWS, seed=seed, progress=advance)
    report = job.write(out, task, results, reports, seed=seed, overwrite=overwrite)
    broken = job.broken_promises(results)
    if as_json:
        rows = {result.row: vars(result) for result in results}
        _print_json({"rows": rows, "missing": broken, "report": str(report)})
    else:
        title = f"{task.name}: {task.steps} steps on docstrings of the standard library"
        _show([job.HEAD, *map(job.cells, results)], title)
        err.print(f"report: {report}")
    for line in broken:
        err.print(f"missing effect: {line}", style="red")
    if broken:
        raise typer.Exit(1)


@app.command()
def profile(
    model: ModelArgument,
    batch: BatchOption = 2,
    length: LengthOption = 128,
    dtype: DtypeOption = "fp32",
    device: DeviceOption = "cpu",
    random: RandomOption = False,
    download: DownloadOption = False,
    mode: Annotated[
        ModeName | None, typer.Option("--mode", help="Compare with the model in this mode.")
    ] = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count the bytes autograd holds between forward and backward, by layer and kind."""
    from lowmem_bp.conversion import convert
    from lowmem_bp.memory import profile as measure

    _must_be_new(out)
    loaded = _load(model, batch, length, dtype, device, random, download)
    with _reported_as_usage(model), loaded.autocast():
        before = measure(loaded.model, loaded.inputs, label="stock")
        after = None
        if mode is not None:
            convert(loaded.model, mode.value)
            after = measure(loaded.model, loaded.inputs, label=f"mode {mode.value}")
    shown, baseline = (before, None) if after is None else (after, before)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        shown.to_html(out / "memory.html", baseline)
        for report in filter(None, (before, after)):
            report.to_json(out / f"{report.label.replace(' ', '-')}.json")
    if as_json:
        _print_json({r.label: r.to_dict() for r in filter(None, (before, after))})
    else:
        sys.stdout.write(shown.table(baseline) + "\n")


@app.command()
def convert(
    model: ModelArgument,
    mode: ModeOption = ModeName.exact,
    batch: BatchOption = 2,
    length: LengthOption = 64,
    dtype: DtypeOption = "fp32",
    device: DeviceOption = "cpu",
    random: RandomOption = False,
    download: DownloadOption = False,
    verbose: Annotated[bool, typer.Option(help="One line per module.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what would change in a model, what would be left alone, and why."""
    from lowmem_bp.conversion import convert as change

    loaded = _load(model, batch, length, dtype, device, random, download)
    with _reported_as_usage(model), loaded.autocast():
        report = change(loaded.model, mode.value, loaded.inputs)
    if as_json:
        _print_json(report.to_dict())
        return
    if verbose:
        _show([("module", "kind", "keeps"), *((c.name, c.kind, c.keeps) for c in report.changed)])
        skipped = [(s.name, s.kind, s.reason) for s in report.skipped]
        _show([("module", "kind", "left alone because"), *skipped])
    sys.stdout.write(f"{report}\n")


@app.command()
def fit(
    activation: Annotated[str, typer.Argument(help="Name, such as gelu or silu.")],
    bits: Annotated[int, typer.Option(help="1, 2 or 4.")] = 2,
    objective: Annotated[
        str, typer.Option(help="derivative or function (the paper's).")
    ] = "derivative",
    std: Annotated[float, typer.Option(help="Of the normal weight on the input.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Fit a step table to an activation's derivative."""
    from lowmem_bp.fit import derivative_error, fit_stepwise

    if not 0 < std < 1e6:
        raise typer.BadParameter(f"{std}: expected a positive number", param_hint="--std")
    result = fit_stepwise(
        activation,
        bits=bits,
        objective=objective,  # type: ignore[arg-type]
        weight=("normal", 0.0, std),
    )
    table = result.table
    error, cosine = derivative_error(activation, table, weight=("normal", 0.0, std))
    if as_json:
        _print_json({**table.to_dict(), "derivative_error": error, "derivative_cosine": cosine})
        return
    pairs = zip(["-inf", *(f"{cut:.9f}" for cut in table.cuts)], table.levels, strict=True)
    _show([("above", "level"), *((cut, f"{level:.9f}") for cut, level in pairs)])
    sys.stdout.write(
        f"derivative under N(0, {std:g}²): relative error {error:.3f}, cosine {cosine:.4f}\n"
    )


@app.command()
def bench(
    block: Annotated[str, typer.Option(help="vit, bert, llama, llama-hf, or all.")] = "vit",
    tuning: Annotated[str, typer.Option(help="full, lora-qv, lora-all, or all.")] = "full",
    only: Annotated[
        str,
        typer.Option(
            help="Competitors, with commas between, in place of all: paper, exact, int8, 2bit, "
            "exact-torch (exact without kernels), checkpoint, compile, compile-budget, liger, "
            "fewbit. stock always runs; the two of compile take the longest."
        ),
    ] = "",
    repeats: Annotated[
        int, typer.Option(min=0, help="Timed rounds; 0: bytes and gradients only.")
    ] = 7,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, bf16, or amp: bf16 autocast.  [default: fp32; on cuda bf16]"),
    ] = None,
    features: Annotated[
        int | None, typer.Option(min=1, help="Width.  [default: 384; on cuda 768]")
    ] = None,
    hidden: Annotated[
        int, typer.Option(min=0, help="Width inside the MLP; 0: 4 times, llama 8/3.")
    ] = 0,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Of the attention.  [default: 6; on cuda 12]")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Sequences.  [default: 8; on cuda 64]")
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="Tokens per sequence.")] = 197,
    layers: Annotated[int, typer.Option(min=1, help="Blocks, one behind the other.")] = 1,
    device: DeviceOption = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor.")] = None,
    backend: Annotated[
        str, typer.Option(help="Kernels of this package: auto, native, triton or torch.")
    ] = "auto",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare memory, time and gradients of one transformer block with all that saves memory.

    Stock torch, the modes of this package, torch.utils.checkpoint, torch.compile with and without
    an activation-memory budget, Liger-Kernel and fewbit run side by side. As it is, a minute or
    two on two cores; --block all --tuning all takes a quarter of an hour. With --out: all figures
    as JSON, and a picture.

    "held" is what autograd keeps between forward and backward, "peak" the most that a step needs
    at one time. The peak of a single block is mostly backward's own work: methods differ in "held",
    or with more --layers.
    """
    from dataclasses import asdict

    import torch

    from lowmem_bp import bench as job

    _must_be_new(out)
    _must_be_there(device)
    on_gpu = torch.device(device).type != "cpu"
    settings: dict[str, Any] = {
        "precision": precision or ("bf16" if on_gpu else "fp32"),
        "features": features or (768 if on_gpu else 384),
        "hidden": hidden,
        "heads": heads or (12 if on_gpu else 6),
        "batch": batch or (64 if on_gpu else 8),
        "length": length,
        "layers": layers,
        "device": device,
    }
    blocks = job.BLOCKS if block == "all" else (block,)
    tunings = ("full", "lora qv", "lora all") if tuning == "all" else (tuning.replace("-", " "),)
    cases = [job.Case(name, how, **settings) for name in blocks for how in tunings]  # type: ignore[arg-type]
    names = [name.strip() for name in only.split(",") if name.strip()] or job.DEFAULT
    if threads is not None:
        torch.set_num_threads(threads)
    rows: list[job.Measurement] = []
    err = Console(stderr=True)
    with err.status("starting") as status, contextlib.redirect_stdout(sys.stderr):
        for case in cases:
            rows += job.measure(
                case, names, repeats=repeats, backend=backend, progress=status.update
            )
            err.print(f"measured {case.title}")
    if out is not None:
        more = {"repeats": repeats, "backend": backend, "names": list(names)}
        job.write(out, rows, {**settings, **more}, device=device)
    if as_json:
        _print_json([asdict(row) for row in rows])
    else:
        for case in cases:
            _show(list(job.table([row for row in rows if row.case == case.title])), case.title)
    if out is not None and repeats:
        _draw(out, rows, cases[0])


def _must_be_there(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0]
        raise typer.BadParameter(f"{device!r}: {line}", param_hint="--device") from error


def _draw(out: Path, rows: Sequence[Measurement], case: Case) -> None:
    from lowmem_bp.bench.picture import NAME, caption, write_picture
    from lowmem_bp.errors import MissingExtraError

    try:
        path = write_picture(out / NAME, rows, caption(case))
    except MissingExtraError as error:
        sys.stderr.write(f"lowmem-bp: no picture: {error}\n")
    else:
        sys.stderr.write(f"picture: {path}\n")


@app.command()
def info(as_json: JsonOption = False) -> None:
    """Show versions, devices, backends and optional libraries."""
    import importlib.util
    import os

    import torch

    from lowmem_bp._kit import versions
    from lowmem_bp.backends import VARIABLE, resolve

    try:
        backend = resolve().__name__.removesuffix("Backend").lower()
    except LowmemBPError as error:
        backend = str(error)
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    optional = ("transformers", "peft", "accelerate", "bitsandbytes", "matplotlib", "timm")
    facts = {
        **versions(),
        "devices": ", ".join(["cpu", *cuda]),
        "threads": str(torch.get_num_threads()),
        "backend": backend,
        VARIABLE: os.environ.get(VARIABLE, "not set"),
        "optional": ", ".join(n for n in optional if importlib.util.find_spec(n)) or "none",
    }
    if as_json:
        _print_json(facts)
    else:
        _show([("what", "value"), *((name, str(value)) for name, value in facts.items())])


@contextlib.contextmanager
def _reported_as_usage(spec: str) -> Iterator[None]:
    """Report what a foreign model raises in one line, and keep its prints off stdout."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except LowmemBPError:
        raise
    except Exception as error:
        raise ConfigError(f"running {spec} raised {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _errors_as_exit_codes() -> Iterator[None]:
    try:
        yield
    except (LowmemBPError, KitError, OSError) as error:
        sys.stderr.write(f"lowmem-bp: {error}\n")
        raise SystemExit(2 if isinstance(error, ValueError) else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def main() -> None:
    """Run the command line; exit 0 ok, 1 failed, 2 usage, 130 interrupted."""
    with _errors_as_exit_codes():
        app()
