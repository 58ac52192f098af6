"""The Drift tab in a real browser: the laboratory with the real preview worker, and with a running run that this process plays."""

import json
import re
import time

import drift_worker
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect
from rollout_studio.app.drift.lab import DriftLab
from rollout_studio.core.config import config_to_flat, load_preset
from rollout_studio.core.runs.store import RunStore

pytestmark = pytest.mark.timeout(600)
LATE_MS = 5000  # whatever the page's timers have asked before is answered by then


def choose(page, field, words):
    page.locator(f"#look-{field} input").click()
    page.get_by_role("option", name=words, exact=True).click()


def test_a_first_visit_sees_drift_moves_through_it_compares_solvers_and_takes_it_away(visit, tab, tmp_path):
    page = visit()
    tab(page, "Drift")
    example = page.locator(".rs-example")
    # A finished picture stands there at once, and can be moved through.
    expect(example.locator(".rs-cell img")).to_have_count(27)
    for column in ("2", "8"):
        page.locator(f".rs-cell[data-row=heat][data-col='{column}']").click()
        expect(page.get_by_label("Step that is shown large")).to_have_value(column)
    page.locator("#look-show").click()
    expect(example).to_have_count(0)
    expect(
        page.get_by_role("heading", name=re.compile("After 18 steps on its own, the model is .* off the true path"))
    ).to_be_visible()
    for row in ("clean", "rolled", "heat"):
        expect(page.locator(f".rs-cell[data-row={row}] img")).to_have_count(9)
        page.wait_for_function(
            "row => [...document.querySelectorAll(`.rs-cell[data-row=${row}] img`)].every(i => i.complete && i.naturalWidth == 64)",
            arg=row,
        )

    scrubber, large = page.get_by_label("Step that is shown large"), page.locator("[data-big=rolled]")
    expect(page.locator(".rs-where")).to_contain_text("step 18")
    scrubber.focus()
    page.keyboard.press("Home")
    expect(page.locator(".rs-where")).to_contain_text("0.0 % apart")
    assert large.get_attribute("src") == page.locator(".rs-cell[data-row=rolled][data-col='0'] img").evaluate(
        "image => image.src"
    )
    page.locator(".rs-cell[data-row=heat][data-col='3']").click()
    expect(scrubber).to_have_value("3")
    page.get_by_label("Before and after").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".rs-wipe-box").evaluate("box => box.style.getPropertyValue('--cut')") == "51%"

    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Use a picture of mine").click()
    Image.new("RGB", (64, 64), (30, 90, 200)).save(tmp_path / "wall ${x}.png")
    chooser.value.set_files(tmp_path / "wall ${x}.png")
    expect(page.locator("#look-prompt")).to_contain_text("Write what the picture shows")
    expect(page.locator(".rs-thumbs input").first).to_be_checked()
    page.locator(".rs-thumbs input").nth(1).check()  # back to the first built-in one, whose caption is the prompt again
    expect(page.locator("#look-prompt textarea")).to_have_value(re.compile("zwx shape"))

    page.get_by_text("More", exact=True).click()
    choose(page, "solver", "euler")  # asks again by itself
    expect(page.locator(".rs-fact-chips")).to_contain_text("euler")
    expect(page.locator(".rs-cell[data-row=clean]")).to_have_count(9)
    expect(page.locator(".rs-cell[data-row=rolled]")).to_have_count(18)
    expect(scrubber).to_have_value("3")  # where it was
    page.get_by_label("Whose pictures are shown large").select_option("euler")
    assert "1-03-rolled" in large.get_attribute("src")

    steps = page.locator("#look-grid-steps input")
    steps.fill("1")
    steps.blur()
    expect(page.locator("#look-grid-steps")).to_contain_text("must be at least 2 steps")
    page.locator("#look-show").click()
    expect(page.locator("#look-progress")).to_contain_text("This cannot be shown yet")
    expect(page.locator(".rs-fact-chips")).to_contain_text("euler")  # the picture is not lost
    steps.fill("20")
    steps.blur()
    expect(page.locator("#look-grid-steps")).not_to_contain_text("must be")
    expect(page.locator("#look-progress .rs-bad")).to_have_count(0)

    for words, start in (
        ("Filmstrip (euler), PNG", b"\x89PNG"),
        ("Report, JSON", b'{"format"'),
        ("Numbers, CSV", b"step,label"),
    ):
        with page.expect_download() as download:
            page.locator("#look-export").get_by_role("link", name=words).click()
        assert download.value.path().read_bytes().startswith(start)
        assert download.value.suggested_filename.startswith("drift-thing-1")


