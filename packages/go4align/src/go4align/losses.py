"""Reading what a training loop hands over: losses by position or by name, and a mask."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from go4align.errors import LossError

Losses = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Mask = Tensor | Sequence[bool] | Mapping[str, bool]


class Reading(NamedTuple):
    """Losses in the order of the tasks.

    Attributes:
        stacked: Tensor (M,), with its graph.
        scalars: The M scalars it was made of, where they came one by one.
        values: The numbers without gradient, shape (M,): a float64 NumPy array for losses in the
            host's memory, otherwise a tensor of at least float32.
        mask: bool (M,) of the kind of ``values``; None where no mask was given.
    """

    stacked: Tensor
    scalars: list[Tensor] | None
    values: Any
    mask: Any


def read(losses: Losses, mask: Mask | None, tasks: tuple[str, ...], named: bool) -> Reading:
    """Bring losses and mask into the order of the tasks.

    Args:
        losses: A tensor of shape (M,), M scalars, or a mapping from task names to scalars.
        mask: True for the tasks that this batch has, by position or by name; None for all.
        tasks: The names, in order.
        named: Whether the names were given by the user, which a mapping needs.

    Returns:
        Losses, their values and the mask.

    Raises:
        LossError: for another shape, number, dtype or name, or losses on several devices.
    """
    flags = None if mask is None else _read_mask(mask, tasks)
    scalars = None
    if isinstance(losses, Tensor):
        if losses.shape != (len(tasks),):
            raise LossError(
                f"losses have shape {tuple(losses.shape)}: expected ({len(tasks)},), one loss per "
                f"task{_way_out(losses, len(tasks))}"
            )
        stacked = losses
    else:
        if isinstance(losses, Mapping):
            scalars = _by_name(losses, tasks, named, flags)
        elif isinstance(losses, Sequence):
            scalars = list(losses)
        else:
            raise LossError(
                f"losses are of type {type(losses).__name__}: pass a tensor of shape "
                f"({len(tasks)},), a list of {len(tasks)} scalar tensors, or a mapping from names"
            )
        stacked = _stack(scalars, tasks)
    if not stacked.is_floating_point():
        raise LossError(f"losses are of dtype {stacked.dtype}: expected a floating-point dtype")
    flat = stacked.detach()
    if not on_host(flat):
        wide = flat.dtype in (torch.float32, torch.float64)
        if flags is not None and not isinstance(flags, Tensor):
            flags = torch.tensor(flags, device=flat.device)
        flags = None if flags is None else flags.to(flat.device)
        return Reading(stacked, scalars, flat if wide else flat.float(), flags)
    if flags is not None:
        flags = flags.cpu().numpy() if isinstance(flags, Tensor) else np.array(flags)
    try:
        return Reading(stacked, scalars, flat.double().numpy(), flags)
    except RuntimeError as error:
        raise LossError(
            f"the values of the losses cannot be read here ({error}): transforms of torch.func "
            "are not supported, use loss.backward() or torch.autograd.grad"
        ) from error


def _way_out(losses: Tensor, n_tasks: int) -> str:
    if losses.ndim > 1 and losses.numel() == n_tasks:
        return "; reshape with losses.squeeze()"
    if losses.ndim == 2 and losses.shape[1] == n_tasks:
        return "; take the mean over the rows with losses.mean(0)"
    return ""


def without(reading: Reading, present: Any, *, keep_graph: bool = False) -> Tensor:
    """The losses as a tensor (M,) with zeros for those that do not count.

    Scalars that are known on the host not to count stay out of the graph, so that an infinite
    derivative behind one of them cannot reach the network.

    Args:
        reading: The losses.
        present: bool (M,), those that count; None for all.
        keep_graph: Keep the graph of finite ones all the same, with a gradient of zero: under DDP
            every parameter has to get a gradient in every process.
    """
    if present is None:
        return reading.stacked
    if isinstance(present, np.ndarray):
        kept = present | np.isfinite(reading.values) if keep_graph else present
        present = torch.from_numpy(present)
        if reading.scalars is not None and not kept.all():
            # Where nothing is left, backward is to do nothing, and not to fail.
            alone = reading.stacked.requires_grad and not kept.any()
            zero = torch.zeros((), dtype=reading.stacked.dtype, requires_grad=alone)
            pairs = zip(reading.scalars, kept, strict=True)
            stacked = torch.stack([term.to(zero.dtype) if keep else zero for term, keep in pairs])
            return torch.where(present, stacked, 0.0) if keep_graph else stacked
    return torch.where(present, reading.stacked, 0.0)


def _stack(scalars: list[Tensor], tasks: tuple[str, ...]) -> Tensor:
    try:
        stacked = torch.stack(scalars)
        if stacked.shape == (len(tasks),):
            return stacked
    except (RuntimeError, TypeError):
        pass
    # Only now the slow way: what is wrong with them, or do they differ in dtype?
    if len(scalars) != len(tasks):
        raise LossError(
            f"there are {len(scalars)} losses for {len(tasks)} tasks: pass one scalar per task, "
            "and say with mask= which of them this batch has no data for"
        )
    for name, term in zip(tasks, scalars, strict=True):
        if not isinstance(term, Tensor):
            raise LossError(
                f"the loss of task {name!r} is of type {type(term).__name__}: expected a scalar "
                "tensor"
            )
        if term.ndim:
            raise LossError(
                f"the loss of task {name!r} has shape {tuple(term.shape)}: expected a scalar; "
                "reduce it with .mean()"
            )
    if len({term.device for term in scalars}) > 1:
        places = ", ".join(f"{n}: {t.device}" for n, t in zip(tasks, scalars, strict=True))
        raise LossError(f"the losses lie on several devices ({places}): move them to one")
    dtype = functools.reduce(torch.promote_types, (term.dtype for term in scalars))
    return torch.stack([term.to(dtype) for term in scalars])


def on_host(x: Tensor) -> bool:
    """Whether the numbers can be read without waiting for a device or breaking a graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and type(x) is Tensor


