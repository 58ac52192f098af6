"""Steps 1 and 2 of the Train tab in a real browser: pictures dropped, captioned and kept; folders browsed; a model checked without a network."""

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")
from PIL import Image
from playwright.sync_api import expect
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.data import scan
from rollout_studio.core.data.beside import Cut

pytestmark = pytest.mark.timeout(300)


def field(page, name):
    return page.locator(f"#opt-{name} input, #opt-{name} textarea")


def write(page, name, value):
    field(page, name).fill(value)
    field(page, name).blur()


def pictures(folder, count, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (96, 80), (number * 7 % 256, 90, 200)).save(folder / f"cup {number:02d}.png")
    return folder


def test_dropped_pictures_are_captioned_given_the_trigger_word_saved_and_there_again_after_a_reload(
    visit, served, tmp_path, tab, step
):
    pictures(tmp_path, 3)
    (tmp_path / "cup 01.txt").write_text("a cup <b>on</b> ${alert(1)} a table")
    page = visit()
    tab(page, "Train")
    step(page, "pictures")
    expect(page.locator("#pictures")).to_contain_text("built in: they cannot be edited")
    expect(page.get_by_role("button", name="Save captions")).to_have_count(0)
    page.locator("#drop input[type=file]").set_input_files(sorted(tmp_path.iterdir()))
    expect(page.locator("#pictures")).to_contain_text("3 pictures, dropped here")
    expect(page.locator("#pictures img")).to_have_count(3)
    folder = field(page, "instance_data_dir").input_value()
    write(page, "instance_prompt", "a cup")
    write(page, "trigger_word", "qrx")
    expect(page.get_by_label("Caption of cup 00.png")).to_have_attribute("placeholder", "as for all: a cup")

    page.get_by_label("Caption of cup 02.png").fill("the qrx cup, from above")
    page.get_by_role("button", name="Put “qrx” into the captions").click()
    expect(page.get_by_label("Caption of cup 01.png")).to_have_value("qrx, a cup <b>on</b> ${alert(1)} a table")
    expect(page.get_by_label("Caption of cup 00.png")).to_have_value("qrx, a cup")
    expect(page.locator("#pictures")).to_contain_text("3 captions changed and not saved yet")
    step(page, "settings")
    write(page, "seed", "7")  # what is typed elsewhere changes nothing here
    expect(page.locator("#side")).to_contain_text('"seed": 7')
    step(page, "pictures")
    expect(page.get_by_label("Caption of cup 02.png")).to_have_value("the qrx cup, from above")
    page.locator("#start-hero").click()
    expect(page.locator("#findings")).to_contain_text("3 captions are changed and not saved")
    page.get_by_role("button", name="Save captions").click()
    expect(page.locator("#pictures")).not_to_contain_text("not saved yet")
    assert [path.read_text().strip() for path in sorted(served[1].root.glob(".pictures/*/*.txt"))] == [
        "qrx, a cup", "qrx, a cup <b>on</b> ${alert(1)} a table", "the qrx cup, from above",
    ]  # fmt: skip

    page.reload()
    tab(page, "Train")
    step(page, "pictures")
    write(page, "instance_data_dir", folder)
    expect(page.get_by_label("Caption of cup 02.png")).to_have_value("the qrx cup, from above")
    pictures(tmp_path / "more", 1, first=3)
    # onto the set that is there
    page.locator("#drop input[type=file]").set_input_files(tmp_path / "more" / "cup 03.png")
    expect(page.locator("#pictures")).to_contain_text("4 pictures, dropped here")
    page.get_by_role("button", name="Remove cup 03.png").click()
    expect(page.locator("#pictures")).to_contain_text("3 pictures, dropped here")
    page.get_by_role("button", name="Bring back the last one").click()
    expect(page.locator("#pictures")).to_contain_text("4 pictures, dropped here")


