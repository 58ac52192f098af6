"""Testing a LoRA with a prompt, in a real browser; the worker that draws is scripted, the panel and its page are not."""

import base64
import io
import os
import re
from pathlib import Path

import gradio as gr
import pytest

pytest.importorskip("playwright.sync_api")
from PIL import Image
from playwright.sync_api import expect
from rollout_studio.app.page import free_port, launch
from rollout_studio.app.parts.style import CSS
from rollout_studio.app.runs.try_it.panel import TryPanel
from scripted_painter import scripted_watch

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def address(store, write, tmp_path):
    """A page with the panel alone."""
    write.run(store)
    watch = scripted_watch(store.root, tmp_path)
    with gr.Blocks() as demo:
        picker = gr.Radio(choices=["told"], elem_id="picker")
        TryPanel(watch).wire(picker)
    _, url, _ = demo.queue().launch(
        server_name="127.0.0.1", server_port=free_port(8200), prevent_thread_lock=True, quiet=True, ssr_mode=False, css=CSS,
        allowed_paths=[str(watch.previews.folder)],
    )  # fmt: skip
    yield url
    demo.close(verbose=False)
    watch.close()


def bare_png():
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return data.getvalue()


def dropped(page, place, name, content):
    """Drop a file on an element, as from the desktop."""
    held = page.evaluate_handle(
        """([name, content]) => { const held = new DataTransfer(); held.items.add(new File([Uint8Array.from(atob(content), (each) => each.charCodeAt(0))], name, {type: 'image/png'})); return held; }""",
        [name, base64.b64encode(content).decode()],
    )
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event(place, kind, {"dataTransfer": held})


def test_a_prompt_is_drawn_beside_the_untrained_model_again_with_another_seed_and_saved(address, browser):
    context = browser.new_context(viewport={"width": 400, "height": 900}, accept_downloads=True)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.locator("#picker").get_by_label("told").check()
    expect(page.locator("#try-weights input")).to_have_value("The LoRA file, told.safetensors")
    page.locator("#try-prompt textarea").fill("a cup ${alert(1)}")
    page.locator("#try-draw").click()
    expect(page.get_by_test_id("newest-try")).to_contain_text("a cup ${alert(1)} seed 42")
    expect(page.get_by_test_id("newest-try").locator("figure img")).to_have_count(2)
    page.locator("#try-dice").click()
    expect(page.locator("#try-earlier .rs-try-card")).to_have_count(2)
    expect(page.locator("#try-seed input")).not_to_have_value("42")
    expect(page.get_by_test_id("newest-try")).to_contain_text(
        re.compile(f"seed {page.locator('#try-seed input').input_value()}")
    )
    with page.expect_download() as download:
        page.get_by_test_id("newest-try").get_by_text("save").last.click()
    assert re.fullmatch(r"LoRA-of-told-seed-\d+-1\.png", download.value.suggested_filename)
    saved = download.value.path()
    kept = page.locator("#try-seed input").input_value()
    cut = page.get_by_test_id("newest-try").locator(".rs-cut")
    cut.focus()
    cut.press("Home")
    expect(page.get_by_test_id("newest-try").locator(".rs-try-wipe")).to_have_attribute(
        "style", re.compile(r"--cut: ?0%")
    )
    page.get_by_label("Keep the seed").uncheck()
    page.locator("#try-draw").click()
    expect(page.locator("#try-earlier .rs-try-card")).to_have_count(3)
    expect(page.locator("#try-seed input")).not_to_have_value(kept)
    page.get_by_label("Keep the seed").check()
    page.locator("#try-matrix > button").click()
    page.locator("#try-matrix-rows input, #try-matrix-rows textarea").fill("0, 1")
    page.locator("#try-matrix-draw").click()
    table = page.get_by_test_id("newest-try").locator("table.rs-samples")
    expect(table.get_by_role("rowheader")).to_have_text(["weight 0", "weight 1"])
    expect(table.get_by_role("columnheader", name="step 120")).to_be_visible()
    expect(table.locator("img")).to_have_count(2)
    dropped(page, ".rs-try", "of-before.png", Path(saved).read_bytes())
    expect(page.locator("#try-note")).to_contain_text("The settings of of-before.png are in the fields")
    expect(page.locator("#try-seed input")).to_have_value(kept)
    with page.expect_file_chooser() as chooser:
        page.locator("#try-picture").click()
    chooser.value.set_files({"name": "bare.png", "mimeType": "image/png", "buffer": bare_png()})
    expect(page.locator("#try-note")).to_contain_text("carries no settings")
    page.locator("#try-guidance textarea, #try-guidance input").fill("much")
    page.locator("#try-draw").click()
    expect(page.locator("#try-guidance")).to_contain_text("must be a number")
    page.locator("#try-guidance textarea, #try-guidance input").fill("")
    page.locator("#try-prompt textarea").fill("wait")
    page.locator("#try-draw").click()
    expect(page.locator("#try-now")).to_contain_text("picture 2 of 2")
    page.locator("#try-stop").click()
    expect(page.locator("#try-now")).to_contain_text("Cancelled")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    context.close()
    assert not wrong


