"""Loader of instruction files in Alpaca's format."""

import json
import sys

HEAD = "Below is an instruction that describes a task{}. "
PAIRED = ", paired with an input that provides further context"
TASK = "Write a response that appropriately completes the request.\n\n### Instruction:\n{}\n\n"


def prompt(instruction, given):
    """Return Alpaca's prompt; it has two forms, with and without an input."""
    middle = f"### Input:\n{given}\n\n" if given else ""
    return (
        HEAD.format(PAIRED if given else "") + TASK.format(instruction) + middle + "### Response:"
    )


def texts(path):
    """Return the (instruction, input, output) rows of a JSON list; an input may be absent."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not one JSON list: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: expected a list of objects, found {str(rows)[:60]!r}")
    found = []
    for number, row in enumerate(rows):
        fields = {"input": "", **row} if isinstance(row, dict) else {}
        parts = [fields.get(name) for name in ("instruction", "input", "output")]
        if not all(isinstance(part, str) for part in parts):
            expected = "an object with texts under instruction, input (may be absent) and output"
            raise ValueError(f"{path}, row {number}: expected {expected}, found {str(row)[:60]!r}")
        found.append(parts)
    return found


def load(path, tokenizer, length):
    """Return token ids of prompt and output, with labels of -100 (no loss) on the prompt."""
    rows, examples = texts(path), []
    for instruction, given, output in rows:
        # Tokenized apart, so that no token spans the border.
        asked = tokenizer(prompt(instruction, given))["input_ids"]
        answer = tokenizer(output, add_special_tokens=False)["input_ids"]
        ids = [*asked, *answer, tokenizer.eos_token_id][:length]
        if len(ids) > len(asked):
            labels = [-100] * len(asked) + ids[len(asked) :]
            examples.append({"input_ids": ids, "labels": labels})
    if left_out := len(rows) - len(examples):
        print(f"{path}: left out {left_out} rows, whose prompt fills {length}", file=sys.stderr)
    if not examples:
        raise ValueError(f"{path}: every prompt has {length} tokens or more; allow more")
    return examples
