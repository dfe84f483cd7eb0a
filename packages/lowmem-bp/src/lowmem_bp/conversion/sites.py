"""Which modules of a model can keep less, and how: the plan that ``convert`` carries out."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lowmem_bp.activations import Activation, identify, identify_function
from lowmem_bp.conversion.check import relative_error, same_forward, tolerance
from lowmem_bp.errors import ConfigError
from lowmem_bp.lean import (
    ActivationStyle,
    Lean,
    LeanActivation,
    LeanConv1D,
    LeanDropout,
    LeanGatedMLP,
    LeanLinear,
    LeanLora,
    LeanNorm,
    NormStyle,
    become,
)
from lowmem_bp.steps import StepTable, preset

Mode = Literal["exact", "int8", "2bit", "paper"]
MODES: tuple[str, ...] = ("exact", "int8", "2bit", "paper")

RECOMPUTED = "recomputed from its input"
SHARED = "normalised output, shared"
CODE = "{bits}-bit code"
INT8 = "8-bit input"
CONVERTED = "already converted"

_REPLACED_FUNCTIONS = "_lowmem_bp_functions"


@dataclass(frozen=True)
class Site:
    """One change to one module.

    Attributes:
        name: Name of the module in the model.
        module: The module itself.
        kind: ``norm``, ``activation``, ``linear``, ``gated mlp``, ``dropout`` or ``lora``.
        keeps: What is kept for backward, in words.
        mixin: For changes of class: the mixin; None for a replaced function attribute.
        settings: Of the mixin, or the callable that replaces the function.
        attribute: Name of the replaced function attribute; "" for changes of class.
    """

    name: str
    module: nn.Module
    kind: str
    keeps: str
    mixin: type[Lean] | None
    settings: Any
    attribute: str = ""

    def apply(self) -> None:
        """Change the module."""
        if self.mixin is not None:
            become(self.module, self.mixin, self.settings)
            return
        replaced = vars(self.module).setdefault(_REPLACED_FUNCTIONS, {})
        replaced[self.attribute] = getattr(self.module, self.attribute)
        vars(self.module)[self.attribute] = self.settings


@dataclass(frozen=True)
class Skip:
    """A module that was looked at and left alone."""

    name: str
    kind: str
    reason: str


class Unsuitable(Exception):
    """Raised inside the planner: this module stays as it is, for the reason given."""


def restore_functions(module: nn.Module) -> int:
    """Put functions replaced by :meth:`Site.apply` back; return how many."""
    replaced: dict[str, Any] = vars(module).pop(_REPLACED_FUNCTIONS, {})
    vars(module).update(replaced)
    return len(replaced)


def replaced_functions(module: nn.Module) -> dict[str, Any]:
    """Return the originals of the function attributes replaced by :meth:`Site.apply`."""
    replaced: dict[str, Any] = vars(module).get(_REPLACED_FUNCTIONS, {})
    return replaced


def has_replaced_functions(module: nn.Module) -> bool:
    """Whether a function attribute of ``module`` is replaced."""
    return bool(replaced_functions(module))


@dataclass(frozen=True)
class Planner:
    """Decides, module by module, what ``convert`` does in one mode.

    Attributes:
        model: The whole model.
        mode: See :func:`lowmem_bp.convert`.
        tables: Step tables by module name, from :func:`lowmem_bp.calibrate`.
        everywhere: Use codes also where exact recomputation keeps less.
        check: Compare each changed module with the original on synthetic input.
        backend: Kernel backend written into the changed modules.
    """

    model: nn.Module
    mode: str
    tables: Mapping[str, StepTable]
    everywhere: bool
    check: bool
    backend: str

    def plan(self) -> tuple[list[Site], list[Skip]]:
        """Return what to change and what is left alone, in the order of ``named_modules``."""
        sites: list[Site] = []
        skips: list[Skip] = []
        inside_attention = {
            id(child)
            for module in self.model.modules()
            if isinstance(module, nn.MultiheadAttention)
            for child in module.modules()
        }
        for name, module in self.model.named_modules():
            kind = kind_of_site(module)
            if kind is None:
                sites.extend(self._function_attributes(name, module, skips))
                if _is_unknown_layer(module):
                    skips.append(Skip(name, "other", f"{type(module).__name__} is not covered"))
                continue
            try:
                if id(module) in inside_attention:
                    raise Unsuitable(_UNSUPPORTED["attention"])
                self._refuse_strangers(kind, module)
                site = self._site(kind, name, module)
                if self.check and site.mixin is not None:
                    problem = same_forward(module, site.mixin, site.settings, kind)
                    if problem:
                        raise Unsuitable(problem)
                sites.append(site)
            except Unsuitable as reason:
                skips.append(Skip(name, kind, str(reason)))
        return sites, skips

    def _refuse_strangers(self, kind: str, module: nn.Module) -> None:
        if isinstance(module, Lean):
            raise Unsuitable(CONVERTED)
        if isinstance(module, torch.jit.ScriptModule):
            raise Unsuitable("a TorchScript module cannot be changed")
        if is_parametrized(module):
            raise Unsuitable("it is parametrized (weight_norm, spectral_norm and the like)")
        if "forward" in vars(module):
            raise Unsuitable("another library replaced forward on this instance")
        whole = kind in ("norm", "activation", "gated mlp")
        if whole and len(inspect.signature(module.forward).parameters) != 1:
            raise Unsuitable("its forward takes more than the one input")

    def _site(self, kind: str, name: str, module: nn.Module) -> Site:
        makers: dict[str, Callable[[str, nn.Module], Site]] = {
            "norm": self._norm,
            "activation": self._activation,
            "linear": self._linear,
            "gated mlp": self._gated_mlp,
            "dropout": self._dropout,
            "lora": self._lora,
        }
        if kind not in makers:
            raise Unsuitable(_UNSUPPORTED[kind])
        return makers[kind](name, module)

    def _norm(self, name: str, module: nn.Module) -> Site:
        style = replace(norm_style(module), backend=self.backend)
        return Site(name, module, "norm", SHARED, LeanNorm, style)

    def _linear(self, name: str, module: nn.Module) -> Site:
        cls = type(module)
        if cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers."):
            return Site(name, module, "linear", "input's recipe", LeanConv1D, None)
        if not has_forward_of(module, nn.Linear):
            raise Unsuitable("its class has a forward of its own (quantised or otherwise special)")
        return Site(name, module, "linear", "input's recipe", LeanLinear, None)

    def _dropout(self, name: str, module: nn.Module) -> Site:
        if self.mode == "paper":
            raise Unsuitable("the published method leaves dropout as it is")
        if not has_forward_of(module, nn.Dropout):
            raise Unsuitable("its class has a forward of its own")
        if getattr(module, "inplace", False):
            raise Unsuitable("works in place")
        if getattr(module, "p", 0.0) == 0.0:
            raise Unsuitable("p=0: keeps nothing")
        return Site(name, module, "dropout", "1-bit mask", LeanDropout, self.backend)

    def _lora(self, name: str, module: nn.Module) -> Site:
        return Site(name, module, "lora", "one input for all adapters", LeanLora, None)

    def _gated_mlp(self, name: str, module: nn.Module) -> Site:
        if self.mode == "paper":
            raise Unsuitable("the published method leaves the product as it is")
        if _known_activation(module.act_fn) is None:
            raise Unsuitable(f"its activation {type(module.act_fn).__name__} is not a known one")
        if not _computes_gated_mlp(type(module)):
            raise Unsuitable("its forward is not down_proj(act_fn(gate_proj(x)) * up_proj(x))")
        keeps = "8-bit gate and up" if self.mode == "int8" else "gate and up"
        settings = (self.mode == "int8", self.backend)
        return Site(name, module, "gated mlp", keeps, LeanGatedMLP, settings)

    def _activation(self, name: str, module: nn.Module) -> Site:
        known = identify(module)
        if known is None:
            raise Unsuitable("not a known activation")
        if getattr(module, "inplace", False):
            raise Unsuitable("works in place: its input is gone")
        keeps, style = self._style(name, known)
        if style.table is None or self.check:
            style = _with_own_forward(style, module)
        return Site(name, module, "activation", keeps, LeanActivation, style)

    def _function_attributes(
        self, name: str, module: nn.Module, skips: list[Skip]
    ) -> Iterator[Site]:
        for attribute, value in list(vars(module).items()):
            known = identify_function(value) if callable(value) else None
            full = f"{name}.{attribute}" if name else attribute
            if known is None and callable(value) and "act" in attribute.split("_")[0]:
                skips.append(Skip(full, "activation", "a function, and not a known one"))
            if known is None or has_replaced_functions(module):
                continue
            try:
                keeps, style = self._style(full, known)
            except Unsuitable as reason:
                skips.append(Skip(full, "activation", str(reason)))
                continue
            yield Site(full, module, "activation", keeps, None, style, attribute)

    def _style(self, name: str, known: Activation) -> tuple[str, ActivationStyle]:
        """Choose what the activation called ``name`` keeps."""
        consumers = next_linears(self.model, name)
        frozen = bool(consumers) and not any(keeps_input(linear) for linear in consumers)
        table: StepTable | None = None
        if self.mode == "paper":
            table = _preset_or_refuse(known, "paper")
        elif known.name == "relu":
            if not frozen:
                raise Unsuitable("torch keeps ReLU's output, which the next layer shares already")
            table = preset("relu", bits=1)  # exact: ReLU's derivative has two values
        elif known.torch_keeps == "output" and self.mode != "int8":
            raise Unsuitable(f"torch keeps {known.name}'s output, which the next layer shares")
        elif self.mode == "2bit" and (self.everywhere or (frozen and not self._is_gate(name))):
            table = self.tables.get(name) or _preset_or_refuse(known, "grad")
        if table is not None:
            style = ActivationStyle(known, table=table, backend=self.backend)
            return CODE.format(bits=table.bits), style
        int8 = self.mode == "int8" and known.torch_keeps != "output"
        if self.mode == "int8" and not int8:
            raise Unsuitable(f"torch keeps {known.name}'s output, which the next layer shares")
        style = ActivationStyle(known, int8=int8, backend=self.backend)
        return (INT8 if int8 else RECOMPUTED), style

    def _is_gate(self, name: str) -> bool:
        # A 2-bit code of the gate saves nothing: the product's backward needs the gate itself.
        parent = self.model.get_submodule(name.rpartition(".")[0])
        return is_gated_mlp(parent)


_UNSUPPORTED = {
    "attention": "nn.MultiheadAttention computes its projections inside one torch function",
    "experts": "experts hold stacked 3-D weights that no linear layer applies",
    "batch norm": "normalises over the batch; only LayerNorm and RMSNorm are covered",
}


def kind_of_site(module: nn.Module) -> str | None:
    """Return what ``convert`` may do with a module, or None when it has no business with it."""
    name = type(module).__name__
    if hasattr(module, "lora_A") and hasattr(module, "_cast_input_dtype"):
        return "lora" if isinstance(module.lora_A, nn.ModuleDict) else None
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    if isinstance(module, nn.Linear) or (name.endswith("Conv1D") and _is_matrix(module)):
        return "linear"
    if isinstance(module, nn.Dropout):
        return "dropout"
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
        return "batch norm"
    if is_gated_mlp(module):
        return "gated mlp"
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or _looks_like_rms_norm(module):
        return "norm"
    if identify(module) is not None:
        return "activation"
    if not list(module.children()) and _is_unknown_activation(module):
        return "activation"
    stacked = [p for p in module.parameters(recurse=False) if p.dim() == 3]
    return "experts" if stacked and "Expert" in name else None


def _is_unknown_layer(module: nn.Module) -> bool:
    """Whether ``module`` is a single layer that may keep much and that nothing here covers."""
    if list(module.children()) or type(module).__module__.startswith("lowmem_bp."):
        return False
    if isinstance(module, (nn.Embedding, nn.ParameterDict, nn.ParameterList)):
        return False
    return bool(list(module.parameters(recurse=False))) or "Dropout" in type(module).__name__


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2


def _is_unknown_activation(module: nn.Module) -> bool:
    cls = type(module)
    return cls.__module__ == "torch.nn.modules.activation" or cls.__name__.endswith("Activation")


def is_gated_mlp(module: nn.Module) -> bool:
    """Whether ``module`` has the four parts of a Llama-style MLP."""
    return all(hasattr(module, part) for part in ("gate_proj", "up_proj", "down_proj", "act_fn"))


def _computes_gated_mlp(cls: type[nn.Module]) -> bool:
    """Whether a class's forward is the one expression that is replaced, read from its source.

    Trying it out would not do: a clamp, say, shows only on some inputs.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.forward)))
    except (OSError, TypeError, SyntaxError):
        return False
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef) or len(function.args.args) != 2:
        return False
    own, x = (argument.arg for argument in function.args.args)
    body = [statement for statement in function.body if not _is_text(statement)]
    texts = [ast.unparse(statement) for statement in body]
    first = body[0]
    if len(body) == 2 and isinstance(first, (ast.Assign, ast.AnnAssign)) and first.value:
        target = first.targets[0] if isinstance(first, ast.Assign) else first.target
        if texts[1] == f"return {ast.unparse(target)}":  # y = ...; return y
            texts = [f"return {ast.unparse(first.value)}"]
    gate, up = f"{own}.act_fn({own}.gate_proj({x}))", f"{own}.up_proj({x})"
    return texts in ([f"return {own}.down_proj({a} * {b})"] for a, b in ((gate, up), (up, gate)))


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _looks_like_rms_norm(module: nn.Module) -> bool:
    name = type(module).__name__
    weight = getattr(module, "weight", None)
    one_row = isinstance(weight, Tensor) and weight.dim() == 1
    return "RMSNorm" in name and one_row and _eps(module) is not None


