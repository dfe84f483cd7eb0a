"""Converted models inside the machinery of torch: autocast, checkpointing, compile, functorch."""

from __future__ import annotations

import copy
import functools
import gc
import threading

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import lowmem_bp
from lowmem_bp import functional as L

MODES = ("exact", "int8", "2bit", "paper")
# 45 is no multiple of 4 (codes in a byte): samples that vmap splits do not end at a byte.
WIDTH, HIDDEN, ROWS, LENGTH = 16, 45, 4, 6
# Gradient error against the stock model of the whole gradient, by mode: from the specification's
# measurements with a margin; the exact mode's is the issue's.
GRADIENT = {"exact": 1e-5, "int8": 2e-2, "2bit": 0.3, "paper": 0.9}

# What torch says about itself while it compiles; none of it is about this package.
compiling = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Gelu(nn.Module):
    """A pre-norm GELU block."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, HIDDEN)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x):
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class GatedMLP(nn.Module):
    """The MLP of Llama."""

    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Gated(nn.Module):
    """A pre-norm Llama-like block without the attention."""

    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.mlp = GatedMLP()

    def forward(self, x):
        return x + self.mlp(self.norm(x))


BLOCKS = {"gelu": Gelu, "gated": Gated}


def stack(block="gelu", layers=2, frozen=False):
    """Blocks with weights of ordinary size; ``frozen``: the linear layer behind the activation."""
    torch.manual_seed(3)
    model = nn.Sequential(*(BLOCKS[block]() for _ in range(layers)))
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape) * 0.25 + ("norm.weight" in name))
        parameter.requires_grad_(not (frozen and ("fc2" in name or "down_proj" in name)))
    return model


def pair(block="gelu", mode="exact", **options):
    """The stock model and its converted twin."""
    model = stack(block, **options)
    twin = copy.deepcopy(model)
    lowmem_bp.convert(twin, mode)
    return model, twin


def data(*shape, seed=0):
    return torch.randn(
        shape or (ROWS, LENGTH, WIDTH), generator=torch.Generator().manual_seed(seed)
    )


def gradients(model, x, call=None, loss=None):
    """Gradients of the parameters and of the input, by name."""
    model.zero_grad(set_to_none=True)
    leaf = x.clone().requires_grad_()
    y = (call or model)(leaf)
    (y.float().pow(2).sum() if loss is None else loss(y)).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**found, "input": leaf.grad}


def error(mine, theirs):
    """Relative error of the whole gradient."""
    assert mine.keys() == theirs.keys()
    difference = sum((mine[k].double() - theirs[k].double()).pow(2).sum() for k in mine)
    return (difference / sum(theirs[k].double().pow(2).sum() for k in theirs)).sqrt().item()


def saved(call, *owned):
    """Run ``call``; return its result and what autograd saved, one tensor per storage."""
    ignored = {tensor.untyped_storage()._cdata for tensor in owned}
    found = {}

    def pack(tensor):
        found.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return result, [tensor for key, tensor in found.items() if key not in ignored]


def nbytes(tensors):
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class Alive(TorchDispatchMode):
    """Counts the storages that are really alive, whoever holds them: hooks see only autograd's."""

    def __init__(self):
        super().__init__()
        self._storages = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                ref = StorageWeakRef(storage)
                self._storages.setdefault(ref.cdata, (ref, storage.nbytes()))
        return result

    def bytes(self, model):
        owned = {StorageWeakRef(p.untyped_storage()).cdata for p in model.parameters()}
        return sum(
            size
            for key, (ref, size) in self._storages.items()
            if key not in owned and not ref.expired()
        )


def alive_bytes(model, call):
    """Bytes alive between the forward and the backward pass of ``call()`` (a loss)."""
    gc.collect()
    with Alive() as alive:
        loss = call()
    found = alive.bytes(model)
    loss.backward()
    return found


# --- what is held -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", BLOCKS)
def test_recipes_keep_nothing_alive_that_autograd_does_not(block, mode):
    _, twin = pair(block, mode)
    x = data().requires_grad_()
    alive = alive_bytes(twin, lambda: twin(x).pow(2).sum())
    held = lowmem_bp.profile(twin, x, loss=lambda y: y.pow(2).sum()).total_bytes
    assert held <= alive <= held + 64  # the loss itself


