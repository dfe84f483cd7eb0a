"""Who uses what: one forward pass, watched.

Tensors are followed by identity, below Python, where every operation on them shows, also those
inside an autograd function; reading a shape or a dtype is no operation.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lowmem_bp.activations import identify_function
from lowmem_bp.conversion.sites import kind_of_site, replaced_functions
from lowmem_bp.memory import call, preserved, tensors_in

OUTPUT = "output"

_FUNCTIONS: dict[Callable[..., Any], str] = {
    F.gelu: "gelu",
    F.silu: "silu",
    F.mish: "mish",
    F.layer_norm: "layer_norm",
    F.rms_norm: "rms_norm",
}


@dataclass(frozen=True)
class Use:
    """One use of a norm's output.

    Attributes:
        module: Name of the innermost module that ran the operation.
        operation: Name of the operation in torch, such as ``"add"``; ``"output"`` for a tensor
            that the model returns.
    """

    module: str
    operation: str


@dataclass
class Trace:
    """What one forward pass showed.

    Attributes:
        uses: By name of the norm, in the order of the calls; norms that did not run are absent.
        sources: By name of any module, the norms its first argument came from; "" for none.
        borrowed: By identity of a parameter, the other modules that used it.
    """

    uses: dict[str, list[Use]] = field(default_factory=dict)
    sources: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    borrowed: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))


def consumers(model: nn.Module, example_inputs: Any) -> dict[str, list[Use]]:
    """Find out what uses the output of each norm.

    Args:
        model: Run once, without gradients, in its current mode; its state is put back.
        example_inputs: See :func:`lowmem_bp.convert`. A small batch is enough.

    Returns:
        Uses by name of the norm. Norms that did not run are absent.
    """
    return trace(model, example_inputs).uses


def trace(model: nn.Module, example_inputs: Any) -> Trace:
    """Like :func:`consumers`, with all that was seen on the way."""
    watcher = _Watcher(model)
    following = _following(model, watcher.stack, watcher.before, watcher.after)
    with preserved(model), torch.no_grad(), following, watcher:
        output = call(model, example_inputs)
    for tensor in tensors_in(output):
        watcher.note(tensor, Use("", OUTPUT))
    return watcher.found


def functional_calls(model: nn.Module, example_inputs: Any) -> dict[str, tuple[str, ...]]:
    """Find modules whose own forward calls an activation or norm function of torch directly.

    ``convert`` replaces modules and function attributes; it cannot reach these calls.

    Args:
        model: Run once, without gradients, in its current mode; its state is put back.
        example_inputs: See :func:`lowmem_bp.convert`.

    Returns:
        Names of the functions, by name of the module.
    """
    mode = _FunctionMode(model)
    with preserved(model), torch.no_grad(), _following(model, mode.stack), mode:
        call(model, example_inputs)
    return {name: tuple(sorted(functions)) for name, functions in mode.found.items()}


@contextlib.contextmanager
def _following(
    model: nn.Module,
    stack: list[str],
    before: Callable[[str, Any], None] | None = None,
    after: Callable[[str, nn.Module, Any], None] | None = None,
) -> Iterator[None]:
    """Keep the name of the running module on top of ``stack``."""

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            stack.append(name)
            if before is not None:
                before(name, (args, kwargs))

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            stack.pop()
            if after is not None:
                after(name, module, output)

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watcher(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Trace()
        self.stack = [""]
        # The tensor is kept beside its norm: an identity is only unique while it lives.
        self._outputs: dict[int, tuple[Tensor, str]] = {}
        self._owners: dict[int, set[str]] = defaultdict(set)
        for name, module in model.named_modules():
            for parameter in module.parameters(recurse=False):
                self._owners[id(parameter)].add(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note which followed tensors it got."""
        kwargs = kwargs or {}
        operation = func.overloadpacket.__name__.strip("_")
        # torch writes x[:, 0:] as an alias, which would tell the reader of a report nothing
        use = Use(self.stack[-1], "slice" if operation == "alias" else operation)
        for tensor in tensors_in((args, kwargs)):
            self.note(tensor, use)
            owners = self._owners.get(id(tensor))
            if owners is not None and use.module not in owners:
                self.found.borrowed[id(tensor)].add(use.module)
        return func(*args, **kwargs)

    def note(self, tensor: Tensor, use: Use) -> None:
        _tensor, norm = self._outputs.get(id(tensor), (None, None))
        if norm is not None and use not in self.found.uses[norm]:
            self.found.uses[norm].append(use)

    def before(self, name: str, arguments: Any) -> None:
        for tensor in tensors_in(arguments)[:1]:
            _tensor, norm = self._outputs.get(id(tensor), (None, ""))
            self.found.sources[name].add(norm)

    def after(self, name: str, module: nn.Module, output: Any) -> None:
        if kind_of_site(module) == "norm" and isinstance(output, Tensor):
            self._outputs[id(output)] = (output, name)
            self.found.uses.setdefault(name, [])


class _FunctionMode(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stack = [""]
        self.found: dict[str, set[str]] = defaultdict(set)
        self._modules = dict(model.named_modules())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; note it unless ``convert`` can reach it."""
        name = _FUNCTIONS.get(func)
        if name is not None and not _reachable(self._modules[self.stack[-1]], func):
            self.found[self.stack[-1]].add(name)
        return func(*args, **(kwargs or {}))


def _reachable(module: nn.Module, function: Any) -> bool:
    if kind_of_site(module) in ("norm", "activation", "gated mlp", "batch norm"):
        return True
    known = identify_function(function)
    held = [*vars(module).values(), *replaced_functions(module).values()]
    return known is not None and any(identify_function(f) is known for f in held if callable(f))
