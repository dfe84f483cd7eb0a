"""Code written by a language model: ask for it, check it, repair it, run it safely.

This folder stands alone. It imports NumPy, and only when they are used ``openai`` and ``tiktoken``.
"""

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
