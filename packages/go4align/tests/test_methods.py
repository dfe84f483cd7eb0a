"""One interface for all methods: what they put into .grad."""

import pytest
import torch
from torch import nn

from go4align.errors import ConfigError
from go4align.methods import GRADIENT_BASED, LOSS_BASED, create
from go4align.tasks.problem import MultiTaskNetwork

TASKS = 3


def network():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    return MultiTaskNetwork(trunk, [nn.Linear(6, 1) for _ in range(TASKS)])


def losses_of(net):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 4, generator=generator)
    y = torch.randn(TASKS, 8, 1, generator=generator)
    features, outputs = net(x)
    return features, [
        (i + 1) * (o - t).square().mean() for i, (o, t) in enumerate(zip(outputs, y, strict=True))
    ]


def backward(method, with_features=True):
    net = network()
    features, losses = losses_of(net)
    method.backward(losses, features if with_features else None, list(net.trunk.parameters()))
    return net, [parameter.grad.clone() for parameter in net.parameters()]


def expected(combine):
    net = network()
    combine(torch.stack(losses_of(net)[1])).backward()
    return [parameter.grad for parameter in net.parameters()]


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_ls_is_the_sum_and_si_the_sum_of_logarithms():
    assert_close(backward(create("ls", TASKS))[1], expected(torch.sum))
    assert_close(backward(create("si", TASKS))[1], expected(lambda x: x.log().sum()))


def test_go4align_without_groups_and_memory_is_si_times_the_number_of_tasks():
    method = create("go4align", TASKS, n_groups=TASKS, beta=0.0)
    assert_close(backward(method)[1], expected(lambda x: x.log().sum()))
    assert method.weights.shape == (TASKS,)
    assert method.groups.shape == (TASKS,)


@pytest.mark.parametrize("name", [*LOSS_BASED, *GRADIENT_BASED])
def test_every_method_of_torchjd_fills_every_gradient(name):
    pytest.importorskip("torchjd")
    if name == "nash-mtl":
        pytest.importorskip("cvxpy")
    method = create(name, TASKS)
    _, grads = backward(method)
    assert all(grad.isfinite().all() for grad in grads)
    assert any(grad.abs().sum() > 0 for grad in grads)
    assert method.needs_features == (name in GRADIENT_BASED)


@pytest.mark.parametrize("name", ["mgda", "imtl-g", "upgrad"])
def test_the_heads_get_their_own_gradient_with_or_without_features(name):
    pytest.importorskip("torchjd")
    plain = expected(torch.sum)
    with_features = backward(create(name, TASKS))[1]
    without = backward(create(name, TASKS), with_features=False)[1]
    assert_close(with_features[2:], plain[2:])  # after the trunk's weight and bias
    assert_close(with_features, without)


def test_famo_learns_from_the_losses_after_the_step():
    pytest.importorskip("torchjd")
    method = create("famo", TASKS)
    net, _ = backward(method)
    before = method.function._w.detach().clone()
    with torch.no_grad():
        for parameter in net.heads[0].parameters():
            parameter.mul_(0.5)
    method.after_step(lambda: losses_of(net)[1])
    assert (method.function._w != before).any()
    assert method.learned_parameters() == []  # FAMO steps them by itself


def test_uw_has_parameters_for_the_optimizer():
    pytest.importorskip("torchjd")
    method = create("uw", TASKS)
    backward(method)
    (parameter,) = method.learned_parameters()
    assert parameter.grad.abs().sum() > 0


def test_dwa_compares_epochs():
    pytest.importorskip("torchjd")
    method = create("dwa", TASKS)
    backward(method)
    method.end_epoch()
    assert len(method.function._previous_averages) == 1


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("go4alain", {"n_groups": 2}, "did you mean 'go4align'"),
        ("go4align", {}, "n_groups"),
        ("ls", {"speed": 2}, "'ls' with options"),
        ("go4align", {"n_groups": 9}, "n_groups is 9"),
    ],
)
def test_errors(name, options, says):
    with pytest.raises(ConfigError, match=says):
        create(name, TASKS, **options)


def test_gradient_based_methods_say_what_they_need():
    pytest.importorskip("torchjd")
    with pytest.raises(ConfigError, match="shared_parameters"):
        create("mgda", TASKS).backward(losses_of(network())[1])
