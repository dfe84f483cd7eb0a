"""Recipes: how to rebuild a tensor from tensors that are kept anyway.

A *producer* (norm, activation, product, dropout, cast) calls :func:`attach` on its output. A
*consumer* that would save that output for its own backward pass (linear layer, product) asks
:func:`recipe_of` and saves the recipe's tensors instead, which some other node of the graph keeps
already, then rebuilds the value when backward needs it.

The recipe is a plain attribute of the tensor object, so nothing has to know who consumes what:
an operation that is not aware of recipes uses the tensor as it is, and every operation that makes
a new tensor drops the recipe. The autograd graph has the same nodes and edges as without recipes.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ATTRIBUTE = "_lowmem_bp_recipe"

Rebuild = Callable[..., Tensor]


class Recipe(NamedTuple):
    """``rebuild(*tensors)`` gives the value of the tensor that carries this recipe.

    Attributes:
        rebuild: Differentiable function of ``tensors``; holds no tensor itself.
        tensors: What has to be kept. Never contains the tensor that carries the recipe: that
            would keep it alive and save nothing.
        version: In-place version of the carrying tensor when the recipe was attached.
        versions: The same for each of ``tensors``.
        region: The checkpointed region it was made in; None outside of any.
    """

    rebuild: Rebuild
    tensors: tuple[Tensor, ...]
    version: int
    versions: tuple[int, ...]
    region: weakref.ref[Any] | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Leave nothing behind when a tensor is copied or saved: only its value is of use."""
        return OrderedDict, ()


def identity(tensor: Tensor) -> Tensor:
    """Return the tensor itself: the recipe of a tensor that has none."""
    return tensor


def rebuilt(rebuild: Rebuild, tensors: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Rebuild a value in ``dtype``; in one pass, if ``rebuild`` has a method ``rounded`` for that.

    Args:
        rebuild: Of a recipe.
        tensors: Likewise.
        dtype: As it is needed, for instance under autocast.
    """
    rounded = getattr(rebuild, "rounded", None)
    value: Tensor = rebuild(*tensors) if rounded is None else rounded(*tensors, dtype=dtype)
    return value.to(dtype)


def attach(output: Tensor, rebuild: Rebuild, *tensors: Tensor, compiled: bool = False) -> Tensor:
    """Give ``output`` a recipe and return it.

    Does nothing when gradients are off (nothing will be saved then), for tensors made in
    ``torch.inference_mode``, which nothing may save, and in compiled code: the compiler decides
    what is kept, and would merge a recomputation with the forward pass.

    Args:
        output: The tensor that ``rebuild(*tensors)`` reproduces, any shape and dtype.
        rebuild: See :class:`Recipe`.
        tensors: See :class:`Recipe`.
        compiled: Attach in compiled code as well, because the compiler cannot find out by itself
            that ``tensors`` will do: they are an approximation.

    Returns:
        ``output``, the same object.
    """
    if torch.compiler.is_compiling():
        if not compiled:
            return output
    elif any(tensor.is_inference() for tensor in tensors):
        return output
    if torch.is_grad_enabled():
        versions = tuple(tensor._version for tensor in tensors)
        region = _checkpointed_region()
        recipe = Recipe(rebuild, tensors, output._version, versions, region)
        setattr(output, _ATTRIBUTE, recipe)
    return output


# Since torch 2.7; without it a block that ends in a norm holds that norm's rows as well when it is
# checkpointed.
_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def _checkpointed_region() -> weakref.ref[Any] | None:
    """Return a mark of the region of non-reentrant checkpointing that runs now, if any."""
    if _top_hooks is None or torch.compiler.is_compiling():
        return None
    hooks = _top_hooks(True)
    if not hooks or getattr(hooks[0], "__module__", "") != "torch.utils.checkpoint":
        return None
    return weakref.ref(hooks[0])


def recipe_of(tensor: Tensor) -> Recipe | None:
    """Return the recipe of ``tensor``, or None when it has none that still holds.

    A recipe stops holding when the tensor, or one it is rebuilt from, was modified in place, and
    at the border of a checkpointed region: behind it nobody else keeps what the recipe names.
    """
    recipe = getattr(tensor, _ATTRIBUTE, None)
    if not isinstance(recipe, Recipe) or not torch.is_grad_enabled():
        return None
    if recipe.region != _checkpointed_region():
        delattr(tensor, _ATTRIBUTE)  # the checkpoint keeps the tensor, and so would all of this
        return None
    current = True
    pairs = [(tensor, recipe.version), *zip(recipe.tensors, recipe.versions, strict=True)]
    for kept, version in pairs:
        if torch.compiler.is_compiling():
            # A compiler cannot branch on versions; compilation stops here with this message.
            torch._check(
                kept._version == version,
                lambda: (
                    "a tensor between two converted modules is modified in place, which a "
                    "compiled graph cannot follow: lowmem_bp.revert(model) before compiling"
                ),
            )
        else:
            current = current and kept._version == version
    return recipe if current else None


_VIEWS = ("ViewBackward", "UnsafeViewBackward", "ReshapeAlias", "TransposeBackward", "Permute")
_KEEP_OUTPUT = ("ReluBackward", "SigmoidBackward", "TanhBackward", "ScaledDotProduct")


def recipe_or_kept(
    tensor: Tensor, *, anyway: bool = False
) -> tuple[Rebuild, tuple[Tensor, ...]] | None:
    """Return ``(rebuild, tensors)`` to get ``tensor`` back at no cost, or None.

    That is its recipe or, where whoever made it keeps it, the tensor itself.

    Args:
        tensor: What is to be rebuilt.
        anyway: Keeping the tensor itself pays even where nobody else does.
    """
    recipe = recipe_of(tensor)
    if recipe is not None:
        return recipe.rebuild, recipe.tensors
    if anyway or _kept_by_producer(tensor):
        return identity, (tensor,)
    return None


def _kept_by_producer(tensor: Tensor) -> bool:
    """Whether the operation that made ``tensor`` keeps it anyway for its own backward pass.

    Then others may keep it as well: it costs nothing, and it cannot be modified in place.
    """
    node = tensor.grad_fn
    while node is not None and node.name().startswith(_VIEWS):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith(_KEEP_OUTPUT)
