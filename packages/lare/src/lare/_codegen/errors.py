"""Exceptions of this folder. Each is also a built-in kind, so ``except ValueError`` works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MAX_SHOWN = 100  # problems that a message lists


class CodegenError(Exception):
    """Base of every error that this folder raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One reason why generated code is refused.

    Attributes:
        line: line of the source, from 1; 0 where the problem belongs to no line.
        construct: what stands there, such as ``"`while` loop"``.
        advice: what is wrong with it and what to write instead.
    """

    line: int
    construct: str
    advice: str

    def __str__(self) -> str:
        place = f"line {self.line}, " if self.line else ""
        return f"{place}{self.construct}: {self.advice}"


class UnsafeCodeError(CodegenError, ValueError):
    """Generated code uses something outside the allow-list.

    Args:
        problems: every reason, in the order of the source.

    Attributes:
        problems: the same, as a tuple.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"- {problem}" for problem in self.problems[:_MAX_SHOWN])
        if len(self.problems) > _MAX_SHOWN:
            lines += f"\n- and {len(self.problems) - _MAX_SHOWN} more"
        super().__init__(
            f"The code was refused for {len(self.problems)} reason(s). Change every one of these "
            f"and give the complete code again:\n{lines}"
        )


class LimitError(CodegenError, RuntimeError):
    """Generated code used more loop steps, elements or digits than its policy allows."""


class ExecutionError(CodegenError, RuntimeError):
    """The child process did not start, died, or went over a limit of time or output.

    Args:
        message: what happened.
        isolation: what held while the code ran; empty if it did not come to that.

    Attributes:
        isolation: the same.
    """

    def __init__(self, message: str, isolation: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.isolation = isolation


class ReplyError(CodegenError, ValueError):
    """A reply of the model cannot be used as it is."""


class MissingPackageError(CodegenError, ImportError):
    """An optional package that this call needs is not installed."""


class MissingKeyError(CodegenError, LookupError):
    """The environment variable that should hold the API key is not set."""


class LLMError(CodegenError, RuntimeError):
    """The service of the language model did not answer with a usable reply."""


class LLMAuthError(LLMError, PermissionError):
    """The service refused the key, or the key may not use the model (HTTP 401, 403)."""


class LLMRateLimitError(LLMError):
    """The service refused for now: too many requests, or no credit left (HTTP 429)."""


class LLMTimeoutError(LLMError, TimeoutError):
    """The service did not answer in time."""


class LLMServerError(LLMError):
    """The service failed (HTTP 5xx), or what it sent is no chat completion."""


class LLMConnectionError(LLMError, ConnectionError):
    """Nothing could be reached at the address of the service."""


class CacheError(CodegenError, OSError):
    """The file of cached replies cannot be used."""


class DialogueError(CodegenError, RuntimeError):
    """Every attempt that was allowed failed.

    Args:
        message: what failed last.
        transcript: the file with every turn, or None where none was kept.

    Attributes:
        transcript: the same.
    """

    def __init__(self, message: str, transcript: Path | None = None) -> None:
        super().__init__(message)
        self.transcript = transcript
