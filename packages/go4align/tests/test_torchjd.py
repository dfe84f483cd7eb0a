"""GO4Align as a scalarizer of TorchJD, and TorchJD's methods by name."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import go4align
from go4align.errors import ConfigError, LossError, MissingExtraError

torchjd = pytest.importorskip("torchjd")
scalarization = pytest.importorskip("torchjd.scalarization")
aggregation = pytest.importorskip("torchjd.aggregation")
autojac = pytest.importorskip("torchjd.autojac")

from go4align.torchjd import GO4Align, baseline  # noqa: E402  only where TorchJD is

SCALARIZERS = ("rlw", "dwa", "uw", "famo", "stch")
AGGREGATORS = (
    "mgda",
    "pcgrad",
    "cagrad",
    "imtl-g",
    "nash-mtl",
    "aligned-mtl",
    "fairgrad",
    "upgrad",
    "graddrop",
)


def steps(shape, count=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator) * 3 + 0.1 for _ in range(count)]


# --- GO4Align -------------------------------------------------------------------------------------


def test_is_what_torchjd_expects():
    scalarizer = GO4Align(4, 2)
    assert isinstance(scalarizer, scalarization.Scalarizer)
    assert isinstance(scalarizer, torchjd.Stateful)
    assert isinstance(scalarizer, go4align.GO4Align)
    assert not list(scalarizer.parameters())


@pytest.mark.parametrize("shape", [(6,), (2, 3), (3, 1, 2), (1, 6)])
def test_any_shape_gives_the_values_of_the_core(shape):
    core = go4align.GO4Align(6, 2, beta=0.1)
    ours = GO4Align(6, 2, beta=0.1)
    for values in steps(shape):
        values.requires_grad_()
        flat = values.detach().flatten().requires_grad_()
        mine, theirs = ours(values), core(flat)
        assert mine.shape == ()
        assert torch.equal(mine, theirs)
        mine.backward()
        theirs.backward()
        assert torch.equal(values.grad.flatten(), flat.grad)
    assert torch.equal(ours.weights, core.weights)


def test_one_value_without_a_dimension():
    assert GO4Align(1, 1, scale="sum")(torch.tensor(2.0)).item() == pytest.approx(2.0)


@pytest.mark.parametrize("shape", [(), (3,), (5,), (2, 3)])
def test_another_number_of_values_is_an_error_and_changes_nothing(shape):
    scalarizer = GO4Align(4, 2)
    before = {k: v.clone() for k, v in scalarizer.state_dict().items()}
    with pytest.raises(ValueError, match=r"expected 4, one per task") as caught:
        scalarizer(torch.ones(shape))
    assert isinstance(caught.value, LossError)
    assert str(shape) in str(caught.value)
    assert all(torch.equal(before[k], v) for k, v in scalarizer.state_dict().items())


@pytest.mark.parametrize(
    "mask", [torch.tensor([[True, False], [True, True]]), [True, False, True, True]]
)
def test_mask_in_the_shape_of_the_values(mask):
    core, ours = go4align.GO4Align(4, 2), GO4Align(4, 2)
    values = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    expected = core(values.flatten(), torch.tensor([True, False, True, True]))
    assert torch.equal(ours(values, mask), expected)


def test_mapping_and_sequence_as_in_the_core():
    ours = GO4Align(2, 2, tasks=["a", "b"])
    core = go4align.GO4Align(2, 2, tasks=["a", "b"])
    a, b = torch.tensor(1.0), torch.tensor(3.0)
    assert torch.equal(ours({"b": b, "a": a}), core({"b": b, "a": a}))
    assert torch.equal(ours([a, b]), core([a, b]))


def test_either_class_loads_what_the_other_saved(tmp_path):
    options = {"beta": 0.05, "decay": 0.9, "tasks": ["a", "b", "c"]}
    ours, core = GO4Align(3, 2, **options), go4align.GO4Align(3, 2, **options)
    for values in steps((3,)):
        ours(values)
    assert list(ours.state_dict()) == list(core.state_dict())
    torch.save(ours.state_dict(), tmp_path / "state.pt")
    core.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    back = GO4Align(3, 2, **options)
    back.load_state_dict(core.state_dict())
    for values in steps((3,), seed=2):
        assert torch.equal(ours(values), core(values))
        assert torch.equal(core.weights, ours.weights)
        assert torch.equal(back(values.reshape(3, 1)), ours.weights.float() @ values)


def test_reset_and_evaluation_mode():
    scalarizer = GO4Align(3, 2, beta=0.1)
    first = [scalarizer(values) for values in steps((3,))]
    scalarizer.eval()
    state = {k: v.clone() for k, v in scalarizer.state_dict().items()}
    scalarizer(torch.tensor([9.0, 1.0, 1.0]))
    assert all(torch.equal(state[k], v) for k, v in scalarizer.state_dict().items())
    scalarizer.train().reset()
    assert [scalarizer(values) for values in steps((3,))] == first


def test_hooks_run():
    scalarizer, seen = GO4Align(2, 2), []
    scalarizer.register_forward_hook(lambda module, given, result: seen.append(result.item()))
    result = scalarizer(torch.tensor([1.0, 2.0]))
    assert seen == [result.item()]


def test_representation_names_the_arguments():
    scalarizer = GO4Align(3, 2, beta=0.5, scale="none", decay=0.9)
    assert repr(scalarizer) == (
        "GO4Align(n_tasks=3, n_groups=2, beta=0.5, scale='none', space='log', decay=0.9)"
    )
    assert str(scalarizer) == "GO4Align"


def test_arguments_are_checked_as_in_the_core():
    with pytest.raises(ConfigError, match="n_groups is 5"):
        GO4Align(3, 5)
    assert isinstance(GO4Align.published(3, 2), GO4Align)


# --- baselines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALARIZERS)
def test_scalarizers_give_a_gradient_to_every_loss(name):
    method = baseline(name, 3)
    assert isinstance(method, scalarization.Scalarizer)
    losses = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    method(losses).backward()
    assert bool((losses.grad > 0).all())


# cvxpy, about its own solvers.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", AGGREGATORS)
def test_aggregators_train_a_network(name):
    method = baseline(name, 2)
    assert isinstance(method, aggregation.Aggregator)
    trunk, heads = nn.Linear(3, 4), [nn.Linear(4, 1) for _ in range(2)]
    x = torch.randn(8, 3)
    features = trunk(x)
    losses = [head(features).pow(2).mean() for head in heads]
    autojac.mtl_backward(losses, features=features)
    autojac.jac_to_grad(trunk.parameters(), method)
    for part in (trunk, *heads):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert trunk.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rlw", "Random()"),
        ("dwa", "DWA(temperature=2.0)"),
        ("uw", "UW(shape=(3,))"),
        ("famo", "FAMO(shape=(3,), lr=0.025, weight_decay=0.001)"),
        ("mgda", "MGDA(epsilon=0.001, max_iters=100)"),
        ("cagrad", "CAGrad(c=0.4, norm_eps=0.0001)"),
        ("nash-mtl", "NashMTL(n_tasks=3, max_norm=1.0, update_weights_every=1, optim_niter=20)"),
    ],
)
def test_defaults_are_those_of_the_reference_code(name, expected):
    assert repr(baseline(name, 3)) == expected


def test_defaults_that_the_representation_does_not_show():
    assert baseline("stch", 3).mu == 1.0
    assert baseline("fairgrad", 3).alpha == 1.0
    assert baseline("aligned-mtl", 3).scale_mode == "min"


def test_options_replace_defaults():
    assert baseline("cagrad", 3, c=0.1).c == 0.1
    assert baseline("famo", 2, weight_decay=0.0).weight_decay == 0.0


def test_equal_weights_of_uncertainty_weighting_give_half_the_sum():
    """Before any training s = 0: UW is half the sum of the losses (spec, section 6)."""
    assert baseline("uw", 2)(torch.tensor([1.0, 3.0])).item() == pytest.approx(2.0)


def test_unknown_name_lists_near_matches_and_all():
    with pytest.raises(ConfigError, match="did you mean 'nash-mtl'") as caught:
        baseline("nashmtl", 3)
    for name in (*SCALARIZERS, *AGGREGATORS):
        assert name in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'cagrad'"):
        baseline("CAGrad", 3)
    with pytest.raises(ConfigError, match="unknown baseline 'zzz' \\(there are"):
        baseline("zzz", 3)


def test_options_that_torchjd_refuses():
    with pytest.raises(ConfigError, match=r"CAGrad does not accept the options.*gamma"):
        baseline("cagrad", 3, gamma=1)
    with pytest.raises(ConfigError, match=r"STCH does not accept.*strictly positive"):
        baseline("stch", 3, mu=-1.0)


@pytest.mark.parametrize("n_tasks", [0, -1, 2.0, True, "2"])
def test_number_of_tasks_is_checked(n_tasks):
    with pytest.raises(ConfigError, match="n_tasks is"):
        baseline("uw", n_tasks)


def test_missing_solver_names_the_extra(monkeypatch):
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "go4align\[baselines\]"'):
        baseline("cagrad", 3)


@pytest.mark.parametrize("hidden", ["torchjd", "torchjd.scalarization"])
def test_without_torchjd_the_import_names_the_extra(hidden):
    """A new interpreter, in which TorchJD is missing or too old."""
    code = (
        "import sys\n"
        f"sys.modules[{hidden!r}] = None\n"
        "try:\n"
        "    import go4align.torchjd\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingExtraError")
    assert 'pip install "go4align[baselines]"' in done.stdout
