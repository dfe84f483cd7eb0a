"""The activations this package knows: forward, derivative, and how to recognise them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmem_bp.errors import ConfigError

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its derivative.

    Attributes:
        name: Key in the registry.
        forward: The function, any floating dtype in and out.
        derivative: Its derivative, differentiable, made for fp32 or fp64 input.
        torch_keeps: What torch's autograd saves for it: ``"input"``, ``"output"``, or ``"more"``
            for a function made of several operations.
        backward: torch's own kernel of ``(grad, x)``, in one pass and for fp32 inside, where there
            is one; it has no derivative itself.
    """

    name: str
    forward: Elementwise
    derivative: Elementwise
    torch_keeps: str = "input"
    backward: Callable[[Tensor, Tensor], Tensor] | None = None

    def differentiate(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return ``grad * derivative(x)`` in the dtype of ``x``, computed in fp32 (fp64 for fp64).

        Differentiable where gradients are on.
        """
        if self.backward is not None and grad.dtype == x.dtype and not torch.is_grad_enabled():
            return self.backward(grad, x)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return (grad.to(wide) * self.derivative(x.to(wide))).to(x.dtype)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU with the hyperbolic tangent in place of the error function."""
    return F.gelu(x, approximate="tanh")


def _gelu_derivative(x: Tensor) -> Tensor:
    density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density


def _gelu_tanh_derivative(x: Tensor) -> Tensor:
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    t = torch.tanh(scale * (x + cubic * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * cubic * x * x)


def _silu_derivative(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _quick_gelu_derivative(x: Tensor) -> Tensor:
    s = torch.sigmoid(1.702 * x)
    return s * (1 + 1.702 * x * (1 - s))


def _mish_derivative(x: Tensor) -> Tensor:
    t = torch.tanh(F.softplus(x))
    return t + x * torch.sigmoid(x) * (1 - t * t)


def _hardswish_derivative(x: Tensor) -> Tensor:
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, x / 3 + 0.5)).to(x.dtype)


def _sigmoid_derivative(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s)


def _tanh_derivative(x: Tensor) -> Tensor:
    t = torch.tanh(x)
    return 1 - t * t


def _relu_derivative(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


_aten = torch.ops.aten


def _gelu_backward(grad: Tensor, x: Tensor) -> Tensor:
    return _aten.gelu_backward(grad, x)  # type: ignore[no-any-return]


def _gelu_tanh_backward(grad: Tensor, x: Tensor) -> Tensor:
    return _aten.gelu_backward(grad, x, approximate="tanh")  # type: ignore[no-any-return]


def _silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    return _aten.silu_backward(grad, x)  # type: ignore[no-any-return]


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation("gelu", F.gelu, _gelu_derivative, backward=_gelu_backward),
        Activation("gelu_tanh", gelu_tanh, _gelu_tanh_derivative, backward=_gelu_tanh_backward),
        Activation("quick_gelu", _quick_gelu, _quick_gelu_derivative, torch_keeps="more"),
        Activation("silu", F.silu, _silu_derivative, backward=_silu_backward),
        Activation("mish", F.mish, _mish_derivative),
        Activation("softplus", F.softplus, torch.sigmoid),
        Activation("hardswish", F.hardswish, _hardswish_derivative),
        Activation("relu", F.relu, _relu_derivative, torch_keeps="output"),
        Activation("sigmoid", torch.sigmoid, _sigmoid_derivative, torch_keeps="output"),
        Activation("tanh", torch.tanh, _tanh_derivative, torch_keeps="output"),
    )
}

# Class names of modules whose class is not imported here: transformers' own activations.
_BY_CLASS_NAME = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "AccurateGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "QuickGELUActivation": "quick_gelu",
    "SiLUActivation": "silu",
    "MishActivation": "mish",
}


def get_activation(name: str) -> Activation:
    """Return the registered activation called ``name``.

    Raises:
        ConfigError: No such name; the message lists near matches.
    """
    if name not in ACTIVATIONS:
        near = difflib.get_close_matches(name, ACTIVATIONS, n=3, cutoff=0.4) or list(ACTIVATIONS)
        raise ConfigError(f"activation {name!r} is not known; did you mean {', '.join(near)}?")
    return ACTIVATIONS[name]


def identify(module: nn.Module) -> Activation | None:
    """Return the activation that ``module`` computes, or None when it is not a known one.

    Subclasses that override ``forward`` are not recognised by their parent's name.
    """
    for cls in type(module).__mro__:
        name = _by_class(module, cls)
        if name is not None:
            return ACTIVATIONS[name]
        if "forward" in cls.__dict__ and not getattr(cls, "_lowmem_bp_lean", False):
            return None
    return None


def _by_class(module: nn.Module, cls: type) -> str | None:
    if cls is nn.GELU:
        return "gelu_tanh" if getattr(module, "approximate", "none") == "tanh" else "gelu"
    if cls is nn.Softplus:
        settings: Any = (module.beta, module.threshold)
        return "softplus" if settings == (1.0, 20.0) else None
    if cls in (nn.SiLU, nn.Mish, nn.Hardswish, nn.ReLU, nn.Sigmoid, nn.Tanh):
        return cls.__name__.lower()
    return _BY_CLASS_NAME.get(cls.__name__)


def identify_function(function: object) -> Activation | None:
    """Return the activation that a plain function such as ``F.gelu`` computes, or None."""
    for activation in ACTIVATIONS.values():
        if function is activation.forward:
            return activation
    return {torch.relu: ACTIVATIONS["relu"]}.get(function)  # type: ignore[call-overload,no-any-return]
