"""Ask, check, say what is wrong, ask again: a bounded number of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .errors import CodegenError, DialogueError
from .messages import LLM, Message, Reply, escaped
from .reply import check_characters
from .transcript import Transcript
from .usage import UsageRecord

T = TypeVar("T")


class Dialogue:
    """A model, the messages so far, and the file that keeps every turn.

    Args:
        llm: whom to ask.
        messages: the dialogue so far. It is copied.
        transcript: where every turn is written; None keeps none.
        usage: where the cost of every reply is added; None adds up nothing.

    Attributes:
        messages: what the next :meth:`ask` sends; add to it as the dialogue goes on.
    """

    def __init__(
        self,
        llm: LLM,
        messages: Sequence[Message],
        transcript: Transcript | None = None,
        usage: UsageRecord | None = None,
    ) -> None:
        self.llm = llm
        self.messages: list[Message] = list(messages)
        self.transcript = transcript
        self.usage = usage

    def ask(
        self,
        *,
        n: int = 1,
        temperature: float | None = None,
        seed: int | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Reply]:
        """Ask for ``n`` replies to the messages; see :meth:`LLM.complete`."""
        replies = self.llm.complete(
            self.messages, n=n, temperature=temperature, seed=seed, schema=schema
        )
        for reply in replies if self.usage is not None else ():
            self.usage.add(reply)  # type: ignore[union-attr]
        if self.transcript is not None:
            self.transcript.add(
                self.messages,
                replies,
                model=self.llm.model,
                n=n,
                temperature=temperature,
                seed=seed,
                schema=schema,
            )
        return replies

    def add(self, role: str, content: str) -> None:
        """Add a turn that the next request sends."""
        self.messages.append(Message(role=role, content=content))

    def judge(self, verdict: str) -> None:
        """Note in the transcript what was found about the latest replies."""
        if self.transcript is not None:
            self.transcript.add_verdict(verdict)


def generate_checked(
    llm: LLM,
    messages: Sequence[Message],
    accept: Callable[[str], T],
    *,
    max_repairs: int = 5,
    temperature: float | None = None,
    repair_temperature: float | None = 0.3,
    schema: dict[str, Any] | None = None,
    transcript: Transcript | None = None,
    seed: int | None = None,
    usage: UsageRecord | None = None,
) -> T:
    """Ask until a reply is accepted, telling the model each time all that is wrong.

    Only the latest reply that failed and its error follow the original messages: older ones would
    fill the context with what not to do.

    Args:
        llm: whom to ask.
        messages: the task.
        accept: makes something of the text of a reply, or raises a :class:`CodegenError` whose
            message is complete and addressed to the model.
        max_repairs: requests after the first one.
        temperature: of the first request.
        repair_temperature: of the others.
        schema: JSON schema for the replies, where the service can follow one.
        transcript: where every turn and verdict is written.
        seed: of the first request; each repair counts one further.
        usage: where the cost is added up.

    Returns:
        What ``accept`` returned.

    Raises:
        DialogueError: if no reply was accepted.
        LLMError: if the service fails; what it answered before is in the transcript and the cache.
        ValueError: if ``max_repairs`` is negative.
    """
    if max_repairs < 0:
        raise ValueError(f"max_repairs is {max_repairs}: give 0 or more")
    attempts = max_repairs + 1
    follow_up: list[Message] = []
    for attempt in range(attempts):
        dialogue = Dialogue(llm, [*messages, *follow_up], transcript, usage)
        reply = dialogue.ask(
            temperature=repair_temperature if attempt else temperature,
            seed=None if seed is None else seed + attempt,
            schema=schema,
        )[0]
        try:
            check_characters(reply.text)
            accepted = accept(reply.text)
        except CodegenError as error:
            problem = _with_length_note(str(error), reply)
            dialogue.judge(problem)
            follow_up = _follow_up(reply.text, problem, attempt + 1, attempts)
        else:
            dialogue.judge("accepted")
            return accepted
    path = transcript.path if transcript is not None else None
    kept = f"; every turn is in {path}" if path is not None else ""
    raise DialogueError(
        f"{llm.model} gave no usable reply in {attempts} attempt(s){kept}. The last failed "
        f"because: {problem}",
        path,
    )


def _with_length_note(problem: str, reply: Reply) -> str:
    if reply.finish_reason == "length":
        return f"{problem}\nThe reply was cut off at the limit of its length: answer shorter."
    return problem


def _follow_up(text: str, problem: str, attempt: int, attempts: int) -> list[Message]:
    # The number of the attempt keeps a cache from giving the same failed reply for ever.
    request = (
        f"Attempt {attempt} of {attempts} cannot be used.\n\n{problem}\n\n"
        "Answer again in full, in the same form as before, with all of this repaired."
    )
    return [
        Message(role="assistant", content=escaped(text)),
        Message(role="user", content=escaped(request)),
    ]
