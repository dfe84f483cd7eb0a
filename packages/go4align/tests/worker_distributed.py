"""One process of two, started by test_distributed.py under torch.distributed.run.

Each case weights losses that differ between the processes; each process writes what it saw to a
file of its own, and the test compares the two.
"""

from __future__ import annotations

import datetime
import io
import json
import math
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import go4align.losses
from go4align import GO4Align
from go4align.errors import LossError

STEPS = 50
TASKS = 4


def new(**options):
    return GO4Align(**{"n_tasks": TASKS, "n_groups": 2, "beta": 0.01, **options})


def stream(count=STEPS, seed=0):
    """Losses of this process."""
    generator = torch.Generator().manual_seed(1000 * seed + dist.get_rank())
    for _ in range(count):
        yield torch.randn(TASKS, generator=generator, dtype=torch.float64).exp()


def digits(tensor):
    """The exact bits of float64 numbers, as JSON can hold them."""
    return [float(x).hex() for x in tensor.flatten()]


def track(module, masks=None, count=STEPS):
    """The weights after each step."""
    found = []
    for step, losses in enumerate(stream(count)):
        module(losses, None if masks is None else masks(step))
        found.append(digits(module.weights))
    return found


def some(step):
    """A mask that differs between the processes; sometimes one of them has nothing at all."""
    if dist.get_rank() == 1 and step % 5 == 0:
        return [False] * TASKS
    generator = torch.Generator().manual_seed(2 * step + dist.get_rank())
    return [*(torch.rand(TASKS - 1, generator=generator) < 0.6).tolist(), True]


def masks_of_one(step):
    return some(step) if dist.get_rank() == 0 else None


def on_device(call):
    """Run ``call`` on the path of accelerators."""
    kept = go4align.losses.on_host
    go4align.losses.on_host = lambda x: False
    try:
        return call()
    finally:
        go4align.losses.on_host = kept


def refused(value, rank, **options):
    """The error in each process when one of them has a bad loss, and that the state is kept."""
    module = new(**options)
    module(next(stream()))
    before = digits(module.accumulated), digits(module.weights)
    losses = next(stream(seed=1))
    if dist.get_rank() == rank:
        losses[2] = value
    try:
        module(losses)
        message = ""
    except LossError as error:
        message = str(error)
    same = before == (digits(module.accumulated), digits(module.weights))
    # Both are still in step with each other.
    module(next(stream(seed=2)))
    return {"message": message, "same": same, "after": digits(module.weights)}


def skipped():
    """NaN in one process, skipped: the task counts in none of them for this step."""
    module = new(nonfinite="skip")
    for step, losses in enumerate(stream(6)):
        if dist.get_rank() == step % 2:
            losses[step % TASKS] = math.nan
        total = module(losses)
    return {
        "weights": digits(module.weights),
        "skipped": module.skipped.tolist(),
        "finite": math.isfinite(total),
    }


def global_mean(masks=None):
    """The weights are those of one process that sees the mean over those that have the task."""
    shared, alone = new(), new(sync="off")
    for step, losses in enumerate(stream(10)):
        mask = torch.tensor([True] * TASKS if masks is None else masks(step))
        shared(losses, mask)
        summed, count = torch.where(mask, losses, 0.0), mask.double()
        dist.all_reduce(summed)
        dist.all_reduce(count)
        alone(summed / count, count > 0)
    return {"shared": shared.weights.tolist(), "alone": alone.weights.tolist()}


class Network(nn.Module):
    """Its weighting as a submodule, as in a model that is saved whole."""

    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(5, 8).double()
        self.heads = nn.ModuleList(nn.Linear(8, 1).double() for _ in range(TASKS))
        self.weighting = new(**options)

    def forward(self, x):
        h = torch.tanh(self.trunk(x))
        losses = [head(h).squeeze(1).sub(i).square().mean() for i, head in enumerate(self.heads)]
        return self.weighting(losses)


def batch(part=None):
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return x if part is None else x[4 * part : 4 * part + 4]


def ddp_against_one():
    """SGD on halves of a batch under DDP, and on the whole batch alone."""
    ours = DistributedDataParallel(Network())
    alone = Network(sync="off")
    distances = []
    for _ in range(5):
        gradients = []
        for model, x in ((ours, batch(dist.get_rank())), (alone, batch())):
            model.zero_grad()
            model(x).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.01 * p.grad
        distances.append(float((gradients[0] - gradients[1]).norm() / gradients[1].norm()))
    return distances


def resume_under_ddp():
    """Four steps, or two, a file, and two."""

    def step(model):
        model.zero_grad()
        model(batch(dist.get_rank())).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad

    whole = DistributedDataParallel(Network())
    for _ in range(2):
        step(whole)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    again = DistributedDataParallel(Network())
    again.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        step(whole)
        step(again)
    first, second = whole.state_dict(), again.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def evaluating():
    """No process waits for the others in evaluation mode."""
    module = new().eval()
    if dist.get_rank() == 0:
        module(torch.ones(TASKS))
    return int(module.steps)


def main(folder):
    torch.set_num_threads(1)
    # A process that waits in vain is an error within seconds, not a hang.
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=40))
    group = dist.new_group([0, 1])
    alone = [dist.new_group([rank]) for rank in range(2)][dist.get_rank()]
    results = {
        "auto": track(new()),
        "off": track(new(sync="off"), count=5),
        "group": track(new(sync=group)),
        "group of one": track(new(sync=alone), count=5),
        "masks": track(new(), some),
        "masks of one": track(new(decay=0.9), masks_of_one),
        "windows": track(new(update_every=3), some),
        "options": track(
            new(space="log", scale="unit", n_groups="auto", priors=[1, 2, 3, 4], max_ratio=5.0),
            some,
        ),
        "device": on_device(lambda: track(new(), count=10)),
        "negative": refused(-1.0, 0),
        "nan": refused(math.nan, 1),
        "inf": refused(math.inf, 0),
        "negative, skip": refused(-1.0, 1, nonfinite="skip"),
        "skipped": skipped(),
        "mean": global_mean(),
        "mean, masked": global_mean(some),
        "ddp": ddp_against_one(),
        "resume": resume_under_ddp(),
        "evaluating": evaluating(),
    }
    name = f"{dist.get_rank()}.json"
    Path(folder, name).write_text(json.dumps(results), encoding="utf-8")
    dist.barrier()
    # Not by way of destructors: gloo's threads now and then outlive what they belong to, which ends
    # a process that has done its work with "terminate called without an active exception".
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
