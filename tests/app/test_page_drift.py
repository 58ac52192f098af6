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
from rollout_studio.app.runs.report import write_run_report
from rollout_studio.core.config import config_to_flat, load_preset
from rollout_studio.core.look.preview.request import SO_FAR
from rollout_studio.core.runs.store import RunStore

pytestmark = pytest.mark.timeout(600)
LATE_MS = 5000  # whatever the page's timers have asked before is answered by then


def choose(page, field, words):
    page.locator(f"#look-{field} input").click()
    page.get_by_role("option", name=words, exact=True).click()


WATCHED = """() => {
  window.seen = [];
  const film = document.querySelector('#look-film');
  const look = () => {
    const strip = film.querySelector('.rs-look'), images = strip ? [...strip.querySelectorAll('.rs-cell img')] : [];
    seen.push({at: performance.now(), growing: Boolean(strip && strip.matches('.rs-growing')), pictures: images.length});
    if (images.length) images[0].decode().then(() => { window.drawn = performance.now(); }, () => {});
  };
  new MutationObserver(look).observe(film, {childList: true, subtree: true});
  document.addEventListener('click', () => { window.clicked = performance.now(); window.drawn = null; }, true);
}"""
"""Notes what stands in the place of the filmstrip whenever that changes, and how long after a click its first picture could be seen."""


def read_offline(browser, path):
    """What a report shows that is opened from the disk by a browser without a network: (its text, the sizes of its pictures)."""
    context, asked = browser.new_context(offline=True), []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    sizes = page.evaluate("[...document.images].map(each => each.complete && each.naturalWidth)")
    words = page.locator("body").inner_text()
    context.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    return words, sizes


def drag(page, slider, share, press):
    """Move a slider's thumb to a share of its length. `press(kind, x, y)`: what a mouse or a finger does."""
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    now, most = int(slider.input_value()), int(slider.get_attribute("max"))
    y = box["y"] + box["height"] / 2
    press("start", box["x"] + 8 + (box["width"] - 16) * now / most, y)
    press("move", box["x"] + 8 + (box["width"] - 16) * share, y)
    press("end", 0, 0)


def test_a_first_visit_sees_drift_moves_through_it_compares_solvers_and_takes_it_away(visit, tab, tmp_path, browser):
    page = visit()
    tab(page, "Drift")
    example = page.locator(".rs-example")
    # A finished picture stands there at once, and can be moved through: by clicks, with the mouse, with the keys.
    expect(example.locator(".rs-cell img")).to_have_count(27)
    expect(example).to_contain_text("What to look at. Compare the two rows")
    scrubber = page.get_by_label("Step that is shown large")
    for column in ("2", "8"):
        page.locator(f".rs-cell[data-row=heat][data-col='{column}']").click()
        expect(scrubber).to_have_value(column)
    mouse = {
        "start": lambda x, y: (page.mouse.move(x, y), page.mouse.down()),
        "move": page.mouse.move,
        "end": lambda x, y: page.mouse.up(),
    }
    drag(page, scrubber, 0.5, lambda kind, x, y: mouse[kind](x, y))
    expect(scrubber).to_have_value("4")
    page.get_by_role("region", name="Filmstrip: noise goes away").focus()
    page.keyboard.press("ArrowLeft")
    expect(scrubber).to_have_value("3")
    page.keyboard.press("End")
    expect(scrubber).to_have_value("8")
    page.evaluate(WATCHED)
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

    # It came picture by picture, and at no time stood nothing there.
    seen = page.evaluate("seen")
    grown = [each["pictures"] for each in seen if each["growing"]]
    assert grown and grown == sorted(grown) and grown[0] < 18 and min(each["pictures"] for each in seen) > 0, seen
    # The worker is warm now: the first picture of another rollout stands there within a second (the best of three, as machines are busy).
    first_s = []
    for picture in (2, 3, 4):
        page.locator(".rs-thumbs input").nth(picture).check()
        page.wait_for_function("drawn !== null")
        first_s.append(page.evaluate("(drawn - clicked) / 1000"))
        expect(page.locator(".rs-cell[data-row=rolled] img")).to_have_count(9)
        expect(page.locator(".rs-growing")).to_have_count(0)
        if first_s[-1] < 1:
            break
    print("first picture of a rollout, seconds after the click:", first_s)
    assert min(first_s) < 5, (
        first_s
    )  # below 1 s on a machine that does nothing else (0.16 to 0.97 in five runs); a busy one is slower
    page.locator(".rs-thumbs input").nth(0).check()
    expect(page.locator(".rs-fact")).to_contain_text("on the right")

    large = page.locator("[data-big=rolled]")
    expect(page.locator(".rs-where")).to_contain_text("step 18")
    scrubber.focus()
    page.keyboard.press("Home")
    expect(page.locator(".rs-where")).to_contain_text("0.0 % apart")
    assert large.get_attribute("src") == page.locator(".rs-cell[data-row=rolled][data-col='0'] img").evaluate(
        "image => image.src"
    )
    page.locator(".rs-cell[data-row=heat][data-col='3']").click()
    expect(scrubber).to_have_value("3")
    # The cut lies where the two differ most: in this picture on the right. From there it goes where one moves it, and stays.
    cut = lambda: int(page.locator(".rs-wipe-box").evaluate("box => parseInt(box.style.getPropertyValue('--cut'))"))
    page.wait_for_function("parseInt(document.querySelector('.rs-wipe-box').style.getPropertyValue('--cut')) > 60")
    began = cut()
    page.get_by_label("Before and after").focus()
    page.keyboard.press("ArrowRight")
    assert cut() == began + 1
    page.locator(".rs-cell[data-row=heat][data-col='5']").click()
    page.locator(".rs-cell[data-row=heat][data-col='3']").click()
    assert cut() == began + 1

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
    with page.expect_download() as download:
        page.locator("#look-export").get_by_role("link", name="Report to share, HTML").click()
    download.value.save_as(tmp_path / "shared.html")
    words, sizes = read_offline(browser, tmp_path / "shared.html")
    assert "euler" in words and "own state differs from the true one" in words and "At the last step" in words
    assert sizes == [64] * (2 * 27) and (tmp_path / "shared.html").stat().st_size < 5_000_000

    # A correction while sampling: a further rollout under each, its numbers beside it; refused with the reason where it is not made for the model.
    choose(page, "solver", "nothing")
    choose(page, "correction", "shifted_time")
    expect(page.locator(".rs-fact-chips")).to_contain_text("shifted time ±0.02 above 0.5")
    expect(page.locator(".rs-cell[data-row=rolled]")).to_have_count(18)
    expect(page.locator("#look-time-window")).to_be_visible()
    expect(page.locator("#look-epsilon-scale")).to_be_hidden()
    choose(page, "correction", "epsilon_scaling")
    expect(page.locator("#look-progress")).to_contain_text("this model predicts the flow's velocity")
    expect(page.locator("#look-epsilon-scale")).to_be_visible()


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
        folder = run.drift_path / "previews" / command.id
        result = drift_worker.write_answer(folder, command.args["request"], step=40)
        run.emit("command", name="drift", id=command.id, args={})
        (folder / SO_FAR).write_text(json.dumps({"growing": drift_worker.begun_strips(result)}))
        growing = page.locator("#look-film .rs-growing")  # picture by picture, as far as it is
        expect(growing.locator(".rs-cell[data-row=rolled] img")).to_have_count(1)
        expect(growing.locator(".rs-cell[data-row=clean] img")).to_have_count(len(drift_worker.STEPS))
        (folder / SO_FAR).unlink()
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


