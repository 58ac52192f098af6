"""The Scheduled sampling panel in a real browser: it answers to its controls."""

import re

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

pytestmark = pytest.mark.timeout(600)


def numbers(page, step):
    """Every number of the rollout in view."""
    step(page, "rollout")
    page.locator("#level").get_by_label("Gentle").click()
    expect(page.locator("#rollout-picture")).to_contain_text("up to 2 grid steps too much")
    page.locator("#rollout-numbers > button").click()


def test_moving_the_offset_slider_redraws_grid_cost_ramp_and_blur(visit, tab, step):
    page = visit()
    tab(page, "Train")
    numbers(page, step)
    picture = page.locator("#rollout-picture")
    wide = picture.locator(".rs-grid-picture-wide svg")
    expect(wide).to_be_visible()
    expect(picture).to_contain_text("up to 2 grid steps too much")
    expect(wide.locator(".rs-w-arc")).to_have_count(2)
    slider = page.locator("#opt-scheduled_sampling_max_step_offset-slider input[type=range]")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    expect(wide.locator(".rs-w-arc")).to_have_count(5)
    expect(wide).to_have_attribute("aria-label", re.compile("starts up to 5 grid steps noisier"))
    expect(picture).to_contain_text("up to 6")  # five steps and ReflexFlow's forward on the clean state
    expect(page.locator("#ramp svg")).to_be_visible()
    expect(page.locator("#ramp")).to_contain_text("up to 6 for one row")
    expect(page.locator("#rollout-learns")).to_contain_text("after a rollout of 5 steps")
    expect(page.locator("#rollout-learns thead th")).to_have_count(5)
    expect(page.locator("#level").get_by_label("Own numbers")).to_be_checked()
    expect(page.locator("#side")).to_contain_text('"scheduled_sampling_max_step_offset": 5')
    # The slider is a third of the grid; a longer grid makes it longer, and what lies beyond is typed.
    steps = page.locator("#opt-scheduled_sampling_grid_steps input[type=number]")
    steps.fill("50")
    steps.blur()
    expect(slider).to_have_attribute("max", "17")
    number = page.locator("#opt-scheduled_sampling_max_step_offset input[type=number]")
    number.fill("44")
    number.blur()
    expect(page.locator("#side")).to_contain_text('"scheduled_sampling_max_step_offset": 44')
    expect(picture).to_contain_text("up to 44 grid steps too much")


@pytest.mark.slow
def test_every_number_is_moved_by_a_slider_or_typed_exactly_and_beyond_it_and_comes_back_after_a_reload(
    visit, tab, step
):
    page = visit()
    tab(page, "Train")
    numbers(page, step)

    def field(name):
        return page.locator(f"#opt-{name} input[type=number]")

    def slider(name):
        return page.locator(f"#opt-{name}-slider input[type=range]")

    def config_says(name, value):
        expect(page.locator("#side")).to_contain_text(re.compile(rf'"{name}": {re.escape(value)},?\s'))

    ramp, beta = "scheduled_sampling_ramp_steps", "scheduled_sampling_reflexflow_beta1"
    expect(slider(ramp)).to_have_value("60")
    slider(ramp).press("ArrowRight")
    expect(field(ramp)).to_have_value("61")
    config_says(ramp, "61")
    step(page, "settings")
    field("max_train_steps").fill("8000")
    field("max_train_steps").blur()
    step(page, "rollout")
    expect(slider(ramp)).to_have_attribute("max", "8000")
    slider(ramp).press("End")
    expect(field(ramp)).to_have_value("8000")
    config_says(ramp, "8000")
    for typed, at in (("0.125", "0.1"), ("123.5", "20")):  # finer than the slider's step; beyond its end
        field(beta).fill(typed)
        field(beta).blur()
        config_says(beta, typed)
        expect(slider(beta)).to_have_value(at)
        expect(field(beta)).to_have_value(typed)
    page.reload()
    tab(page, "Train")
    numbers(page, step)
    expect(field(beta)).to_have_value("123.5")
    expect(slider(beta)).to_have_value("20")
    expect(slider(ramp)).to_have_value("8000")
    page.locator("#reset").click()
    expect(slider(beta)).to_have_value("1")
    expect(slider(ramp)).to_have_value("60")


def test_a_chance_of_zero_is_reported_in_the_panel_and_marked_at_the_controls_and_check_reports_what_the_run_takes(
    visit, tab, step
):
    page = visit()
    tab(page, "Train")
    numbers(page, step)
    expect(page.locator("#opt-scheduled_sampling_probability input[type=range]")).to_be_visible()
    for name in ("ramp_steps", "probability"):
        number = page.locator(f"#opt-scheduled_sampling_{name} input[type=number]")
        number.fill("0")
        number.blur()
        if name == "ramp_steps":
            expect(page.locator("#rollout-picture .rs-idle-list")).to_contain_text(
                "Nothing will be rolled out, because Chance of a rollout is 0"
            )
            expect(page.locator("#side")).to_contain_text("Nothing will be rolled out")
    hint = page.evaluate(
        "getComputedStyle(document.querySelector('#opt-scheduled_sampling_sampler'), '::after').content"
    )
    assert "No effect now: nothing is rolled out" in hint
    number.fill("0.5")
    number.blur()
    expect(page.locator("#rollout-picture svg").first).to_be_visible()
    expect(
        page.locator("#opt-scheduled_sampling_prob_end input[type=number]")
    ).to_be_disabled()  # no ramp, no end of it
    expect(page.locator("#opt-scheduled_sampling_probability input[type=number]")).to_be_enabled()
    expect(page.get_by_test_id("takes")).to_contain_text(re.compile(r"of training · .* of memory · .* of disk"))
    step(page, "start")
    page.locator("#check").click()
    expect(page.get_by_test_id("estimate")).to_contain_text("Between")
    step(page, "rollout")
    page.locator("#level").get_by_label("Off").click()
    expect(page.locator("#rollout-picture")).to_contain_text("No rollout")
    page.locator("#rollout-numbers > button").click()
    expect(page.locator("#opt-scheduled_sampling_probability")).to_be_hidden()
    page.locator("#level").get_by_label("Gentle").click()
    expect(page.locator("#rollout-picture svg").first).to_be_visible()
    expect(
        page.locator("#opt-scheduled_sampling_probability")
    ).to_be_hidden()  # a level is enough; numbers are for who asks
    page.locator("#level").get_by_label("Own numbers").click()
    expect(page.locator("#opt-scheduled_sampling_probability")).to_be_visible()
