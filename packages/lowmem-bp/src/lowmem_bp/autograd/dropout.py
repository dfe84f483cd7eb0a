"""Dropout that keeps its mask as bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowmem_bp.autograd.recipe import Rebuild, attach, recipe_or_kept
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
    element on CUDA and a whole tensor on CPU). Where ``x`` has a recipe, or is kept by who
    made it, the result has a recipe too: several dropouts of one tensor share what is kept.
    """
    trivial = not training or p in (0.0, 1.0) or x.numel() == 0 or not torch.is_grad_enabled()
    # Compiled graphs choose what to keep by themselves; vmap has its own rules for randomness.
    foreign = torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None
    if trivial or foreign:
        return F.dropout(x, p, training)
    source = recipe_or_kept(x)
    y, bits = _Dropout.apply(x, p, backend)
    if source is None:
        return y  # type: ignore[no-any-return]
    rebuild, kept = source
    return attach(y, partial(_rebuild, rebuild, p, backend), bits, *kept)