def _eps(module: nn.Module) -> float | None:
    for attribute in ("variance_epsilon", "eps", "norm_eps", "epsilon"):
        value = getattr(module, attribute, None)
        if isinstance(value, float):
            return value
    return None


def norm_style(module: nn.Module) -> NormStyle:
    """Find out how a norm module computes its output.

    torch's own classes are known. Every other class is tried on random input against the few ways
    in which RMSNorm is written (weight or 1 + weight, rounding before or after the weight).

    Raises:
        Unsuitable: None of them gives the module's output.
    """
    if isinstance(module, nn.LayerNorm) and has_forward_of(module, nn.LayerNorm):
        return NormStyle(True, module.eps, n_dims=len(module.normalized_shape), of_torch=True)
    if isinstance(module, nn.RMSNorm) and has_forward_of(module, nn.RMSNorm):
        return NormStyle(False, module.eps, n_dims=len(module.normalized_shape), of_torch=True)
    weight = module.weight
    if not isinstance(weight, Tensor) or weight.is_meta or type(weight.data) is not Tensor:
        raise Unsuitable("how its class computes can only be found out with plain weights loaded")
    eps = _eps(module)
    styles = [
        NormStyle(centred=False, eps=eps, offset=offset, round_first=round_first)
        for offset in (0.0, 1.0)
        for round_first in (True, False)
    ]
    styles = [style for style in styles if _same_norm(module, style)]
    if not styles:
        raise Unsuitable(f"{type(module).__name__} computes something else than a known RMSNorm")
    # When it rounds shows in the result's dtype where the input has another one than the weight,
    # as under autocast.
    other = torch.float16 if weight.dtype == torch.bfloat16 else torch.bfloat16
    return next((style for style in styles if _same_norm(module, style, other)), styles[0])


