"""Mixins that make an existing module keep less for its backward pass.

``become(module, Mixin, settings)`` swaps the class of one module, in place, for a subclass of its
own class with the mixin in front; ``restore(module)`` swaps it back. Parameters, buffers, hooks,
submodules and state_dict keys are untouched, ``isinstance`` checks still hold, and copies and
pickles of the module work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from lowmem_bp.activations import Activation
from lowmem_bp.autograd.activation import activation
from lowmem_bp.autograd.cast import cast
from lowmem_bp.autograd.dropout import dropout
from lowmem_bp.autograd.linear import linear
from lowmem_bp.autograd.norm import autocast_dtype, check_rows, norm
from lowmem_bp.autograd.product import product
from lowmem_bp.autograd.stepwise import stepwise
from lowmem_bp.backends import resolve
from lowmem_bp.steps import StepTable

_SETTINGS = "_lowmem_bp"


@dataclass(frozen=True)
class NormStyle:
    """How a norm class writes ``y = weight * z + bias``.

    Attributes:
        centred: LayerNorm (True) or RMSNorm.
        offset: Added to the weight: 1 in the Gemma family.
        round_first: Rounds ``z`` to the input's dtype before the weight is applied.
        eps: The module's own epsilon; None means that of the dtype the arithmetic is done in.
        n_dims: Number of normalised dimensions.
        of_torch: One of torch's own classes, which autocast runs in fp32 on CUDA.
        emit_autocast_dtype: Under autocast the result has the autocast dtype.
        backend: Name of the kernel backend.
    """

    centred: bool
    eps: float | None
    offset: float = 0.0
    round_first: bool = False
    n_dims: int = 1
    of_torch: bool = False
    emit_autocast_dtype: bool = False
    backend: str = "auto"


@dataclass(frozen=True)
class ActivationStyle:
    """How an activation is computed and what its backward keeps.

    Attributes:
        known: The activation.
        table: Step table of the derivative, kept as packed codes; None keeps the input.
        int8: Keep the input in 8 bits.
        own_forward: The module's own forward is not torch's kernel: call it, for equal bits.
        backend: Name of the kernel backend.
    """

    known: Activation
    table: StepTable | None = None
    int8: bool = False
    own_forward: bool = False
    backend: str = "auto"

    def __call__(self, x: Tensor, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Apply the activation to ``x``; stands in for a function such as ``F.gelu``."""
        if self.table is not None:
            forward = self.known.forward if function is None else function
            return stepwise(x, forward, self.table, backend=self.backend)
        kernels = resolve(self.backend, x.device)
        return activation(x, self.known, function=function, int8=self.int8, backend=kernels)


class Lean:
    """Base of the mixins."""

    _lowmem_bp_lean = True
    _lowmem_bp: Any

    def __reduce_ex__(self, protocol: Any) -> Any:
        if "_lowmem_bp_made" not in vars(type(self)):
            return super().__reduce_ex__(protocol)
        # The class is made on the fly and cannot be pickled by name: rebuild it from its parts.
        mixin, base = type(self).__bases__
        reduced = object.__reduce_ex__(self, protocol)
        return (_blank, (mixin, base), *reduced[2:])


class LeanLinear(Lean):
    """A linear layer that keeps its input's recipe in place of the input."""

    weight: Any
    bias: Any

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer; the argument has torch's name, for callers by keyword."""
        return linear(input, self.weight, self.bias)


class LeanConv1D(Lean):
    """The same for the transposed weight of GPT-2."""

    weight: Any
    bias: Any

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return linear(x, self.weight, self.bias, in_by_out=True)


class LeanDropout(Lean):
    """Dropout that keeps one bit per element."""

    p: float
    training: bool

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements while training."""
        return dropout(input, self.p, self.training, backend=resolve(self._lowmem_bp, input.device))


class LeanNorm(Lean):
    """LayerNorm or RMSNorm that keeps its normalised output, shared with the layers behind it."""

    weight: Any
    bias: Any

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """Normalise rows; classes name their one argument differently."""
        (x,) = (*args, *kwargs.values())
        style: NormStyle = self._lowmem_bp
        if hasattr(self, "normalized_shape"):
            check_rows(x, self.normalized_shape)  # torch's classes refuse other input as well
        return norm(
            x,
            self.weight,
            getattr(self, "bias", None),
            centred=style.centred,
            n_dims=style.n_dims,
            eps=style.eps,
            offset=style.offset,
            round_first=style.round_first,
            dtype=_norm_dtype(x, style),
            backend=style.backend,
        )


def _norm_dtype(x: Tensor, style: NormStyle) -> torch.dtype:
    autocast = autocast_dtype(x.device)
    if autocast is None:
        return x.dtype
    if style.emit_autocast_dtype:
        return autocast
    if style.of_torch and x.device.type == "cuda" and x.dtype != torch.float64:
        return torch.float32  # torch's autocast runs its norms in fp32 there
    return x.dtype


class LeanActivation(Lean):
    """An activation whose output is rebuilt from what its backward keeps."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation."""
        style: ActivationStyle = self._lowmem_bp
        return style(input, super().forward if style.own_forward else None)  # type: ignore[misc]


class LeanGatedMLP(Lean):
    """``down(act(gate(x)) * up(x))`` that keeps only the outputs of ``gate`` and ``up``."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP."""
        int8, backend = self._lowmem_bp
        gate = self.act_fn(self.gate_proj(x))
        hidden = product(gate, self.up_proj(x), int8=int8, backend=resolve(backend, x.device))
        return self.down_proj(hidden)  # type: ignore[no-any-return]


class LeanLora(Lean):
    """A PEFT LoRA layer whose adapters share one copy of their input."""

    def _cast_input_dtype(self, x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        result: Tensor | None = super()._cast_input_dtype(x, dtype)  # type: ignore[misc]
        if x is None or result is x or result is None:
            return result
        return cast(x, result.dtype)


# Weak, so that a class lives no longer than its last module.
_CLASSES: WeakValueDictionary[tuple[type, type], type] = WeakValueDictionary()


def lean_class(mixin: type[Lean], base: type) -> type:
    """Return the subclass of ``base`` with ``mixin`` in front, always the same one."""
    cls = _CLASSES.get((mixin, base))
    if cls is None:
        namespace = {
            "__module__": base.__module__,
            "__doc__": mixin.__doc__,
            "_lowmem_bp_made": True,
        }
        cls = _CLASSES[mixin, base] = type(f"Lean{base.__name__}", (mixin, base), namespace)
    return cls


def _blank(mixin: type[Lean], base: type) -> Any:
    cls: Any = lean_class(mixin, base)
    return cls.__new__(cls)


def is_lean(module: nn.Module) -> bool:
    """Whether ``module`` was changed by :func:`become`."""
    return bool(getattr(type(module), "_lowmem_bp_made", False))


def is_wrapped(module: nn.Module) -> bool:
    """Whether another library (FSDP) changed the class of a lean module once more."""
    return is_lean(module) and "_lowmem_bp_made" not in vars(type(module))


def become(module: nn.Module, mixin: type[Lean], settings: Any) -> None:
    """Put ``mixin`` in front of the class of ``module``; :func:`restore` undoes it."""
    vars(module)[_SETTINGS] = settings
    module.__class__ = lean_class(mixin, type(module))


def restore(module: nn.Module) -> None:
    """Undo :func:`become`."""
    del vars(module)[_SETTINGS]
    module.__class__ = type(module).__bases__[1]