def test_own_pictures_replace_the_demos_words_where_everybody_sees_it_and_without_words_nothing_starts(
    visit, served, tmp_path, tab, step
):
    captioned = pictures(tmp_path / "captioned", 2)
    (captioned / "cup 00.txt").write_text("a cup on a table")
    dropped = sorted(pictures(tmp_path / "dropped", 2, first=5).iterdir())
    page = visit()
    tab(page, "Train")
    words, prompts = page.locator("#own-words"), field(page, "validation_prompts")
    step(page, "settings")  # its fields are there from now on
    step(page, "pictures")
    expect(field(page, "trigger_word")).to_have_value("zwx")
    expect(words).to_be_hidden()
    page.get_by_text("Class pictures: so that the model does not forget the kind").click()
    write(page, "class_prompt", "a cup")  # typed: it stays
    page.locator("#drop input[type=file]").set_input_files(dropped)
    expect(words).to_contain_text("Your own pictures: the demo's texts are cleared")
    expect(words).to_contain_text("was “a zwx shape”, is now empty: needed for every picture without a caption")
    expect(words).to_contain_text("stays 64 px, because the small model demo-flow")
    for name in ("trigger_word", "instance_prompt", "validation_prompts"):
        expect(field(page, name)).to_have_value("")
    expect(field(page, "class_prompt")).to_have_value("a cup")
    expect(field(page, "resolution")).to_have_value("64")
    expect(page.locator("#side")).to_contain_text('"trigger_word": null')
    page.locator("#start-hero").click()
    expect(page.locator("#opt-instance_prompt")).to_contain_text(
        "2 pictures have no caption of their own: write one here"
    )
    assert not served[1].list()

    page.reload()  # the form as it is
    step(page, "settings")
    step(page, "pictures")
    expect(words).to_contain_text("the demo's texts are cleared")
    expect(field(page, "instance_prompt")).to_have_value("")
    write(page, "instance_prompt", "a photo of a cup")
    expect(page.locator("#pictures")).to_contain_text("2 pictures, dropped here")
    expect(page.get_by_label("Caption of cup 05.png")).to_have_attribute("placeholder", "as for all: a photo of a cup")
    page.locator("#own-words-prompts").click()
    expect(prompts).to_have_value("a photo of a cup")
    page.locator("#own-words-back").click()  # the trigger word alone: the others were written
    expect(field(page, "trigger_word")).to_have_value("zwx")
    expect(words).to_contain_text("some settings are still the demo's")
    expect(field(page, "instance_prompt")).to_have_value("a photo of a cup")
    page.locator("#own-words-clear").click()
    expect(field(page, "trigger_word")).to_have_value("")
    write(page, "trigger_word", "qrx")
    expect(words).to_be_hidden()

    step(page, "model")
    page.locator("#preset").get_by_label("Stable Diffusion 1.5").click()
    expect(field(page, "resolution")).to_have_value("512")
    page.locator("#preset label").first.click()  # the preset again: its pictures and its words
    expect(field(page, "trigger_word")).to_have_value("zwx")
    expect(page.locator("#side")).to_contain_text('"class_prompt": "a shape"')
    expect(words).to_be_hidden()
    write(page, "pretrained_model_name_or_path", "stable-diffusion-v1-5/stable-diffusion-v1-5")
    step(page, "pictures")
    write(page, "instance_data_dir", str(captioned))  # a folder that is typed is the same
    expect(prompts).to_have_value("a cup on a table")
    expect(field(page, "instance_prompt")).to_have_value("")
    expect(field(page, "resolution")).to_have_value("512")
    expect(words).to_contain_text("was 64 px for the demo's model, is now 512 px")
    expect(page.locator("#side")).to_contain_text('"trigger_word": null')
    write(page, "instance_data_dir", "demo-dreambooth")
    expect(field(page, "instance_prompt")).to_have_value("a zwx shape")
    expect(words).to_be_hidden()


