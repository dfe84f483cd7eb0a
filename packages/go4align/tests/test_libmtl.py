"""GO4Align inside LibMTL.

Each test runs twice: on a stand-in, which does what LibMTL does in a few lines, and on LibMTL
itself where it can be imported. That is its development version: the release on PyPI, 1.1.5, wants
a module that present versions of torchvision do not have. LibMTL's Trainer names ``cuda:0``; the
one here has the CPU in its place.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from go4align import GO4Align
from go4align.errors import ConfigError, LossError
from go4align.integrations import libmtl

TASKS = ["digit", "ink"]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        return self.layer(x).tanh()


# --- the stand-in ---------------------------------------------------------------------------------


def stand_in():
    """Modules by name: LibMTL's Trainer, one architecture, and the base of the weightings."""

    class AbsWeighting(nn.Module):
        def __init__(self):
            super().__init__()

        def init_param(self):
            pass

        @property
        def backward(self, losses, **kwargs):
            pass

    class AbsArchitecture(nn.Module):
        def __init__(self, task_name, encoder_class, decoders, rep_grad, multi_input, device):
            super().__init__()
            self.task_name, self.task_num = task_name, len(task_name)
            self.encoder_class, self.decoders = encoder_class, decoders
            self.rep_grad, self.multi_input, self.device = rep_grad, multi_input, device

        def forward(self, inputs):
            hidden = self.encoder(inputs)
            return {task: self.decoders[task](hidden) for task in self.task_name}

    class HPS(AbsArchitecture):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.encoder = self.encoder_class()

    class Trainer(nn.Module):
        def __init__(
            self,
            task_dict,
            weighting,
            architecture,
            encoder_class,
            decoders,
            rep_grad,
            multi_input,
            optim_param,
            scheduler_param,
            load_path=None,
            **kwargs,
        ):
            super().__init__()
            self.kwargs, self.task_dict = kwargs, task_dict
            parts = (vars(modules["LibMTL.architecture"])[architecture], vars(registry)[weighting])

            class MTLmodel(*parts):
                def __init__(self, *args, **kwargs):
                    super().__init__(*args, **kwargs)
                    self.init_param()

            device = torch.device("cpu")
            self.model = MTLmodel(
                list(task_dict), encoder_class, decoders, rep_grad, multi_input, device
            ).to(device)
            if load_path is not None:
                self.model.load_state_dict(torch.load(load_path), strict=False)
            options = {name: value for name, value in optim_param.items() if name != "optim"}
            self.optimizer = torch.optim.SGD(self.model.parameters(), **options)

        def train(self, loader, test_loader, epochs, **_):
            self.batch_weight = np.zeros([len(self.task_dict), epochs, len(loader)])
            for epoch in range(epochs):
                self.model.train()
                for index, (data, labels) in enumerate(loader):
                    found = self.model(data)
                    losses = torch.zeros(len(self.task_dict))
                    for number, (task, what) in enumerate(self.task_dict.items()):
                        losses[number] = what["loss_fn"]._update_loss(found[task], labels[task])
                    self.optimizer.zero_grad(set_to_none=False)
                    weights = self.model.backward(losses, **self.kwargs["weight_args"])
                    self.batch_weight[:, epoch, index] = weights
                    self.optimizer.step()
                self.model.eval()

    class EW(AbsWeighting):
        pass

    class AbsLoss:
        def _update_loss(self, found, given):
            return self.compute_loss(found, given)

    names = ("", ".weighting", ".weighting.abstract_weighting", ".architecture", ".loss")
    modules = {f"LibMTL{name}": types.ModuleType(f"LibMTL{name}") for name in names}
    registry = modules["LibMTL.weighting"]
    registry.EW = EW
    modules["LibMTL.weighting.abstract_weighting"].AbsWeighting = AbsWeighting
    modules["LibMTL.architecture"].HPS = HPS
    modules["LibMTL.loss"].AbsLoss = AbsLoss
    modules["LibMTL"].Trainer, modules["LibMTL"].weighting = Trainer, registry
    return modules


@pytest.fixture(params=["stand-in", "LibMTL"])
def library(request, monkeypatch):
    """The package LibMTL, fresh weightings included."""
    if request.param == "stand-in":
        modules = stand_in()
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        yield modules["LibMTL"]
        return
    found = pytest.importorskip("LibMTL", exc_type=ImportError)

    class OnTheCPU(found.Trainer):
        device = property(lambda self: torch.device("cpu"), lambda self, value: None)

    monkeypatch.setattr(found, "Trainer", OnTheCPU)
    before = dict(vars(found.weighting))
    yield found
    for name in set(vars(found.weighting)) - set(before):
        delattr(found.weighting, name)


# --- what a user writes ---------------------------------------------------------------------------


def task_dict(library, losses=None):
    base = sys.modules["LibMTL.loss"].AbsLoss

    class Square(base):
        def __init__(self, task):
            super().__init__()
            self.task, self.seen = task, []

        def compute_loss(self, found, given):
            loss = losses[self.task](found, given) if losses else (found - given).pow(2).mean()
            self.seen.append(loss.item())
            return loss

    class Metric:
        def update_fun(self, found, given):
            pass

        def score_fun(self):
            return [1.0]

        def reinit(self):
            pass

    return {
        task: {"metrics": ["m"], "metrics_fn": Metric(), "loss_fn": Square(task), "weight": [0]}
        for task in TASKS
    }


