"""The whole story in a real browser with the real model, trainer and preview worker: from a preset to a downloaded LoRA.

As on every page of these tests, a page error or a request that leaves this machine fails it.
"""

import re
import shutil

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect
from rollout_studio.core.data.scanning import located

pytestmark = pytest.mark.timeout(900)
TRAINING_MS = 400_000


def field(page, name):
    return page.locator(f"#opt-{name} input, #opt-{name} textarea").first


def write(page, name, value):
    field(page, name).fill(value)
    field(page, name).blur()


def seen(page, picture):
    """The picture is there and has arrived."""
    expect(picture).to_be_visible()
    picture.scroll_into_view_if_needed()
    page.wait_for_function("image => image.complete && image.naturalWidth > 30", arg=picture.element_handle())


@pytest.fixture
def thing(tmp_path):
    """Three pictures of the demo's new thing, as a person would have them, with a caption for two."""
    for number, path in enumerate(sorted(located("demo-dreambooth").glob("*.png"))[:3]):
        shutil.copy(path, tmp_path / path.name)
        if number < 2:
            shutil.copy(path.with_suffix(".txt"), tmp_path)
    return sorted(tmp_path.iterdir())


def test_a_newcomer_brings_pictures_sets_a_rollout_trains_watches_and_takes_the_lora_home(
    visit, served, tab, step, thing
):
    store = served[1]
    page = visit()
    expect(page.locator("#start-hero")).to_have_text("Start the demo")

    # 1 a preset, 2 pictures with captions
    page.locator("#preset").get_by_label("Stable Diffusion 1.5").click()
    expect(page.locator("#side")).to_contain_text('"resolution": 512')
    page.locator("#preset label").first.click()
    expect(page.locator("#side")).to_contain_text('"resolution": 64')
    step(page, "pictures")
    page.locator("#drop input[type=file]").set_input_files(thing)
    expect(page.locator("#pictures")).to_contain_text("3 pictures, dropped here")
    page.get_by_label("Caption of thing-3.png").fill("a large zwx shape on a navy background, on the right")
    page.get_by_role("button", name="Save captions").click()
    expect(page.locator("#pictures")).not_to_contain_text("not saved yet")

    # 3 settings: sliders that draw and count, a bad value refused where it stands
    step(page, "settings")  # its fields are there from now on
    step(page, "rollout")
    page.locator("#level").get_by_label("Off").click()
    expect(page.locator("#rollout-picture")).to_contain_text("No rollout")
    page.locator("#level").get_by_label("Gentle").click()
    expect(page.locator("#rollout-picture")).to_contain_text("up to 2 grid steps too much")
    costs = page.locator("#rollout-picture .rs-cost")
    gentle = costs.inner_text()
    page.locator("#rollout-numbers > button").click()
    write(page, "scheduled_sampling_max_step_offset", "3")
    expect(page.locator("#rollout-picture")).to_contain_text("up to 3 grid steps too much")
    assert costs.inner_text() != gentle
    write(page, "scheduled_sampling_ramp_steps", "4")
    step(page, "settings")
    write(page, "learning_rate", "50")
    expect(page.locator("#opt-learning_rate")).to_contain_text("must be at most 10")
    page.locator("#start-hero").click()
    expect(page.locator("#findings")).to_contain_text("must be at most 10")
    assert not store.list()
    write(page, "learning_rate", "0.001")
    write(page, "max_train_steps", "2000")
    write(page, "validation_prompts", "a large zwx shape on a white background, in the centre")
    page.get_by_text("All settings", exact=True).click()
    for section, name, value in (
        ("Samples", "validation_num_inference_steps", "6"),
        ("Drift probe", "drift_num_images", "1"),
    ):
        tab(page, section)
        page.get_by_text("Advanced", exact=True).filter(visible=True).click()
        write(page, name, value)
    expect(page.locator("#side")).to_contain_text('"drift_num_images": 1')
    page.reload()  # nobody has started anything, and nothing is lost
    step(page, "settings")
    expect(field(page, "max_train_steps")).to_have_value("2000")
    step(page, "pictures")
    expect(page.get_by_label("Caption of thing-3.png")).to_have_value(
        "a large zwx shape on a navy background, on the right"
    )

    # 4 start, and watch
    step(page, "start")
    page.locator("#run-name input, #run-name textarea").fill("mine")
    page.locator("#start").click()
    expect(page.get_by_test_id("progress")).to_contain_text("of 2000")
    config = store.get("mine").read_config()
    assert (config["scheduled_sampling_max_step_offset"], config["drift_num_images"], config["learning_rate"]) == (
        3,
        1,
        0.001,
    )
    page.reload()  # whoever comes back while a run is alive lands on it
    second = visit(width=400)
    for viewer in (page, second):
        expect(viewer.get_by_test_id("state")).to_have_text("training")
        expect(viewer.get_by_test_id("progress")).to_have_text(
            re.compile("step [1-9][0-9]* of 2000"), timeout=TRAINING_MS
        )
    expect(page.locator("#run-charts svg").first).to_be_visible()
    expect(page.locator("#run-charts")).to_contain_text("Share of the rows")

    page.get_by_role("button", name="Sample now").click()
    tab(page, "Samples and drift")
    seen(page, page.locator("#run-samples td:nth-of-type(2) img"))  # beside the one from before training

    # the drift of the run, with the weights that it has now; it waits meanwhile, and leaves the processor to the preview
    # (not in the middle of its own first drift report, where a pause answers nothing else until it goes on)
    expect(page.locator("#run-drift")).to_contain_text("before training", timeout=TRAINING_MS)
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_test_id("state")).to_have_text("paused")
    held = store.summary("mine").step
    tab(page, "Drift")
    page.locator("#look-weights input").click()
    page.get_by_role("option", name="mine · now, while it trains").click()
    page.locator("#look-show").click()
    expect(page.locator(".rs-example")).to_have_count(0, timeout=TRAINING_MS)
    expect(page.locator(".rs-cell[data-row=rolled] img").filter(visible=True).first).to_be_visible(timeout=TRAINING_MS)
    seen(page, page.locator(".rs-cell[data-row=heat] img").filter(visible=True).last)

    tab(page, "Runs")
    page.get_by_role("button", name="Go on").click()
    for viewer in (page, second):
        expect(viewer.get_by_test_id("state")).to_have_text("training")
    page.get_by_role("button", name="Stop and save").click()
    expect(page.get_by_test_id("state")).to_have_text("stopped", timeout=TRAINING_MS)
    assert store.summary("mine").step > held

    # compare with a plain run, and take the LoRA home
    tab(page, "Overview")
    expect(page.locator("#run-files")).to_contain_text("0 missing and 0 unexpected")
    with page.expect_download() as download:
        page.locator("#run-files a").first.click()
    assert download.value.path().stat().st_size > 10_000
    tab(page, "Compare")
    page.locator("#queue-plain-steps").click()
    expect(page.locator("#control-plain-steps")).to_contain_text("mine-plain-steps")
    plain = store.get("mine-plain-steps").read_config()
    assert (
        plain["scheduled_sampling_max_step_offset"] == 0 and plain["instance_data_dir"] == config["instance_data_dir"]
    )
    expect(page.locator("#compare-charts svg").first).to_be_visible(timeout=TRAINING_MS)
    expect(page.locator("#compare-settings")).to_contain_text("Farthest start")


def test_a_page_that_is_started_again_finds_its_runs_as_they_are(served, write, browser, new_port):
    """The page's own restart: another page over the same folder knows everything that the first one knew."""
    import os

    from rollout_studio.app.page import launch
    from rollout_studio.app.parts.watch import Watch

    run = served[1].create({"max_train_steps": 100}, "played", preset="demo")
    with run.lock():
        run.write_state(state="running", step=10)
        run.emit("start", pid=os.getpid(), device="cpu", total_steps=100, resumed_from=None)
        write.steps(run, 1, 10, 100)
        port = new_port()
        again = launch(Watch(served[1].root), port)
        context = browser.new_context()
        try:
            page = context.new_page()
            page.goto(again.link())
            expect(page.get_by_test_id("progress")).to_contain_text("step 10 of 100")
        finally:
            context.close()
            again.close(verbose=False)
