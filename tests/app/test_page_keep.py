"""Keeping and bringing in settings, in a real browser; and one control of each kind, moved by hand, read by the trainer."""

import json
import re

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect
from rollout_studio.core.config import config_to_flat, load_preset, read_config, with_changes
from rollout_studio.core.own_presets import own_presets

pytestmark = pytest.mark.timeout(300)


def started(page, store, before):
    """The run that was just made; its process is ended at once, because only its config is of interest here."""
    for _ in range(600):
        new = [run for run in store.list() if run.name not in before]
        if new:
            store.kill(new[0].name)
            store.dequeue(new[0].name)
            return read_config(new[0].path / "config.json")
        page.wait_for_timeout(100)
    raise AssertionError(page.locator("#findings").inner_text())


def test_one_control_of_each_kind_moved_by_hand_is_what_the_trainer_reads(visit, served, tab):
    page, store = visit(), served[1]
    before = {run.name for run in store.list()}

    page.locator("#opt-max_train_steps input").fill("7")  # number
    page.locator("#opt-trigger_word input, #opt-trigger_word textarea").fill("qrx")  # text
    page.locator("#opt-validation_prompts textarea").fill("a qrx, on a cup\n[two] qrx")  # lines
    page.get_by_text("All settings", exact=True).click()
    for section in page.locator("#all-settings").get_by_role("tab").all():  # a field that comes into view must not change what it holds
        section.click()
        for fold in page.locator("#all-settings").get_by_text("Advanced", exact=True).filter(visible=True).all():
            fold.click()
    tab(page, "Training")
    page.locator("#opt-gradient_checkpointing input[type=checkbox]").check()  # checkbox
    page.locator("#opt-lr_scheduler input").click()  # dropdown
    page.get_by_role("option", name="cosine", exact=True).click()
    page.locator("#opt-scheduled_sampling_prob_end input[type=range]").press("End")  # slider, by keyboard
    page.locator("#opt-scheduled_sampling_reflexflow").get_by_label("off", exact=True).check()  # radio
    page.locator("#opt-scheduled_sampling_reflexflow").get_by_label("off", exact=True).blur()
    expect(page.locator("#side")).to_contain_text('"scheduled_sampling_reflexflow": false')
    page.locator("#start").click()

    changes = {
        "max_train_steps": 7, "trigger_word": "qrx", "validation_prompts": ["a qrx, on a cup", "[two] qrx"], "gradient_checkpointing": True,
        "lr_scheduler": "cosine", "scheduled_sampling_prob_end": 1.0, "scheduled_sampling_reflexflow": False,
    }  # fmt: skip
    assert config_to_flat(started(page, store, before)) == config_to_flat(with_changes(load_preset("demo"), changes))


def test_settings_are_kept_as_a_card_and_come_back_from_a_file_and_bad_ones_are_refused(visit, served, tmp_path):
    first, store = visit(), served[1]
    first.locator("#opt-seed input").fill("4321")
    page = first
    page.get_by_text("Keep these settings, or bring some in").click()
    page.locator("#keep-title input, #keep-title textarea").fill("Mine ${alert(1)} <i>")
    page.locator("#keep-save").click()
    card = page.locator("#preset").get_by_label(re.compile(r"Mine \$\{alert\(1\)\} <i>"))
    expect(card).to_be_checked()
    expect(page.locator("#keep-saved")).to_contain_text("--preset Mine-alert-1-i")
    expect(page.locator("#side")).to_contain_text("Nothing changed from the preset")

    first.reload()
    expect(card).to_be_checked()
    page = visit()  # as another viewer finds it
    seed = page.locator("#opt-seed input")
    card = page.locator("#preset").get_by_label(re.compile(r"Mine \$\{alert\(1\)\} <i>"))
    expect(card).to_be_visible()
    expect(seed).to_have_value("42")
    card.check()
    expect(seed).to_have_value("4321")

    page.get_by_text("Keep these settings, or bring some in").click()
    drop = page.locator("#bring-file input[type=file]")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    drop.set_input_files(tmp_path / "config.json")
    expect(page.locator("#bring-told")).to_contain_text("Nothing was taken from config.json")
    expect(seed).to_have_value("4321")
    (tmp_path / "other.json").write_text(json.dumps({"seed": 99, "sead": 1}), encoding="utf-8")
    drop.set_input_files(tmp_path / "other.json")
    expect(page.locator("#bring-told")).to_contain_text("1 setting taken from other.json; 1 left out")
    expect(page.locator("#bring-told")).to_contain_text("Did you mean 'seed'?")
    expect(seed).to_have_value("99")

    page.locator("#keep-mine input").click()
    page.get_by_role("option", name=re.compile("Mine")).click()
    page.locator("#keep-delete").click()
    page.locator("#keep-sure").click()
    expect(card).to_have_count(0)
    assert own_presets(store.root) == ([], {})
    expect(seed).to_have_value("99")
