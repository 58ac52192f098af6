"""The report of a run and of a drift measurement: one file, complete, small, without a script or a network, and without a person's folders."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from rollout_studio.app.cli.main import main
from rollout_studio.app.drift.report import write_drift_report
from rollout_studio.app.parts import report_page as reports
from rollout_studio.app.runs.report import write_run_report
from rollout_studio.core.runs.errors import RunError


class Read(HTMLParser):
    """What a browser would fetch or run, and the text."""

    def __init__(self, page):
        super().__init__()
        self.addresses, self.tags, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(store, write, tmp_path):
    return write.run(
        store,
        "told",
        config={"instance_data_dir": str(tmp_path / "somebody" / "my-dog"), "max_train_steps": 200}.items(),
    )


def test_a_runs_report_shows_all_of_it_and_fetches_nothing(store, run, tmp_path):
    path = write_run_report(run, store.summary("told"))
    page = path.read_text(encoding="utf-8")
    read = Read(page)
    assert path == run.path / "report.html" and len(page) < reports.MOST_BYTES
    assert read.addresses and all(address.startswith("data:image/webp") for address in read.addresses)
    assert 'loading="lazy"' not in page  # printed, it shows all of it
    assert "script" not in read.tags and not re.search(r"url\(|@import|https?://", page)
    samples = 2 * len(list(run.samples_path.iterdir()))
    # and the filmstrip of the last measurement: base and tuned, each 3 x 3 single pictures
    assert len(read.addresses) == samples + 2 * 9
    assert read.text.count("Base model, before training") == 1 and "After training, step 120" in read.text
    for words in (
        "told",
        "step 120 of 200",
        "Loss",
        "Drift at step 120",
        "Drift over the training",
        "Settings",
    ):
        assert words in read.text, words
    assert "my-dog" in read.text and "somebody" not in page and str(tmp_path) not in page


def test_a_report_whose_last_strip_has_no_base_beside_it_shows_the_first_one_too(store, run):
    """A run of an earlier version: one picture of each measurement."""
    for step in (0, 120):
        (run.drift_path / f"step-{step:06d}" / "strips.json").unlink()
    read = Read(write_run_report(run, store.summary("told")).read_text(encoding="utf-8"))
    assert len(read.addresses) == 2 * len(list(run.samples_path.iterdir())) + 2
    assert "Drift before training" in read.text and "Drift at step 120" in read.text


def test_text_of_a_run_is_inert_in_its_report(store, write):
    run = write.run(store, "told")
    run.emit(
        "sample", step=200, images=[{"prompt": "<script>alert(1)</script>", "seed": 1, "path": "../../outside.png"}]
    )
    page = write_run_report(run, store.summary("told")).read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_pictures_are_made_smaller_until_the_report_keeps_its_limit(store, run, monkeypatch):
    large = next(run.samples_path.rglob("*.png"))
    Image.effect_noise((900, 900), 90).save(large)
    whole = write_run_report(run, store.summary("told")).stat().st_size
    monkeypatch.setattr(reports, "MOST_BYTES", whole)
    assert write_run_report(run, store.summary("told")).stat().st_size < whole


def test_a_run_that_has_done_nothing_has_no_report(store):
    run = store.create({"max_train_steps": 3}, "new")
    with pytest.raises(RunError, match="nothing to report"):
        write_run_report(run, store.summary("new"))


def test_the_command_line_writes_both_kinds(store, run, tmp_path, capsys):
    assert main(["report", "told", "--runs-dir", str(store.root), "--out", str(tmp_path / "mine.html")]) == 0
    assert "step 120 of 200" in (tmp_path / "mine.html").read_text(encoding="utf-8")
    measured = run.drift_path / "step-000120"
    assert main(["report", str(measured)]) == 0
    read = Read((measured / "report.html").read_text(encoding="utf-8"))
    assert "Drift of demo-flow" in read.text and len(read.addresses) == 2 * 9
    assert all(address.startswith("data:image/webp") for address in read.addresses)
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "mine.html"), str(measured / "report.html")]
    with pytest.raises(RunError, match="no drift report"):
        write_drift_report(tmp_path)
