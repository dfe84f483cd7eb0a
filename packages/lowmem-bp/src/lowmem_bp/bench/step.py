"""One step of training a block: forward, backward, and how long each takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from lowmem_bp.bench.blocks import Case, Inside


@dataclass(frozen=True)
class Step:
    """What one step gave.

    Attributes:
        forward: Seconds.
        backward: Seconds.
        gradients: Of the input and of every trained parameter.
    """

    forward: float
    backward: float
    gradients: tuple[Tensor, ...]

    @property
    def gradient(self) -> Tensor:
        """All gradients as one vector."""
        return torch.cat([grad.flatten().float() for grad in self.gradients])


class Stepper:
    """Takes steps of one case; input and direction of the gradient are the same in all of them."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.x = case.input()
        # A fixed direction: the gradient of a sum would be blind to errors that average out.
        generator = torch.Generator().manual_seed(2)
        self.direction = torch.randn(self.x.shape, generator=generator).to(case.device)

    def __call__(self, model: Inside) -> Step:
        """Run forward and backward once, and wait for the device."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        start = self._now()
        with self.case.autocast():
            y = model(self.x)
        middle = self._now()
        direction = self.direction = self.direction.to(y.dtype)  # copied by the first step only
        restart = self._now()
        gradients = torch.autograd.grad(y, [self.x, *parameters], direction)
        return Step(middle - start, self._now() - restart, gradients)

    def _now(self) -> float:
        if torch.device(self.case.device).type == "cuda":
            torch.cuda.synchronize(self.case.device)
        return time.perf_counter()
