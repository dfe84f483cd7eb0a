"""The part that is the same in every recipe: options, measuring, converting, training, a table."""

import argparse
import contextlib
import tempfile
from pathlib import Path

import torch
import transformers as hf

import lowmem_bp


def options(recipe, model, bf16=False):
    """Return a parser with the options that every recipe has; ``recipe`` is its docstring."""
    switch = argparse.BooleanOptionalAction
    parser = argparse.ArgumentParser(description=recipe.splitlines()[0])
    add, modes = parser.add_argument, ("stock", "exact", "int8", "2bit", "paper")
    add("data", nargs="?", type=Path, help="Where the data is; see the top of the script.")
    add("--model", default=model, help="Hugging Face name or folder of the model to start from.")
    add("--mode", choices=modes, default="exact", help="What the backward pass keeps.")
    add("--bf16", action=switch, default=bf16, help="Compute in bf16 mixed precision.")
    add("--seed", type=int, default=0, help="Seed of new weights, of the order and of dropout.")
    add("--out", default="tuned", help="Folder for the trained model.")
    add("--smoke", action="store_true", help="Take two steps of a tiny model on tiny files.")
    return parser


@contextlib.contextmanager
def arguments(parser, tiny):
    """Parse the command line; with ``--smoke``, ``tiny(folder, args)`` makes data and model."""
    args = parser.parse_args()
    hf.set_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        if args.smoke:
            args.out = folder
            args.data, args.model = tiny(Path(folder), args)
        elif args.data is None:
            parser.error("say where the data is, or try --smoke")
        yield args


def train(model, args, settings, rows, collate, held_out=None, metrics=None):
    """Convert, train and evaluate ``model`` and print a table; ``settings`` are the Trainer's."""
    settings |= {"bf16": args.bf16, "seed": args.seed, "save_strategy": "no"}
    settings |= {"label_names": ["labels"], "use_cpu": not torch.accelerator.is_available()}
    settings |= {"max_steps": 2, "logging_strategy": "no"} if args.smoke else {}
    settings = hf.TrainingArguments(args.out, **settings)
    model.to(settings.device).train()
    batch = {name: tensor.to(settings.device) for name, tensor in collate(rows[:4]).items()}
    # What is kept depends on autocast, so it is measured under the one that Trainer will use.
    with torch.autocast(settings.device.type, torch.bfloat16, enabled=args.bf16):
        before = after = lowmem_bp.profile(model, batch)
        if args.mode != "stock":
            report = lowmem_bp.convert(model, args.mode, example_inputs=batch)
            after = report.after
            print(report)

    data = {"train_dataset": rows, "eval_dataset": held_out, "data_collator": collate}
    trainer = hf.Trainer(model, settings, compute_metrics=metrics, **data)
    result = trainer.train()
    trainer.save_model()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    table = {
        "mode": args.mode,
        "stock B/token": f"{before.bytes_per_token:,.0f}",
        "B/token": f"{after.bytes_per_token:,.0f}",
        "s/step": f"{1 / result.metrics['train_steps_per_second']:.2f}",
        "loss": f"{(losses or [result.training_loss])[-1]:.3f}",
    }
    for name, value in (trainer.evaluate() if held_out else {}).items():
        if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second")):
            table[name.replace("eval_", "held-out ")] = f"{value:.3f}"
    print("  ".join(name.rjust(len(value)) for name, value in table.items()))
    print("  ".join(value.rjust(len(name)) for name, value in table.items()))
