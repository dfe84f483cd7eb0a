"""The Trainer for several losses, with a tiny BERT with two heads."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import go4align
from go4align import GO4Align
from go4align.errors import ConfigError, LossError, StateError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies among themselves, while imported
    hf = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from transformers.utils import ModelOutput

    from go4align.integrations.transformers import MultiTask, MultiTaskTrainer

# Deprecations of transformers and accelerate among themselves.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

TASKS = ["topic", "length"]
CONFIG = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}


@dataclass
class Output(ModelOutput):
    losses: dict | None = None
    topic: torch.Tensor | None = None
    length: torch.Tensor | None = None
    losses_mask: dict | None = None


class Model(hf.PreTrainedModel):
    """BERT's trunk; a topic to classify and a length to regress. Dropout is on."""

    config_class = hf.BertConfig
    base_model_prefix = "bert"
    form = "mapping"

    def __init__(self, config):
        super().__init__(config)
        self.bert = hf.BertModel(config)
        self.topic, self.length = nn.Linear(16, 3), nn.Linear(16, 1)
        self.seen = []
        self.post_init()

    def forward(self, input_ids, labels=None, length_labels=None, **kwargs):
        assert not kwargs, "num_items_in_batch is no business of a model with several losses"
        hidden = self.bert(input_ids).pooler_output
        topic, length = self.topic(hidden), self.length(hidden).squeeze(1)
        losses = {
            "topic": nn.functional.cross_entropy(topic, labels),
            "length": nn.functional.mse_loss(length, length_labels),
        }
        if self.training:
            self.seen.append([losses[name].item() for name in TASKS])
        if self.form == "tensor":
            return {"losses": torch.stack(list(losses.values())), "topic": topic}
        if self.form == "none":
            return {"loss": sum(losses.values()), "topic": topic}
        if self.form == "tuple":
            return (sum(losses.values()), topic)
        return Output(losses, topic, length)


class Rows(torch.utils.data.Dataset):
    def __init__(self, count=24):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1, 50, (count, 8), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        ids = self.ids[i]
        return {
            "input_ids": ids,
            "labels": ids[0] % 3,
            "length_labels": ids.float().mean() / 10,
        }


def weighting(**options):
    return GO4Align(2, **{"n_groups": 2, "beta": 0.05, "tasks": TASKS, **options})


def make(folder, kind=MultiTaskTrainer, form="mapping", dropout=0.1, options=None, **arguments):
    torch.manual_seed(5)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = Model(hf.BertConfig(**CONFIG, **rates))
    model.form = form
    settings = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "label_names": ["labels", "length_labels"],
        "seed": 3,
    }
    every = arguments.get("gradient_accumulation_steps", 1)
    extra = {
        key: arguments.pop(key)
        for key in ("compute_metrics", "compute_loss_func")
        if key in arguments
    }
    return kind(
        model,
        hf.TrainingArguments(str(folder), **{**settings, **arguments}),
        train_dataset=Rows(),
        eval_dataset=Rows(8),
        weighting=weighting(**{"update_every": every, **(options or {})}),
        **extra,
    )


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def replay(seen, counts, **options):
    """Weights of each micro-batch, by the core alone on the losses that the model saw."""
    twin, used = weighting(**options), []
    rows = torch.tensor(seen, dtype=torch.float32)
    first = weighting(**options)
    first(rows[0].double())
    weights = first.weights  # of the first window: those of its first micro-batch
    for window in rows.split(counts):
        used += [weights.tolist()] * len(window)
        twin(window.double().mean(0))
        weights = twin.weights
    return used, twin


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["mapping", "tensor"])
def test_trains_on_the_weighted_loss(tmp_path, form):
    trainer = make(tmp_path, form=form)
    trainer.train()
    twin = weighting()
    expected = [twin(torch.tensor(losses)).item() for losses in trainer.model.seen]
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 12
    assert logged == pytest.approx(expected, rel=1e-5)
    assert torch.equal(trainer.weighting.weights, twin.weights)


