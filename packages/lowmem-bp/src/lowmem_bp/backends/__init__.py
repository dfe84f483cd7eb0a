"""Kernel backends: the elementwise work that a machine can do faster than plain torch.

==========  ==========================================================================
``torch``   everywhere torch runs
``native``  kernels in C for processors, built when the package is installed
``triton``  kernels for CUDA and ROCm, compiled when first used; extra ``triton``
==========  ==========================================================================

``resolve("auto", device)`` picks the fastest one that works for a device, and says once, as a
warning of the logger ``lowmem_bp``, why it is not the one made for it. The environment variable
``LOWMEM_BP_BACKEND`` stands in for every ``backend=`` argument left at ``"auto"``. All backends
give the same bytes for codes, and the same values up to rounding.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.compiler import is_compiling

from lowmem_bp.errors import BackendError, ConfigError

NAMES = ("auto", "native", "triton", "torch")
VARIABLE = "LOWMEM_BP_BACKEND"

#: The backend made for a kind of device; HIP devices are called "cuda" too.
_MADE_FOR = {"cpu": "native", "cuda": "triton"}


class Backend(Protocol):
    """What every backend offers. All functions take any strides and return contiguous tensors.

    What a backend's kernels do not take, such as a dtype or a tensor that is only traced, is done
    in plain torch. With gradients on, all but the codes are differentiable.
    """

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
    def activate_and_pack(
        x: Tensor, function: Callable[[Tensor], Tensor], cuts: list[float], bits: int
    ) -> tuple[Tensor, Tensor]:
        """Return ``function(x)``, elementwise, and ``pack_steps(x, cuts, bits)``."""

    @staticmethod
    def step_multiply(packed: Tensor, grad: Tensor, levels: list[float], bits: int) -> Tensor:
        """Multiply each element of ``grad`` with the level its code names, in fp32."""

    @staticmethod
    def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
        """Round groups of 128 along the last dimension to int8 with one bf16 scale each."""

    @staticmethod
    def dequantize_int8(q: Tensor, scale: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Invert :meth:`quantize_int8` up to rounding."""

    @staticmethod
    def gated(gate: Tensor, up: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``function(gate) * up``, rounded twice as these two operations round."""

    @staticmethod
    def gated_backward(
        grad: Tensor, gate: Tensor, up: Tensor, function: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return ``(grad * up, grad * function(gate))``: the gradients of both factors."""

    @staticmethod
    def normalize(
        x: Tensor, *, centred: bool, n_dims: int, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Normalise the last ``n_dims`` dimensions, LayerNorm if ``centred``, RMSNorm if not.

        Returns:
            ``z`` of ``dtype``, and the factors ``r`` of the rows, fp32 (fp64 for fp64 ``x``), with
            ``n_dims`` dimensions of size 1 at the end.
        """

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
        """Return ``(offset + weight) * z + bias``.

        Args:
            z: Normalised rows.
            weight: Shape of the normalised dimensions.
            bias: Same, or None.
            offset: 1 for norms of the Gemma family, whose weight is stored minus one.
            round_first: Dtype that ``z`` is rounded to before the product, with the product then
                taken in the promoted dtype (Llama family); None to compute in fp32 and round once.
            dtype: Dtype of the result when ``round_first`` is None.
        """

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
        """Differentiate :meth:`normalize` and :meth:`affine`.

        Args:
            z: From :meth:`normalize`.
            r: Likewise.
            grad: Gradient of the result of :meth:`affine`, or of ``z`` where ``weight`` is None.
            weight: As given to :meth:`affine`.
            offset: Likewise.
            centred: As given to :meth:`normalize`.
            n_dims: Likewise.
            dtype: Of the input.
            needs: Which gradients are wanted, of input, weight and bias.

        Returns:
            Those gradients: of the input in ``dtype``, of weight and bias in the dtype of ``r``.
        """


def resolve(name: str = "auto", device: torch.device | None = None) -> type[Backend]:
    """Return the backend called ``name`` for tensors on ``device``, of any kind if None.

    Raises:
        ConfigError: Unknown name.
        BackendError: Asked for by name, and not there or not for this device; the message says how
            to get it.
    """
    origin = "backend="
    if name == "auto":
        name = os.environ.get(VARIABLE) or "auto"
        origin = f"{VARIABLE}="
    if name not in NAMES:
        raise ConfigError(f"{origin}{name!r}: expected one of {', '.join(map(repr, NAMES))}.")
    if is_compiling():
        # A graph is made of plain operations; the operators in it look up their kernels themselves.
        return _torch()
    if name == "auto":
        return _best("cpu" if device is None else device.type)
    if name == "torch":
        return _torch()
    if device is not None and not _serves(name, device.type):
        raise BackendError(
            f"{origin}{name!r} was asked for, and the tensor is on {device.type!r}: use 'auto', "
            "which looks at the device, or move the tensor."
        )
    try:
        return _load(name)
    except BackendError as error:
        raise BackendError(f"{origin}{name!r} is not available: {error}") from error


def name_of(kernels: type[Backend]) -> str:
    """Return the name of a backend, as ``backend=`` takes it."""
    return kernels.__name__.removesuffix("Backend").lower()


def _serves(name: str, kind: str) -> bool:
    if name == "triton" and kind == "cpu":
        from lowmem_bp.backends import triton

        return triton.interpreted()  # its interpreter is for tests, and no user has it switched on
    return _MADE_FOR.get(kind) == name or kind == "meta"  # a model without data yet may go anywhere


@functools.cache
def _best(kind: str) -> type[Backend]:
    if kind not in _MADE_FOR:
        return _torch()
    name = _MADE_FOR[kind]
    try:
        return _load(name, automatic=True)
    except BackendError as error:
        _LOGGER.warning("%s kernels are not used, plain torch is: %s", name, error)
        return _torch()


@functools.cache
def _load(name: str, automatic: bool = False) -> type[Backend]:
    if name == "native":
        from lowmem_bp.backends import native

        native.load(automatic=automatic)
        return native.NativeBackend
    from lowmem_bp.backends import triton

    triton.load()
    return triton.TritonBackend


def _torch() -> type[Backend]:
    from lowmem_bp.backends.torch import TorchBackend

    return TorchBackend


_LOGGER = logging.getLogger("lowmem_bp")
