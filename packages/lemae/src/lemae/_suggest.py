"""What an error says of names that it does not know."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def suggest(given: Any, known: Iterable[Any]) -> str:
    """Near matches of a name, or all that there are.

    Args:
        given: what was not found.
        known: what there is; may be nothing.
    """
    words = [str(one) for one in known]
    near = difflib.get_close_matches(str(given).lower(), words, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose from {', '.join(words)}" if words else "it takes none"