def test_nothing_stays_alive_after_backward():
    _, twin = pair()
    x = data().requires_grad_()
    with Alive() as alive:
        loss = twin(x).pow(2).sum()
        loss.backward()
        del loss
    twin.zero_grad(set_to_none=True)
    assert alive.bytes(twin) <= 2 * x.nbytes  # the input's gradient


# --- autocast and gradient scaling --------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_autocast_on_a_whole_model(zoo, family):
    """Output and gradients as close to fp32 as stock autocast is, in less memory."""
    model = zoo.build(family)
    twin = zoo.twin(model)
    lowmem_bp.convert(twin)
    inputs = zoo.inputs_of(family)

    class Autocast(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, **kwargs):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(**kwargs)

    exact = zoo.run(model, inputs)
    exact.grads = {f"inner.{name}": grad for name, grad in exact.grads.items()}
    stock, ours = zoo.run(Autocast(model), inputs), zoo.run(Autocast(twin), inputs)
    assert zoo.output_error(ours, stock) <= 2.0**-7
    assert error(ours.grads, stock.grads) <= 2e-2
    assert error(ours.grads, exact.grads) <= 1.1 * error(stock.grads, exact.grads)
    before, after = (lowmem_bp.profile(Autocast(m), inputs).activation_bytes for m in (model, twin))
    assert after <= 0.75 * before


@pytest.mark.parametrize(("block", "factor"), [("gelu", 2), ("gated", 3)])
def test_autocast_keeps_one_bf16_copy_of_the_norm(block, factor):
    model, twin = pair(block, layers=1)
    x = data().requires_grad_()

    def kept(module):
        def call():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return module(x)

        return saved(call, x, *module.parameters())[1]

    wide = [t for t in kept(twin) if t.shape[-1] == WIDTH and t.numel() >= x.numel()]
    assert [t.dtype for t in wide] == [torch.bfloat16], "z, shared, and no fp32 copy"
    hidden = [t for t in kept(twin) if t.shape[-1] == HIDDEN and t.numel() > HIDDEN * WIDTH]
    assert [t.dtype for t in hidden] == [torch.bfloat16] * (factor - 1), "fc1; or gate and up"
    assert nbytes(kept(twin)) < 0.75 * nbytes(kept(model))


@pytest.mark.parametrize("mode", MODES)
def test_gradient_scaler_trains_the_same(mode):
    models = pair(mode="exact" if mode == "exact" else mode)
    losses = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        losses.append([])
        for step in range(5):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = (model(data(seed=step)) - 1).pow(2).mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses[-1].append(loss.item())
        assert scaler.get_scale() == 2.0**12, "no step was skipped"
    stock, ours = torch.tensor(losses)
    assert (stock[0] - stock[-1]).abs() > 1e-3
    assert ((ours - stock) / stock).abs().max() <= (1e-2 if mode in ("exact", "int8") else 5e-2)


