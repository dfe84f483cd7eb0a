"""GO4Align as a scalarizer of TorchJD, and TorchJD's methods under the names of the papers.

Needs: ``pip install "go4align[baselines]"``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from go4align import weighting
from go4align.errors import ConfigError, LossError, MissingExtraError
from go4align.losses import Losses, Mask

try:
    # Absolute: this is the library, not the present module.
    from torchjd import Stateful, aggregation
    from torchjd import scalarization as scalarizers
except ImportError as error:
    raise MissingExtraError(
        "go4align.torchjd needs TorchJD 0.18 or newer, which is not installed: "
        'pip install "go4align[baselines]"'
    ) from error

__all__ = ["GO4Align", "baseline"]


class GO4Align(weighting.GO4Align, scalarizers.Scalarizer, Stateful):  # type: ignore[misc]
    """:class:`go4align.GO4Align` as a ``torchjd.scalarization.Scalarizer``.

    It takes the same arguments, does the same, and saves the same state: either class loads what
    the other has saved. Beyond that it accepts values of any shape, as TorchJD's scalarizers do,
    and is ``torchjd.Stateful``.

    The arguments are those of :class:`go4align.GO4Align`: ``n_tasks`` is the number of values.

    Shape:
        - values: any shape with M elements, taken in row-major order; a sequence or a mapping as
          for :class:`go4align.GO4Align` is also accepted.
        - mask: bool, M elements, True for the tasks of this batch.
        - returns: a scalar of the values' dtype.

    Example:
        >>> scalarizer = GO4Align(n_tasks=4, n_groups=2)
        >>> scalarizer(torch.tensor([[1.0, 1.1], [4.0, 4.1]])).shape
        torch.Size([])

    Reference: arXiv 2404.06486.
    """

    # TorchJD's own takes the values alone.
    __call__: Callable[..., Tensor] = nn.Module.__call__

    def forward(self, values: Losses, /, mask: Mask | None = None) -> Tensor:
        """Weight and add the values; in training mode, learn from them first.

        Args:
            values: M of them, of any shape.
            mask: The tasks this batch has data for; None for all.

        Returns:
            The weighted sum, a scalar.

        Raises:
            LossError: a ``ValueError``, for another number of values, and wherever
                :class:`go4align.GO4Align` raises it.
        """
        if isinstance(values, Tensor):
            if values.numel() != self.n_tasks:
                raise LossError(
                    f"values have shape {tuple(values.shape)}, {values.numel()} elements: expected "
                    f"{self.n_tasks}, one per task, in any shape"
                )
            values = values.flatten()
        if isinstance(mask, Tensor):
            mask = mask.flatten()
        return super().forward(values, mask)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


# What the reference code of each method sets, by the names of TorchJD's arguments. "shape" and
# "n_tasks" get the number of tasks.
_SCALARIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rlw": ("Random", {}),
    "dwa": ("DWA", {"temperature": 2.0}),
    "uw": ("UW", {"shape": None}),
    "famo": ("FAMO", {"shape": None, "lr": 0.025, "weight_decay": 1e-3}),
    "stch": ("STCH", {"mu": 1.0}),
}
_AGGREGATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "mgda": ("MGDA", {"epsilon": 1e-3, "max_iters": 100}),
    "pcgrad": ("PCGrad", {}),
    "cagrad": ("CAGrad", {"c": 0.4}),
    "imtl-g": ("IMTLG", {}),
    "nash-mtl": (
        "NashMTL",
        {"n_tasks": None, "max_norm": 1.0, "update_weights_every": 1, "optim_niter": 20},
    ),
    "aligned-mtl": ("AlignedMTL", {"scale_mode": "min"}),
    "fairgrad": ("FairGrad", {"alpha": 1.0}),
    "upgrad": ("UPGrad", {}),
    "graddrop": ("GradDrop", {}),
}


def baseline(name: str, n_tasks: int, **options: Any) -> Any:
    """Make a method to compare with: TorchJD's object, with the defaults of the reference code.

    ======================  ==========================================================
    name                    settings
    ======================  ==========================================================
    ``"rlw"``               none; weights sum to 1
    ``"dwa"``               ``temperature=2``; call ``step()`` at the end of each epoch
    ``"uw"``                none; optimise its parameters too (published: lr 0.025)
    ``"famo"``              ``lr=0.025, weight_decay=1e-3``; call ``update(losses)`` with
                            the losses of the same batch after each optimizer step
    ``"stch"``              ``mu=1``
    ``"mgda"``              ``epsilon=1e-3, max_iters=100``
    ``"pcgrad"``            none
    ``"cagrad"``            ``c=0.4``
    ``"imtl-g"``            none
    ``"nash-mtl"``          ``max_norm=1, update_weights_every=1, optim_niter=20``
    ``"aligned-mtl"``       ``scale_mode="min"``
    ``"fairgrad"``          ``alpha=1``
    ``"upgrad"``            none
    ``"graddrop"``          none
    ======================  ==========================================================

    The first five are scalarizers (losses to one loss), the others aggregators (a Jacobian to one
    gradient, with ``torchjd.autojac``). Where TorchJD leaves out a constant factor of the reference
    code (M for MGDA and CAGrad), so does this. FAMO's and DWA's ``state_dict`` do not hold all
    their state: a run that is resumed with them takes another course.

    Args:
        name: One of the table.
        n_tasks: M, the number of losses.
        **options: Arguments of TorchJD's class, in place of those of the table.

    Returns:
        A ``torchjd.scalarization.Scalarizer`` or a ``torchjd.aggregation.Aggregator``.

    Raises:
        ConfigError: for an unknown name, an option that the class does not have or accept, or an
            ``n_tasks`` below 1.
        MissingExtraError: if TorchJD lacks a solver that the method needs.

    Example:
        >>> baseline("cagrad", 3)
        CAGrad(c=0.4, norm_eps=0.0001)
    """
    known = {**_SCALARIZERS, **_AGGREGATORS}
    if name not in known:
        plain = str(name).lower().replace("_", "-")
        near = difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigError(f"unknown baseline {name!r}{hint} (there are {', '.join(known)})")
    if isinstance(n_tasks, bool) or not isinstance(n_tasks, int) or n_tasks < 1:
        raise ConfigError(f"n_tasks is {n_tasks!r}: give a whole number from 1 up")
    title, defaults = known[name]
    arguments = {key: n_tasks if value is None else value for key, value in defaults.items()}
    home = scalarizers if name in _SCALARIZERS else aggregation
    try:
        return getattr(home, title)(**{**arguments, **options})
    except ImportError as error:
        raise MissingExtraError(
            f'{name!r} needs solvers that are not installed: pip install "go4align[baselines]" '
            f"({error})"
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"TorchJD's {title} does not accept the options {options}: {error}"
        ) from error