@pytest.mark.slow
def test_a_folder_is_browsed_to_and_what_is_typed_there_survives_other_pages_and_other_folders(
    visit, tmp_path, tab, step
):
    mine = pictures(tmp_path / "home" / "my cups", 30)
    (tmp_path / "home" / "empty").mkdir()
    page = visit()
    tab(page, "Train")
    step(page, "pictures")
    write(page, "instance_data_dir", str(tmp_path / "home"))
    expect(page.locator("#picture-checks")).to_contain_text("Sub-folders are not read, and my cups has some")
    page.locator("#browse-pictures-open").click()
    expect(page.locator("#browse-pictures li")).to_have_text([re.compile("^empty"), re.compile("^my cups")])
    page.get_by_role("button", name="empty", exact=True).click()
    expect(page.locator("#browse-pictures")).to_contain_text("There are no folders in here")
    page.get_by_role("button", name="Up to the folder above").click()
    page.get_by_role("button", name="Use my cups").click()
    expect(field(page, "instance_data_dir")).to_have_value(str(mine))
    expect(page.locator("#browse-pictures")).to_be_hidden()
    expect(page.locator("#pictures")).to_contain_text("1–24 of 30")
    expect(page.get_by_role("button", name=re.compile("^Remove"))).to_have_count(0)

    page.get_by_label("Caption of cup 05.png").fill("typed on the first page")
    page.get_by_role("button", name="Next ›").first.click()
    expect(page.locator("#pictures")).to_contain_text("25–30 of 30")
    expect(page.locator("#pictures")).to_contain_text("1 caption changed and not saved yet (1 on other pages)")
    write(page, "instance_data_dir", "demo-dreambooth")
    expect(page.locator("#pictures")).to_contain_text("built in")
    write(page, "instance_data_dir", str(mine))
    expect(page.get_by_label("Caption of cup 05.png")).to_have_value("typed on the first page")
    assert not list(mine.glob("*.txt")), "nothing is written before Save"
    mine.rename(tmp_path / "away")
    page.get_by_role("button", name="Save captions").click()
    expect(page.locator("#pictures")).to_contain_text("cup 05.png: typed on the first page")
    (tmp_path / "away").rename(mine)
    write(page, "instance_data_dir", str(mine))
    page.get_by_role("button", name="Save captions").click()
    expect(page.locator("#pictures")).not_to_contain_text("not saved yet")
    assert (mine / "cup 05.txt").read_text() == "typed on the first page\n" and len(list(mine.glob("*.txt"))) == 1
    captions_are_edited_together(page, mine)
    a_crop_and_a_mask_are_made_by_mouse(page, mine)


def captions_are_edited_together(page, mine):
    """Tags and texts of many captions, undone and saved; and a name in the checks leads to its picture on another page."""
    write(page, "instance_prompt", "a cup")
    write(page, "trigger_word", "qrx")
    expect(page.locator("#picture-checks")).to_contain_text('the caption lacks "qrx"')
    page.locator("#picture-checks summary").click()
    page.locator("#picture-checks").get_by_role("button", name="cup 29.png").click()
    expect(page.locator("#pictures")).to_contain_text("25–30 of 30")
    expect(page.locator("#pictures .rs-picture.rs-found")).to_contain_text("cup 29.png")
    page.get_by_text("Edit many captions").click()
    page.get_by_label("Select cup 29.png").check()
    page.get_by_text("the 1 selected").click()
    page.get_by_label("Tag", exact=True).fill("tall, qrx")
    page.get_by_role("button", name="Add in front").click()
    expect(page.get_by_label("Caption of cup 29.png")).to_have_value("tall, qrx, a cup")
    page.get_by_text("all 30 pictures").click()
    page.get_by_label("Find in captions").fill("TYPED on")
    page.get_by_label("Replace by").fill("seen on")
    page.get_by_role("button", name="Replace", exact=True).click()
    expect(page.locator("#pictures")).to_contain_text("2 captions changed and not saved yet (1 on other pages)")
    page.get_by_role("button", name="Add at the end").click()  # "tall, qrx" to the 29 others
    expect(page.locator("#pictures .rs-tags")).to_contain_text("tall30")
    page.get_by_role("button", name="Undo this").click()
    expect(page.locator("#pictures")).to_contain_text("2 captions changed and not saved yet (1 on other pages)")
    page.get_by_role("button", name="Save captions").click()
    expect(page.locator("#pictures")).not_to_contain_text("not saved yet")
    saved = {file.name: file.read_text() for file in mine.glob("*.txt")}
    assert saved == {"cup 05.txt": "seen on the first page\n", "cup 29.txt": "tall, qrx, a cup\n"}
    page.get_by_role("button", name="Undo this").click()  # after saving, too
    expect(page.locator("#pictures")).to_contain_text("1 caption changed and not saved yet (1 on other pages)")
    page.get_by_role("button", name="Discard changes").click()


