"""profile() counts what autograd holds: hand-computed values for small graphs."""

import json

import pytest
import torch
from torch import nn

from lowmem_bp import convert, profile
from lowmem_bp.errors import ConfigError
from lowmem_bp.memory import WEIGHT_COPY


def kinds(model, inputs, **options):
    return profile(model, inputs, **options).by_kind()


def test_activation_keeps_its_input_and_linear_what_it_reads():
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    # The first linear keeps the input, which is the caller's; GELU 4 x 32 floats; the last linear
    # the GELU's output, as large.
    assert kinds(model, torch.randn(4, 8)) == {"activation": 4 * 32 * 4, "linear": 4 * 32 * 4}


def test_storage_saved_twice_counts_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pre, self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            h = self.pre(x)
            return self.a(h) + self.b(h.view(2, 2, 8)).view(4, 4)

    assert profile(Twice(), torch.randn(4, 8)).total_bytes == 4 * 8 * 4


def test_whole_storage_of_a_saved_view_counts():
    class Slice(nn.Module):
        def forward(self, x):
            return (x * 2)[:, :1].exp().sin()  # exp keeps its output, sin its input: the same

    held = profile(Slice(), torch.randn(4, 100, requires_grad=True)).held
    assert [item.nbytes for item in held] == [4 * 4]


def test_node_that_died_during_forward_is_not_counted():
    class Discards(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            self.linear(x).exp()
            return self.linear(x)

    assert profile(Discards(), torch.randn(4, 8)).total_bytes == 0


@pytest.mark.parametrize("rows", [8, 32, 256])
def test_activation_of_a_weights_shape_is_no_weight_copy(rows):
    """The number of tokens may equal a layer's width."""
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    found = kinds(model, torch.randn(rows, 8))
    assert found == {"activation": rows * 32 * 4, "linear": rows * 32 * 4}
    assert convert(model, example_inputs=torch.randn(rows, 8)).ratio == 0.5


def test_autocasts_weight_copies_are_told_apart():
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    with torch.autocast("cpu", torch.bfloat16):
        report = profile(model, torch.randn(4, 8))
    # The first weight is needed only for the gradient of the input, which needs none.
    assert report.by_kind()[WEIGHT_COPY] == 32 * 8 * 2
    assert report.activation_bytes == report.total_bytes - 32 * 8 * 2


def test_tokens_and_bytes_per_token():
    report = profile(nn.Sequential(nn.Linear(8, 32), nn.GELU()), torch.randn(3, 5, 8))
    assert report.tokens == 15
    assert report.bytes_per_token == 32 * 4


def test_loss_is_counted_when_given():
    model = nn.Linear(8, 4)
    report = profile(model, torch.randn(4, 8), loss=lambda y: y.exp().sum())
    assert report.by_kind() == {"loss": 4 * 4 * 4}


def test_mode_and_buffers_are_as_before():
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    profile(model, torch.randn(4, 8))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training


def test_random_state_is_put_back():
    torch.manual_seed(3)
    x, model = torch.randn(4, 8), nn.Dropout(0.5)
    state = torch.get_rng_state()
    profile(model, x)
    assert torch.equal(torch.get_rng_state(), state)


def test_by_module_and_tables():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 32), nn.GELU()), nn.Linear(32, 8))
    report = profile(model, torch.randn(4, 8), label="mine")
    assert report.by_module() == {"0.1": 512, "1": 512}
    assert report.by_module(depth=1) == {"0": 512, "1": 512}
    convert(model)
    after = profile(model, torch.randn(4, 8))
    table = after.table(report)
    assert "0.500" in table.splitlines()[-2]
    assert "activation" in report.table()


def test_json_and_page(tmp_path):
    pytest.importorskip("matplotlib")
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
    report = profile(model, torch.randn(4, 8), label="<b>mine</b>")
    report.to_json(tmp_path / "m.json")
    stored = json.loads((tmp_path / "m.json").read_text())
    assert stored["total_bytes"] == sum(item["nbytes"] for item in stored["held"]) == 1024
    report.to_html(tmp_path / "m.html", baseline=report)
    page = (tmp_path / "m.html").read_text()
    assert "<b>mine" not in page
    assert "<svg" in page


@pytest.mark.parametrize("inputs", [{}, (), None, 3])
def test_wrong_inputs_are_named(inputs):
    with pytest.raises(ConfigError, match="example_inputs is"):
        profile(nn.Linear(2, 2), inputs)


def test_wrong_model_is_named():
    with pytest.raises(ConfigError, match=r"model is int; expected a torch\.nn\.Module"):
        profile(3, torch.randn(2))


def test_model_that_raises_is_left_without_hooks():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        profile(model, torch.randn(2, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_tokens_of_compiled_code_are_those_of_its_input():
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    compiled, x = torch.compile(model, backend="aot_eager"), torch.randn(4, 3, 8)
    compiled(x)  # what is compiled by now runs without the modules, whose hooks would count
    report = profile(compiled, x)
    assert report.tokens == 12


def test_images_in_compiled_code_count_as_one_each():
    # They have no rows of features: how many patches a model makes of them is not to be seen.
    compiled = torch.compile(nn.Conv2d(3, 4, 2), backend="aot_eager")
    assert profile(compiled, torch.randn(5, 3, 8, 8)).tokens == 5
