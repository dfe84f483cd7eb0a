"""A converted model goes on working with everything people do to models."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lowmem_bp.lean
from lowmem_bp import convert, converted, revert
from lowmem_bp.errors import ConfigError, ConvertError
from lowmem_bp.lean import is_lean


class Block(nn.Module):
    """Norm, linear, activation, dropout, linear, with a place to meddle after each."""

    def __init__(self, width=16, act=None, norm=None):
        super().__init__()
        self.norm = norm or nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.act = act or nn.GELU()
        self.drop = nn.Dropout(0.1)
        self.down = nn.Linear(4 * width, width)
        self.meddle = {}

    def forward(self, x):
        meddle = self.meddle
        h = meddle.get("norm", _same)(self.norm(x))
        h = meddle.get("act", _same)(self.act(self.up(h)))
        h = meddle.get("drop", _same)(self.drop(h))
        return x + self.down(h)


def _same(x):
    return x


def block(width=16, **options):
    torch.manual_seed(0)
    model = Block(width, **options)
    with torch.no_grad():
        for parameter in model.norm.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model, (torch.randn(6, width, requires_grad=True),)


@pytest.fixture
def same(zoo):
    """Assert that a converted copy of a model gives what the model gives."""

    def check(model, inputs, change=lambda model: None, mode="exact", **options):
        lean = copy.deepcopy(model)
        report = convert(lean, mode, **options)
        assert report.changed
        change(model)
        change(lean)
        stock, result = zoo.run(model, inputs), zoo.run(lean, inputs)
        zoo.assert_same(result, stock)
        return lean

    return check


# --- hooks ------------------------------------------------------------------------------------


def test_forward_hooks_see_the_same_tensors(zoo):
    model = zoo.build("bert").eval()
    inputs = zoo.inputs_of("bert")
    seen = {}

    def note(name):
        return lambda module, args, output: seen.setdefault(name, []).append(output.detach())

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        model(**inputs)
    convert(model)
    assert all(len(outputs) == 1 for outputs in seen.values())  # converting calls none of them
    with torch.no_grad():
        model(**inputs)
    assert all(len(outputs) == 2 for outputs in seen.values())
    assert all(zoo.error(outputs[1], outputs[0]) <= 1e-5 for outputs in seen.values())
    for handle in handles:
        handle.remove()


def test_converting_calls_no_hook_of_a_gated_mlp(zoo):
    model = zoo.build("llama")
    for module in model.modules():
        module.register_forward_hook(lambda *args: pytest.fail("a hook saw synthetic input"))
        module.register_forward_pre_hook(lambda *args: pytest.fail("a hook saw synthetic input"))
    assert convert(model).changed


@pytest.mark.parametrize("part", ["norm", "up", "act", "drop", "down"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_forward_hooks_may_replace_outputs_and_inputs(same, part, before):
    def change(model):
        module = model.get_submodule(part)
        if before:
            module.register_forward_pre_hook(lambda module, args: (2 * args[0] + 1,))
        else:
            module.register_forward_hook(lambda module, args, output: output.sin())

    same(*block(), change=change)


@pytest.mark.parametrize("part", ["norm", "act", "drop"])
def test_forward_hooks_may_modify_outputs_in_place(same, part):
    def change(model):
        hook = lambda module, args, output: output.mul_(3)  # noqa: E731
        model.get_submodule(part).register_forward_hook(hook)

    same(*block(), change=change)


@pytest.mark.parametrize("part", ["", "norm", "up", "act", "drop", "down"])
def test_full_backward_hooks(zoo, part):
    model, inputs = block()
    lean = copy.deepcopy(model)
    convert(lean)
    seen = []
    for each in (model, lean):
        module = each.get_submodule(part)
        module.register_full_backward_pre_hook(lambda module, grads: (grads[0] * 2,))
        module.register_full_backward_hook(
            lambda module, inputs, outputs: seen.append((inputs[0], outputs[0]))
        )
    stock, result = zoo.run(model, inputs), zoo.run(lean, inputs)
    zoo.assert_same(result, stock)
    assert len(seen) == 2
    for expected, gradient in zip(*seen, strict=True):
        assert zoo.error(gradient, expected) <= 1e-5


# --- in-place changes between modules ---------------------------------------------------------


@pytest.mark.parametrize("part", ["norm", "act", "drop"])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.mul_(2),
        lambda x: x.view(-1).add_(1).view(x.shape),
        lambda x: F.relu_(x),
        lambda x: (x[0].zero_(), x)[1],
        lambda x: x.detach().requires_grad_(),
        lambda x: x.clone(),
        lambda x: x.t().contiguous().t(),
    ],
    ids=["mul_", "view", "relu_", "part", "detach", "clone", "strides"],
)
@pytest.mark.parametrize("mode", ["exact", "int8"])
def test_what_happens_between_two_modules_is_seen(zoo, part, change, mode):
    model, inputs = block()
    model.meddle = {part: change}
    lean = copy.deepcopy(model)
    convert(lean, mode)
    stock, result = zoo.run(model, inputs), zoo.run(lean, inputs)
    tolerance = 1e-5 if mode == "exact" else 2e-2
    zoo.assert_same(result, stock, 1e-5, tolerance)


def test_changing_the_input_of_an_activation_in_place_fails_as_it_does_without(zoo):
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def step(model):
        hidden = model[0](torch.ones(2, 4))
        output = model[1](hidden)
        hidden.add_(1)
        model[2](output).sum().backward()

    for _ in range(2):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            step(model)
        convert(model)


def test_in_place_on_the_output_of_a_norm_without_weight_is_refused_by_torch():
    """Such a norm keeps its very output; torch notices, so that no gradient is silently wrong."""
    model = nn.Sequential(nn.LayerNorm(8, elementwise_affine=False))
    convert(model)
    output = model(torch.randn(2, 8, requires_grad=True)).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


# --- copies, files ----------------------------------------------------------------------------


def _deepcopy(model):
    return copy.deepcopy(model)


def _pickle(model):
    return pickle.loads(pickle.dumps(model))


def _save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [_deepcopy, _pickle, _save])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit", "layer-gelu-pre"])
@pytest.mark.parametrize("mode", ["exact", "paper"])
def test_copies_are_converted_and_independent(zoo, family, copied, mode):
    model = zoo.build(family, dropout=0.1).train()
    inputs = zoo.inputs_of(family)
    stock = zoo.run(model, inputs)
    count = len(convert(model, mode).changed)
    expected = zoo.run(model, inputs)
    twin = copied(model)
    zoo.assert_bit_equal(zoo.run(twin, inputs), expected)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    zoo.assert_bit_equal(zoo.run(model, inputs), expected)
    assert revert(twin) == count
    zoo.assert_bit_equal(zoo.run(model, inputs), expected)
    assert revert(model) == count
    zoo.assert_bit_equal(zoo.run(model, inputs), stock)


@pytest.mark.parametrize("family", ["llama", "gpt2", "vit"])
def test_save_pretrained_loads_into_the_original_class(zoo, family, tmp_path):
    model = zoo.build(family).eval()
    inputs = zoo.inputs_of(family)
    stock = zoo.run(model, inputs)
    convert(model)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert not any(is_lean(module) for module in loaded.modules())
    zoo.assert_bit_equal(zoo.run(loaded, inputs), stock)


def test_state_dicts_move_between_converted_and_original(zoo):
    model, other = zoo.build("bert", seed=0), zoo.build("bert", seed=1)
    inputs = zoo.inputs_of("bert")
    expected = zoo.run(model.eval(), inputs)
    convert(other.eval())
    other.load_state_dict(model.state_dict())
    zoo.assert_same(zoo.run(other, inputs), expected)
    third = zoo.build("bert", seed=2).eval()
    third.load_state_dict(other.state_dict())
    zoo.assert_bit_equal(zoo.run(third, inputs), expected)


# --- use --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2"])
def test_generate_gives_the_same_tokens(zoo, family):
    model = zoo.build(family).eval()
    prompt = zoo.inputs_of(family)
    options = {"max_new_tokens": 12, "do_sample": False}
    expected = model.generate(**prompt, **options)
    convert(model)
    for use_cache in (True, False):
        assert torch.equal(model.generate(**prompt, **options, use_cache=use_cache), expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("family", ["layer-gelu-pre", "encoder-gelu-pre", "encoder-relu-post"])
def test_torchs_fast_path_in_eval_mode(zoo, family):
    model = zoo.build(family, dropout=0.1)
    inputs = zoo.inputs_of(family)
    trained = zoo.run(model.train(), inputs)
    with torch.inference_mode():
        expected = model.eval()(*inputs)
    convert(model)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert zoo.error(model.eval()(*inputs), expected) <= 1e-5
    padding = torch.zeros(inputs[0].shape[:2], dtype=torch.bool)
    padding[0, 5:] = True
    with torch.no_grad():
        mine = model(*inputs, src_key_padding_mask=padding)
        revert(model)
        theirs = model(*inputs, src_key_padding_mask=padding)
    assert zoo.error(mine[~padding], theirs[~padding]) <= 1e-5
    convert(model)
    zoo.assert_same(zoo.run(model.train(), inputs), trained)


@pytest.mark.parametrize("family", ["llama", "bert", "vit"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_attached(zoo, family, context):
    model = zoo.build(family, dropout=0.1)
    inputs = zoo.inputs_of(family)
    for training in (True, False):
        model.train(training)
        with context():
            torch.manual_seed(0)
            expected = model(**inputs)[0]
            with converted(model):
                torch.manual_seed(0)
                result = model(**inputs)[0]
        assert zoo.error(result, expected) <= 1e-5
        assert not result.requires_grad
        assert vars(result) == {}


def test_features_made_in_inference_mode_can_be_trained_on(zoo):
    """A frozen encoder in inference mode, then a head with dropout: common, and a trap."""
    head = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 2))
    with torch.inference_mode():
        features = torch.randn(4, 8)
    stock = zoo.run(head, (features,))
    convert(head)
    zoo.assert_same(zoo.run(head, (features,)), stock)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit", "layer-relu-pre"])
@pytest.mark.parametrize("mode", ["exact", "2bit"])
def test_freezing_and_unfreezing_after_conversion(zoo, family, mode):
    model = zoo.build(family, dropout=0.1).train()
    inputs = zoo.inputs_of(family, embeds=True)
    lean = zoo.twin(model)
    convert(lean, mode)
    for keep in ("norm", "bias", "weight", "1.", "down fc2 output c_proj linear2"):
        for each in (model, lean):
            for name, parameter in each.named_parameters():
                parameter.requires_grad_(any(word in name.lower() for word in keep.split()))
        zoo.assert_same(zoo.run(lean, inputs), zoo.run(model, inputs))
    for each in (model, lean):
        each.requires_grad_(False)
    zoo.assert_same(zoo.run(lean, inputs), zoo.run(model, inputs))
    for each in (model, lean):
        each.requires_grad_(True)
    zoo.assert_same(zoo.run(lean, inputs), zoo.run(model, inputs))


def test_output_hidden_states_and_attentions(zoo):
    for family in ("llama", "bert", "vit"):
        model = zoo.build(family).eval()
        inputs = {**zoo.inputs_of(family), "output_hidden_states": True}
        stock = zoo.run(model, inputs)  # its loss weighs every hidden state
        assert len(stock.outputs) >= 4
        report = convert(model, example_inputs=inputs)
        assert report.difference <= 1e-5
        zoo.assert_same(zoo.run(model, inputs), stock)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("family", ["llama", "bert", "gpt2", "vit"])
@pytest.mark.parametrize("mode", ["exact", "int8"])
def test_gradient_checkpointing(zoo, family, mode):
    model = zoo.build(family, dropout=0.1).train()
    inputs = zoo.inputs_of(family)
    convert(model, mode)
    expected = zoo.run(model, inputs)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    zoo.assert_same(zoo.run(model, inputs), expected)
    revert(model)
    report = convert(model, mode, inputs)
    assert any("gradient checkpointing is on" in note for note in report.notes)
    zoo.assert_same(zoo.run(model, inputs), expected)


@pytest.mark.parametrize("family", ["llama", "bert", "vit"])
def test_training_goes_step_by_step_as_without(zoo, family):
    model = zoo.build(family, dropout=0.1).train()
    inputs = zoo.inputs_of(family)
    labels = torch.tensor([0, 1, 4]) if family in ("bert", "vit") else inputs["input_ids"]
    lean = zoo.twin(model)
    convert(lean, example_inputs=inputs)
    losses = {}
    for each in (model, lean):
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(each.parameters(), lr=0.02)
        for _step in range(6):
            optimizer.zero_grad()
            loss = each(**inputs, labels=labels).loss
            loss.backward()
            optimizer.step()
            losses.setdefault(each is lean, []).append(loss.item())
    assert all(map(torch.isfinite, torch.tensor(losses[True])))
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    assert losses[True][-1] < losses[True][0]


def test_gradients_accumulate_and_graphs_can_be_kept(zoo):
    model, inputs = block()
    lean = copy.deepcopy(model)
    convert(lean)
    for each in (model, lean):
        torch.manual_seed(0)
        loss = each(*inputs).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        each(*inputs).sum().backward()
    for mine, theirs in zip(lean.parameters(), model.parameters(), strict=True):
        assert zoo.error(mine.grad, theirs.grad) <= 1e-5


# --- sharing ----------------------------------------------------------------------------------


def test_one_module_called_twice(same):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block()[0]

        def forward(self, x):
            return self.block(self.block(x))

    same(Twice(), block()[1])


def test_layers_shared_as_in_albert(zoo):
    hf = pytest.importorskip("transformers")
    config = hf.AlbertConfig(
        vocab_size=97,
        embedding_size=16,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    model = hf.AlbertModel(config).train()
    inputs = zoo.inputs_of("bert")
    stock = zoo.run(model, inputs)
    report = convert(model, example_inputs=inputs)
    assert report.ratio < 0.75
    zoo.assert_same(zoo.run(model, inputs), stock)


def test_tied_weights_and_shared_modules(same, zoo):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            act = nn.GELU()
            self.first, self.second = block(act=act)[0], block(act=act)[0]
            self.second.norm = self.first.norm
            self.second.up.weight = self.first.up.weight

        def forward(self, x):
            return self.second(self.first(x))

    lean = same(Tied(), block()[1])
    assert lean.second.norm is lean.first.norm
    assert lean.second.up.weight is lean.first.up.weight
    assert revert(lean) == len([m for m in Tied().modules() if not list(m.children())])


# --- what is left alone -----------------------------------------------------------------------


class ScaledRMSNorm(nn.Module):
    """Has the name and the parts of an RMSNorm, and computes something else."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = 1e-6

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + self.eps)


