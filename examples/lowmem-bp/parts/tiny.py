"""Tiny models with random weights, and tiny files in the true formats, for ``--smoke``."""

import json
import pickle

import numpy as np
import transformers as hf
from PIL import Image

SIZES = {"hidden_size": 32, "intermediate_size": 64}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ("the", "film", "was", "good", "bad", "long", "very", "we", "saw", "it", "on", "monday")


def vit(folder, args):
    """Write CIFAR-10's batches for ``--lora``, else a PNG folder per class; and a ViT."""
    pictures = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    labels = [i % 2 for i in range(16)]
    if args.lora:
        data = {b"data": pictures.transpose(0, 3, 1, 2).reshape(16, 3072), b"labels": labels}
        for name in ("data_batch_1", "test_batch"):
            (folder / name).write_bytes(pickle.dumps(data, protocol=3))
    else:
        for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            place = folder / ("train" if i < 8 else "val") / ("cat", "dog")[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / f"{i}.png")
    config = hf.ViTConfig(image_size=32, patch_size=8, **SIZES)
    hf.ViTForImageClassification(config).save_pretrained(folder / "model")
    return folder, folder / "model"


def llama(folder, _args):
    """Write an instruction file in Alpaca's format, and a Llama with a tokenizer."""
    rows = [
        {"instruction": "Name the opposite.", "input": "good", "output": "bad"},
        {"instruction": "Name a day.", "input": "", "output": "monday"},
    ]
    (folder / "alpaca.json").write_text(json.dumps(rows * 4), encoding="utf-8")
    model = folder / "model"
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.json")]
    tokenizer = hf.LlamaTokenizer().train_new_from_iterator(texts, 300)
    tokenizer.save_pretrained(model)
    config = hf.LlamaConfig(vocab_size=300, num_key_value_heads=1, **SIZES)
    hf.LlamaForCausalLM(config).save_pretrained(model)
    return folder / "alpaca.json", model


def roberta(folder, args):
    """Write train.tsv and dev.tsv in the layout of MRPC, and a RoBERTa with a tokenizer."""
    args.task = "mrpc"
    draw = np.random.default_rng(0)
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    for i in range(16):
        one, two = (" ".join(draw.choice(WORDS, 8)) for _ in range(2))
        lines.append(f"{i % 2}\t{2 * i}\t{2 * i + 1}\t{one}\t{two}")
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    tokenizer = hf.RobertaTokenizer(vocab=special, merges=[]).train_new_from_iterator(WORDS, 300)
    tokenizer.save_pretrained(folder / "model")
    config = hf.RobertaConfig(vocab_size=300, max_position_embeddings=130, **SIZES)
    hf.RobertaForSequenceClassification(config).save_pretrained(folder / "model")
    return folder, folder / "model"
