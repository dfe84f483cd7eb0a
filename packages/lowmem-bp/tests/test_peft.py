"""``convert`` on models wrapped by PEFT: LoRA on q, v and on all linear layers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lowmem_bp import convert, converted, profile, revert
from lowmem_bp.errors import ConvertError

peft = pytest.importorskip("peft")

# peft 0.21 asks transformers 5.23 for a property under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

QV = {
    "llama": ["q_proj", "v_proj"],
    "bert": ["query", "value"],
    "gpt2": ["c_attn"],
    "vit": ["q_proj", "v_proj"],
}
ALL = {
    "llama": "all-linear",
    "bert": "all-linear",
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "vit": "all-linear",
}
# LoRA layers on (q, v) and on all linear layers, those of a classifier included.
LORA_LAYERS = {"llama": (4, 14), "bert": (4, 14), "gpt2": (2, 8), "vit": (4, 13)}
FP32, BF16, MIXED = "fp32", "bf16", "bf16, adapters fp32"
# Activation bytes after over before, (q, v) and all; measured + 0.01. Without LoRA dropout, with.
RATIOS = {
    FP32: {
        "llama": ((0.79, 0.70), (0.64, 0.41)),
        "bert": ((0.97, 0.83), (0.70, 0.45)),
        "gpt2": ((0.60, 0.58), (0.44, 0.36)),
        "vit": ((0.97, 0.83), (0.68, 0.45)),
    },
    BF16: {
        "llama": ((0.70, 0.63), (0.58, 0.40)),
        "bert": ((0.97, 0.84), (0.71, 0.46)),
        "gpt2": ((0.60, 0.58), (0.44, 0.37)),
        "vit": ((0.97, 0.84), (0.68, 0.45)),
    },
    # PEFT's default, where stock keeps a private fp32 copy of the input of every adapter.
    MIXED: {
        "llama": ((0.60, 0.55), (0.37, 0.28)),
        "bert": ((0.78, 0.69), (0.42, 0.29)),
        "gpt2": ((0.56, 0.51), (0.36, 0.28)),
        "vit": ((0.77, 0.69), (0.42, 0.29)),
    },
}


def config(family, targets="qv", dropout=0.0, **options):
    return peft.LoraConfig(
        r=4,
        target_modules=(QV if targets == "qv" else ALL)[family],
        lora_dropout=dropout,
        init_lora_weights=False,  # zeros in B would leave the gradients of A at zero
        fan_in_fan_out=family == "gpt2",
        **options,
    )


@pytest.fixture
def lora(zoo):
    """Make a tiny model with LoRA, and its inputs."""

    def make(family, targets="qv", dropout=0.0, kind=FP32, **options):
        dtype = torch.float32 if kind == FP32 else torch.bfloat16
        base = zoo.build(family, dtype=dtype).train()
        torch.manual_seed(3)
        model = peft.get_peft_model(
            base, config(family, targets, dropout, **options), autocast_adapter_dtype=kind != BF16
        )
        return model, zoo.inputs_of(family, dtype)

    return make


def kinds(report):
    return dict(Counter(change.kind for change in report.changed))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("targets", ["qv", "all"])
@pytest.mark.parametrize("family", list(QV))
def test_fp32_adapters_get_the_same_gradients(zoo, lora, family, targets, dropout):
    model, inputs = lora(family, targets, dropout)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stock = zoo.run(model, inputs)
    assert len(stock.grads) == 2 * LORA_LAYERS[family][targets == "all"]

    report = convert(model, example_inputs=inputs)
    assert kinds(report)["lora"] == LORA_LAYERS[family][targets == "all"]
    assert ("dropout" in kinds(report)) == (dropout > 0)
    assert report.ratio <= RATIOS[FP32][family][targets == "all"][dropout > 0]
    assert list(model.state_dict()) == list(state)
    zoo.assert_same(zoo.run(model, inputs), stock, outputs=0.0)

    revert(model)
    zoo.assert_bit_equal(zoo.run(model, inputs), stock)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("targets", ["qv", "all"])
@pytest.mark.parametrize("kind", [BF16, MIXED])
@pytest.mark.parametrize("family", list(QV))
def test_bf16_base(zoo, lora, family, kind, targets, dropout):
    model, inputs = lora(family, targets, dropout, kind)
    stock = zoo.run(model, inputs)
    adapters = torch.bfloat16 if kind == BF16 else torch.float32
    assert {grad.dtype for grad in stock.grads.values()} == {adapters}
    report = convert(model, example_inputs=inputs)
    assert report.ratio <= RATIOS[kind][family][targets == "all"][dropout > 0]
    result = zoo.run(model, inputs)
    assert zoo.output_error(result, stock) == 0.0
    # Both are off by bf16 rounding, most of it in the frozen bf16 base.
    assert zoo.whole_error(result, stock) <= 0.02
    assert zoo.gradient_errors(result, stock).keys() == stock.grads.keys()


@pytest.mark.parametrize("family", ["llama", "vit"])
def test_adapters_of_one_input_share_it(lora, family):
    """q, k, v (and gate, up) read one tensor: no adapter keeps a copy, in whatever dtype."""
    model, inputs = lora(family, "all", 0.1, MIXED)
    convert(model)
    held = profile(model, inputs).held
    norms = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "fc1")
    # In the second block only: in the first the norm needs no gradient and keeps nothing itself.
    theirs = [
        item
        for item in held
        if ".layers.1." in item.module and any(f".{name}." in item.module for name in norms)
    ]
    bits = [item for item in theirs if item.dtype == "uint8"]
    assert len(bits) == (5 if family == "llama" else 4)  # the dropout masks, one each
    rank = [item for item in theirs if item.dtype == "float32" and item.shape[-1] == 4]
    weights = [item for item in theirs if item.kind == "weight copy"]
    for item in theirs:
        # The products that come out of a layer are kept by who reads them: attention and gate.
        assert item in bits or item in rank or item in weights, item


def test_2bit_and_int8_beside_frozen_linears(zoo, lora):
    for mode, keeps, cosine, ratio in (
        ("2bit", "2-bit code", 0.99, 0.63),
        ("int8", "8-bit input", 0.9999, 0.70),
        ("paper", "2-bit code", 0.98, 0.64),
    ):
        model, inputs = lora("vit", "qv")
        stock = zoo.run(model, inputs)
        report = convert(model, mode, inputs)
        assert {c.keeps for c in report.changed if c.kind == "activation"} == {keeps}
        assert report.ratio <= ratio
        result = zoo.run(model, inputs)
        assert zoo.output_error(result, stock) <= 1e-5
        assert zoo.cosine(result, stock) >= cosine
    model, inputs = lora("vit", "all")
    report = convert(model, "2bit", inputs)  # fc2 has an adapter, so its input is needed anyway
    kept = {change.keeps for change in report.changed if change.kind == "activation"}
    assert kept == {"recomputed from its input"}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merge_and_unmerge(zoo, lora, family):
    model, inputs = lora(family, "all")
    other = zoo.twin(model)
    stock = zoo.run(model, inputs)
    convert(model)
    model.merge_adapter()
    other.merge_adapter()
    with torch.no_grad():
        merged, expected = model(**inputs).logits, other(**inputs).logits
    assert zoo.error(merged, expected) <= 1e-5
    assert zoo.error(merged, stock.outputs[0]) <= 1e-4
    model.unmerge_adapter()
    zoo.assert_same(zoo.run(model, inputs), stock, 1e-4, 1e-4)  # merging rounds the weights


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merge_and_unload(zoo, lora, family):
    model, inputs = lora(family, "all", dropout=0.1)
    other = zoo.twin(model)
    convert(model, example_inputs=inputs)
    plain, expected = model.merge_and_unload(), other.merge_and_unload()
    assert list(plain.state_dict()) == list(expected.state_dict())
    for each in (plain, expected):
        each.requires_grad_(True)
    zoo.assert_same(zoo.run(plain, inputs), zoo.run(expected, inputs))
    revert(plain)
    zoo.assert_bit_equal(zoo.run(plain, inputs), zoo.run(expected, inputs))


def test_disable_adapter(zoo, lora):
    model, inputs = lora("llama", "all", dropout=0.1)
    stock = zoo.run(model, inputs)
    with torch.no_grad(), model.disable_adapter():
        expected = model(**inputs).logits
    convert(model, example_inputs=inputs)
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(**inputs).logits, expected)
    zoo.assert_same(zoo.run(model, inputs), stock)


def test_switching_between_two_adapters(zoo, lora):
    model, inputs = lora("llama", "qv", dropout=0.1)
    torch.manual_seed(4)
    model.add_adapter("second", config("llama", "all", 0.1))
    other = zoo.twin(model)
    convert(model, example_inputs=inputs)
    for name in ("second", "default", "second"):
        model.set_adapter(name)
        other.set_adapter(name)
        result, expected = zoo.run(model, inputs), zoo.run(other, inputs)
        assert all(name in parameter for parameter in result.grads)
        zoo.assert_same(result, expected)
    for each in (model, other):
        each.set_adapter("default")
        each.delete_adapter("second")
    zoo.assert_same(zoo.run(model, inputs), zoo.run(other, inputs))


def test_an_adapter_added_later_works_and_can_be_converted(zoo, lora):
    model, inputs = lora("llama", "qv")
    convert(model, example_inputs=inputs)
    torch.manual_seed(4)
    model.add_adapter("second", config("llama", "qv", 0.1))
    model.set_adapter("second")
    stock = zoo.run(model, inputs)
    report = convert(model, example_inputs=inputs)
    # A and B of the new adapter in the four places, and its dropout.
    assert kinds(report) == {"linear": 8, "dropout": 4}
    assert report.ratio < 1
    zoo.assert_same(zoo.run(model, inputs), stock)
    count = revert(model)
    assert count > 12
    assert revert(model) == 0


def test_converting_before_wrapping_and_again_after(zoo, lora):
    expected_model, inputs = lora("llama", "all", dropout=0.1)
    expected = zoo.run(expected_model, inputs)
    base = zoo.build("llama").train()
    first = convert(base, example_inputs=inputs)
    torch.manual_seed(3)
    model = peft.get_peft_model(base, config("llama", "all", 0.1))
    zoo.assert_same(zoo.run(model, inputs), expected)
    second = convert(model, example_inputs=inputs)
    assert kinds(second) == {"lora": 14, "linear": 28, "dropout": 14}
    assert {skip.reason for skip in second.skipped} == {"already converted"}
    assert len(second.skipped) == len(first.changed)
    zoo.assert_same(zoo.run(model, inputs), expected)
    assert revert(model) == len(first.changed) + len(second.changed)
    zoo.assert_bit_equal(zoo.run(model, inputs), expected)


def test_converting_a_wrapped_model_in_another_mode_is_refused(zoo, lora):
    base = zoo.build("llama")
    convert(base)
    model = peft.get_peft_model(base, config("llama"))
    with pytest.raises(ConvertError, match="already, with mode='exact'"):
        convert(model, "int8")


def test_adapters_put_into_a_converted_model(zoo):
    """Injection changes the model in place: its second conversion has to look again."""
    model = zoo.build("llama").train()
    inputs = zoo.inputs_of("llama")
    convert(model)
    peft.inject_adapter_in_model(config("llama", "qv", 0.1), model)
    stock = zoo.run(model, inputs)
    assert kinds(convert(model)) == {"lora": 4, "linear": 8, "dropout": 4}
    zoo.assert_same(zoo.run(model, inputs), stock)
    with converted(model) as report:
        assert report.changed == ()
    assert convert(model).changed == ()  # the block undid only what it had done


def test_save_and_load(zoo, lora, tmp_path):
    model, inputs = lora("llama", "all", dropout=0.1)
    stock = zoo.run(model, inputs)
    convert(model, example_inputs=inputs)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(zoo.build("llama").train(), tmp_path, is_trainable=True)
    loaded.train()
    zoo.assert_bit_equal(zoo.run(loaded, inputs), stock)
    base = zoo.build("llama").train()
    convert(base)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path, is_trainable=True)
    loaded.train()
    zoo.assert_same(zoo.run(loaded, inputs), stock)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}], ids=str)
def test_variants_of_lora(zoo, lora, options):
    model, inputs = lora("llama", "qv", 0.1, **options)
    stock = zoo.run(model, inputs)
    report = convert(model, example_inputs=inputs)
    assert report.ratio < 1
    zoo.assert_same(zoo.run(model, inputs), stock)


def test_ten_steps_of_training(zoo, lora):
    model, inputs = lora("bert", "all", dropout=0.1)
    other = zoo.twin(model)
    convert(model, example_inputs=inputs)
    losses = []
    for each in (model, other):
        torch.manual_seed(0)
        optimizer = torch.optim.SGD((p for p in each.parameters() if p.requires_grad), lr=0.1)
        for _step in range(10):
            optimizer.zero_grad()
            loss = each(**inputs, labels=torch.tensor([0, 1, 4])).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:10] == pytest.approx(losses[10:], rel=1e-4)
    assert losses[9] < losses[0]
