"""Δm, LibMTL's measure and mean rank: closed forms and the published table."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from go4align import metrics
from go4align.errors import ConfigError
from go4align.metrics import delta_m, delta_p, mean_rank

# NYUv2, table 1 of the paper: mIoU, PixAcc, AbsErr, RelErr, mean and median angle, within 11.25,
# 22.5 and 30 degrees; single-task training first.
STL = (38.30, 63.76, 0.6754, 0.2780, 25.01, 19.21, 30.14, 57.20, 69.15)
NYUV2 = {
    "MGDA": (30.47, 59.90, 0.6070, 0.2555, 24.88, 19.45, 29.18, 56.88, 69.36),
    "PCGrad": (38.06, 64.64, 0.5550, 0.2325, 27.41, 22.80, 23.86, 49.83, 63.14),
    "GradDrop": (39.39, 65.12, 0.5455, 0.2279, 27.48, 22.96, 23.38, 49.44, 62.87),
    "CAGrad": (39.79, 65.49, 0.5486, 0.2250, 26.31, 21.58, 25.61, 52.36, 65.58),
    "IMTL-G": (39.35, 65.60, 0.5426, 0.2256, 26.02, 21.19, 26.20, 53.13, 66.24),
    "Nash-MTL": (40.13, 65.93, 0.5261, 0.2171, 25.26, 20.08, 28.40, 55.47, 68.15),
    "LS": (39.29, 65.33, 0.5493, 0.2263, 28.15, 23.96, 22.09, 47.50, 61.08),
    "SI": (38.45, 64.27, 0.5354, 0.2201, 27.60, 23.37, 22.53, 48.57, 62.32),
    "RLW": (37.17, 63.77, 0.5759, 0.2410, 28.27, 24.18, 22.26, 47.05, 60.62),
    "DWA": (39.11, 65.31, 0.5510, 0.2285, 27.61, 23.18, 24.17, 50.18, 62.39),
    "UW": (36.87, 63.17, 0.5446, 0.2260, 27.04, 22.61, 23.54, 49.05, 63.65),
    "FAMO": (38.88, 64.90, 0.5474, 0.2194, 25.06, 19.57, 29.21, 56.61, 68.98),
    "GO4Align": (40.42, 65.37, 0.5492, 0.2167, 24.76, 18.94, 30.54, 57.87, 69.84),
}
HIGHER = [True, True, False, False, False, False, True, True, True]
TASKS = ["seg"] * 2 + ["depth"] * 2 + ["normal"] * 5


@pytest.mark.parametrize(
    ("method", "change", "rank"),
    [("GO4Align", -6.08, 2.11), ("FAMO", -4.10, 4.33), ("LS", 5.59, 9.89)],
)
def test_published_rows(method, change, rank):
    """Table 1 of arXiv 2404.06486: Δm within 0.02, mean ranks to the printed digit."""
    assert delta_m(NYUV2[method], STL, HIGHER) == pytest.approx(change, abs=0.02)
    assert round(mean_rank(NYUV2, HIGHER)[method], 2) == rank


@pytest.mark.parametrize(("method", "change"), [("GO4Align", 8.53), ("LS", 0.88)])
def test_libmtls_measure_is_another_one(method, change):
    assert delta_p(NYUV2[method], STL, HIGHER, TASKS) == pytest.approx(change, abs=0.01)


def test_docstring_examples():
    assert doctest.testmod(metrics).failed == 0


positive = st.floats(0.1, 1e3)


@given(arrays(np.float64, (4, 5), elements=positive), arrays(np.float64, 5, elements=positive))
def test_rows_of_a_table_are_independent(table, base):
    np.testing.assert_allclose(
        delta_m(table, base, [True, False] * 2 + [True]),
        [delta_m(row, base, [True, False] * 2 + [True]) for row in table],
    )


def test_no_change_is_zero_and_direction_is_a_sign():
    assert delta_m([1.0, 2.0], [1.0, 2.0]) == 0
    assert delta_m([2.0], [1.0], [True]) == -delta_m([2.0], [1.0], [False]) == -100


def test_tied_methods_share_the_mean_rank():
    assert mean_rank({"a": [1.0], "b": [1.0], "c": [3.0]}) == {"a": 1.5, "b": 1.5, "c": 3.0}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: delta_m([1.0, 2.0], [1.0, 0.0]), r"baseline is 0 at \[1\]"),
        (lambda: delta_m([1.0, np.nan], [1.0, 1.0]), "NaN"),
        (lambda: delta_m([1.0, 2.0], [1.0]), r"\(2,\).*\(1,\)"),
        (lambda: delta_m([1.0], [1.0], [True, False]), "higher_is_better"),
        (lambda: delta_p([1.0, 2.0], [1.0, 1.0], True, ["a"]), "task_of has 1"),
        (lambda: mean_rank({}), "empty"),
        (lambda: mean_rank({"a": [1.0], "b": [1.0, 2.0]}), "shapes"),
        (lambda: mean_rank({"a": [np.inf]}), "infinity"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ConfigError, match=says):
        call()
