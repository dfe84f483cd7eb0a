"""Which runs are put in a row, and what is said of them."""

from lemae import report


def run(seed, first, win, **settings):
    return {
        "settings": {
            "task": "pass",
            "options": {},
            "steps": 1000,
            "method": "lemae",
            "algo": "ippo",
            "seed": seed,
            "sticky": None,
            **settings,
        },
        "results": {
            "first_success_step": first,
            "win_rate_sampled": win,
            "win_rate_greedy": 0.0,
            "seconds": 60.0,
        },
    }


def test_seeds_share_a_row_and_failures_count():
    (row,) = report.table([run(1, None, 0.0), run(0, 5000, 1.0), run(2, 9000, 0.5)])
    assert (row.task, row.method, row.seeds) == ("pass, 1k steps", "lemae-ippo", (0, 1, 2))
    assert row.first_success == (5000, None, 9000)
    assert (row.sampled.mean, row.minutes) == (0.5, 1.0)
    assert report.steps_text(row.first_success) == "9 (5 to none)"


def test_what_differs_is_told():
    rows = report.table(
        [run(0, 1, 1.0), run(0, 1, 0.5, sticky=6.0), run(0, 1, 0.2, options={"size": 50})]
    )
    assert [(row.task, row.method) for row in rows] == [
        ("pass, 1k steps", "lemae-ippo"),
        ("pass, 1k steps", "lemae-ippo, sticky 6.0"),
        ("pass, size=50, 1k steps", "lemae-ippo"),
    ]
