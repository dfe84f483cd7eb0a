"""The demo's folder: whose it is, and what becomes of it."""

import json

import pytest

from lemae import demo, training
from lemae.errors import ConfigError, LemaeError


class Cut(Exception):
    pass


@pytest.fixture
def train(monkeypatch):
    """Stands in for the trainings of the demo, which take minutes; breaks off when told so."""
    found = dict.fromkeys(demo._KEPT, 1.0)
    calls = []

    def quick(settings, folder):
        assert not folder.exists()  # nothing of an earlier try is left
        folder.mkdir()
        (folder / "checkpoint.pt").write_bytes(b"some")
        calls.append(settings)
        if len(calls) == quick.cut_at:
            raise Cut
        return found

    quick.cut_at = None
    quick.calls = calls
    monkeypatch.setattr(training, "train", quick)
    monkeypatch.setattr(demo, "check", lambda *given: Checked())
    monkeypatch.setattr(demo, "_page", lambda results, folder: Page())
    return quick


class Checked:
    def as_dict(self):
        return {"accepted": True}


class Page:
    def write(self, path):
        path.write_text("pictures", encoding="utf-8")


@pytest.mark.parametrize("cut_at", [1, 3, None])
def test_the_next_demo_begins_anew(cut_at, train, tmp_path):
    train.cut_at = cut_at
    out = tmp_path / "demo"
    if cut_at is None:
        demo.run(out)
    else:
        with pytest.raises(Cut):
            demo.run(out)
        assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["results"] == {}
    (out / ".summary.json.x1_a").write_bytes(b"half of it")
    train.cut_at = None
    results = demo.run(out, seed=1)
    assert [one.seed for one in train.calls[-3:]] == [1, 1, 1]
    assert {path.name for path in out.iterdir()} == {
        *("summary.json", "report.html", "lemae", "aided", "plain")
    }
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["results"]["plain"] == results["plain"]


@pytest.mark.parametrize(
    ("ours", "aided", "plain", "missing"),
    [
        (0.95, 0.97, 0.0, []),
        (0.85, 0.0, 0.0, ["with key states 0.85 of the episodes are won"]),
        (0.95, 0.0, 0.96, ["plain IPPO wins 0.96"]),
    ],
)
def test_what_is_promised(ours, aided, plain, missing):
    rates = {"lemae": ours, "aided": aided, "plain": plain}
    results = {name: {"win_rate_sampled": rate} for name, rate in rates.items()}
    found = demo.broken_promises({"check": {"accepted": True}, **results})
    assert len(found) == len(missing)
    assert all(text.startswith(start) for text, start in zip(found, missing, strict=True))
    (rejected,) = demo.broken_promises({**results, "check": {"accepted": False}})[:1]
    assert "rejected" in rejected


@pytest.mark.parametrize("name", ["mine.txt", "lemae/mine.txt", "plain/sub/mine.txt"])
def test_a_folder_with_something_of_others_is_left_alone(name, train, tmp_path):
    demo.run(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("keep me", encoding="utf-8")
    with pytest.raises(ConfigError, match="has content that the demo did not write"):
        demo.run(tmp_path)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("summary", [None, "[]", "3", "{", '{"settings": []}', '{"settings": {}}'])
def test_a_folder_of_something_else_is_left_alone(summary, train, tmp_path):
    (tmp_path / "lemae").mkdir()
    if summary is not None:
        (tmp_path / "summary.json").write_text(summary, encoding="utf-8")
    with pytest.raises(ConfigError, match="has content that the demo did not write"):
        demo.run(tmp_path)
    assert (tmp_path / "lemae").exists()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="is a file"):
        demo.run(tmp_path / "file")


def test_two_demos_do_not_share_a_folder(train, tmp_path, monkeypatch):
    pytest.importorskip("fcntl")

    def again(settings, folder):
        with pytest.raises(LemaeError, match="another process is writing to"):
            demo.run(tmp_path)
        raise Cut

    monkeypatch.setattr(training, "train", again)
    with pytest.raises(Cut):
        demo.run(tmp_path)
