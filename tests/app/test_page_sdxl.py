"""A newcomer's way to an SDXL LoRA, counted: with the released model's name, and a tiny one of its classes where the hub would have put it."""

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect
from rollout_studio.core.data.scanning import located
from tiny import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODEL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture(scope="module", autouse=True)
def downloaded(tmp_path_factory):
    """The hub's cache, with the model in it, and no network: for this process and for those that it starts."""
    from huggingface_hub import constants

    cache, commit = tmp_path_factory.mktemp("hub"), "0123456789abcdef" * 2 + "01234567"
    place = cache / f"models--{MODEL.replace('/', '--')}"
    build("sdxl", place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


def test_sdxl_starts_in_four_steps_and_an_impossible_value_is_refused_at_its_field(visit, served, step, tmp_path):
    store, page = served[1], visit()
    pictures = sorted(located("demo-dreambooth").glob("*.png"))[:3]

    page.locator("#preset").get_by_label("Stable Diffusion XL").click()  # 1
    expect(page.locator("#side")).to_contain_text("1024")
    step(page, "pictures")
    page.locator("#drop input[type=file]").set_input_files(pictures)  # 2
    expect(page.locator("#pictures")).to_contain_text("3 pictures, dropped here")
    caption = page.locator("#opt-instance_prompt textarea, #opt-instance_prompt input").first
    caption.fill("a photo of zwx dog")  # 3
    caption.blur()

    # beside the way: what this model cannot do is said at the field, and nothing starts
    page.keyboard.press("/")
    page.keyboard.type("flow_schedule_shift")
    page.keyboard.press("Enter")
    shift = page.locator("#opt-flow_schedule_shift")
    shift.locator("input, textarea").first.fill("3")
    shift.locator("input, textarea").first.blur()
    expect(shift).to_contain_text("only flow models have a shift")
    page.locator("#start-hero").click()
    expect(page.locator("#findings")).to_contain_text("only flow models have a shift")
    assert not store.list()
    shift.locator("input, textarea").first.fill("")
    shift.locator("input, textarea").first.blur()
    expect(shift).not_to_contain_text("only flow models have a shift")

    page.locator("#start-hero").click()  # 4
    expect(page.get_by_test_id("progress")).to_contain_text("of 500")
    [run] = store.list()
    config = store.get(run.name).read_config()
    assert config["model_family"] == "sdxl" and config["resolution"] == 1024
