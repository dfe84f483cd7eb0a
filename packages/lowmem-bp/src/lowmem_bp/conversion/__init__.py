"""Convert a model in place, check that it computes the same, and convert it back.

``sites`` decides what to change, ``check`` compares before and after, ``report`` says what
happened; ``merge`` is the paper's other form, with norm weights folded into linear layers.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lowmem_bp.activations import identify
from lowmem_bp.backends import name_of, resolve
from lowmem_bp.conversion.check import worst_difference
from lowmem_bp.conversion.merge import Merge, MergeReport, merge_norms, unmerge_norms
from lowmem_bp.conversion.report import Change, ConversionReport, changes
from lowmem_bp.conversion.sites import (
    CONVERTED,
    MODES,
    Mode,
    Planner,
    Site,
    Skip,
    has_replaced_functions,
    restore_functions,
)
from lowmem_bp.conversion.trace import functional_calls
from lowmem_bp.errors import BackendError, ConfigError, ConvertError
from lowmem_bp.lean import is_lean, is_wrapped, restore
from lowmem_bp.memory import MemoryReport, profile
from lowmem_bp.steps import StepTable

__all__ = [
    "Change",
    "ConversionReport",
    "Merge",
    "MergeReport",
    "Mode",
    "Skip",
    "convert",
    "converted",
    "merge_norms",
    "revert",
    "unmerge_norms",
]

_MODE = "_lowmem_bp_mode"


def convert(
    model: nn.Module,
    mode: Mode = "exact",
    example_inputs: Any = None,
    *,
    tables: Mapping[str, StepTable] | None = None,
    everywhere: bool = False,
    check: bool = True,
    backend: str = "auto",
) -> ConversionReport:
    """Change ``model`` in place so that its backward pass keeps less. Outputs stay the same.

    Parameters, their names and the state_dict are untouched. Convert after wrapping with PEFT and
    before ``torch.compile``, DDP or FSDP; :func:`revert` undoes everything. Converting again, in
    the same mode, converts what was added since.

    Args:
        model: Any module; parts that are not recognised are left alone and reported.
        mode: ``"exact"``: what is dropped is recomputed, gradients are those of the original.
            ``"int8"``: inputs of activations and gates are kept in 8 bits. ``"2bit"``: where the
            layer behind an activation is frozen, its derivative is kept in 2 bits, elsewhere as
            ``"exact"``. ``"paper"``: ReGELU2 or ReSiLU2 everywhere, as published.
        example_inputs: What the model is called with (tensor, tuple or mapping): outputs are then
            compared on the whole model and the memory is measured. Without it each changed
            module is compared with the original on synthetic input.
        tables: Step tables by module name, from :func:`lowmem_bp.calibrate`, for ``"2bit"``.
        everywhere: In mode ``"2bit"``: use codes also where exact recomputation keeps less, for
            comparisons.
        check: False skips the comparison.
        backend: ``"auto"`` or the name of one; see :mod:`lowmem_bp.backends`.

    Returns:
        A :class:`ConversionReport`; print it.

    Raises:
        ConfigError: Unknown mode, or tables for modules that do not exist.
        ConvertError: The model is converted in another mode already, or its outputs changed; it
            is then as it was before the call.
        BackendError: The backend is not available.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
        >>> report = convert(model, example_inputs=torch.randn(4, 8))
        >>> round(report.ratio, 2)  # the GELU's output is recomputed
        0.5

    Reference: arXiv 2406.16282; the exact mode goes beyond it, see the documentation.
    """
    _validate(model, mode, tables, everywhere)
    kernels = resolve(backend)
    with contextlib.suppress(BackendError):  # a model may be moved to the device they are made for
        kernels = resolve(backend, next((p.device for p in model.parameters()), None))
    before, unreachable = None, {}
    if example_inputs is not None:
        before = profile(model, example_inputs, label="before")
        unreachable = functional_calls(model, example_inputs)
    sites, skips = Planner(model, mode, tables or {}, everywhere, check, backend).plan()
    try:
        for site in sites:
            site.apply()
        how, difference, after = "off", None, None
        if before is not None:
            after = profile(model, example_inputs, label=f"after, mode {mode!r}")
        if check:
            how = "module by module on synthetic input"
            if before is not None and after is not None:
                how = "whole model on example inputs"
                difference = _compare(before, after)
    except BaseException:
        _undo(sites)
        raise
    vars(model)[_MODE] = mode
    notes = _notes(model, sites, skips, unreachable)
    if before and after and sites and after.activation_bytes > before.activation_bytes:
        notes += ("it holds more than before: no layer behind the norms or gates shares with them",)
    # The outputs were for the comparison only, and may be large.
    before = before and replace(before, output=None)
    after = after and replace(after, output=None)
    return ConversionReport(
        mode,
        changes(sites),
        tuple(skips),
        how,
        difference,
        before,
        after,
        notes,
        backend=name_of(kernels),
    )


def _validate(
    model: nn.Module, mode: str, tables: Mapping[str, StepTable] | None, everywhere: bool
) -> None:
    if mode not in MODES:
        raise ConfigError(f"mode={mode!r}: expected one of {', '.join(map(repr, MODES))}.")
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is {type(model).__name__}; expected a torch.nn.Module.")
    if isinstance(model, torch.jit.ScriptModule):
        raise ConvertError("model is a TorchScript module: convert it before scripting, or not.")
    for name, module in model.named_modules():
        known = vars(module).get(_MODE, mode)
        if known != mode:
            raise ConvertError(
                f"{repr(name) if name else 'the model'} is converted already, with "
                f"mode={known!r}; call lowmem_bp.revert(model) before converting it with "
                f"mode={mode!r}."
            )
    if tables is not None and not isinstance(tables, Mapping):
        raise ConfigError(f"tables is {type(tables).__name__}; expected a mapping by module name.")
    if mode != "2bit" and (tables or everywhere):
        raise ConfigError(f"tables= and everywhere= are for mode='2bit'; mode={mode!r} was given.")
    names = {name for name, _module in model.named_modules()}
    for name in tables or {}:
        module = model.get_submodule(name) if name in names else None
        if module is not None and identify(module) is None:
            raise ConfigError(f"tables has {name!r}, a {type(module).__name__}: not an activation.")
        parent, _, attribute = name.rpartition(".")
        function = parent in names and attribute in vars(model.get_submodule(parent))
        if module is None and not function:
            activations = [key for key, child in model.named_modules() if identify(child)]
            near = difflib.get_close_matches(name, activations, n=3, cutoff=0.0)
            hint = f", such as {', '.join(map(repr, near))}" if near else ""
            raise ConfigError(
                f"tables has {name!r}, which the model lacks; expected names of its activations"
                f"{hint}."
            )


def _compare(before: MemoryReport, after: MemoryReport) -> float:
    difference, limit = worst_difference(after.output, before.output)
    if difference > limit:
        raise ConvertError(
            f"the converted model's output differs by {difference:.1e} (relative to its norm; at "
            f"most {limit:.0e} is accepted), so the conversion was undone. Find the module with "
            "convert(part_of_the_model, ...)."
        )
    return difference


def _undo(sites: list[Site]) -> None:
    for site in sites:
        if site.mixin is not None and is_lean(site.module):
            restore(site.module)
        elif site.mixin is None:
            restore_functions(site.module)


def _notes(
    model: nn.Module,
    sites: list[Site],
    skips: list[Skip],
    unreachable: Mapping[str, tuple[str, ...]],
) -> tuple[str, ...]:
    notes = []
    if not sites and any(skip.reason == CONVERTED for skip in skips):
        notes.append("already converted: nothing done")
    elif not sites:
        notes.append("nothing to convert: see the reasons for what was left alone")
    elif not any(p.requires_grad for p in model.parameters()):
        notes.append("no parameter needs a gradient: nothing is kept for backward anyway")
    if any(getattr(module, "gradient_checkpointing", False) is True for module in model.modules()):
        notes.append(
            "gradient checkpointing is on: checkpointed blocks keep only their input, so only the "
            "peak during their recomputation falls"
        )
    calls: dict[tuple[str, tuple[str, ...]], str] = {}
    for name, functions in unreachable.items():  # one note per class, with its first module
        calls.setdefault((type(model.get_submodule(name)).__name__, functions), name)
    for (cls, functions), name in calls.items():
        notes.append(
            f"{cls} ({name or 'the model'}) calls F.{', F.'.join(functions)} in its forward, where "
            "convert cannot reach: use a module, or lowmem_bp.functional"
        )
    return tuple(notes)


def revert(model: nn.Module) -> int:
    """Undo :func:`convert`, in place.

    Args:
        model: A converted model, or one that never was.

    Returns:
        Number of modules put back; 0 when there was nothing to undo.

    Raises:
        ConvertError: Another library changed a converted module's class once more (FSDP, a
            parametrization); nothing was changed.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is {type(model).__name__}; expected a torch.nn.Module.")
    return _put_all_back(model, keep={})


