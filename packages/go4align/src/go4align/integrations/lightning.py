"""A callback for Lightning: it logs weights and groups, and watches over accumulation.

:class:`go4align.GO4Align` itself needs no adapter. As a submodule of a ``LightningModule`` its
state is in the checkpoint, evaluation leaves it alone, and automatic optimization stays on::

    self.weighting = GO4Align(n_tasks=2, n_groups=2, tasks=["digit", "ink"])  # in __init__
    return self.weighting(losses)                                             # in training_step

Needs: ``pip install "go4align[lightning]"``.
"""

from __future__ import annotations

from typing import Any

from go4align.errors import ConfigError, MissingExtraError
from go4align.weighting import GO4Align

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise MissingExtraError(
        "go4align.integrations.lightning needs Lightning, which is not installed: "
        'pip install "go4align[lightning]"'
    ) from error

__all__ = ["WeightsLogger"]


class WeightsLogger(Callback):  # type: ignore[misc]
    """Log the weights and groups of each :class:`go4align.GO4Align` in a module.

    Every ``log_every_n_steps`` optimizer steps of the trainer it logs, under the name that the
    weighting has in the module, ``weighting/weight/<task>`` and ``weighting/group/<task>``. That
    does not wait for the device. At the end of an epoch it

    - closes the last window of accumulation (``end_window``), which may have fewer micro-batches
      than the others;
    - reports losses that were left out on an accelerator (``check``).

    Args:
        check_accumulation: Raise where the trainer's ``accumulate_grad_batches`` and the
            weighting's ``update_every`` differ. Otherwise the weights would change within an
            optimizer step, and ``beta`` would count micro-batches instead of steps.

    Raises:
        ConfigError: when fitting starts, if the module has no weighting; when an epoch starts, if
            the two numbers differ.
        LossError: when an epoch ends, as :meth:`go4align.GO4Align.check`.

    Example:
        >>> callback = WeightsLogger()
        >>> # trainer = lightning.Trainer(callbacks=[callback])
    """

    def __init__(self, check_accumulation: bool = True) -> None:
        self.check_accumulation = check_accumulation
        self._logged_step = -1

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Look for weightings."""
        if not _weightings(pl_module):
            raise ConfigError(
                f"{type(pl_module).__name__} has no GO4Align among its submodules: make it in "
                "__init__, as self.weighting = GO4Align(...), or drop this callback"
            )
        self._logged_step = -1

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Compare the lengths of the windows; they can change from epoch to epoch."""
        if not self.check_accumulation:
            return
        for name, weighting in _weightings(pl_module).items():
            if weighting.update_every != trainer.accumulate_grad_batches:
                raise ConfigError(
                    f"the trainer accumulates {trainer.accumulate_grad_batches} batches per step "
                    f"and {name} has update_every={weighting.update_every}: pass GO4Align(..., "
                    f"update_every={trainer.accumulate_grad_batches}), or "
                    "WeightsLogger(check_accumulation=False)"
                )

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, at the steps at which the trainer writes its logs."""
        step, interval = trainer.global_step, trainer.log_every_n_steps
        if not interval or step % interval or step == self._logged_step:
            return
        self._logged_step = step
        for name, weighting in _weightings(pl_module).items():
            # The buffers: the properties would wait for the device.
            weights = weighting.last_weights.float()
            groups = weighting.last_groups.float()
            values = {}
            for index, task in enumerate(weighting.tasks):
                values[f"{name}/weight/{task}"] = weights[index]
                values[f"{name}/group/{task}"] = groups[index]
            pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the last window and report losses that were left out."""
        for weighting in _weightings(pl_module).values():
            weighting.end_window()
            weighting.check()


def _weightings(module: Any) -> dict[str, GO4Align]:
    """By name; compiled modules are looked into, too."""
    found = {}
    for name, part in module.named_modules():
        if isinstance(part, GO4Align):
            path = [word for word in name.split(".") if word != "_orig_mod"]
            found["/".join(path)] = part
    return found