def a_crop_and_a_mask_are_made_by_mouse(page, mine):
    """Of the 96 x 80 picture the right half is kept, of that the upper half trained on; the data layer of the next run sees both."""
    before = (mine / "cup 24.png").read_bytes()
    page.get_by_role("button", name="Crop or mask cup 24.png").click()
    tool, canvas = page.locator("dialog.rs-tool"), page.locator("dialog.rs-tool canvas")
    expect(canvas).to_be_focused()
    box = canvas.bounding_box()

    def drag(*points):
        for number, (x, y) in enumerate(points):
            page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y, steps=3)
            if number == 0:
                page.mouse.down()
        page.mouse.up()

    drag((0.0, 0.5), (0.3, 0.5), (0.5, 0.5))  # the left edge
    expect(tool).to_contain_text("48 × 80 px of 96 × 80 are kept")
    page.keyboard.press("ArrowLeft")
    expect(tool.get_by_label("Left", exact=True)).to_have_value("47")
    page.keyboard.press("Control+z")
    expect(tool.get_by_label("Left", exact=True)).to_have_value("48")
    tool.get_by_role("button", name="Mask", exact=True).click()
    box = canvas.bounding_box()  # the rows below are others
    tool.locator("input[type=range]").fill("50")
    drag((0.75, 0.1))  # one dab
    tool.get_by_role("button", name="Leave out").click()
    tool.locator("input[type=range]").fill("10")
    drag((0.95, 0.0), (0.95, 0.5))
    canvas.focus()
    page.keyboard.press("Escape")
    tool.get_by_role("button", name="Keep editing").click()
    tool.get_by_role("button", name="Save").click()
    expect(tool).to_be_hidden()
    expect(page.locator("#pictures .rs-picture", has_text="cup 24.png")).to_contain_text("cropped")
    assert (mine / "cup 24.png").read_bytes() == before and not (mine / ".replaced").exists()
    found = scan(config_from_flat({"instance_data_dir": str(mine), "instance_prompt": "a cup", "resolution": 64}).data)
    item = {each.name: each for each in found.items}["cup 24.png"]
    assert (len(found.items), item.width, item.height, item.cut) == (30, 48, 80, Cut(48, 0, 96, 80))
    with Image.open(mine / "cup 24-mask.png") as mask:
        values = [mask.getpixel(at) for at in ((72, 5), (91, 5), (72, 75), (5, 75))]
        assert (mask.size, values) == ((96, 80), [255, 0, 0, 0])
    page.get_by_role("button", name="Crop or mask cup 24.png").click()  # what was saved is there again
    expect(tool.get_by_label("Left", exact=True)).to_have_value("48")
    tool.get_by_role("button", name="Mask", exact=True).click()
    tool.get_by_role("button", name="Remove the mask").click()
    # A save that hangs locks nobody in: the dialog is closed, and what was done is saved when the answer comes.
    hanging = []
    page.route("**/gradio_api/queue/join**", lambda route: hanging.append(route))
    tool.get_by_role("button", name="Save").click()
    expect(tool.get_by_role("button", name="Saving …")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(tool).to_contain_text("still being saved")
    tool.get_by_role("button", name="Close").click()
    expect(tool).to_be_hidden()
    for route in hanging:
        route.continue_()
    page.unroute("**/gradio_api/queue/join**")
    expect(page.locator("#pictures .rs-picture", has_text="cup 24.png")).not_to_contain_text("mask")
    expect(tool).to_be_hidden()
    assert not (mine / "cup 24-mask.png").exists() and len(list((mine / ".replaced").iterdir())) == 1


def test_a_model_is_checked_where_it_is_and_without_a_network_it_shows_what_works(visit, tab):
    page = visit(width=400)
    tab(page, "Train")
    page.locator("#check-model").click()
    expect(page.locator("#model-checked")).to_contain_text("demo-flow can be used")
    expect(page.locator("#model-checked")).to_contain_text("built in: works offline")
    page.locator("#preset").get_by_label("Stable Diffusion 3.5 Medium").click()
    expect(page.locator("#model-checked")).to_be_hidden()
    page.locator("#check-model").click()
    expect(page.locator("#model-checked")).to_contain_text(
        "stabilityai/stable-diffusion-3.5-medium cannot be checked without a network"
    )
    expect(page.locator("#model-checked")).to_contain_text("built-in models (demo-flow, demo-epsilon)")
    page.locator("#browse-model-open").click()
    expect(page.locator("#browse-model")).to_contain_text("Use this folder")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.get_by_role("button", name="Close the list of folders").click()
    expect(page.locator("#browse-model")).to_be_hidden()


@pytest.mark.slow
def test_a_model_writes_captions_that_are_stopped_gone_on_with_and_corrected_like_typed_ones(
    visit, served, tmp_path, tab, step, monkeypatch
):
    """In a process of its own, the real worker; its model is a quick one. The tiny models of transformers are in `test_captioning.py`."""
    quick = Path(__file__).parents[1] / "quick_captions_worker.py"
    monkeypatch.setattr("rollout_studio.core.captioning.job.COMMAND", (sys.executable, str(quick)))
    mine = tmp_path / "mine"
    for number in range(12):
        mine.mkdir(exist_ok=True)
        Image.new("RGB", (96, 80), (20 * number,) * 3).save(mine / f"cup {number:02d}.png")
    (mine / "cup 03.txt").write_text("mine, <b>kept</b>")
    (mine / "cup 05.png").write_bytes(b"no picture")
    model = tmp_path / "tagger"
    model.mkdir()
    for name in ("model.onnx", "selected_tags.csv"):
        (model / name).write_text("not opened here")

    def texts():
        return {path.stem: path.read_text().strip() for path in mine.glob("*.txt")}

    page = visit()
    tab(page, "Train")
    step(page, "pictures")
    write(page, "instance_data_dir", str(mine))
    expect(page.locator("#pictures")).to_contain_text("12 pictures")
    page.get_by_text("Captions by a model").click()
    expect(page.get_by_text("is not on this computer; about 448 MiB would be downloaded")).to_be_visible()
    page.locator("#caption-start").click()
    expect(page.locator(".toast-body")).to_contain_text("Allow the download")
    page.locator(".toast-close").click()
    assert len(texts()) == 1

    write(page, "caption_model", str(model))
    expect(page.locator("#caption-model")).to_contain_text("On this computer: a tagger")
    write(page, "caption_trigger_word", "qrx")
    page.get_by_text("More settings of the captions").click()
    page.locator("#opt-caption_batch_size input[type=number]").fill("1")
    page.locator("#opt-caption_batch_size input[type=number]").blur()
    page.locator("#caption-start").click()
    expect(page.locator("#caption-state")).to_contain_text("of 11 pictures, on cpu")
    expect(page.get_by_label("Caption of cup 00.png")).to_have_value(
        "qrx, a picture of brightness 0"
    )  # while it goes on
    page.locator("#caption-stop").click()
    expect(page.locator("#caption-stop")).to_have_text("Stopping after these pictures")
    (model / "go").touch()
    expect(page.locator("#caption-state")).to_contain_text("Stopped: 3 captions written")
    stopped = texts()
    assert len(stopped) == 4 and not list(mine.glob(".*"))

    page.locator("#caption-start").click()
    expect(page.locator("#caption-state")).to_contain_text("1 picture left out")
    expect(page.locator("#caption-state")).to_contain_text("Left out: cup 05.png")
    expect(page.locator("#caption-state")).to_contain_text("had one already")
    assert len(texts()) == 11 and {**texts(), **stopped} == texts() and texts()["cup 03"] == "mine, <b>kept</b>"
    last = page.get_by_label("Caption of cup 11.png")
    expect(last).to_have_value("qrx, a picture of brightness 220")
    last.fill("the qrx cup, corrected")
    page.locator("#caption-start").click()
    expect(page.locator(".toast-body")).to_contain_text("Save or discard the captions that you typed")
    page.locator(".toast-close").click()
    page.get_by_role("button", name="Save captions").click()
    expect(page.locator("#pictures")).not_to_contain_text("not saved yet")
    assert texts()["cup 11"] == "the qrx cup, corrected"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tiny_blip_writes_captions_on_the_page_is_stopped_and_goes_on(visit, tmp_path, tab, step):
    """The same with a model of transformers, whose process takes seconds to open it."""
    import tiny_captioners

    model = tiny_captioners.save_blip(tmp_path / "blip")
    mine = pictures(tmp_path / "mine", 60)

    def texts():
        return {path.stem: path.read_text() for path in mine.glob("*.txt")}

    page = visit()
    tab(page, "Train")
    step(page, "pictures")
    write(page, "instance_data_dir", str(mine))
    expect(page.locator("#pictures")).to_contain_text("60 pictures")
    page.get_by_text("Captions by a model").click()
    write(page, "caption_model", str(model))
    expect(page.locator("#caption-model")).to_contain_text("On this computer: BLIP")
    page.get_by_text("More settings of the captions").click()
    write(page, "caption_max_tokens", "40")
    page.locator("#opt-caption_batch_size input[type=number]").fill("1")
    page.locator("#opt-caption_batch_size input[type=number]").blur()
    page.locator("#caption-start").click()
    expect(page.get_by_label("Caption of cup 00.png")).not_to_have_value("")
    page.locator("#caption-stop").click()
    expect(page.locator("#caption-state")).to_contain_text("Stopped:")
    stopped = texts()
    assert 1 <= len(stopped) < 60
    page.locator("#caption-start").click()
    expect(page.locator("#caption-state")).to_contain_text(f"{60 - len(stopped)} captions written.")
    assert len(texts()) == 60 and {**texts(), **stopped} == texts()