class GatedRMSNorm(nn.Module):
    """With the second argument that Mamba's norm takes."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = 1e-6

    def forward(self, x, gate=None):
        x = x if gate is None else x * F.silu(gate)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class LateRMSNorm(nn.Module):
    """As in OLMo 2: rounded after the weight, not before."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))
        self.eps = 1e-6

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * wide).to(x.dtype)


class ShiftedLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x) + 1


class LoudDropout(nn.Dropout):
    def forward(self, x):
        return x + 100


class SiLUActivation(nn.Module):
    """The name of transformers' class, another function."""

    def forward(self, x):
        return x * torch.sigmoid(2 * x)


class Conv1D(nn.Module):
    """The name of transformers' class, the weight the other way round."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))
        self.bias = None

    def forward(self, x):
        return x @ self.weight.t()


class DroppingMLP(nn.Module):
    """The parts of a Llama MLP with a dropout between, which evaluation hides."""

    def __init__(self, width):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down_proj, self.act_fn = nn.Linear(2 * width, width), nn.SiLU()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.down_proj(self.drop(self.act_fn(self.gate_proj(x)) * self.up_proj(x)))


@pytest.mark.parametrize(
    ("stranger", "reason"),
    [
        (ScaledRMSNorm(8), "ScaledRMSNorm computes something else than a known RMSNorm"),
        (GatedRMSNorm(8), "its forward takes more than the one input"),
        (ShiftedLayerNorm(8), "ShiftedLayerNorm computes something else than a known RMSNorm"),
        (LoudDropout(0.1), "its class has a forward of its own"),
        (SiLUActivation(), "SiLUActivation computes something else than silu"),
        (Conv1D(8), "its class has a forward of its own"),
        (DroppingMLP(8).eval(), "its forward is not down_proj"),
        (nn.GroupNorm(2, 8), "normalises over the batch"),
        (nn.GLU(), "not a known activation"),
        (nn.Hardtanh(), "not a known activation"),
        (nn.ReLU(), "torch keeps ReLU's output"),
        (nn.ReLU(inplace=True), "works in place"),
        (nn.SiLU(inplace=True), "works in place"),
        (nn.Dropout(0.1, inplace=True), "works in place"),
        (nn.Dropout(0.0), "p=0: keeps nothing"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_strangers_are_left_alone_with_a_reason(stranger, reason):
    model = nn.Sequential(nn.Linear(8, 8), stranger)
    kind = type(stranger)
    report = convert(model)
    assert type(stranger) is kind
    reasons = {skip.name: skip.reason for skip in report.skipped}
    assert reason in reasons["1"]
    assert reasons["1"] in str(report)
    assert "0" in {change.name for change in report.changed}


@pytest.mark.parametrize("weight", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_when_a_norm_rounds_is_found_out_in_fp32(zoo, weight, dtype):
    """Converted in fp32, then cast or used under autocast: the result's dtype stays right."""
    model = nn.Sequential(LateRMSNorm(16))
    lean = copy.deepcopy(model)
    assert convert(lean).changed
    x = torch.randn(5, 16, dtype=dtype)
    expected, result = model.to(weight)(x), lean.to(weight)(x)
    assert result.dtype == expected.dtype == dtype
    assert zoo.error(result, expected) <= (1e-5 if dtype == torch.float32 else 2**-9)


