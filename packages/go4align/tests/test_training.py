"""GO4Align in plain training loops: mixed precision, accumulation, two processes, compilation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import go4align
from go4align import GO4Align

WORKER = '''
"""One process of two: DDP on its half of each batch, against one process on the whole batch."""
import json, os, sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from go4align import GO4Align

dist.init_process_group("gloo")
rank = dist.get_rank()


class Net(nn.Module):
    def __init__(self, inside, **options):
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.weighting = GO4Align(3, 2, beta=0.05, **options) if inside else None

    def forward(self, x, mask=None):
        errors = self.body(x) * torch.tensor([1.0, 2.0, 5.0]) - torch.arange(3.0)
        losses = errors.pow(2).mean(0)
        return losses if self.weighting is None else self.weighting(losses, mask)


def run(kind, **options):
    torch.manual_seed(0)
    net = Net(kind == "inside", **options)
    weighting = net.weighting if kind == "inside" else GO4Align(3, 2, beta=0.05, **options)
    wrapped = net if kind == "alone" else DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    batches = torch.randn(6, 8, 4, generator=torch.Generator().manual_seed(1))
    for x in batches:
        x = x if kind == "alone" else x[4 * rank : 4 * rank + 4]
        optimizer.zero_grad()
        loss = wrapped(x)
        (loss if kind == "inside" else weighting(loss)).backward()
        optimizer.step()
    return [*weighting.weights.tolist(), *net.body.weight.flatten().tolist()]


found = {"outside": run("outside"), "inside": run("inside"), "off": run("outside", sync="off")}
found["alone"] = run("alone", sync="off")
found["windows"] = run("outside", update_every=2)
found["windows alone"] = run("alone", sync="off", update_every=2)
everyone = [None, None]
dist.all_gather_object(everyone, found)
if rank == 0:
    with open(sys.argv[1], "w") as file:
        json.dump(everyone, file)
dist.barrier()
# Not by way of destructors: gloo's threads now and then outlive what they belong to, which ends
# a process that has done its work with "terminate called without an active exception".
os._exit(0)
'''


class Net(nn.Module):
    """A shared layer and three heads of very different scale."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 1) for _ in range(3)])

    def forward(self, x):
        hidden = self.trunk(x).tanh()
        return [
            (scale * (head(hidden).squeeze(1) - x[:, i])).pow(2).mean()
            for i, (head, scale) in enumerate(zip(self.heads, (0.3, 1.0, 10.0), strict=True))
        ]


def make(**options):
    torch.manual_seed(7)
    net = Net()
    weighting = GO4Align(3, 2, **{"beta": 0.05, **options})
    return net, weighting, torch.optim.Adam(net.parameters(), lr=0.01)


def batches(count=8, rows=8):
    return torch.randn(count, rows, 6, generator=torch.Generator().manual_seed(2))


def parameters(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"update_every": 3}, {"decay": 0.9, "space": "log"}])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, options):
    """Eight steps, and five + three through a file: the same bits.

    With ``update_every=3`` the fifth step lies in the middle of a window.
    """

    def run(net, weighting, optimizer, data):
        for x in data:
            optimizer.zero_grad()
            weighting(net(x)).backward()
            optimizer.step()

    whole = make(**options)
    run(*whole, batches())
    first = make(**options)
    run(*first, batches()[:5])
    torch.save([part.state_dict() for part in first], tmp_path / "half.pt")
    second = make(**options)
    for part, saved in zip(
        second, torch.load(tmp_path / "half.pt", weights_only=True), strict=True
    ):
        part.load_state_dict(saved)
    run(*second, batches()[5:])
    assert torch.equal(parameters(second[0]), parameters(whole[0]))
    assert torch.equal(second[1].weights, whole[1].weights)
    assert int(second[1].steps) == int(whole[1].steps)


# --- mixed precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_as_float32_does(dtype):
    def run(enabled):
        net, weighting, optimizer = make()
        for x in batches(30):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype, enabled=enabled):
                loss = weighting(net(x))
            loss.backward()
            optimizer.step()
        return weighting, parameters(net)

    (mixed, mixed_end), (exact, exact_end) = run(True), run(False)
    assert mixed.accumulated.dtype == torch.float64
    assert torch.allclose(mixed.weights, exact.weights, rtol=0.1)
    assert (mixed_end - exact_end).norm() <= 0.05 * exact_end.norm()


def test_gradient_scaler_leaves_the_state_in_units_of_the_losses():
    """Steps with and without a scaler are the same; the state never sees the scale."""

    def run(scaler):
        net, weighting, optimizer = make()
        for x in batches():
            optimizer.zero_grad()
            scaler.scale(weighting(net(x))).backward()
            scaler.step(optimizer)
            scaler.update()
        return weighting, parameters(net)

    scaled = run(torch.amp.GradScaler("cpu", init_scale=1024.0))
    plain = run(torch.amp.GradScaler("cpu", enabled=False))
    assert torch.allclose(scaled[0].accumulated, plain[0].accumulated, rtol=1e-5)
    assert torch.allclose(scaled[1], plain[1], rtol=1e-5, atol=1e-6)


def test_a_skipped_optimizer_step_advances_the_state_only():
    """What is documented: after an overflow of the scaled gradients only the state has moved."""
    net, weighting, optimizer = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = parameters(net).clone()
    # Weights of 1 / L keep the sum near M whatever the inputs: a large factor makes it overflow.
    scaler.scale(1e6 * weighting(net(1e3 * batches()[0]))).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**127
    assert torch.equal(parameters(net), before)
    assert int(weighting.steps) == 1
    assert bool(weighting.weights.isfinite().all())


