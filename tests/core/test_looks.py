"""What is measured on pictures, and the files beside them: sharpness, nearly the same pictures, crops, masks; edited captions."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from rollout_studio.core.data import inspecting, pictures, scan, transform
from rollout_studio.core.data.beside import BadCrop, Cut, crop_path, is_mask, mask_path, read_cut, write_cut, write_mask
from rollout_studio.core.data.captions import replaced, tag_counts, tags, with_tag, without_tag
from rollout_studio.core.data.looks import BLURRED, SIDES, look_at, near_duplicates


def scene(seed=0, width=240, height=180):
    """A picture with detail of every size: random squares on random squares."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (n * 3, n * 4, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.NEAREST
        )
        for n in (2, 6, 20)
    ]
    return Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.3)


def data_of(folder, **settings):
    base = {
        "instance_data_dir": str(folder), "caption_strategy": "textfile", "instance_prompt": "a cup", "trigger_word": None, "resolution": 64,
        "aspect_buckets": True, "bucket_step": 64, "with_prior_preservation": False, "class_prompt": None, "class_data_dir": None, "center_crop": True,
        "masked_training": "off", "concepts": None,
    }  # fmt: skip
    return SimpleNamespace(**{**base, **settings})


def test_blur_is_measured_at_the_size_that_is_trained_on_and_a_sharp_corner_saves_a_picture():
    sharp = scene()
    blurred = sharp.filter(ImageFilter.GaussianBlur(4))
    at = dict(zip(SIDES, look_at(blurred).sharpness, strict=True))
    assert look_at(sharp).sharpness_at(1024) > 0.6 > BLURRED > at[512]
    assert at[64] > BLURRED, "four times smaller the blur is gone"
    motion = Image.fromarray(np.asarray(sharp, float)[:, None].repeat(1, 1)[:, 0].astype(np.uint8)).resize(
        (24, 180), Image.Resampling.BOX
    )
    assert look_at(motion.resize(sharp.size, Image.Resampling.BICUBIC)).sharpness_at(512) < BLURRED, "along one axis"
    blurred.paste(sharp.crop((0, 0, 60, 45)), (0, 0))
    assert look_at(blurred).sharpness_at(512) > BLURRED
    assert look_at(Image.new("RGB", (300, 200), "red")).sharpness_at(512) is None
    assert look_at(sharp.resize((40, 30))).sharpness_at(512) is None, "too small to say"


def test_nearly_the_same_pictures_are_found_and_others_are_not():
    one = scene(1)
    small, bright = one.resize((120, 90), Image.Resampling.LANCZOS), ImageEnhance.Brightness(one).enhance(1.15)
    negative = Image.fromarray(255 - np.asarray(one))
    plain = [Image.new("RGB", (90, 90), colour) for colour in ("red", "blue")]
    prints = tuple(look_at(each).fingerprint for each in (scene(2), one, small, scene(3), bright, negative, *plain))
    assert near_duplicates(prints) == {2: 1, 4: 1}
    pale = Image.fromarray((np.asarray(one) * 0.3 + 170).astype(np.uint8))
    assert near_duplicates((prints[1], look_at(pale).fingerprint)) == {}, "the same shapes in quite other colours"
    across, down = np.linspace(110, 150, 90), np.linspace(110, 150, 90)[:, None]
    flat = [
        np.broadcast_to(across, (90, 90)),
        down + (across - 110) / 2,
    ]  # each pixel lighter than its left neighbour, in both
    ramps = [look_at(Image.fromarray(each.astype(np.uint8)).convert("RGB")).fingerprint for each in flat]
    assert ramps[0][:8] == ramps[1][:8] and near_duplicates(tuple(ramps)) == {}


def test_a_scan_names_blurred_and_nearly_same_pictures_and_looks_at_each_content_once(tmp_path, monkeypatch):
    scene(4).save(tmp_path / "a.png")
    scene(4).resize((200, 150), Image.Resampling.LANCZOS).save(tmp_path / "b.jpg", quality=80)
    scene(5).filter(ImageFilter.GaussianBlur(6)).save(tmp_path / "soft.png")
    data = data_of(tmp_path, resolution=128)
    found = {(each.code, each.where.rpartition("/")[2]) for each in scan(data).problems if each.level == "warning"}
    assert found == {("near-duplicate", "b.jpg"), ("picture-blurred", "soft.png")}
    (tmp_path / "a.png").rename(tmp_path / "renamed.png")
    monkeypatch.setattr(pictures, "inspect", lambda data: pytest.fail("known content is not decoded again"))
    assert len(scan(data).items) == 3
    assert len(inspecting.inspect_all([tmp_path / "renamed.png"], None)) == 1


