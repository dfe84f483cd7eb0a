"""``GO4Align``: one module between the losses and ``backward()``."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from go4align import losses as reading
from go4align._arguments import number, one_of, per_task, task_names, whole
from go4align.alignment import Alignment, Rule, align_device, align_host
from go4align.errors import (
    ConfigError,
    GivenUpWarning,
    LossError,
    SkippedLossWarning,
    StateError,
)
from go4align.losses import Losses, Mask, Reading

Array = NDArray[Any]

NAMES_KEY = "task_names"
#: In place of the weight of a task that was never seen.
UNKNOWN = -1.0
#: Losses from here on count as not finite: their sums would overflow.
LARGEST = 1e200
FLOAT32_MAX = torch.finfo(torch.float32).max
WIDE = (torch.float32, torch.float64)
#: A task with less than this of another one's Q is hardly trained any more.
GIVEN_UP = 1e-3


class GO4Align(nn.Module):
    r"""Weight the losses of several tasks by their values, in groups of tasks of like risk.

    Per call, with losses :math:`L_t` of M tasks:

    .. math::
        P_{t,m} = \frac{M}{L_{t,m}}, \quad
        Q_t = \mathrm{softmax}\Bigl(-\beta \sum_{s \le t} L_s\Bigr), \quad
        \gamma_t = P_t \odot Q_t, \quad
        w_{t,m} = \text{geometric mean of } \gamma_t \text{ in the group of } m,

    with groups from exact K-means of the M numbers :math:`\log \gamma_t`. The result is
    :math:`\sum_m w_{t,m} L_{t,m}`; no gradient flows into the weights. There is nothing to learn
    and no second forward pass: a call costs 0.15 to 0.4 ms on one core for 2 to 40 tasks
    (``benchmarks/bench_step.py``) and launches no synchronisation on an accelerator.

    The paper has :math:`\sum_j L_{t,j} / M` in place of M above, and clusters :math:`\gamma_t`
    itself: :meth:`published`. The defaults here are what trains better in our benchmarks.

    The module has no parameters. Its state (accumulated losses, last weights, counters) lies in
    buffers: ``state_dict`` resumes a run bit for bit. In evaluation mode the last weights are used
    and the state does not change.

    Args:
        n_tasks: M, at least 1.
        n_groups: K, from 1 to M, or ``"auto"``: at each step the fewest groups that explain 90 % of
            the spread of the indicators. K = 1 gives all tasks one weight, which is the plain sum
            up to a factor; it has to be asked for as such.
        beta: Strength of the accumulated losses, in 1 / (loss × step). Tasks whose losses add up to
            more get *less* weight; over a run of T steps what counts is ``beta × T × loss``.
        scale: The common factor of all weights. ``"none"``: :math:`w_m = M Q_m / L_m` before
            grouping; ``"sum"``: times the sum of the losses, as in the released code (equal losses
            get weights of 1); ``"mean"``: times their mean, as in the paper (1 / M); ``"unit"``:
            weights that sum to M, which keeps the learning rate of a plain sum.
        space: ``"log"``: K-means of the logarithms of the indicators and geometric means;
            ``"linear"`` as published: of the indicators, and arithmetic means.
        decay: Forget: accumulate :math:`A_t = \rho A_{t-1} + L_t` with this :math:`\rho` in (0, 1)
            instead of the plain sum, under which one task takes all the weight in the end.
        q_floor: Least value of :math:`Q_{t,m}`, from 0 to 1 / M: no task is given up.
        lower_bounds: Known least values of the losses, a number or M of them; subtracted before
            anything else. Allows losses that can be negative.
        priors: Positive factors of the user, M of them, multiplied onto the weights.
        nonfinite: What to do on a loss that is NaN or infinite: ``"raise"``, or ``"skip"`` that
            task for this step.
        max_ratio: Most that the largest weight may be of the smallest, at least 1; small weights
            are raised and the sum is kept.
        update_every: Micro-batches per optimizer step, under gradient accumulation. Weights are
            fixed within such a window and follow from the mean losses of the window before (in the
            first window from the losses of its first micro-batch).
        sync: ``"auto"``: when ``torch.distributed`` is initialised, average the losses over all
            processes (one all-reduce of 3 M numbers), so that all compute the same weights;
            ``"off"``; or a process group.
        tasks: Names of the tasks, in order; needed to pass losses by name, and stored with the
            state so that tasks are not mixed up on resuming.

    Raises:
        ConfigError: if an argument is out of range.

    Warns:
        GivenUpWarning: once, when the accumulated losses leave a task less than a thousandth of
            another one's :math:`Q`; on an accelerator when weights or the state are looked at.

    Shape:
        - losses: a tensor of shape (M,), a sequence of M scalar tensors, or a mapping from task
          names to scalar tensors, of any floating dtype.
        - mask: bool (M,), True for the tasks of this batch; or a mapping from task names.
        - returns: a scalar of the losses' dtype.

    Example:
        >>> weighting = GO4Align(n_tasks=3, n_groups=2)
        >>> losses = torch.tensor([1.0, 1.1, 4.0], requires_grad=True)
        >>> weighting(losses).backward()
        >>> weighting.groups.tolist()
        [1, 1, 0]

    Reference: arXiv 2404.06486, Eqs. 3 and 5 to 7.
    """

    _lower_bounds: Tensor | None
    _priors: Tensor | None
    accumulated: Tensor
    last_weights: Tensor
    last_groups: Tensor
    last_indicators: Tensor
    steps: Tensor
    window_sum: Tensor
    window_count: Tensor
    window_step: Tensor
    skipped: Tensor
    negative: Tensor
    task_names: Tensor

    def __init__(
        self,
        n_tasks: int,
        n_groups: int | Literal["auto"],
        beta: float = 1e-4,
        scale: Literal["none", "sum", "mean", "unit"] = "none",
        space: Literal["log", "linear"] = "log",
        decay: float | None = None,
        q_floor: float | None = None,
        lower_bounds: float | Sequence[float] | Tensor | None = None,
        priors: Sequence[float] | Tensor | None = None,
        nonfinite: Literal["raise", "skip"] = "raise",
        max_ratio: float | None = None,
        update_every: int = 1,
        sync: Any = "auto",
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.n_tasks = whole("n_tasks", n_tasks, 1, None)
        if isinstance(n_groups, str):
            one_of("n_groups", n_groups, ("auto",), "or a number")
        else:
            most = f"n_tasks, which is {n_tasks}"
            n_groups = whole("n_groups", n_groups, 1, n_tasks, most)
        one_of("scale", scale, ("sum", "mean", "none", "unit"))
        one_of("space", space, ("linear", "log"))
        one_of("nonfinite", nonfinite, ("raise", "skip"))
        if isinstance(sync, str):
            one_of("sync", sync, ("auto", "off"), "or a process group")
        elif not hasattr(sync, "rank"):
            raise ConfigError(f'sync is {sync!r}: give "auto", "off" or a process group')
        number("beta", beta, 0, None)
        if decay is not None:
            number("decay", decay, 0, 1, open_ends=True)
        if q_floor is not None:
            number("q_floor", q_floor, 0, 1 / n_tasks)
        if max_ratio is not None:
            number("max_ratio", max_ratio, 1, None)
        self.beta, self.scale, self.space = float(beta), scale, space
        self.n_groups, self.decay, self.nonfinite = n_groups, decay, nonfinite
        self.q_floor, self.max_ratio = q_floor, max_ratio
        self.sync = sync if isinstance(sync, str) else _Group(sync)
        self.update_every = whole("update_every", update_every, 1, None)
        self.tasks = task_names(tasks, n_tasks)
        self._named = tasks is not None
        self._told_of_given_up = False
        real: dict[str, Any] = {"dtype": torch.float64}
        self.lower_bounds = per_task("lower_bounds", lower_bounds, n_tasks)
        self.priors = per_task("priors", priors, n_tasks, positive=True)
        self.register_buffer("_lower_bounds", None, persistent=False)
        self.register_buffer("_priors", None, persistent=False)
        self.register_buffer("accumulated", torch.zeros(n_tasks, **real))
        self.register_buffer("last_weights", torch.empty(n_tasks, **real))
        self.register_buffer("last_groups", torch.zeros(n_tasks, dtype=torch.int64))
        self.register_buffer("last_indicators", torch.empty(n_tasks, **real))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("window_sum", torch.zeros(n_tasks, **real))
        self.register_buffer("window_count", torch.zeros(n_tasks, dtype=torch.int64))
        self.register_buffer("window_step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("skipped", torch.zeros(n_tasks, dtype=torch.int64))
        self.register_buffer("negative", torch.zeros(n_tasks, dtype=torch.int64))
        self.register_buffer(NAMES_KEY, self._encoded_names())
        self._place_constants()
        self.reset()

    @classmethod
    def published(cls, n_tasks: int, n_groups: int, **options: Any) -> GO4Align:
        """The method as published: linear space and the released code's scale.

        Args:
            n_tasks: M.
            n_groups: K. The paper: 2 for NYUv2 and CityScapes, 5 for QM9.
            **options: Further arguments of the class, such as ``beta`` or ``tasks``.

        Returns:
            The module.
        """
        return cls(n_tasks, n_groups, **{"scale": "sum", "space": "linear", **options})

    # --- use ----------------------------------------------------------------------------------

    def forward(self, losses: Losses, mask: Mask | None = None) -> Tensor:
        r"""Weight and add the losses; in training mode, learn from their values first.

        Args:
            losses: One per task; see the class.
            mask: The tasks this batch has data for; None for all. The losses of the others may be
                anything.

        Returns:
            :math:`\sum_m w_m L_m` over the present tasks, a scalar of the losses' dtype.

        Raises:
            LossError: for losses or a mask of a wrong kind; and, where the losses lie in the host's
                memory and nothing is being compiled, for a mask without any task, a negative loss,
                (with ``nonfinite="raise"``) one that is not finite, and a sum beyond the range of
                16-bit losses. The state is then unchanged.
                Elsewhere such a loss is left out, counted, and reported by :meth:`check`.
        """
        given = reading.read(losses, mask, self.tasks, self._named)
        if given.stacked.device != self.accumulated.device:
            raise LossError(
                f"the losses are on {given.stacked.device} and this module on "
                f"{self.accumulated.device}: move it with .to({str(given.stacked.device)!r})"
            )
        present: Any
        weights: Any
        if isinstance(given.values, Tensor):
            present, weights = self._on_device(given.values, given.mask)
            return self._weighted_sum(given, present, weights)
        narrow = given.stacked.dtype == torch.float16  # of the others, only sums of 1e38 overflow
        before = copy.deepcopy(self._buffers) if narrow else None
        present, weights = self._on_host(given.values, given.mask)
        try:
            return self._weighted_sum(given, present, weights)
        except LossError:  # the sum does not fit into the dtype: as if the step had not been
            self._buffers.update(before or {})
            raise

    @torch.no_grad()
    def reset(self) -> None:
        """Forget everything, as if newly made."""
        for name in ("accumulated", "last_groups", "steps", "window_sum", "window_count"):
            getattr(self, name).zero_()
        self.window_step.zero_()
        self.skipped.zero_()
        self.negative.zero_()
        self.last_weights.fill_(UNKNOWN)
        self.last_indicators.fill_(1.0)
        self._told_of_given_up = False

    @torch.no_grad()
    def end_window(self) -> None:
        """Close a window of ``update_every`` micro-batches that is not full yet.

        For an optimizer step that took fewer of them, such as the last one of an epoch: call this
        after it, so that the next window starts with the next optimizer step. A window without any
        micro-batch changes nothing.
        """
        if self.update_every == 1:
            return
        total, count = self.window_sum, self.window_count
        if total.device.type != "cpu":
            self._store(self._solve_on_device(total / count.clip(1), count > 0))
        elif int(self.window_step):
            self._solve_on_host((total / count.clip(1)).numpy(), (count > 0).numpy())
        for counter in (total, count, self.window_step):
            counter.zero_()

    def check(self) -> None:
        """Report the losses that were left out on an accelerator or in a compiled graph.

        Waits for the device. The counts start again from zero.

        Raises:
            LossError: if a loss was negative, or with ``nonfinite="raise"`` not finite, since the
                last call.
        """
        message = self._skipped_message()
        if message:
            self.skipped.zero_()
            self.negative.zero_()
            raise LossError(message)

    @property
    def weights(self) -> Tensor:
        """w, float64 of shape (M,): the last weight of each task, a copy.

        1 (1 / M for ``scale="mean"``) for a task that was never seen.
        """
        self._warn_of_skipped()
        return self._known_weights()

    @property
    def groups(self) -> Tensor:
        """int64 of shape (M,): group of each task at the last step, numbered by rising indicator.

        -1 for a task that was absent.
        """
        self._warn_of_skipped()
        return self.last_groups.clone()

    @property
    def indicators(self) -> Tensor:
        """gamma, float64 of shape (M,): the group indicators of the last step (Eq. 7)."""
        self._warn_of_skipped()
        return self.last_indicators.clone()

    @property
    def group_weights(self) -> Tensor:
        """omega, float64 of shape (number of groups,): mean indicator of each group."""
        groups, values = self.groups, self.last_indicators
        values = values.log() if self.space == "log" else values
        means = torch.stack([values[groups == k].mean() for k in range(int(groups.max()) + 1)])
        return means.exp() if self.space == "log" else means

    def _known_weights(self) -> Tensor:
        return torch.where(self.last_weights < 0, self._first_weight, self.last_weights)

    @property
    def _first_weight(self) -> float:
        return 1 / self.n_tasks if self.scale == "mean" else 1.0

    def extra_repr(self) -> str:
        """The main arguments, and others that differ from the defaults."""
        names = ["n_tasks", "n_groups", "beta", "scale", "space"]
        shown = {name: getattr(self, name) for name in names}
        for name in ("decay", "q_floor", "lower_bounds", "priors", "max_ratio"):
            if getattr(self, name) is not None:
                shown[name] = getattr(self, name)
        for name, default in (("nonfinite", "raise"), ("update_every", 1), ("sync", "auto")):
            if getattr(self, name) != default:
                shown[name] = getattr(self, name)
        if self._named:
            shown["tasks"] = self.tasks
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    @property
    def _rule(self) -> Rule:
        return Rule(
            self.n_groups, self.beta, self.scale, self.space, self.q_floor or None, self.max_ratio
        )

    # --- one step, on the host: NumPy arrays, branches, errors --------------------------------

    def _on_host(self, values: Array, mask: Array | None) -> tuple[Array | None, Array]:
        """Which tasks count in this step (None: all), and the weights."""
        if self._lower_bounds is not None:
            values = values - self._view("_lower_bounds")
        # Of NaN both comparisons are false.
        invalid = None
        if not (values.min() >= 0 and values.max() < LARGEST):
            invalid = ~((values >= 0) & (values < LARGEST))
            if mask is not None:
                invalid &= mask
        seen, local, negative = mask, invalid, None
        if self.training and self._is_shared():
            values, seen, invalid, negative = self._averaged_on_host(values, mask, invalid)
        if seen is not None and not seen.any():
            raise LossError(
                "the mask has no task: nothing to train on in this batch; skip the step, or pass a "
                "mask with at least one True"
            )
        if invalid is not None and invalid.any():
            self._complain(values, invalid, local, negative)
            if self.training:
                self._view("skipped")[invalid] += 1
            mask = ~invalid if mask is None else mask & ~invalid
            seen = ~invalid if seen is None else seen & ~invalid
        if not self.training:
            last = self._view("last_weights")
            return mask, np.where(last < 0, self._first_weight, last)
        if self.update_every == 1:
            return mask, self._solve_on_host(values, seen)
        return mask, self._window_on_host(values, seen)

    def _align_on_host(self, losses: Array, seen: Array | None) -> tuple[Array, Alignment, Any]:
        """Accumulated losses and the solution after a step, and where the seen tasks are."""
        accumulated = self._view("accumulated").copy()
        priors = None if self._priors is None else self._view("_priors")
        where: Any = slice(None)
        if seen is not None:
            where = np.flatnonzero(seen)
            losses = losses[where]
            priors = None if priors is None else priors[where]
        if self.decay is None:
            accumulated[where] += losses
            # Q does not change under a shift: small differences keep their digits over a long run.
            accumulated -= accumulated.min()
        else:
            accumulated[where] = self.decay * accumulated[where] + losses
        return accumulated, align_host(self._rule, losses, accumulated[where], priors), where

    def _solve_on_host(self, losses: Array, seen: Array | None) -> Array:
        """Take the losses of one step into the state; returns the weights."""
        if seen is not None and not seen.any():  # every loss was skipped
            return np.zeros(self.n_tasks)
        accumulated, found, where = self._align_on_host(losses, seen)
        self._view("accumulated")[...] = accumulated
        last = self._view("last_weights")
        last[where] = found.weights  # an absent task keeps its last weight for later
        for name, value, absent in (
            ("last_groups", found.groups, -1),
            ("last_indicators", found.indicators, 0.0),
        ):
            view = self._view(name)
            if seen is not None:
                view[...] = absent
            view[where] = value
        self._view("steps")[...] += 1
        self._warn_of_given_up(accumulated, where)
        return last if seen is None else np.where(seen, last, 0.0)

    def _window_on_host(self, losses: Array, seen: Array | None) -> Array:
        """Collect the losses of a window; at its end, solve for the weights of the next one."""
        here = np.ones(self.n_tasks, bool) if seen is None else seen
        last = self._view("last_weights")
        new = here & (last < 0)
        if new.any():  # no window has given these tasks a weight yet: take that of their losses
            _, found, where = self._align_on_host(losses, here)
            first = np.empty(self.n_tasks)
            first[where] = found.weights
            last[new] = first[new]
        weights = np.where(here, last, 0.0)
        total, count = self._view("window_sum"), self._view("window_count")
        total[here] += losses[here]
        count += here
        step = self._view("window_step")
        step += 1
        if step >= self.update_every:
            self.end_window()
        return weights

    def _complain(
        self, values: Array, invalid: Array, local: Array | None, negative: Array | None
    ) -> None:
        """Raise for unusable losses, before anything has changed, in all processes or in none."""
        for index in np.flatnonzero(invalid):
            name, value = self.tasks[index], values[index]
            if local is None or not local[index]:
                if self.nonfinite == "raise" or (negative is not None and negative[index]):
                    raise LossError(
                        f"the loss of task {name!r} was negative or not finite in another process; "
                        "the error raised there says more"
                    )
            elif value < 0 and math.isfinite(value):
                bound = "" if self._lower_bounds is None else " above its lower bound"
                raise LossError(
                    f"the loss of task {name!r} is {value:g}{bound}: the method needs losses that "
                    "are not negative; pass lower_bounds= with the least value each loss can take"
                )
            elif self.nonfinite == "raise":
                raise LossError(
                    f"the loss of task {name!r} is {value:g}: expected a finite number (below "
                    f"{LARGEST:g}); find out why it diverged, or pass "
                    'nonfinite="skip" to leave such a task out of the step'
                )

    def _view(self, name: str) -> Array:
        """A buffer in the host's memory as an array that shares it."""
        buffer = self._buffers[name]
        assert buffer is not None
        return buffer.numpy()

    # --- one step, on a device: tensors, no look at any value ---------------------------------

    @torch.no_grad()
    def _on_device(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        values = values.to(self.accumulated.dtype)
        if self._lower_bounds is not None:
            values = values - self._lower_bounds
        usable = (values >= 0) & (values < LARGEST)
        present = torch.ones_like(usable) if mask is None else mask
        invalid = present & ~usable
        seen = present
        if self.training and self._is_shared():
            values, seen, invalid, _ = self._averaged(values, present, invalid)
        present, seen = present & ~invalid, seen & ~invalid
        if not self.training:
            return present, self._known_weights()
        self.skipped += invalid
        self.negative += invalid & (values < 0) & (values > -math.inf)
        values = torch.where(seen, values, 0.0)
        if self.update_every == 1:
            news = self._solve_on_device(values, seen)
            self._store(news)
            return present, news["last_weights"]
        return present, self._window_on_device(values, seen)

    def _solve_on_device(self, losses: Tensor, seen: Tensor) -> dict[str, Tensor]:
        old = self.accumulated
        if self.decay is None:
            new = old + torch.where(seen, losses, 0.0)
            new = new - new.min()
        else:
            new = torch.where(seen, self.decay * old + losses, old)
        found = align_device(self._rule, losses, new, seen, self._priors)
        any_seen = seen.any()
        return {
            "accumulated": new,
            "last_weights": torch.where(seen, found.weights, self.last_weights),
            "last_groups": torch.where(any_seen, found.groups, self.last_groups),
            "last_indicators": torch.where(any_seen, found.indicators, self.last_indicators),
            "steps": self.steps + any_seen,
        }

    def _window_on_device(self, losses: Tensor, seen: Tensor) -> Tensor:
        first = self._solve_on_device(losses, seen)["last_weights"]
        known = torch.where(self.last_weights < 0, first, self.last_weights)
        self.last_weights.copy_(known)
        weights = known.clone()
        total = self.window_sum + torch.where(seen, losses, 0.0)
        count, step = self.window_count + seen, self.window_step + 1
        ends = step >= self.update_every
        # The end of a window is not known to the host: choose, do not branch.
        news = self._solve_on_device(total / count.clip(1), count > 0)
        self._store(
            {name: torch.where(ends, new, getattr(self, name)) for name, new in news.items()}
        )
        self.window_sum.copy_(torch.where(ends, 0.0, total))
        self.window_count.copy_(torch.where(ends, 0, count))
        self.window_step.copy_(torch.where(ends, 0, step))
        return weights.clip(min=0.0)

    def _store(self, news: dict[str, Tensor]) -> None:
        for name, new in news.items():
            getattr(self, name).copy_(new)

    # --- several processes ------------------------------------------------------------------------

    @property
    def _process_group(self) -> Any:
        return self.sync.group if isinstance(self.sync, _Group) else None

    def _is_shared(self) -> bool:
        if self.sync == "off" or not torch.distributed.is_available():
            return False
        group = self._process_group
        return (
            torch.distributed.is_initialized() and torch.distributed.get_world_size(group=group) > 1
        )

    def _averaged_on_host(
        self, values: Array, mask: Array | None, invalid: Array | None
    ) -> tuple[Array, Array | None, Array, Array]:
        everywhere, nowhere = np.ones(self.n_tasks, bool), np.zeros(self.n_tasks, bool)
        tensors = (
            torch.from_numpy(values),
            torch.from_numpy(everywhere if mask is None else mask),
            torch.from_numpy(nowhere if invalid is None else invalid),
        )
        mean, seen, bad, negative = (x.numpy() for x in self._averaged(*tensors))
        # The local value of an unusable loss is the one to name in an error.
        mean = mean if invalid is None else np.where(invalid, values, mean)
        return mean, None if seen.all() else seen, bad, negative

    def _averaged(
        self, values: Tensor, present: Tensor, invalid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean losses over the processes; the tasks present, unusable and negative in any."""
        group = self._process_group
        # NaN travels through the sum: every process learns of the unusable loss.
        summed = torch.where(invalid, math.nan, torch.where(present, values, 0.0))
        negative = invalid & (values < 0) & (values > -math.inf)
        packed = torch.cat((summed, present.to(summed.dtype), negative.to(summed.dtype)))
        if values.device.type == "cpu" and torch.distributed.get_backend(group) == "nccl":
            packed = packed.cuda()
        torch.distributed.all_reduce(packed, group=group)
        summed, count, negatives = packed.to(values.device).chunk(3)
        mean = summed / count.clip(1)
        return mean, count > 0, ~(mean < LARGEST), negatives > 0

    # --- the loss -----------------------------------------------------------------------------

    def _weighted_sum(self, given: Reading, present: Any, weights: Any) -> Tensor:
        terms = reading.without(given, present, keep_graph=self._is_shared())
        dtype = terms.dtype
        wide = dtype if dtype in WIDE else torch.float32
        # A new tensor each time: backward may come after further calls.
        if isinstance(weights, np.ndarray):
            if wide is torch.float32:
                weights = np.minimum(weights, FLOAT32_MAX).astype(np.float32)
                factors = torch.from_numpy(weights)
            else:
                factors = torch.from_numpy(weights.copy())
        else:
            most = torch.finfo(wide).max
            factors = torch.where(present, weights, 0.0).clip(max=most).to(wide)
        if dtype == wide:
            return torch.dot(terms, factors)
        total = torch.dot(terms.to(wide), factors)
        if reading.on_host(total) and not abs(float(total.detach())) <= torch.finfo(dtype).max:
            raise LossError(
                f"the weighted sum {float(total.detach()):g} is beyond {dtype}: pass the losses as "
                'float32 (losses.float()), or use scale="unit" or max_ratio='
            )
        return total.to(dtype)

    # --- state --------------------------------------------------------------------------------

    def _skipped_message(self) -> str:
        counts = self.negative if self.nonfinite == "skip" else self.skipped
        pairs = zip(self.tasks, counts.tolist(), strict=True)
        bad = [f"{name!r} {count} times" for name, count in pairs if count]
        if not bad:
            return ""
        kind = "negative" if self.nonfinite == "skip" else "negative or not finite"
        return (
            f"losses were {kind} and were left out: {', '.join(bad)}; find out "
            "why, pass lower_bounds= for losses that can be negative, or "
            'nonfinite="skip" to allow those that are not finite'
        )

    def _warn_of_skipped(self) -> None:
        if torch.compiler.is_compiling():
            return
        if message := self._skipped_message():
            warnings.warn(message, SkippedLossWarning, stacklevel=3)
        if not self.accumulated.is_meta:  # on a device and in compiled code no step has looked
            present = (self.last_groups >= 0) & (self.last_weights >= 0)
            where = present.nonzero()[:, 0].cpu().numpy()
            self._warn_of_given_up(self.accumulated.cpu().numpy(), where)

    def _warn_of_given_up(self, accumulated: Array, where: Any) -> None:
        """Say once that :math:`Q` has all but dropped one of the present tasks, at ``where``."""
        bounded = self.q_floor or self.max_ratio or self.n_groups == 1
        if self._told_of_given_up or bounded:
            return
        summed = accumulated[where]
        if not summed.size:
            return
        behind = self.beta * (summed - summed.min())
        share = math.exp(-float(behind.max()))
        if share > GIVEN_UP:
            return
        self._told_of_given_up = True
        present = np.arange(self.n_tasks)[where]
        worst, best = (self.tasks[present[i]] for i in (behind.argmax(), behind.argmin()))
        warnings.warn(
            f"after {int(self.steps)} steps the losses of task {worst!r} add up to so much more "
            f"than those of {best!r} that beta={self.beta:g} leaves it {share:.0e} of the other's "
            "weight times loss: it is hardly trained any more. Give beta=0, a smaller beta or "
            "decay=, or scale the losses to like sizes (standardise regression targets)",
            GivenUpWarning,
            stacklevel=2,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GO4Align:
        """Follow a move to a device, but not a change to a smaller dtype."""
        for name, buffer in self._buffers.items():
            if buffer is None:
                continue
            real, device = buffer.is_floating_point(), fn(self.steps).device
            if real and device.type == "mps":  # has no float64
                buffer = buffer.float()
            moved = fn(buffer)
            if moved.dtype != buffer.dtype:
                moved = buffer.to(device)
            self._buffers[name] = moved.double() if real and device.type != "mps" else moved
        self._place_constants()
        return self

    def _encoded_names(self) -> Tensor:
        """The names as numbers, so that any format of checkpoints can hold them."""
        names = json.dumps(list(self.tasks) if self._named else []).encode()
        return torch.tensor(list(names), dtype=torch.uint8)

    def _place_constants(self) -> None:
        """Put bounds, priors and names beside the state; ``to_empty`` leaves no values."""
        if not self.task_names.is_meta:
            self.task_names.copy_(self._encoded_names())
        for name, numbers in (("_lower_bounds", self.lower_bounds), ("_priors", self.priors)):
            if numbers is not None:
                self._buffers[name] = self.accumulated.new_tensor(numbers)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        self._warn_of_skipped()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        accumulated = state_dict.get(prefix + "accumulated")
        if accumulated is not None and accumulated.shape != (self.n_tasks,):
            raise StateError(
                f"the saved state is of {accumulated.numel()} tasks and this module has "
                f"{self.n_tasks}: build it with n_tasks={accumulated.numel()}, or start anew"
            )
        key = prefix + NAMES_KEY
        names = json.loads(bytes(state_dict[key].tolist())) if key in state_dict else []
        if self._named and names and names != list(self.tasks):
            same = sorted(names) == sorted(self.tasks)
            raise StateError(
                f"the saved state is of the tasks {names}, this module has {list(self.tasks)}: "
                + ("the order differs; " if same else "")
                + f"build it with tasks={names}"
            )
        if key in state_dict:  # checked above; one of the two may be without names
            state_dict[key] = self._encoded_names()
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        self._apply(lambda buffer: buffer)  # assign=True takes over whatever dtype was saved


class _Group:
    """A process group that copies of the module share: it cannot be copied."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> _Group:
        return self

    def __repr__(self) -> str:
        return repr(self.group)
