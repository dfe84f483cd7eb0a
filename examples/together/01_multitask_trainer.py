"""Do loss weights (go4align) and a lean backward pass (lowmem-bp) go together in one Trainer run?

MiniLM, with its real weights, learns three tasks on docstrings of Python's standard library: from
which of seven packages, of a module, class, function or method, and how many words (a regression,
whose loss is larger). Four runs per seed, of the same weights and batches, are compared.
Needs: pip install "go4align[trainer]" "lowmem-bp[hf,demo]"
"""

import tempfile

import torch
import transformers as hf
from torch.nn import functional as F

import lowmem_bp
from go4align import GO4Align
from go4align._kit import RunFolder
from go4align.integrations.transformers import MultiTaskTrainer

RUNS = {"plain": (), "go4align": "w", "lowmem-bp": "l", "both": "wl"}  # weighted, lean


class Model(torch.nn.Module):
    """MiniLM with a head for each task."""

    def __init__(self, name, sizes):
        super().__init__()
        self.encoder = hf.AutoModel.from_pretrained(name, add_pooling_layer=False)
        width = self.encoder.config.hidden_size
        self.heads = torch.nn.ModuleDict({k: torch.nn.Linear(width, n) for k, n in sizes.items()})

    def forward(self, input_ids, attention_mask, package, kind, words):
        """Return the losses by name, their sum, and the answers."""
        classes = {"package": package, "kind": kind}
        hidden = self.encoder(input_ids, attention_mask).last_hidden_state
        pooled = (hidden * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        answers = {k: head(pooled).squeeze(-1) for k, head in self.heads.items()}
        losses = {k: F.cross_entropy(answers[k], true) for k, true in classes.items()}
        losses["words"] = F.mse_loss(answers["words"], words)
        return {"loss": sum(losses.values()), "losses": losses, "answers": answers}


def train(model, parts, rows, to_batch, **options):
    example = to_batch(rows[:8])
    if "l" in parts:
        lowmem_bp.convert(model, example_inputs=example)  # (lowmem-bp)
    held = lowmem_bp.profile(model.train(), example).bytes_per_token
    options |= {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "log_level": "error"}
    options |= {"remove_unused_columns": False, "logging_strategy": "no", "learning_rate": 3e-4}
    with tempfile.TemporaryDirectory() as folder:
        arguments = hf.TrainingArguments(folder, per_device_train_batch_size=8, **options)
        data = {"args": arguments, "train_dataset": rows, "data_collator": to_batch}
        if "w" in parts:
            weighting = GO4Align(3, 2, tasks=list(model.heads))  # (go4align)
            trainer = MultiTaskTrainer(model, weighting=weighting, **data)  # (go4align)
        else:
            trainer = hf.Trainer(model, **data)
        trainer.train()
    return held


def main():
    from parts import docstrings, runs, tables  # the folder beside this file

    args, folder = runs.begin(__doc__, "Optimizer steps, of 8 texts,", 80, 1, RunFolder)
    rows = []
    for seed in args.seeds:
        train_rows, test_rows, to_batch = docstrings.load(20 if args.smoke else 300, seed)
        for run, parts in RUNS.items():
            hf.set_seed(seed)
            model = Model(docstrings.MINILM, docstrings.SIZES)
            held = train(model, parts, train_rows, to_batch, max_steps=args.steps, seed=seed)
            found = docstrings.errors(model, test_rows, to_batch)
            rows.append({"run": run, "seed": seed, "errors": found, "bytes_per_token": held})
            print(rows[-1], flush=True)
    runs.show(rows, tables.multitask, args, folder)


if __name__ == "__main__":
    main()
