"""Whom to ask for a function: services, recordings, scripts, and what they cost."""

from lare._codegen import (
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
