"""Activations whose output is rebuilt from what their own backward keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowmem_bp.activations import Activation
from lowmem_bp.autograd.recipe import Rebuild, attach, identity
from lowmem_bp.backends import Backend


class _Activation(torch.autograd.Function):
    """``y = function(x)``; backward rebuilds ``x``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        function: Callable[[Tensor], Tensor],
        differentiate: Callable[[Tensor, Tensor], Tensor],
        rebuild: Rebuild | None,
        *kept: Tensor,
    ) -> Tensor:
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _function, ctx.differentiate, rebuild, *kept = inputs
        ctx.x_dtype = x.dtype
        ctx.n_kept = len(kept)
        ctx.rebuild = rebuild or identity
        ctx.save_for_backward(*(kept if rebuild else [x]))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad_x = ctx.differentiate(grads[0], ctx.rebuild(*ctx.saved_tensors)).to(ctx.x_dtype)
        return (grad_x, None, None, None, *([None] * ctx.n_kept))


def _rebuild_output(function: Rebuild, rebuild: Rebuild, *kept: Tensor) -> Tensor:
    return function(rebuild(*kept))


def activation(
    x: Tensor,
    known: Activation,
    *,
    function: Callable[[Tensor], Tensor] | None = None,
    int8: bool = False,
    backend: type[Backend],
) -> Tensor:
    """Apply an activation; its output carries a recipe from what backward keeps.

    Args:
        x: Floating point, any shape.
        known: The activation.
        function: Forward to use when it is written in another way than ``known.forward`` (the
            result is then bit-equal to it).
        int8: Keep ``x`` in 8 bits (groups of 128 along the last dimension); an approximation.
        backend: Kernels for ``int8``.

    Returns:
        ``function(x)``.
    """
    function = known.forward if function is None else function
    if not (torch.is_grad_enabled() and x.requires_grad):
        return function(x)
    if int8 and x.dim() > 0 and x.numel() > 0:
        with torch.no_grad():
            kept = backend.quantize_int8(x)
        rebuild = partial(backend.dequantize_int8, dtype=x.dtype)
        y: Tensor = _Activation.apply(x, function, known.differentiate, rebuild, *kept)
        return attach(y, partial(_rebuild_output, function, rebuild), *kept, compiled=True)
    if known.torch_keeps == "output":
        return function(x)  # torch keeps the output, which the next layer then shares
    if function is known.forward and known.torch_keeps == "input":
        return attach(function(x), function, x)
    return attach(_Activation.apply(x, function, known.differentiate, None), function, x)
