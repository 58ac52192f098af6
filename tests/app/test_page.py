"""The page in a real browser: what must hold on every visit. The whole story is in `test_page_story.py`.

Each test fails on a page error and on any request that leaves this machine.
"""

import os
import re

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect
from rollout_studio.core.runs.store import RunStore

pytestmark = pytest.mark.timeout(600)


def test_a_bad_value_is_shown_at_its_field_and_nothing_starts(visit, served, tab, step):
    page, before = visit(), len(served[1].list())
    tab(page, "Train")
    step(page, "settings")
    page.locator("#opt-learning_rate input").fill("50")
    page.locator("#opt-learning_rate input").blur()
    expect(page.locator("#opt-learning_rate")).to_contain_text("must be at most 10")
    expect(page.locator("#side")).to_contain_text("Please mend this first")
    page.locator("#start-hero").click()
    page.wait_for_timeout(1500)
    assert len(served[1].list()) == before
    page.locator("#opt-learning_rate input").fill("0.002")
    page.locator("#opt-learning_rate input").blur()
    expect(page.locator("#opt-learning_rate")).not_to_contain_text("must be at most 10")
    expect(page.locator("#side")).to_contain_text("0.002")


def test_a_preset_and_a_level_fill_the_form_and_the_panels_follow(visit, tab, step):
    page = visit()
    tab(page, "Train")
    step(page, "rollout")
    page.locator("#level").get_by_label("Off").click()
    expect(page.locator("#rollout-picture")).to_contain_text("No rollout")
    step(page, "model")
    page.locator("#preset").get_by_label("Stable Diffusion 1.5").click()
    expect(
        page.locator("#opt-pretrained_model_name_or_path input, #opt-pretrained_model_name_or_path textarea")
    ).to_have_value(re.compile("stable-diffusion-v1-5"))
    expect(page.locator("#side")).to_contain_text('"resolution": 512')
    step(page, "pictures")
    expect(page.locator("#pictures")).to_contain_text("No pictures yet")
    step(page, "rollout")
    page.locator("#level").get_by_label("Strong").click()
    expect(page.locator("#side")).to_contain_text('"scheduled_sampling_max_step_offset": 4')
    expect(page.locator("#rollout-picture svg").first).to_be_visible()


def test_a_run_in_progress_is_followed_and_commanded(visit, served, write, tab):
    """A trainer is played by this process, which owns the run's lock and writes its events."""
    store = RunStore(served[1].root)
    run = store.create({"max_train_steps": 100}, "played", preset="demo")
    with run.lock():
        run.write_state(state="running", step=10)
        run.emit("start", pid=os.getpid(), device="cpu", total_steps=100, resumed_from=None)
        write.samples(run, 0)
        write.steps(run, 1, 10, 100)
        page = visit()
        expect(page.get_by_test_id("progress")).to_contain_text("step 10 of 100")
        page.get_by_role("button", name="Sample now").click()
        for _ in range(100):
            taken = run.take_commands()
            if taken:
                break
            page.wait_for_timeout(100)
        assert [command.name for command in taken] == ["sample"]
        write.samples(run, 10)
        write.steps(run, 11, 20, 100)
        run.write_state(state="paused", step=20)
        run.emit("paused", step=20)
        expect(page.get_by_test_id("progress")).to_contain_text("step 20 of 100")
        tab(page, "Samples and drift")
        expect(page.locator("#run-samples")).to_contain_text("step 10")
        expect(page.get_by_role("button", name="Go on")).to_be_visible()
        expect(page.get_by_role("button", name="Pause", exact=True)).to_be_hidden()
        expect(page.get_by_role("button", name="Delete", exact=True)).to_be_hidden()
    # The owner is gone without a word: the page says so by itself.
    expect(page.get_by_test_id("state")).to_have_text("crashed")
    expect(page.locator("#run-messages")).to_contain_text("crashed at step 20")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Remove it for good").click()
    expect(page.locator("#run-picker")).not_to_contain_text("played")
    assert not run.path.exists()


