"""Testing a LoRA with a prompt, in a real browser; the worker that draws is scripted, the panel and its page are not."""

import re

import gradio as gr
import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect
from rollout_studio.app.page import free_port
from rollout_studio.app.style import CSS
from rollout_studio.app.try_panel import TryPanel
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
    expect(page.get_by_test_id("newest-try").locator("img")).to_have_count(2)
    page.locator("#try-dice").click()
    expect(page.locator("#try-earlier .rs-try-card")).to_have_count(2)
    expect(page.locator("#try-seed input")).not_to_have_value("42")
    expect(page.get_by_test_id("newest-try")).to_contain_text(re.compile(f"seed {page.locator('#try-seed input').input_value()}"))
    with page.expect_download() as download:
        page.get_by_test_id("newest-try").get_by_text("save").last.click()
    assert re.fullmatch(r"LoRA-of-told-seed-\d+-1\.png", download.value.suggested_filename)
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
