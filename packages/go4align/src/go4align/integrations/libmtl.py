"""GO4Align among the weightings of LibMTL.

``register()`` once, then ``weighting="GO4Align"`` (or, with the release on PyPI, the class that
``register()`` returns) and ``weight_args={"n_groups": 2}`` for ``LibMTL.Trainer``. LibMTL's
``prepare_args`` knows its own names only: pass the arguments of ``Trainer`` yourself.

LibMTL 1.1.5 trains on ``cuda:0`` and on nothing else, and has no DDP. It has no extra here: its
development version, which is the one that runs with a present PyTorch, is not on PyPI.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from go4align import weighting
from go4align.errors import ConfigError, MissingExtraError

__all__ = ["register"]

PREFIX = "go4align."


def register(name: str = "GO4Align") -> type:
    """Add GO4Align to ``LibMTL.weighting``.

    The class builds its :class:`go4align.GO4Align` at the first step, from ``weight_args``, with
    LibMTL's names of the tasks. The state is part of the model's ``state_dict`` from then on, and
    loading it before the first step works, also with LibMTL's ``load_path``.

    Args:
        name: What LibMTL is to call it.

    Returns:
        The class, a subclass of LibMTL's ``AbsWeighting``; the same one at every call with a name.

    Raises:
        ConfigError: if LibMTL has another weighting of this name.
        MissingExtraError: if LibMTL is not installed.
    """
    try:
        import LibMTL.weighting as registry
        from LibMTL.weighting.abstract_weighting import AbsWeighting
    except ImportError as error:
        raise MissingExtraError(
            "go4align.integrations.libmtl needs LibMTL, which cannot be imported "
            f"({error}): pip install git+https://github.com/median-research-group/LibMTL, and "
            "what its requirements.txt names"
        ) from error
    present = vars(registry).get(name)
    if present is not None:
        if getattr(present, "_is_go4align", False):
            return present  # type: ignore[no-any-return]
        raise ConfigError(f"LibMTL has a weighting {name!r} already: register it by another name")
    made = type(name, (_Weighting, AbsWeighting), {"__module__": __name__})
    setattr(registry, name, made)
    return made


class _Weighting:
    """What LibMTL mixes into its model; see :func:`register`."""

    _is_go4align = True
    task_name: list[str]
    rep_grad: bool

    def init_param(self) -> None:
        """Called by LibMTL once the model is made; the options are not known yet."""
        self._options: dict[str, Any] | None = None
        self._loaded: dict[str, Tensor] = {}
        if self.rep_grad:
            raise ConfigError(
                "rep_grad=True cuts the graph at the representation, for methods that need the "
                "gradient there: GO4Align does not, pass rep_grad=False"
            )

    def backward(self, losses: Tensor, **options: Any) -> Any:
        """Weight the losses and differentiate their sum.

        Args:
            losses: Tensor (M,).
            **options: LibMTL's ``weight_args``: the arguments of :class:`go4align.GO4Align` but
                ``n_tasks`` and ``tasks``.

        Returns:
            The weights, a NumPy array (M,).

        Raises:
            ConfigError: for an unknown option, none for ``n_groups``, or others than at first.
            LossError: for losses that cannot be weighted.
        """
        if self._options is None:
            self.go4align = self._make(options).to(losses.device)
            self._options = dict(options)
        elif options != self._options:
            raise ConfigError(
                f"weight_args changed from {self._options} to {options}: they are fixed by the "
                "first step"
            )
        self.go4align(losses).backward()
        self.go4align.check()  # the copy below waits for the device anyway
        return self.go4align.weights.cpu().numpy()

    def _make(self, options: dict[str, Any]) -> weighting.GO4Align:
        known = [*inspect.signature(weighting.GO4Align).parameters]
        allowed = [name for name in known if name not in ("n_tasks", "tasks")]
        unknown = [name for name in options if name not in allowed]
        if unknown or "n_groups" not in options:
            wrong = f"unknown {unknown[0]!r}" if unknown else "no 'n_groups'"
            raise ConfigError(
                f'{wrong} in weight_args: give weight_args={{"n_groups": 2}}, or more of '
                f"{', '.join(allowed)}"
            )
        made = weighting.GO4Align(len(self.task_name), tasks=self.task_name, **options)
        if self._loaded:
            made.load_state_dict(self._loaded)
            self._loaded = {}
        return made

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        if self._options is None:
            # There is no module yet to load it into.
            start = prefix + PREFIX
            for key in [key for key in state_dict if key.startswith(start)]:
                self._loaded[key.removeprefix(start)] = state_dict.pop(key).clone()
        super()._load_from_state_dict(state_dict, prefix, *arguments)  # type: ignore[misc]
