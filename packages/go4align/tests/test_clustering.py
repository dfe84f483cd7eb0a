"""Exact one-dimensional K-means: against every partition, on arrays and on tensors."""

from __future__ import annotations

import itertools
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from go4align import cluster_costs, kmeans_1d, regroup
from go4align.clustering import partition_device, partition_host
from go4align.errors import ConfigError

# Test modules cannot import each other under --import-mode=importlib.
reference = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).with_name("reference_go4align.py")))
)

# Both signs, twelve orders of magnitude, and few enough small integers that values repeat.
heavy_tailed = st.builds(
    lambda sign, exponent: sign * 10.0**exponent, st.sampled_from([-1, 1]), st.floats(-6, 6)
)
values_of = st.one_of(heavy_tailed, st.integers(-2, 2).map(float), st.floats(-10, 10))


@st.composite
def problems(draw, most=7, elements=values_of):
    values = draw(st.lists(elements, min_size=1, max_size=most))
    return values, draw(st.integers(1, len(values)))


def spread(values):
    """The scale that rounding is relative to: the cost of one cluster."""
    return reference.cost(values)


def both_ways(values, n_clusters):
    array = kmeans_1d(np.array(values), n_clusters)
    tensor = kmeans_1d(torch.tensor(values, dtype=torch.float64), n_clusters)
    assert isinstance(array.labels, np.ndarray)
    assert isinstance(tensor.labels, torch.Tensor)
    return array, tensor


# --- optimality -----------------------------------------------------------------------------------


@given(problems())
def test_no_partition_of_any_kind_is_better(problem):
    """Of all set partitions, not only of neighbours: that those suffice is part of the claim."""
    values, n_clusters = problem
    best = reference.least_cost(values, n_clusters)
    for found in both_ways(values, n_clusters):
        assert float(found.cost) == pytest.approx(best, rel=1e-9, abs=1e-15 * spread(values))
        # The labels say the same as the cost.
        groups = [
            [x for x, label in zip(values, found.labels.tolist(), strict=True) if label == k]
            for k in set(found.labels.tolist())
        ]
        achieved = math.fsum(reference.cost(group) for group in groups)
        assert achieved == pytest.approx(best, rel=1e-9, abs=1e-15 * spread(values))


@pytest.mark.parametrize(
    ("values", "n_clusters", "labels"),
    [
        # With prefix sums of squares the small values would drown in the rounding of 1e12.
        ((1e6, 1e-3, 2e-3, 1e-2, 1.1e-2), 3, (2, 0, 0, 1, 1)),
        ((1e6, 1e6 + 1, 1e6 + 10, 1e6 + 11), 2, (0, 0, 1, 1)),
        ((1e12, 1e-6, 2e-6, 9e-6, 1e-5), 3, (2, 0, 0, 1, 1)),
        ((-1e6, 0.0, 1e-3, 5e-3, 1e6), 4, (0, 1, 1, 2, 3)),
        # The paper's spectral variants split the first of these 5 to 1, the second 2 to 1.
        ((1.0, 1.05, 1.1, 9.0, 10.0, 11.0), 2, (0, 0, 0, 1, 1, 1)),
        ((1.0, 2.0, 4.0), 2, (0, 0, 1)),
        ((1e-200, 2e-200, 9e-200), 2, (0, 0, 1)),
        ((1e200, 2e200, 9e200), 2, (0, 0, 1)),
    ],
)
def test_known_partitions(values, n_clusters, labels):
    for found in both_ways(values, n_clusters):
        assert tuple(found.labels.tolist()) == labels


@pytest.mark.parametrize(("count", "n_clusters"), [(11, 5), (40, 5), (40, 10)])
def test_never_worse_than_scikit_learn_with_twenty_starts(count, n_clusters):
    cluster = pytest.importorskip("sklearn.cluster")
    values = np.exp(2 * np.random.default_rng(count).standard_normal(count))
    theirs = cluster.KMeans(n_clusters, n_init=20, random_state=0).fit(values[:, None]).inertia_
    for found in both_ways(values, n_clusters):
        assert float(found.cost) <= theirs * (1 + 1e-9)


# --- what the result is like ----------------------------------------------------------------------


@given(problems(most=12))
def test_arrays_and_tensors_agree(problem):
    array, tensor = both_ways(*problem)
    assert array.labels.tolist() == tensor.labels.tolist()
    assert array.labels.dtype == np.int64
    assert tensor.labels.dtype == torch.int64
    np.testing.assert_allclose(tensor.centers.numpy(), array.centers, rtol=1e-12)
    assert float(array.cost) == pytest.approx(float(tensor.cost), rel=1e-12)


@given(problems(most=9), st.randoms(use_true_random=False))
def test_the_order_of_the_values_does_not_matter(problem, random):
    values, n_clusters = problem
    order = list(range(len(values)))
    random.shuffle(order)
    shuffled = [values[i] for i in order]
    for found, again in zip(
        both_ways(values, n_clusters), both_ways(shuffled, n_clusters), strict=True
    ):
        assert found.labels[order].tolist() == again.labels.tolist()
        assert float(found.cost) == float(again.cost)


