"""The command ``lare``: results to stdout, everything else to stderr.

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

from lare._codegen.errors import CodegenError
from lare._kit import KitError
from lare.errors import ConfigError, LareError, TaskError

app = typer.Typer(
    name="lare",
    help="A reward for every step, from the return of whole episodes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Form(str, Enum):
    """What a function gets."""

    next = "next"
    paper = "paper"


class Algorithm(str, Enum):
    """Of Stable-Baselines3."""

    td3 = "td3"
    sac = "sac"
    ddpg = "ddpg"
    ppo = "ppo"


class Engine(str, Enum):
    """Where runs go."""

    local = "local"
    ray = "ray"


TaskOption = Annotated[
    str, typer.Option("--task", help="Id of a shipped task, or of any Gymnasium environment.")
]
FormOption = Annotated[
    Form, typer.Option(help="next: the function sees where a step ended; paper: it does not.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")]
SeedsOption = Annotated[str, typer.Option(help="Such as 0..4, or 0,3,5.")]


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
    from lare._kit.run import _plain

    sys.stdout.write(json.dumps(_plain(value), indent=1) + "\n")


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")


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


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, max=10**9, help="Of everything random.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the two training runs.")] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the results; emptied first if it is one the demo wrote."),
    ] = Path("lare-demo"),
    as_json: JsonOption = False,
) -> None:
    """Verify, decompose returns, train TD3 on them; 1 if a promised effect is missing."""
    from lare import demo as job

    ours = job.is_of_demo(out)
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise typer.BadParameter(
            f"{out} has content that the demo did not write", param_hint="--out"
        )
    results = job.run(out, seed=seed, steps=steps, overwrite=ours, progress=_err)
    if as_json:
        _print_json(results)
    else:
        head = ["environment", "method", "correlation with true step reward", "error of return"]
        _show(head, job.rows(results), "Step rewards learned from returns, held-out episodes")
        head = ["steps", *results["training"]]
        _show(head, job.score_rows(results), "TD3 on Pendulum-v1 paid at the end: true return")
    _err(f"report: {out / 'report.html'}")
    broken = job.broken_promises(results)
    for line in broken:
        _err(f"missing effect: {line}", "red")
    if broken:
        raise typer.Exit(1)


@app.command()
def prompt(
    task: TaskOption,
    form: FormOption = Form.next,
    direct: Annotated[bool, typer.Option("--direct", help="For the reward itself.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a language model would be told, and how many tokens that is."""
    from lare import catalogue
    from lare._codegen import estimate_tokens
    from lare.prompts import first

    text = first(catalogue.task(task), form.value, direct=direct)
    count, estimated = estimate_tokens([{"role": "user", "content": text}])
    if as_json:
        _print_json({"prompt": text, "tokens": count, "estimated": estimated})
        return
    _out(text)
    _err(f"{count} tokens{' (estimate)' if estimated else ''} per candidate")


