"""Keeping and bringing in settings, in a real browser; and one control of each kind, moved by hand, read by the trainer."""

import json
import re

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect
from rollout_studio.core.adapters.header import published_config
from rollout_studio.core.config import config_to_flat, load_preset, read_config, with_changes
from rollout_studio.core.config.own_presets import own_presets

pytestmark = pytest.mark.timeout(300)


def started(page, store, before):
    """The config of the run that was just made. Only that is of interest: the run is ended as soon as it can be, because a page that is
    opened while a run is alive opens on the Runs tab."""
    for _ in range(600):
        new = [run for run in store.list() if run.name not in before]
        if new and (store.dequeue(new[0].name) or store.kill(new[0].name)):
            return read_config(new[0].path / "config.json")
        page.wait_for_timeout(100)
    raise AssertionError(page.locator("#findings").inner_text())


@pytest.mark.slow
def test_one_control_of_each_kind_moved_by_hand_is_what_the_trainer_reads(visit, served, tab, step):
    page, store = visit(), served[1]
    before = {run.name for run in store.list()}

    step(page, "pictures")
    page.locator("#opt-trigger_word input, #opt-trigger_word textarea").fill("qrx")  # text
    step(page, "settings")
    page.locator("#opt-max_train_steps input").fill("7")  # number
    page.locator("#opt-validation_prompts textarea").fill("a qrx, on a cup\n[two] qrx")  # lines
    page.get_by_text("All settings", exact=True).click()
    for section in (
        page.locator("#all-settings").get_by_role("tab").all()
    ):  # a field that comes into view must not change what it holds
        section.click()
        for fold in page.locator("#all-settings").get_by_text("Advanced", exact=True).filter(visible=True).all():
            fold.click()
    tab(page, "Training")
    page.locator("#opt-gradient_checkpointing input[type=checkbox]").check()  # checkbox
    page.locator("#opt-lr_scheduler input").click()  # dropdown
    page.get_by_role("option", name="cosine", exact=True).click()
    step(page, "rollout")
    page.locator("#rollout-numbers > button").click()
    page.locator("#opt-scheduled_sampling_prob_end input[type=range]").press("End")  # slider, by keyboard
    page.locator("#opt-scheduled_sampling_reflexflow").get_by_label("off", exact=True).check()  # radio
    page.locator("#opt-scheduled_sampling_reflexflow").get_by_label("off", exact=True).blur()
    expect(page.locator("#side")).to_contain_text('"scheduled_sampling_reflexflow": false')
    page.locator("#start-hero").click()

    changes = {
        "max_train_steps": 7, "trigger_word": "qrx", "validation_prompts": ["a qrx, on a cup", "[two] qrx"], "gradient_checkpointing": True,
        "lr_scheduler": "cosine", "scheduled_sampling_prob_end": 1.0, "scheduled_sampling_reflexflow": False,
    }  # fmt: skip
    assert config_to_flat(started(page, store, before)) == config_to_flat(with_changes(load_preset("demo"), changes))


def test_settings_are_kept_as_a_card_and_come_back_from_a_file_and_bad_ones_are_refused(visit, served, tmp_path, step):
    first, store = visit(), served[1]
    step(first, "settings")
    first.locator("#opt-seed input").fill("4321")
    page = first
    page.get_by_text("Import settings, or save these").click()
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
    step(page, "settings")
    expect(seed).to_have_value("42")
    step(page, "model")
    card.check()
    expect(seed).to_have_value("4321")

    page.get_by_text("Import settings, or save these").click()
    drop = page.locator("#import-file input[type=file]")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    drop.set_input_files(tmp_path / "config.json")
    expect(page.locator("#import-report")).to_contain_text("Nothing was imported from config.json")
    expect(seed).to_have_value("4321")
    (tmp_path / "other.json").write_text(json.dumps({"seed": 99, "sead": 1}), encoding="utf-8")
    drop.set_input_files(tmp_path / "other.json")
    expect(page.locator("#import-report")).to_contain_text("1 setting imported from other.json; 1 left out")
    expect(page.locator("#import-report")).to_contain_text("Did you mean 'seed'?")
    expect(seed).to_have_value("99")
    job = {
        "job": "extension",
        "config": {"name": "x", "process": [{"type": "sd_trainer", "train": {"steps": 55, "noise_offset": 0.1}}]},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job), encoding="utf-8")  # JSON is YAML
    (tmp_path / "notes.txt").write_text("no command", encoding="utf-8")
    drop.set_input_files([tmp_path / "notes.txt", tmp_path / "job.yaml"])  # another tool's, among other files
    expect(page.locator("#import-report")).to_contain_text("ai-toolkit's job.yaml")
    expect(page.locator("#import-report")).to_contain_text("offset noise does not exist here")
    expect(page.locator("#opt-max_train_steps input")).to_have_value("55")
    drop.set_input_files(tmp_path / "other.json")
    expect(seed).to_have_value("99")

    page.locator("#keep-mine input").click()
    page.get_by_role("option", name=re.compile("Mine")).click()
    page.locator("#keep-delete").click()
    page.locator("#keep-sure").click()
    expect(card).to_have_count(0)
    assert own_presets(store.root) == ([], {})
    expect(seed).to_have_value("99")


