"""What autograd really holds between the forward and the backward pass, in bytes.

Every tensor that a node of the graph saves passes through a hook, is counted once per storage, and
is *not* kept: measuring a model needs less memory than training it, so a model that does not fit
can still be measured. Parameters, buffers and the inputs themselves are not counted; a tensor
saved by a node that has gone by the end of the forward pass is not counted either.
"""

from __future__ import annotations

import contextlib
import json
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from lowmem_bp._kit.files import write_text_atomic
from lowmem_bp._kit.report import Report
from lowmem_bp.activations import identify
from lowmem_bp.errors import ConfigError

WEIGHT_COPY = "weight copy"


@dataclass(frozen=True)
class Held:
    """One storage that autograd holds.

    Attributes:
        module: Name of the innermost module that first saved it; "" for the model itself.
        kind: ``norm``, ``activation``, ``linear``, ``attention``, ``dropout``, ``embedding``,
            ``mlp``, ``loss``, ``other``; ``weight copy`` for tensors with the values of a
            parameter (autocast's copies), which do not grow with the number of tokens.
        shape: Of the tensor as saved.
        dtype: Of the tensor as saved.
        nbytes: Size of its whole storage.
    """

    module: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclass(frozen=True)
class MemoryReport:
    """Bytes held by autograd; made by :func:`profile`.

    Attributes:
        held: Every storage, in the order of saving.
        tokens: Rows that the linear layers saw (batch times sequence length); where none was seen,
            as in compiled code, those of the input (images count as one each).
        label: Title of this measurement in tables.
    """

    held: tuple[Held, ...]
    tokens: int
    label: str = "model"
    output: Any = field(default=None, repr=False, compare=False)

    @property
    def total_bytes(self) -> int:
        """All bytes held, weight copies included."""
        return sum(item.nbytes for item in self.held)

    @property
    def activation_bytes(self) -> int:
        """Bytes held that grow with the batch: all but weight copies."""
        return sum(item.nbytes for item in self.held if item.kind != WEIGHT_COPY)

    @property
    def bytes_per_token(self) -> float:
        """:attr:`activation_bytes` over :attr:`tokens`."""
        return self.activation_bytes / max(self.tokens, 1)

    def by_kind(self) -> dict[str, int]:
        """Bytes per kind, largest first."""
        return _sum(self.held, lambda item: item.kind)

    def by_module(self, depth: int | None = None) -> dict[str, int]:
        """Bytes per module, in the order of saving.

        Args:
            depth: Number of name parts to keep, as in ``encoder.layer.0``; None for whole names.
        """
        totals: dict[str, int] = defaultdict(int)
        for item in self.held:
            totals[".".join(item.module.split(".")[:depth])] += item.nbytes
        return dict(totals)

    def table(self, baseline: MemoryReport | None = None) -> str:
        """Return a plain text table by kind, beside ``baseline`` when given."""
        rows = [("kind", "bytes/token", *(("before", "ratio") if baseline else ()))]
        mine, theirs = self.by_kind(), baseline.by_kind() if baseline else {}
        tokens = max(self.tokens, 1)
        rows += [
            _row(kind, mine.get(kind, 0), theirs.get(kind, 0), tokens, bool(baseline))
            for kind in {**theirs, **mine}
        ]
        before = baseline.total_bytes if baseline else 0
        rows.append(_row("total", self.total_bytes, before, tokens, bool(baseline)))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([*lines, f"{self.tokens} tokens; {self.total_bytes / 2**20:.1f} MiB held"])

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "label": self.label,
            "tokens": self.tokens,
            "total_bytes": self.total_bytes,
            "activation_bytes": self.activation_bytes,
            "bytes_per_token": self.bytes_per_token,
            "by_kind": self.by_kind(),
            "by_module": self.by_module(),
            "held": [asdict(item) for item in self.held],
        }

    def to_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict` to ``path``."""
        write_text_atomic(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def to_html(self, path: str | Path, baseline: MemoryReport | None = None) -> None:
        """Write a page with the table and a bar per module (needs the extra ``[report]``)."""
        from lowmem_bp._charts import memory_by_module

        reports = [self] if baseline is None else [baseline, self]
        page = Report(f"Memory held for backward: {self.label}")
        page.paragraph(
            "Bytes that autograd keeps between the forward and the backward pass, each storage "
            "counted once. Parameters, gradients and optimizer state are not part of it."
        )
        page.preformatted(self.table(baseline))
        page.figure(memory_by_module(reports), caption="Bytes per token, by layer and kind.")
        page.write(path)


def _sum(items: tuple[Held, ...], key: Callable[[Held], str]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for item in items:
        totals[key(item)] += item.nbytes
    return dict(sorted(totals.items(), key=lambda pair: -pair[1]))


def _row(kind: str, mine: int, theirs: int, tokens: int, compare: bool) -> tuple[str, ...]:
    row: tuple[str, ...] = (kind, f"{mine / tokens:,.0f}")
    if compare:
        ratio = f"{mine / theirs:.3f}" if theirs else "-"
        row += (f"{theirs / tokens:,.0f}", ratio)
    return row


def profile(
    model: nn.Module,
    example_inputs: Any,
    loss: Callable[[Any], Tensor] | None = None,
    *,
    label: str = "model",
) -> MemoryReport:
    """Run one forward pass and count what autograd holds at its end.

    The model is run in its current mode (``train`` or ``eval``) with gradients on, on its own
    device, under whatever autocast surrounds the call. Buffers and random state are put back.

    Args:
        model: Any module.
        example_inputs: A tensor, a tuple or list of positional arguments, or a mapping of keyword
            arguments.
        loss: Function of the model's output; what it saves is counted too. Without it the graph
            ends at the output.
        label: Title for tables.

    Returns:
        A :class:`MemoryReport`; ``report.output`` is the model's (or the loss's) output, detached
        from any usable graph.

    Raises:
        ConfigError: ``example_inputs`` is empty or of another type.

    Example:
        >>> report = profile(nn.Sequential(nn.Linear(8, 32), nn.GELU()), torch.randn(4, 8))
        >>> report.by_kind()["activation"]  # the GELU's input: 4 rows of 32 floats
        512
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is {type(model).__name__}; expected a torch.nn.Module.")
    recorder = _Recorder(model, example_inputs)
    with recorder.watching(), preserved(model), torch.enable_grad():
        output = call(model, example_inputs)
        if loss is not None:
            with recorder.inside("loss", "loss"):
                output = loss(output)
    held = recorder.held()
    # No layer is seen in compiled code: then the tokens are those of the input.
    return MemoryReport(held, recorder.tokens or _rows(example_inputs), label, output)


def _rows(inputs: Any) -> int:
    """Rows of the largest tensor of an input."""
    found = [_rows_of(tensor) for tensor in tensors_in(inputs) if tensor.dim() and tensor.numel()]
    return max(found, default=0)


def _rows_of(tensor: Tensor) -> int:
    """Rows of features, or ids; of four dimensions or more, as images have, one for each."""
    if tensor.dim() >= 4:
        return tensor.shape[0]
    return tensor.numel() // (tensor.shape[-1] if tensor.is_floating_point() else 1)


def call(model: nn.Module, example_inputs: Any) -> Any:
    """Call ``model`` with a tensor, a sequence of arguments or a mapping of them."""
    if isinstance(example_inputs, Tensor):
        return model(example_inputs)
    if isinstance(example_inputs, Mapping):
        if not example_inputs:
            raise ConfigError("example_inputs is an empty mapping; give the model's arguments.")
        return model(**example_inputs)
    if isinstance(example_inputs, (tuple, list)) and example_inputs:
        return model(*example_inputs)
    raise ConfigError(
        f"example_inputs is {type(example_inputs).__name__}; expected a tensor, a non-empty tuple "
        "of positional arguments, or a mapping of keyword arguments such as a tokenizer returns."
    )


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put buffers (running statistics) and the random state back after a trial run."""
    buffers = {
        name: buffer.detach().clone()
        for name, buffer in model.named_buffers()
        if not buffer.is_meta
    }
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in buffers and buffer.shape == buffers[name].shape:
                        buffer.copy_(buffers[name])


class _Saved:
    """What a saved tensor is replaced by; lives as long as the graph node that saved it."""

    __slots__ = ("__weakref__",)


class _Recorder:
    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.model = model
        self.tokens = 0
        self._stack: list[tuple[str, str]] = [("", "other")]
        # Weak references hold the identity of a storage, not its memory: the key stays unique
        # while the bytes are freed.
        self._storages: dict[int, StorageWeakRef] = {}
        self._order: list[int] = []
        self._items: dict[int, Held] = {}
        self._owners: dict[int, list[weakref.ref[_Saved]]] = defaultdict(list)
        self._ignored = set()
        owned = [*model.parameters(), *model.buffers(), *tensors_in(example_inputs)]
        for tensor in owned:
            for part in _parts(tensor):
                ref = StorageWeakRef(part.untyped_storage())
                self._storages[ref.cdata] = ref
                self._ignored.add(ref.cdata)
        self._weights: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for parameter in model.parameters():
            self._weights[tuple(parameter.shape)].append(parameter)

    def held(self) -> tuple[Held, ...]:
        """The storages that some living graph node still owns."""
        return tuple(
            self._items[key]
            for key in self._order
            if any(owner() is not None for owner in self._owners[key])
        )

    @contextlib.contextmanager
    def inside(self, name: str, kind: str) -> Iterator[None]:
        self._stack.append((name, kind))
        try:
            yield
        finally:
            self._stack.pop()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        try:
            for name, module in self.model.named_modules():
                kind = kind_of(module)
                handles.append(module.register_forward_pre_hook(self._enter(name, kind)))
                handles.append(module.register_forward_hook(self._leave(module), always_call=True))
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, kind: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._stack.append((name, kind))
            counts = kind == "linear" and not isinstance(module, nn.modules.conv._ConvNd)
            if counts and args and isinstance(args[0], Tensor) and args[0].dim() > 0:
                rows = args[0].numel() // max(args[0].shape[-1], 1)
                self.tokens = max(self.tokens, rows)

        return hook

    def _leave(self, module: nn.Module) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if len(self._stack) > 1:
                self._stack.pop()

        return hook

    def _pack(self, tensor: Tensor) -> _Saved:
        owner = _Saved()
        for part in _parts(tensor):
            ref = StorageWeakRef(part.untyped_storage())
            key = ref.cdata
            if key in self._ignored:
                continue
            if key not in self._items:
                self._storages[key] = ref
                self._order.append(key)
                self._items[key] = self._describe(tensor, part.untyped_storage().nbytes())
            self._owners[key].append(weakref.ref(owner))
        return owner

    @staticmethod
    def _unpack(saved: _Saved) -> Tensor:
        raise RuntimeError(
            "profile() keeps no tensors, so its graph cannot run backward; "
            "call the model again for training."
        )

    def _is_weight(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` holds the values of a parameter, cast or copied."""
        candidates = self._weights.get(tuple(tensor.shape), ())
        with torch.no_grad():
            return tensor.is_floating_point() and any(
                type(tensor) is type(p.data) and torch.equal(p.to(tensor.dtype), tensor)
                for p in candidates
                if p.device == tensor.device and not p.is_meta
            )

    def _describe(self, tensor: Tensor, nbytes: int) -> Held:
        name, kind = self._stack[-1]
        shape = tuple(tensor.shape)
        if self._is_weight(tensor) or (tensor.dim() == 2 and self._is_weight(tensor.t())):
            kind = WEIGHT_COPY
        return Held(name, kind, shape, str(tensor.dtype).removeprefix("torch."), nbytes)


def _parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors inside ``tensor``: itself, or the parts of a wrapper such as DTensor."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _context = tensor.__tensor_flatten__()
        inner = [getattr(tensor, name) for name in names]  # not all are tensors: device meshes
        return [part for item in inner if isinstance(item, Tensor) for part in _parts(item)]
    return [tensor]


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a nest of mappings, sequences and dataclass-like outputs."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def kind_of(module: nn.Module) -> str:
    """Return the kind of a module for tables; see :class:`Held`."""
    name = type(module).__name__
    if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or name.endswith("Conv1D"):
        return "linear"
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return "dropout"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if "Norm" in name:
        return "norm"
    if identify(module) is not None:
        return "activation"
    if "Attention" in name:
        return "attention"
    if "MLP" in name or "FeedForward" in name:
        return "mlp"
    return "other"