def test_gradient_scaler_notices_overflow():
    _, twin = pair()
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before = copy.deepcopy(twin.state_dict())
    x = data()
    x[0, 0, 0] = float("inf")
    scaler.scale(twin(x).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 1.0
    assert all(torch.equal(before[name], value) for name, value in twin.state_dict().items())


@pytest.mark.parametrize("block", BLOCKS)
def test_gradient_accumulation(block):
    model, twin = pair(block)

    def accumulated(module):
        module.zero_grad()
        for x in data(4, 2, LENGTH, WIDTH):
            module(x).pow(2).sum().backward()
        return {name: p.grad for name, p in module.named_parameters()}

    assert error(accumulated(twin), accumulated(model)) <= 1e-6
    whole = gradients(twin, data(8, LENGTH, WIDTH))
    whole.pop("input")
    # Sums in another order, of the same rows.
    assert error(accumulated(twin), gradients_of_rows(twin, data(4, 2, LENGTH, WIDTH))) <= 1e-6
    assert whole.keys() == accumulated(twin).keys()


def gradients_of_rows(model, batches):
    found = gradients(model, batches.flatten(0, 1))
    found.pop("input")
    return found


# --- checkpointing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "mode", "reentrant"),
    [(block, mode, False) for block in BLOCKS for mode in MODES]
    + [("gelu", "exact", True), ("gated", "paper", True)],
)
def test_checkpointing_gives_the_same_gradients_and_holds_no_more(block, mode, reentrant):
    model, twin = pair(block, mode)
    x = data().requires_grad_()

    def call(module):
        def run(h):
            for layer in module:
                h = checkpoint(layer, h, use_reentrant=reentrant)
            return h

        return run

    plain = gradients(twin, x.detach())
    assert error(gradients(twin, x.detach(), call(twin)), plain) == 0.0
    assert error(plain, gradients(model, x.detach())) <= GRADIENT[mode]
    ours, stock = (alive_bytes(m, lambda m=m: call(m)(x).sum()) for m in (twin, model))
    assert ours <= stock
    if not reentrant:
        assert ours < 0.7 * alive_bytes(twin, lambda: twin(x).sum())


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "vit"])
def test_checkpointing_of_hugging_face_models(zoo, family):
    model = zoo.build(family).train()
    twin = zoo.twin(model)
    lowmem_bp.convert(twin)
    inputs = zoo.inputs_of(family)
    expected = zoo.run(model, inputs)
    for module in (model, twin):
        switch_checkpointing_on(module)
    zoo.assert_same(zoo.run(twin, inputs), expected)

    def call(module):
        return module(**inputs).logits.pow(2).sum()

    ours, stock = (alive_bytes(m, lambda m=m: call(m)) for m in (twin, model))
    # A post-norm block ends in a norm. Its recipe goes when the next block is entered; only the
    # last one, whose output the pooler's slice holds, is left. And two rows per norm.
    last = 3 * 24 * 64 * 4 if family == "bert" else 0
    assert ours <= 1.02 * stock + last


