"""Which environment copies a call means."""

from __future__ import annotations

from typing import Any

import numpy as np

from lemae.errors import ConfigError


def selected(envs: Any, n_envs: int) -> np.ndarray:
    """Numbers of the copies meant by ``envs``.

    Args:
        envs: None for all, a bool mask ``[N]``, or numbers of copies.
        n_envs: N.

    Returns:
        int64, ascending for None and for a mask, else as given.

    Raises:
        ConfigError: if the mask has another length, or a number is no copy.
    """
    if envs is None:
        return np.arange(n_envs)
    given = np.asarray(envs)
    if given.dtype == bool:
        if given.shape != (n_envs,):
            raise ConfigError(f"the mask of copies has shape {given.shape}: give ({n_envs},)")
        return np.flatnonzero(given)
    numbers = given.astype(np.int64).reshape(-1)
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < n_envs):
        raise ConfigError(
            f"copies {numbers.tolist()} were named, but there are 0 to {n_envs - 1}: name those"
        )
    return numbers
