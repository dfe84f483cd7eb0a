"""How do I use it with the Trainer of Hugging Face?

The model returns `losses`, one per task, and `MultiTaskTrainer` weights them. A tiny BERT with
random weights reads docstrings of the standard library: from which package, and how many words?
Needs: pip install "go4align[trainer]"
"""

import argparse
import ast
import importlib.util
import random
import tempfile
import zlib
from pathlib import Path

import torch
import transformers as hf
from torch.nn import functional as F

from go4align import GO4Align
from go4align.integrations.transformers import MultiTaskTrainer

PACKAGES = ("asyncio", "email", "unittest", "xml")
LENGTH = 32  # words of a text that the model sees


class Model(hf.BertPreTrainedModel):
    """BERT with two heads."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = hf.BertModel(config)
        self.package = torch.nn.Linear(config.hidden_size, len(PACKAGES))
        self.words = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids, attention_mask, package_labels, words_labels):
        """Return the losses by name."""
        hidden = self.bert(input_ids, attention_mask).pooler_output
        package, words = self.package(hidden), self.words(hidden).squeeze(1)
        of_package = F.cross_entropy(package, package_labels)
        return {"losses": {"package": of_package, "words": F.mse_loss(words, words_labels)}}


def docstrings(count):
    rows = []
    for label, package in enumerate(PACKAGES):
        folder = importlib.util.find_spec(package).submodule_search_locations[0]
        for path in sorted(Path(folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    words = (ast.get_docstring(node) or "").split()
                    ids = [zlib.crc32(word.encode()) % 999 + 1 for word in words][:LENGTH]
                    ids += [0] * (LENGTH - len(ids))
                    row = {"input_ids": ids, "attention_mask": [float(i > 0) for i in ids]}
                    row |= {"package_labels": label, "words_labels": min(len(words), 100) / 10}
                    rows += [row] if words else []
    return random.Random(0).sample(rows, min(count, len(rows)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="Optimizer steps, of 32 texts each.")
    parser.add_argument("--smoke", action="store_true", help="Take three steps only.")
    args = parser.parse_args()
    steps, rows = (3, docstrings(64)) if args.smoke else (args.steps, docstrings(5000))
    hf.set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    model = Model(hf.BertConfig(vocab_size=1000, num_hidden_layers=2, **sizes))
    weighting = GO4Align(2, 2, beta=1e-3, tasks=["package", "words"], update_every=2)
    options = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2}
    options |= {"max_steps": steps, "logging_steps": max(1, steps // 5), "learning_rate": 1e-3}
    options |= {"save_strategy": "no", "report_to": [], "remove_unused_columns": False}
    with tempfile.TemporaryDirectory() as out:
        arguments = hf.TrainingArguments(out, **options)
        MultiTaskTrainer(model, arguments, train_dataset=rows, weighting=weighting).train()


if __name__ == "__main__":
    main()
