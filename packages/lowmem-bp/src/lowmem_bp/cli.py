"""The command ``lowmem-bp``: results to stdout, everything else to stderr.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lowmem_bp._kit.command import (
    DemoOutOption,
    DeviceOption,
    JsonOption,
    SeedOption,
    application,
    end_if_missing,
    execute,
    log,
    machine,
    of_demo,
    print_facts,
    print_json,
    print_table,
    print_text,
)
from lowmem_bp.errors import ConfigError, LowmemBPError

if TYPE_CHECKING:
    from lowmem_bp._models import Loaded
    from lowmem_bp.bench import Case, Measurement

app = application("Fine-tune transformers with less activation memory.")


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
OutOption = Annotated[
    Path | None, typer.Option(file_okay=False, help="New or empty folder to write results to.")
]


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
    if out is not None and out.exists() and any(out.iterdir()):
        raise typer.BadParameter(f"{out} exists and is not an empty folder", param_hint="--out")


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="minilm (about 2 minutes) or smollm2.")] = "minilm",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps per mode.")] = None,
    seed: SeedOption = 0,
    out: DemoOutOption = Path("lowmem-bp-demo"),
    as_json: JsonOption = False,
) -> None:
    """Fine-tune real weights on real text, stock and in each mode.

    Ends with 1 if a promised effect is missing.
    """
    from rich.progress import Progress

    from lowmem_bp import demo as job

    overwrite = of_demo(out, job.is_of_demo)
    log(f"loading {model} and the docstrings of this Python installation")
    task = job.task_named(model, seed, steps)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("training", total=task.steps * len(job.ROWS))

        def advance(row: str, step: int, steps: int) -> None:
            progress.update(bar, advance=1, description=f"{row}, step {step}/{steps}")

        rows, reports = job.run(task, job.ROWS, seed=seed, progress=advance)
    results = job.write(out, task, rows, reports, seed=seed, overwrite=overwrite)
    if as_json:
        print_json(results)
    else:
        title = f"{task.name}: {task.steps} steps on docstrings of the standard library"
        print_table(job.HEAD, [job.cells(row) for row in rows], title)
    log(f"report: {out / 'report.html'}")
    end_if_missing(results["headline"]["missing"])


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
    """Count the bytes that autograd holds for backward, by layer."""
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
        print_json({r.label: r.to_dict() for r in filter(None, (before, after))})
    else:
        print_text(shown.table(baseline))


@app.command()
def convert(
    model: ModelArgument,
    mode: ModeOption = ModeName.exact,
    batch: BatchOption = 2,
    length: LengthOption = 128,
    dtype: DtypeOption = "fp32",
    device: DeviceOption = "cpu",
    random: RandomOption = False,
    download: DownloadOption = False,
    verbose: Annotated[bool, typer.Option(help="One line per module.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what would change in a model, what would not, and why."""
    from lowmem_bp.conversion import convert as change

    loaded = _load(model, batch, length, dtype, device, random, download)
    with _reported_as_usage(model), loaded.autocast():
        report = change(loaded.model, mode.value, loaded.inputs)
    if as_json:
        print_json(report.to_dict())
        return
    if verbose:
        head = ["module", "kind", "keeps"]
        print_table(head, [(c.name, c.kind, c.keeps) for c in report.changed], left=head)
        head = ["module", "kind", "left alone because"]
        print_table(head, [(s.name, s.kind, s.reason) for s in report.skipped], left=head)
    print_text(str(report))


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
        print_json({**table.to_dict(), "derivative_error": error, "derivative_cosine": cosine})
        return
    pairs = zip(["-inf", *(f"{cut:.9f}" for cut in table.cuts)], table.levels, strict=True)
    print_table(["above", "level"], [(cut, f"{level:.9f}") for cut, level in pairs])
    print_text(f"derivative under N(0, {std:g}²): relative error {error:.3f}, cosine {cosine:.4f}")


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
    """Compare memory, time and gradients of one transformer block.

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
    blocks = _chosen("--block", block, job.BLOCKS)
    known = {name.replace(" ", "-"): name for name in job.TUNINGS}
    tunings = [known[name] for name in _chosen("--tuning", tuning, tuple(known))]
    cases = [job.Case(name, how, **settings) for name in blocks for how in tunings]
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
        print_json([asdict(row) for row in rows])
    else:
        for case in cases:
            head, *cells = job.table([row for row in rows if row.case == case.title])
            print_table(head, cells, case.title, left=["note"])
    if out is not None and repeats:
        _draw(out, rows, cases[0])


def _chosen(option: str, given: str, known: Sequence[str]) -> Sequence[str]:
    if given == "all":
        return known
    if given not in known:
        choice = ", ".join((*known, "all"))
        raise typer.BadParameter(f"{given!r}: expected one of {choice}", param_hint=option)
    return (given,)


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
        log(f"no picture: {error}")
    else:
        log(f"picture: {path}")


@app.command()
def info(as_json: JsonOption = False) -> None:
    """Show versions, devices, backends and optional libraries."""
    import os

    from lowmem_bp.backends import VARIABLE, name_of, resolve

    try:
        backend = name_of(resolve())
    except LowmemBPError as error:
        backend = str(error)
    libraries = ["transformers", "peft", "accelerate", "bitsandbytes", "matplotlib", "timm"]
    facts = machine(libraries)
    facts |= {"backend": backend, VARIABLE: os.environ.get(VARIABLE, "not set")}
    print_facts(facts, as_json=as_json)


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


def main() -> None:
    """Run the command line; exit 0 ok, 1 failed, 2 usage, 130 interrupted."""
    execute(app, failures=(LowmemBPError,), usage=(ValueError,))