def test_nothing_to_convert():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten())
    report = convert(model, example_inputs=torch.tensor([[1, 2]]))
    assert report.changed == ()
    assert report.notes == ("nothing to convert: see the reasons for what was left alone",)
    assert revert(model) == 0


def test_model_without_trainable_parameters_says_so():
    model, _inputs = block()
    model.requires_grad_(False)
    report = convert(model)
    assert "no parameter needs a gradient" in report.notes[0]


def test_converting_twice_does_nothing_the_second_time(zoo):
    model = zoo.build("llama")
    inputs = zoo.inputs_of("llama")
    first = convert(model, "int8", inputs)
    second = convert(model, "int8", inputs)
    assert second.changed == ()
    assert second.notes == ("already converted: nothing done",)
    assert second.ratio == 1.0
    assert {skip.name for skip in second.skipped} == {change.name for change in first.changed}
    assert revert(model) == len(first.changed)
    assert revert(model) == 0


def test_another_mode_needs_revert_first(zoo):
    model = zoo.build("bert")
    changed = convert(model, "exact").changed
    before = [type(module) for module in model.modules()]
    with pytest.raises(ConvertError, match=r"already, with mode='exact'; call .*revert"):
        convert(model, "int8")
    with pytest.raises(ConvertError, match="'part' is converted already"):
        convert(nn.ModuleDict({"part": model}), "int8")
    assert [type(module) for module in model.modules()] == before
    assert revert(model) == len(changed)
    convert(model, "int8")


