"""How do I fine-tune a vision transformer in the paper's setting, fully or with LoRA?

AdamW, 100 epochs of which 10 warm up, cosine, weight decay 0.1, batch 64; learning rate 1e-4 for
full tuning, 1e-2 for LoRA (r=4 on query and value). The paper's runs compute in mixed precision:
add --bf16. Data: the folder of CIFAR-10 or CIFAR-100 ("python version"), or one with train/ and
val/, each with a subfolder of pictures per class.
Needs: pip install "lowmem-bp[hf]" pillow
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForImageClassification


def collate(rows, size):
    """Decode, resize and scale to [-1, 1], as ViT's own processor does."""
    opened = [Image.open(x) if isinstance(x, Path) else Image.fromarray(x) for x, _ in rows]
    pixels = np.stack([np.asarray(x.convert("RGB").resize((size, size))) for x in opened])
    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    return {"pixel_values": scaled, "labels": torch.tensor([label for _, label in rows])}


def accuracy(result):
    return {"accuracy": (result.predictions.argmax(-1) == result.label_ids).mean()}


def main():
    from parts import images, tiny, training  # the folder beside this file

    parser = training.options(__doc__, "google/vit-base-patch16-224-in21k")
    parser.add_argument("--lora", action="store_true", help="Train adapters, not all weights.")
    parser.add_argument("--epochs", type=int, default=100, help="Passes over the training data.")
    with training.arguments(parser, tiny.vit) as args:
        rows, held_out = images.load(args.data)
        model = AutoModelForImageClassification.from_pretrained(
            args.model,
            num_labels=1 + max(label for _, label in rows),
            ignore_mismatched_sizes=True,  # a checkpoint may bring a head for other classes
        )
        if args.lora:
            names = ["q_proj", "v_proj", "query", "value"]  # in newer and older transformers
            lora = LoraConfig(r=4, target_modules=names, modules_to_save=["classifier"])
            model = get_peft_model(model, lora)
        settings = {
            "num_train_epochs": args.epochs,
            "per_device_train_batch_size": 64,
            "learning_rate": 1e-2 if args.lora else 1e-4,
            "weight_decay": 0.1,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.1,  # a share of all steps
            "logging_strategy": "epoch",
        }
        to_batch = partial(collate, size=model.config.image_size)
        training.train(model, args, settings, rows, to_batch, held_out, accuracy)


if __name__ == "__main__":
    main()