@given(problems(most=9))
def test_labels_count_up_with_the_mean_and_equal_values_share_one(problem):
    values, n_clusters = problem
    for found in both_ways(values, n_clusters):
        labels, centers = found.labels.tolist(), found.centers.tolist()
        used = sorted(set(labels))
        assert used == list(range(len(used)))
        for (a, i), (b, j) in itertools.combinations(zip(values, labels, strict=True), 2):
            assert i == j or (a < b) == (i < j)
            assert a != b or i == j
        for k in used:
            members = [x for x, label in zip(values, labels, strict=True) if label == k]
            limit = 1e-12 * max(map(abs, members))
            assert centers[k] == pytest.approx(math.fsum(members) / len(members), abs=limit)
        assert len(centers) == n_clusters
        assert all(math.isnan(x) for x in centers[len(used) :])


@pytest.mark.parametrize("n_clusters", [1, 2, 3, 5])
def test_no_cluster_is_empty_or_made_up(n_clusters):
    for found in both_ways([3.0, 3.0, 3.0, 7.0, 7.0], n_clusters):
        assert len(set(found.labels.tolist())) == min(n_clusters, 2)
        assert np.isnan(found.centers.tolist()).sum() == n_clusters - min(n_clusters, 2)
    for found in both_ways([0.1] * 5, n_clusters):
        assert found.labels.tolist() == [0] * 5
        assert float(found.cost) == 0


def test_ties_go_to_the_smallest_split():
    for found in both_ways([0.0, 1.0, 2.0], 2):
        assert found.labels.tolist() == [0, 1, 1]


@given(problems(most=9))
def test_costs_never_rise_and_are_those_of_kmeans(problem):
    values, _ = problem
    counts = range(1, len(values) + 1)
    for given_as in (np.array(values), torch.tensor(values, dtype=torch.float64)):
        costs = cluster_costs(given_as)
        assert costs.tolist() == [float(kmeans_1d(given_as, k).cost) for k in counts]
        assert all(a >= b for a, b in itertools.pairwise(costs.tolist()))
        assert costs[-1] == 0
        assert cluster_costs(given_as, 1).tolist() == costs[:1].tolist()


@pytest.mark.parametrize(
    "values",
    [
        [1, 5, 2, 6],
        (1.0, 5.0, 2.0, 6.0),
        np.array([1, 5, 2, 6]),
        np.array([1, 5, 2, 6], dtype=np.float32),
        torch.tensor([1, 5, 2, 6]),
        torch.tensor([1, 5, 2, 6], dtype=torch.bfloat16),
        torch.tensor([1.0, 5.0, 2.0, 6.0], requires_grad=True),
        np.array([1, 0, 5, 0, 2, 0, 6, 0])[::2],
    ],
    ids=["list", "tuple", "int", "float32", "int tensor", "bf16", "grad", "strided"],
)
def test_any_kind_of_numbers(values):
    found = kmeans_1d(values, 2)
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.centers.tolist() == [1.5, 5.5]
    assert float(found.cost) == pytest.approx(1.0)
    if isinstance(values, torch.Tensor):
        assert not found.centers.requires_grad


def test_the_input_is_not_written_to():
    for values in (np.array([3.0, 1.0, 2.0]), torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)):
        kmeans_1d(values, 2)
        cluster_costs(values)
        regroup(values, 2, space="log")
        assert values.tolist() == [3.0, 1.0, 2.0]


# --- the partition under the weighting ------------------------------------------------------------


@given(problems(most=9), st.data())
def test_absent_values_do_not_matter(problem, data):
    """The tensor path has one shape for all masks; NaN stands for what must not be looked at."""
    values, n_clusters = problem
    present = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    subset = np.array([x for x, here in zip(values, present, strict=True) if here])
    marked = torch.tensor(
        [x if here else math.nan for x, here in zip(values, present, strict=True)],
        dtype=torch.float64,
    )
    found = partition_device(marked, n_clusters, torch.tensor(present))
    if not len(subset):
        return
    expected = partition_host(subset, min(n_clusters, len(subset)))
    assert found.labels[torch.tensor(present)].tolist() == expected.labels.tolist()
    assert float(found.costs[-1]) == pytest.approx(float(expected.costs[-1]), rel=1e-12)


@given(problems(most=8), st.sampled_from([0.0, 0.05, 0.1, 0.5]))
def test_fewest_groups_that_explain_enough(problem, unexplained):
    values, _ = problem
    array = np.array(values)
    costs = cluster_costs(array)
    fewest = next(k for k, cost in enumerate(costs, 1) if cost <= unexplained * costs[0])
    expected = kmeans_1d(array, fewest).labels.tolist()
    for found in (
        partition_host(array, len(values), unexplained),
        partition_device(torch.tensor(array), len(values), None, unexplained),
    ):
        assert found.labels.tolist() == expected


