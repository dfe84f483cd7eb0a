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
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowmem_bp.autograd.recipe import attach
from lowmem_bp.backends import Backend, resolve
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


class _Norm(torch.autograd.Function):
    """Outputs ``(y, z, r)``, or ``(z, r)`` without an affine part.

    ``z`` and ``r`` are true outputs, not only saved tensors, so that a second derivative flows
    through them: with gradients on, the backward pass is made of differentiable operations on them.
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
        kernels: type[Backend],
    ) -> tuple[Tensor, ...]:
        if weight is None:
            return kernels.normalize(x, centred=centred, n_dims=n_dims, eps=eps, dtype=keep_dtype)
        if centred and _same_dtype(dtype, x, weight, bias):
            # torch's own kernel, for equal bits: one bit of bf16 here is a visible difference
            # after some layers.
            y = F.layer_norm(x, x.shape[x.dim() - n_dims :], weight, bias, eps).to(dtype)
            z, r = kernels.normalize(x, centred=centred, n_dims=n_dims, eps=eps, dtype=keep_dtype)
            return y, z, r
        # Where the product is taken of rounded rows anyway, those that are kept will do.
        dtype_of_z = keep_dtype if round_first == keep_dtype else _compute_dtype(x.dtype)
        z, r = kernels.normalize(x, centred=centred, n_dims=n_dims, eps=eps, dtype=dtype_of_z)
        y = kernels.affine(z, weight, bias, offset=offset, round_first=round_first, dtype=dtype)
        return y, z.to(keep_dtype), r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.centred, ctx.n_dims, _eps, ctx.offset, *_dtypes, ctx.kernels = inputs
        ctx.x_dtype = x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.set_materialize_grads(False)
        z, r = output[-2:]
        ctx.save_for_backward(z, r, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        z, r, weight = ctx.saved_tensors
        grad_z, grad_r = grads[-2:]
        through = partial(
            ctx.kernels.norm_backward,
            *(z, r),
            offset=ctx.offset,
            centred=ctx.centred,
            n_dims=ctx.n_dims,
            dtype=ctx.x_dtype,
        )
        needs = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_bias = None
        if weight is not None and grads[0] is not None:
            grad_x, grad_weight, grad_bias = through(grads[0], weight, needs=needs)
        if needs[0] and grad_z is not None:
            grad_x = _plus(grad_x, through(grad_z, None, needs=(True, False, False))[0])
        if needs[0] and grad_r is not None:  # only in a second derivative: dr/dx = -r² z / N
            columns = z.shape[z.dim() - ctx.n_dims :].numel()
            grad_x = _plus(grad_x, (-grad_r * r * r * z.to(r.dtype) / columns).to(ctx.x_dtype))
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(ctx.bias_dtype)
        return (grad_x, grad_weight, grad_bias, *([None] * 8))


@dataclass(frozen=True)
class _Affine:
    """Rebuilds the result of a norm from its rows, weight and bias."""

    kernels: type[Backend]
    offset: float
    round_first: torch.dtype | None
    dtype: torch.dtype

    def __call__(self, *kept: Tensor) -> Tensor:
        return self.rounded(*kept, dtype=self.dtype)

    def rounded(self, *kept: Tensor, dtype: torch.dtype) -> Tensor:
        """The same in ``dtype``, if that is one rounding: what was fp32 becomes 16 bits once."""
        once = self.dtype == torch.float32 and dtype.itemsize < 4
        return self.kernels.affine(
            *kept,
            offset=self.offset,
            round_first=self.round_first,
            dtype=dtype if once else self.dtype,
        )


def _plus(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    return term if total is None else total if term is None else total + term


def _same_dtype(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    return all(tensor is None or tensor.dtype == dtype for tensor in tensors)


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
    backend: str = "auto",
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
        offset: See :meth:`lowmem_bp.backends.Backend.affine`.
        round_first: Round to the dtype of ``x`` before the weight is applied (Llama family).
        dtype: Of the result; default that of ``x``.
        backend: Name of the kernel backend.

    Returns:
        Tensor of the shape of ``x``. It carries a recipe, so that the lean operations that use it
        keep ``z``, rounded to the autocast dtype when autocast is on, and not the result itself.
    """
    dtype = x.dtype if dtype is None else dtype
    kernels = resolve(backend, x.device)
    eps = torch.finfo(_compute_dtype(x.dtype)).eps if eps is None else eps
    keep_dtype = x.dtype
    if x.dtype == torch.float32:
        keep_dtype = autocast_dtype(x.device) or x.dtype
    rounding = x.dtype if round_first else None
    if weight is None:
        # The output itself is what is kept.
        y, _r = _Norm.apply(
            *(x, None, None, centred, n_dims, eps, offset, None, dtype, dtype, kernels)
        )
        return y  # type: ignore[no-any-return]
    y, z, _r = _Norm.apply(
        x, weight, bias, centred, n_dims, eps, offset, rounding, dtype, keep_dtype, kernels
    )
    if not torch.is_grad_enabled():
        return y  # type: ignore[no-any-return]
    # Copies, because a layer that rebuilds y may belong to another FSDP group than the norm: the
    # norm's own weight can be freed by then. They are one row each, whatever the batch.
    rows = (weight.clone(),) if bias is None else (weight.clone(), bias.clone())
    return attach(y, _Affine(kernels, offset, rounding, dtype), z, *rows)