@pytest.mark.slow
def test_the_card_and_all_texts_about_the_model_follow_an_import_a_hub_id_and_an_own_folder(visit, tmp_path, step):
    page = visit()
    cards, about, note = page.locator("#preset"), page.locator(".rs-about"), page.locator(".rs-note")
    model = page.locator("#opt-pretrained_model_name_or_path input, #opt-pretrained_model_name_or_path textarea")
    demo = cards.locator("label").first
    expect(demo).to_contain_text("Needs nothing")
    expect(note).to_contain_text("No download and no graphics card needed")

    page.get_by_text("Import settings, or save these").click()
    (tmp_path / "config.json").write_text(load_preset("sd35-medium").to_json(), encoding="utf-8")
    page.locator("#import-file input[type=file]").set_input_files(tmp_path / "config.json")
    expect(cards.get_by_label("Stable Diffusion 3.5 Medium")).to_be_checked()
    expect(about).to_contain_text("an NVIDIA card with 24 GB")
    expect(note).not_to_contain_text("No download")
    expect(page.locator("#start-hero")).to_have_text("Start training")
    expect(page.locator("#side")).to_contain_text("Nothing changed from the preset")

    demo.click()
    expect(demo).to_contain_text("Needs nothing")
    expect(note).to_contain_text("No download")
    model.fill("somebody/a-model")
    model.blur()
    expect(demo).to_contain_text("With another model: somebody/a-model")
    expect(demo).to_contain_text("Needs a download")
    expect(demo).not_to_contain_text("Needs nothing")
    expect(about).to_contain_text("somebody/a-model, in place of demo-flow")
    expect(note).not_to_contain_text("No download")
    page.reload()  # and is so for whoever comes back
    expect(demo).to_contain_text("With another model: somebody/a-model")
    expect(note).not_to_contain_text("No download")

    step(page, "settings")
    page.locator("#opt-seed input").fill("-1")  # whether or not something else in the form is wrong
    page.locator("#opt-seed input").blur()
    expect(page.locator("#opt-seed")).to_contain_text("must be at least 0")
    (tmp_path / "my model").mkdir()
    step(page, "model")
    model.fill(str(tmp_path / "my model"))
    model.blur()
    expect(demo).to_contain_text("With another model: my model")
    expect(about).to_contain_text("the model lies on this computer")
    step(page, "settings")
    page.locator("#opt-seed input").fill("3")
    step(page, "model")
    model.fill("demo-flow")
    model.blur()
    expect(demo).to_contain_text("Needs nothing")
    expect(note).to_contain_text("No download")


def test_of_a_lora_only_the_header_leaves_the_browser_and_a_path_is_read_in_place(visit, tmp_path, step):
    config = with_changes(load_preset("demo"), {"seed": 4711})
    header = json.dumps({"__metadata__": {"rollout_studio_config": json.dumps(published_config(config))},
                         "a.lora_A.weight": {"dtype": "F32", "shape": [2**20], "data_offsets": [0, 2**22]}}).encode()  # fmt: skip
    lora = tmp_path / "cat.safetensors"
    lora.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2**22))
    page, uploads = visit(), []
    page.on("request", lambda request: uploads.append(request.url) if "/upload" in request.url else None)
    step(page, "settings")
    page.get_by_text("Import settings, or save these").click()
    seed, report = page.locator("#opt-seed input"), page.locator("#import-report")
    page.locator("#import-file input[type=file]").set_input_files(lora)
    expect(report).to_contain_text("imported from the LoRA file cat.safetensors")
    expect(seed).to_have_value("4711")
    assert not uploads

    (tmp_path / "broken.safetensors").write_bytes(b"\x05" + bytes(7) + b"[1,2,")
    page.locator("#import-file input[type=file]").set_input_files(tmp_path / "broken.safetensors")
    expect(report).to_contain_text("Nothing was imported from broken.safetensors")
    assert not uploads

    seed.fill("3")
    dropped = page.evaluate_handle(
        """(bytes) => { const data = new DataTransfer(); data.items.add(new File([new Uint8Array(bytes)], 'dropped.safetensors')); return data; }""",
        list(lora.read_bytes()[: 8 + len(header)]),
    )
    page.locator("#import-file input[type=file]").evaluate(
        "(field, data) => field.parentElement.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer: data}))",
        dropped,
    )
    expect(report).to_contain_text("imported from the LoRA file dropped.safetensors")
    expect(seed).to_have_value("4711")
    assert not uploads

    seed.fill("3")
    page.locator("#import-path input, #import-path textarea").fill(str(lora))
    page.locator("#import-read").click()
    expect(report).to_contain_text("imported from the LoRA file cat.safetensors")
    expect(seed).to_have_value("4711")
    assert not uploads