# --- regroup --------------------------------------------------------------------------------------

positive = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)


@given(problems(elements=positive, most=9))
def test_regroup_keeps_the_sum_or_the_geometric_mean(problem):
    weights, n_groups = problem
    for given_as in (np.array(weights), torch.tensor(weights, dtype=torch.float64)):
        linear = regroup(given_as, n_groups)
        assert float(linear.sum()) == pytest.approx(math.fsum(weights))
        logs = np.log(regroup(given_as, n_groups, space="log").tolist())
        assert logs.sum() == pytest.approx(np.log(weights).sum(), abs=1e-9)
        assert len(set(linear.tolist())) <= n_groups
        assert len(set(logs.tolist())) <= n_groups


def test_regroup_by_hand():
    assert regroup([0.25, 0.75, 4.0], 2).tolist() == [0.5, 0.5, 4.0]
    # Log space asks for ratios: 1 and 4 are nearer than 4 and 100.
    np.testing.assert_allclose(regroup([1.0, 4.0, 100.0], 2, space="log"), [2.0, 2.0, 100.0])
    # Weights of gradient methods may be negative, which only log space minds.
    assert regroup([-1.0, -3.0, 5.0], 2).tolist() == [-2.0, -2.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("space", ["linear", "log"])
def test_regroup_keeps_dtype_and_gives_members_the_same_bits(dtype, space):
    result = regroup(torch.tensor([0.1, 0.1001, 0.1, 3.0], dtype=dtype), 2, space=space)
    assert result.dtype == dtype
    assert len(set(result.tolist())) == 2


def test_regroup_of_whole_numbers_is_not_cut_off():
    assert regroup(torch.tensor([1, 2, 10]), 2).tolist() == [1.5, 1.5, 10.0]
    assert regroup(np.array([1, 2, 10]), 2).tolist() == [1.5, 1.5, 10.0]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: kmeans_1d([[1.0, 2.0]], 1), ("values", "(1, 2)", "(M,)")),
        (lambda: kmeans_1d(torch.ones(2, 1), 1), ("values", "(2, 1)", "(M,)")),
        (lambda: kmeans_1d(3.0, 1), ("values", "()", "(M,)")),
        (lambda: kmeans_1d([], 1), ("values", "(0,)", "M >= 1")),
        (lambda: kmeans_1d([1.0, math.nan], 1), ("values", "nan", "finite")),
        (lambda: kmeans_1d(torch.tensor([1.0, math.inf]), 1), ("values", "inf", "finite")),
        (lambda: kmeans_1d(["one", "two"], 1), ("values", "one", "numbers")),
        (lambda: kmeans_1d([1.0, 2.0], 0), ("n_clusters", "0", "from 1 to 2")),
        (lambda: kmeans_1d([1.0, 2.0], 3), ("n_clusters", "3", "from 1 to 2")),
        (lambda: kmeans_1d([1.0, 2.0], 1.5), ("n_clusters", "1.5", "from 1 to 2")),
        (lambda: kmeans_1d([1.0, 2.0], True), ("n_clusters", "True", "from 1 to 2")),
        (lambda: cluster_costs([1.0, 2.0], 3), ("max_clusters", "3", "from 1 to 2")),
        (lambda: cluster_costs([1.0, 2.0], 0), ("max_clusters", "0", "from 1 to 2")),
        (lambda: cluster_costs([1.0, 2.0], 1.5), ("max_clusters", "1.5", "from 1 to 2")),
        (lambda: regroup([1.0, 2.0], 3), ("n_groups", "3", "from 1 to 2")),
        (lambda: regroup([1.0, 2.0], 1, space="lin"), ("space", "'lin'", '"linear"', '"log"')),
        (lambda: regroup([1.0, 0.0], 1, space="log"), ("weights", "0.0", "positive")),
        (lambda: regroup(torch.tensor([1.0, -2.0]), 1, space="log"), ("weights", "-2.0")),
        (lambda: regroup([1.0, math.nan], 1), ("weights", "nan", "finite")),
        (lambda: regroup(np.ones((2, 2)), 1), ("weights", "(2, 2)", "(M,)")),
    ],
)
def test_errors_name_the_argument_what_was_found_and_what_to_do(call, parts):
    with pytest.raises(ConfigError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def test_numpy_integers_are_whole_numbers():
    """They come out of every argmin over ``cluster_costs``."""
    assert kmeans_1d([1.0, 2.0, 9.0], np.int64(2)).labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_tensors_compile_into_one_graph(backend):
    compiled = torch.compile(lambda x: kmeans_1d(x, 2), fullgraph=True, backend=backend)
    torch._dynamo.reset()
    for _ in range(3):
        x = torch.randn(6, dtype=torch.float64)
        expected, found = kmeans_1d(x, 2), compiled(x)
        assert found.labels.tolist() == expected.labels.tolist()
        torch.testing.assert_close(found.centers, expected.centers)
