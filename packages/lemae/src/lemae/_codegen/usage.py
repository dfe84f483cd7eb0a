"""What a dialogue costs: tokens before it, tokens and money after it."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .messages import Message, Reply

_log = logging.getLogger(__name__)
_BYTES_PER_TOKEN = 4  # fewer than text has on average, so that the estimate is rather too high


class TokenCount(NamedTuple):
    """Tokens of a prompt, and whether they are estimated from its length."""

    tokens: int
    is_estimate: bool


def estimate_tokens(
    messages: Sequence[Message],
    model: str | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> TokenCount:
    """Count the tokens of the messages' text.

    Args:
        messages: the prompt.
        model: name of the model, for the choice of its encoding.
        count_tokens: own function of a text. Otherwise ``tiktoken`` counts if it is installed and
            has its table, which it loads from the network the first time; else one token for
            every 4 bytes of UTF-8 is assumed.

    Returns:
        The count, and whether it is only an estimate.
    """
    texts = [message["content"] for message in messages]
    if count_tokens is not None:
        return TokenCount(sum(count_tokens(text) for text in texts), False)
    counter = _tiktoken_counter(model)
    if counter is not None:
        return TokenCount(sum(counter(text) for text in texts), False)
    lengths = [len(text.encode(errors="surrogatepass")) for text in texts]
    sizes = [math.ceil(length / _BYTES_PER_TOKEN) for length in lengths]
    return TokenCount(sum(sizes), True)


@functools.cache
def _tiktoken_counter(model: str | None) -> Callable[[str], int] | None:
    """A counter for the model, or None, with one log entry, where ``tiktoken`` does not work."""
    try:
        import tiktoken

        try:
            encoding = tiktoken.encoding_for_model(model or "")
        except KeyError:
            encoding = tiktoken.get_encoding("o200k_base")
    except Exception as error:  # its loader raises the errors of whatever library it loads with
        _log.info("tokens are estimated from the length of the text: tiktoken fails (%s)", error)
        return None

    def count(text: str) -> int:
        return len(encoding.encode(text, disallowed_special=()))

    return count


@dataclass
class UsageRecord:
    """Sums what replies cost.

    Args:
        prices: by model, US dollars or another currency for a million tokens of prompt and of
            reply. There is no built-in table: prices change.

    Attributes:
        requests: replies added that came from a service.
        cached: replies added that came from a file.
        unknown: replies of a service that did not say their tokens.
        prompt_tokens: sum over the replies of services.
        completion_tokens: the same, of what the models wrote.
    """

    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    requests: int = 0
    cached: int = 0
    unknown: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _cost: float = field(default=0.0, repr=False)
    _unpriced: int = field(default=0, repr=False)

    def add(self, reply: Reply) -> None:
        """Add one reply."""
        if reply.cached:
            self.cached += 1
            return
        self.requests += 1
        if reply.usage is None:
            self.unknown += 1
            return
        self.prompt_tokens += reply.usage.prompt_tokens
        self.completion_tokens += reply.usage.completion_tokens
        if reply.model not in self.prices:
            self._unpriced += 1
            return
        prompt, completion = self.prices[reply.model]
        cost = prompt * reply.usage.prompt_tokens + completion * reply.usage.completion_tokens
        self._cost += cost / 1e6

    @property
    def cost(self) -> float | None:
        """Sum of money, or None if a price or a count is missing."""
        return None if self._unpriced or self.unknown else self._cost