def test_parts_of_a_model_can_be_converted(zoo):
    model = zoo.build("llama")
    inputs = zoo.inputs_of("llama")
    stock = zoo.run(model, inputs)
    convert(model.model.layers[0])
    assert not is_lean(model.model.layers[1].mlp)
    zoo.assert_same(zoo.run(model, inputs), stock)
    report = convert(model)
    assert not any("layers.0" in change.name for change in report.changed)
    zoo.assert_same(zoo.run(model, inputs), stock)
    revert(model)
    zoo.assert_bit_equal(zoo.run(model, inputs), stock)


def test_reverting_what_was_never_converted_is_zero(zoo):
    model = zoo.build("bert")
    before = [type(module) for module in model.modules()]
    assert revert(model) == 0
    assert [type(module) for module in model.modules()] == before


def test_with_block_puts_back_also_after_an_error(zoo):
    model, inputs = block()
    stock = zoo.run(model, inputs)

    def fail():
        with converted(model, example_inputs=inputs) as report:
            assert report.changed
            assert is_lean(model.norm)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert type(model.norm) is nn.LayerNorm
    zoo.assert_bit_equal(zoo.run(model, inputs), stock)
    with converted(model, "int8"):
        pass
    assert revert(model) == 0


@pytest.mark.parametrize("mode", ["exakt", "4bit", "", None])
def test_unknown_mode(mode):
    model = block()[0]
    with pytest.raises(ConfigError, match=f"mode={mode!r}: expected one of 'exact', 'int8'"):
        convert(model, mode)
    assert not is_lean(model.norm)


