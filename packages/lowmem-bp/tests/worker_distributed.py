"""One process of two, started by test_distributed.py under torch.distributed.run.

Every case trains a converted model on this process's half of a batch and, apart from that, the
original model on the whole batch; the first process writes how far they end up apart.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import lowmem_bp

STEPS = 2


def _load_conftest():
    path = Path(__file__).with_name("conftest.py")
    spec = importlib.util.spec_from_file_location("tiny_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_models"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tiny = _load_conftest()


def batch(family, part=None):
    """Four rows; ``part`` 0 or 1 gives half of them."""
    inputs = tiny.inputs_of(family)
    joined = {name: torch.cat([x, x.roll(5, 1)])[:4] for name, x in inputs.items()}
    if part is None:
        return joined
    return {name: x[2 * part : 2 * part + 2] for name, x in joined.items()}


def train(model, inputs, steps=STEPS, accumulate=None):
    """A few steps of SGD; return the gradients of the first."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    first = None
    for _ in range(steps):
        optimizer.zero_grad()
        if accumulate is not None:
            with accumulate():
                (0.5 * loss_of(model, inputs)).backward()
            (0.5 * loss_of(model, inputs)).backward()
        else:
            loss_of(model, inputs).backward()
        if first is None:
            first = [full(p.grad).clone() for p in model.parameters()]
        optimizer.step()
    return first


def loss_of(model, inputs):
    return (model(**inputs).logits.float() - 1).pow(2).mean()


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.detach()


def error(mine, theirs):
    """Relative error of all tensors together."""
    difference = sum(
        (full(a).double() - b.double()).pow(2).sum() for a, b in zip(mine, theirs, strict=True)
    )
    return (difference / sum(b.double().pow(2).sum() for b in theirs)).sqrt().item()


def worst(mine, theirs):
    """Largest relative error of one tensor; next to nothing is held to the largest norm."""
    largest = max(b.norm().item() for b in theirs)
    return max(
        (full(a).double() - b.double()).norm().item() / max(b.norm().item(), 1e-3 * largest)
        for a, b in zip(mine, theirs, strict=True)
    )


def compare(family, wrap, mode="exact", accumulate=False):
    """Train converted and wrapped against original and alone; return the two distances."""
    alone = tiny.build(family).eval()
    model = copy.deepcopy(alone)
    start = [p.detach().clone() for p in alone.parameters()]
    report = lowmem_bp.convert(model, mode)
    wrapped = wrap(model)
    mine = train(
        wrapped, batch(family, dist.get_rank()), accumulate=wrapped.no_sync if accumulate else None
    )
    theirs = train(alone, batch(family))
    trained = [p.detach() for p in alone.parameters()]
    return {
        "changed": len(report.changed),
        "gradients": worst(mine, theirs),
        "parameters": error(list(wrapped.parameters()), trained),
        "moved": error(start, trained),
    }


def blocks_of(model):
    base = model.base_model
    return base.encoder.layer if hasattr(base, "encoder") else base.layers


def per_layer(model):
    for block in blocks_of(model):
        fully_shard(block, reshard_after_forward=True)
    return fully_shard(model, reshard_after_forward=True)


def per_part(model):
    """The norm and every linear layer in a group of their own: nobody's weight is at hand."""
    for block in blocks_of(model):
        for module in list(block.modules()):
            name = type(module).__name__
            if "Norm" in name or "Linear" in name:
                fully_shard(module, reshard_after_forward=True)
        fully_shard(block, reshard_after_forward=True)
    return fully_shard(model, reshard_after_forward=True)


def mixed_precision(family):
    """bf16 parameters under FSDP: the converted model against the original, both sharded."""
    gradients = []
    for converted in (False, True):
        model = tiny.build(family).eval()
        if converted:
            lowmem_bp.convert(model)
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in blocks_of(model):
            fully_shard(block, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        gradients.append(train(model, batch(family, dist.get_rank()), steps=1))
    return {"gradients": error(gradients[1], gradients[0])}


def head_behind_a_sharded_norm():
    """The last layer, in the root's group, rebuilds its input from a norm in another group.

    That norm's weight is sharded again after the forward pass, and gathered only once the last
    layer's backward is over.
    """
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16)) for _ in range(2)]
    alone = nn.Sequential(*blocks, nn.Linear(16, 4))
    for parameter in alone.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape))
    model = copy.deepcopy(alone)
    lowmem_bp.convert(model)
    for block in model[:2]:
        fully_shard(block, reshard_after_forward=True)
    fully_shard(model, reshard_after_forward=True)
    x = torch.randn(4, 30, 16)
    rank = dist.get_rank()
    model(x[2 * rank : 2 * rank + 2]).pow(2).mean().backward()
    alone(x).pow(2).mean().backward()
    mine, theirs = ([p.grad for p in module.parameters()] for module in (model, alone))
    half = x[2 * rank : 2 * rank + 2]
    held = lowmem_bp.profile(model, half).by_module()
    return {"gradients": worst(mine, theirs), "head": held.get("2", 0), "x": half.nbytes}


def revert_of_sharded_modules():
    """A module that FSDP wrapped itself cannot be put back; the model keeps working."""
    model = tiny.build("llama").eval()
    lowmem_bp.convert(model)
    per_part(model)
    before = loss_of(model, batch("llama", 0))
    try:
        lowmem_bp.revert(model)
        message = ""
    except lowmem_bp.LowmemBPError as problem:
        message = str(problem)
    return {"message": message, "same": torch.equal(before, loss_of(model, batch("llama", 0)))}


def main(path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = {}
    for family in ("bert", "llama"):
        results[f"ddp {family}"] = compare(family, DistributedDataParallel)
        results[f"fsdp {family}"] = compare(family, per_layer)
        results[f"fsdp parts {family}"] = compare(family, per_part)
        results[f"fsdp bf16 {family}"] = mixed_precision(family)
    results["ddp accumulation"] = compare("llama", DistributedDataParallel, accumulate=True)
    results["ddp int8"] = compare("llama", DistributedDataParallel, mode="int8")
    results["ddp unused"] = compare(
        "bert", lambda model: DistributedDataParallel(model, find_unused_parameters=True)
    )
    results["fsdp head"] = head_behind_a_sharded_norm()
    results["revert"] = revert_of_sharded_modules()
    if dist.get_rank() == 0:
        Path(path).write_text(json.dumps(results), encoding="utf-8")
    dist.barrier()
    # Not by way of destructors: gloo's threads now and then outlive what they belong to, which ends
    # a process that has done its work with "terminate called without an active exception".
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
