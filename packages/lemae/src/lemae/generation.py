"""Ask a language model for key states, and keep those of its functions that work."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from lemae import prompts
from lemae._codegen import (
    LLM,
    Dialogue,
    Limits,
    LLMError,
    Message,
    Reply,
    ReplyError,
    Transcript,
    Usage,
    UsageRecord,
    estimate_tokens,
)
from lemae._codegen.messages import escaped
from lemae._codegen.reply import check_characters
from lemae.answer import Proposal, documented, read_answer, write_answer
from lemae.checks import check
from lemae.discriminators.source import capped, join
from lemae.discriminators.subspace import coordinates
from lemae.errors import ConfigError, KeyStateError, LemaeWarning, ShapeError
from lemae.key_states import KeyState, KeyStateSet
from lemae.probes import Probes
from lemae.probes import probes as collect
from lemae.task import TaskSpec

TRANSCRIPT_FILE = "transcript.jsonl"
OnFailure = Literal["raise", "base"]

_MAX_ECHO = 50_000  # characters of a reply that are sent back

_log = logging.getLogger(__name__)


def generate(
    task: TaskSpec,
    llm: LLM,
    probes_or_env: Probes | Any,
    *,
    max_rethink: int = 1,
    max_repair: int = 3,
    min_key_states: int = 1,
    max_key_states: int = 4,
    on_failure: OnFailure = "raise",
    temperature: float | None = 1.0,
    repair_temperature: float | None = 0.3,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    usage: UsageRecord | None = None,
    max_seconds: float | None = None,
    max_tokens: int | None = None,
) -> KeyStateSet | None:
    """Have key states named: an answer, a second thought about it, checks, repairs.

    Every function is accepted or not by itself. A repair asks only for those that failed, tells all
    that is wrong with them at once, and keeps the others. It also asks for those that work but are
    true at the start, read no position, or come with indices that the state does not have; these
    count if nothing better comes. The number of requests has a bound:
    ``1 + max_rethink + max_repair``.

    Args:
        task: all that the model is told.
        llm: a client, such as ``OpenAIChat``. With a cache of replies, what was answered before a
            failure of the service is not paid for again by the next call.
        probes_or_env: states to check on, from :func:`lemae.probes.probes`, or an environment to
            collect them from.
        max_rethink: how often the model is asked to check its own answer before anything runs.
        max_repair: how often it is asked to repair what failed.
        min_key_states: fewer accepted ones than this are a failure.
        max_key_states: how many are asked for and kept; further ones are left out.
        on_failure: ``"raise"``, or ``"base"``: warn and return None, for which the plain algorithm
            is trained. Whoever asks a model waits for key states, so the default is not that of a
            training run, which goes on without and says so in its results.
        temperature: of the answer.
        repair_temperature: of second thoughts and repairs.
        seed: of the model's sampling, where it takes one, and of the collected states.
        out: folder for the key states, ``meta.json`` and the transcript; the transcript is written
            turn by turn, the rest at the end.
        limits: of the child processes in which functions are tried.
        usage: where the cost is added up; give one with prices to learn it in money.
        max_seconds: after this time nothing more is asked.
        max_tokens: the same for tokens of prompts and replies together, those from a cache not
            counted. Both are looked at between requests, so that the last one may go beyond.

    Returns:
        The key states. Their ``meta`` tells model, task, hash of the prompt, number of requests,
        tokens (estimates where the service does not count them) and seconds, what was rejected and
        why, and the report of the check. None if there are too few and ``on_failure`` is
        ``"base"``.

    Raises:
        KeyStateError: if there are too few; it lists every reason and names the transcript.
        LLMError: if the service failed before enough of them were accepted, whatever
            ``on_failure`` says.
        ConfigError: if a number is out of range.
        ShapeError: if the states do not fit the task.
        TaskError: if the environment does not fit the task.

    Warns:
        LemaeWarning: if the service failed later, and what was accepted until then is kept.

    Reference: arXiv 2410.02511, localisation of key states. Bounds, acceptance by function and
    fallback are ours; the published loop ends when everything runs.
    """
    if on_failure not in get_args(OnFailure):
        raise ConfigError(f'on_failure is {on_failure!r}: give "raise" or "base"')
    if not 1 <= min_key_states <= max_key_states:
        raise ConfigError(
            f"min_key_states is {min_key_states}, max_key_states {max_key_states}: give at least 1 "
            "and no larger minimum than maximum"
        )
    author = _Author(
        task,
        llm,
        _states(probes_or_env, task, seed),
        max_rethink=max_rethink,
        max_repair=max_repair,
        temperature=temperature,
        repair_temperature=repair_temperature,
        seed=seed,
        out=out,
        limits=limits,
        usage=usage,
        max_seconds=max_seconds,
        max_tokens=max_tokens,
    )
    author.write(prompts.first(task, max_key_states=max_key_states), min_key_states)
    made = author.key_states(max_key_states)
    if made is not None and len(made) >= min_key_states:
        return made if out is None else _saved(made, out)
    problem = author.failure(0 if made is None else len(made), min_key_states)
    if on_failure == "raise":
        raise KeyStateError(problem)
    warnings.warn(
        f"{problem}\nThere are no key states: train the plain algorithm",
        LemaeWarning,
        stacklevel=2,
    )
    return None


def requery(
    task: TaskSpec,
    llm: LLM,
    probes_or_env: Probes | Any,
    key_states: KeyStateSet,
    hits: ArrayLike,
    episodes: int,
    *,
    max_new: int = 2,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> KeyStateSet:
    """Ask for further key states when exploration stagnates.

    :class:`lemae.stagnation.Stagnation` says when, and counts the hits; in a training run the
    setting ``requery_after`` does all of it. The model is told its key states and how many episodes
    met each of them, and nothing else that was found out in training.

    Args:
        task: as for :func:`generate`.
        llm: as there.
        probes_or_env: as there.
        key_states: those in use.
        hits: whole numbers ``[K]``, episodes that met each of them.
        episodes: how many there were.
        max_new: key states that may be added.
        seed: as for :func:`generate`.
        out: as there.
        **options: as there; all but bounds on the number of key states and ``on_failure``.

    Returns:
        The old key states, under their old numbers and with their subspaces, followed by the new
        ones: what was learnt about the old ones still holds. ``key_states`` itself, with a log
        line, if no new one was accepted.

    Raises:
        LLMError: if the service failed before a new one was accepted.
        ConfigError: if a number is out of range.
        ShapeError: if there is not one number of hits for each key state, or states do not fit.
    """
    counts = np.asarray(hits)
    if counts.shape != (len(key_states),):
        raise ShapeError(
            f"hits has shape {counts.shape}: give one number for each of the {len(key_states)} key "
            "states"
        )
    if max_new < 1 or counts.min() < 0 or counts.max() > episodes:
        raise ConfigError(
            f"max_new is {max_new}, episodes {episodes}, hits {counts.tolist()}: ask for at least "
            "1 key state, and count each episode at most once"
        )
    states = _states(probes_or_env, task, seed)
    author = _Author(task, llm, states, seed=seed, out=out, known=key_states, **options)
    question = prompts.stagnation(task, key_states.names, counts.tolist(), episodes, max_new)
    opening = [
        *prompts.first(task, max_key_states=len(key_states) + max_new),
        Message(role="assistant", content=write_answer(key_states)),
        Message(role="user", content=question),
    ]
    author.write(opening, 1)
    made = author.key_states(max_new)
    if made is None:
        _log.warning("%s", author.failure(0, 1))
        return key_states
    return made if out is None else _saved(made, out)


def _saved(key_states: KeyStateSet, out: str | os.PathLike[str]) -> KeyStateSet:
    key_states.save(out)
    return key_states


def _states(probes_or_env: Any, task: TaskSpec, seed: int) -> Probes:
    """States to check on, compared with the task before anything is asked and paid for."""
    if not isinstance(probes_or_env, Probes):
        return collect(probes_or_env, seed=seed, task=task)
    if probes_or_env.d != task.d:
        raise ShapeError(
            f"the states to check on have {probes_or_env.d} numbers, the task {task.name!r} "
            f"describes {task.d}: collect them from the environment of the task"
        )
    return probes_or_env


@dataclass
class _Author:
    """One dialogue, and the key states that come of it; arguments as for :func:`generate`."""

    task: TaskSpec
    llm: LLM
    probes: Probes
    max_rethink: int = 1
    max_repair: int = 3
    temperature: float | None = 1.0
    repair_temperature: float | None = 0.3
    seed: int = 0
    out: str | os.PathLike[str] | None = None
    limits: Limits | None = None
    usage: UsageRecord | None = None
    max_seconds: float | None = None
    max_tokens: int | None = None
    known: Sequence[KeyState] = ()  # those that stay, and whose names are taken

    def __post_init__(self) -> None:
        for name in ("max_rethink", "max_repair"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: give 0 or more")
        for name in ("max_seconds", "max_tokens"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: give more than 0, or None")
        self._start = time.monotonic()
        self._transcript = (
            None if self.out is None else Transcript(Path(self.out) / TRANSCRIPT_FILE)
        )
        self._cost = UsageRecord({} if self.usage is None else self.usage.prices)
        self._estimated: list[Usage] = []  # of replies whose service does not count tokens
        self._prompt_sha256 = ""
        self._turns = self._repairs = 0
        self._places: dict[str, int] = {}  # names in the order of their first appearance
        self._found: dict[str, KeyState] = {}
        self._settled = {one.name for one in self.known}  # nothing about it is asked for again
        self._problems: dict[str, list[str]] = {}  # latest ones by name
        self._unread = ""  # what is wrong with the latest reply as a whole

    def write(self, opening: Sequence[Message], least: int) -> None:
        """Lead the dialogue to its end, from its first messages; ``least`` new ones are needed."""
        self._prompt_sha256 = hashlib.sha256(json.dumps(list(opening)).encode()).hexdigest()
        reply = self._ask(opening, self.temperature)
        for _ in range(self.max_rethink):
            if self._is_over_budget():
                break
            self._judge("not tried yet: the model is to check it first")
            question = prompts.rethink(self.task)
            again = self._ask([*opening, *_follow_up(reply, question)], self.repair_temperature)
            if _is_answer(again, self.task.d):
                reply = again
            else:
                self._judge("there is no answer in it: the one before stands")
        attempts = self.max_repair + 1
        failed: dict[str, list[str]] = {}
        for attempt in range(1, attempts + 1):
            try:
                failed = self._try(reply)
                problems = capped([f"{n}: {text}" for n, texts in failed.items() for text in texts])
                if not problems and len(self._found) < least:
                    problems = [_too_few(len(self._found), least)]
                self._unread = ""
            except ReplyError as error:
                self._unread = _with_length_note(str(error), reply)
                problems = [self._unread]
            self._judge("\n".join(problems) or "accepted")
            if not problems or attempt == attempts or self._is_over_budget():
                return
            question = prompts.repair(
                problems, list(failed), sorted(self._settled), attempt, attempts
            )
            try:
                reply = self._ask([*opening, *_follow_up(reply, question)], self.repair_temperature)
            except LLMError as error:
                if len(self._found) < least:
                    raise
                warnings.warn(
                    f"the service failed before all was repaired ({type(error).__name__}: "
                    f"{error}); what was accepted until then is kept: {', '.join(self._found)}",
                    LemaeWarning,
                    stacklevel=3,
                )
                return
            self._repairs += 1

    def key_states(self, most: int) -> KeyStateSet | None:
        """The known key states and up to ``most`` new ones, each only once; None without new ones.

        A function that works counts, even if a doubt about it is left.
        """
        new = sorted(self._found.values(), key=lambda key_state: self._places[key_state.name])
        if not new:
            return None
        together = KeyStateSet([*self.known, *new], self.task.d)
        # Each was tried before: no time runs out on what is accepted.
        report = check(together, self.task, self.probes, limits=self.limits, max_seconds=math.inf)
        twins = {one.name: one.same_as for one in report.functions if one.same_as is not None}
        chosen = [key_state for key_state in new if key_state.name not in twins]
        left_out = {name: f"says the same as {twin}" for name, twin in twins.items()}
        left_out |= {one.name: f"only {most} were asked for" for one in chosen[most:]}
        for name, reason in left_out.items():
            _log.warning("the key state %s is left out: it %s", name, reason)
        if not chosen:
            return None
        meta = self._meta() | {"left_out": left_out, "check": report.as_dict()}
        return KeyStateSet([*self.known, *chosen[:most]], self.task.d, meta=meta)

    def failure(self, count: int, least: int) -> str:
        """Everything that is wrong, for a user."""
        problems = [f"{name}: {text}" for name, texts in self._problems.items() for text in texts]
        problems += [self._unread] if self._unread else []
        kept = f"; every turn is in {self._transcript.path}" if self._transcript else ""
        budget = ", and max_seconds or max_tokens is used up" if self._is_over_budget() else ""
        head = (
            f"{self.llm.model} gave {count} usable key state(s) in {self._turns} request(s)"
            f"{budget}; at least {least} are needed{kept}. Ask another model, allow more repairs, "
            "or write them by hand and use KeyStateSet.from_source. What was wrong:"
        )
        return "\n- ".join([head, *(problems or ["they say the same as others"])])

    def _meta(self) -> dict[str, Any]:
        doubts = {name: self._problems[name] for name in self._found if name in self._problems}
        return {
            "origin": "language model",
            "model": self.llm.model,
            "task": asdict(self.task),
            "prompt_sha256": self._prompt_sha256,
            "named": len(self._places),
            "rejected": {n: texts for n, texts in self._problems.items() if n not in self._found},
            "doubts": doubts,
            "turns": self._turns,
            "repairs": self._repairs,
            "requests": self._cost.requests,
            "cached": self._cost.cached,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "tokens_are_estimated": bool(self._estimated),
            "cost": self._cost.cost,
            "seconds": time.monotonic() - self._start,
        }

    def _ask(self, messages: Sequence[Message], temperature: float | None) -> Reply:
        seed = self.seed + self._turns
        dialogue = Dialogue(self.llm, messages, self._transcript)
        reply = dialogue.ask(temperature=temperature, seed=seed, schema=prompts.SCHEMA)[0]
        self._turns += 1
        self._cost.add(reply)
        if self.usage is not None:
            self.usage.add(reply)
        if reply.usage is None and not reply.cached:
            self._estimated.append(estimated_usage(messages, reply))
        return reply

    @property
    def _prompt_tokens(self) -> int:
        return self._cost.prompt_tokens + sum(usage.prompt_tokens for usage in self._estimated)

    @property
    def _completion_tokens(self) -> int:
        written = sum(usage.completion_tokens for usage in self._estimated)
        return self._cost.completion_tokens + written

    def _judge(self, verdict: str) -> None:
        if self._transcript is not None:
            self._transcript.add_verdict(verdict)

    def _is_over_budget(self) -> bool:
        tokens = self._prompt_tokens + self._completion_tokens
        seconds = time.monotonic() - self._start
        over_time = self.max_seconds is not None and seconds >= self.max_seconds
        return over_time or (self.max_tokens is not None and tokens >= self.max_tokens)

    def _try(self, reply: Reply) -> dict[str, list[str]]:
        """Take what is good of a reply, and tell what is wrong with the rest, by name.

        Raises:
            ReplyError: if nothing of the reply can be read.
        """
        check_characters(reply.text)
        answer = read_answer(reply.text, self.task.d)
        failed = {name: [problem] for name, problem in answer.problems.items()}
        proposals = [one for one in answer.proposals if one.name not in self._settled]
        for proposal in proposals:
            problems = self._problems_of(proposal)
            if problems:
                failed[proposal.name] = problems
        for name in (*(proposal.name for proposal in proposals), *failed):
            self._places.setdefault(name, len(self._places))
        self._problems |= failed
        for name in self._settled:
            self._problems.pop(name, None)
        return failed

    def _problems_of(self, proposal: Proposal) -> list[str]:
        """Run the function of a proposal; it is found if it works."""
        name = proposal.name
        others = [one.source for one in (*self.known, *self._found.values()) if one.name != name]
        try:
            report = check(proposal.file, self.task, self.probes, limits=self.limits)
            if report.key_states is None:
                failures = [text for one in report.functions for text in one.failures]
                return capped([*failures, *report.ignored])
            (key_state,) = report.key_states
            (origin,) = (one.origin for one in report.functions if one.accepted)
            source = documented(key_state.source, name, proposal.description)
            if source != key_state.source:
                key_state = replace(key_state, source=source, description=proposal.description)
            join([*others, source], {})
        except KeyStateError as error:
            return [str(error)]
        self._found[name] = key_state
        doubts = self._doubts_about(key_state, reads_are_known=origin == "code")
        doubts += [proposal.doubt] if proposal.doubt else []
        if not doubts:
            self._settled.add(name)
        return doubts

    def _doubts_about(self, key_state: KeyState, *, reads_are_known: bool) -> list[str]:
        """Why a function that works may be of little use; it is kept if nothing better comes.

        What code that cannot be followed reads is not known, so nothing is said about it.
        """
        doubts = []
        first = key_state.batch(self.probes.reset)
        if first.any():
            doubts.append(
                f"it is true in {int(first.sum())} of {len(first)} first states of episodes: a key "
                "state is false at the start"
            )
        places = set(coordinates(self.task))
        if reads_are_known and places and not places & set(key_state.subspace):
            doubts.append(
                f"it reads {list(key_state.subspace)}, which is no position: the distance to it "
                "shows no way there. Say in the code where the agents are that make it happen"
            )
        return doubts


def estimated_usage(messages: Sequence[Message], reply: Reply) -> Usage:
    """Tokens of a request and its reply, where the service does not tell them."""
    written = [Message(role="assistant", content=reply.text)]
    return Usage(
        estimate_tokens(messages, reply.model).tokens, estimate_tokens(written, reply.model).tokens
    )


def _follow_up(reply: Reply, question: str) -> list[Message]:
    return [
        Message(role="assistant", content=escaped(reply.text)[:_MAX_ECHO]),
        Message(role="user", content=escaped(question)),
    ]


def _too_few(count: int, least: int) -> str:
    return f"{count} new key state(s) can be used, and at least {least} are needed: name more"


def _is_answer(reply: Reply, d: int) -> bool:
    try:
        check_characters(reply.text)
        read_answer(reply.text, d)
    except ReplyError:
        return False
    return True


def _with_length_note(problem: str, reply: Reply) -> str:
    if reply.finish_reason == "length":
        return f"{problem} The reply was cut off at the limit of its length: answer shorter."
    return problem
