"""Tables of results, in Markdown: what the scripts print, and what the README shows."""


def _table(head, rows):
    """Yield the lines of a table whose first column holds names."""
    yield f"| {' | '.join(head)} |"
    yield f"| --- |{' --: |' * (len(head) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _by_run(rows, value):
    """Return the values of each run in the order of the seeds; the first run is the reference."""
    found = {}
    for row in rows:
        found.setdefault(row["run"], []).append(value(row))
    return found


def _number(value, digits, sign=""):
    """Return a rounded number; what rounds to zero has no sign of its own."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"


def _interval(summary, digits, sign=""):
    """Return mean, interquartile mean and its interval, which a single seed does not have."""
    values = summary.mean, summary.iqm, summary.low, summary.high
    mean, iqm, low, high = (_number(value, digits, sign) for value in values)
    return f"{mean}, {iqm}" + (f" [{low}, {high}]" if summary.runs > 1 else "")


def _verdict(difference):
    """Say in words what an interval tells; that of a single seed is not a number."""
    if difference.low > 0:
        return "helps"
    return "hurts" if difference.high < 0 else "no difference shown"


def multitask(rows):
    """Yield the table of 01: errors on held-out texts, their mean change, and bytes held."""
    from go4align._kit import summarize
    from go4align.metrics import delta_m

    errors = _by_run(rows, lambda row: list(row["errors"].values()))
    held = _by_run(rows, lambda row: row["bytes_per_token"])
    held = {run: sum(found) / len(found) for run, found in held.items()}
    lines = []
    for run, found in errors.items():
        package, kind, words = (sum(column) / len(found) for column in zip(*found, strict=True))
        change = "0"
        if run != "plain":
            change = _interval(summarize(delta_m(found, errors["plain"])), 1, "+")
        cells = f"{package:.1%}", f"{kind:.1%}", f"{words:.1f}", change
        lines.append((run, *cells, f"{held[run]:,.0f}", f"{held[run] / held['plain']:.3f}"))
    head = ("run", "package, wrong", "kind, wrong", "words, off by", "Δm %: mean, IQM [95 %]")
    yield from _table((*head, "bytes/token", "of plain"), lines)


def exploration(rows):
    """Yield the tables of 02: what was reached, and what each package adds."""
    from lare._kit import paired_difference, summarize

    scores = _by_run(rows, lambda row: row["return"])
    paid = _by_run(rows, lambda row: row["paid_episodes"])
    reached = [
        (run, f"{sum(paid[run]) / len(found):,.0f}", _interval(summarize(found), 3))
        for run, found in scores.items()
    ]
    head = ("run", "paid training episodes", "share of steps paid: mean, IQM [95 %]")
    yield from _table(head, reached)
    yield ""
    added = []
    for name, run, without in (
        ("lare alone", "lare", "neither"),
        ("lemae alone", "lemae", "neither"),
        ("lare beside lemae", "both", "lemae"),
        ("lemae beside lare", "both", "lare"),
    ):
        found = paired_difference(scores[run], scores[without])
        added.append((name, _interval(found, 3, "+"), _verdict(found)))
    yield from _table(("what", "adds, paired: mean, IQM [95 %]", "verdict"), added)


def measured(summary):
    """Return the sentence below a table, of the file of results."""
    device, versions = summary["device"], summary["versions"]
    return (
        f"{len(summary['settings']['seeds'])} seeds, {summary['settings']['steps']:,} steps each. "
        f"Measured on one of {device['cores']} {device['machine']} cores, "
        f"torch {versions['torch']}, Python {versions['python']}, {summary['finished'][:10]}."
    )
