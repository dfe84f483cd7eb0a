"""GO4Align inside a LightningModule, and the callback."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from go4align import GO4Align
from go4align.errors import ConfigError, LossError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Lightning's own dependencies, while they are imported
    lightning = pytest.importorskip("lightning")

from lightning.pytorch import callbacks as stock
from lightning.pytorch.loggers import CSVLogger

from go4align.integrations.lightning import WeightsLogger

# Lightning's advice about workers and log intervals, and deprecations among its dependencies.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*The number of training batches.*",
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:.*Checkpoint directory.*exists and is not empty.*",
)

TASKS = ["sign", "size"]


class Net(lightning.LightningModule):
    """Two tasks on eight numbers."""

    def __init__(self, **options):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(8, 1) for name in TASKS})
        self.weighting = GO4Align(2, 2, **{"beta": 0.05, "tasks": TASKS, **options})
        self.seen = []  # (weights, losses) of each micro-batch

    def losses(self, x):
        hidden = self.trunk(x)
        sign = self.heads["sign"](hidden).squeeze(1)
        size = self.heads["size"](hidden).squeeze(1)
        return {
            "sign": nn.functional.softplus(-sign * x.sum(1).sign()).mean(),
            "size": (size - x.pow(2).sum(1)).pow(2).mean(),
        }

    def training_step(self, batch):
        (x,) = batch
        losses = self.losses(x)
        loss = self.weighting(losses)
        self.seen.append((loss.item(), [losses[name].item() for name in TASKS]))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Validated(Net):
    def validation_step(self, batch):
        (x,) = batch
        self.log("val_loss", self.weighting(self.losses(x)))


def loader(rows=32, dtype=torch.float32):
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 8)


def trainer(folder, callbacks=(), **options):
    settings = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "log_every_n_steps": 1,
    }
    return lightning.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), **{**settings, **options}
    )


def make(kind=Net, **options):
    torch.manual_seed(3)
    return kind(**options)


@pytest.mark.parametrize("every", [1, 2])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, every):
    """Four epochs at once, and two + two through a checkpoint: the same bits.

    Five micro-batches per epoch: with two per optimizer step, the last step has one.
    """
    options = {"accumulate_grad_batches": every}
    whole = make(update_every=every)
    trainer(tmp_path, [WeightsLogger()], max_epochs=4, **options).fit(whole, loader(40))

    first = make(update_every=every)
    interrupted = trainer(tmp_path, [WeightsLogger()], max_epochs=2, **options)
    interrupted.fit(first, loader(40))
    interrupted.save_checkpoint(tmp_path / "half.ckpt")
    assert not torch.equal(first.weighting.weights, whole.weighting.weights)

    second = Net(update_every=every)  # other initial weights: all has to come from the file
    resumed = trainer(tmp_path, [WeightsLogger()], max_epochs=4, **options)
    resumed.fit(second, loader(40), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert first.seen + second.seen == whole.seen
    for (name, mine), theirs in zip(
        second.state_dict().items(), whole.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    assert int(second.weighting.steps) == resumed.global_step


def test_validation_leaves_the_state_alone(tmp_path):
    plain, validated = make(), make(Validated)
    trainer(tmp_path, max_epochs=2).fit(plain, loader())
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=2).fit(validated, loader(), loader(16))
    for mine, theirs in zip(
        validated.weighting.state_dict().values(),
        plain.weighting.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    assert int(plain.weighting.steps) == 8


def test_weights_and_groups_are_in_the_logs(tmp_path):
    module = make()
    logger = CSVLogger(tmp_path, name="logs")
    t = trainer(tmp_path, [WeightsLogger()], max_epochs=2, logger=logger, log_every_n_steps=2)
    t.fit(module, loader())
    rows = [
        row.split(",")
        for row in (tmp_path / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    ]
    found = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert [row["step"] for row in found] == ["1", "3", "5", "7"]
    last = {name: float(value) for name, value in found[-1].items()}
    for index, task in enumerate(TASKS):
        logged = last[f"weighting/weight/{task}"]
        assert logged == pytest.approx(module.weighting.weights[index].item(), rel=1e-6)
        assert last[f"weighting/group/{task}"] == module.weighting.groups[index].item()
    assert t.callback_metrics["weighting/weight/sign"] == pytest.approx(
        module.weighting.weights[0].item(), rel=1e-6
    )


def test_nothing_is_logged_at_other_steps(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(Net, "log_dict", lambda self, values, **options: calls.append(values))
    t = trainer(tmp_path, [WeightsLogger()], max_epochs=1, log_every_n_steps=3)
    t.fit(make(), loader())  # 4 steps
    assert len(calls) == 1
    t = trainer(
        tmp_path, [WeightsLogger()], max_epochs=2, log_every_n_steps=1, accumulate_grad_batches=2
    )
    t.fit(make(update_every=2), loader())  # 2 steps per epoch, and once before the first
    assert len(calls) - 1 <= 5


@pytest.mark.parametrize(("batches", "every"), [(1, 2), (2, 1), (4, 2)])
def test_accumulation_must_agree(tmp_path, batches, every):
    t = trainer(tmp_path, [WeightsLogger()], max_epochs=1, accumulate_grad_batches=batches)
    module = make(update_every=every)
    with pytest.raises(ConfigError, match=rf"accumulates {batches} .* update_every={every}: pass"):
        t.fit(module, loader())
    assert module.seen == []


def test_accumulation_may_differ_when_asked_for(tmp_path):
    callback = WeightsLogger(check_accumulation=False)
    module = make()
    trainer(tmp_path, [callback], max_epochs=1, accumulate_grad_batches=2).fit(module, loader())
    assert int(module.weighting.steps) == 4


def test_a_schedule_of_accumulation_is_noticed(tmp_path):
    schedule = stock.GradientAccumulationScheduler({0: 1, 1: 2})
    module = make()
    t = trainer(tmp_path, [schedule, WeightsLogger()], max_epochs=2)
    with pytest.raises(ConfigError, match="accumulates 2 "):
        t.fit(module, loader())
    assert int(module.weighting.steps) == 4


def test_weights_are_fixed_within_an_optimizer_step(tmp_path):
    """Also where an epoch ends in the middle of a window: 5 micro-batches, 2 per step."""
    module = make(update_every=2)
    t = trainer(tmp_path, [WeightsLogger()], max_epochs=3, accumulate_grad_batches=2)
    t.fit(module, loader(40))
    assert int(module.weighting.steps) == t.global_step == 9
    twin = GO4Align(2, 2, beta=0.05)
    windows = [
        module.seen[5 * epoch + start : 5 * epoch + min(start + 2, 5)]
        for epoch in range(3)
        for start in (0, 2, 4)
    ]
    first = GO4Align(2, 2, beta=0.05)
    first(torch.tensor(windows[0][0][1], dtype=torch.float64))
    weights = first.weights  # of the first window: those of its first micro-batch
    for window in windows:
        losses = torch.tensor([values for _, values in window], dtype=torch.float64)
        assert [loss for loss, _ in window] == pytest.approx((losses @ weights).tolist(), rel=1e-5)
        twin(losses.mean(0))
        weights = twin.weights


def test_bf16_precision(tmp_path):
    module = make()
    trainer(tmp_path, [WeightsLogger()], max_epochs=1, precision="bf16-true").fit(
        module, loader(dtype=torch.bfloat16)
    )
    assert module.weighting.accumulated.dtype == torch.float64
    assert bool(module.weighting.weights.isfinite().all())


def test_module_without_a_weighting(tmp_path):
    module = make()
    module.weighting = nn.Identity()
    with pytest.raises(ConfigError, match="Net has no GO4Align among its submodules"):
        trainer(tmp_path, [WeightsLogger()], max_epochs=1).fit(module, loader())


def test_losses_left_out_are_reported_when_the_epoch_ends(tmp_path):
    """As an accelerator does it: the loss was left out and counted, not raised on the spot."""

    class Counting(Net):
        def training_step(self, batch):
            self.weighting.skipped[1] += 1
            return super().training_step(batch)

    with pytest.raises(LossError, match="'size' 4 times"):
        trainer(tmp_path, [WeightsLogger()], max_epochs=2).fit(make(Counting), loader())


def test_without_lightning_the_import_names_the_extra():
    code = (
        "import sys\n"
        "sys.modules['lightning'] = None\n"
        "try:\n"
        "    import go4align.integrations.lightning\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingExtraError")
    assert 'pip install "go4align[lightning]"' in done.stdout
