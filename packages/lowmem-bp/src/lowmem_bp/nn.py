"""Modules to build models from; each takes the arguments of the torch module it replaces.

``convert`` makes the same changes to the modules of an existing model.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowmem_bp import functional
from lowmem_bp.activations import get_activation
from lowmem_bp.backends import resolve
from lowmem_bp.errors import ConfigError
from lowmem_bp.lean import Lean, LeanDropout, LeanLinear, LeanNorm, NormStyle
from lowmem_bp.steps import StepTable, preset

__all__ = [
    "Activation",
    "Dropout",
    "GatedMLP",
    "Linear",
    "MSLayerNorm",
    "MSRMSNorm",
    "ReGELU2",
    "ReSiLU2",
    "Stepwise",
]


class Stepwise(Lean, nn.Module):
    """An activation with exact forward that keeps 1, 2 or 4 bits per element.

    Args:
        activation: Name of the activation.
        table: ``"grad"``, ``"paper"`` or a :class:`lowmem_bp.StepTable`.
        bits: With a preset name: 1, 2 or 4.
        backend: Kernel backend.

    Shape:
        Any, to the same.
    """

    def __init__(
        self,
        activation: str = "gelu",
        table: StepTable | Literal["paper", "grad"] = "grad",
        bits: int = 2,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        get_activation(activation)
        resolve(backend)
        self.activation = activation
        self.table = preset(activation, table, bits) if isinstance(table, str) else table
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation."""
        return functional.stepwise(x, self.activation, self.table, backend=self.backend)

    def extra_repr(self) -> str:
        """Describe the module in ``print(model)``."""
        return f"{self.activation}, bits={self.table.bits}"


class ReGELU2(Stepwise):
    """GELU with the published 2-bit derivative; arguments of :class:`torch.nn.GELU`."""

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ConfigError(f"approximate={approximate!r}: expected 'none' or 'tanh'.")
        super().__init__("gelu_tanh" if approximate == "tanh" else "gelu", "paper")


class ReSiLU2(Stepwise):
    """SiLU with the published 2-bit derivative."""

    def __init__(self) -> None:
        super().__init__("silu", "paper")


class Activation(Lean, nn.Module):
    """An activation whose output a following :class:`Linear` recomputes instead of keeping it.

    Args:
        name: Of the activation.
        mode: ``"exact"``, or ``"int8"`` to keep the input in 8 bits.
    """

    def __init__(self, name: str, mode: Literal["exact", "int8"] = "exact") -> None:
        super().__init__()
        get_activation(name)
        functional._is_int8(mode)
        self.name, self.mode = name, mode

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation."""
        return functional.activation(x, self.name, mode=self.mode)

    def extra_repr(self) -> str:
        """Describe the module in ``print(model)``."""
        return f"{self.name}, mode={self.mode!r}"


class Linear(LeanLinear, nn.Linear):
    """:class:`torch.nn.Linear` that keeps its input's recipe where the input has one."""


class Dropout(LeanDropout, nn.Dropout):
    """:class:`torch.nn.Dropout` that keeps one bit per element."""

    _lowmem_bp = "auto"


class MSLayerNorm(LeanNorm, nn.LayerNorm):
    """:class:`torch.nn.LayerNorm` that keeps its normalised output, shared with what follows.

    Args:
        *args: Of :class:`torch.nn.LayerNorm`.
        emit_autocast_dtype: Under autocast return the autocast dtype, as a following linear layer
            would cast to it anyway. Not for outputs that something else reads in fp32.
        **kwargs: Of :class:`torch.nn.LayerNorm`.

    Reference: arXiv 2406.16282 (there without weight and bias: ``elementwise_affine=False``).
    """

    def __init__(self, *args: Any, emit_autocast_dtype: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lowmem_bp = NormStyle(
            centred=True,
            eps=self.eps,
            n_dims=len(self.normalized_shape),
            of_torch=True,
            emit_autocast_dtype=emit_autocast_dtype,
        )


class MSRMSNorm(LeanNorm, nn.RMSNorm):
    """:class:`torch.nn.RMSNorm` that keeps its normalised output; see :class:`MSLayerNorm`."""

    def __init__(self, *args: Any, emit_autocast_dtype: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lowmem_bp = NormStyle(
            centred=False,
            eps=self.eps,
            n_dims=len(self.normalized_shape),
            of_torch=True,
            emit_autocast_dtype=emit_autocast_dtype,
        )


class GatedMLP(Lean, nn.Module):
    """``down(act(gate(x)) * up(x))``, the MLP of Llama and Gemma; keeps ``gate`` and ``up``.

    Args:
        features: Width of input and output.
        hidden: Width inside.
        activation: Name of the gate's activation.
        bias: Whether the three linear layers have one.
        mode: ``"exact"`` or ``"int8"``.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        ``(..., features)`` to the same.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        activation: str = "silu",
        bias: bool = False,
        mode: Literal["exact", "int8"] = "exact",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.gate_proj = Linear(features, hidden, bias=bias, device=device, dtype=dtype)
        self.up_proj = Linear(features, hidden, bias=bias, device=device, dtype=dtype)
        self.down_proj = Linear(hidden, features, bias=bias, device=device, dtype=dtype)
        self.act_fn = Activation(activation, mode)
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP."""
        gate = self.act_fn(self.gate_proj(x))
        hidden = functional.multiply(gate, self.up_proj(x), mode=self.mode)
        return self.down_proj(hidden)  # type: ignore[no-any-return]