def test_weights_and_groups_are_in_the_logs(tmp_path):
    trainer = make(tmp_path, logging_steps=3)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 4
    assert all(entry["weight_topic"] > 0 and "group_length" in entry for entry in entries)
    last = [entries[-1][f"weight_{task}"] for task in TASKS]
    assert last == trainer.weighting.weights.tolist()
    assert [entries[-1][f"group_{task}"] for task in TASKS] == trainer.weighting.groups.tolist()
    assert not any(key.startswith("weight_") for key in trainer.state.log_history[-1])


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    """12 steps, and 4 + 8 through checkpoint-4 in the middle of an epoch: the same bits."""
    whole = make(tmp_path / "whole")
    whole.train()
    first = make(tmp_path / "parts", save_strategy="steps", save_steps=4)
    first.add_callback(StopAt(4))
    first.train()
    assert not same(first.weighting.state_dict(), whole.weighting.state_dict())
    saved = json.loads((tmp_path / "parts" / "checkpoint-4" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["_Go4AlignState"]["attributes"]["steps"]["values"] == 4
    second = make(tmp_path / "parts")
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-4"))
    assert first.model.seen + second.model.seen == whole.model.seen
    assert same(second.weighting.state_dict(), whole.weighting.state_dict())
    assert same(second.model.state_dict(), whole.model.state_dict())
    assert int(second.weighting.steps) == 12


class StopAt(hf.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path):
    trainer = make(tmp_path, save_strategy="steps", save_steps=6)
    trainer.train()
    path = tmp_path / "checkpoint-6" / "trainer_state.json"
    saved = json.loads(path.read_text())
    del saved["stateful_callbacks"]["_Go4AlignState"]
    path.write_text(json.dumps(saved))
    with pytest.raises(StateError, match="comes from another Trainer"):
        make(tmp_path).train(resume_from_checkpoint=str(path.parent))


def test_a_checkpoint_of_other_tasks_is_refused(tmp_path):
    make(tmp_path, save_strategy="steps", save_steps=6).train()
    other = make(tmp_path, form="tensor", options={"tasks": ["a", "b"]})
    with pytest.raises(StateError, match="is of the tasks"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_state_is_in_checkpoints_that_hold_only_the_model(tmp_path):
    trainer = make(tmp_path, save_strategy="epoch", save_only_model=True)
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["_Go4AlignState"]["attributes"]
    assert saved["accumulated"]["values"] == trainer.weighting.accumulated.tolist()


# --- evaluation -----------------------------------------------------------------------------------


def test_evaluation_leaves_the_state_alone(tmp_path):
    plain = make(tmp_path, dropout=0.0)
    plain.train()
    evaluated = make(tmp_path, dropout=0.0, eval_strategy="steps", eval_steps=1)
    evaluated.train()
    assert same(plain.weighting.state_dict(), evaluated.weighting.state_dict())
    assert plain.model.seen == evaluated.model.seen
    before = {name: value.clone() for name, value in plain.weighting.state_dict().items()}
    found = plain.evaluate()
    assert same(before, plain.weighting.state_dict())
    with torch.no_grad():
        batches = [Rows(8)[i] for i in range(8)]
        batch = {key: torch.stack([row[key] for row in batches]) for key in batches[0]}
        losses = plain.model.eval()(**batch).losses
    expected = sum(
        w * losses[name].item()
        for w, name in zip(plain.weighting.weights.tolist(), TASKS, strict=True)
    )
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_metrics_get_the_outputs_without_the_losses(tmp_path):
    shapes = []

    def metrics(result):
        shapes.append([array.shape for array in result.predictions])
        return {}

    make(tmp_path, compute_metrics=metrics).evaluate()
    assert shapes == [[(8, 3), (8,)]]


# --- gradient accumulation ------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "every"), [(2, 1), (1, 2), (4, 2)])
def test_accumulation_must_agree(tmp_path, steps, every):
    message = rf"gradient_accumulation_steps is {steps} .* update_every={every}: pass"
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, options={"update_every": every}, gradient_accumulation_steps=steps)


def test_weights_are_fixed_within_an_optimizer_step(tmp_path):
    """Six micro-batches per epoch, four per step: the second step of an epoch has two."""
    trainer = make(tmp_path, gradient_accumulation_steps=4)
    trainer.train()
    assert trainer.state.global_step == int(trainer.weighting.steps) == 4
    counts = [4, 2, 4, 2]
    used, twin = replay(trainer.model.seen, counts)
    losses = (torch.tensor(used) * torch.tensor(trainer.model.seen)).sum(1)
    means = [window.mean().item() for window in losses.split(counts)]
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(means, rel=1e-5)
    assert torch.allclose(trainer.weighting.weights, twin.weights, rtol=1e-6)


def test_accumulated_run_resumes_bit_for_bit(tmp_path):
    whole = make(tmp_path / "whole", gradient_accumulation_steps=4)
    whole.train()
    make(tmp_path, gradient_accumulation_steps=4, save_strategy="steps", save_steps=2).train()
    second = make(tmp_path, gradient_accumulation_steps=4)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert second.model.seen == whole.model.seen[6:]
    assert same(second.weighting.state_dict(), whole.weighting.state_dict())


def test_a_loss_is_a_mean_whatever_the_model_accepts(tmp_path):
    """The gradient of two micro-batches is that of their joined batch (equal sizes, no dropout).

    ``Model.forward`` takes keyword arguments, from which the Trainer infers that it divides by
    ``num_items_in_batch`` itself, and would then not divide by the number of micro-batches.
    """

    def step(batch, steps):
        trainer = make(
            tmp_path,
            dropout=0.0,
            gradient_accumulation_steps=steps,
            per_device_train_batch_size=batch,
            max_steps=1,
            max_grad_norm=0.0,
            optim="sgd",
            options={"n_groups": 1, "scale": "unit"},  # weights of 1
        )
        trainer.train()
        return parameters(trainer)

    start = parameters(make(tmp_path, dropout=0.0))
    one, two = step(8, 1) - start, step(4, 2) - start
    assert one.norm() > 0
    assert (one - two).norm() <= 1e-4 * one.norm()


def parameters(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


# --- what the model returns -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["none", "tuple"])
def test_output_without_losses(tmp_path, form):
    with pytest.raises(LossError, match=r"expected a mapping .* with 'losses'"):
        make(tmp_path, form=form).train()


def test_mask_of_the_model(tmp_path):
    trainer = make(tmp_path)
    trainer.weighting.train()

    class Half(nn.Module):
        def forward(self):
            losses = {"topic": torch.tensor(2.0), "length": torch.tensor(float("nan"))}
            return Output(losses=losses, losses_mask={"length": False})

    loss, rest = trainer.compute_loss(Half().train(), {}, return_outputs=True)
    assert loss.item() == pytest.approx(1.0)  # M / L of one task, times its loss
    assert trainer.weighting.groups.tolist() == [0, -1]
    assert rest == {}


def test_losses_gathered_from_copies_are_averaged():
    """``nn.DataParallel`` returns one loss per copy of the model."""
    _joined = importlib.import_module("go4align.integrations.transformers")._joined
    mapping = {"topic": torch.tensor([1.0, 3.0]), "length": torch.tensor([4.0, 4.0])}
    assert _joined(mapping, 2, 2) == {"topic": torch.tensor(2.0), "length": torch.tensor(4.0)}
    assert _joined(torch.tensor([1.0, 4.0, 3.0, 4.0]), 2, 2).tolist() == [2.0, 4.0]


def test_losses_of_single_examples_are_not_taken_for_tasks(tmp_path):
    class Unreduced(nn.Module):
        def forward(self, losses):
            return {"losses": losses}

    trainer = make(tmp_path)
    for losses in (torch.ones(4), {"topic": torch.ones(4), "length": torch.tensor(1.0)}):
        with pytest.raises(LossError, match="shape"):
            trainer.compute_loss(Unreduced(), {"losses": losses})


def test_losses_left_out_are_reported_with_the_next_log(tmp_path):
    trainer = make(tmp_path)
    trainer.weighting.skipped[0] = 2  # as an accelerator counts them
    with pytest.warns(UserWarning, match="left out"), pytest.raises(LossError, match="'topic' 2"):
        trainer.train()


def test_arguments_that_would_have_no_effect(tmp_path):
    with pytest.raises(ConfigError, match=r"label_smoothing_factor is 0\.1"):
        make(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ConfigError, match="compute_loss_func is"):
        make(tmp_path, compute_loss_func=lambda *_, **__: None)
    with pytest.raises(ConfigError, match="weighting is None"):
        MultiTaskTrainer(None, weighting=None)


def test_mixin_for_other_trainers(tmp_path):
    class Stranger(hf.Trainer):
        calls = 0

        def training_step(self, *args, **kwargs):
            self.calls += 1
            return super().training_step(*args, **kwargs)

    class Custom(MultiTask, Stranger):
        pass

    trainer = make(tmp_path, kind=Custom, max_steps=3)
    trainer.train()
    assert int(trainer.weighting.steps) == trainer.calls == 3


# --- two processes --------------------------------------------------------------------------------

WORKER = """
import json, os, sys, warnings
import torch
warnings.simplefilter("ignore")
import transformers as hf
from go4align import GO4Align
from go4align.integrations.transformers import MultiTaskTrainer


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(4, 2)

    def forward(self, x, labels):
        a, b = self.body(x).T
        return {"losses": {"a": (a - labels).pow(2).mean(), "b": (3 * b + labels).pow(2).mean()}}


def train(folder, resume=None, **options):
    torch.manual_seed(0)
    x = torch.randn(48, 4)
    rows = [{"x": row, "labels": row.sum()} for row in x]
    arguments = hf.TrainingArguments(
        folder, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=6,
        report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, **options,
    )
    weighting = GO4Align(2, 2, beta=0.05, tasks=["a", "b"], update_every=2)
    trainer = MultiTaskTrainer(Model(), arguments, train_dataset=rows, weighting=weighting)
    trainer.train(resume_from_checkpoint=resume)
    return [*weighting.weights.tolist(), *trainer.model.body.weight.flatten().tolist()]


folder = sys.argv[1]
whole = train(folder, save_strategy="steps", save_steps=2)
found = {"whole": whole, "resumed": train(folder, folder + "/checkpoint-4", save_strategy="no")}
everyone = [None] * torch.distributed.get_world_size()
torch.distributed.all_gather_object(everyone, found)
if torch.distributed.get_rank() == 0:
    with open(folder + "/found.json", "w") as file:
        json.dump(everyone, file)
torch.distributed.barrier()
# Not by way of destructors: gloo's threads now and then outlive what they belong to, which ends
# a process that has done its work with 'terminate called without an active exception'.
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_agree_and_resume(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    source = str(Path(go4align.__file__).parents[1])
    inherited = os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(tmp_path / "worker.py"), str(tmp_path)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [source, inherited])),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = json.loads((tmp_path / "found.json").read_text())
    assert first == second, "the processes disagree"
    assert first["resumed"] == first["whole"]
    assert first["whole"][0] != first["whole"][1]


# --- without the extra ----------------------------------------------------------------------------


def test_without_transformers_the_import_names_the_extra():
    code = (
        "import sys\n"
        "sys.modules['transformers'] = None\n"
        "try:\n"
        "    import go4align.integrations.transformers\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingExtraError")
    assert 'pip install "go4align[trainer]"' in done.stdout