def test_a_checkpointed_post_norm_stack_holds_only_its_borders():
    """Each block ends in a norm: what that norm keeps must not outlive the block."""

    class Post(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(WIDTH, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)

        def forward(self, x):
            return self.norm(x + self.fc(x))

    model = nn.Sequential(*(Post() for _ in range(6)))
    lowmem_bp.convert(model)
    x = data().requires_grad_()

    def call():
        return call_with(model, x).sum()

    # The last output keeps its norm's rows; before it each border is one tensor.
    assert alive_bytes(model, call) <= 7.5 * x.nbytes
    plain = gradients(model, x.detach())
    assert error(gradients(model, x.detach(), lambda h: call_with(model, h)), plain) <= 1e-6


def switch_checkpointing_on(model):
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:  # its name in older releases of transformers
        model.gradient_checkpointing_enable(options)
    model.config.use_cache = False


def call_with(model, h):
    for layer in model:
        h = checkpoint(layer, h, use_reentrant=False)
    return h


def test_checkpointing_replays_dropout(zoo):
    model = zoo.build("bert", dropout=0.2).train()
    lowmem_bp.convert(model)
    inputs = zoo.inputs_of("bert")
    expected = zoo.run(model, inputs)
    switch_checkpointing_on(model)
    zoo.assert_same(zoo.run(model, inputs), expected)


# --- torch.compile ------------------------------------------------------------------------------


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@compiling
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", BLOCKS)
def test_compiled_without_a_graph_break(block, mode):
    """Gradients are those of eager code; nothing more is kept than by the compiled original."""
    _, twin = pair(block, mode, layers=1)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    x = data()
    assert error(gradients(twin, x, compiled), gradients(twin, x)) <= 1e-6
    _, kept = saved(lambda: compiled(x.requires_grad_()), x, *twin.parameters())
    rows = 4 * sum(p.numel() for p in twin.parameters() if p.dim() == 1)
    assert nbytes(kept) <= compiled_bytes(block) + rows


@functools.cache
def compiled_bytes(block):
    model = stack(block, layers=1)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = data().requires_grad_()
    return nbytes(saved(lambda: compiled(x), x, *model.parameters())[1])


@compiling
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(("mode", "frozen"), [("paper", False), ("2bit", True)])
def test_compiled_graph_keeps_the_packed_code(mode, frozen):
    model, twin = pair("gelu", mode, layers=1, frozen=frozen)
    x = data().requires_grad_()
    parameters = list(twin.parameters())
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    _, kept = saved(lambda: compiled(x), x, *parameters)
    codes = [t for t in kept if t.dtype == torch.uint8]
    assert [t.numel() for t in codes] == [ROWS * LENGTH * HIDDEN // 4]
    hidden = [t for t in kept if t.dtype == torch.float32 and t.numel() == ROWS * LENGTH * HIDDEN]
    if frozen:
        assert hidden == []
    else:
        # The one that is left is fc2's input, not the pre-activation.
        pre = twin.fc1 if hasattr(twin, "fc1") else twin[0].fc1
        block = twin[0]
        output = block.act(pre(block.norm(x)))
        assert [torch.allclose(t.view_as(output), output) for t in hidden] == [True]
    stock = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert nbytes(kept) < nbytes(saved(lambda: stock(x), x, *model.parameters())[1])


@compiling
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    ("block", "mode"), [("gelu", "paper"), pytest.param("gated", "exact", marks=pytest.mark.slow)]
)
def test_compiled_with_dynamic_shapes(block, mode):
    _, twin = pair(block, mode, layers=1)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(twin, backend=counter, fullgraph=True, dynamic=True)
    for length in (5, 7, 10):
        x = data(3, length, WIDTH)
        assert error(gradients(twin, x, compiled), gradients(twin, x)) <= 1e-6
    assert counter.frame_count <= 2, "one graph serves several lengths (the original needs two)"


@compiling
@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("mode", MODES)
def test_compiled_with_inductor(mode):
    _, twin = pair("gelu", mode, layers=1)
    compiled = torch.compile(twin, fullgraph=True)
    x = data()
    # Inductor does not round to bf16 between fused operations: the 8-bit scales are up to 2^-9 off.
    limit = 2.0**-8 if mode == "int8" else 1e-5
    assert error(gradients(twin, x, compiled), gradients(twin, x)) <= limit


@compiling
@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_under_autocast():
    _, twin = pair("gated", layers=1)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)

    def autocast(function):
        def call(x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return function(x)

        return call

    x = data()
    eager = gradients(twin, x, autocast(twin))
    assert error(gradients(twin, x, autocast(compiled)), eager) <= 2e-2


@compiling
@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_part_of_an_eager_model():
    """The compiled norm's output, with its recipe, leaves the graph for an eager linear layer."""
    model, twin = pair("gelu", layers=1)
    block = twin[0]
    norm = torch.compile(block.norm, backend="aot_eager", fullgraph=True)

    def call(x):
        return x + block.fc2(block.act(block.fc1(norm(x))))

    x = data()
    assert error(gradients(twin, x, call), gradients(model, x)) <= 1e-6


@compiling
@pytest.mark.usefixtures("_fresh_compiler")
def test_change_in_place_under_compile_is_followed():
    class InPlace(Gelu):
        def forward(self, x):
            h = self.norm(x)
            h.add_(1.0)
            return self.fc1(h)

    torch.manual_seed(0)
    model = InPlace()
    twin = copy.deepcopy(model)
    lowmem_bp.convert(twin)
    x = data()
    # Eager code notices and keeps the changed tensor itself.
    assert error(gradients(twin, x), gradients(model, x)) <= 1e-6
    twin.compile(backend="aot_eager", fullgraph=True)
    assert error(gradients(twin, x), gradients(model, x)) <= 1e-6


@compiling
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", BLOCKS)
def test_export(block, mode):
    _, twin = pair(block, mode, layers=1)
    twin.eval()
    x = data()
    program = torch.export.export(twin, (x,))
    other = data(seed=4)
    with torch.no_grad():
        assert torch.equal(program.module()(other), twin(other))


# --- torch.func ---------------------------------------------------------------------------------


def functions_of(model):
    """What the transforms of torch.func are applied to, as named functions of nothing."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    x = data(3, WIDTH)

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).pow(2).sum()

    func = torch.func
    return {
        "grad": lambda: func.grad(loss)(parameters, x),
        "vmap": lambda: {"y": func.vmap(lambda x: model(x))(x)},
        "vmap of grad": lambda: func.vmap(func.grad(loss), (None, 0))(parameters, x),
        "grad of vmap": lambda: func.grad(lambda p: func.vmap(loss, (None, 0))(p, x).sum())(
            parameters
        ),
        "vmap over models": lambda: func.vmap(func.grad(loss), (0, None))(
            {name: torch.stack([p, 1.1 * p]) for name, p in parameters.items()}, x
        ),
        "jacrev": lambda: {"x": func.jacrev(lambda x: model(x))(x)},
        "vjp": lambda: {"x": func.vjp(lambda x: model(x), x)[1](torch.ones(3, WIDTH))[0]},
        "grad of grad": lambda: {
            "x": func.grad(lambda x: func.grad(lambda x: loss(parameters, x))(x).pow(2).sum())(x)
        },
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", BLOCKS)
def test_transforms_of_torch_func(block, mode):
    model, twin = pair(block, mode)
    stock, ours = functions_of(model), functions_of(twin)
    for name, call in ours.items():
        if name == "grad of grad" and mode != "exact":
            continue  # the derivative of an approximate derivative is another one
        mine, theirs = call(), stock[name]()
        assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}
        limit = 1e-6 if name == "vmap" else GRADIENT[mode]
        assert error(mine, theirs) <= limit, name


@pytest.mark.parametrize("mode", MODES)
def test_per_sample_gradients_are_those_of_each_sample(mode):
    """What vmap packs must not mix samples: three rows of 45 codes do not fill bytes."""
    _, twin = pair("gelu", mode)
    x = data(5, 3, WIDTH)
    parameters = {name: p.detach() for name, p in twin.named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(twin, parameters, (x,)).pow(2).sum()

    together = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i, sample in enumerate(x):
        alone = gradients(twin, sample)
        alone.pop("input")
        assert error({name: g[i] for name, g in together.items()}, alone) <= 1e-6


@pytest.mark.parametrize("block", BLOCKS)
def test_gradient_penalty_trains_as_the_stock_model(block):
    model, twin = pair(block)

    def penalised(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        losses = []
        for step in range(4):
            x = data(seed=step).requires_grad_()
            y = module(x).pow(2).mean()
            (dx,) = torch.autograd.grad(y, x, create_graph=True)
            loss = y + (dx.flatten(1).norm(dim=1) - 1).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, {name: p.grad for name, p in module.named_parameters()}

    (ours, our_grads), (stock, stock_grads) = penalised(twin), penalised(model)
    assert ours == pytest.approx(stock, rel=1e-5)
    assert error(our_grads, stock_grads) <= 1e-5


# --- hooks, threads, frozen parts -----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block", BLOCKS)
def test_saved_tensor_hooks_see_what_is_kept(block, mode):
    _, twin = pair(block, mode)
    x = data()
    plain = gradients(twin, x)

    def offloaded(x):
        with torch.autograd.graph.save_on_cpu():
            return twin(x)

    assert error(gradients(twin, x, offloaded), plain) == 0.0

    def as_bf16(tensor):
        wide = tensor.dtype == torch.float32 and tensor.dim() == 3
        return tensor.bfloat16() if wide else tensor

    def quantised(x):
        with torch.autograd.graph.saved_tensors_hooks(
            as_bf16, lambda t: t.float() if t.dtype == torch.bfloat16 and t.dim() == 3 else t
        ):
            return twin(x)

    changed = error(gradients(twin, x, quantised), plain)
    assert 0 < changed <= 2e-2, "the hooks' own rounding, and nothing else"


@pytest.mark.parametrize("mode", MODES)
def test_two_threads_on_one_model(mode):
    _, twin = pair("gated", mode)
    batches = [data(seed=seed) for seed in range(8)]
    parameters = dict(twin.named_parameters())

    def work(x):
        y = twin(x).pow(2).sum()
        return dict(zip(parameters, torch.autograd.grad(y, list(parameters.values())), strict=True))

    expected = [work(x) for x in batches]
    results: dict[int, list] = {}
    barrier = threading.Barrier(2)

    def run(thread):
        barrier.wait()
        results[thread] = [work(batches[i]) for _ in range(5) for i in range(thread, 8, 2)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for thread, found in results.items():
        for i, grads in enumerate(found):
            assert error(grads, expected[thread + 2 * (i % 4)]) == 0.0


@pytest.mark.parametrize("mode", ["exact", "int8"])
@pytest.mark.parametrize("block", BLOCKS)
@settings(max_examples=25)
@given(chosen=st.data())
def test_any_subset_of_parameters_may_be_trained(block, mode, chosen):
    model = stack(block)
    names = [name for name, _ in model.named_parameters()]
    trained = set(chosen.draw(st.lists(st.sampled_from(names), min_size=1)))
    input_trained = chosen.draw(st.booleans())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    twin = copy.deepcopy(model)
    lowmem_bp.convert(twin, mode, check=False)

    def run(module):
        x = data(2, 3, WIDTH).requires_grad_(input_trained)
        module(x).pow(2).sum().backward()
        found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        return {**found, "input": x.grad} if input_trained else found

    mine, theirs = run(twin), run(model)
    assert mine.keys() == theirs.keys() == trained | ({"input"} if input_trained else set())
    assert error(mine, theirs) <= GRADIENT[mode]


@pytest.mark.parametrize("family", ["llama", "bert"])
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_any_subset_of_a_hugging_face_model_may_be_trained(zoo, family, seed):
    model = zoo.build(family)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(torch.rand((), generator=generator).item() < 0.4)
    twin = zoo.twin(model)
    lowmem_bp.convert(twin, check=False)
    inputs = zoo.inputs_of(family, embeds=bool(seed % 2))
    zoo.assert_same(zoo.run(twin, inputs), zoo.run(model, inputs))


def test_frozen_parts_between_trained_ones_are_passed():
    model, twin = pair("gelu", layers=3)
    for module in (model, twin):
        for parameter in module[1].parameters():
            parameter.requires_grad_(False)
    mine, theirs = gradients(twin, data()), gradients(model, data())
    assert not any(name.startswith("1.") for name in mine)
    assert error(mine, theirs) <= 1e-6


def test_retained_graph_can_run_backward_twice():
    _, twin = pair("gated")
    x = data().requires_grad_()
    y = twin(x).pow(2).sum()
    (first,) = torch.autograd.grad(y, x, retain_graph=True)
    (second,) = torch.autograd.grad(y, x)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x)


def test_weights_changed_between_forward_and_backward_are_noticed():
    """As in torch: an optimizer step in between makes the gradient wrong, and is an error."""
    _, twin = pair("gelu", layers=1)
    y = twin(data()).pow(2).sum()
    with torch.no_grad():
        twin[0].fc2.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_inference_mode_and_no_grad():
    model, twin = pair("gated")
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            y = twin(data())
            assert not y.requires_grad
            assert torch.allclose(y, model(data()), rtol=1e-5, atol=1e-6)


def test_a_function_written_by_hand_composes_with_all_of_it():
    """The functions, not only converted models: checkpoint inside vmap-free compile-free code."""
    gate, up, weight = data(5, 40), data(5, 40, seed=1), data(7, 40, seed=2)
    leaves = [t.requires_grad_() for t in (gate, up, weight)]
    plain = torch.autograd.grad(L.swiglu_linear(*leaves).sum(), leaves)
    again = torch.autograd.grad(
        checkpoint(L.swiglu_linear, *leaves, use_reentrant=False).sum(), leaves
    )
    assert all(map(torch.equal, plain, again))
    stock = torch.autograd.grad(F.linear(F.silu(gate) * up, weight).sum(), leaves)
    assert max((a - b).norm() / b.norm() for a, b in zip(plain, stock, strict=True)) <= 1e-6
