"""Whom to ask for key states: services, recordings, scripts, and what they cost."""

from lemae._codegen import (
    LLM,
    Message,
    OpenAIChat,
    ReplayLLM,
    Reply,
    ReplyCache,
    ScriptedLLM,
    Transcript,
    Usage,
    UsageRecord,
    estimate_tokens,
)

__all__ = [
    "LLM",
    "Message",
    "OpenAIChat",
    "ReplayLLM",
    "Reply",
    "ReplyCache",
    "ScriptedLLM",
    "Transcript",
    "Usage",
    "UsageRecord",
    "estimate_tokens",
]
