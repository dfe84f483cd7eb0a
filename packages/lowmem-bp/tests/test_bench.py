"""The comparison: every competitor is measured, or says why not."""

import json
import shutil
import sys
from dataclasses import asdict, replace
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lowmem_bp import bench
from lowmem_bp.bench import COMPETITORS, DEFAULT, Case, held, measure, models, spread
from lowmem_bp.bench.peak import process_peaks
from lowmem_bp.bench.step import Stepper
from lowmem_bp.errors import BackendError, ConfigError, LowmemBPError

SMALL = Case("vit", "full", "fp32", features=48, heads=4, batch=2, length=16)
QUICK = tuple(name for name in DEFAULT if not name.startswith("compile"))


def by_name(rows):
    return {row.competitor: row for row in rows}


@pytest.fixture(scope="module")
def rows():
    return by_name(measure(SMALL, (*QUICK, "exact-torch"), repeats=3))


def test_every_competitor_is_measured_or_says_why_not(rows):
    assert set(rows) == set(COMPETITORS) - {"compile", "compile-budget"}
    for row in rows.values():
        if row.not_run is None:
            assert row.bytes_per_token > 0
            assert len(row.seconds) == 3
            assert row.forward.low <= row.forward.median <= row.forward.high
            assert row.backward.median > 0
            assert row.time_ratio.median > 0
        else:
            assert row.time_ratio is row.bytes_per_token is row.peak_bytes is None
    assert rows["liger"].not_run in ("liger_kernel is not installed", *_not_on("cpu"))
    for name in ("stock", "paper", "exact", "int8", "2bit", "checkpoint"):
        assert rows[name].not_run is None


def _not_on(device):
    return (f"Liger-Kernel has no kernels for {device!r}, only for GPUs",)


def test_gradients_and_bytes_of_the_competitors(rows):
    assert rows["stock"].ratio == 1
    assert rows["stock"].time_ratio.median == 1
    assert rows["checkpoint"].gradient_error == 0
    assert rows["exact"].gradient_error < 1e-5
    assert 1e-4 < rows["int8"].gradient_error < 2e-2
    assert rows["paper"].gradient_error > 0.05
    width = 4 * SMALL.features
    assert rows["checkpoint"].bytes_per_token == width  # its input, and nothing else
    for name, model in models(SMALL).items():
        assert rows[name].bytes_per_token == held(SMALL, model, name).bytes_per_token
    assert rows["exact"].ratio == pytest.approx(0.63, abs=0.01)


@pytest.mark.parametrize("block", bench.BLOCKS)
@pytest.mark.parametrize("tuning", ["full", "lora qv", "lora all"])
def test_exact_and_checkpoint_give_stock_s_gradient_in_every_block(block, tuning):
    case = replace(SMALL, block=block, tuning=tuning, layers=2)
    rows = by_name(measure(case, ("exact", "checkpoint")))
    assert rows["checkpoint"].gradient_error == 0
    assert rows["exact"].gradient_error < 1e-5
    assert rows["exact"].ratio < 1


def test_bert_block_is_that_of_torch():
    case = replace(SMALL, block="bert")
    block = case.build().blocks[0]
    layer = nn.TransformerEncoderLayer(48, 4, 192, 0.0, "gelu", batch_first=True)
    attention = (block.attn.q, block.attn.k, block.attn.v)
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([part.weight for part in attention]),
            "self_attn.in_proj_bias": torch.cat([part.bias for part in attention]),
            **{f"self_attn.out_proj.{k}": v for k, v in block.attn.o.state_dict().items()},
            **{f"linear1.{k}": v for k, v in block.mlp.fc1.state_dict().items()},
            **{f"linear2.{k}": v for k, v in block.mlp.fc2.state_dict().items()},
            **{f"norm1.{k}": v for k, v in block.norm1.state_dict().items()},
            **{f"norm2.{k}": v for k, v in block.norm2.state_dict().items()},
        }
    )
    x = case.input().detach()
    torch.testing.assert_close(block(x), layer(x), rtol=1e-4, atol=1e-5)


def test_failure_of_one_is_a_row_with_its_reason(monkeypatch):
    def at_once(model, case, backend):
        raise RuntimeError("no such kernel\nand a long trace")

    class Third(nn.Module):
        calls = 0

        def forward(self, x):
            Third.calls += 1
            if Third.calls > 2:
                raise MemoryError("full")
            return x * 1

    def later(model, case, backend):
        model.blocks.append(Third())

    monkeypatch.setitem(COMPETITORS, "checkpoint", at_once)
    monkeypatch.setitem(COMPETITORS, "paper", later)
    monkeypatch.setattr("lowmem_bp.bench.comparison.process_peaks", _no_peaks)
    rows = by_name(measure(SMALL, ("checkpoint", "paper", "exact"), repeats=2))
    assert rows["checkpoint"].not_run == "RuntimeError: no such kernel"
    assert rows["paper"].not_run == "MemoryError: full"
    assert rows["paper"].seconds == ()
    assert len(rows["exact"].seconds) == 2
    assert rows["exact"].peak_missing == "not today"
    table = list(bench.table(list(rows.values())))
    assert table[0][-1] == "note"
    notes = {row[0]: row[-1] for row in table[1:]}
    assert notes["checkpoint"] == "not run: RuntimeError: no such kernel"
    assert notes["exact"] == "peak not measured: not today"


