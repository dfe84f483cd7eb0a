"""Code written by a language model: ask for it, check it, repair it, run it safely.

This folder stands alone. It imports NumPy, and only when they are used ``openai`` and ``tiktoken``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .allowlist import CheckedCode, check, load_function
    from .cache import ReplyCache, cache_key
    from .child import ChildReport, Limits, Outcome, run_in_child
    from .client import OpenAIChat
    from .dialogue import Dialogue, generate_checked
    from .errors import (
        CacheError,
        CodegenError,
        DialogueError,
        ExecutionError,
        LimitError,
        LLMAuthError,
        LLMConnectionError,
        LLMError,
        LLMRateLimitError,
        LLMServerError,
        LLMTimeoutError,
        MissingKeyError,
        MissingPackageError,
        Problem,
        ReplyError,
        UnsafeCodeError,
    )
    from .messages import LLM, Message, Reply, Usage
    from .offline import ReplayLLM, ScriptedLLM
    from .policy import Policy
    from .reply import extract_code, extract_json
    from .transcript import Transcript, Turn
    from .usage import TokenCount, UsageRecord, estimate_tokens

__all__ = [
    "LLM",
    "CacheError",
    "CheckedCode",
    "ChildReport",
    "CodegenError",
    "Dialogue",
    "DialogueError",
    "ExecutionError",
    "LLMAuthError",
    "LLMConnectionError",
    "LLMError",
    "LLMRateLimitError",
    "LLMServerError",
    "LLMTimeoutError",
    "LimitError",
    "Limits",
    "Message",
    "MissingKeyError",
    "MissingPackageError",
    "OpenAIChat",
    "Outcome",
    "Policy",
    "Problem",
    "ReplayLLM",
    "Reply",
    "ReplyCache",
    "ReplyError",
    "ScriptedLLM",
    "TokenCount",
    "Transcript",
    "Turn",
    "UnsafeCodeError",
    "Usage",
    "UsageRecord",
    "cache_key",
    "check",
    "estimate_tokens",
    "extract_code",
    "extract_json",
    "generate_checked",
    "load_function",
    "run_in_child",
]

# Imported when first used: running a function needs neither a database nor a client.
_HOMES = {
    "LLM": "messages",
    "CacheError": "errors",
    "CheckedCode": "allowlist",
    "ChildReport": "child",
    "CodegenError": "errors",
    "Dialogue": "dialogue",
    "DialogueError": "errors",
    "ExecutionError": "errors",
    "LLMAuthError": "errors",
    "LLMConnectionError": "errors",
    "LLMError": "errors",
    "LLMRateLimitError": "errors",
    "LLMServerError": "errors",
    "LLMTimeoutError": "errors",
    "LimitError": "errors",
    "Limits": "child",
    "Message": "messages",
    "MissingKeyError": "errors",
    "MissingPackageError": "errors",
    "OpenAIChat": "client",
    "Outcome": "child",
    "Policy": "policy",
    "Problem": "errors",
    "ReplayLLM": "offline",
    "Reply": "messages",
    "ReplyCache": "cache",
    "ReplyError": "errors",
    "ScriptedLLM": "offline",
    "TokenCount": "usage",
    "Transcript": "transcript",
    "Turn": "transcript",
    "UnsafeCodeError": "errors",
    "Usage": "messages",
    "UsageRecord": "usage",
    "cache_key": "cache",
    "check": "allowlist",
    "estimate_tokens": "usage",
    "extract_code": "reply",
    "extract_json": "reply",
    "generate_checked": "dialogue",
    "load_function": "allowlist",
    "run_in_child": "child",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