def test_after_a_watched_end_it_draws_with_the_lora_that_the_run_has_left(store, write, tmp_path, browser, tab):
    """The run is played by this process: it trains while somebody looks at it, writes its LoRA, and ends."""
    watch = scripted_watch(store.root, tmp_path)
    run = store.create({"max_train_steps": 20, "validation_prompts": ["a zwx shape"]}, "watched")
    port = free_port(8200)
    with run.lock():
        run.write_state(state="running", step=10)
        run.emit("start", pid=os.getpid(), device="cpu", total_steps=20, resumed_from=None)
        (run.checkpoints_path / "step-000010").mkdir(parents=True)
        (run.checkpoints_path / "step-000010" / "manifest.json").write_text("{}")
        write.steps(run, 1, 10, 20)
        demo, context = launch(watch, port), browser.new_context()
        page, wrong = context.new_page(), []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(demo.link())
        expect(page.get_by_test_id("progress")).to_contain_text("step 10 of 20")
        tab(page, "Try it")
        expect(page.locator("#try-weights input")).to_have_value("As it trains now")
        expect(page.locator("#try-prompt textarea")).to_have_value("a zwx shape")
        weights = page.locator("#try-weights input")
        weights.click()
        page.get_by_role("option", name="Checkpoint of step 10").click()
        write.steps(run, 11, 20, 20)
        expect(page.get_by_test_id("progress")).to_contain_text("step 20 of 20")
        expect(weights).to_have_value("Checkpoint of step 10")  # what was chosen stays, as long as it is there
        weights.click()
        page.get_by_role("option", name="As it trains now").click()
        run.lora_path.mkdir()
        (run.lora_path / "watched.safetensors").write_bytes(b"\0" * 2000)
        run.emit("end", state="done", step=20)
        run.write_state(state="done", step=20)
        expect(page.get_by_test_id("state")).to_have_text("done")
    try:
        expect(weights).to_have_value("The LoRA file, watched.safetensors")
        page.locator("#try-draw").click()
        expect(page.get_by_test_id("newest-try")).to_contain_text("a zwx shape seed 42")
        expect(page.locator("#run-head")).not_to_contain_text("time left")
        page.locator("#try-matrix > button").click()
        page.locator("#try-matrix-draw").click()
        cells = page.get_by_test_id("newest-try").locator("table.rs-samples a:has(img)")
        expect(cells).to_have_count(3)
        cells.nth(1).click()
        viewer = page.locator(".rs-viewer")
        expect(viewer.locator("[data-part=caption]")).to_have_text("weight 0.5 · step 10")
        page.keyboard.press("ArrowDown")
        expect(viewer.locator("[data-part=caption]")).to_have_text("weight 1 · step 10")
        page.keyboard.press("Escape")
        expect(viewer).not_to_be_visible()
        assert not wrong
    finally:
        context.close()
        demo.close(verbose=False)
        watch.close()
