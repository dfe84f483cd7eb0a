"""The paper's merged form: the affine part of a norm folded into the linear layers behind it.

For every linear layer that reads ``y = gamma * z + beta``:

    W' = W diag(gamma)        b' = b + W beta

after which the norm gives z alone. Source: arXiv 2406.16282, MS-BP, "merging". ``convert`` shares
the norm's output without it; merging is for training what the paper trains, and for export.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowmem_bp.conversion.check import tolerance, worst_difference
from lowmem_bp.conversion.sites import Skip, Unsuitable, has_forward_of, kind_of_site, norm_style
from lowmem_bp.conversion.trace import OUTPUT, Trace, Use, trace
from lowmem_bp.errors import ConfigError, ConvertError
from lowmem_bp.lean import Lean, LeanConv1D, LeanLinear
from lowmem_bp.memory import call, preserved, tensors_in

__all__ = ["Merge", "MergeReport", "merge_norms", "unmerge_norms"]

_MERGED = "_lowmem_bp_merged"


@dataclass(frozen=True)
class Merge:
    """One merged norm and the linear layers that took its weight and bias."""

    name: str
    linears: tuple[str, ...]


@dataclass(frozen=True)
class MergeReport:
    """The result of :func:`lowmem_bp.merge_norms`.

    Attributes:
        merged: What was merged.
        skipped: Norms that were left alone, with the reason.
        new_keys: Keys of the state_dict that the model's class does not make: biases that had to
            be created.
        difference: Largest relative difference of the model's outputs; None if not checked.
        notes: Things to know about this model.
    """

    merged: tuple[Merge, ...]
    skipped: tuple[Skip, ...]
    new_keys: tuple[str, ...] = ()
    difference: float | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = sum(len(merge.linears) for merge in self.merged)
        lines = [f"merged {len(self.merged)} norms into {count} linear layers"]
        if self.difference is not None:
            lines[0] += f" (difference {self.difference:.1e})"
        if self.skipped:
            lines.append("left alone:")
            lines += [f"  {skip.name}: {skip.reason}" for skip in self.skipped]
        if self.new_keys:
            lines.append(f"new in the state_dict: {', '.join(self.new_keys)}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "merged": [{"name": m.name, "linears": list(m.linears)} for m in self.merged],
            "skipped": [vars(skip) for skip in self.skipped],
            "new_keys": list(self.new_keys),
            "difference": self.difference,
            "notes": list(self.notes),
        }


@dataclass(eq=False)
class _Record:
    """What unmerging needs of the norm, which holds it.

    The linear layers hold it too, in a :class:`_Taken`. They are found by its identity, which
    copies and pickles of a model, or of a layer of it, preserve, while names change, as when PEFT
    wraps the model.
    """

    weight: Tensor
    bias: Tensor | None
    offset: float
    trained: dict[str, bool]  # requires_grad by name of the parameter
    count: int  # of linear layers

    def gamma(self) -> Tensor:
        return self.offset + _wide(self.weight)

    def beta(self) -> Tensor | None:
        return _nonzero(self.bias)


@dataclass(eq=False)
class _Taken:
    """Held by a linear layer that a norm was merged into."""

    record: _Record
    shape: tuple[int, ...]
    made_bias: bool


def merge_norms(model: nn.Module, example_inputs: Any, *, check: bool = True) -> MergeReport:
    """Fold norm weights and biases into the linear layers behind them, in place.

    A norm is merged if nothing but dense linear layers (``nn.Linear``, GPT-2's ``Conv1D``) reads
    its output. It then has the neutral weight (ones; zeros in the Gemma family) and bias, both
    frozen, so that the model stays an ordinary checkpoint of its class. Computed in float64 and
    rounded once. Fine-tuning is not the same afterwards: weight and bias of the norm no longer
    train on their own, and weight decay pulls on the products.

    Args:
        model: Any module, converted or not. Merge before quantising, sharding or compiling.
        example_inputs: What the model is called with (tensor, tuple or mapping); a small batch is
            enough. It shows which layer reads which norm.
        check: Compare the outputs before and after.

    Returns:
        A :class:`MergeReport`; print it.

    Raises:
        ConfigError: ``model`` or ``example_inputs`` is none.
        ConvertError: The outputs changed; the model is then as it was before the call.

    Example:
        >>> norm = nn.LayerNorm(4)
        >>> _ = nn.init.constant_(norm.weight, 2.0)
        >>> report = merge_norms(nn.Sequential(norm, nn.Linear(4, 3)), torch.randn(5, 4))
        >>> report.merged, norm.weight.tolist()
        ((Merge(name='0', linears=('1',)),), [1.0, 1.0, 1.0, 1.0])

    Reference: arXiv 2406.16282.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is {type(model).__name__}; expected a torch.nn.Module.")
    planner = _Planner(model, trace(model, example_inputs))
    plans, skips = planner.plan()
    before = _outputs(model, example_inputs) if check and plans else None
    journal = _Journal()
    difference = None
    try:
        for plan in plans:
            _merge(plan, journal)
        if before is not None:
            difference = _compare(before, _outputs(model, example_inputs))
    except BaseException:
        journal.undo()
        raise
    for plan in plans:
        for parameter in plan.norm.parameters(recurse=False):
            parameter.grad = None  # an optimizer would go on moving them
    return MergeReport(
        merged=tuple(Merge(plan.name, tuple(plan.linears)) for plan in plans),
        skipped=tuple(skips),
        new_keys=tuple(
            f"{name}.bias"
            for plan in plans
            for name, linear in plan.linears.items()
            if vars(linear)[_MERGED].made_bias
        ),
        difference=difference,
        notes=tuple(
            f"{plan.name} has a weight of zero, so unmerge_norms cannot undo this merge"
            for plan in plans
            if bool((plan.record.gamma() == 0).any())
        ),
    )


def unmerge_norms(model: nn.Module) -> int:
    """Undo :func:`merge_norms`, in place, also after training.

    With the original gamma and beta and today's W' and b': ``W = W' diag(1 / gamma)`` and
    ``b = b' - W beta``. A bias that merging created is removed, unless training moved it.

    Args:
        model: A merged model, a copy of one, or one that never was merged.

    Returns:
        Number of norms put back; 0 when there was nothing to undo.

    Raises:
        ConvertError: A norm's weight has zeros, or one of its linear layers has gone, changed its
            shape, or was quantised, sharded or wrapped; the model is as it was.
    """
    linears: dict[int, dict[str, nn.Module]] = defaultdict(dict)
    norms: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        held = vars(module).get(_MERGED)
        if isinstance(held, _Record):
            norms[name] = module
        elif held is not None:
            linears[id(held.record)][name] = module
    journal = _Journal()
    try:
        for name, norm in norms.items():
            _unmerge(model, name, norm, linears[id(vars(norm)[_MERGED])], journal)
    except BaseException:
        journal.undo()
        raise
    return len(norms)


# --- deciding -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    name: str
    norm: nn.Module
    record: _Record
    linears: dict[str, nn.Module]
    adapters: list[nn.Parameter]


class _Planner:
    def __init__(self, model: nn.Module, seen: Trace) -> None:
        self._model, self._seen = model, seen
        self._modules = dict(model.named_modules())
        self._holders: dict[int, list[str]] = defaultdict(list)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._holders[_place(parameter)].append(name)

    def plan(self) -> tuple[list[_Plan], list[Skip]]:
        plans, skips = [], []
        for name, module in self._modules.items():
            if kind_of_site(module) != "norm":
                continue
            try:
                plans.append(self._norm(name, module))
            except Unsuitable as reason:
                skips.append(Skip(name, "norm", str(reason)))
        return plans, skips

    def _norm(self, name: str, norm: nn.Module) -> _Plan:
        if _MERGED in vars(norm):
            raise Unsuitable("already merged")
        if not isinstance(norm.weight, Tensor):
            raise Unsuitable("has no weight")
        weight, bias = _weight(norm), getattr(norm, "bias", None)
        _require_unsharded(self._model, name)
        for parameter in norm.parameters(recurse=False):
            _require_dense("its weight", parameter)
            self._require_own(name, "its weight", parameter)
        if weight.dim() != 1:
            raise Unsuitable("normalises more than one dimension")
        if name not in self._seen.uses:
            raise Unsuitable("was not called with the example inputs")
        style = norm._lowmem_bp if isinstance(norm, Lean) else norm_style(norm)
        record = _Record(
            weight.detach().clone(),
            bias.detach().clone() if isinstance(bias, Tensor) else None,
            style.offset,
            {key: p.requires_grad for key, p in norm.named_parameters(recurse=False)},
            count=0,
        )
        if not self._seen.uses[name]:
            raise Unsuitable("nothing uses its output")
        linears: dict[str, nn.Module] = {}
        adapters: list[nn.Parameter] = []
        for use in self._seen.uses[name]:
            reader = self._reader(use)
            if reader in linears:
                continue
            linear, own = self._linear(name, reader, record.beta())
            if _matrix(linear).shape[1] != weight.numel():
                raise Unsuitable(f"{reader} reads it in another shape")
            linears[reader] = linear
            adapters += own
        record.count = len(linears)
        return _Plan(name, norm, record, linears, adapters)

    def _reader(self, use: Use) -> str:
        """Name the linear or LoRA layer that a use belongs to."""
        if use.operation == OUTPUT:
            raise Unsuitable("the model returns its output")
        parts = use.module.split(".")
        for end in range(len(parts)):
            name = ".".join(parts[: end + 1])
            if kind_of_site(self._modules[name]) in ("linear", "lora"):
                return name
        module = self._modules[use.module]
        where = f" ({use.module})" if use.module else ""
        raise Unsuitable(f"{type(module).__name__}{where} uses its output: {use.operation}")

    def _linear(
        self, norm: str, reader: str, beta: Tensor | None
    ) -> tuple[nn.Module, list[nn.Parameter]]:
        """Return the layer to change and its adapters' parameters."""
        if self._seen.sources[reader] != {norm}:
            raise Unsuitable(f"{reader} reads other tensors too")
        if {"modules_to_save", "original_module"} & {*reader.split("."), *norm.split(".")}:
            raise Unsuitable(f"PEFT keeps a second copy of {reader} or of the norm")
        module: Any = self._modules[reader]
        lora = kind_of_site(module) == "lora"
        linear: nn.Module = module.base_layer if lora else module
        adapters = _mergeable(self._model, f"{reader}.base_layer" if lora else reader, linear, beta)
        if _MERGED in vars(linear):
            raise Unsuitable(f"{reader} has taken another norm already")
        for parameter in (*linear.parameters(recurse=False), *adapters):
            self._require_own(reader, reader, parameter)
        return linear, adapters

    def _require_own(self, name: str, subject: str, parameter: Any) -> None:
        holders = self._holders[_place(parameter)]
        if len(holders) > 1:
            others = [holder for holder in holders if not holder.startswith(f"{name}.")]
            raise Unsuitable(f"{subject} is shared with {', '.join(others or holders)}")
        borrowers = {
            module
            for module in self._seen.borrowed.get(id(parameter), ())
            if not f"{module}.".startswith(f"{name}.")
        }
        if borrowers:
            raise Unsuitable(f"{subject} is also used by {', '.join(sorted(borrowers))}")


def _place(parameter: Tensor) -> int:
    """Where the data lies, or the object where that cannot be told: equal for tied parameters."""
    if parameter.is_meta or type(parameter.data) is not Tensor or parameter.numel() == 0:
        return id(parameter)
    return parameter.data_ptr()


def _adapters(name: str, lora: Any, beta: Tensor | None) -> list[nn.Parameter]:
    if beta is not None:
        raise Unsuitable(
            f"{name} has LoRA adapters, which have no place for the norm's bias (merge before they "
            "are added, unmerge after they are merged or removed)"
        )
    if getattr(lora, "lora_variant", None) or any(getattr(lora, "use_dora", {}).values()):
        raise Unsuitable(f"{name} has adapters of a special kind (such as DoRA)")
    if not all(has_forward_of(a, nn.Linear) or _is_lean_linear(a) for a in lora.lora_A.values()):
        raise Unsuitable(f"{name} has adapters that are no linear layers")
    return [adapter.weight for adapter in lora.lora_A.values()]


def _is_lean_linear(module: nn.Module) -> bool:
    return type(module).forward in (LeanLinear.forward, LeanConv1D.forward)


def _require_linear(name: str, module: nn.Module) -> None:
    cls = type(module)
    conv1d = cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers.")
    if not (has_forward_of(module, nn.Linear) or conv1d or _is_lean_linear(module)):
        raise Unsuitable(f"{name} is {cls.__name__}: quantised, or with a forward of its own")
    if "forward" in vars(module):
        raise Unsuitable(f"another library replaced forward on {name}")
    if not isinstance(module._parameters.get("weight"), Tensor):
        raise Unsuitable(f"{name} computes its weight (a parametrisation, or a wrapper)")


def _require_unsharded(model: nn.Module, name: str) -> None:
    # Between two passes FSDP may show whole weights, which the next pass would not read.
    parts = name.split(".")
    for end in range(len(parts) + 1):
        classes = type(model.get_submodule(".".join(parts[:end]))).__mro__
        if {"FSDPModule", "FullyShardedDataParallel"} & {cls.__name__ for cls in classes}:
            raise Unsuitable(f"{name} is sharded by FSDP")


def _require_dense(subject: str, parameter: Tensor) -> None:
    if type(parameter.data) is not Tensor or type(parameter) not in (Tensor, nn.Parameter):
        kind = type(parameter.data if type(parameter) is nn.Parameter else parameter).__name__
        raise Unsuitable(f"{subject} is held as {kind}: sharded or quantised")
    if not parameter.is_floating_point() or parameter.itemsize < 2:
        raise Unsuitable(f"{subject} is quantised ({str(parameter.dtype).removeprefix('torch.')})")
    if parameter.is_meta:
        raise Unsuitable(f"{subject} is not loaded (meta device)")


def _require_shape(name: str, module: nn.Module, shape: tuple[int, ...]) -> None:
    if tuple(_weight(module).shape) != shape:
        raise Unsuitable(
            f"the weight of {name} had the shape {shape} when it was merged and has "
            f"{tuple(_weight(module).shape)} now"
        )


# --- doing ----------------------------------------------------------------------------------


class _Journal:
    """Changes that can be taken back, to the bit."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def write(self, parameter: Tensor, value: Tensor) -> None:
        # on the CPU: a second copy of all weights may be more than a GPU has left
        before = parameter.detach().to("cpu", copy=True)

        def restore() -> None:
            with torch.no_grad():
                parameter.copy_(before)

        self._undo.append(restore)
        with torch.no_grad():
            parameter.copy_(value)

    def train(self, parameter: Tensor, requires_grad: bool) -> None:
        before = parameter.requires_grad
        self._undo.append(lambda: parameter.requires_grad_(before))
        parameter.requires_grad_(requires_grad)

    def set_bias(self, linear: Any, bias: nn.Parameter | None) -> None:
        before = linear.bias
        self._undo.append(lambda: setattr(linear, "bias", before))
        linear.bias = bias

    def mark(self, module: nn.Module, held: _Record | _Taken | None) -> None:
        before = vars(module).pop(_MERGED, None)

        def restore() -> None:
            vars(module).pop(_MERGED, None)
            if before is not None:
                vars(module)[_MERGED] = before

        self._undo.append(restore)
        if held is not None:
            vars(module)[_MERGED] = held

    def undo(self) -> None:
        for undo in reversed(self._undo):
            undo()


def _merge(plan: _Plan, journal: _Journal) -> None:
    record = plan.record
    gamma, beta = record.gamma(), record.beta()
    for linear in plan.linears.values():
        matrix = _wide(_matrix(linear))
        made_bias = beta is not None and linear.bias is None
        if beta is not None:
            _add_to_bias(linear, matrix @ beta.to(matrix), journal)
        journal.write(_matrix(linear), matrix * gamma.to(matrix))
        journal.mark(linear, _Taken(record, tuple(_weight(linear).shape), made_bias))
    for adapter in plan.adapters:
        journal.write(adapter, _wide(adapter) * gamma.to(adapter.device))
    weight, bias = _weight(plan.norm), getattr(plan.norm, "bias", None)
    journal.write(weight, torch.full_like(weight, 1.0 - record.offset))
    if isinstance(bias, Tensor):
        journal.write(bias, torch.zeros_like(bias))
    for parameter in plan.norm.parameters(recurse=False):
        journal.train(parameter, False)
    journal.mark(plan.norm, record)


def _unmerge(
    model: nn.Module,
    name: str,
    norm: nn.Module,
    linears: dict[str, nn.Module],
    journal: _Journal,
) -> None:
    record: _Record = vars(norm)[_MERGED]
    if len(linears) != record.count:
        raise ConvertError(
            f"{name!r} was merged into {record.count} linear layers, of which {len(linears)} are "
            f"left ({', '.join(linears)}); unmerge before replacing or quantising layers."
        )
    weight, bias = _weight(norm), getattr(norm, "bias", None)
    try:
        _require_unsharded(model, name)
        for parameter in norm.parameters(recurse=False):
            _require_dense(name, parameter)
        _require_shape(name, norm, tuple(record.weight.shape))
    except Unsuitable as reason:
        raise ConvertError(f"{name!r} cannot be unmerged: {reason}.") from reason
    original = record.gamma()
    if bool((original == 0).any()):
        raise ConvertError(f"{name!r} had a weight of zero, which merging lost; keep the merge.")
    # The norm is neutral, unless somebody trained it after the merge; that is taken along.
    ratio = (record.offset + _wide(weight)) / original.to(weight.device)
    added, beta = _nonzero(bias), record.beta()
    for linear_name, linear in linears.items():
        taken: _Taken = vars(linear)[_MERGED]
        try:
            adapters = _mergeable(model, linear_name, linear, added if beta is None else beta)
            _require_shape(linear_name, linear, taken.shape)
        except Unsuitable as reason:
            raise ConvertError(f"{name!r} cannot be unmerged: {reason}.") from reason
        matrix = _wide(_matrix(linear))
        plain = matrix * ratio.to(matrix)
        shift = torch.zeros_like(plain[:, 0])
        if added is not None:
            shift += matrix @ added.to(matrix)
        if beta is not None:
            shift -= plain @ beta.to(matrix)
        if added is not None or beta is not None:
            _add_to_bias(linear, shift, journal)
        if taken.made_bias and _rounds_to_zero(linear.bias, shift):
            journal.set_bias(linear, None)
        journal.write(_matrix(linear), plain)
        for adapter in adapters:
            journal.write(adapter, _wide(adapter) * ratio.to(matrix))
        journal.mark(linear, None)
    journal.write(weight, record.weight)
    if isinstance(bias, Tensor) and record.bias is not None:
        journal.write(bias, record.bias)
    for key, parameter in norm.named_parameters(recurse=False):
        journal.train(parameter, record.trained.get(key, parameter.requires_grad))
    journal.mark(norm, None)


def _mergeable(
    model: nn.Module, name: str, linear: nn.Module, beta: Tensor | None
) -> list[nn.Parameter]:
    """Return the weights of the adapters around a linear layer; refuse what cannot be changed."""
    _require_unsharded(model, name)
    _require_linear(name, linear)
    parent = model.get_submodule(name.rpartition(".")[0])
    adapters: list[nn.Parameter] = []
    if getattr(parent, "base_layer", None) is linear:
        if kind_of_site(parent) != "lora":
            raise Unsuitable(f"{name} is wrapped by {type(parent).__name__}")
        adapters = _adapters(name, parent, beta)
    for parameter in (*linear.parameters(recurse=False), *adapters):
        _require_dense(name, parameter)
    return adapters


def _add_to_bias(linear: nn.Module, addend: Tensor, journal: _Journal) -> None:
    weight, bias = _weight(linear), linear.bias
    if isinstance(bias, Tensor):
        journal.write(bias, _wide(bias) + addend)
    else:
        made = nn.Parameter(addend.to(weight.device, weight.dtype), weight.requires_grad)
        journal.set_bias(linear, made)


def _rounds_to_zero(bias: Any, shift: Tensor) -> bool:
    return bool(_wide(bias).norm() <= tolerance(bias.dtype) * shift.norm())


def _weight(module: nn.Module) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight


def _matrix(linear: nn.Module) -> Tensor:
    """The weight as a view of shape (out, in); Conv1D holds the transpose."""
    return _weight(linear) if isinstance(linear, nn.Linear) else _weight(linear).t()


def _nonzero(bias: Any) -> Tensor | None:
    return _wide(bias) if isinstance(bias, Tensor) and bool(bias.any()) else None


def _wide(tensor: Tensor) -> Tensor:
    device = "cpu" if tensor.device.type == "mps" else tensor.device  # no float64 there
    return tensor.detach().to(device, torch.float64)


def _outputs(model: nn.Module, example_inputs: Any) -> Any:
    with preserved(model), torch.no_grad():
        return call(model, example_inputs)


def _compare(before: Any, after: Any) -> float:
    if not tensors_in(before):
        raise ConvertError(
            f"the model returns {type(before).__name__}, in which no tensor was found to compare, "
            "so the merge was undone. Return a tensor, tuple or mapping, or pass check=False."
        )
    difference, limit = worst_difference(after, before)
    if difference > limit:
        raise ConvertError(
            f"the merged model's output differs by {difference:.1e} (relative to its norm; at most "
            f"{limit:.0e} is accepted), so the merge was undone. Merge in float32 and round "
            "afterwards, or pass check=False if you accept the difference."
        )
    return difference