@pytest.mark.parametrize(("width", "most_high"), [(1400, 1800), (400, 4500)])
def test_one_step_is_open_at_a_time_and_the_tab_stays_short(visit, tab, step, width, most_high):
    page = visit(width=width)
    tab(page, "Train")
    heads = page.locator(".rs-step-fold > button")
    expect(heads).to_have_count(5)
    for number, name in enumerate(("model", "pictures", "settings", "rollout", "start")):
        step(page, name)
        for other in range(5):
            opened = re.compile(r"\bopen\b")
            (expect(heads.nth(other)).to_have_class if other == number else expect(heads.nth(other)).not_to_have_class)(
                opened
            )
        page.wait_for_timeout(400)  # what was closed has gone
        assert page.evaluate("document.documentElement.scrollHeight") <= most_high, name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    expect(page.locator("#start-hero")).to_be_in_viewport()  # wherever one is
    expect(heads.nth(3)).to_contain_text("Rollout: gentle")


def test_a_setting_is_found_by_its_words_and_a_fault_leads_to_its_field(visit, tab, step):
    page = visit()
    tab(page, "Train")
    page.locator("#preset label").first.focus()
    page.keyboard.press("/")
    page.keyboard.type("warm up")
    found = page.locator("#find-option li[role=option]")
    expect(found.first).to_contain_text("Warm-up")
    page.keyboard.press("Enter")
    warmup = page.locator("#opt-lr_warmup_steps input")
    expect(warmup).to_be_focused()  # in the third step, behind All settings, its tab and its fold
    expect(warmup).to_be_in_viewport()
    page.keyboard.type("0")
    page.locator("#find-option input").fill("no such words")
    expect(page.locator("#find-option")).to_contain_text("No setting has these words")

    step(page, "settings")
    page.locator("#opt-learning_rate input").fill("50")
    page.locator("#opt-learning_rate input").blur()
    step(page, "pictures")
    page.locator("#side a[data-option=learning_rate]").click()
    expect(page.locator("#opt-learning_rate input")).to_be_focused()


@pytest.mark.parametrize(("theme", "width"), [("light", 1400), ("dark", 400)])
def test_no_tab_is_wider_than_the_window(visit, served, write, tab, theme, width):
    store = RunStore(served[1].root)
    if not (store.root / "finished").exists():
        write.run(store, "finished", state="stopped")
    page = visit(f"?__theme={theme}", width=width)
    for name in ("Train", "Runs", "Drift", "Graph"):
        tab(page, name)
        if name == "Runs":
            page.locator("#run-picker").get_by_label("finished").click()
            expect(page.locator("#run-glance img").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        expect(page.locator("h1:visible")).to_have_text(["RolloutStudio"])  # one of the page, on every tab


def test_another_site_and_another_name_are_refused(served):
    import http.client

    port = int(served[0].rsplit(":", 1)[1].strip("/"))
    for headers in (
        {"Host": "evil.com"},
        {"Host": f"127.0.0.1:{port}", "Origin": "http://evil.com"},
        {"Host": f"127.0.0.1:{port}", "Origin": "null"},
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/gradio_api/upload", body=b"", headers=headers)
        assert connection.getresponse().status == 403
        connection.close()


def test_no_address_is_answered_with_an_error_of_the_server(served):
    """A zero byte, percent-encoded, is an exception in many places behind the page."""
    import http.client

    port = int(served[0].rsplit(":", 1)[1].strip("/"))
    for path in (
        "/%00",
        "/gradio_api/file=%00",
        "/gradio_api/proxy=%00",
        "/gradio_api/proxy=http://%ff",
        "/assets/%00.js",
        "/?x=%00",
        "/%ff%fe",
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", path)
        assert 400 <= connection.getresponse().status < 500, path
        connection.close()


def test_files_outside_the_previews_are_not_served(served, tmp_path):
    import http.client

    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    port = int(served[0].rsplit(":", 1)[1].strip("/"))
    run = served[1].create({})
    for path in (secret, run.config_path):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", f"/gradio_api/file={path}")
        assert connection.getresponse().status in (403, 404)
        connection.close()
    served[1].delete(run.name)