def _same_norm(module: nn.Module, style: NormStyle, dtype: torch.dtype | None = None) -> bool:
    problem = same_forward(module, LeanNorm, style, "norm", random_weight=True, input_dtype=dtype)
    return problem is None


def has_forward_of(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether ``module`` runs the forward method of ``base``, not an override."""
    return type(module).forward is base.forward


def _known_activation(function: Any) -> Activation | None:
    if isinstance(function, nn.Module):
        return identify(function)
    return identify_function(function)


def _with_own_forward(style: ActivationStyle, module: nn.Module) -> ActivationStyle:
    """Call the module's own forward where torch's kernel gives other bits.

    Raises:
        Unsuitable: The two differ by more than rounding: the class only has a known one's name.
    """
    sample = torch.linspace(-6.0, 6.0, 5001)
    errors = []
    with torch.no_grad():
        for x in (sample, sample.bfloat16()):  # bf16 shows how often a composite rounds
            errors.append(relative_error(module.forward(x), style.known.forward(x)))
            if errors[-1] > tolerance(x.dtype):
                name = type(module).__name__
                raise Unsuitable(f"{name} computes something else than {style.known.name}")
    if not any(errors):
        return style
    return ActivationStyle(style.known, style.table, style.int8, True, style.backend)


def _preset_or_refuse(known: Activation, name: str) -> StepTable:
    try:
        return preset(known.name, name)
    except ConfigError as error:
        raise Unsuitable(f"no {name!r} step table for {known.name}") from error


def next_linears(model: nn.Module, activation: str) -> list[nn.Module]:
    """Return the linear layers that read an activation's output, judged by name and shape.

    Looks in the smallest enclosing module with two linear layers for an MLP that widens: the layers
    with the widest input, if one before them makes that width from a smaller one. Empty, which
    means "not known", for everything else.
    """
    parts = activation.split(".")[:-1]
    while True:
        linears = list(_linears(model.get_submodule(".".join(parts))))
        if len(linears) >= 2 or not parts:
            break
        parts.pop()
    features = [_features(linear) for linear in linears]
    widest = max((width for width, _out in features), default=0)
    first = next((i for i, (width, _out) in enumerate(features) if width == widest), 0)
    if not any(width < out == widest for width, out in features[:first]):
        return []
    return [linear for linear in linears if _features(linear)[0] == widest]


def _linears(module: nn.Module) -> Iterator[nn.Module]:
    """Linear layers below ``module``; a LoRA layer counts as one, with its parts left out."""
    for child in module.children():
        if kind_of_site(child) in ("linear", "lora"):
            yield child
        else:
            yield from _linears(child)


def _features(linear: nn.Module) -> tuple[int, int]:
    linear = getattr(linear, "base_layer", linear)
    if isinstance(linear, nn.Linear):
        return linear.in_features, linear.out_features
    weight: Any = linear.weight
    return weight.shape[0], weight.shape[1]  # Conv1D


def keeps_input(linear: nn.Module) -> bool:
    """Whether the backward pass of a linear or LoRA layer needs the layer's input."""
    if kind_of_site(linear) == "lora":
        adapters = [p for m in linear.lora_A.values() for p in m.parameters()]  # type: ignore[operator]
        base: Any = linear.base_layer
        return any(p.requires_grad for p in [*adapters, base.weight])
    weight: Any = linear.weight
    return bool(weight.requires_grad)
