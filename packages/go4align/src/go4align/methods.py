"""Ways to turn several losses into one update, behind one interface for the benchmarks.

GO4Align, the plain sum (LS) and the sum of logarithms (SI) are ours; everything else is TorchJD's,
called as its documentation says.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from go4align.errors import ConfigError
from go4align.weighting import GO4Align

#: Named settings of ``GO4Align`` that the benchmarks compare.
VARIANTS: dict[str, dict[str, Any]] = {
    "go4align": {},
    "go4align-published": {"scale": "sum", "space": "linear"},
}
LOSS_BASED = ("rlw", "dwa", "uw", "famo", "stch")
GRADIENT_BASED = (
    "mgda",
    "pcgrad",
    "cagrad",
    "imtl-g",
    "nash-mtl",
    "aligned-mtl",
    "fairgrad",
    "upgrad",
    "graddrop",
)
NAMES = (*VARIANTS, "ls", "si", *LOSS_BASED, *GRADIENT_BASED)


class Method(nn.Module):
    """One way to train on several losses.

    Attributes:
        needs_features: Whether :meth:`backward` differentiates every loss by itself.
    """

    needs_features = False

    def learned_parameters(self) -> list[nn.Parameter]:
        """Parameters to optimise beside the network's."""
        return []

    def backward(
        self,
        losses: Sequence[Tensor],
        features: Tensor | Iterable[Tensor] | None = None,
        shared_parameters: Iterable[Tensor] = (),
    ) -> None:
        """Fill ``.grad`` of everything the losses depend on.

        Args:
            losses: M scalars, each with a graph of its own above the shared part.
            features: Where the shared part of the network ends; None where there is no such place
                (task-specific parts inside the trunk). Gradient-based methods then differentiate
                with respect to ``shared_parameters`` and add up the gradients of the rest.
            shared_parameters: The parameters all tasks share.
        """
        raise NotImplementedError

    def after_step(self, recompute: Callable[[], Sequence[Tensor]]) -> None:
        """Learn from the losses after the optimizer's step on the same batch.

        Args:
            recompute: Returns those losses; called only by methods that want them.
        """

    def end_epoch(self) -> None:
        """Tell that an epoch has ended."""

    @property
    def weights(self) -> Tensor | None:
        """Weights (M,) of the last call, where the method has any."""
        return None

    @property
    def groups(self) -> Tensor | None:
        """Groups (M,) of the last call, where the method has any."""
        return None


class Sum(nn.Module):
    """LS: the plain sum of the losses."""

    def forward(self, losses: Tensor) -> Tensor:
        """Add (M,) losses."""
        return losses.sum()


class LogSum(nn.Module):
    """SI: the sum of the logarithms, whose gradient no positive scale of a loss changes.

    Args:
        lower_bounds: Known least values of the losses, subtracted first; (M,).
    """

    def __init__(self, lower_bounds: Sequence[float] | None = None) -> None:
        super().__init__()
        self.lower_bounds = lower_bounds

    def forward(self, losses: Tensor) -> Tensor:
        """Add the logarithms of (M,) losses above their bounds."""
        if self.lower_bounds is not None:
            losses = losses - losses.new_tensor(self.lower_bounds)
        return losses.log().sum()


class Scalarized(Method):
    """One function of the losses, then one ordinary backward pass."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def learned_parameters(self) -> list[nn.Parameter]:
        """See :class:`Method`; FAMO learns its own by itself."""
        return [] if self._learns_by_itself else list(self.function.parameters())

    def backward(
        self,
        losses: Sequence[Tensor],
        features: Tensor | Iterable[Tensor] | None = None,
        shared_parameters: Iterable[Tensor] = (),
    ) -> None:
        """See :class:`Method`."""
        self.function(torch.stack(list(losses))).backward()

    def after_step(self, recompute: Callable[[], Sequence[Tensor]]) -> None:
        """See :class:`Method`: FAMO pays one more forward pass."""
        if self._learns_by_itself:
            with torch.no_grad():
                losses = torch.stack(list(recompute()))
            self.function.update(losses)  # type: ignore[operator]

    def end_epoch(self) -> None:
        """See :class:`Method`: DWA compares epochs."""
        if hasattr(self.function, "step"):
            self.function.step()  # type: ignore[operator]

    @property
    def _learns_by_itself(self) -> bool:
        return hasattr(self.function, "update")

    @property
    def weights(self) -> Tensor | None:
        """See :class:`Method`."""
        return self.function.weights if isinstance(self.function, GO4Align) else None

    @property
    def groups(self) -> Tensor | None:
        """See :class:`Method`."""
        return self.function.groups if isinstance(self.function, GO4Align) else None


class Aggregated(Method):
    """One backward pass per loss through the shared part, then one update out of M gradients.

    The heads get the gradient of their plain losses.
    """

    needs_features = True

    def __init__(self, aggregator: nn.Module) -> None:
        super().__init__()
        self.aggregator = aggregator

    def backward(
        self,
        losses: Sequence[Tensor],
        features: Tensor | Iterable[Tensor] | None = None,
        shared_parameters: Iterable[Tensor] = (),
    ) -> None:
        """See :class:`Method`."""
        from torchjd import autojac

        shared = list(shared_parameters)
        if not shared:
            raise ConfigError("shared_parameters is empty: gradient-based methods need them")
        if features is not None:
            parts = features if isinstance(features, Tensor) else list(features)
            autojac.mtl_backward(list(losses), features=parts, shared_params=shared)
        else:
            autojac.backward(list(losses), inputs=shared, retain_graph=True)
            kept = [None if p.grad is None else p.grad.clone() for p in shared]
            torch.stack(list(losses)).sum().backward()
            for parameter, grad in zip(shared, kept, strict=True):
                parameter.grad = grad
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy's, about solvers, at every step
            autojac.jac_to_grad(shared, self.aggregator)

    def aggregate(self, jacobian: Tensor) -> Tensor:
        """Combine gradients (M, n) into one update (n,)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            update: Tensor = self.aggregator(jacobian)
        return update


def create(name: str, n_tasks: int, **options: Any) -> Method:
    """Make a method by name.

    Args:
        name: ``"go4align"``, ``"go4align-published"``, ``"ls"``, ``"si"``, or one of TorchJD's
            (:func:`go4align.torchjd.baseline`).
        n_tasks: M.
        **options: Arguments of the method, such as ``n_groups`` or ``c``.

    Returns:
        The method.

    Raises:
        ConfigError: for an unknown name or an option the method does not have.
        MissingExtraError: if the method is TorchJD's and TorchJD is not installed.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"unknown method {name!r}: {hint}known are {', '.join(NAMES)}")
    try:
        if name in VARIANTS:
            return Scalarized(GO4Align(n_tasks, **{**VARIANTS[name], **options}))
        if name in ("ls", "si"):
            return Scalarized((Sum if name == "ls" else LogSum)(**options))
        from go4align.torchjd import baseline

        made = baseline(name, n_tasks, **options)
    except TypeError as error:
        raise ConfigError(f"method {name!r} with options {options}: {error}") from error
    return Aggregated(made) if name in GRADIENT_BASED else Scalarized(made)
