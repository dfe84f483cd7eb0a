"""The backend for processors: kernels in C, called with the addresses of tensors' data.

Without a compiler at installation the extension is absent, and :mod:`lowmem_bp.backends` falls back
to plain torch. What the kernels do not take (fp64 in products and norms, other devices) goes there
as well, call by call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Container
from ctypes import POINTER, c_double, c_float, c_int, c_size_t, c_void_p
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowmem_bp.activations import gelu_tanh
from lowmem_bp.backends.fallback import (
    NARROW,
    affine_dtype,
    codes_fit,
    or_torch,
    parameters_fit,
    takes,
)
from lowmem_bp.errors import BackendError

_INTERFACE = 2
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
#: The order is that of ``enum gate``.
_GATES: dict[Any, int] = {F.silu: 0, F.gelu: 1, gelu_tanh: 2}

_SIGNATURES = {
    "pack": (c_void_p, c_void_p, c_int, c_size_t, c_int),
    "unpack": (c_void_p, c_void_p, c_int, c_size_t, c_int),
    "pack_steps": (c_void_p, c_int, POINTER(c_double), c_int, c_void_p, c_size_t, c_int),
    "step_multiply": (
        *(c_void_p, c_void_p, c_int, POINTER(c_double), c_int, c_void_p, c_size_t, c_int),
    ),
    "quantize": (c_void_p, c_int, c_void_p, c_void_p, c_size_t, c_size_t, c_int),
    "dequantize": (c_void_p, c_void_p, c_void_p, c_int, c_size_t, c_size_t, c_int),
    "gated": (c_void_p, c_void_p, c_int, c_int, c_void_p, c_size_t, c_int),
    "gated_backward": (
        *(c_void_p, c_void_p, c_void_p, c_int, c_int, c_void_p, c_void_p, c_size_t, c_int),
    ),
    "normalize": (
        *(c_void_p, c_int, c_float, c_void_p, c_int, c_void_p),
        *(c_size_t, c_size_t, c_void_p, c_int),
    ),
    "affine": (
        *(c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_int),
        *(c_size_t, c_size_t, c_void_p, c_int),
    ),
    "norm_backward": (
        *(c_void_p, c_int, c_void_p, c_void_p, c_int, c_void_p, c_int, c_void_p, c_int),
        *(c_void_p, c_void_p, c_size_t, c_size_t, c_void_p, c_int),
    ),
}


class NativeBackend:
    """See :class:`lowmem_bp.backends.Backend`."""

    @staticmethod
    @or_torch
    def pack(codes: Tensor, bits: int) -> Tensor | None:
        """Pack small codes, lowest bits first."""
        if not _takes(codes, dtypes=(torch.uint8,)):
            return None
        codes = codes.contiguous()
        packed = codes.new_empty((codes.numel() * bits + 7) // 8)
        _call("pack", codes, packed, bits, codes.numel())
        return packed

    @staticmethod
    @or_torch
    def unpack(packed: Tensor, numel: int, bits: int) -> Tensor | None:
        """Invert :meth:`pack`."""
        if not codes_fit(packed, numel, bits) or not _takes(packed, dtypes=(torch.uint8,)):
            return None
        packed = packed.contiguous()
        codes = packed.new_empty(numel)
        _call("unpack", packed, codes, bits, numel)
        return codes

    @staticmethod
    @or_torch
    def pack_steps(x: Tensor, cuts: list[float], bits: int) -> Tensor | None:
        """Count the cuts below each element and pack the counts."""
        if not _takes(x, dtypes=_DTYPES):
            return None
        x = x.contiguous()
        packed = x.new_empty((x.numel() * bits + 7) // 8, dtype=torch.uint8)
        table = (c_double * len(cuts))(*cuts)
        _call("pack_steps", x, _DTYPES[x.dtype], table, bits, packed, x.numel())
        return packed

    @staticmethod
    def activate_and_pack(
        x: Tensor, function: Callable[[Tensor], Tensor], cuts: list[float], bits: int
    ) -> tuple[Tensor, Tensor]:
        """Apply torch's kernel, which none of ours beats, then take the codes.

        Doing both piece by piece, to read ``x`` from the cache the second time, gains nothing: the
        codes take a tenth of the activation's time, and more pieces mean more waiting of threads.
        """
        return function(x), NativeBackend.pack_steps(x, cuts, bits)

    @staticmethod
    @or_torch
    def step_multiply(
        packed: Tensor, grad: Tensor, levels: list[float], bits: int
    ) -> Tensor | None:
        """Multiply by the levels that the codes name."""
        kept = codes_fit(packed, grad.numel(), bits, levels)
        if (
            not kept
            or not _takes(packed, dtypes=(torch.uint8,))
            or not _takes(grad, dtypes=_DTYPES)
        ):
            return None
        grad, packed = grad.contiguous(), packed.contiguous()
        out = torch.empty_like(grad)
        table = (c_double * len(levels))(*levels)
        _call("step_multiply", packed, grad, _DTYPES[grad.dtype], table, bits, out, grad.numel())
        return out

    @staticmethod
    @or_torch
    def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Round to 8 bits, one scale per group of 128."""
        if not _takes(x):
            return None
        x = x.contiguous()
        columns = x.shape[-1]
        q = torch.empty_like(x, dtype=torch.int8)
        scale = x.new_empty(*x.shape[:-1], -(-columns // 128), dtype=torch.bfloat16)
        _call("quantize", x, _DTYPES[x.dtype], q, scale, *_rows(x, columns))
        return q, scale

    @staticmethod
    @or_torch
    def dequantize_int8(q: Tensor, scale: Tensor, *, dtype: torch.dtype) -> Tensor | None:
        """Invert :meth:`quantize_int8` up to rounding."""
        # Hooks on saved tensors may have changed the dtype of what was kept.
        kept = _takes(q, dtypes=(torch.int8,)) and _takes(scale, dtypes=(torch.bfloat16,))
        if dtype not in NARROW or not kept:
            return None
        q, scale = q.contiguous(), scale.contiguous()
        out = torch.empty_like(q, dtype=dtype)
        _call("dequantize", q, scale, out, _DTYPES[dtype], *_rows(q, q.shape[-1]))
        return out

    @staticmethod
    @or_torch
    def gated(gate: Tensor, up: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Multiply ``up`` with the activation of ``gate`` in one pass."""
        kind = _GATES.get(function)
        if kind is None or gate.dtype != up.dtype or not _takes(gate, up):
            return None
        gate, up = gate.contiguous(), up.contiguous()
        z = torch.empty_like(gate)
        _call("gated", gate, up, _DTYPES[gate.dtype], kind, z, gate.numel())
        return z

    @staticmethod
    @or_torch
    def gated_backward(
        grad: Tensor, gate: Tensor, up: Tensor, function: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Return the gradients of both factors in one pass."""
        kind = _GATES.get(function)
        one_dtype = grad.dtype == gate.dtype == up.dtype
        if kind is None or not one_dtype or not _takes(grad, gate, up):
            return None
        grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
        grad_a, grad_u = torch.empty_like(gate), torch.empty_like(gate)
        dtype = _DTYPES[gate.dtype]
        _call("gated_backward", grad, gate, up, dtype, kind, grad_a, grad_u, gate.numel())
        return grad_a, grad_u

    @staticmethod
    @or_torch
    def normalize(
        x: Tensor, *, centred: bool, n_dims: int, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | None:
        """Normalise rows; a row is read once and its moments are taken while it is near.

        RMSNorm is left to torch: models write it out, and its result is theirs, bit by bit.
        """
        columns = _columns(x, n_dims)
        if not centred or dtype not in NARROW or not columns or not _takes(x):
            return None
        x = x.contiguous()
        z = torch.empty_like(x, dtype=dtype)
        r = x.new_empty(*x.shape[: x.dim() - n_dims], *[1] * n_dims, dtype=torch.float32)
        args = (x, _DTYPES[x.dtype], eps, z, _DTYPES[dtype], r)
        _call("normalize", *args, *_rows(x, columns), _scratch(x, columns))
        return z, r

    @staticmethod
    @or_torch
    def affine(
        z: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        offset: float,
        round_first: torch.dtype | None,
        dtype: torch.dtype,
    ) -> Tensor | None:
        """Scale and shift normalised rows in one pass."""
        result = affine_dtype(z, weight, bias, round_first, dtype)
        parameters = (weight,) if bias is None else (weight, bias)
        if (
            result not in NARROW
            or not weight.numel()
            or not parameters_fit(z, *parameters)
            or not _takes(z, *parameters)
        ):
            return None
        z = z.contiguous()
        scale = _row(weight, offset if round_first is None else 0.0)
        shift = None if bias is None else _row(bias)
        y = torch.empty_like(z, dtype=result)
        columns = weight.numel()
        args = (z, _DTYPES[z.dtype], scale, shift, y, _DTYPES[result])
        _call("affine", *args, *_rows(z, columns), _scratch(z, columns))
        return y

    @staticmethod
    @or_torch
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
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
        """Return the gradients of input, weight and bias in one pass over the rows."""
        columns = _columns(z, n_dims)
        parameters = () if weight is None else (weight,)
        wrong = dtype not in NARROW or r.dtype != torch.float32 or not columns
        if wrong or not parameters_fit(z, *parameters) or not _takes(z, r, grad, *parameters):
            return None
        z, grad, r = z.contiguous(), grad.contiguous(), r.contiguous()
        scale = None if weight is None else _row(weight, offset)
        grad_x = torch.empty_like(z, dtype=dtype) if needs[0] else None
        threads = torch.get_num_threads()
        # One row of sums per thread, added up in the end: the order depends on their number alone.
        zeros = partial(z.new_zeros, threads, columns, dtype=torch.float32)
        sums = [zeros() if need else None for need in needs[1:]]
        args = (z, _DTYPES[z.dtype], r, grad, _DTYPES[grad.dtype], scale, centred, grad_x)
        rows = (*sums, *_rows(z, columns), _scratch(z, 3 * columns))
        _call("norm_backward", *args, _DTYPES[dtype], *rows)
        shape = z.shape[z.dim() - n_dims :]
        grad_weight, grad_bias = (None if s is None else s.sum(0).view(shape) for s in sums)
        return grad_x, grad_weight, grad_bias


# --- calling -------------------------------------------------------------------------------------


def load(*, automatic: bool = False) -> None:
    """Make the kernels ready.

    Args:
        automatic: Nobody asked for them by name: refuse them where plain torch is faster.

    Raises:
        BackendError: The extension is absent, or not of this version of the package.
    """
    try:
        from lowmem_bp import _native
    except ImportError as error:
        raise BackendError(
            f"the native kernels are not installed ({error}). Install a C compiler and then "
            "`pip install --no-binary lowmem-bp --force-reinstall --no-deps lowmem-bp`, or use "
            "backend='torch', which runs everywhere torch runs."
        ) from error
    version = getattr(_native, "version", None)
    if version != _INTERFACE:
        raise BackendError(
            f"the native kernels are left over from another version of lowmem-bp (interface "
            f"{version}, expected {_INTERFACE}): reinstall lowmem-bp, or use backend='torch'."
        )
    if automatic and not _native.has_threads and torch.get_num_threads() > 1:
        raise BackendError("built without OpenMP, they use one thread, and torch has more.")
    for name, arguments in _SIGNATURES.items():
        prototype = ctypes.CFUNCTYPE(None, *arguments)
        _FUNCTIONS[name] = prototype(getattr(_native, name))


_FUNCTIONS: dict[str, Any] = {}


def _call(name: str, *args: Any) -> None:
    values = (arg.data_ptr() if isinstance(arg, Tensor) else arg for arg in args)
    _FUNCTIONS[name](*values, torch.get_num_threads())


def _takes(*tensors: Tensor, dtypes: Container[torch.dtype] = NARROW) -> bool:
    return takes(*tensors, kind="cpu", dtypes=dtypes)


def _columns(x: Tensor, n_dims: int) -> int:
    return x.shape[x.dim() - n_dims :].numel()


def _rows(x: Tensor, columns: int) -> tuple[int, int]:
    return (x.numel() // columns if columns else 0), columns


def _scratch(x: Tensor, columns: int) -> Tensor:
    """Room for the threads, of the dtype that C expects whatever torch's default is."""
    return x.new_empty(torch.get_num_threads() * columns, dtype=torch.float32)


def _row(parameter: Tensor, offset: float = 0.0) -> Tensor:
    row = parameter.detach().float().contiguous()
    return row + offset if offset else row
