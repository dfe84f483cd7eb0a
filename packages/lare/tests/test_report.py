"""Which runs are put side by side."""

import pytest

from lare import report


def run(seed, score, **settings):
    return {
        "settings": {"task": "T", "method": "lare", "algorithm": "td3", "steps": 10, "width": 64}
        | {"seed": seed}
        | settings,
        "results": {"scores": {10: score}, "steps_per_second": 1.0},
    }


def test_runs_of_one_setting_are_one_row():
    (row,) = report.table([run(0, 1.0), run(1, 3.0)])
    assert (row.task, row.seeds, row.scores.mean) == ("T, 10 steps", (0, 1), 2.0)


def test_runs_of_other_widths_are_not_mixed():
    rows = report.table([run(0, 1.0), run(1, 3.0), run(0, 5.0, width=8)])
    assert {row.task: row.seeds for row in rows} == {
        "T, 10 steps, width 64": (0, 1),
        "T, 10 steps, width 8": (0,),
    }


def test_what_only_a_method_has_keeps_methods_comparable():
    found = [run(s, 1.0) for s in (0, 1)]
    found += [run(s, 0.0, method="rrd", options={"k": 8}) for s in (0, 1)]
    (ours, theirs) = report.table(found)
    assert ours.task == theirs.task == "T, 10 steps"
    assert theirs.minus_lare.mean == pytest.approx(-1)
