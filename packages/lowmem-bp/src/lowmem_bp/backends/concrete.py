"""Which tensors have memory that a kernel may read and write."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_concrete(*tensors: Tensor) -> bool:
    """Whether all are plain strided tensors with data: not traced, batched or a library's own."""
    if torch.compiler.is_compiling():
        return False
    return all(
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and not tensor.is_neg()  # its memory holds the numbers before the change of sign
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        for tensor in tensors
    )
