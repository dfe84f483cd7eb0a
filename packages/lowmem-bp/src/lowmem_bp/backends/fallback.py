"""What backends with kernels share: which tensors they take, and who does the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Sized
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from lowmem_bp.backends.concrete import is_concrete
from lowmem_bp.backends.torch import TorchBackend

#: Of what kernels read and write; they compute in fp32.
NARROW = (torch.float32, torch.bfloat16, torch.float16)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def or_torch(method: Callable[_Arguments, _Result | None]) -> Callable[_Arguments, _Result]:
    """Do in plain torch what ``method`` does not take, and says so by returning None."""
    plain: Callable[_Arguments, _Result] = getattr(TorchBackend, method.__name__)

    @functools.wraps(method)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        result = method(*args, **kwargs)
        return plain(*args, **kwargs) if result is None else result

    return call


def takes(*tensors: Tensor, kind: str, dtypes: Container[torch.dtype] = NARROW) -> bool:
    """Whether kernels for a kind of device can work on all of ``tensors`` at once."""
    # With gradients on, what is done here has to be differentiable itself.
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    device = tensors[0].device
    return (
        is_concrete(*tensors)
        and device.type == kind
        and all(tensor.device == device and tensor.dtype in dtypes for tensor in tensors)
    )


def codes_fit(packed: Tensor, numel: int, bits: int, levels: Sized | None = None) -> bool:
    """Whether ``packed`` holds ``numel`` codes, and ``levels`` has a row for each of them.

    Kernels would read past the end of what is shorter; torch's own error tells what is wrong.
    """
    enough = packed.numel() == (numel * bits + 7) // 8
    return enough and (levels is None or len(levels) == 1 << bits)


def parameters_fit(z: Tensor, *parameters: Tensor) -> bool:
    """Whether each of a norm's parameters has the shape of the last dimensions of ``z``.

    Kernels would read past the end of others; torch's own error tells what is wrong.
    """
    return all(z.shape[max(z.dim() - p.dim(), 0) :] == p.shape for p in parameters)


def affine_dtype(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    round_first: torch.dtype | None,
    dtype: torch.dtype,
) -> torch.dtype | None:
    """Return the dtype of :meth:`lowmem_bp.backends.Backend.affine`; None: not in one rounding.

    Rounding before the product changes nothing where ``z`` has that dtype already; and a bias that
    is added to a rounded product takes a rounding of its own.
    """
    if round_first is None:
        return dtype
    if round_first != z.dtype or bias is not None:
        return None
    return torch.promote_types(weight.dtype, round_first)