def _put_all_back(model: nn.Module, keep: Mapping[int, nn.Module]) -> int:
    """Put back every module whose id is not in ``keep``: all of them, or none."""
    for name, module in model.named_modules():
        if id(module) not in keep and is_wrapped(module):
            raise ConvertError(
                f"{name or 'the model'} is {type(module).__name__}, which another library made of "
                "the converted module (fully_shard, a parametrization such as weight_norm); undo "
                "that first, or call revert before wrapping. Nothing was changed."
            )
    return sum(_put_back(module) for module in model.modules() if id(module) not in keep)


def _is_changed(module: nn.Module) -> bool:
    return is_lean(module) or has_replaced_functions(module) or _MODE in vars(module)


def _put_back(module: nn.Module) -> int:
    vars(module).pop(_MODE, None)
    count = restore_functions(module)
    if is_lean(module):
        restore(module)
        count += 1
    return count


@contextlib.contextmanager
def converted(
    model: nn.Module, mode: Mode = "exact", example_inputs: Any = None, **options: Any
) -> Iterator[ConversionReport]:
    """Convert ``model`` inside a ``with`` block and put it back at its end.

    Takes the arguments of :func:`convert` and gives its report. What was converted before the
    block stays converted.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8))
        >>> with converted(model) as report:
        ...     model(torch.randn(2, 8)).sum().backward()
        >>> revert(model)
        0
    """
    before = {id(module): module for module in model.modules() if _is_changed(module)}
    report = convert(model, mode, example_inputs, **options)
    try:
        yield report
    finally:
        _put_all_back(model, keep=before)
