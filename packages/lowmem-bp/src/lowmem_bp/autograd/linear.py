"""Linear layer that saves its input's recipe in place of the input."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowmem_bp.autograd.recipe import Rebuild, rebuilt, recipe_of


class _Linear(torch.autograd.Function):
    """``y = x Wᵀ + b`` (or ``x W + b``), with x rebuilt in backward for the weight's gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        in_by_out: bool,
        rebuild: Rebuild,
        *kept: Tensor,
    ) -> Tensor:
        y = _forward(x, weight, bias, in_by_out)
        # A view made in here could not be changed in place, as the result of nn.Linear can.
        result: Tensor = torch.ops.aten._unsafe_view(y, y.shape)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _bias, ctx.in_by_out, ctx.rebuild, *kept = inputs
        ctx.x_dtype = x.dtype
        ctx.save_for_backward(weight, *kept)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        weight, *kept = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        # Under autocast the weight was cast for the product: cast it again rather than keep a copy.
        if ctx.needs_input_grad[0]:
            matrix = weight.to(grad.dtype)
            grad_x = (grad @ (matrix.t() if ctx.in_by_out else matrix)).to(ctx.x_dtype)
        rows = grad.flatten(0, -2) if grad.dim() > 1 else grad.unsqueeze(0)
        if ctx.needs_input_grad[1]:
            x = rebuilt(ctx.rebuild, kept, grad.dtype)
            x = x.flatten(0, -2) if x.dim() > 1 else x.unsqueeze(0)
            product = x.t() @ rows if ctx.in_by_out else rows.t() @ x
            grad_weight = product.to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0).to(weight.dtype)
        return (grad_x, grad_weight, grad_bias, None, None, *([None] * len(kept)))


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, in_by_out: bool) -> Tensor:
    if not in_by_out:
        return F.linear(x, weight, bias)
    # The expression of transformers' Conv1D, so that results are bit-equal to it.
    flat = x.reshape(-1, x.shape[-1])
    y = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
    return y.view(*x.shape[:-1], weight.shape[1])


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, in_by_out: bool = False
) -> Tensor:
    """Apply a linear layer; keep the recipe of ``x``, if it has one, instead of ``x``.

    The forward pass is torch's own kernel. Backward costs one rebuild of ``x`` on top of the
    usual two products. Where ``x`` has no recipe, or ``weight`` needs no gradient (torch saves
    no input then), this is ``torch.nn.functional.linear``.

    Args:
        x: ``(..., in_features)``.
        weight: ``(out_features, in_features)``, or the transpose when ``in_by_out``.
        bias: ``(out_features,)`` or None.
        in_by_out: True for the layout of GPT-2's ``Conv1D``.

    Returns:
        ``(..., out_features)``.
    """
    recipe = recipe_of(x) if weight.requires_grad else None
    if recipe is None:
        return _forward(x, weight, bias, in_by_out)
    result: Tensor = _Linear.apply(x, weight, bias, in_by_out, recipe.rebuild, *recipe.tensors)
    return result
