"""The command ``lemae``: results to stdout, everything else to stderr.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lemae._codegen.errors import CodegenError
from lemae._kit.command import (
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
from lemae.errors import ConfigError, KeyStateError, LemaeError, MissingExtraError, TaskError

if TYPE_CHECKING:
    from lemae._codegen import LLM
    from lemae.settings import Settings

app = application("Key states lead multi-agent exploration to sparse rewards.")


class Algorithm(str, Enum):
    """Learners."""

    ippo = "ippo"
    qmix = "qmix"
    vdn = "vdn"
    iql = "iql"
    cmae = "cmae"


class Memory(str, Enum):
    """Forms of the memory."""

    tree = "tree"
    chain = "chain"
    dag = "dag"


class Engine(str, Enum):
    """Where runs go."""

    local = "local"
    ray = "ray"


TaskOption = Annotated[
    str,
    typer.Option("--task", help="Such as pass, secret-room, smax-2s3z, package.module:function."),
]
OptionsOption = Annotated[
    list[str] | None, typer.Option("--option", help="Of the task, as name=value; may be repeated.")
]
BaseUrlOption = Annotated[
    str | None, typer.Option(help="Of an OpenAI-compatible service, such as a local server.")
]
CacheOption = Annotated[
    Path | None, typer.Option(help="File with replies, reused. [OUT/replies.sqlite]")
]


def _options(given: list[str] | None, param_hint: str = "--option") -> dict[str, Any]:
    """Values by name, as JSON has them; what is no JSON is text."""
    found: dict[str, Any] = {}
    for part in given or []:
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{part!r}: expected name=value", param_hint=param_hint)
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


@app.command()
def demo(
    seed: SeedOption = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="At most, of the run with key states.")
    ] = None,
    out: DemoOutOption = Path("lemae-demo"),
    as_json: JsonOption = False,
) -> None:
    """Solve Pass with key states, IPPO without them beside it.

    Ends with 1 if a promised effect is missing.
    """
    from lemae import demo as job

    of_demo(out, job.is_of_demo)
    results = job.run(out, seed=seed, steps=steps, progress=log)
    if as_json:
        print_json(results)
    else:
        print_table(job.HEAD, job.rows(results), "Pass, 30 by 30: reward on success alone")
    log(f"report: {out / 'report.html'}")
    end_if_missing(results["headline"]["missing"])


@app.command()
def prompt(task: TaskOption, option: OptionsOption = None, as_json: JsonOption = False) -> None:
    """Show what a language model would be told, in how many tokens."""
    from lemae._codegen import estimate_tokens
    from lemae.prompts import first

    messages = first(_described(task, option).task_spec)
    count, estimated = estimate_tokens(messages)
    if as_json:
        print_json({"messages": messages, "tokens": count, "estimated": estimated})
        return
    for message in messages:
        print_text(f"[{message['role']}]\n{message['content']}\n")
    log(f"{count} tokens{' (estimate)' if estimated else ''}")


def _env(task: str, option: list[str] | None) -> Any:
    from lemae.settings import Settings
    from lemae.training import make_env

    return make_env(Settings(task, options=_options(option)), 16)


def _described(task: str, option: list[str] | None) -> Any:
    """An environment that says what it is, which a language model has to be told."""
    env = _env(task, option)
    if getattr(env, "task_spec", None) is None:
        raise TaskError(
            f"the environment of {task!r} has no task_spec, which tells a language model what the "
            "state means: give it a lemae.TaskSpec under that name"
        )
    return env


@app.command()
def generate(
    task: TaskOption,
    model: Annotated[str, typer.Option(help="Name of the model at the service.")],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for the key states and the transcript.")
    ],
    base_url: BaseUrlOption = None,
    option: OptionsOption = None,
    max_key_states: Annotated[int, typer.Option(min=1, help="How many may be named.")] = 4,
    max_rethink: Annotated[
        int, typer.Option(min=0, help="Turns in which the model checks its own answer.")
    ] = 1,
    max_repair: Annotated[
        int, typer.Option(min=0, help="Answers asked for again after a failed one.")
    ] = 3,
    seed: SeedOption = 0,
    cache: CacheOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the prompt, ask nobody.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a language model name key states, check and repair them.

    The key is read from the environment variable OPENAI_API_KEY and goes nowhere else; a local
    server needs none.
    """
    if dry_run:
        prompt(task, option, as_json)
        return
    from lemae.generation import generate as job

    env = _described(task, option)
    llm = _model(model, base_url, cache or out / "replies.sqlite")
    made = job(
        env.task_spec,
        llm,
        env,
        max_key_states=max_key_states,
        max_rethink=max_rethink,
        max_repair=max_repair,
        on_failure="raise",
        seed=seed,
        out=out,
    )
    assert made is not None  # on_failure="raise"
    if as_json:
        print_json(made.meta)
    else:
        print_text(made.source)
    log(f"saved: {out}")