@app.command()
def generate(
    task: TaskOption,
    model: Annotated[str, typer.Option(help="Name of the model at the service.")],
    out: Annotated[Path, typer.Option(help="Folder for the function and the transcript.")],
    base_url: Annotated[
        str | None, typer.Option(help="Of an OpenAI-compatible service, such as a local server.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Candidates before the summary.")] = 5,
    form: FormOption = Form.next,
    seed: Annotated[int, typer.Option(min=0, max=10**9)] = 0,
    direct: Annotated[
        bool, typer.Option("--direct", help="Ask for the reward itself, to train --method direct.")
    ] = False,
    preverify: Annotated[
        bool, typer.Option(help="Try the function on real steps before it is taken.")
    ] = True,
    max_repairs: Annotated[
        int, typer.Option(min=0, help="Answers asked for again after a failed one.")
    ] = 5,
    cache: Annotated[
        Path | None, typer.Option(help="File with replies, reused. [OUT/replies.sqlite]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the prompt, ask nobody.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a language model write a latent reward, verify it, have it repaired.

    The key is read from the environment variable OPENAI_API_KEY and goes nowhere else; a local
    server needs none.
    """
    if dry_run:
        prompt(task, form, direct, as_json)
        return
    from lare import catalogue
    from lare._codegen import OpenAIChat, ReplyCache
    from lare.generation import generate as job

    spec, steps = catalogue.task(task), catalogue.steps(task, seed)
    replies = ReplyCache(cache or out / "replies.sqlite")
    try:
        llm = OpenAIChat(model, base_url=base_url, cache=replies)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    made = job(
        spec,
        llm,
        steps,
        n=n,
        form=form.value,
        direct=direct,
        preverify=preverify,
        seed=seed,
        max_repairs=max_repairs,
        out=out,
    )
    if as_json:
        _print_json(made.meta)
    else:
        _out(made.source)
    _err(f"saved: {out}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="Defines evaluation_func; or a saved folder.")],
    task: TaskOption,
    steps: Annotated[int, typer.Option(min=2, help="Of random actions to try it on.")] = 512,
    seed: Annotated[int, typer.Option(min=0, max=10**9)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Check a function: 0 accepted, 1 rejected with every reason."""
    from lare import catalogue
    from lare.latent_reward import LatentReward
    from lare.verification import verify as job

    spec = catalogue.task(task)
    source = LatentReward.load(file).source if file.is_dir() else _text_of(file)
    report = job(source, catalogue.steps(task, seed, steps), task=spec)
    if as_json:
        _print_json(report.as_dict())
    else:
        _out(str(report))
        _err(f"limits of the child process: {', '.join(report.isolation) or 'none'}")
    if not report.accepted:
        raise typer.Exit(1)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is no text in UTF-8 ({error}): give Python source") from error


@app.command()
def train(
    task: TaskOption,
    algo: Annotated[Algorithm, typer.Option(help="Of Stable-Baselines3.")] = Algorithm.td3,
    method: Annotated[str, typer.Option(help="With commas between; see `lare info`.")] = "lare",
    seeds: SeedsOption = "0..4",
    steps: Annotated[int, typer.Option(min=1, help="Environment steps.")] = 5000,
    max_episode_steps: Annotated[int | None, typer.Option(min=1, help="Cuts episodes.")] = None,
    width: Annotated[int, typer.Option(min=1, help="Of actor and critic.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of actor and critic.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    function: Annotated[
        Path | None, typer.Option(help="A saved function or a .py file. [the shipped one]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder; finished runs in it are kept.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 1,
    engine: Annotated[Engine, typer.Option(help="ray: over a Ray cluster.")] = Engine.local,
    device: Annotated[
        str, typer.Option(help="Of actor, critic and decoder: cpu, cuda, cuda:1.")
    ] = "cpu",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files into the run folders too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train on an environment that pays at the end of an episode, seed by seed.

    Gymnasium environments with Stable-Baselines3; the particle tasks, such as
    cooperative-navigation-6, with PPO of our own on the CPU, which --algo, --width, --device and
    the like leave alone.
    """
    from lare import sweep
    from lare.algos.mpe import MPESettings
    from lare.envs import task_ids
    from lare.training import Settings

    chosen = [(name.strip(), seed) for name in method.split(",") for seed in _numbers(seeds)]
    every, path = max(1, steps // 5), None if function is None else str(function)
    settings: list[Settings | MPESettings]
    if task in task_ids():
        settings = [
            MPESettings(task, name, steps, seed, evaluate_every=every, function=path)
            for name, seed in chosen
        ]
    else:
        settings = [
            Settings(
                task,
                name,
                algo.value,
                steps,
                seed,
                max_episode_steps,
                width=width,
                learning_rate=learning_rate,
                batch_size=batch_size,
                evaluate_every=every,
                function=path,
                device=device,
            )
            for name, seed in chosen
        ]
    sweep.run(settings, out, jobs=jobs, engine=engine.value, tensorboard=tensorboard, progress=_err)
    _report(out, as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Holds run folders, at any depth.")],
    as_json: JsonOption = False,
) -> None:
    """Write report.html over finished runs, and print the table."""
    _report(folder, as_json)


def _report(folder: Path, as_json: bool) -> None:
    from lare import report as job

    rows = job.rows(folder)
    if as_json:
        _print_json(rows)
    else:
        _show(job.HEAD, [job.cells(row) for row in rows], "True return at the end of training")
    _err(f"report: {job.write(folder)}")


@app.command()
def info(as_json: JsonOption = False) -> None:
    """Show versions, devices, optional libraries, tasks and methods."""
    import importlib.util

    import torch

    from lare._kit import versions
    from lare.latent_reward import shipped_functions
    from lare.methods import names
    from lare.task import shipped_tasks

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    libraries = ["openai", "tiktoken", "stable_baselines3", "mujoco", "pettingzoo", "mpe2"]
    libraries += ["torchrl", "matplotlib", "ray", "tensorboard"]
    facts = {
        **versions(),
        "devices": ", ".join(["cpu", *cuda]),
        "optional": ", ".join(n for n in libraries if importlib.util.find_spec(n)) or "none",
        "tasks": ", ".join(shipped_tasks()),
        "functions": ", ".join(shipped_functions()),
        "direct functions": ", ".join(shipped_functions(direct=True)),
        "methods": ", ".join(names()),
    }
    if as_json:
        _print_json(facts)
    else:
        _show(["what", "value"], [[name, str(value)] for name, value in facts.items()])


@contextlib.contextmanager
def _errors_as_exit_codes() -> Iterator[None]:
    try:
        yield
    except (LareError, CodegenError, KitError, OSError) as error:
        sys.stderr.write(f"lare: {error}\n")
        usage = isinstance(error, ConfigError | TaskError)
        raise SystemExit(2 if usage else 1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def main() -> None:
    """Run the command line; exit 0 ok, 1 failed, 2 usage, 130 interrupted."""
    with _errors_as_exit_codes():
        app()
