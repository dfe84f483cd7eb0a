"""Hugging Face's ``Trainer`` for models that return one loss per task.

Needs: ``pip install "go4align[trainer]"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from go4align.errors import ConfigError, LossError, MissingExtraError, StateError
from go4align.weighting import GO4Align

try:
    # Absolute: this is the library, not the present module.
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise MissingExtraError(
        "go4align.integrations.transformers needs transformers and accelerate: "
        'pip install "go4align[trainer]"'
    ) from error

__all__ = ["MultiTask", "MultiTaskTrainer"]


class MultiTask:
    """What makes a Trainer weight losses; a mixin, for Trainers other than the plain one.

    ``class MySeq2SeqTrainer(MultiTask, Seq2SeqTrainer): ...``; see :class:`MultiTaskTrainer`.

    Args:
        *args: Those of the Trainer.
        weighting: The weighting; it is moved to the Trainer's device.
        **kwargs: Those of the Trainer.

    Raises:
        ConfigError: see :class:`MultiTaskTrainer`.
    """

    # The losses are means over one micro-batch each: the Trainer is to divide by their number.
    loss_is_scaled_for_ga = False

    def __init__(self, *args: Any, weighting: GO4Align, **kwargs: Any) -> None:
        if not isinstance(weighting, GO4Align):
            raise ConfigError(f"weighting is {weighting!r}: give a go4align.GO4Align")
        super().__init__(*args, **kwargs)
        trainer: Any = self
        steps = trainer.args.gradient_accumulation_steps
        if weighting.update_every != steps:
            raise ConfigError(
                f"gradient_accumulation_steps is {steps} and the weighting has update_every="
                f"{weighting.update_every}: pass GO4Align(..., update_every={steps}), so that the "
                "weights are fixed within an optimizer step"
            )
        for name, given in (
            ("label_smoothing_factor", trainer.args.label_smoothing_factor),
            ("compute_loss_func", getattr(trainer, "compute_loss_func", None)),
        ):
            if given:
                raise ConfigError(
                    f"{name} is {given!r}: the losses are those that the model returns; drop the "
                    "argument and apply it in the model's forward"
                )
        # The same for releases that read this attribute; it also keeps num_items_in_batch, which
        # counts the labels of one task, away from the model.
        trainer.model_accepts_loss_kwargs = False
        self.weighting = weighting.to(trainer.args.device)
        self._micro_batches = 0
        self._last_losses: Any = None
        trainer.add_callback(_Go4AlignState(self))

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Weight the losses that the model returns.

        Args:
            model: Called with ``inputs``; its output is a mapping with ``losses`` and, where a
                batch can lack a task, ``losses_mask``.
            inputs: Keyword arguments of the model.
            return_outputs: Whether to return the outputs too, without those two entries.
            num_items_in_batch: Ignored: the losses are means over the micro-batch.

        Returns:
            The loss, a scalar; or the loss and the other outputs.

        Raises:
            LossError: if the output has no ``losses``, or they cannot be weighted.
        """
        outputs = model(**inputs)
        if not isinstance(outputs, Mapping) or outputs.get("losses") is None:
            found = f"keys {list(outputs)}" if isinstance(outputs, Mapping) else repr(type(outputs))
            raise LossError(
                f"the model returned {found}: expected a mapping (or ModelOutput) with 'losses', "
                "one scalar per task by name, or a tensor of them"
            )
        self.weighting.train(model.training)
        if model.training:
            self._micro_batches += 1
        losses = outputs["losses"]
        if self.args.n_gpu > 1:  # type: ignore[attr-defined]
            losses = _joined(losses, self.args.n_gpu, self.weighting.n_tasks)  # type: ignore[attr-defined]
        loss = self.weighting(losses, outputs.get("losses_mask"))
        if model.training:
            self._last_losses = _detached(losses)
        if not return_outputs:
            return loss
        # What is left is what compute_metrics gets to see.
        hidden = ("losses", "losses_mask")
        return loss, {name: value for name, value in outputs.items() if name not in hidden}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add loss, weight and group of each task to the logs of training steps.

        The losses are those of the last micro-batch in this process; one that was masked may be
        anything.

        Raises:
            LossError: if losses were left out on an accelerator since the last time.
        """
        if "loss" in logs:
            self.weighting.check()
            pairs = zip(
                self.weighting.tasks,
                self.weighting.weights.tolist(),
                self.weighting.groups.tolist(),
                strict=True,
            )
            for task, weight, group in pairs:
                logs[f"weight_{task}"] = weight
                logs[f"group_{task}"] = group
            logs |= {f"loss_{task}": value for task, value in self._losses_by_name().items()}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _losses_by_name(self) -> dict[str, float]:
        """Of the last micro-batch; none before the first."""
        losses, tasks = self._last_losses, self.weighting.tasks
        if losses is None:
            return {}
        if not isinstance(losses, Mapping):
            losses = dict(zip(tasks, losses, strict=True))
        return {task: float(losses[task]) for task in tasks if task in losses}


class MultiTaskTrainer(MultiTask, Trainer):  # type: ignore[misc]
    """``transformers.Trainer`` for models that return one loss per task.

    The model's ``forward`` returns a mapping (a dict or a ``ModelOutput``) with

    - ``losses``: mean losses of the micro-batch, a mapping from task names to scalars, or a tensor
      of shape (M,);
    - ``losses_mask``, optional: as ``mask`` of :class:`go4align.GO4Align`, for batches that lack a
      task.

    The rest of the output is what ``compute_metrics`` gets. Set ``label_names`` in the
    ``TrainingArguments`` if the arguments with the labels have no "label" in their names.

    - Evaluation uses the last weights and does not change the state. ``eval_loss`` therefore
      changes with the weights: choose the best checkpoint by a metric of your own.
    - The weighting's state is in each checkpoint's ``trainer_state.json``: with
      ``resume_from_checkpoint`` training continues bit for bit.
    - Gradient accumulation needs ``GO4Align(update_every=gradient_accumulation_steps)``; a shorter
      last window of an epoch is closed with its optimizer step. Each micro-batch counts the same,
      whatever its number of tokens.
    - Under DDP all processes use the same weights (``sync="auto"``).
    - ``loss_<task>``, ``weight_<task>`` and ``group_<task>`` are among the logs. ``loss`` itself
      says little: it stays near the number of tasks, whatever is learned.

    Args:
        *args: Those of ``transformers.Trainer``.
        weighting: The weighting; it is moved to the Trainer's device.
        **kwargs: Those of ``transformers.Trainer``.

    Raises:
        ConfigError: if ``gradient_accumulation_steps`` differs from the weighting's
            ``update_every``; or for ``label_smoothing_factor`` or ``compute_loss_func``, which
            would have no effect.
    """


class _Go4AlignState(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Carries the weighting's state through ``trainer_state.json``; ends its windows."""

    def __init__(self, trainer: MultiTask) -> None:
        self.trainer = trainer

    def state(self) -> dict[str, Any]:
        """What the Trainer writes; floats survive JSON to the last bit."""
        saved = self.trainer.weighting.state_dict()
        return {
            "args": {},
            "attributes": {
                name: {"dtype": str(value.dtype).removeprefix("torch."), "values": value.tolist()}
                for name, value in saved.items()
            },
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the state of the checkpoint, or the present one if there is none."""
        stored = state.stateful_callbacks.get(type(self).__name__)
        if stored is None:
            raise StateError(
                "the checkpoint has no state of a weighting: it comes from another Trainer; load "
                "its model and train without resume_from_checkpoint"
            )
        self.trainer.weighting.load_state_dict(
            {
                name: torch.tensor(value["values"], dtype=getattr(torch, value["dtype"]))
                for name, value in stored["attributes"].items()
            }
        )
        self.trainer._micro_batches = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the window of an optimizer step that had fewer micro-batches than the others."""
        if self.trainer._micro_batches % self.trainer.weighting.update_every:
            self.trainer.weighting.end_window()
        self.trainer._micro_batches = 0


def _detached(losses: Any) -> Any:
    """The values alone: a graph that is kept would keep its activations."""
    if isinstance(losses, Mapping):
        return {name: value.detach() for name, value in losses.items()}
    if isinstance(losses, Tensor):
        return losses.detach()
    return [value.detach() for value in losses]


def _joined(losses: Any, copies: int, n_tasks: int) -> Any:
    """Mean over the copies of the model, whose losses ``nn.DataParallel`` has gathered."""
    if isinstance(losses, Mapping):
        return {
            name: value.mean() if value.shape == (copies,) else value
            for name, value in losses.items()
        }
    if isinstance(losses, Tensor) and losses.shape == (copies * n_tasks,):
        return losses.view(copies, n_tasks).mean(0)
    return losses
