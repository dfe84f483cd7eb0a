"""Arrays out of whatever callers hand over."""

from __future__ import annotations

from typing import Any

import numpy as np


def as_array(values: Any, dtype: Any = None) -> np.ndarray:
    """NumPy's view of arrays, lists, or tensors of any device, with or without gradients.

    Args:
        values: tensors of bfloat16, which NumPy does not have, become float32.
        dtype: of the result; None keeps that of the values.
    """
    if hasattr(values, "detach"):  # a tensor; torch need not be loaded to say so
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
    return np.asarray(values, dtype)
