"""From the Train tab's rollout to the Drift tab and back, in a real browser with the real preview worker."""

import re

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_a_rollout_is_seen_with_one_click_changed_there_and_taken_back(visit, tab, step):
    page = visit()
    tab(page, "Train")
    step(page, "rollout")
    page.locator("#rollout-numbers > button").click()

    def write(where, value):
        page.locator(f"{where} input[type=number]").fill(value)
        page.locator(f"{where} input[type=number]").blur()

    def config_says(name, value):
        expect(page.locator("#side")).to_contain_text(re.compile(rf'"{name}": {re.escape(value)},?\s'))

    write("#opt-scheduled_sampling_grid_steps", "12")
    write("#opt-scheduled_sampling_max_step_offset", "6")
    config_says("scheduled_sampling_max_step_offset", "6")
    page.locator("#see-rollout").click()
    expect(page.get_by_role("tab", name="Drift", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#look-offset input[type=number]")).to_have_value("6")
    expect(page.locator("#look-offset input[type=range]")).to_have_attribute("max", "12")
    expect(page.get_by_role("heading", name=re.compile("After 6 steps on its own"))).to_be_visible()

    write("#look-offset", "4")
    expect(page.get_by_role("heading", name=re.compile("After 4 steps on its own"))).to_be_visible()
    page.locator("#look-take").click()
    expect(page.get_by_role("tab", name="Train", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.locator("#opt-scheduled_sampling_max_step_offset input[type=number]")).to_have_value("4")
    expect(page.locator("#opt-scheduled_sampling_max_step_offset-slider input[type=range]")).to_have_value("4")
    config_says("scheduled_sampling_max_step_offset", "4")
    config_says("scheduled_sampling_grid_steps", "12")
    config_says("scheduled_sampling_prob_end", "0.25")
    expect(page.get_by_text("Farthest start (grid steps) 6 → 4")).to_be_visible()
    page.locator("#level").get_by_label("Off").click()
    expect(page.locator("#see-rollout")).to_be_hidden()
    # What one looks at is what one trains: another base model comes with the settings of its preset, and its card is chosen.
    tab(page, "Drift")
    page.locator("#look-weights input").click()
    page.get_by_role("option", name="Base model · Demo with an epsilon model").click()
    page.get_by_role("button", name="Train with this").click()
    config_says("pretrained_model_name_or_path", '"demo-epsilon"')
    config_says("scheduled_sampling_max_step_offset", "4")
