"""Loader of GLUE's files as published, and the metrics of its tasks."""

import sys

import numpy as np

TASKS = {  # columns: one or two texts, then the label
    "cola": ["sentence", "label"],
    "sst2": ["sentence", "label"],
    "mrpc": ["#1 String", "#2 String", "Quality"],
    "stsb": ["sentence1", "sentence2", "score"],
    "qqp": ["question1", "question2", "is_duplicate"],
    "mnli": ["sentence1", "sentence2", "gold_label"],
    "qnli": ["question", "sentence", "label"],
    "rte": ["sentence1", "sentence2", "label"],
}
COLA = ["source", "label", "star", "sentence"]  # the one task whose files have no header


def read(path, task):
    """Return [text, label] or [text, text, label] rows; quotes are plain characters here."""
    lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    header = COLA if task == "cola" else lines.pop(0).split("\t")
    if missing := [name for name in TASKS[task] if name not in header]:
        raise ValueError(f"{path}: no columns {missing}, which {task} has; found {header}")
    rows = [row for line in lines if len(row := line.split("\t")) == len(header)]
    if not rows:
        raise ValueError(f"{path}: no line has the {len(header)} columns {header}")
    if left_out := len(lines) - len(rows):  # the published QQP has such lines
        print(f"{path}: left out {left_out} lines without {len(header)} columns", file=sys.stderr)
    places = [header.index(name) for name in TASKS[task]]
    return [[row[place] for place in places] for row in rows]


def load(folder, task):
    """Return training rows, held-out rows and class names; labels become numbers."""
    held_out = "dev_matched.tsv" if task == "mnli" else "dev.tsv"
    train, held_out = read(folder / "train.tsv", task), read(folder / held_out, task)
    names = [] if task == "stsb" else sorted({label for *_, label in train})
    if strange := {label for *_, label in held_out} - set(names) if names else ():
        raise ValueError(f"{folder}: held-out labels {sorted(strange)} are not among {names}")
    number = names.index if names else float
    return *(
        [(texts, number(label)) for *texts, label in rows] for rows in (train, held_out)
    ), names


def correlation(a, b):
    """Return Pearson's, which for zeros and ones is Matthews'; 0 where one is constant."""
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


def ranks(values):
    """Return ranks from 1; equal values share their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def score(task, found, true):
    """Return the task's metrics of predicted classes (or values, for STS-B)."""
    if task == "stsb":
        spearman = correlation(ranks(found), ranks(true))
        return {"Pearson": correlation(found, true), "Spearman": spearman}
    if task == "cola":
        return {"Matthews": correlation(found, true)}
    scores = {"accuracy": (found == true).mean()}
    if task in ("mrpc", "qqp"):
        scores["F1"] = 2 * (found * true).sum() / max((found + true).sum(), 1)
    return scores
