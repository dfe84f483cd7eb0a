"""LayerNorm and RMSNorm whose backward pass needs only their normalised output.

Source: arXiv 2406.16282, MS-BP; the affine part is not merged into the next layer (our addition):
with ``z`` the normalised input and ``r`` the reciprocal standard deviation of each row,
``y = weight * z + bias``, and

    g  = dL/dy * weight
    dx = r (g - mean(g) - z mean(g z))      LayerNorm
    dx = r (g - z mean(g z))                RMSNorm

Kept are ``z`` and ``r``; the linear layers that follow rebuild ``y`` from ``z``, so input and
output of the norm together cost one tensor instead of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowmem_bp.autograd.recipe import attach
from lowmem_bp.errors import DTypeError, ShapeError


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def require_float(x: Tensor) -> None:
    """Raise DTypeError unless ``x`` is floating point."""
    if not x.is_floating_point():
        raise DTypeError(
            f"x has dtype {x.dtype}; expected float32, float64, float16 or bfloat16: convert it."
        )


def check_rows(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> int:
    """Return the number of normalised dimensions; raise where the arguments do not fit ``x``."""
    require_float(x)
    shape = tuple(normalized_shape)
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise ShapeError(
            f"normalized_shape={shape} and x of shape {tuple(x.shape)}: expected the last "
            "dimensions of x."
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and tuple(parameter.shape) != shape:
            raise ShapeError(f"{name} has shape {tuple(parameter.shape)}; expected {shape}.")
    return len(shape)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype that autocast gives linear layers on ``device``, or None where it is off."""
    kind = device.type
    # Devices such as "meta" have no autocast and refuse to be asked whether it is on.
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


