"""The tables of lowmem-bp."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import common
from .common import markdown

PAGES = ("docs/lowmem-bp/benchmarks.md", "packages/lowmem-bp/README.md")
TITLES = {
    "vit fp32 full": "ViT, fp32, full tuning",
    "vit amp full": "ViT, bf16 autocast, full tuning",
    "vit bf16 lora qv": "ViT, bf16, LoRA on q and v",
    "llama bf16 full": "Llama style, bf16, full tuning",
    "llama-hf bf16 full": "Llama style, bf16, full tuning, Hugging Face's RMSNorm",
    "llama bf16 lora qv": "Llama style, bf16, LoRA on q and v",
    "llama bf16 lora all": "Llama style, bf16, LoRA on all linears",
}
MODES = ("paper", "exact", "int8", "2bit")

load = partial(common.load, "lowmem-bp")
measured = partial(common.measured, "lowmem-bp")


def machine(run: dict[str, Any]) -> str:
    """As elsewhere, with the threads that were used, or the name of a GPU."""
    device = run["device"]
    where = f"{device['cores']} {device['machine']} cores, {device['threads']} threads"
    return common.machine(run, device.get("name", where))


def ratios() -> str:
    """Bytes relative to stock, one row per block."""
    cases: dict[str, dict[str, dict]] = {}
    for m in load("blocks")["results"]["measurements"]:
        cases.setdefault(m["case"], {})[m["competitor"]] = m
    rows = [
        [TITLES[case], *(f"{modes[mode]['ratio']:.3f}" for mode in MODES)]
        for case, modes in cases.items()
    ]
    return markdown(["block", *(f"`{mode}`" for mode in MODES)], rows)


def blocks() -> str:
    """Bytes and gradient error of every block and mode."""
    run = load("blocks")
    rows = [
        [
            TITLES[m["case"]],
            m["competitor"],
            f"{m['bytes_per_token']:,.0f}",
            f"{m['ratio']:.3f}",
            f"{m['gradient_error']:.1e}",
        ]
        for m in run["results"]["measurements"]
    ]
    size = run["settings"]
    note = f"{machine(run)} Batch {size['batch']}, {size['length']} tokens, width 768, seed 0."
    table = markdown(["block", "mode", "bytes/token", "ratio", "gradient error"], rows)
    return f"{table}\n\n{note}"


def _ratio(found: dict) -> str:
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def elementwise_speed() -> str:
    """Time of 2-bit activations against torch's own."""
    run = load("speed")
    rows = [
        [
            f"{row['activation']}, {row['dtype']}, {row['threads']} thread(s)",
            f"{row['stock_ms']:.0f}",
            _ratio(row["ratio"]),
        ]
        for row in run["results"]["elementwise"]
    ]
    rows.append(["any, CUDA", "not measured", "not measured"])
    shape = " × ".join(map(str, run["settings"]["shape"]))
    note = (
        f"Forward and backward of {shape}; {run['settings']['repeats']} pairs of steps, median "
        f"and {run['settings'].get('spread', 'quartiles')} of the ratio. {machine(run)}"
    )
    return f"{markdown(['2-bit activation', 'torch, ms', 'ratio'], rows)}\n\n{note}"


def block_speed() -> str:
    """Time of whole blocks against stock."""
    run = load("speed")
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in run["results"]["blocks"]:
        found.setdefault((row["block"], row["threads"]), {})[row["mode"]] = _ratio(row["ratio"])
    rows = [
        [f"{TITLES[block]}, {threads} thread(s)", *(modes[mode] for mode in MODES)]
        for (block, threads), modes in found.items()
    ]
    rows.append(["ViT-B and LLaMA-7B blocks, CUDA", *["not measured"] * len(MODES)])
    size = run["settings"]
    note = (
        f"Forward and backward, batch {size['batch']}, {size['length']} tokens, width 768; median "
        f"and {size.get('spread', 'quartiles')} of {size['repeats']} ratios to stock. "
        f"{machine(run)}"
    )
    table = markdown(["block", *(f"`{mode}`" for mode in MODES)], rows)
    return f"{table}\n\n{note}"


def training() -> str:
    """Gradient and held-out loss of every mode on MiniLM."""
    run = load("training")
    rows = []
    for name, row in run["rows"].items():
        loss, difference = row["held_out"], row["held_out_minus_stock"]
        versus_stock = (
            "0"
            if name == "stock"
            else f"{difference['iqm']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
        )
        rows.append(
            [
                name,
                f"{row['ratio']['mean']:.3f}",
                f"{row['cosine']['mean']:.4f}",
                f"{row['error']['mean']:.1e}",
                f"{loss['mean']:.4f}",
                f"{loss['iqm']:.4f} [{loss['low']:.4f}, {loss['high']:.4f}]",
                versus_stock,
            ]
        )
    head = [
        "mode",
        "bytes ratio",
        "gradient cosine",
        "gradient error",
        "held-out loss, mean",
        "IQM [95 %]",
        "minus stock, paired IQM [95 %]",
    ]
    pair = run["rows"]["2bit everywhere"]["held_out_minus_paper"]
    note = (
        f"{len(run['seeds'])} seeds ({', '.join(map(str, run['seeds']))}), "
        f"{run['settings']['steps']} steps of AdamW each. `2bit everywhere` minus `paper`, in "
        f"pairs: {pair['iqm']:+.4f} [{pair['low']:+.4f}, {pair['high']:+.4f}]. {machine(run)}"
    )
    return f"{markdown(head, rows)}\n\n{note}"