@pytest.mark.slow
def test_the_first_picture_of_a_cold_worker_ends_its_bar_and_the_curves_stay(visit, tab, monkeypatch):
    """What ended stays ended: no answer of an earlier look, however late, takes the place of the last one. Here the page's own timer is answered
    two seconds after it has looked, as on a busy machine."""
    beat = DriftLab.beat

    def late(self, *given):
        out = beat(self, *given)
        time.sleep(2)
        return out

    monkeypatch.setattr(DriftLab, "beat", late)
    page = visit()
    tab(page, "Drift")
    page.locator("#look-show").click()
    expect(page.locator(".rs-example")).to_have_count(0)
    expect(page.locator(".rs-cell[data-row=rolled] img")).to_have_count(9)
    expect(page.locator("#look-measure")).to_be_visible()
    page.wait_for_timeout(LATE_MS)
    expect(page.locator("#look-progress [role=progressbar]")).to_have_count(0, timeout=1)
    expect(page.locator("#look-stop")).to_be_hidden(timeout=1)
    page.locator("#look-measure").click()
    expect(page.locator("#look-curves svg")).to_have_count(4, timeout=120_000)
    page.wait_for_timeout(LATE_MS)
    expect(page.locator("#look-curves svg")).to_have_count(4, timeout=1)
    expect(page.locator("#look-curves [role=progressbar], #look-progress [role=progressbar]")).to_have_count(
        0, timeout=1
    )
    expect(page.locator("#look-stop")).to_be_hidden(timeout=1)


def test_a_running_run_shows_its_weights_of_now_beside_its_base(visit, served, tab):
    """A trainer is played by this process, which owns the run's lock and answers between two steps."""
    run = RunStore(served[1].root).create(config_to_flat(load_preset("demo")), "plays")
    with run.lock():
        run.write_state(state="running", step=40)
        page = visit()
        # where a live run leads at first
        expect(page.get_by_role("tab", name="Runs", exact=True)).to_have_attribute("aria-selected", "true")
        tab(page, "Drift")
        choose(page, "weights", "plays · now, while it trains")
        expect(page.locator("#look-against input")).to_have_value("its base model")
        expect(page.locator("#look-pictures")).to_contain_text("Trained on by plays")
        page.locator("#look-show").click()
        expect(page.locator("#look-progress")).to_contain_text("Waiting for plays to finish its step")
        (command,) = run.take_commands()
        drift_worker.write_answer(run.drift_path / "previews" / command.id, command.args["request"], step=40)
        run.emit("preview", id=command.id, step=40, path=f"drift/previews/{command.id}/result.json")
        expect(page.locator(".rs-fact")).to_contain_text("Weights of training step 40")
        expect(page.locator(".rs-fact-chips")).to_contain_text("plays, now")
        page.wait_for_function(
            "[...document.querySelectorAll('.rs-look img')].every(i => i.complete && i.naturalWidth > 0)"
        )
        page.locator("#look-show").click()
        expect(page.locator("#look-progress")).to_contain_text("Waiting for plays")
    expect(page.locator("#look-progress")).to_contain_text("ended before it answered")
    expect(page.locator(".rs-fact-chips")).to_contain_text("plays, now")


def test_what_runs_measured_is_charted_and_can_be_taken_away(visit, served, write, tab):
    write.run(RunStore(served[1].root), "measured")
    page = visit(width=400)
    tab(page, "Drift")
    tab(page, "Measured by runs")
    page.locator("#drift-step").get_by_label("before training").click()
    expect(page.locator("#drift-picture")).to_contain_text("Drift before training")
    with page.expect_download() as download:
        page.locator("#drift-curves").get_by_role("link", name="Report, JSON").click()
    assert json.loads(download.value.path().read_bytes())["step"] == 0
    assert download.value.suggested_filename == "measured-drift-step-0.json"
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
