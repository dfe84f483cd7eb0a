"""The command ``lare``: results to stdout, everything else to stderr.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lare._codegen.errors import CodegenError
from lare._kit.command import (
    DemoOutOption,
    DeviceOption,
    JobsOption,
    JsonOption,
    RunsArgument,
    RunsOption,
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
    print_text,
)
from lare.errors import ConfigError, LareError, MissingExtraError, TaskError

app = application("A reward for every step, from the return of whole episodes.")


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
    str,
    typer.Option(
        "--task",
        help="A shipped task, or a Gymnasium environment; yours: module:Id.",
    ),
]
SpecOption = Annotated[
    Path | None,
    typer.Option(
        "--spec", exists=True, dir_okay=False, help="Describes the task; from TaskSpec.save."
    ),
]
FormOption = Annotated[
    Form, typer.Option(help="next: the function sees where a step ended; paper: it does not.")
]


@app.command()
def demo(
    seed: SeedOption = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the two training runs.")] = None,
    out: DemoOutOption = Path("lare-demo"),
    as_json: JsonOption = False,
) -> None:
    """Train TD3 on rewards of steps, learned from returns alone.

    Ends with 1 if a promised effect is missing.
    """
    from lare import demo as job

    ours = of_demo(out, job.is_of_demo)
    results = job.run(out, seed=seed, steps=steps, overwrite=ours, progress=log)
    if as_json:
        print_json(results)
    else:
        head = ["environment", "method", "correlation with true step reward", "error of return"]
        title = "Step rewards learned from returns, held-out episodes"
        print_table(head, job.rows(results), title)
        head = ["steps", *results["training"]]
        title = "TD3 on Pendulum-v1 paid at the end: true return"
        print_table(head, job.score_rows(results), title)
    log(f"report: {out / 'report.html'}")
    end_if_missing(results["headline"]["missing"])


@app.command()
def prompt(
    task: TaskOption,
    form: FormOption = Form.next,
    direct: Annotated[bool, typer.Option("--direct", help="For the reward itself.")] = False,
    spec: SpecOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a language model would be told, in how many tokens."""
    from lare import catalogue
    from lare._codegen import estimate_tokens
    from lare.prompts import first

    text = first(catalogue.task(task, spec), form.value, direct=direct)
    count, estimated = estimate_tokens([{"role": "user", "content": text}])
    if as_json:
        print_json({"prompt": text, "tokens": count, "estimated": estimated})
        return
    print_text(text)
    log(f"{count} tokens{' (estimate)' if estimated else ''} per candidate")


@app.command()
def generate(
    task: TaskOption,
    model: Annotated[str, typer.Option(help="Name of the model at the service.")],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for the function and the transcript.")
    ],
    base_url: Annotated[
        str | None, typer.Option(help="Of an OpenAI-compatible service, such as a local server.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Candidates before the summary.")] = 5,
    form: FormOption = Form.next,
    seed: SeedOption = 0,
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
    spec: SpecOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the prompt, ask nobody.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a language model write a reward, verify and repair it.

    The key is read from the environment variable OPENAI_API_KEY and goes nowhere else; a local
    server needs none.
    """
    if dry_run:
        prompt(task, form, direct, spec, as_json)
        return
    from lare import catalogue
    from lare._codegen import OpenAIChat, ReplyCache
    from lare.generation import generate as job

    described, steps = catalogue.task(task, spec), catalogue.steps(task, seed)
    replies = ReplyCache(cache or out / "replies.sqlite")
    try:
        llm = OpenAIChat(model, base_url=base_url, cache=replies)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    made = job(
        described,
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
        print_json(made.meta)
    else:
        print_text(made.source)
    log(f"saved: {out}")


@app.command()
def verify(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, help="Defines evaluation_func; or a saved folder."
        ),
    ],
    task: TaskOption,
    steps: Annotated[int, typer.Option(min=2, help="Of random actions to try it on.")] = 512,
    seed: SeedOption = 0,
    spec: SpecOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a function.

    Ends with 0 if it is accepted, with 1 and every reason if not.
    """
    from lare import catalogue
    from lare.latent_reward import LatentReward
    from lare.verification import verify as job

    described = catalogue.task(task, spec)
    source = LatentReward.load(file).source if file.is_dir() else _text_of(file)
    report = job(source, catalogue.steps(task, seed, steps), task=described)
    if as_json:
        print_json(report.as_dict())
    else:
        print_text(str(report))
        limits = ", ".join(report.isolation) or "it was not started, none of the code ran"
        log(f"limits of the child process: {limits}")
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
        Path | None,
        typer.Option(exists=True, help="A saved function or a .py file. [the shipped one]"),
    ] = None,
    out: RunsOption = Path("runs"),
    jobs: JobsOption = 1,
    engine: Annotated[Engine, typer.Option(help="ray: over a Ray cluster.")] = Engine.local,
    device: DeviceOption = "cpu",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files into the run folders too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train where an episode pays at its end, seed by seed; resumable.

    Gymnasium environments with Stable-Baselines3; the particle tasks, such as
    cooperative-navigation-6, with PPO of our own on the CPU, which --algo, --width, --device and
    the like leave alone.
    """
    chosen = [(name.strip(), seed) for name in method.split(",") for seed in numbers(seeds)]

    from lare import sweep
    from lare.algos.mpe import MPESettings
    from lare.envs import task_ids
    from lare.training import Settings

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
    sweep.run(settings, out, jobs=jobs, engine=engine.value, tensorboard=tensorboard, progress=log)
    _print_rows(out, as_json)
    try:
        _write_report(out)
    except MissingExtraError as error:  # the results are there all the same
        log(f"no report.html: {error}")


@app.command()
def report(folder: RunsArgument, as_json: JsonOption = False) -> None:
    """Write report.html over finished runs, and print the table."""
    _print_rows(folder, as_json)
    _write_report(folder)


def _print_rows(folder: Path, as_json: bool) -> None:
    from lare import report as job

    rows = job.rows(folder)
    if as_json:
        print_json(rows)
    else:
        cells = [job.cells(row) for row in rows]
        print_table(job.HEAD, cells, "True return at the end of training")


def _write_report(folder: Path) -> None:
    from lare import report as job

    log(f"report: {job.write(folder)}")


@app.command()
def info(as_json: JsonOption = False) -> None:
    """Show versions, devices, optional libraries, tasks and methods."""
    from lare.latent_reward import shipped_functions
    from lare.methods import names
    from lare.task import shipped_tasks

    libraries = ["openai", "tiktoken", "stable_baselines3", "mujoco", "pettingzoo", "mpe2"]
    libraries += ["torchrl", "matplotlib", "ray", "tensorboard"]
    facts = {
        **machine(libraries),
        "tasks": ", ".join(shipped_tasks()),
        "functions": ", ".join(shipped_functions()),
        "direct functions": ", ".join(shipped_functions(direct=True)),
        "methods": ", ".join(names()),
    }
    print_facts(facts, as_json=as_json)


def main() -> None:
    """Run the command line; exit 0 ok, 1 failed, 2 usage, 130 interrupted."""
    sys.path.append(str(Path.cwd()))  # an environment may be in a module beside its user
    again = "Finished runs are kept: `lare train` with the same words goes on."
    execute(
        app, failures=(LareError, CodegenError), usage=(ConfigError, TaskError), interrupted=again
    )
