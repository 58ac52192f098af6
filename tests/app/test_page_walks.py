"""Two newcomers' ways, played and counted (clicks and entries, seconds): from a kohya_ss config to an SDXL LoRA that trains; from the ReflexFlow
paper to seeing drift. `-s` prints the counts. The models are tiny ones of the released classes, where the hub's cache would have them.
"""

import json
import shutil
import time

import pytest

pytest.importorskip("playwright.sync_api")
from foreign_configs import KOHYA
from playwright.sync_api import expect
from rollout_studio.core.data.scanning import located
from tiny import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture(scope="module", autouse=True)
def downloaded(tmp_path_factory):
    """The hub's cache, with the model in it, and no network: for this process and for those that it starts."""
    from huggingface_hub import constants

    cache, commit = tmp_path_factory.mktemp("hub"), "0123456789abcdef" * 2 + "01234567"
    place = cache / f"models--{SDXL.replace('/', '--')}"
    build("sdxl", place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


class Walk:
    """Counts what a person does, and how long it takes."""

    def __init__(self, name):
        self.name, self.steps, self.began = name, [], time.monotonic()

    def step(self, words):
        self.steps.append(words)

    def told(self, what):
        print(f"\n{self.name}: {what} after {len(self.steps)} steps, {time.monotonic() - self.began:.1f} s")


def test_from_a_kohya_config_to_an_sdxl_lora_that_trains(visit, served, tmp_path):
    """The file as the GUI saves it, of a training with folders named as there: repeats, then the words."""
    folder = tmp_path / "img" / "10_zwx dog"
    folder.mkdir(parents=True)
    for file in sorted(located("demo-dreambooth").glob("*.png"))[:3]:
        shutil.copy(file, folder / file.name)
        folder.joinpath(file.stem + ".txt").write_text("a photo of zwx dog", encoding="utf-8")
    config = KOHYA | {
        "optimizer": "AdamW",
        "train_data_dir": str(tmp_path / "img"),
        "mixed_precision": "no",
    }  # on a CPU
    saved = tmp_path / "dog.json"
    saved.write_text(json.dumps(config), encoding="utf-8")

    walk, store = Walk("kohya_ss"), served[1]
    page = visit()
    walk.step("open Import")
    page.get_by_text("Import settings, or save these").click()
    walk.step("drop the file")
    page.locator("#import-file input[type=file]").set_input_files(saved)
    expect(page.locator("#import-report")).to_contain_text("kohya_ss")
    walk.told("the settings are in")
    expect(page.locator("#import-report")).not_to_contain_text("Fill in again")
    walk.step("Start")
    page.locator("#start-hero").click()
    expect(page.get_by_test_id("progress")).to_contain_text("of 800")
    walk.told("it trains")
    [run] = store.list()
    found = store.get(run.name).read_config()
    assert (found["model_family"], found["pretrained_model_name_or_path"], found["lora_rank"]) == ("sdxl", SDXL, 32)
    assert len(walk.steps) <= 4
    store.kill(run.name)


def test_from_the_paper_to_seeing_drift(visit, tab):
    walk, page = Walk("ReflexFlow"), visit()
    walk.step("Drift")
    tab(page, "Drift")
    expect(page.locator(".rs-example .rs-cell img").first).to_be_visible()
    walk.told("a finished drift picture stands there")
    walk.step("Show the drift")
    page.locator("#look-show").click()
    expect(page.locator(".rs-example")).to_have_count(0)
    expect(page.locator(".rs-cell[data-row=heat] img").first).to_be_visible()
    walk.told("the first own picture is there")
    expect(page.locator(".rs-cell[data-row=heat] img")).to_have_count(9)
    walk.told("the own drift is whole")
    assert len(walk.steps) <= 3