def _by_name(
    losses: Mapping[str, Tensor], tasks: tuple[str, ...], named: bool, flags: Any
) -> list[Tensor]:
    if not named:
        raise LossError(
            f"losses are a mapping with keys {sorted(map(str, losses))}: name the tasks with "
            "GO4Align(..., tasks=[...]), so that the order is known"
        )
    unknown = [name for name in losses if name not in tasks]
    if unknown:
        raise LossError(f"{_unknown(unknown[0], tasks)} among the losses")
    absent = [name for name in tasks if name not in losses]
    if absent:
        masked = set() if flags is None or isinstance(flags, Tensor) else _names_off(flags, tasks)
        unmasked = [name for name in absent if name not in masked]
        if unmasked or not losses:
            raise LossError(
                f"there is no loss for {', '.join(map(repr, unmasked or absent))}: where a batch "
                "has no data for a task, say so with mask={...: False}"
            )
        like = next(iter(losses.values()))
        zero = like.new_zeros(()) if isinstance(like, Tensor) else torch.zeros(())
        return [losses.get(name, zero) for name in tasks]
    return [losses[name] for name in tasks]


def _names_off(flags: Any, tasks: tuple[str, ...]) -> set[str]:
    return {name for name, flag in zip(tasks, flags, strict=True) if not flag}


def _read_mask(mask: Mask, tasks: tuple[str, ...]) -> Any:
    """The mask by position: a bool tensor as it is, otherwise a list of bools."""
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool or mask.shape != (len(tasks),):
            raise LossError(
                f"the mask has dtype {mask.dtype} and shape {tuple(mask.shape)}: expected "
                f"torch.bool and ({len(tasks)},), True for tasks that this batch has"
            )
        return mask
    if isinstance(mask, Mapping):
        for name in mask:
            if name not in tasks:
                raise LossError(f"{_unknown(name, tasks)} in the mask")
        mask = [mask.get(name, True) for name in tasks]
    if not isinstance(mask, Sequence | np.ndarray) or len(mask) != len(tasks):
        raise LossError(
            f"the mask is {mask!r}: expected {len(tasks)} booleans, one per task, or a mapping "
            "from task names"
        )
    if not all(map(_is_boolean, mask)):
        raise LossError(f"the mask is {list(mask)!r}: expected booleans, True for present tasks")
    return [bool(flag) for flag in mask]


def _is_boolean(flag: Any) -> bool:
    if isinstance(flag, Tensor):
        return flag.dtype == torch.bool and flag.ndim == 0
    return isinstance(flag, bool | np.bool_)


def _unknown(name: Any, tasks: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(name), tasks, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown task {name!r} (the tasks are {', '.join(map(repr, tasks))}{hint})"
