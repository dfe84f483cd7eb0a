"""What does a training step cost with each method, relative to the plain sum?

The network: a trunk 64-256-256, M linear heads, batch 128, Adam, one thread.
Every method alternates with LS in blocks of steps, so that both see the same noise of the machine;
a block's ratio is one sample, reported are median and quartiles. Beside it: microseconds per call
of the weighting alone, on losses that need a gradient.

    python bench_step.py [--blocks 15] [--steps 20] [--json]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from go4align import GO4Align
from go4align._kit import RunFolder
from go4align.methods import Scalarized, create

RESULTS = Path(__file__).parent / "results" / "step"
SIZES = ((2, 2), (11, 5), (40, 5))
PEERS = ("famo", "uw", "imtl-g", "mgda", "pcgrad", "cagrad", "upgrad", "nash-mtl")
SLOW = ("imtl-g", "mgda", "pcgrad", "cagrad", "upgrad", "nash-mtl")


class WithScikitLearn(nn.Module):
    """The published rule with scikit-learn's K-means, as a user would mend the released code."""

    def __init__(self, n_tasks: int, n_groups: int, n_init: int) -> None:
        super().__init__()
        self.q = torch.full((n_tasks,), 1 / n_tasks)
        self.n_groups, self.n_init = n_groups, n_init

    def forward(self, losses):
        """Weight and add."""
        from sklearn.cluster import KMeans

        values = losses.detach()
        self.q = self.q * torch.exp(-1e-4 * values)
        self.q = self.q / self.q.sum()
        gamma = values.sum() / values * self.q
        means = KMeans(self.n_groups, n_init=self.n_init).fit(gamma[:, None].numpy())
        weights = torch.from_numpy(means.cluster_centers_[means.labels_, 0]).float()
        return (weights * losses).sum()


class Network(nn.Module):
    """Shared trunk, linear heads."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(256, 1) for _ in range(n_tasks)])

    def forward(self, x):
        """Return features and outputs."""
        features = self.trunk(x)
        return features, [head(features) for head in self.heads]


class Training:
    """A network, its data and a method, ready to make steps."""

    def __init__(self, method, n_tasks: int) -> None:
        torch.manual_seed(0)
        self.network, self.method = Network(n_tasks), method
        self.x, self.y = torch.randn(128, 64), torch.randn(n_tasks, 128, 1)
        learned = method.learned_parameters()
        self.optimizer = torch.optim.Adam([*self.network.parameters(), *learned], lr=1e-3)
        self.shared = list(self.network.trunk.parameters())

    def losses(self):
        """Losses of the present network."""
        return [
            (o - y).square().mean() for o, y in zip(self.network(self.x)[1], self.y, strict=True)
        ]

    def step(self) -> None:
        """One step of training."""
        features, outputs = self.network(self.x)
        losses = [(o - y).square().mean() for o, y in zip(outputs, self.y, strict=True)]
        self.optimizer.zero_grad()
        self.method.backward(losses, features, self.shared)
        self.optimizer.step()
        self.method.after_step(self.losses)

    def seconds(self, steps: int) -> float:
        """Mean time of a step."""
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        return (time.perf_counter() - start) / steps


def methods(n_tasks: int, n_groups: int):
    yield "go4align", lambda: create("go4align", n_tasks, n_groups=n_groups)
    yield "go4align-published", lambda: create("go4align-published", n_tasks, n_groups=n_groups)
    yield "go4align, K = auto", lambda: create("go4align", n_tasks, n_groups="auto")
    for n_init in (10, 1):
        name = f"with scikit-learn, n_init = {n_init}"
        yield name, lambda n=n_init: Scalarized(WithScikitLearn(n_tasks, n_groups, n))
    for name in PEERS:
        yield name, lambda name=name: create(name, n_tasks)


def measure(make, n_tasks: int, blocks: int, steps: int) -> dict:
    """Ratio to LS over interleaved blocks: median, quartiles and milliseconds."""
    ours, plain = Training(make(), n_tasks), Training(create("ls", n_tasks), n_tasks)
    ours.seconds(3), plain.seconds(3)
    pairs = []
    for block in range(blocks):
        order = (ours, plain) if block % 2 else (plain, ours)
        times = {each: each.seconds(steps) for each in order}
        pairs.append((times[ours], times[plain]))
    ratios = [a / b for a, b in pairs]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "ratio": middle,
        "quartiles": [low, high],
        "ms": 1e3 * statistics.median(a for a, _ in pairs),
        "ls_ms": 1e3 * statistics.median(b for _, b in pairs),
        "blocks": blocks,
        "steps": steps,
    }


def call_us(n_tasks: int, n_groups, repeats: int = 2000, **options) -> dict:
    """Microseconds per call of the weighting, with the plain sum of the same tensor taken off."""
    weighting = GO4Align(n_tasks, n_groups, **options)
    losses = torch.rand(n_tasks, requires_grad=True)
    samples = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(repeats // 9):
            weighting(losses)
        samples.append(1e6 * (time.perf_counter() - start) / (repeats // 9))
    return {"us": statistics.median(samples), "us_min": min(samples)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument(
        "--steps", type=int, default=20, help="Per block; a tenth for slow methods."
    )
    parser.add_argument("--only", nargs="*", help="Names of methods.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, calls = [], []
    for n_tasks, n_groups in SIZES:
        for space in ("log", "linear"):
            cost = call_us(n_tasks, n_groups, space=space)
            calls.append({"n_tasks": n_tasks, "n_groups": n_groups, "space": space, **cost})
            print(calls[-1], flush=True)
        for name, make in methods(n_tasks, n_groups):
            if options.only and name not in options.only:
                continue
            quick = name in SLOW or "scikit" in name
            steps = max(2, options.steps // 10) if quick else options.steps
            blocks = max(5, options.blocks // 3) if quick else options.blocks
            row = {"method": name, "n_tasks": n_tasks, "n_groups": n_groups}
            rows.append(row | measure(make, n_tasks, blocks, steps))
            print(
                f"M={n_tasks} {name}: x{rows[-1]['ratio']:.3f} {rows[-1]['quartiles']}", flush=True
            )
    folder = RunFolder(options.out, overwrite=True)
    path = folder.write_summary(
        {"steps": rows, "calls": calls},
        settings={"batch": 128, "blocks": options.blocks, "steps": options.steps},
        seed=0,
    )
    print(path.read_text() if options.json else f"wrote {path.name}")


if __name__ == "__main__":
    main()
