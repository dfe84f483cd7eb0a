"""Casts whose result is rebuilt from the tensor that was cast."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from lowmem_bp.autograd.recipe import Rebuild, attach, recipe_or_kept


def _rebuild(rebuild: Rebuild, dtype: torch.dtype, *kept: Tensor) -> Tensor:
    return rebuild(*kept).to(dtype)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert ``x`` to ``dtype``; who would save the result keeps less instead.

    That is the recipe of ``x``, or ``x`` itself where the result is wider or ``x`` is kept anyway.
    PEFT casts the input of each adapter to the adapter's dtype (fp32 by default): without this each
    adapter keeps a private fp32 copy of an input that all of them share.
    """
    if x.dtype == dtype:
        return x
    source, y = recipe_or_kept(x, anyway=dtype.itemsize > x.dtype.itemsize), x.to(dtype)
    if source is None:
        return y
    rebuild, kept = source
    return attach(y, partial(_rebuild, rebuild, dtype), *kept)
