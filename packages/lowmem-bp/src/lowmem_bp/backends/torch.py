"""The backend that is right everywhere: plain torch operations.

Transient memory is a few bytes per element of the tensor at hand; nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_GROUP = 128  # elements that share one int8 scale


def _wide(x: Tensor) -> Tensor:
    """Return ``x`` in the dtype the arithmetic is done in: fp64 for fp64, else fp32."""
    return x if x.dtype == torch.float64 else x.float()


class TorchBackend:
    """See :class:`lowmem_bp.backends.Backend`."""

    @staticmethod
    def pack(codes: Tensor, bits: int) -> Tensor:
        """Pack small codes, lowest bits first."""
        per_byte = 8 // bits
        flat = codes.reshape(-1)
        flat = F.pad(flat, (0, -flat.numel() % per_byte)).view(-1, per_byte)
        packed = flat[:, 0].clone()
        for j in range(1, per_byte):
            packed |= flat[:, j] << (bits * j)
        return packed

    @staticmethod
    def unpack(packed: Tensor, numel: int, bits: int) -> Tensor:
        """Invert :meth:`pack`."""
        shifts = range(0, 8, bits)
        mask = (1 << bits) - 1
        return torch.stack([(packed >> s) & mask for s in shifts], dim=-1).view(-1)[:numel]

    @staticmethod
    def pack_steps(x: Tensor, cuts: list[float], bits: int) -> Tensor:
        """Count the cuts below each element and pack the counts."""
        # Compare in fp32 as the kernels do: a cut rounded to bf16 would move elements across it.
        x = _wide(x)
        codes = torch.zeros(x.shape, dtype=torch.uint8, device=x.device)
        for cut in cuts:
            codes += x > cut
        return TorchBackend.pack(codes, bits)

    @staticmethod
    def step_multiply(packed: Tensor, grad: Tensor, levels: list[float], bits: int) -> Tensor:
        """Multiply by the levels that the codes name."""
        wide = _wide(grad)
        # One look-up per byte: a row of the table holds the levels of all codes in that byte.
        codes = TorchBackend.unpack(
            torch.arange(256, dtype=torch.uint8, device=grad.device), 256 * (8 // bits), bits
        )
        table = torch.tensor(levels, dtype=wide.dtype, device=grad.device)[codes.int()]
        factors = table.view(256, 8 // bits)[packed.int()].view(-1)[: grad.numel()]
        return (wide * factors.view(grad.shape)).to(grad.dtype).contiguous()

    @staticmethod
    def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
        """Round to 8 bits, one scale per group of 128."""
        groups = _groups(_wide(x))
        largest = groups.abs().amax(-1, keepdim=True)
        # The scale is rounded first, so that quantising uses the value dequantising will see.
        scale = (largest / 127.0).to(torch.bfloat16)
        step = torch.where(scale == 0, 1.0, scale.to(groups.dtype))
        q = (groups / step).round().clamp(-127, 127).to(torch.int8)
        return q.flatten(-2)[..., : x.shape[-1]].contiguous(), scale.squeeze(-1)

    @staticmethod
    def dequantize_int8(q: Tensor, scale: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Invert :meth:`quantize_int8` up to rounding."""
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        x = _groups(q.to(compute)) * scale.to(compute).unsqueeze(-1)
        flat: Tensor = x.flatten(-2)
        return flat[..., : q.shape[-1]].to(dtype)

    @staticmethod
    def activate_and_pack(
        x: Tensor, function: Callable[[Tensor], Tensor], cuts: list[float], bits: int
    ) -> tuple[Tensor, Tensor]:
        """Return ``function(x)`` and what :meth:`pack_steps` returns."""
        return function(x), TorchBackend.pack_steps(x, cuts, bits)

    @staticmethod
    def gated(gate: Tensor, up: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``function(gate) * up``."""
        return function(gate) * up

    @staticmethod
    def gated_backward(
        grad: Tensor, gate: Tensor, up: Tensor, function: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of both factors of :meth:`gated`."""
        return grad * up, grad * function(gate)

    @staticmethod
    def normalize(
        x: Tensor, *, centred: bool, n_dims: int, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Normalise rows."""
        x = _wide(x)
        if centred:
            z, _mean, r = torch.native_layer_norm(x, x.shape[x.dim() - n_dims :], None, None, eps)
        else:
            r = torch.rsqrt(x.pow(2).mean(tuple(range(-n_dims, 0)), keepdim=True) + eps)
            z = x * r
        return z.to(dtype), r

    @staticmethod
    def affine(
        z: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        offset: float,
        round_first: torch.dtype | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """Scale and shift normalised rows."""
        if round_first is not None:
            result = weight * z.to(round_first)
            return result if bias is None else result + bias
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        scale = weight.to(compute)
        if offset:
            scale = offset + scale
        result = z.to(compute) * scale
        if bias is not None:
            result = result + bias.to(compute)
        return result.to(dtype)

    @staticmethod
    def norm_backward(
        z: Tensor,
        r: Tensor,
        grad: Tensor,
        weight: Tensor | None,
        *,
        offset: float,
        centred: bool,
        n_dims: int,
        dtype: torch.dtype,
        needs: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of input, weight and bias."""
        z, grad = z.to(r.dtype), grad.to(r.dtype)
        dims, rows = tuple(range(-n_dims, 0)), tuple(range(z.dim() - n_dims))
        grad_x = None
        if needs[0]:
            g = grad if weight is None else grad * (weight.to(r.dtype) + offset)
            grad_x = g - z * (g * z).mean(dims, keepdim=True)
            if centred:
                grad_x = grad_x - g.mean(dims, keepdim=True)
            grad_x = (grad_x * r).to(dtype)
        grad_weight = _sum(grad * z, rows) if needs[1] else None
        grad_bias = _sum(grad, rows) if needs[2] else None
        return grad_x, grad_weight, grad_bias


def _sum(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    # sum(()) would reduce every dimension.
    return tensor.sum(dims) if dims else tensor


def _groups(x: Tensor) -> Tensor:
    """View the last dimension as groups of 128, the last one filled with zeros."""
    x = F.pad(x, (0, -x.shape[-1] % _GROUP))
    groups: Tensor = x.unflatten(-1, (-1, _GROUP))
    return groups
