"""Merging norms into linear layers, and the trace that finds out where it is possible."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import lowmem_bp
from lowmem_bp import merge_norms, unmerge_norms
from lowmem_bp.conversion.trace import Use, consumers, functional_calls
from lowmem_bp.errors import ConfigError, ConvertError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

# Norms of the zoo's two-block models that only linear layers read, and those layers.
MERGEABLE = {
    "llama": {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    },
    "gemma2": {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "pre_feedforward_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    },
    "gpt2": {"ln_1": ("attn.c_attn",), "ln_2": ("mlp.c_fc",)},
    "vit": {
        "layernorm_before": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "layernorm_after": ("mlp.fc1",),
    },
    "dinov2": {
        "norm1": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "norm2": ("mlp.fc1",),
    },
}
MERGEABLE["qwen3"] = MERGEABLE["gemma"] = MERGEABLE["llama"]


def outputs(zoo, model, inputs):
    with torch.no_grad():
        result = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return zoo.tensors_in(result)


def worst(zoo, mine, theirs):
    return max(map(zoo.error, mine, theirs))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert unmerge_norms(model) == 0


def reasons(report):
    return {skip.name: skip.reason for skip in report.skipped}


def block(norm=None, *linears):
    """A norm with a random weight (and bias) and linear layers behind it, summed."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm or nn.LayerNorm(8)
            self.linears = nn.ModuleList(linears or [nn.Linear(8, 8), nn.Linear(8, 8)])
            for parameter in self.norm.parameters():
                nn.init.uniform_(parameter, 0.5, 1.5)

        def forward(self, x):
            y = self.norm(x)
            return sum(linear(y) for linear in self.linears)

    return Block()


@pytest.fixture
def x():
    return torch.randn(5, 8)


# --- real architectures ---------------------------------------------------------------------


@pytest.mark.parametrize("family", MERGEABLE)
def test_merged_model_computes_the_same_and_comes_back(family, zoo):
    model, inputs = zoo.build(family), zoo.inputs_of(family)
    before, expected = state(model), outputs(zoo, model, inputs)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}

    report = merge_norms(model, inputs)
    merged = {merge.name: merge.linears for merge in report.merged}
    assert len(merged) == 4
    for name, linears in merged.items():
        prefix, _, last = name.rpartition(".")
        assert {linear.removeprefix(f"{prefix}.") for linear in linears} == set(
            MERGEABLE[family][last]
        )
        norm = model.get_submodule(name)
        neutral = 0.0 if family.startswith("gemma") else 1.0
        assert torch.equal(norm.weight, torch.full_like(norm.weight, neutral))
        assert getattr(norm, "bias", None) is None or not norm.bias.any()
        assert not any(p.requires_grad for p in norm.parameters())
    assert model.state_dict().keys() == before.keys()
    assert report.new_keys == ()
    assert worst(zoo, outputs(zoo, model, inputs), expected) < 1e-5

    assert unmerge_norms(model) == 4
    after = model.state_dict()
    assert max(zoo.error(after[name], before[name]) for name in before) < 1e-6
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trained
    assert worst(zoo, outputs(zoo, model, inputs), expected) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "vit", "dinov2"])
def test_merged_checkpoint_is_an_ordinary_one(family, zoo, tmp_path):
    model, inputs = zoo.build(family).eval(), zoo.inputs_of(family)
    expected = outputs(zoo, model, inputs)
    merge_norms(model, inputs)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert worst(zoo, outputs(zoo, loaded, inputs), expected) < 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta", "layer-gelu-post"])
def test_post_norm_models_are_left_alone(family, zoo):
    model, inputs = zoo.build(family), zoo.inputs_of(family)
    inputs = inputs[0] if isinstance(inputs, tuple) else inputs
    before = state(model)
    report = merge_norms(model, inputs)
    assert report.merged == ()
    assert any("uses its output: add" in reason for reason in reasons(report).values())
    assert_untouched(model, before)


def test_norms_that_something_else_reads_are_left_alone(zoo):
    report = merge_norms(zoo.build("gemma2"), zoo.inputs_of("gemma2"))
    said = reasons(report)
    assert "uses its output: add" in said["model.layers.0.post_attention_layernorm"]
    assert "slice" in said["model.norm"]
    said = reasons(merge_norms(zoo.build("qwen3"), zoo.inputs_of("qwen3")))
    assert "Qwen3Attention" in said["model.layers.1.self_attn.q_norm"]
    assert "4 norms" in str(merge_norms(zoo.build("llama"), zoo.inputs_of("llama")))