# --- gradient accumulation ------------------------------------------------------------------------


def accumulate(weighting, net, optimizer, windows):
    """Optimizer steps over windows of micro-batches; returns the weights each one used."""
    used = []
    for window in windows:
        optimizer.zero_grad()
        for x in window:
            losses = [loss.detach().requires_grad_() for loss in net(x)]
            # The weights, as the gradient of the result shows them.
            weighting_of = weighting(losses)
            used.append(torch.stack(torch.autograd.grad(weighting_of, losses)).tolist())
            total = sum(w * loss for w, loss in zip(used[-1], net(x), strict=True))
            (total / len(window)).backward()
        optimizer.step()
    return used


@pytest.mark.parametrize("every", [2, 4])
def test_weights_are_fixed_within_a_window_and_follow_from_the_one_before(every):
    net, weighting, optimizer = make(update_every=every)
    windows = list(batches(12).split(every))
    seen = []
    net.register_forward_hook(lambda m, i, losses: seen.append([loss.item() for loss in losses]))
    used = accumulate(weighting, net, optimizer, windows)
    losses = torch.tensor(seen[::2], dtype=torch.float64)  # each batch went through twice
    reference = GO4Align(3, 2, beta=0.05)
    first = GO4Align(3, 2, beta=0.05)
    first(losses[0])
    expected = first.weights  # of the first window: those of its first micro-batch
    for start in range(0, 12, every):
        for weights in used[start : start + every]:
            assert weights == pytest.approx(expected.tolist(), rel=1e-6)
        reference(losses[start : start + every].mean(0))
        expected = reference.weights
    assert int(weighting.steps) == 12 // every
    assert torch.allclose(weighting.accumulated, reference.accumulated)


def test_accumulated_losses_count_steps_not_micro_batches():
    """With ``update_every=n`` beta means what it means without accumulation."""
    one, four = GO4Align(2, 2, beta=0.01), GO4Align(2, 2, beta=0.01, update_every=4)
    losses = torch.tensor([1.0, 3.0])
    for _ in range(10):
        one(losses)
        for _ in range(4):
            four(losses)
    assert torch.allclose(one.accumulated, four.accumulated)
    assert torch.allclose(one.weights, four.weights)


def test_closing_a_short_window():
    """Three micro-batches, two per step: the odd one is a step of its own."""
    weighting, reference = GO4Align(2, 2, beta=0.1, update_every=2), GO4Align(2, 2, beta=0.1)
    a, b, c, d, e = torch.tensor([[1.0, 2], [3, 1], [5, 2], [2, 2.5], [1, 4]])
    for losses in (a, b, c):
        weighting(losses)
    weighting.end_window()
    reference((a + b) / 2)
    reference(c)
    assert torch.allclose(weighting.weights, reference.weights)
    before = {name: value.clone() for name, value in weighting.state_dict().items()}
    weighting.end_window()  # nothing since
    assert all(torch.equal(before[k], v) for k, v in weighting.state_dict().items())
    for losses in (d, e):  # the next window is whole again
        assert weighting(losses).item() == pytest.approx(
            (reference.weights.float() @ losses).item(), rel=1e-6
        )
    reference((d + e) / 2)
    assert torch.allclose(weighting.weights, reference.weights)
    assert int(weighting.steps) == 3


def test_closing_a_window_without_windows_changes_nothing():
    weighting = GO4Align(2, 2)
    weighting(torch.tensor([1.0, 2.0]))
    before = {name: value.clone() for name, value in weighting.state_dict().items()}
    weighting.end_window()
    assert all(torch.equal(before[k], v) for k, v in weighting.state_dict().items())


def test_closing_a_short_window_with_a_task_that_was_absent():
    weighting = GO4Align(2, 2, beta=0.1, update_every=3)
    weighting(torch.tensor([2.0, 1.0]), mask=torch.tensor([True, False]))
    weighting.end_window()
    assert weighting.groups.tolist() == [0, -1]
    assert int(weighting.steps) == 1


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_train_as_one_on_the_whole_batch(tmp_path):
    """DDP with the weighting outside and inside the wrapped module, with windows, and unshared."""
    (tmp_path / "worker.py").write_text(WORKER)
    source = str(Path(go4align.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(tmp_path / "worker.py"), str(tmp_path / "found.json")),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [source, inherited])),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = json.loads((tmp_path / "found.json").read_text())
    for case, alone in (("outside", "alone"), ("inside", "alone"), ("windows", "windows alone")):
        assert first[case] == second[case], f"{case}: the processes disagree"
        assert first[case] == pytest.approx(first[alone], rel=1e-4, abs=1e-6), case
    weights, others = first["off"][:3], second["off"][:3]
    assert weights != pytest.approx(others, rel=1e-3), "unshared, the weights differ: as documented"


# --- compilation ----------------------------------------------------------------------------------


def test_a_compiled_loss_trains_as_an_eager_one():
    def run(compiled):
        net, weighting, optimizer = make()

        def loss_of(x):
            return weighting(torch.stack(net(x)))

        function = (
            torch.compile(loss_of, backend="aot_eager", fullgraph=True) if compiled else loss_of
        )
        for x in batches(5):
            optimizer.zero_grad()
            function(x).backward()
            optimizer.step()
        return weighting.weights, parameters(net)

    (mine, mine_end), (theirs, theirs_end) = run(True), run(False)
    assert torch.allclose(mine, theirs, rtol=1e-5)
    assert torch.allclose(mine_end, theirs_end, rtol=1e-4, atol=1e-6)
