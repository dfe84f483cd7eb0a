"""Which runs are put side by side."""

import pytest

from lare import report
from lare.errors import ConfigError


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


def test_baselines_under_other_conditions_are_not_subtracted():
    rows = report.table([run(0, 1.0), run(0, 5.0, method="episodic", width=8)])
    assert {row.task for row in rows} == {"T, 10 steps, width 64", "T, 10 steps, width 8"}
    assert all(row.minus_lare is None for row in rows)


def test_variants_of_a_method_stay_beside_lare():
    found = [run(0, 3.0), run(0, 2.0, function="ablated.py")]
    found += [run(0, float(k), method="rrd", options={"k": k}) for k in (0, 1)]
    rows = {row.method: row.minus_lare for row in report.table(found)}
    assert rows.keys() == {
        "lare",
        "lare, function ablated.py",
        "rrd, options.k 0",
        "rrd, options.k 1",
    }
    assert rows["lare"] is None
    assert rows["rrd, options.k 1"].mean == -2


def test_tasks_of_ones_own_with_the_same_name_are_told_apart():
    found = [run(0, h, task={"id": "g", "horizon": h}, algorithm="ppo") for h in (25, 50)]
    assert [row.task for row in report.table(found)] == [
        "g, 10 steps, task.horizon 25",
        "g, 10 steps, task.horizon 50",
    ]


def test_the_same_run_twice_is_refused():
    with pytest.raises(ConfigError, match="have seed 0 and the same settings"):
        report.table([run(0, 1.0), run(0, 2.0)])