def test_bfloat16_is_rounded_once(zoo):
    model, inputs = zoo.build("llama", dtype=torch.bfloat16), zoo.inputs_of("llama")
    norm = model.model.layers[0].input_layernorm.weight.double()
    expected = model.model.layers[0].self_attn.q_proj.weight.double() * norm
    merge_norms(model, inputs)
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, expected.bfloat16())


# --- together with convert ------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "vit"])
def test_merge_and_convert_in_either_order(family, zoo):
    stock, inputs = zoo.build(family), zoo.inputs_of(family)
    first, second = zoo.twin(stock), zoo.twin(stock)
    merge_norms(stock, inputs)
    expected = zoo.run(stock, inputs)

    lowmem_bp.convert(first, example_inputs=inputs)
    assert len(merge_norms(first, inputs).merged) == 4
    zoo.assert_same(zoo.run(first, inputs), expected)

    merge_norms(second, inputs)
    report = lowmem_bp.convert(second, example_inputs=inputs)
    assert sum(change.kind == "norm" for change in report.changed) >= 4
    zoo.assert_same(zoo.run(second, inputs), expected)

    for model in (first, second):
        assert unmerge_norms(model) == 4
        assert lowmem_bp.revert(model) > 0


# --- training -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "vit"])
def test_gradients_are_those_of_the_merged_weight(family, zoo):
    # W' sees z where W saw gamma z + beta: dL/dW' = dL/dW diag(1 / gamma) for beta = 0.
    stock, inputs = zoo.build(family), zoo.inputs_of(family)
    with torch.no_grad():
        for name, parameter in stock.named_parameters():
            if name.endswith("bias") and ("ln_" in name or "norm" in name):
                parameter.zero_()
    merged = zoo.twin(stock)
    report = merge_norms(merged, inputs)
    mine, theirs = zoo.run(merged, inputs), zoo.run(stock, inputs)
    for merge in report.merged:
        gamma = stock.get_submodule(merge.name).weight
        assert f"{merge.name}.weight" not in mine.grads
        for name in merge.linears:
            grad = theirs.grads[f"{name}.weight"]
            expected = grad / gamma[:, None] if family == "gpt2" else grad / gamma
            assert zoo.error(mine.grads[f"{name}.weight"], expected) < 1e-5
    rest = [name for name in mine.grads if not any(name[:-7] in m.linears for m in report.merged)]
    assert len(rest) > 5
    mine.grads, theirs.grads = ({name: r.grads[name] for name in rest} for r in (mine, theirs))
    assert zoo.gradient_error(mine, theirs) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "vit"])
