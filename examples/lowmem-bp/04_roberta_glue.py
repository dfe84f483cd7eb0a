"""How do I tune all weights of RoBERTa or BERT on a task of GLUE?

RoBERTa's published setting: AdamW, learning rate 2e-5 with 6 % warm-up and linear decay, weight
decay 0.1, batch 32, 10 epochs. Data: the folder of a task as published, with train.tsv and
dev.tsv (MNLI: dev_matched.tsv). The metric is the one that GLUE uses for the task.
Needs: pip install "lowmem-bp[hf]" pillow
"""

from functools import partial

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def collate(rows, tokenizer):
    columns = zip(*(texts for texts, _ in rows), strict=True)
    batch = tokenizer(
        *map(list, columns), padding=True, truncation=True, max_length=128, return_tensors="pt"
    )
    return {**batch, "labels": torch.tensor([label for _, label in rows])}


def main():
    from parts import glue, tiny, training  # the folder beside this file

    parser = training.options(__doc__, "FacebookAI/roberta-base")
    add = parser.add_argument
    add("--task", choices=glue.TASKS, default="mrpc", help="Whose files the folder has.")
    add("--epochs", type=int, default=10, help="Passes over the training data.")
    with training.arguments(parser, tiny.roberta) as args:
        rows, held_out, classes = glue.load(args.data, args.task)
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        # One output and no classes make it a regression.
        model = AutoModelForSequenceClassification.from_pretrained(
            args.model,
            num_labels=max(len(classes), 1),
            ignore_mismatched_sizes=True,  # a checkpoint may bring the head of another task
        )

        def metrics(result):
            found = result.predictions
            found = found.argmax(-1) if classes else found.squeeze(-1)
            return glue.score(args.task, found, result.label_ids)

        settings = {
            "num_train_epochs": args.epochs,
            "per_device_train_batch_size": 32,
            "learning_rate": 2e-5,
            "weight_decay": 0.1,
            "lr_scheduler_type": "linear",
            "warmup_steps": 0.06,  # a share of all steps
            "logging_strategy": "epoch",
        }
        to_batch = partial(collate, tokenizer=tokenizer)
        training.train(model, args, settings, rows, to_batch, held_out, metrics)
        tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