def test_a_crop_is_all_that_training_sees_of_a_picture_and_the_picture_stays_as_it_was(tmp_path):
    picture = scene(6, 320, 180)
    picture.save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    (whole,) = scan(data_of(tmp_path)).items
    write_cut(tmp_path / "a.png", Cut(100, 20, 228, 148), 320, 180)
    (item,) = scan(data_of(tmp_path)).items
    assert (item.width, item.height, item.bucket) == (128, 128, (64, 64)) and whole.bucket == (80, 48)
    seen = transform.apply(picture, item.crop(item.bucket, center=True))
    expected = np.asarray(picture.crop((100, 20, 228, 148)).resize((64, 64), Image.Resampling.LANCZOS), int)
    inner = (slice(2, -2), slice(2, -2))  # at the edges Lanczos also weighs the pixels beside the crop
    assert np.abs(seen[inner] - expected[inner]).max() <= 2
    assert item.content != whole.content and item.digest == whole.digest
    assert (tmp_path / "a.png").read_bytes() == before
    write_cut(tmp_path / "a.png", None, 320, 180)
    assert scan(data_of(tmp_path)).items == (whole,)


@pytest.mark.parametrize("text, reason", [
    ('{"left": 0, "top": 0, "right": 90, "bottom": 80, "width": 90, "height": 80}', "was made for a picture of 90 x 80"),
    ('{"left": 0, "top": 0, "right": 241, "bottom": 80, "width": 240, "height": 180}', "is no part of a picture"),
    ('{"left": 0, "top": 0, "right": 10, "bottom": 80, "width": 240, "height": 180}', "at least 16 px"),
    ('{"left": 0.5, "top": 0, "right": 90, "bottom": 80, "width": 240, "height": 180}', "whole numbers"),
    ('{"left": true, "top": 0, "right": 90, "bottom": 80, "width": 240, "height": 180}', "whole numbers"),
    ("[1, 2]", "is no crop"), ("{", "is no crop"), (" " * 5000, "is no crop"),
])  # fmt: skip
def test_a_crop_that_cannot_be_honoured_is_an_error_of_its_picture_and_never_ignored(tmp_path, text, reason):
    scene().save(tmp_path / "a.png")
    crop_path(tmp_path / "a.png").write_text(text)
    with pytest.raises(BadCrop, match=reason):
        read_cut(tmp_path / "a.png", 240, 180)
    found = scan(data_of(tmp_path))
    assert not found.items and ("crop-bad", "error") in {(each.code, each.level) for each in found.problems}


def test_a_mask_is_never_a_picture_and_without_one_it_is_named(tmp_path):
    scene().save(tmp_path / "a.png")
    write_mask(tmp_path / "a.png", Image.new("L", (240, 180), 255))
    scene(1).save(tmp_path / "lonely-mask.png")
    found = scan(data_of(tmp_path))
    assert [item.name for item in found.items] == ["a.png"]
    assert [(each.code, each.where) for each in found.problems if each.level == "warning"] == [
        ("mask-orphan", str(tmp_path / "lonely-mask.png"))
    ]
    assert mask_path(tmp_path / "a.png").name == "a-mask.png" and is_mask("B-MASK.PNG")
    assert not is_mask("-mask.png") and not is_mask("mask.png") and not is_mask("a-mask.jpg")


def test_two_parts_of_one_picture_are_two_pictures(tmp_path):
    for name, cut in {"a": Cut(0, 0, 120, 120), "b": Cut(100, 40, 220, 160)}.items():
        scene().save(tmp_path / f"{name}.png")
        write_cut(tmp_path / f"{name}.png", cut, 240, 180)
    assert scan(data_of(tmp_path)).problems[0].code == "caption-default"
    write_cut(tmp_path / "b.png", Cut(0, 0, 120, 120), 240, 180)
    assert "duplicate-picture" in {each.code for each in scan(data_of(tmp_path)).problems}


def test_upright_sizes_count_for_a_crop_of_a_turned_photograph(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    scene().save(tmp_path / "a.jpg", exif=exif)
    write_cut(tmp_path / "a.jpg", Cut(0, 100, 180, 240), 180, 240)
    assert (scan(data_of(tmp_path)).items[0].width, scan(data_of(tmp_path)).items[0].height) == (180, 140)
    assert json.loads(crop_path(tmp_path / "a.jpg").read_text())["height"] == 240


def test_tags_are_the_parts_between_commas():
    assert tags(" qrx,a  cup,, red ,") == ["qrx", "a cup", "red"]
    assert tag_counts(["Red, cup", "red, red", "cup, tall", ""]) == {"cup": 2, "Red": 2, "tall": 1}
    assert with_tag("a cup, red", "qrx", "front") == "qrx, a cup, red"
    assert with_tag("a cup, red", "tall, RED, tall", "end") == "a cup, red, tall"
    assert with_tag("a cup,red", "Red", "front") == "a cup,red", "nothing to add: as it was typed"
    assert with_tag("", "qrx", "end") == "qrx"
    assert without_tag("a cup, Red, tall", "red, tall") == "a cup" and without_tag("a cup,,x", "y") == "a cup,,x"
    assert without_tag("red cup", "red") == "red cup", "a word in a tag is no tag"


def test_find_and_replace_takes_the_text_as_it_is():
    assert replaced("a.b A.B axb", "a.b", r"\1", match_case=False) == (r"\1 \1 axb", 2)
    assert replaced("a.b A.B", "a.b", "", match_case=True) == ("A.B", 1)
    assert replaced("two  blanks", "x", "y", match_case=True) == ("two  blanks", 0)