def _no_peaks(case, names, backend):
    return dict.fromkeys(names, "not today")


def test_stock_that_does_not_run_is_an_error(monkeypatch):
    def broken(model, case, backend):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(COMPETITORS, "stock", broken)
    with pytest.raises(LowmemBPError, match="out of memory"):
        measure(SMALL, ("exact",))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident size as Linux tells it")
def test_peak_of_a_process_is_at_least_what_is_held():
    case = Case("vit", "full", "fp32", features=128, heads=4, batch=16, length=128, layers=4)
    peaks = process_peaks(case, ("stock", "exact", "checkpoint", "liger"), "auto")
    assert isinstance(peaks["liger"], str)
    stock = held(case, case.build(), "stock").activation_bytes
    assert stock < peaks["stock"] < 2 * stock
    assert peaks["checkpoint"] < 0.6 * peaks["stock"]
    assert peaks["exact"] < 0.9 * peaks["stock"]


def test_liger_is_put_in_the_place_of_norms_and_products(monkeypatch):
    functional = ModuleType("liger_kernel.transformers.functional")

    def layer_norm(x, weight, bias, eps):
        return F.layer_norm(x, weight.shape, weight, bias, eps)

    def rms_norm(x, weight, eps, casting_mode):
        assert casting_mode in ("llama", "gemma")
        return F.rms_norm(x, weight.shape, weight, eps)

    functional.liger_layer_norm, functional.liger_rms_norm = layer_norm, rms_norm
    functional.liger_swiglu = lambda gate, up: F.silu(gate) * up
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, functional.__name__, functional)
    for block in bench.BLOCKS:
        for tuning in ("full", "lora all"):
            case = replace(SMALL, block=block, tuning=tuning)
            stock, liger = case.build(), case.build()
            COMPETITORS["liger"](liger, replace(case, device="cuda"), "auto")
            first, second = Stepper(case)(stock).gradient, Stepper(case)(liger).gradient
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    assert measure(SMALL, ("liger",))[1].not_run == _not_on("cpu")[0]


def test_fewbit_is_put_in_the_place_of_activations(monkeypatch):
    fewbit = ModuleType("fewbit")
    fewbit.GELU = lambda bits: nn.GELU()
    fewbit.SiLU = lambda bits: nn.SiLU()
    monkeypatch.setitem(sys.modules, "fewbit", fewbit)
    for block in ("vit", "llama"):
        row = measure(replace(SMALL, block=block), ("fewbit",))[1]
        assert row.not_run is None
        assert row.gradient_error == 0


def test_wrong_arguments(monkeypatch):
    with pytest.raises(ConfigError, match="mesa: expected some of stock, paper"):
        measure(SMALL, ("mesa",))
    with pytest.raises(ConfigError, match="not a multiple of heads=5"):
        replace(SMALL, heads=5)
    with pytest.raises(ConfigError, match="block='resnet'"):
        replace(SMALL, block="resnet")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError):
        measure(SMALL, ("exact",), backend="triton")


def test_interval_holds_the_median():
    several = spread([3.0, 1.0, 2.0, 5.0, 4.0])
    assert several.low <= several.median == 3.0 <= several.high
    assert asdict(spread([2.0])) == {"median": 2.0, "low": None, "high": None}


def test_picture_shows_every_competitor(rows, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from lowmem_bp.bench.picture import memory_against_time, write_picture

    measured = list(rows.values())
    figure = memory_against_time(measured, "small")
    words = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert {row.competitor for row in measured if row.not_run is None} <= words
    footer = figure.get_supxlabel()
    assert footer.startswith("small")
    for row in measured:
        if row.not_run:
            assert row.not_run in footer.replace("\n", " ")
    path = write_picture(tmp_path / "picture.png", measured)
    assert imread(path).shape[1] > 1000


def test_summary_holds_every_figure(rows, tmp_path):
    path = bench.write(tmp_path / "run", list(rows.values()), asdict(SMALL))
    summary = json.loads(path.read_text())
    stored = summary["results"]["measurements"]
    assert [row["competitor"] for row in stored] == list(rows)
    assert stored[1]["time_ratio"]["median"] == rows["paper"].time_ratio.median
    assert summary["device"]["device"] == "cpu"


@pytest.mark.slow
@pytest.mark.timeout(400)  # a cold cache of the compiler
@pytest.mark.filterwarnings("ignore")  # what torch's compiler does inside is not ours
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a compiler")
def test_compiled_competitors():
    names = ("compile", "compile-budget")
    rows = by_name(measure(SMALL, names, repeats=1))
    for name in names:
        assert rows[name].not_run is None
        assert rows[name].gradient_error < 1e-5
    assert rows["compile"].ratio == pytest.approx(1, abs=0.05)
    assert rows["compile-budget"].ratio < 0.6  # the budget is in force for this one alone
