"""A client for every service that speaks OpenAI's chat completions, local servers included.

Services differ in what they take, so that a request starts with the most helpful form and steps
down: a JSON schema, then JSON without a promise about its keys, then plain text; several replies in
one request, then one at a time; a temperature, then none.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from .cache import ReplyCache, cache_key
from .errors import (
    CodegenError,
    LLMAuthError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMServerError,
    LLMTimeoutError,
    MissingKeyError,
    MissingPackageError,
)
from .messages import Message, Reply, Usage, is_encodable

T = TypeVar("T")

_log = logging.getLogger(__name__)
_OPENAI_URL = "https://api.openai.com/v1"
_RUNGS = ("json_schema", "json_object", "plain")
_STEP_DOWN = (400, 404, 422, 500)
_MAX_WAIT_S = 30.0
_MAX_DETAIL = 400
_MAX_BODY_BYTES = 8 << 20
_MAX_MODEL, _MAX_REASON = 200, 32  # characters that are kept of what the service names


class OpenAIChat:
    """A model behind an OpenAI-compatible address.

    Args:
        model: name of the model at the service.
        base_url: address up to and without ``/chat/completions``, and without a user, a password
            or a query. By default that of the environment variable ``OPENAI_BASE_URL``, else
            OpenAI's own.
        api_key_env: environment variable that holds the key. Without it, addresses other than
            OpenAI's get a placeholder, which local servers accept.
        timeout_s: for one request, from its start to the last byte of the answer.
        max_retries: how often a request is repeated after a time-out, a refused connection, HTTP
            429 or 5xx.
        max_completion_tokens: limit of one reply; None leaves it to the service.
        cache: where replies are kept; None keeps none.
        extra: further fields of the request, such as ``{"top_p": 0.9}``.

    Raises:
        ValueError: if ``base_url`` is no address of a web service or holds more than that, or a
            number makes no sense.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 120.0,
        max_retries: int = 2,
        max_completion_tokens: int | None = None,
        cache: ReplyCache | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        if timeout_s <= 0 or max_retries < 0:
            raise ValueError(
                f"timeout_s is {timeout_s}, max_retries is {max_retries}: give a positive time and "
                "no negative count"
            )
        if base_url is not None and not base_url.strip():
            # Left empty by a variable that is not set, say: the key is for no other service.
            raise ValueError(
                f"base_url is {base_url!r}: give the address of a service, or None for "
                "OPENAI_BASE_URL or else OpenAI's"
            )
        self.model = model
        self.base_url = _checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI_URL)
        self._api_key_env = api_key_env
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._max_completion_tokens = max_completion_tokens
        self._cache = cache
        self._extra = dict(extra or {})
        self._rung = 0  # the three below: what this service was found to take
        self._takes_n = True
        self._takes_temperature = True

    def __repr__(self) -> str:
        return f"OpenAIChat(model={self.model!r}, base_url={self.base_url!r})"

    def complete(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        temperature: float | None = None,
        seed: int | None = None,
        schema: dict[str, Any] | None = None,
    ) -> list[Reply]:
        """Give ``n`` replies, as :class:`LLM` says.

        Every reply is stored as soon as it is there, so that a request that failed half-way only
        asks for the rest when it is made again. Replies beyond the first ask with ``seed + i``
        where the service gives fewer than asked for.

        Raises:
            MissingKeyError: if OpenAI is asked and the variable with the key is not set.
            MissingPackageError: if ``openai`` is not installed.
            LLMError: one of its kinds, if the service cannot be reached or refuses. No message
                contains the key.
        """
        if n < 1:
            raise ValueError(f"n is {n}: ask for at least one reply")
        asked = {"messages": list(messages), "temperature": temperature, "schema": schema}
        keys = [self._key(asked, seed, index) for index in range(n)]
        found = [None if self._cache is None else self._cache.get(key) for key in keys]
        while None in found:
            missing = [index for index, reply in enumerate(found) if reply is None]
            count = len(missing) if self._takes_n else 1
            replies = self._ask(asked, count, None if seed is None else seed + missing[0])
            if len(replies) < count:
                self._takes_n = False
            for index, reply in zip(missing, replies):  # noqa: B905  there may be fewer
                found[index] = reply
                if self._cache is not None and is_encodable(reply.text):
                    self._cache.put(keys[index], reply)
        return [reply for reply in found if reply is not None]

    def _key(self, asked: dict[str, Any], seed: int | None, index: int) -> str:
        extra = {**self._extra, "max_completion_tokens": self._max_completion_tokens}
        return cache_key(
            model=self.model, base_url=self.base_url, seed=seed, index=index, extra=extra, **asked
        )

    # --- one request, in the form that the service takes ----------------------------------------

    def _ask(self, asked: dict[str, Any], count: int, seed: int | None) -> list[Reply]:
        key = self._find_key()
        openai = _import_openai()
        rung = self._rung if asked["schema"] is not None else len(_RUNGS) - 1
        with openai.OpenAI(
            api_key=key,
            base_url=self.base_url,
            timeout=self._timeout_s,
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [_read_bounded]}),
        ) as client:
            while True:
                fields = self._fields(asked, count, seed, rung)
                try:
                    answer = self._send(client, openai, fields, can_step_down=rung == 0)
                except (openai.OpenAIError, TimeoutError) as error:
                    status = getattr(error, "status_code", None)
                    text = str(error).lower()
                    if status in (400, 422) and "temperature" in text and "temperature" in fields:
                        _log.info("%s refuses a temperature: asking without", self.model)
                        self._takes_temperature = False
                    elif status in _STEP_DOWN and rung < len(_RUNGS) - 1:
                        rung += 1
                        _log.info("%s refuses a request: trying %s", self.base_url, _RUNGS[rung])
                    elif status in (400, 422) and count > 1:
                        count, self._takes_n = 1, False
                    else:
                        raise self._translated(openai, error, key) from None
                else:
                    replies = self._replies(answer, key)
                    if asked["schema"] is not None:
                        self._rung = rung
                    return replies[:count]

    def _fields(
        self, asked: dict[str, Any], count: int, seed: int | None, rung: int
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": self.model, "messages": asked["messages"]}
        if count > 1:
            fields["n"] = count
        if asked["temperature"] is not None and self._takes_temperature:
            fields["temperature"] = asked["temperature"]
        if seed is not None:
            fields["seed"] = seed
        if self._max_completion_tokens is not None:
            fields["max_completion_tokens"] = self._max_completion_tokens
        schema = asked["schema"]
        if _RUNGS[rung] == "json_schema":
            named = {"name": "reply", "schema": schema, "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": named}
        elif _RUNGS[rung] == "json_object":
            own = {} if self._is_openai() else {"schema": schema}  # an extension of local servers
            fields["response_format"] = {"type": "json_object", **own}
        if self._extra:
            fields["extra_body"] = self._extra
        return fields

    def _send(
        self, client: Any, openai: Any, fields: dict[str, Any], *, can_step_down: bool
    ) -> Any:
        """Send a request, again after failures that may pass."""
        for attempt in range(self._max_retries + 1):
            try:
                return _within(self._timeout_s, lambda: client.chat.completions.create(**fields))
            except _BodyError as error:
                raise self._nonsense(str(error)) from None
            except ValueError as error:  # JSON that cannot be parsed
                raise self._nonsense(type(error).__name__) from None
            except (openai.APIConnectionError, TimeoutError) as error:
                if isinstance(error.__cause__, _BodyError):  # as some versions pass it on
                    raise self._nonsense(str(error.__cause__)) from None
                if attempt == self._max_retries:
                    raise
                wait_s = _backoff_s(attempt)
            except openai.APIStatusError as error:
                passing = error.status_code == 429 or error.status_code >= 500
                if can_step_down and error.status_code == 500:
                    passing = False
                if not passing or attempt == self._max_retries:
                    raise
                wait_s = _wanted_wait_s(error.response.headers.get("retry-after"), attempt)
            _log.info("%s did not answer: asking again in %.1f s", self.base_url, wait_s)
            time.sleep(wait_s)
        raise AssertionError("the loop returns or raises")

    def _replies(self, answer: Any, key: str) -> list[Reply]:
        """The replies of an answer, which may be anything that a server makes up."""
        try:
            usage = _usage(answer.usage)
            model = _short(answer.model, _MAX_MODEL, key) or self.model
            replies: list[Reply] = []
            for choice in answer.choices:
                text = choice.message.content
                if not isinstance(text, str):
                    raise TypeError("a choice without text")
                own_usage = usage if usage is None or not replies else Usage(0, 0)
                reason = _short(choice.finish_reason, _MAX_REASON, key)
                replies.append(Reply(_scrubbed(text, key), model, own_usage, False, reason))
        except (AttributeError, TypeError) as error:
            raise self._nonsense(_scrubbed(str(error), key)) from None
        if not replies:
            raise LLMServerError(f"{self.base_url} answered without any reply: try again")
        return replies

    def _nonsense(self, reason: str) -> LLMServerError:
        return LLMServerError(
            f"{self.base_url} answered with something that is no chat completion ({reason}): is "
            "the address right, with its /v1 at the end?"
        )

    # --- keys and errors ------------------------------------------------------------------------

    def _is_openai(self) -> bool:
        return (urlsplit(self.base_url).hostname or "").endswith("openai.com")

    def _find_key(self) -> str:
        key = os.environ.get(self._api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise MissingKeyError(
                f"the environment variable {self._api_key_env} holds a character that is not "
                "printable ASCII, so that it cannot be a key: copy the key again"
            )
        if key:
            return key
        if self._is_openai():
            raise MissingKeyError(
                f"the environment variable {self._api_key_env} is not set: set it to the key for "
                f"{self.base_url}, or name the address of another service, such as a local one"
            )
        return "no-key"

    def _translated(self, openai: Any, error: Exception, key: str) -> CodegenError:
        status = getattr(error, "status_code", None)
        detail = _scrubbed(str(error), key)[:_MAX_DETAIL]
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            return LLMTimeoutError(
                f"{self.base_url} did not answer within {self._timeout_s:g} s: try again later, "
                "or allow more time"
            )
        if isinstance(error, openai.APIConnectionError):
            return LLMConnectionError(
                f"{self.base_url} cannot be reached: is the address right, and the server running?"
            )
        kinds: list[tuple[bool, type[LLMError], str]] = [
            (
                status in (401, 403),
                LLMAuthError,
                f"is the key in {self._api_key_env} right, and may it use {self.model}?",
            ),
            (status == 429, LLMRateLimitError, "wait, or look at the credit of the account"),
            (status == 404, LLMError, f"is {self.model} the name of a model there?"),
            (status is not None and status >= 500, LLMServerError, "try again later"),
            (status is None, LLMServerError, "is this the address of chat completions?"),
        ]
        for fits, kind, advice in kinds:
            if fits:
                return kind(f"{self.base_url} answered HTTP {status}: {advice} It said: {detail}")
        return LLMError(f"{self.base_url} refused the request (HTTP {status}). It said: {detail}")


def _import_openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise MissingPackageError(
            "a language model is asked through the package openai, which is not installed: "
            "pip install openai"
        ) from error
    return openai


def _checked_url(url: str) -> str:
    """``url``, if it holds no secrets: messages name the address, and a server can repeat it."""
    if set(url) & set("@?#"):
        raise ValueError(
            "base_url holds @, ? or #, as with a user, a password or a query: give the address "
            "alone, and the key in the environment variable that api_key_env names"
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url is no address: give one such as http://127.0.0.1:8000/v1")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def _scrubbed(text: str, key: str) -> str:
    return text.replace(key, "[key]") if key else text


def _short(value: Any, most: int, key: str) -> str | None:
    """A name from the service without the key; None where it is anything but a short text."""
    if not isinstance(value, str) or len(value) > most or not is_encodable(value):
        return None
    return _scrubbed(value, key)


class _BodyError(Exception):
    """The body of an answer cannot be read."""


def _read_bounded(response: Any) -> None:
    """Read the body of an HTTP response up to a limit, before anything else does."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _BodyError("compressed, which was not asked for")
    stream, body = response.stream, bytearray()
    try:
        for chunk in stream:
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                raise _BodyError(f"more than {_MAX_BODY_BYTES} bytes")
    finally:
        stream.close()
    package = importlib.import_module(type(response).__module__.partition(".")[0])
    response.stream = package.ByteStream(bytes(body))


def _within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` returns; where it takes longer, it is left behind in its thread.

    Time-outs of sockets hold for each byte alone, so that a server could take for ever.

    Raises:
        TimeoutError: if it takes longer.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def _usage(value: Any) -> Usage | None:
    counts = [getattr(value, f"{part}_tokens", None) for part in ("prompt", "completion")]
    if all(type(count) is int and 0 <= count < 2**53 for count in counts):
        return Usage(*counts)  # type: ignore[arg-type]  # just checked
    return None


def _backoff_s(attempt: int) -> float:
    return float(min(0.5 * 2**attempt, 8.0))


def _wanted_wait_s(retry_after: str | None, attempt: int) -> float:
    try:
        wanted = float(retry_after or "")
    except ValueError:
        return _backoff_s(attempt)
    return wanted if 0 <= wanted <= _MAX_WAIT_S else _backoff_s(attempt)
