"""Activation with its exact forward and a piecewise constant derivative (Approx-BP).

Source: arXiv 2406.16282. With ``code(x)`` = number of cuts below x, kept in 1, 2 or 4 bits,

    y = h(x)    dx = dy * levels[code(x)]

Packing and multiplying are registered as torch operators: a compiled graph then keeps the packed
code between forward and backward instead of deciding to keep ``x``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowmem_bp.backends import resolve
from lowmem_bp.backends.concrete import is_concrete
from lowmem_bp.steps import StepTable


@torch.library.custom_op("lowmem_bp::pack_steps", mutates_args=())
def _pack_steps(x: Tensor, cuts: list[float], bits: int, backend: str) -> Tensor:
    return resolve(backend, x.device).pack_steps(x, cuts, bits)


@_pack_steps.register_fake
def _(x: Tensor, cuts: list[float], bits: int, backend: str) -> Tensor:
    return x.new_empty(((x.numel() * bits + 7) // 8,), dtype=torch.uint8)


@_pack_steps.register_vmap
def _(info: Any, in_dims: Any, x: Tensor, cuts: list[float], bits: int, backend: str) -> Any:
    # Each sample has its own packed row, as it would have without vmap.
    rows = [_pack_steps(row, cuts, bits, backend) for row in x.unbind(in_dims[0])]
    return torch.stack(rows), 0


@torch.library.custom_op("lowmem_bp::step_multiply", mutates_args=())
def _step_multiply(
    packed: Tensor, grad: Tensor, levels: list[float], bits: int, backend: str
) -> Tensor:
    return resolve(backend, grad.device).step_multiply(packed, grad, levels, bits)


@_step_multiply.register_fake
def _(packed: Tensor, grad: Tensor, levels: list[float], bits: int, backend: str) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


@_step_multiply.register_vmap
def _(
    info: Any,
    in_dims: Any,
    packed: Tensor,
    grad: Tensor,
    levels: list[float],
    bits: int,
    backend: str,
) -> Any:
    size = info.batch_size
    rows = packed.unbind(in_dims[0]) if in_dims[0] is not None else [packed] * size
    grads = grad.unbind(in_dims[1]) if in_dims[1] is not None else [grad] * size
    products = [
        _step_multiply(p, g, levels, bits, backend) for p, g in zip(rows, grads, strict=True)
    ]
    return torch.stack(products), 0


class _StepMultiply(torch.autograd.Function):
    """Linear in ``grad``: its own derivative is the same product."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        packed: Tensor, grad: Tensor, levels: tuple[float, ...], bits: int, backend: str
    ) -> Tensor:
        product: Tensor = _step_multiply(packed, grad, list(levels), bits, backend)
        return product

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        packed, _grad, ctx.levels, ctx.bits, ctx.backend = inputs
        ctx.save_for_backward(packed)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (packed,) = ctx.saved_tensors
        result = _StepMultiply.apply(packed, grads[0], ctx.levels, ctx.bits, ctx.backend)
        return None, result, None, None, None


class _Stepwise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        function: Callable[[Tensor], Tensor],
        cuts: tuple[float, ...],
        levels: tuple[float, ...],
        bits: int,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        if is_concrete(x):  # a compiler sees the operators instead
            return resolve(backend, x.device).activate_and_pack(x, function, list(cuts), bits)
        return function(x), _pack_steps(x, list(cuts), bits, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, _function, _cuts, ctx.levels, ctx.bits, ctx.backend = inputs
        ctx.x_dtype = x.dtype
        packed = output[1]
        ctx.mark_non_differentiable(packed)
        ctx.save_for_backward(packed)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (packed,) = ctx.saved_tensors
        grad = _StepMultiply.apply(packed, grads[0], ctx.levels, ctx.bits, ctx.backend)
        return grad.to(ctx.x_dtype), None, None, None, None, None


def stepwise(
    x: Tensor, function: Callable[[Tensor], Tensor], table: StepTable, *, backend: str
) -> Tensor:
    """Return ``function(x)``; the backward pass multiplies by ``table``'s levels.

    Args:
        x: Floating point, any shape and strides. Kept: ``table.bits`` bits per element, in the
            logical C order of ``x``.
        function: Exact elementwise forward, a function without state.
        table: Cuts and levels of the derivative.
        backend: Name of a kernel backend.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return function(x)
    y, _packed = _Stepwise.apply(x, function, table.cuts, table.levels, table.bits, backend)
    return y  # type: ignore[no-any-return]
