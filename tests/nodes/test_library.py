"""What nodes of the library do with files, without a graph around them."""

import pytest
from PIL import Image
from rollout_studio.core.data.beside import Cut, crop_path, mask_path, write_cut, write_mask
from rollout_studio.nodes.execute.context import Context
from rollout_studio.nodes.graph.values import Folder, settings
from rollout_studio.nodes.library import data


@pytest.fixture
def context(store, tmp_path):
    (tmp_path / "work").mkdir()
    return Context(store, tmp_path / "work", tmp_path / "out")


@pytest.fixture
def cropped(tmp_path):
    """A folder with one picture, red on the left and green on the right; the green half is kept, and has a mask."""
    folder = tmp_path / "mine"
    folder.mkdir()
    image = Image.new("RGB", (128, 64), (255, 0, 0))
    image.paste((0, 255, 0), (64, 0, 128, 64))
    image.save(folder / "a.png")
    write_cut(folder / "a.png", Cut(64, 0, 128, 64), 128, 64)
    write_mask(folder / "a.png", Image.new("L", (128, 64), 255))
    return folder


def test_edited_captions_keep_the_crops_and_masks(context, cropped):
    (copy,) = data.caption_edit(context, Folder(str(cropped)), "", "", "a cat", "")
    assert copy.path == str(context.work)
    assert sorted(file.name for file in context.work.iterdir()) == ["a-crop.json", "a-mask.png", "a.png", "a.txt"]
    for file in (crop_path(cropped / "a.png"), mask_path(cropped / "a.png")):
        assert (context.work / file.name).read_bytes() == file.read_bytes()


def test_the_preview_of_a_dataset_shows_the_part_that_is_kept(context, cropped):
    dataset = settings({"instance_data_dir": str(cropped), "instance_prompt": "a cat", "resolution": 64})
    (shown,) = data.dataset_preview(context, dataset, 4)
    colours = {colour for _, colour in Image.open(shown.files[0].path).getcolors(1 << 20)}
    assert (0, 255, 0) in colours and (255, 0, 0) not in colours and shown.captions == ("1 of 1 pictures",)