def affine(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    offset: float,
    round_first: torch.dtype | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return ``(offset + weight) * z + bias``.

    Args:
        z: Normalised rows.
        weight: Shape of the normalised dimensions.
        bias: Same, or None.
        offset: 1 for norms of the Gemma family, whose weight is stored minus one.
        round_first: Dtype that ``z`` is rounded to before the product, with the product then taken
            in the promoted dtype (Llama family); None to compute in fp32 and round once.
        dtype: Dtype of the result when ``round_first`` is None.
    """
    if round_first is not None:
        result = weight * z.to(round_first)
        return result if bias is None else result + bias
    compute = _compute_dtype(dtype)
    scale = weight.to(compute)
    if offset:
        scale = offset + scale
    result = z.to(compute) * scale
    if bias is not None:
        result = result + bias.to(compute)
    return result.to(dtype)


class _Norm(torch.autograd.Function):
    """Outputs ``(y, z, r)``, or ``(z, r)`` without an affine part.

    ``z`` and ``r`` are true outputs, not only saved tensors, so that a second derivative flows
    through them: the backward pass is made of differentiable operations on them.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        centred: bool,
        n_dims: int,
        eps: float,
        offset: float,
        round_first: torch.dtype | None,
        dtype: torch.dtype,
        keep_dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:
        shape = x.shape[x.dim() - n_dims :]
        y = None
        if centred and weight is not None and _same_dtype(dtype, x, weight, bias):
            # torch's own kernel, for equal bits: one bit of bf16 here is a visible difference
            # after some layers.
            y = F.layer_norm(x, shape, weight, bias, eps).to(dtype)
        x = x.to(_compute_dtype(x.dtype))
        if centred:
            z, _mean, r = torch.native_layer_norm(x, shape, None, None, eps)
        else:
            dims = tuple(range(-n_dims, 0))
            r = torch.rsqrt(x.pow(2).mean(dims, keepdim=True) + eps)
            z = x * r
        if weight is None:
            return z.to(keep_dtype), r
        if y is None:
            y = affine(z, weight, bias, offset=offset, round_first=round_first, dtype=dtype)
        return y, z.to(keep_dtype), r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.centred, ctx.n_dims, _eps, ctx.offset, *_dtypes = inputs
        ctx.x_dtype = x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.set_materialize_grads(False)
        z, r = output[-2:]
        ctx.save_for_backward(z, r, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        z, r, weight = ctx.saved_tensors
        compute = r.dtype
        z = z.to(compute)
        grad_y = grads[0].to(compute) if weight is not None and grads[0] is not None else None
        grad_z, grad_r = grads[-2:]
        dims = tuple(range(-ctx.n_dims, 0))
        grad_x = grad_weight = grad_bias = None
        rows = tuple(range(z.dim() - ctx.n_dims))
        if grad_y is not None:
            if ctx.needs_input_grad[1]:
                grad_weight = _sum(grad_y * z, rows).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                grad_bias = _sum(grad_y, rows).to(ctx.bias_dtype)
        if ctx.needs_input_grad[0]:
            g = None if grad_z is None else grad_z.to(compute)
            if grad_y is not None:
                through_y = grad_y * (weight.to(compute) + ctx.offset)
                g = through_y if g is None else g + through_y
            if g is not None:
                grad_x = g - z * (g * z).mean(dims, keepdim=True)
                if ctx.centred:
                    grad_x = grad_x - g.mean(dims, keepdim=True)
                grad_x = grad_x * r
            if grad_r is not None:  # only in a second derivative: dr/dx = -r² z / N
                through_r = -grad_r * r * r * z / z.shape[z.dim() - ctx.n_dims :].numel()
                grad_x = through_r if grad_x is None else grad_x + through_r
            grad_x = None if grad_x is None else grad_x.to(ctx.x_dtype)
        return (grad_x, grad_weight, grad_bias, *([None] * 7))


def _same_dtype(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    return all(tensor is None or tensor.dtype == dtype for tensor in tensors)


def _sum(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    # sum(()) would reduce every dimension.
    return tensor.sum(dims) if dims else tensor


def norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    centred: bool,
    n_dims: int = 1,
    eps: float | None,
    offset: float = 0.0,
    round_first: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Normalise the last ``n_dims`` dimensions; keep only the normalised rows.

    Args:
        x: ``(..., *normalized_shape)``, any floating dtype; arithmetic is fp32 (fp64 for fp64).
        weight: ``normalized_shape`` or None.
        bias: ``normalized_shape`` or None; needs ``weight``.
        centred: True for LayerNorm, False for RMSNorm.
        n_dims: Number of normalised dimensions.
        eps: Added to the variance; None means the epsilon of the dtype of the arithmetic, as in
            torch's RMSNorm.
        offset: See :func:`affine`.
        round_first: Round to the dtype of ``x`` before the weight is applied (Llama family).
        dtype: Of the result; default that of ``x``.

    Returns:
        Tensor of the shape of ``x``. It carries a recipe, so that the lean operations that use it
        keep ``z``, rounded to the autocast dtype when autocast is on, and not the result itself.
    """
    dtype = x.dtype if dtype is None else dtype
    eps = torch.finfo(_compute_dtype(x.dtype)).eps if eps is None else eps
    keep_dtype = x.dtype
    if x.dtype == torch.float32:
        keep_dtype = autocast_dtype(x.device) or x.dtype
    rounding = x.dtype if round_first else None
    if weight is None:
        # The output itself is what is kept.
        y, _r = _Norm.apply(x, None, None, centred, n_dims, eps, offset, None, dtype, dtype)
        return y  # type: ignore[no-any-return]
    y, z, _r = _Norm.apply(
        x, weight, bias, centred, n_dims, eps, offset, rounding, dtype, keep_dtype
    )
    if not torch.is_grad_enabled():
        return y  # type: ignore[no-any-return]
    # Copies, because a layer that rebuilds y may belong to another FSDP group than the norm: the
    # norm's own weight can be freed by then. They are one row each, whatever the batch.
    rows = (weight.clone(),) if bias is None else (weight.clone(), bias.clone())
    rebuild = partial(affine, offset=offset, round_first=rounding, dtype=dtype)
    return attach(y, rebuild, z, *rows)