def comparison() -> str:
    """Every competitor at every block: memory, time and gradient."""
    head = ["block", "competitor", "held", "time", "peak", "gradient error"]
    if not measured("comparison"):
        return markdown(head, [["ViT, BERT, Llama style", "all", *["not measured"] * 4]])
    run = load("comparison")
    rows = [_compared(m) for m in run["results"]["measurements"]]
    size = run["settings"]
    note = (
        f"Relative to stock; time of forward and backward with the 95 % interval of the median of "
        f"{size['repeats']} rounds. Batch {size['batch']}, {size['length']} tokens, width "
        f"{size['features']}. {machine(run)}"
    )
    return f"{markdown(head, rows)}\n\n{note}"


def network() -> str:
    """Memory of one step of a whole network."""
    run = load("network")
    size = run["settings"]
    rows = []
    for m in run["results"]["measurements"]:
        case, competitor, held, _time, peak, _error = _compared(m)
        mib = "-" if m["peak_bytes"] is None else f"{m['peak_bytes'] / 2**20:.0f}"
        rows.append([case, competitor, held, mib, peak])
    head = [f"{size['layers']} blocks", "competitor", "held", "peak MiB", "peak"]
    note = (
        f"Relative to stock, but for MiB. Batch {size['batch']}, {size['length']} tokens, width "
        f"{size['features']}. {machine(run)}"
    )
    return f"{markdown(head, rows)}\n\n{note}"


#: Blocks of the short table and of the picture on the front page.
FRONT = {"vit bf16 full": "ViT block", "llama-hf bf16 full": "Llama block"}


def front() -> str:
    """The front page's choice: two blocks, all of them trained in bf16."""
    run = load("comparison")
    found = {(m["case"], m["competitor"]): m for m in run["results"]["measurements"]}
    names = [name for case, name in found if case == next(iter(FRONT)) and name != "stock"]
    rows = []
    for name in names:
        chosen = [found[case, name] for case in FRONT]
        if not any(m["not_run"] for m in chosen):
            cells = [f"{m['ratio']:.2f}, {_ratio(m['time_ratio'])}" for m in chosen]
            rows.append([f"`{name}`", *cells, f"{max(m['gradient_error'] for m in chosen):.0e}"])
    head = ["relative to stock torch", *(f"{name}: held, time" for name in FRONT.values())]
    note = f"Median of {run['settings']['repeats']} rounds and its 95 % interval. {machine(run)}"
    return f"{markdown([*head, 'gradient error, at most'], rows)}\n\n{note}"


def _compared(m: dict) -> list[str]:
    block, precision, tuning = m["case"].split(" ", 2)
    case = f"{block}, {precision}, {tuning}"
    if m["not_run"]:
        return [case, m["competitor"], f"not run: {m['not_run']}", "-", "-", "-"]
    time, peak = m["time_ratio"], m["peak_ratio"]
    return [
        case,
        m["competitor"],
        f"{m['ratio']:.3f}",
        _ratio(time),
        "-" if peak is None else f"{peak:.3f}",
        f"{m['gradient_error']:.1e}",
    ]


def gpu_blocks() -> str:
    """Blocks on a GPU, as in the comparison."""
    head = ["block, bf16", "competitor", "held", "time", "peak", "gradient error"]
    if not measured("gpu"):
        blocks = ("ViT-B, batch 64", "LLaMA-7B shape, 4 × 2048 tokens")
        return markdown(head, [[block, "all", *["not measured"] * 4] for block in blocks])
    run = load("gpu")
    rows = [_compared(m) for m in run["results"]["blocks"]]
    failed = run["results"]["failed_kernels"]
    note = (
        f" Done by plain torch, because the kernel failed: {', '.join(failed)}." if failed else ""
    )
    return f"{markdown(head, rows)}\n\n{machine(run)}{note}"


def gpu_training() -> str:
    """Memory of training twelve blocks on a GPU."""
    head = ["12 ViT-B blocks, AdamW, batch 64", "mode", "activations", "static MiB", "peak MiB"]
    head.append("peak, relative to stock")
    if not measured("gpu"):
        cases = ("bf16 autocast, full tuning", "bf16 autocast, LoRA on q and v")
        return markdown(head, [[case, "all", *["not measured"] * 4] for case in cases])
    rows = []
    stock: dict[str, dict] = {}
    for row in load("gpu")["results"]["trainings"]:
        base = stock.setdefault(row["case"], row)
        rows.append(
            [
                TITLES.get(row["case"], row["case"]),
                row["competitor"],
                f"{row['activation_bytes'] / base['activation_bytes']:.3f}",
                f"{row['static_bytes'] / 2**20:.0f}",
                f"{row['peak_bytes'] / 2**20:.0f}",
                f"{row['peak_bytes'] / base['peak_bytes']:.3f}",
            ]
        )
    return markdown(head, rows)


def gpu_kernels() -> str:
    """Bandwidth of the kernels on a GPU."""
    head = ["kernel, bf16", "GB/s", "share of a copy's"]
    if not measured("gpu"):
        return markdown(head, [["all", "not measured", "not measured"]])
    rows = [
        [row["kernel"], f"not run: {row['not_run']}", "-"]
        if "not_run" in row
        else [
            row["kernel"],
            f"{row['bytes_per_second'] / 1e9:.0f}",
            f"{row['share_of_copy']:.2f}",
        ]
        for row in load("gpu")["results"]["kernels"]
    ]
    return markdown(head, rows)


TABLES = {
    "comparison": comparison,
    "network": network,
    "front": front,
    "gpu_blocks": gpu_blocks,
    "gpu_training": gpu_training,
    "gpu_kernels": gpu_kernels,
    "ratios": ratios,
    "blocks": blocks,
    "elementwise_speed": elementwise_speed,
    "block_speed": block_speed,
    "training": training,
}


def table(name: str) -> str:
    """The table of that name."""
    return TABLES[name]()