@pytest.mark.parametrize("inputs", [(), {}, "text", 3])
def test_unusable_example_inputs(inputs):
    model = block()[0]
    with pytest.raises(ConfigError, match="example_inputs is"):
        convert(model, example_inputs=inputs)
    assert not is_lean(model.norm)


# --- failures leave the model as it was -------------------------------------------------------


def _state(model):
    return [(type(m), set(vars(m)), len(m._forward_hooks)) for m in model.modules()]


def test_an_output_that_differs_is_undone(zoo, monkeypatch):
    model, inputs = block()
    stock = zoo.run(model, inputs)
    before = _state(model)
    monkeypatch.setattr(lowmem_bp.lean, "linear", lambda x, w, b=None, **k: F.linear(x, w, b) + 1)
    with pytest.raises(ConvertError, match=r"output differs by .* so the conversion was undone"):
        convert(model, example_inputs=inputs)
    assert _state(model) == before
    zoo.assert_bit_equal(zoo.run(model, inputs), stock)


def test_a_failed_second_conversion_keeps_the_first(zoo, monkeypatch):
    model, inputs = block()
    convert(model.norm)
    before = _state(model)
    monkeypatch.setattr(lowmem_bp.lean, "linear", lambda x, w, b=None, **k: F.linear(x, w, b) + 1)
    with pytest.raises(ConvertError):
        convert(model, example_inputs=inputs)
    assert _state(model) == before
    assert is_lean(model.norm)