@pytest.mark.parametrize("thaw", [False, True])
def test_what_was_learned_survives_unmerging(family, thaw, zoo):
    model, inputs = zoo.build(family), zoo.inputs_of(family)
    merge_norms(model, inputs)
    if thaw:  # as a trainer for all parameters does
        model.requires_grad_(True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    before = outputs(zoo, model, inputs)
    for seed in range(3):
        zoo.run(model, inputs, seed)
        optimizer.step()
    learned = outputs(zoo, model, inputs)
    assert worst(zoo, learned, before) > 1e-3
    assert unmerge_norms(model) == 4
    assert worst(zoo, outputs(zoo, model, inputs), learned) < 1e-5


# --- biases ---------------------------------------------------------------------------------


def test_a_bias_is_made_where_the_norm_has_one_and_goes_again(x, zoo):
    model = block(None, nn.Linear(8, 4), nn.Linear(8, 4, bias=False))
    before, expected = state(model), model(x)
    report = merge_norms(model, x)
    assert report.new_keys == ("linears.1.bias",)
    assert "linears.1.bias" in str(report)
    assert zoo.error(model(x), expected) < 1e-6
    assert unmerge_norms(model) == 1
    assert model.state_dict().keys() == before.keys()
    assert model.linears[1].bias is None
    assert zoo.error(model(x), expected) < 1e-6


def test_a_made_bias_that_was_trained_stays(x, zoo):
    model = block(None, nn.Linear(8, 4, bias=False))
    merge_norms(model, x)
    with torch.no_grad():
        model.linears[0].bias += 1.0
    learned = model(x)
    assert unmerge_norms(model) == 1
    assert model.linears[0].bias is not None
    assert zoo.error(model(x), learned) < 1e-6


def test_a_zero_bias_makes_no_key(x):
    model = block(None, nn.Linear(8, 4, bias=False))
    nn.init.zeros_(model.norm.bias)
    assert merge_norms(model, x).new_keys == ()
    assert model.linears[0].bias is None


# --- what is refused ------------------------------------------------------------------------


def tied(x):
    """A norm that reads nothing but a head, whose weight is the embedding's."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 8)
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.norm(x + self.embed.weight[0]))

    return Tied()


def tied_by_storage(x):
    model = block()
    model.linears[1].weight.data = model.linears[0].weight.data
    return model


def borrowed(x):
    class Borrows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = block(None, nn.Linear(8, 8))

        def forward(self, x):
            return self.inner(x) + F.linear(x, self.inner.linears[0].weight)

    return Borrows()


def fed_twice(x):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.RMSNorm(8), nn.Linear(8, 8)

        def forward(self, x):
            return self.linear(self.norm(x)) + self.linear(x)

    return Twice()


def two_norms(x):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.other = nn.RMSNorm(8), nn.RMSNorm(8)
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return self.linear(self.norm(x)) + self.linear(self.other(x))

    return Two()


def hidden_in_a_function(x):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x

    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x):
            y = self.norm(x)
            assert y.shape[-1] == y.size(-1) == 8  # reading a shape is no use
            assert y.dtype.is_floating_point
            return self.linear(y) + Square.apply(y)

    return Hides()


class Int8Linear(nn.Linear):
    def forward(self, x):
        return super().forward(x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (tied, "head is shared with embed.weight"),
        (tied_by_storage, "linears.0 is shared with linears.1.weight"),
        (borrowed, "inner.linears.0 is also used by "),
        (fed_twice, "linear reads other tensors too"),
        (two_norms, "linear reads other tensors too"),
        (hidden_in_a_function, "Hides uses its output: mul"),
        (lambda x: block(None, Int8Linear(8, 8)), "Int8Linear: quantised, or with a forward"),
        (
            lambda x: block(None, parametrizations.weight_norm(nn.Linear(8, 8))),
            "forward of its own|computes its weight",
        ),
        (lambda x: block(None, nn.Identity()), "uses its output: add"),
        (lambda x: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), "the model returns its output"),
        (lambda x: block(nn.LayerNorm(8, elementwise_affine=False)), "has no weight"),
        (lambda x: block(nn.LayerNorm((5, 8))), "more than one dimension"),
    ],
)
def test_reasons(make, reason, x):
    torch.manual_seed(1)
    model = make(x)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    before = state(model)
    report = merge_norms(model, x)
    assert report.merged == ()
    assert report.difference is None
    for said in reasons(report).values():
        assert any(part in said for part in reason.split("|")), said
    assert_untouched(model, before)


def test_other_parts_merge_beside_what_is_refused(x):
    model = nn.Sequential(block(), fed_twice(x), block())
    report = merge_norms(model, x)
    assert [merge.name for merge in report.merged] == ["0.norm", "2.norm"]
    assert list(reasons(report)) == ["1.norm"]


def test_a_norm_that_did_not_run_is_left_alone(x):
    model = block()
    model.spare = nn.LayerNorm(8)
    assert reasons(merge_norms(model, x)) == {"spare": "was not called with the example inputs"}


def test_quantised_weights_are_left_alone(x, monkeypatch):
    model = block(None, nn.Linear(8, 8))
    quantised = nn.Parameter(torch.ones(8, 8, dtype=torch.uint8), requires_grad=False)
    model.linears[0].weight = quantised
    with monkeypatch.context() as patch:  # as a kernel for packed weights would run
        patch.setattr(F, "linear", lambda x, weight, bias: x @ weight.to(x.dtype) + bias)
        report = merge_norms(model, x)
    assert reasons(report) == {"norm": "linears.0 is quantised (uint8)"}


def test_sharded_weights_are_left_alone(x):
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch was built without distributed")
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        model = fully_shard(block(), mesh=mesh)
        for _ in range(2):  # a forward pass leaves whole weights behind
            assert reasons(merge_norms(model, x)) == {"norm": "norm is sharded by FSDP"}

        model = block()
        merge_norms(model, x)
        fully_shard(model.linears[1], mesh=mesh)
        with pytest.raises(ConvertError, match=r"linears\.1 is sharded by FSDP"):
            unmerge_norms(model)
        assert not model.norm.weight.requires_grad
    finally:
        distributed.destroy_process_group()


def test_arguments(x):
    with pytest.raises(ConfigError, match=r"expected a torch\.nn\.Module"):
        merge_norms(len, x)
    with pytest.raises(ConfigError, match="example_inputs is NoneType"):
        merge_norms(block(), None)


# --- failures change nothing ----------------------------------------------------------------


def test_a_mismatch_undoes_the_merge(zoo):
    # 3 * 3e4 overflows float16, although the model's own result, a difference, does not.
    model = block(None, nn.Linear(8, 8), nn.Linear(8, 8)).half()
    nn.init.constant_(model.norm.weight, 3e4)
    nn.init.zeros_(model.norm.bias)
    nn.init.constant_(model.linears[1].weight, 3.0)
    nn.init.constant_(model.linears[0].weight, 1e-3)
    before = state(model)
    x = torch.tensor([[1.0, -1.0] * 4]).half()
    trained = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ConvertError, match=r"differs by .*undone"):
        merge_norms(model, x)
    assert_untouched(model, before)
    assert [p.requires_grad for p in model.parameters()] == trained
    assert len(merge_norms(model, x, check=False).merged) == 1


def test_an_output_that_cannot_be_compared_undoes_the_merge(x):
    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = block()

        def forward(self, x):
            return object() if self.inner(x) is not None else None

    model = Opaque()
    before = state(model)
    with pytest.raises(ConvertError, match="no tensor was found to compare"):
        merge_norms(model, x)
    assert_untouched(model, before)


def test_an_error_half_way_undoes_the_merge(zoo, monkeypatch):
    model, inputs = zoo.build("vit"), zoo.inputs_of("vit")
    before = state(model)
    calls = []
    uniform = torch.full_like

    def fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise MemoryError("no room")
        return uniform(*args, **kwargs)

    monkeypatch.setattr(torch, "full_like", fails)
    with pytest.raises(MemoryError):
        merge_norms(model, inputs)
    monkeypatch.undo()
    assert_untouched(model, before)
    assert all(p.requires_grad for p in model.parameters())


def test_a_norm_with_a_zero_cannot_be_unmerged(x):
    model = nn.Sequential(block(), block())
    with torch.no_grad():
        model[1].norm.weight[3] = 0.0
    report = merge_norms(model, x)
    assert "1.norm has a weight of zero" in report.notes[0]
    before = state(model)
    with pytest.raises(ConvertError, match=r"'1\.norm' had a weight of zero"):
        unmerge_norms(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model[0].norm.weight.requires_grad


def reshape(model):
    linear = model[1].linears[0]
    linear.weight = nn.Parameter(linear.weight[:4].detach().clone())


def replace(model):
    model[1].linears[0] = nn.Linear(8, 8)


def wrap(model):
    parametrizations.weight_norm(model[1].linears[0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (reshape, r"'1\.norm' cannot be unmerged: .*1\.linears\.0 had the shape \(8, 8\)"),
        (replace, r"'1\.norm' was merged into 2 linear layers, of which 1 are left"),
        (wrap, r"'1\.norm' cannot be unmerged: 1\.linears\.0"),
    ],
)
def test_unmerging_a_changed_model_changes_nothing(spoil, message, x):
    model = nn.Sequential(block(), block())
    merge_norms(model, x)
    spoil(model)
    before = state(model)
    with pytest.raises(ConvertError, match=message):
        unmerge_norms(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- state ----------------------------------------------------------------------------------


def test_merging_twice_does_nothing_more(x):
    model = block()
    merge_norms(model, x)
    before = state(model)
    assert reasons(merge_norms(model, x)) == {"norm": "already merged"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert unmerge_norms(model) == 1
    assert unmerge_norms(model) == 0


def test_copies_unmerge_on_their_own(x, zoo):
    model = nn.Sequential(block(), block())
    expected = model(x)
    merge_norms(model, x)
    file = io.BytesIO()
    module = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))  # of classes that can be pickled
    merge_norms(module, x)
    torch.save(module, file)
    file.seek(0)
    assert unmerge_norms(torch.load(file, weights_only=False)) == 1

    twin = copy.deepcopy(model)
    twin.append(copy.deepcopy(twin[0]))
    assert unmerge_norms(twin) == 3
    assert zoo.error(twin[:2](x), expected) < 1e-6
    assert merge_norms(model, x).merged == ()
    assert unmerge_norms(model) == 2
    assert zoo.error(model(x), expected) < 1e-6


def test_a_norm_without_its_layers_says_so(x):
    model = block()
    merge_norms(model, x)
    with pytest.raises(ConvertError, match="merged into 2 linear layers, of which 0"):
        unmerge_norms(copy.deepcopy(model.norm))


def test_the_dtype_may_change_in_between(x, zoo):
    model = block()
    expected = model(x)
    merge_norms(model, x)
    model.double()
    assert unmerge_norms(model) == 1
    assert zoo.error(model(x.double()), expected.double()) < 1e-6


def test_report_as_a_dictionary(x):
    report = merge_norms(nn.Sequential(block(), fed_twice(x)), x)
    data = report.to_dict()
    assert data["merged"] == [{"name": "0.norm", "linears": ["0.linears.0", "0.linears.1"]}]
    assert data["skipped"][0]["reason"] == "1.linear reads other tensors too"
    assert data["difference"] == report.difference < 1e-5


# --- LoRA -----------------------------------------------------------------------------------


def lora(model, **options):
    peft = pytest.importorskip("peft")
    targets = {"target_modules": "all-linear", "r": 4, "init_lora_weights": False, **options}
    return peft.get_peft_model(model, peft.LoraConfig(**targets))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_lora_adapters_are_scaled_too(family, dropout, zoo):
    model, inputs = lora(zoo.build(family), lora_dropout=dropout), zoo.inputs_of(family)
    model.eval()
    before, expected = state(model), outputs(zoo, model, inputs)
    report = merge_norms(model.train(), inputs)
    assert len(report.merged) == 4
    model.eval()
    assert worst(zoo, outputs(zoo, model, inputs), expected) < 1e-5
    with model.disable_adapter():
        without = outputs(zoo, model, inputs)
    assert worst(zoo, without, expected) > 1e-3
    assert unmerge_norms(model) == 4
    after = model.state_dict()
    assert max(zoo.error(after[name], before[name]) for name in before) < 1e-6
    with model.disable_adapter():
        assert worst(zoo, outputs(zoo, model, inputs), without) < 1e-5


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_adapters_that_cannot_take_the_norm_are_refused(options, zoo):
    family = "llama" if options else "vit"
    model, inputs = lora(zoo.build(family), **options), zoo.inputs_of(family)
    before = state(model)
    report = merge_norms(model, inputs)
    assert report.merged == ()
    message = "special kind" if options else "no place for the norm's bias"
    assert sum(message in reason for reason in reasons(report).values()) == 4
    assert_untouched(model, before)


def test_lora_added_after_the_merge(zoo):
    model, inputs = zoo.build("llama"), zoo.inputs_of("llama")
    merge_norms(model, inputs)
    wrapped = lora(model)
    expected = outputs(zoo, wrapped, inputs)
    assert unmerge_norms(wrapped) == 4
    assert worst(zoo, outputs(zoo, wrapped, inputs), expected) < 1e-5

    model, inputs = zoo.build("vit"), zoo.inputs_of("vit")
    merge_norms(model, inputs)
    wrapped = lora(model)
    before = state(wrapped)
    with pytest.raises(ConvertError, match="unmerge after they are merged or removed"):
        unmerge_norms(wrapped)
    assert all(torch.equal(value, before[name]) for name, value in wrapped.state_dict().items())
    expected = outputs(zoo, wrapped, inputs)
    plain = wrapped.merge_and_unload()
    assert unmerge_norms(plain) == 4
    assert worst(zoo, outputs(zoo, plain, inputs), expected) < 1e-5


# --- the trace ------------------------------------------------------------------------------


def test_consumers_of_each_norm(x):
    model = nn.Sequential(block(), fed_twice(x))
    state = torch.get_rng_state()
    uses = consumers(model, x)
    assert uses["0.norm"] == [Use("0.linears.0", "addmm"), Use("0.linears.1", "addmm")]
    assert {use.module for use in uses["1.norm"]} == {"1.linear"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.activation = F.silu

    def forward(self, x):
        return self.activation(F.gelu(self.linear(F.layer_norm(x, (8,)))))


def test_functions_that_convert_cannot_reach_are_noted(x):
    model = nn.Sequential(Functional(), Functional(), nn.GELU(), nn.LayerNorm(8))
    expected = {"0": ("gelu", "layer_norm"), "1": ("gelu", "layer_norm")}
    assert functional_calls(model, x) == expected
    report = lowmem_bp.convert(model, example_inputs=x)
    assert sum("Functional (0) calls F.gelu, F.layer_norm" in note for note in report.notes) == 1
    assert functional_calls(model, x) == expected


@pytest.mark.parametrize("family", ["llama", "gemma", "vit", "bert", "layer-gelu-pre"])
def test_families_whose_functions_convert_reaches(family, zoo):
    assert functional_calls(zoo.build(family), zoo.inputs_of(family)) == {}