def make(library, weight_args=None, rep_grad=False, losses=None, **options):
    torch.manual_seed(4)
    return library.Trainer(
        task_dict=task_dict(library, losses),
        weighting="GO4Align",
        architecture="HPS",
        encoder_class=Encoder,
        decoders=nn.ModuleDict({task: nn.Linear(4, 1) for task in TASKS}),
        rep_grad=rep_grad,
        multi_input=False,
        optim_param={"optim": "sgd", "lr": 0.05},
        scheduler_param=None,
        weight_args={"n_groups": 2, "beta": 0.05} if weight_args is None else weight_args,
        arch_args={},
        **options,
    )


def batches(count=5):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 4, 6, generator=generator)
    return [(a, {"digit": a[:, :1], "ink": 3 * a.sum(1, keepdim=True)}) for a in x]


def train(trainer, count=5, epochs=2):
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train(batches(count), batches(2), epochs)
    return trainer


def training_losses(trainer, count=5, epochs=2, tested=2):
    """What the model was trained on, without the batches it was tested on; (steps, M)."""
    columns = []
    for task in TASKS:
        seen = trainer.task_dict[task]["loss_fn"].seen
        per_epoch = len(seen) // epochs
        assert per_epoch in (count, count + tested)
        columns.append([x for e in range(epochs) for x in seen[e * per_epoch :][:count]])
    return torch.tensor(columns).T


# --- tests ----------------------------------------------------------------------------------------


def test_weights_are_those_of_the_core(library):
    made = libmtl.register()
    assert vars(library.weighting)["GO4Align"] is made
    trainer = train(make(library))
    twin = GO4Align(2, 2, beta=0.05)
    for step, losses in enumerate(training_losses(trainer)):
        twin(losses)
        found = trainer.batch_weight[:, step // 5, step % 5]
        assert found == pytest.approx(twin.weights.numpy(), rel=1e-6), step
    assert trainer.model.go4align.tasks == tuple(TASKS)
    assert int(trainer.model.go4align.steps) == 10, "the test batches are no steps"


def test_gradient_is_that_of_the_weighted_sum(library):
    libmtl.register()
    model = make(library).model
    x, labels = batches()[0]

    def losses():
        found = model(x)
        return torch.stack([(found[task] - labels[task]).pow(2).mean() for task in TASKS])

    weights = model.backward(losses(), n_groups=2)
    assert isinstance(weights, np.ndarray)
    assert weights.shape == (2,)
    mine = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    (torch.tensor(weights) * losses()).sum().backward()
    for a, b in zip(mine, model.parameters(), strict=True):
        assert torch.allclose(a, b.grad, rtol=1e-5)
        assert bool(b.grad.any())


def test_state_is_saved_with_the_model_and_loaded_before_the_first_step(library, tmp_path):
    libmtl.register()
    whole = train(make(library), epochs=2)
    first = train(make(library), epochs=1)
    torch.save(first.model.state_dict(), tmp_path / "best.pt")
    second = train(make(library, load_path=str(tmp_path / "best.pt")), epochs=1)
    assert int(second.model.go4align.steps) == 10
    assert np.array_equal(second.batch_weight[:, 0], whole.batch_weight[:, 1])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    second.model.load_state_dict(first.model.state_dict())  # strict, and after a step
    assert int(second.model.go4align.steps) == 5


def test_saved_state_is_not_unexpected(library):
    libmtl.register()
    trained, fresh = train(make(library)).model, make(library).model
    fresh.load_state_dict(trained.state_dict(), strict=True)


def test_options(library):
    libmtl.register()
    options = {"n_groups": 1, "scale": "unit", "lower_bounds": 0.0}
    trainer = train(make(library, weight_args=options))
    assert np.allclose(trainer.batch_weight, 1.0)
    with pytest.raises(ConfigError, match="no 'n_groups' in weight_args"):
        train(make(library, weight_args={}))
    with pytest.raises(ConfigError, match="unknown 'groups' in weight_args"):
        train(make(library, weight_args={"n_groups": 2, "groups": 3}))
    with pytest.raises(ConfigError, match="unknown 'n_tasks'"):
        train(make(library, weight_args={"n_groups": 2, "n_tasks": 2}))
    with pytest.raises(ConfigError, match="n_groups is 5"):
        train(make(library, weight_args={"n_groups": 5}))
    trainer.kwargs["weight_args"] = {"n_groups": 2}
    with pytest.raises(ConfigError, match="weight_args changed"):
        train(trainer)


def test_gradients_of_the_representation_are_refused(library):
    libmtl.register()
    with pytest.raises(ConfigError, match="pass rep_grad=False"):
        make(library, rep_grad=True)


def test_a_loss_that_cannot_be_weighted_names_the_task(library):
    libmtl.register()
    plain = {task: lambda a, b: (a - b).pow(2).mean() for task in TASKS}
    negative = {**plain, "ink": lambda a, b: -(a - b).pow(2).mean()}
    with pytest.raises(LossError, match="the loss of task 'ink' is -"):
        train(make(library, losses=negative))


def test_registering_again_and_under_another_name(library):
    made = libmtl.register()
    assert libmtl.register() is made
    other = libmtl.register("Grouped")
    assert other.__name__ == "Grouped"
    assert library.weighting.Grouped is other
    with pytest.raises(ConfigError, match="LibMTL has a weighting 'EW' already"):
        libmtl.register("EW")


def test_without_libmtl_registering_says_how_to_get_it():
    code = (
        "import sys\n"
        "sys.modules['LibMTL'] = None\n"
        "from go4align.integrations import libmtl\n"
        "try:\n"
        "    libmtl.register()\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingExtraError")
    assert "pip install git+https://github.com/median-research-group/LibMTL" in done.stdout
