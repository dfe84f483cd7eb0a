"""Elementwise product that saves its factors' recipes: the gate of a SwiGLU or GeGLU layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowmem_bp.autograd.recipe import Rebuild, attach, identity, recipe_of
from lowmem_bp.backends import Backend


class _Product(torch.autograd.Function):
    """``a * b``; each factor is rebuilt in backward for the other one's gradient.

    A factor whose rebuild function is None is kept as it is. Where ``kernels`` is given, the first
    is an activation of one kept tensor and the second is kept: both gradients take one pass then.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        a: Tensor,
        b: Tensor,
        rebuild_a: Rebuild | None,
        rebuild_b: Rebuild | None,
        n_a: int,
        kernels: type[Backend] | None,
        *kept: Tensor,
    ) -> Tensor:
        return a * b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, b, rebuild_a, rebuild_b, n_a, kernels, *kept = inputs
        ctx.dtypes = a.dtype, b.dtype
        ctx.n_kept = len(kept)
        ctx.rebuild_a, ctx.rebuild_b = rebuild_a or identity, rebuild_b or identity
        kept_a = kept[:n_a] if rebuild_a else [a]
        kept_b = kept[n_a:] if rebuild_b else [b]
        # A factor is needed only for the gradient of the other one.
        kept_a = kept_a if ctx.needs_input_grad[1] else []
        kept_b = kept_b if ctx.needs_input_grad[0] else []
        ctx.n_a = len(kept_a)
        ctx.kernels = kernels if all(ctx.needs_input_grad[:2]) else None
        ctx.save_for_backward(*kept_a, *kept_b)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        saved = ctx.saved_tensors
        if ctx.kernels is not None:
            gate, up = saved
            both = ctx.kernels.gated_backward(grad, gate, up, ctx.rebuild_a)
            return (*both, *([None] * (4 + ctx.n_kept)))
        grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_a = (grad * ctx.rebuild_b(*saved[ctx.n_a :])).to(ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            grad_b = (grad * ctx.rebuild_a(*saved[: ctx.n_a])).to(ctx.dtypes[1])
        return (grad_a, grad_b, *([None] * (4 + ctx.n_kept)))


def _rebuild_product(rebuild_a: Rebuild, rebuild_b: Rebuild, n_a: int, *kept: Tensor) -> Tensor:
    return rebuild_a(*kept[:n_a]) * rebuild_b(*kept[n_a:])


def _rebuild_gated(function: Rebuild, kernels: type[Backend], gate: Tensor, up: Tensor) -> Tensor:
    return kernels.gated(gate, up, function)


def product(a: Tensor, b: Tensor, *, int8: bool = False, backend: type[Backend]) -> Tensor:
    """Multiply ``a * b``; keep the recipes of both, and give the result a recipe from them.

    Args:
        a: Usually an activation's output, rebuilt from the activation's input.
        b: Same shape as ``a``; usually has no recipe and is kept as it is.
        int8: Keep a factor that has no recipe in 8 bits (groups of 128, one scale each).
        backend: Kernels for ``int8``.

    Returns:
        ``a * b``. Where shapes differ (broadcasting) the plain product.
    """
    if a.shape != b.shape or not torch.is_grad_enabled():
        return a * b
    rebuild_a, kept_a = _recipe(a, int8, backend)
    rebuild_b, kept_b = _recipe(b, int8, backend)
    kept = (*kept_a, *kept_b)
    is_gate = rebuild_a is not None and len(kept_a) == 1 and rebuild_b is None
    kernels = backend if is_gate and a.dtype == b.dtype else None
    result: Tensor = _Product.apply(a, b, rebuild_a, rebuild_b, len(kept_a), kernels, *kept)
    if not result.requires_grad:
        # Nothing of the factors is kept by this node: a recipe would cost, not save.
        return result
    # Only here may a factor stand for itself: the node above must not get it twice.
    kept_a = kept_a if rebuild_a else (a,)
    kept_b = kept_b if rebuild_b else (b,)
    rebuild_a, rebuild_b = rebuild_a or identity, rebuild_b or identity
    rebuild = (
        partial(_rebuild_gated, rebuild_a, backend)
        if is_gate
        else partial(_rebuild_product, rebuild_a, rebuild_b, len(kept_a))
    )
    return attach(result, rebuild, *kept_a, *kept_b, compiled=int8)


def _recipe(
    factor: Tensor, int8: bool, backend: type[Backend]
) -> tuple[Rebuild | None, tuple[Tensor, ...]]:
    recipe = recipe_of(factor)
    if recipe is not None:
        return recipe.rebuild, recipe.tensors
    if int8 and factor.dim() > 0 and factor.numel() > 0:
        with torch.no_grad():
            kept = backend.quantize_int8(factor)
        return partial(backend.dequantize_int8, dtype=factor.dtype), kept
    return None, ()
