"""Converted models on two gloo processes (DDP, FSDP2), in the Trainer and with accelerate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lowmem_bp

TRAINED = (
    "ddp bert",
    "ddp llama",
    "ddp accumulation",
    "ddp unused",
    "fsdp bert",
    "fsdp llama",
    # A norm and the layers behind it in groups of their own.
    "fsdp parts bert",
    "fsdp parts llama",
)


def run_two_processes(path):
    """Run worker_distributed.py under torchrun and return what it measured, by case."""
    here = Path(__file__)
    source = str(Path(lowmem_bp.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH", "")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [source, inherited])),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = str(here.with_name("worker_distributed.py"))
    run = subprocess.run(
        [*torchrun, "--nproc-per-node=2", worker, str(path)],
        env=environment,
        cwd=here.parent,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-6000:]
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.timeout(300)
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path):
    """DDP and FSDP2: steps of SGD, against the original model alone on the joined batch.

    One test, because each start of two processes costs more than all it measures.
    """
    pytest.importorskip("transformers")
    results = run_two_processes(tmp_path / "results.json")
    for case in TRAINED:
        found = results[case]
        assert found["changed"] >= 20, f"{case}: nearly nothing was converted"
        assert found["gradients"] <= 1e-5, case
        assert found["moved"] > 1e-3, f"{case}: nothing was trained"
        assert found["parameters"] <= 1e-5 * found["moved"], case
    head = results["fsdp head"]
    assert head["gradients"] <= 1e-5
    assert head["head"] < head["x"], "it kept its input: no recipe, nothing was tested"
    int8 = results["ddp int8"]
    assert 1e-5 < int8["gradients"] <= 2e-2
    assert int8["parameters"] <= 2e-2 * int8["moved"]
    for family in ("bert", "llama"):
        # Converted against original, both sharded with MixedPrecisionPolicy(bf16).
        assert results[f"fsdp bf16 {family}"]["gradients"] <= 1e-2
    assert "call revert before wrapping" in results["revert"]["message"]
    assert results["revert"]["same"], "a refused revert changed the model"


# --- Trainer and accelerate, one process --------------------------------------------------------


class Rows(torch.utils.data.Dataset):
    """A few rows of random tokens with their own tokens, or a class, as labels."""

    def __init__(self, inputs, family):
        self.inputs, self.family = inputs, family

    def __len__(self):
        return 8

    def __getitem__(self, i):
        ids = self.inputs["input_ids"][i % 3].roll(i)
        labels = ids if self.family == "llama" else torch.tensor(i % 5)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def losses_of_trainer(model, rows, folder, **options):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=3,
        **options,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer


# Deprecations of transformers and accelerate among themselves.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("family", "options", "limit"),
    [
        ("bert", {}, 1e-4),
        ("llama", {"gradient_accumulation_steps": 2}, 1e-4),
        ("llama", {"bf16": True}, 1e-2),
        ("bert", {"gradient_checkpointing": True}, 1e-4),
    ],
    ids=["bert", "llama, accumulation", "llama, bf16", "bert, checkpointing"],
)
def test_trainer_gives_the_losses_of_the_original(zoo, tmp_path, family, options, limit):
    model = zoo.build(family, dropout=0.1 if family == "bert" else 0.0)
    twin = zoo.twin(model)
    lowmem_bp.convert(twin)
    rows = Rows(zoo.inputs_of(family), family)
    stock, _ = losses_of_trainer(model, rows, tmp_path, **options)
    ours, trainer = losses_of_trainer(twin, rows, tmp_path, **options)
    assert len(stock) == 4
    assert ours == pytest.approx(stock, rel=limit)
    trainer.save_model(str(tmp_path / "saved"))
    back = type(model).from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), twin.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_accelerate_gives_the_losses_of_the_original(zoo):
    accelerate = pytest.importorskip("accelerate")

    def losses(model):
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision="no")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        rows = Rows(zoo.inputs_of("bert"), "bert")
        loader = torch.utils.data.DataLoader(rows, batch_size=2)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        found = []
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            found.append(loss.item())
        assert lowmem_bp.revert(accelerator.unwrap_model(model)) in (0, 21)
        return found

    model = zoo.build("bert").train()
    twin = zoo.twin(model)
    lowmem_bp.convert(twin)
    ours, stock = losses(twin), losses(model)
    assert stock[0] != stock[-1]
    assert ours == pytest.approx(stock, rel=1e-4)