def _model(name: str, base_url: str | None, cache: Path) -> LLM:
    from lemae._codegen import OpenAIChat, ReplyCache

    try:
        return OpenAIChat(name, base_url=base_url, cache=ReplyCache(cache))
    except ValueError as error:
        raise ConfigError(str(error)) from error


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, help="Defines is_NAME(state); or a saved folder."
        ),
    ],
    task: TaskOption,
    option: OptionsOption = None,
    probes: Annotated[int, typer.Option(min=1, help="States of random actions to try.")] = 2048,
    seed: SeedOption = 0,
    max_seconds: Annotated[
        float, typer.Option(min=0, help="What is not checked by then is rejected.")
    ] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Check key states.

    Ends with 0 if all are accepted, with 1 and every reason if one is not.
    """
    from lemae.checks import check as job
    from lemae.key_states import KeyStateSet
    from lemae.probes import probes as collect

    env = _env(task, option)
    source: Any = KeyStateSet.load(file) if file.is_dir() else _text_of(file)
    # As in training, a description of the task is of use and not needed.
    states = collect(env, probes, seed)
    report = job(source, getattr(env, "task_spec", None), states, max_seconds=max_seconds)
    if as_json:
        print_json(report.as_dict())
    else:
        print_text(str(report))
        log(f"limits of the child process: {', '.join(report.isolation) or 'none'}")
    if not report.accepted or any(function.failures for function in report.functions):
        raise typer.Exit(1)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is no text in UTF-8 ({error}): give Python source") from error


@app.command()
def train(
    task: TaskOption,
    algo: Annotated[Algorithm, typer.Option(help="The learner.")] = Algorithm.ippo,
    method: Annotated[str, typer.Option(help="With commas between; see `lemae info`.")] = "lemae",
    key_states: Annotated[
        Path | None,
        typer.Option(exists=True, help="A file or saved folder. [those shipped for the task]"),
    ] = None,
    seeds: SeedsOption = "0..4",
    steps: Annotated[int, typer.Option(min=1, help="Environment steps.")] = 300_000,
    num_envs: Annotated[int, typer.Option(min=1, help="Copies of the task.")] = 8,
    option: OptionsOption = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the reward. [published]")] = None,
    beta: Annotated[float | None, typer.Option(help="Of the intrinsic reward. [published]")] = None,
    memory: Annotated[Memory | None, typer.Option(help="[published]")] = None,
    sticky: Annotated[
        float | None, typer.Option(min=1, help="Mean steps that a random action is kept.")
    ] = None,
    self_imitation: Annotated[
        float, typer.Option(min=0, help="Weight of imitating own successes.")
    ] = 0.0,
    count_bonus: Annotated[
        float, typer.Option(min=0, help="Weight of a bonus for rare states.")
    ] = 0.0,
    stop_at: Annotated[
        float | None, typer.Option(min=0, max=1, help="End at this win rate in training.")
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other field of lemae.training.Settings, as name=value with a value in JSON, "
            "such as explore=off or learner='{\"epochs\": 4}'; may be repeated.",
        ),
    ] = None,
    out: RunsOption = Path("runs"),
    jobs: JobsOption = 1,
    engine: Annotated[Engine, typer.Option(help="ray: over a Ray cluster.")] = Engine.local,
    device: DeviceOption = "cpu",
    model: Annotated[
        str | None,
        typer.Option(help="Asked for further key states, with --set requery_after=EPISODES."),
    ] = None,
    base_url: BaseUrlOption = None,
    cache: CacheOption = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files into the run folders too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train where success alone is rewarded, seed by seed; resumable.

    Where a model is asked, its key is read from the environment variable OPENAI_API_KEY.
    """
    chosen_seeds = numbers(seeds)

    from lemae import sweep
    from lemae.settings import Settings, check_fields

    named = {
        "task": task,
        "algo": algo.value,
        "steps": steps,
        "num_envs": num_envs,
        "options": _options(option),
        "key_states": None if key_states is None else str(key_states),
        "alpha": alpha,
        "beta": beta,
        "memory": None if memory is None else memory.value,
        "sticky": sticky,
        "self_imitation": self_imitation,
        "count_bonus": count_bonus,
        "stop_at": stop_at,
        "device": device,
    }
    given = _options(more, "--set")
    if twice := sorted(given.keys() & {*named, "method", "seed"}):
        raise typer.BadParameter(
            f"{', '.join(twice)}: there is an option for that, see --help", param_hint="--set"
        )
    check_fields(given)
    chosen = {**named, "evaluate_every": max(1, steps // 6), **given}
    settings = [
        Settings(method=name.strip(), seed=seed, **chosen)
        for name in method.split(",")
        for seed in chosen_seeds
    ]
    llm = None
    if given.get("requery_after") is None:
        unused = {"--model": model, "--base-url": base_url, "--cache": cache}
        if names := [name for name, value in unused.items() if value is not None]:
            raise typer.BadParameter(
                "no model is asked in a run without --set requery_after=EPISODES",
                param_hint=", ".join(names),
            )
    elif model is not None:
        llm = partial(_model, model, base_url, (cache or out / "replies.sqlite").absolute())
        llm()  # what is missing is told before any run begins
    if key_states is not None and "on_failure" not in given:
        _check_key_states(settings)
    sweep.run(
        settings,
        out,
        jobs=jobs,
        engine=engine.value,
        tensorboard=tensorboard,
        llm=llm,
        progress=log,
    )
    _print_rows(out, as_json)
    try:
        _write_report(out)
    except MissingExtraError as error:
        log(f"no report.html: {error}")


def _check_key_states(settings: Sequence[Settings]) -> None:
    """Refuse key states of which none can be used: whoever names a file means it."""
    from lemae.guidance import load_key_states
    from lemae.settings import GUIDED_METHODS
    from lemae.training import make_env

    for one in settings:
        if one.method in GUIDED_METHODS:
            try:
                load_key_states(one, make_env(one, one.num_envs))
            except KeyStateError as error:
                raise KeyStateError(
                    f"{error}\nMend them; or have the base algorithm trained, with a flag in the "
                    "results, by --set on_failure=base"
                ) from error
            return  # the others read the same


@app.command()
def report(folder: RunsArgument, as_json: JsonOption = False) -> None:
    """Write report.html over finished runs, and print the table."""
    _print_rows(folder, as_json)
    _write_report(folder)


def _print_rows(folder: Path, as_json: bool) -> None:
    from lemae import report as job

    rows = job.rows(folder)
    if as_json:
        print_json(rows)
    else:
        cells = [job.cells(row) for row in rows]
        print_table(job.HEAD, cells, "Steps to the first success, and wins")


def _write_report(folder: Path) -> None:
    from lemae import report as job

    log(f"report: {job.write(folder)}")


@app.command()
def info(as_json: JsonOption = False) -> None:
    """Show versions, devices, optional libraries, tasks and methods."""
    from lemae import baselines, envs
    from lemae.key_states import shipped_key_states
    from lemae.settings import OWN_METHODS

    libraries = ["openai", "tiktoken", "pettingzoo", "torchrl", "jaxmarl", "matplotlib", "ray"]
    libraries += ["tensorboard"]
    facts = {
        **machine(libraries),
        "tasks": ", ".join(envs.names()),
        "key states": ", ".join(shipped_key_states()),
        "methods": ", ".join([*OWN_METHODS, *baselines.names()]),
        "algorithms": ", ".join(algorithm.value for algorithm in Algorithm),
    }
    print_facts(facts, as_json=as_json)


def main() -> None:
    """Run the command line; exit 0 ok, 1 failed, 2 usage, 130 interrupted."""
    sys.path.append(str(Path.cwd()))  # a task may be a module beside its user
    again = "Finished runs are kept: `lemae train` with the same words goes on."
    execute(
        app, failures=(LemaeError, CodegenError), usage=(ConfigError, TaskError), interrupted=again
    )
