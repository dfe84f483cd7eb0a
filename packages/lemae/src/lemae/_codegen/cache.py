"""Replies that were paid for once, in one SQLite file that several processes may share."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from .errors import CacheError
from .messages import Reply, digest, reply_from_json, reply_to_json

T = TypeVar("T")

_WAIT_S = 30.0  # for another process that writes
_HEADER = b"SQLite format 3\0"
_TABLE = "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)"


class ReplyCache:
    """A file with one row per reply.

    The file is opened anew for each access (about a millisecond), so that an object may be used by
    any number of threads and processes. Nothing is ever deleted.

    Args:
        path: the file; made with its folders at the first write.

    Raises:
        CacheError: from every method, if the file is no database or cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def get(self, key: str) -> Reply | None:
        """The reply stored under ``key``, or None."""
        if not self.path.exists():
            return None
        row = self._access(
            lambda db: db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        )
        if row is None:
            return None
        try:
            return reply_from_json(json.loads(row[0]), cached=True)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(self._advice(f"the reply {key[:12]} is unreadable")) from error

    def put(self, key: str, reply: Reply) -> None:
        """Store a reply; one that is stored already stays."""
        text = json.dumps(reply_to_json(reply))
        self._access(
            lambda db: db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, text))
        )

    def __len__(self) -> int:
        if not self.path.exists():
            return 0
        count = self._access(lambda db: db.execute("SELECT count(*) FROM replies").fetchone())
        return int(count[0])

    def _access(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._check_header()
            with closing(sqlite3.connect(self.path, timeout=_WAIT_S)) as db, db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute(_TABLE)
                return work(db)
        except (sqlite3.Error, OSError) as error:
            raise CacheError(self._advice(str(error))) from error

    def _check_header(self) -> None:
        """Refuse what is no database: SQLite would write over a file of a few bytes."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                start = stream.read(len(_HEADER))
            if start not in (b"", _HEADER):
                raise sqlite3.DatabaseError("file is not a database")

    def _advice(self, what: str) -> str:
        return (
            f"the cache of replies {self.path} cannot be used ({what}): move the file away to "
            "start a new one, name another file, or restore it from a copy. It was not changed"
        )


def cache_key(
    *,
    model: str,
    base_url: str,
    messages: Any,
    temperature: float | None,
    seed: int | None,
    index: int,
    schema: dict[str, Any] | None,
    extra: dict[str, Any] | None = None,
) -> str:
    """Digest of all that shaped a reply; ``index`` tells the n replies of a request apart."""
    return digest(
        {
            "model": model,
            "base_url": base_url,
            "messages": list(messages),
            "temperature": temperature,
            "seed": seed,
            "index": index,
            "schema": schema,
            "extra": extra or {},
        }
    )
