"""Dropout that keeps its mask as bits, and casts that keep their input."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowmem_bp.autograd.recipe import Rebuild, attach, recipe_or_identity
from lowmem_bp.backends import Backend


class _Dropout(torch.autograd.Function):
    """Outputs ``(y, bits)``; only the bits are kept."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, p: float, backend: Backend) -> tuple[Tensor, Tensor]:
        # torch's own kernel: the same random numbers as nn.Dropout for the same generator state.
        y, mask = torch.native_dropout(x, p, True)
        return y, backend.pack(mask.view(torch.uint8), 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _x, ctx.p, ctx.backend = inputs
        bits = output[1]
        ctx.mark_non_differentiable(bits)
        ctx.save_for_backward(bits)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (bits,) = ctx.saved_tensors
        return _apply_mask(grads[0], bits, ctx.p, ctx.backend), None, None


def _apply_mask(x: Tensor, bits: Tensor, p: float, backend: Backend) -> Tensor:
    mask = backend.unpack(bits, x.numel(), 1).view(x.shape).to(x.dtype)
    scale = 1.0 / (1.0 - p)
    # In bf16 and fp16 the order decides the last bit: torch's CPU kernel rounds the scale first.
    return x * (mask * scale) if x.device.type == "cpu" else x * mask * scale


def _rebuild(rebuild: Rebuild, p: float, backend: Backend, bits: Tensor, *kept: Tensor) -> Tensor:
    return _apply_mask(rebuild(*kept), bits, p, backend)


def dropout(x: Tensor, p: float, training: bool, *, backend: Backend) -> Tensor:
    """Drop elements with probability ``p``; keep one bit per element.

    Same values and random numbers as :func:`torch.nn.functional.dropout` (which keeps a byte per
    element on CUDA and a whole tensor on CPU). The result carries a recipe: ``x``'s own recipe (or
    ``x``) and the bits, so several dropouts of one tensor share it.
    """
    trivial = not training or p in (0.0, 1.0) or x.numel() == 0 or not torch.is_grad_enabled()
    # Compiled graphs choose what to keep by themselves; vmap has its own rules for randomness.
    foreign = torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None
    if trivial or foreign:
        return F.dropout(x, p, training)
    rebuild, kept = recipe_or_identity(x)
    y, bits = _Dropout.apply(x, p, backend)
    return attach(y, partial(_rebuild, rebuild, p, backend), bits, *kept)


def _rebuild_cast(rebuild: Rebuild, dtype: torch.dtype, *kept: Tensor) -> Tensor:
    return rebuild(*kept).to(dtype)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert ``x`` to ``dtype``; who saves the result keeps ``x``'s recipe (or ``x``) instead.

    PEFT casts the input of each adapter to the adapter's dtype (fp32 by default): without the
    recipe each adapter keeps a private fp32 copy of an input that all of them share.
    """
    if x.dtype == dtype:
        return x
    rebuild, kept = recipe_or_identity(x)
    return attach(x.to(dtype), partial(_rebuild_cast, rebuild, dtype), *kept)