def test_what_runs_measured_is_charted_and_can_be_taken_away(visit, served, write, tab, browser, tmp_path):
    store = RunStore(served[1].root)
    run = write.run(store, "measured")
    page = visit(width=400)
    tab(page, "Drift")
    # On a narrow screen the finished picture stands before the controls, and a finger moves through it.
    scrubber = page.get_by_label("Step that is shown large")
    assert page.locator(".rs-example").bounding_box()["y"] < page.locator("#look-show").bounding_box()["y"]
    touch = page.context.new_cdp_session(page)
    touch.send("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def finger(kind, x, y):
        points = [] if kind == "end" else [{"x": x, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind.capitalize()}", "touchPoints": points})

    scrubber.focus()
    page.keyboard.press("Home")
    drag(page, scrubber, 0.25, finger)
    expect(scrubber).to_have_value("2")
    tab(page, "Measured by runs")
    page.locator("#drift-step").get_by_label("before training").click()
    expect(page.locator("#drift-picture")).to_contain_text("Drift before training")
    with page.expect_download() as download:
        page.locator("#drift-curves").get_by_role("link", name="Report, JSON").click()
    assert json.loads(download.value.path().read_bytes())["step"] == 0
    assert download.value.suggested_filename == "measured-drift-step-0.json"
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    # Base and tuned, each picture wide enough to see what is on it, under the scrubber that the laboratory has.
    page.locator("#drift-step").get_by_label("120").click()
    expect(page.locator("#drift-picture")).to_contain_text("After training, step 120")
    expect(page.locator("#drift-picture")).to_contain_text("Base model, before training")
    measured, where = page.locator("#drift-picture"), page.locator("#drift-picture .rs-where")
    measured.get_by_label("Step that is shown large").focus()
    page.keyboard.press("Home")
    expect(where).to_contain_text("0.0 % apart")
    measured.locator(".rs-cell[data-row=heat][data-col='1']").first.click()
    expect(where).to_have_text(re.compile(r"step 2 · noise level [0-9.]+ · [1-9][0-9.]* % apart"))
    shown = [measured.locator(f"[data-wipe={side}]").get_attribute("src") for side in "ab"]
    assert shown == [
        measured.locator(f".rs-cell[data-v='{v}'][data-row=rolled][data-col='1'] img").evaluate("image => image.src")
        for v in (0, 1)
    ]
    assert (
        min(page.locator("#drift-picture .rs-cell").evaluate_all("cells => cells.map(each => each.clientWidth)")) >= 72
    )
    # The finished run as one file.
    words, sizes = read_offline(browser, write_run_report(run, store.summary("measured"), tmp_path / "run.html"))
    assert "After training, step 120" in words and "Loss" in words and all(sizes)