def test_a_norm_that_lies_is_found_out_on_synthetic_input(monkeypatch):
    model, _inputs = block()
    true = lowmem_bp.lean.norm
    monkeypatch.setattr(lowmem_bp.lean, "norm", lambda *a, **k: true(*a, **k) * 1.001)
    report = convert(model)
    assert {skip.name: skip.kind for skip in report.skipped} == {"norm": "norm"}
    assert "differs" in report.skipped[0].reason
    assert type(model.norm) is nn.LayerNorm


@pytest.mark.parametrize("call", [1, 2], ids=["before", "after"])
def test_an_exception_during_the_example_leaves_the_model_as_it_was(zoo, call):
    model, inputs = block()
    stock = zoo.run(model, inputs)
    calls = []

    def fail(x):
        calls.append(x)
        if len(calls) == call:
            raise KeyboardInterrupt
        return x

    model.meddle = {"act": fail}
    before = _state(model)
    with pytest.raises(KeyboardInterrupt):
        convert(model, example_inputs=inputs)
    model.meddle = {}
    assert _state(model) == before
    zoo.assert_bit_equal(zoo.run(model, inputs), stock)


def test_converting_leaves_buffers_gradients_and_random_state_alone():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2))
    model(torch.randn(5, 4)).sum().backward()
    buffers = copy.deepcopy(dict(model.named_buffers()))
    gradient = model[0].weight.grad.clone()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    convert(model, example_inputs=torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert torch.equal(model[0].weight.grad, gradient)
    assert model.training


def test_a_report_holds_no_tensors_of_the_model(zoo):
    report = convert(zoo.build("llama"), example_inputs=zoo.inputs_of("llama"))
    assert report.before.output is None
    assert report.after.output is None
    pickle.dumps(report)
    copy.deepcopy(report)


@pytest.mark.parametrize("shape", [(0, 16), (1, 16), (2, 0, 16), (16,), (2, 3, 4, 16)], ids=str)
def test_odd_batches(same, shape):
    model, _inputs = block()
    same(model.eval(), (torch.randn(shape, requires_grad=True),))
