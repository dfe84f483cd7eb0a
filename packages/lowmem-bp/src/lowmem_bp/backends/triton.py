"""The backend for CUDA and ROCm: Triton kernels, compiled when they are first used.

What the kernels do not take (fp64, rows too long for one program, other devices) is done in plain
torch, call by call, and so is what a kernel fails at, for the dtypes and sizes it fails at. Kernels
run on processors as well where ``TRITON_INTERPRET=1`` was set before Triton was imported: slowly,
for tests.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

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

_KINDS: dict[Any, str] = {F.silu: "silu", F.gelu: "gelu", gelu_tanh: "gelu_tanh"}

# Sizes by rule of thumb: some 8 to 32 elements per thread.
_BLOCK = 1024  # elements of a program without rows
_TILE = 2048  # elements of a program that has rows, where they are short
_LONGEST = 16384  # elements of a row: the backward pass holds five rows in registers

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _or_torch(method: Callable[_Arguments, _Result | None]) -> Callable[_Arguments, _Result]:
    """Do in plain torch what ``method`` does not take, by returning None, or cannot run."""

    @functools.wraps(method)
    def attempt(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result | None:
        try:
            return method(*args, **kwargs)
        except _KernelError as error:
            if error.variant not in _FAILURES:
                _FAILURES[error.variant] = str(error)
                _LOGGER.warning("kernel %s is not used, plain torch is: %s", error.variant, error)
            return None

    return or_torch(attempt)


class TritonBackend:
    """See :class:`lowmem_bp.backends.Backend`."""

    @staticmethod
    @_or_torch
    def pack(codes: Tensor, bits: int) -> Tensor | None:
        """Pack small codes, lowest bits first."""
        if not _takes(codes, dtypes=(torch.uint8,)):
            return None
        codes = codes.contiguous()
        packed = codes.new_empty(_n_bytes(codes, bits))
        _launch_on_codes("pack", codes, packed, codes.numel(), bits)
        return packed

    @staticmethod
    @_or_torch
    def unpack(packed: Tensor, numel: int, bits: int) -> Tensor | None:
        """Invert :meth:`pack`."""
        if not codes_fit(packed, numel, bits) or not _takes(packed, dtypes=(torch.uint8,)):
            return None
        codes = packed.new_empty(numel)
        _launch_on_codes("unpack", packed.contiguous(), codes, numel, bits)
        return codes

    @staticmethod
    @_or_torch
    def pack_steps(x: Tensor, cuts: list[float], bits: int) -> Tensor | None:
        """Count the cuts below each element and pack the counts."""
        if not _takes(x):
            return None
        packed = x.new_empty(_n_bytes(x, bits), dtype=torch.uint8)
        args = (x.contiguous(), None, packed, tuple(cuts), x.numel())
        _launch_on_codes("activate_and_pack", *args, bits, KIND=None)
        return packed

    @staticmethod
    @_or_torch
    def activate_and_pack(
        x: Tensor, function: Callable[[Tensor], Tensor], cuts: list[float], bits: int
    ) -> tuple[Tensor, Tensor] | None:
        """Apply a known activation and take the codes in one pass; of others, in two."""
        kind = _KINDS.get(function)
        if kind is None:
            return function(x), TritonBackend.pack_steps(x, cuts, bits)
        if not _takes(x):
            return None
        x = x.contiguous()
        y = torch.empty_like(x)
        packed = x.new_empty(_n_bytes(x, bits), dtype=torch.uint8)
        args = (x, y, packed, tuple(cuts), x.numel())
        _launch_on_codes("activate_and_pack", *args, bits, KIND=kind)
        return y, packed

    @staticmethod
    @_or_torch
    def step_multiply(
        packed: Tensor, grad: Tensor, levels: list[float], bits: int
    ) -> Tensor | None:
        """Multiply by the levels that the codes name."""
        kept = codes_fit(packed, grad.numel(), bits, levels)
        if not kept or not _takes(grad) or not _takes(packed, dtypes=(torch.uint8,)):
            return None
        grad = grad.contiguous()
        out = torch.empty_like(grad)
        args = (packed.contiguous(), grad, out, tuple(levels), grad.numel())
        _launch_on_codes("step_multiply", *args, bits)
        return out

    @staticmethod
    @_or_torch
    def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Round to 8 bits, one scale per group of 128."""
        if not _takes(x):
            return None
        x = x.contiguous()
        q = torch.empty_like(x, dtype=torch.int8)
        scale = x.new_empty(*x.shape[:-1], -(-x.shape[-1] // 128), dtype=torch.bfloat16)
        _launch_on_groups("quantize", x, q, scale)
        return q, scale

    @staticmethod
    @_or_torch
    def dequantize_int8(q: Tensor, scale: Tensor, *, dtype: torch.dtype) -> Tensor | None:
        """Invert :meth:`quantize_int8` up to rounding."""
        if dtype not in NARROW or not _takes(q, scale, dtypes=(torch.int8, torch.bfloat16)):
            return None
        q, scale = q.contiguous(), scale.contiguous()
        out = torch.empty_like(q, dtype=dtype)
        _launch_on_groups("dequantize", q, scale, out)
        return out

    @staticmethod
    @_or_torch
    def gated(gate: Tensor, up: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Multiply ``up`` with the activation of ``gate`` in one pass."""
        kind = _KINDS.get(function)
        if kind is None or gate.dtype != up.dtype or not _takes(gate, up):
            return None
        gate, up = gate.contiguous(), up.contiguous()
        z = torch.empty_like(gate)
        _launch_on_elements("gated", gate, up, z, KIND=kind)
        return z

    @staticmethod
    @_or_torch
    def gated_backward(
        grad: Tensor, gate: Tensor, up: Tensor, function: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Return the gradients of both factors in one pass."""
        kind = _KINDS.get(function)
        one_dtype = grad.dtype == gate.dtype == up.dtype
        if kind is None or not one_dtype or not _takes(grad, gate, up):
            return None
        grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
        d_act, d_up = torch.empty_like(gate), torch.empty_like(gate)
        _launch_on_elements("gated_backward", grad, gate, up, d_act, d_up, KIND=kind)
        return d_act, d_up

    @staticmethod
    @_or_torch
    def normalize(
        x: Tensor, *, centred: bool, n_dims: int, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | None:
        """Normalise rows; each is read once."""
        columns = x.shape[x.dim() - n_dims :].numel()
        if dtype not in NARROW or not _fits(columns) or not _takes(x):
            return None
        x = x.contiguous()
        z = torch.empty_like(x, dtype=dtype)
        shape = (*x.shape[: x.dim() - n_dims], *[1] * n_dims)
        r = x.new_empty(shape, dtype=torch.float32)
        rows = x.numel() // columns
        tiles, sizes = _tiles(rows, columns)
        _launch("normalize", tiles, x, z, r, eps, rows, columns, CENTRED=centred, **sizes)
        return z, r

    @staticmethod
    @_or_torch
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
        columns = weight.numel()
        parameters = (weight,) if bias is None else (weight, bias)
        if (
            result not in NARROW
            or not _fits(columns)
            or not parameters_fit(z, *parameters)
            or not _takes(z, *parameters)
        ):
            return None
        z, weight = z.contiguous(), weight.contiguous()
        bias = None if bias is None else bias.contiguous()
        y = torch.empty_like(z, dtype=result)
        rows = z.numel() // columns
        tiles, sizes = _tiles(rows, columns)
        shift = offset if round_first is None else 0.0
        _launch("affine", tiles, z, weight, bias, y, shift, rows, columns, **sizes)
        return y

    @staticmethod
    @_or_torch
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
        shape = z.shape[z.dim() - n_dims :]
        columns = shape.numel()
        parameters = () if weight is None else (weight,)
        wrong = dtype not in NARROW or r.dtype != torch.float32 or not _fits(columns)
        if wrong or not parameters_fit(z, *parameters) or not _takes(z, r, grad, *parameters):
            return None
        z, r, grad = z.contiguous(), r.contiguous(), grad.contiguous()
        weight = None if weight is None else weight.contiguous()
        rows = z.numel() // columns
        tiles, sizes = _tiles(rows, columns)
        programs = min(tiles, _n_programs(z.device))
        grad_x = torch.empty_like(z, dtype=dtype) if needs[0] else None
        # One row of sums per program, added up in the end: their order depends on the device alone.
        sums = [z.new_empty(programs, columns, dtype=r.dtype) if n else None for n in needs[1:]]
        args = (z, r, grad, weight, grad_x, *sums, offset, rows, columns, tiles)
        _launch("norm_backward", programs, *args, CENTRED=centred, **sizes)
        grad_weight, grad_bias = (None if s is None else s.sum(0).view(shape) for s in sums)
        return grad_x, grad_weight, grad_bias


# --- launching -----------------------------------------------------------------------------------


def load() -> None:
    """Make the kernels ready, and compile one to see whether that works here.

    Raises:
        BackendError: Triton is absent, there is no device for it, or it cannot compile.
    """
    _kernels()
    if interpreted():
        return
    if not torch.cuda.is_available():
        raise BackendError(
            "triton compiles for CUDA and ROCm, and torch sees no such device here: use "
            "backend='auto', which picks the kernels made for this machine."
        )
    x, packed = torch.zeros(8, device="cuda"), torch.zeros(1, dtype=torch.uint8, device="cuda")
    # This one gets a tuple, which triton 3.2 refuses.
    _launch_on_codes("activate_and_pack", x, None, packed, (0.0,), 8, 1, KIND=None)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the processor."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def take_failures() -> dict[str, str]:
    """Return and forget which variants of kernels failed since the last call, and why.

    Plain torch does their work, so whoever times kernels has to ask. They are then tried again.
    """
    taken = dict(_FAILURES)
    _FAILURES.clear()
    return taken


class _KernelError(BackendError):
    """A kernel was not launched."""

    def __init__(self, variant: str, message: str) -> None:
        super().__init__(message)
        self.variant = variant


_FAILURES: dict[str, str] = {}  # by variant: kernel, dtypes, constants it is compiled for
_LOGGER = logging.getLogger("lowmem_bp")


@functools.cache
def _kernels() -> Any:
    try:
        from lowmem_bp.backends import triton_kernels
    except ImportError as error:
        raise BackendError(
            f"triton is not installed ({error}): `pip install 'lowmem-bp[triton]'` (Linux; torch's "
            "builds for CUDA bring it along), or use backend='torch', which runs everywhere torch "
            "runs."
        ) from error
    except Exception as error:  # of a driver or a toolchain that triton looks for
        raise BackendError(
            f"triton does not start here ({_one_line(error)}): reinstall it in the version that "
            "torch names, or use backend='torch', which runs everywhere torch runs."
        ) from error
    return triton_kernels


def _launch(name: str, programs: int, *args: Any, **options: Any) -> None:
    if not programs:
        return
    kernels = _kernels()
    if _FAILURES and (variant := _variant(name, args, options)) in _FAILURES:
        raise _KernelError(variant, _FAILURES[variant])
    try:
        with torch.cuda.device_of(args[0]):  # Triton launches on the current device
            # Products and sums are rounded one by one, as separate operations of torch round them.
            getattr(kernels, name)[(programs,)](*args, **options, enable_fp_fusion=False)
    except Exception as error:
        # Whatever a compiler may raise. Errors of the device itself come again from plain torch.
        message = f"triton {kernels.triton.__version__} does not run it here: {_one_line(error)}"
        raise _KernelError(_variant(name, args, options), message) from error


def _variant(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> str:
    """Name what is compiled by itself: a kernel for some dtypes, table lengths and constants."""
    kinds = [str(args[0].device)]
    for arg in args:
        if isinstance(arg, Tensor):
            kinds.append(str(arg.dtype).removeprefix("torch."))
        elif arg is None or isinstance(arg, tuple):
            kinds.append("None" if arg is None else str(len(arg)))
    constants = (f"{key}={value}" for key, value in options.items())
    return f"{name}({', '.join((*kinds, *constants))})"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _launch_on_elements(name: str, *tensors: Tensor, **options: Any) -> None:
    n = tensors[0].numel()
    _launch(name, -(-n // _BLOCK), *tensors, n, BLOCK=_BLOCK, **options)


def _launch_on_codes(name: str, *args: Any, **options: Any) -> None:
    *tensors, n, bits = args
    _launch(name, -(-n // _BLOCK), *tensors, n, BITS=bits, BLOCK=_BLOCK * bits // 8, **options)


def _launch_on_groups(name: str, *tensors: Tensor) -> None:
    columns = tensors[0].shape[-1]
    n_groups = tensors[0].numel() // max(columns, 1) * -(-columns // 128)
    groups = _BLOCK // 128
    _launch(name, -(-n_groups // groups), *tensors, columns, n_groups, BLOCK=groups)


def _tiles(rows: int, columns: int) -> tuple[int, dict[str, int]]:
    """Return the number of tiles and what a kernel on rows is compiled for."""
    width = 1 << (columns - 1).bit_length()
    height = max(1, _TILE // width)
    warps = min(max(height * width // 512, 4), 16)
    return -(-rows // height), {"ROWS": height, "COLUMNS": width, "num_warps": warps}


def _n_programs(device: torch.device) -> int:
    """Return how many programs share out rows: two per multiprocessor."""
    if device.type == "cpu":
        return 3
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count


def _n_bytes(x: Tensor, bits: int) -> int:
    return (x.numel() * bits + 7) // 8


def _fits(columns: int) -> bool:
    return 0 < columns <= _LONGEST


def _takes(*tensors: Tensor, dtypes: tuple[torch.dtype, ...] = NARROW) -> bool:
    return takes(*tensors, kind="cpu" if interpreted() else "cuda", dtypes=dtypes)
