"""What bonuses have in common that learn nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lemae._values import alike, reading
from lemae.algos.rollout import Episodes


class FixedBonus:
    """Pays by what it was made with."""

    def observe(self, episodes: Episodes) -> None:
        """Nothing is learned."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from.

        Raises:
            StateError: if there is something: it is of another bonus.
        """
        with reading("this bonus, which learns nothing"):
            alike("the state", state, {})
