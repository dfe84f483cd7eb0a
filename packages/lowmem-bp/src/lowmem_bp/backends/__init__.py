"""Kernel backends: the elementwise work that a machine can do faster than plain torch.

``resolve("auto")`` picks the fastest backend this machine offers; the environment variable
``LOWMEM_BP_BACKEND`` overrides every ``backend=`` argument left at ``"auto"``. All backends give
the same bytes for codes. This release has the ``"torch"`` backend.
"""

from __future__ import annotations

import os
from typing import Protocol

import torch
from torch import Tensor

from lowmem_bp.errors import BackendError, ConfigError

NAMES = ("auto", "native", "triton", "torch")
VARIABLE = "LOWMEM_BP_BACKEND"


class Backend(Protocol):
    """What every backend offers. All functions take any strides and return contiguous tensors."""

    @staticmethod
    def pack(codes: Tensor, bits: int) -> Tensor:
        """Pack ``codes`` (uint8, any shape, C order) into uint8 ``(ceil(numel * bits / 8),)``."""

    @staticmethod
    def unpack(packed: Tensor, numel: int, bits: int) -> Tensor:
        """Invert :meth:`pack`; uint8 ``(numel,)``."""

    @staticmethod
    def pack_steps(x: Tensor, cuts: list[float], bits: int) -> Tensor:
        """Pack the number of ``cuts`` below each element of ``x``."""

    @staticmethod
    def step_multiply(packed: Tensor, grad: Tensor, levels: list[float], bits: int) -> Tensor:
        """Multiply each element of ``grad`` with the level its code names, in fp32."""

    @staticmethod
    def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
        """Round groups of 128 along the last dimension to int8 with one bf16 scale each."""

    @staticmethod
    def dequantize_int8(q: Tensor, scale: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Invert :meth:`quantize_int8` up to rounding."""


def resolve(name: str = "auto") -> type[Backend]:
    """Return the backend called ``name``.

    Raises:
        ConfigError: Unknown name.
        BackendError: Known, but not available in this release or on this machine.
    """
    origin = "backend="
    if name == "auto":
        name = os.environ.get(VARIABLE) or "auto"
        origin = f"{VARIABLE}="
    if name not in NAMES:
        raise ConfigError(f"{origin}{name!r}: expected one of {', '.join(map(repr, NAMES))}.")
    if name in ("auto", "torch"):
        from lowmem_bp.backends.torch import TorchBackend

        return TorchBackend
    raise BackendError(
        f"{origin}{name!r} is not available in this release; use 'auto' or 'torch', "
        "which run everywhere torch runs."
    )
