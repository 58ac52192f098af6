"""The training set: what people bring is opened rightly or refused with its reason; what is trained on is a function of seed and step."""

import io
import math
import os
import struct
import subprocess
import sys
import threading
import types
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.data import (
    DatasetError,
    bucket_counts,
    captions,
    pictures,
    prepare,
    preparing,
    progress,
    scan,
    scan_probe,
    split_holdout,
)
from rollout_studio.core.data.batches import Carousel, Schedule
from rollout_studio.core.data.beside import Cut, write_cut
from rollout_studio.core.data.buckets import bucket_sizes, choose, effective_step
from rollout_studio.core.data.cache import CorruptEntry, TensorCache, identity
from rollout_studio.core.data.transform import apply, crop_for
from rollout_studio.core.findings import format_findings

FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "AVIF": "avif"}


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """A smooth picture without any symmetry."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def put(folder: Path, name: str, content: Image.Image | bytes | str = b"") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Image.Image):
        content = encoded(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def data_of(folder: Path | None, **flat):
    flat = {"instance_prompt": "a dog", "resolution": 64, **flat}
    return config_from_flat({"instance_data_dir": None if folder is None else str(folder), **flat}).data


def codes(scanned) -> Counter:
    return Counter(problem.code for problem in scanned.problems)


def one(scanned, code: str):
    """The one finding of a kind."""
    (found,) = [problem for problem in scanned.problems if problem.code == code]
    return found


# Pictures ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_every_allowed_format_is_read(format):
    picture = noise()
    data = encoded(picture, format, **({"quality": 95} if format != "PNG" else {}))
    found = pictures.inspect(data)
    assert (found.width, found.height, found.remark) == (40, 30, "")
    difference = np.abs(np.asarray(pictures.decode(data)).astype(int) - np.asarray(picture)).mean()
    assert difference < (1e-9 if format in ("PNG", "BMP") else 12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_was_held(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(), "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(pictures.decode(data)), np.asarray(expected))
    found = pictures.inspect(data)
    assert (found.width, found.height) == expected.size


def test_metadata_is_dropped():
    exif = Image.Exif()
    exif[0x010F] = "camera"
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "secret")
    bare = pictures.decode(encoded(noise(), "PNG", exif=exif, pnginfo=text, icc_profile=b"x" * 300))
    assert bare.info == {} and not dict(bare.getexif())


def test_unreadable_exif_costs_the_orientation_not_the_picture(monkeypatch):
    def broken(self):
        raise SyntaxError("not a TIFF file")

    data = encoded(noise(), "JPEG")
    monkeypatch.setattr(Image.Image, "getexif", broken)
    found = pictures.inspect(data)
    assert (found.width, found.height) == (40, 30) and "EXIF" in found.remark


def paletted_with_hole() -> bytes:
    image = Image.new("P", (8, 4), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.paste(1, (4, 0, 8, 4))
    return encoded(image, transparency=0)


@pytest.mark.parametrize(
    ("data", "left", "right"),
    [
        pytest.param(lambda: encoded(Image.new("RGBA", (8, 4), (255, 0, 0, 0))), (255,) * 3, (255,) * 3, id="transparent"),
        pytest.param(lambda: encoded(Image.new("RGBA", (8, 4), (0, 0, 0, 51))), (204,) * 3, (204,) * 3, id="a fifth of black"),
        pytest.param(lambda: encoded(Image.new("LA", (8, 4), (0, 0))), (255,) * 3, (255,) * 3, id="grey with alpha"),
        pytest.param(paletted_with_hole, (255,) * 3, (200, 0, 0), id="palette with a transparent colour"),
        pytest.param(lambda: encoded(Image.new("RGB", (8, 4), (1, 2, 3)), transparency=(1, 2, 3)), (255,) * 3, (255,) * 3, id="colour key"),
        pytest.param(lambda: encoded(Image.fromarray(np.full((4, 8), 0x8080, np.uint16))), (128,) * 3, (128,) * 3, id="16-bit grey"),
        pytest.param(lambda: encoded(Image.fromarray(np.full((4, 8), 65535, np.uint16))), (255,) * 3, (255,) * 3, id="16-bit white"),
        pytest.param(lambda: encoded(Image.new("1", (8, 4), 1)), (255,) * 3, (255,) * 3, id="1 bit"),
        pytest.param(lambda: encoded(Image.new("L", (8, 4), 77)), (77,) * 3, (77,) * 3, id="grey"),
        pytest.param(lambda: encoded(Image.new("CMYK", (8, 4), (0, 255, 255, 0)), "JPEG"), (254, 0, 0), (254, 0, 0), id="CMYK"),
    ],
)  # fmt: skip
def test_every_kind_of_pixel_becomes_rgb_on_white(data, left, right):
    pixels = np.asarray(pictures.decode(data())).astype(int)
    assert pixels.shape == (4, 8, 3)
    assert np.abs(pixels[1, 1] - left).max() <= 1 and np.abs(pixels[1, 6] - right).max() <= 1


@pytest.mark.parametrize("format", ["WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(format):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(first, format, save_all=True, append_images=[second], duration=100, **options)
    assert tuple(np.asarray(pictures.decode(data))[4, 4]) == (255, 0, 0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def wrong_checksum() -> bytes:
    data = bytearray(encoded(noise()))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


BAD = {
    "empty": (lambda: b"", "empty (0 bytes)"),
    "zeros": (lambda: bytes(1000), "zero bytes only"),
    "a web page": (lambda: b"\n<!DOCTYPE html><html>404</html>", "web page (HTML)"),
    "an SVG": (lambda: b'<?xml version="1.0"?><svg></svg>', "SVG"),
    "text": (lambda: b"hello", "not a picture of a known format"),
    "git-lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs pointer"),
    "a GIF": (lambda: encoded(noise(), "GIF"), "GIF"),
    "a TIFF": (lambda: encoded(noise(), "TIFF"), "TIFF"),
    "a PSD": (lambda: b"8BPS" + bytes(100), "PSD"),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"),
    "cut PNG": (lambda: encoded(noise())[:-60], "broken or cut off"),
    "cut JPEG": (lambda: encoded(noise(400, 300), "JPEG")[:-100], "broken or cut off"),
    "cut WEBP": (lambda: encoded(noise(), "WEBP")[:-60], "broken or cut off"),
    "cut BMP": (lambda: encoded(noise(), "BMP")[:-60], "broken or cut off"),
    "cut AVIF": (lambda: encoded(noise(), "AVIF")[:-60], "broken or cut off"),
    "wrong checksum": (wrong_checksum, "broken or cut off"),
    "9000 x 9000": (lambda: png(9000, 9000), "81 Mpx, more than 64 Mpx"),
    "20000 x 20000": (lambda: png(20000, 20000), "more than 64 Mpx"),
    "text bomb": (lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20 << 20)))), "broken or cut off"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_sound_picture_is_refused_with_its_reason(kind):
    make, reason = BAD[kind]
    with pytest.raises(pictures.BadPicture) as refused:
        pictures.inspect(make())
    assert reason in refused.value.message and refused.value.remedy


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_picture_or_a_reason_never_a_crash(format):
    sound, rng = encoded(noise(16, 12), format), np.random.default_rng(1)
    for _ in range(120):
        data = bytearray(sound)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        try:
            pictures.decode(bytes(data[: rng.integers(1, len(data) + 1)]))
        except pictures.BadPicture as bad:
            assert bad.message and bad.remedy


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
def test_a_pipe_named_like_a_picture_does_not_hang_the_scan(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    put(tmp_path, "c.png", noise(64, 64))
    found = scan(data_of(tmp_path))
    assert [item.name for item in found.items] == ["c.png"] and codes(found)["picture-bad"] == 2


# Captions ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "remark"),
    [
        ("Café “à côté”".encode(), False),
        ("Café “à côté”".encode("utf-8-sig"), False),
        ("Café “à côté”".encode("utf-16"), False),
        (b"\xfe\xff" + "Café “à côté”".encode("utf-16-be"), False),
        ("Café “à côté”".encode("utf-32"), False),
        ("Café “à côté”".encode("cp1252"), True),
    ],
)
def test_captions_are_read_in_the_usual_encodings_and_a_guess_is_reported(data, remark):
    text, said = captions.decode(data)
    assert text == "Café “à côté”" and ("Latin-1" in said) == remark


@pytest.mark.parametrize(
    "data", [b"a\0b", b"x" * (captions.MAX_BYTES + 1), b"\xff\xfea"], ids=["zero byte", "too long", "half a UTF-16"]
)
def test_what_is_no_caption_is_refused(data):
    with pytest.raises(captions.BadCaption):
        captions.decode(data)


def test_a_caption_is_one_line_without_control_characters():
    assert captions.decode(b" a red\r\ndog\t on\x1b[31m grass \n")[0] == "a red dog on [31m grass"


@pytest.mark.parametrize(
    ("caption", "trigger", "expected"),
    [
        ("a dog", "sks", "sks, a dog"),
        ("a SKS dog", "sks", "a SKS dog"),
        ("a dog (sks)", "sks", "a dog (sks)"),
        ("risks everywhere", "sks", "sks, risks everywhere"),
        ("a <zwx> dog", "<zwx>", "a <zwx> dog"),
        ("a dog", " ", "a dog"),
        ("a dog", None, "a dog"),
    ],
)
def test_the_trigger_word_is_put_in_front_where_it_is_missing(caption, trigger, expected):
    assert captions.with_trigger(caption, trigger) == expected


# Shapes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resolution", "step"), [(64, 64), (64, 8), (256, 64), (512, 64), (512, 8), (1024, 64), (1024, 128), (32, 64)]
)
def test_buckets_hold_about_the_area_never_more_and_suit_every_model(resolution, step):
    sizes = bucket_sizes(resolution, step)
    assert (resolution, resolution) in sizes
    assert set(sizes) == {(height, width) for width, height in sizes}, "every portrait has its landscape"
    for width, height in sizes:
        assert width * height <= resolution**2
        assert width % 16 == 0 and height % 16 == 0
        assert (width, height) == (resolution,) * 2 or min(width, height) % effective_step(resolution, step) == 0
        assert max(width, height) <= 2 * resolution
    assert len(sizes) >= 3


def test_a_small_resolution_has_a_step_of_its_own():
    assert [effective_step(resolution, 64) for resolution in (32, 64, 128, 256, 512)] == [16, 16, 32, 64, 64]
    assert (48, 80) in bucket_sizes(64, 64)


def test_a_resolution_between_two_latent_cells_is_refused():
    with pytest.raises(ValueError, match="multiple of 16 px; the nearest are 496 and 512"):
        bucket_sizes(500, 64)


@pytest.mark.parametrize(
    ("width", "height"), [(4000, 3000), (3000, 4000), (500, 500), (6000, 1000), (1, 5000), (1920, 1080)]
)
def test_a_picture_gets_the_bucket_of_nearest_aspect(width, height):
    sizes = bucket_sizes(512, 64)
    chosen = choose(width, height, sizes)
    aspect = math.log(width / height)
    assert abs(math.log(chosen[0] / chosen[1]) - aspect) == min(abs(math.log(w / h) - aspect) for w, h in sizes)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("width", "height"), [(4000, 3000), (37, 91), (1, 5000), (5000, 1), (64, 64)])
def test_a_crop_is_the_largest_part_of_the_buckets_shape(width, height, center):
    crop = crop_for(width, height, (80, 48), center=center, digest="ab")
    cut_width, cut_height = crop.right - crop.left, crop.bottom - crop.top
    assert 0 <= crop.left < crop.right <= width and 0 <= crop.top < crop.bottom <= height
    assert cut_width / cut_height == pytest.approx(80 / 48)
    assert math.isclose(cut_width, width) or math.isclose(cut_height, height)
    assert apply(noise(width, height), crop).shape == (48, 80, 3)
    if center:
        assert crop.left == pytest.approx(width - crop.right, abs=1e-9)


def test_a_picture_has_one_crop_drawn_from_its_content():
    crops = {crop_for(400, 100, (64, 64), center=False, digest=digest).left for digest in ("a", "b", "c", "a")}
    assert len(crops) == 3 and all(0 <= left <= 300 for left in crops)


def test_the_pixels_are_pillows_lanczos_of_the_cut_and_a_flip_mirrors_them():
    picture = noise(90, 60)
    crop = crop_for(90, 60, (32, 32), center=True, digest="")
    expected = np.asarray(picture.crop((15, 0, 75, 60)).resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
    pixels = apply(picture, crop)
    assert np.abs(pixels.astype(int) - expected)[:, 4:-4].max() <= 1  # at the cut Lanczos sees what lies beyond it
    assert np.array_equal(apply(picture, crop, flip=True), pixels[:, ::-1])


# The scan ----------------------------------------------------------------------------------------------------------------


def test_a_folder_full_of_trouble_is_reported_completely_and_its_sound_pictures_remain(tmp_path):
    put(tmp_path, "good.jpg", encoded(noise(200, 150), "JPEG"))
    put(tmp_path, "good.txt", "a sks dog")
    put(tmp_path, "also good.PNG", noise(120, 200, seed=1))
    put(tmp_path, "twin.png", noise(120, 200, seed=1))
    put(tmp_path, "twin.webp", encoded(noise(99, 99, seed=2), "WEBP"))
    put(tmp_path, "twin.txt", "one of two")
    put(tmp_path, "small.png", noise(20, 20, seed=3))
    put(tmp_path, "panorama.png", noise(2000, 100, seed=4))
    put(tmp_path, "broken.png", encoded(noise(seed=5))[:-60])
    put(tmp_path, "broken.txt", "its picture is broken, but it has one")
    put(tmp_path, "empty.png")
    put(tmp_path, "photo.heic", b"x")
    put(tmp_path, "orphan.txt", "no picture")
    put(tmp_path, "good.jpg.txt", "wrongly named")
    put(tmp_path, "latin.png", noise(80, 80, seed=6))
    put(tmp_path, "latin.txt", "caf\u00e9".encode("latin-1"))
    put(tmp_path, "more/inside.png", noise())
    put(tmp_path, "._good.jpg", b"macOS")
    put(tmp_path, "notes.docx", b"x")
    found = scan(data_of(tmp_path, trigger_word="sks"))
    assert codes(found) == {
        "picture-bad": 3, "picture-small": 1, "picture-cropped": 1, "duplicate-picture": 1, "duplicate-stem": 1, "caption-orphan": 2,
        "caption-encoding": 1, "sub-folder": 1, "other-files": 1, "caption-default": 1, "trigger-inserted": 1, "picture-blurred": 5,
    }  # fmt: skip
    assert not found.errors
    assert all(problem.remedy for problem in found.problems if problem.level != "note")
    assert {item.name: item.caption for item in found.items} == {
        "also good.PNG": "sks, a dog",
        "good.jpg": "a sks dog",
        "latin.png": "sks, café",
        "panorama.png": "sks, a dog",
        "small.png": "sks, a dog",
        "twin.png": "sks, one of two",
        "twin.webp": "sks, one of two",
    }
    assert "Rename it to good.txt" in " ".join(problem.remedy for problem in found.problems)


def test_a_picture_without_any_caption_stops_the_run(tmp_path):
    put(tmp_path, "a.png", noise(64, 64))
    found = scan(data_of(tmp_path, instance_prompt=None))
    assert found.items == () and one(found, "caption-missing").level == "error"
    assert "a.txt" in one(found, "caption-missing").remedy
    assert scan(data_of(tmp_path)).items[0].caption == "a dog"


@pytest.mark.parametrize("content", [b"", b"  \n", b"a\0b"])
def test_an_empty_or_broken_caption_counts_as_none_and_is_reported(tmp_path, content):
    put(tmp_path, "a.png", noise(64, 64))
    put(tmp_path, "a.txt", content)
    found = scan(data_of(tmp_path))
    assert found.items[0].caption == "a dog" and {"caption-empty", "caption-bad"} & set(codes(found))


def test_each_caption_strategy_takes_its_own_source(tmp_path):
    put(tmp_path, "red_dog.png", noise(64, 64))
    put(tmp_path, "red_dog.txt", "from the file")
    got = {
        each: scan(data_of(tmp_path, caption_strategy=each)).items[0].caption
        for each in ("textfile", "instanceprompt", "filename")
    }
    assert got == {"textfile": "from the file", "instanceprompt": "a dog", "filename": "red dog"}


def test_missing_empty_and_misplaced_folders_are_distinguished(tmp_path):
    assert "no folder with pictures is given" in scan(data_of(None)).errors[0].message
    assert "does not exist" in scan(data_of(tmp_path / "no")).errors[0].message
    assert "is a file" in scan(data_of(put(tmp_path, "file"))).errors[0].message
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "there are no pictures" in scan(data_of(empty)).errors[0].message
    put(empty, "inner/a.png", noise())
    assert f"Point instance_data_dir at {empty / 'inner'}" in scan(data_of(empty)).errors[0].remedy
    put(empty, "b.png")
    assert "no picture in" in scan(data_of(empty)).errors[0].message


def test_a_changed_picture_is_looked_at_again(tmp_path):
    path = put(tmp_path, "a.png", noise(64, 64))
    before = scan(data_of(tmp_path)).items[0].digest
    put(tmp_path, "a.png", noise(64, 64, seed=1))
    os.utime(path, ns=(1, 1))
    assert scan(data_of(tmp_path)).items[0].digest != before
    put(tmp_path, "a.png")
    assert "empty (0 bytes)" in one(scan(data_of(tmp_path)), "picture-bad").message


def test_class_pictures_need_a_prompt_and_a_folder_of_their_own(tmp_path):
    put(tmp_path, "a/a.png", noise(64, 64))
    put(tmp_path, "b/b.png", noise(64, 64, seed=1))
    put(tmp_path, "b/same.png", noise(64, 64))
    prior = {"with_prior_preservation": True, "class_prompt": "a dog", "trigger_word": "sks"}
    found = scan(data_of(tmp_path / "a", class_data_dir=str(tmp_path / "b"), **prior))
    assert [item.caption for item in found.class_items] == ["a dog", "a dog"], "without the trigger word"
    assert "same.png" in one(found, "class-overlap").where
    assert (
        scan(data_of(tmp_path / "a", class_data_dir=str(tmp_path / "a"), **prior)).errors[0].code == "class-folder-same"
    )
    assert not scan(data_of(tmp_path / "a", class_data_dir=str(tmp_path / "new"), **prior)).errors, (
        "it will be generated"
    )


def test_progress_is_reported_so_many_times_a_second_however_much_there_is_and_always_at_the_end(monkeypatch):
    """It is also where a stop takes effect: neither a hundredth of a large set nor every single picture."""
    clock, calls = iter(step / 32 for step in range(1000)), []
    monkeypatch.setattr(progress, "REPORT_EVERY_S", 0.25)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    report = progress.throttled(lambda *now: calls.append(now))
    for done in range(1, 101):
        report("latents", done, 100)
    report("captions", 1, 1)
    assert calls == [("latents", done, 100) for done in (*range(1, 101, 8), 100)] + [("captions", 1, 1)]
    progress.throttled(None)("latents", 1, 1)


def test_many_files_are_scanned_with_progress_and_reported_briefly(tmp_path):
    data = encoded(noise(64, 64))
    for i in range(500):
        put(tmp_path, f"{i}.png", data if i % 2 else b"")
    reported = []
    found = scan(data_of(tmp_path), lambda *progress: reported.append(progress))
    assert len(found.items) == 250 and reported[-1] == ("pictures", 500, 500)
    assert [done for _, done, _ in reported] == sorted({done for _, done, _ in reported})
    text = format_findings(found.problems)
    assert "... and 242 more of this kind." in text and text.count("\n") < 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_files_end(tmp_path):
    data = encoded(noise(64, 64))
    for i in range(100_000):
        (tmp_path / f"{i}.png").write_bytes(data if i % 2 else b"\x89PNG")
    found = scan(data_of(tmp_path))
    assert len(found.items) == 50_000 and codes(found)["picture-bad"] == 50_000


def test_scan_and_preflight_start_without_torch():
    code = (
        "import sys, rollout_studio.core.before.preflight, rollout_studio.core.data; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# Held out ----------------------------------------------------------------------------------------------------------------


def folder_of(folder: Path, number: int, **size) -> Path:
    for i in range(number):
        put(folder, f"{i}.png", noise(**({"width": 64, "height": 64} | size), seed=i))
    return folder


@pytest.mark.parametrize(("pictures_there", "wanted", "held"), [(2, 1, 0), (3, 1, 1), (5, 2, 2), (5, 9, 3), (5, 0, 0)])
def test_held_out_pictures_are_not_trained_on_and_two_always_remain(tmp_path, pictures_there, wanted, held):
    config = config_from_flat({"instance_data_dir": str(folder_of(tmp_path, pictures_there)), "instance_prompt": "a dog", "resolution": 64,
                               "drift_holdout_images": wanted})  # fmt: skip
    found = scan(config.data)
    train, probe = split_holdout(found, config.drift)
    assert len(probe) == held and sorted((*train, *probe), key=lambda item: item.name) == list(found.items)


def test_a_copy_of_a_held_out_picture_is_not_trained_on_either(tmp_path):
    folder_of(tmp_path, 4)
    for i in range(4):
        put(tmp_path, f"copy {i}.png", noise(64, 64, seed=i))
    config = config_from_flat({"instance_data_dir": str(tmp_path), "instance_prompt": "a dog", "resolution": 64})
    train, probe = split_holdout(scan(config.data), config.drift)
    assert len(probe) == 1 and len(train) == 6 and probe[0].digest not in {item.digest for item in train}


def test_the_choice_follows_the_content_not_the_names(tmp_path):
    config = config_from_flat(
        {"instance_data_dir": str(folder_of(tmp_path, 5)), "instance_prompt": "a dog", "resolution": 64}
    )
    before = split_holdout(scan(config.data), config.drift)[1][0]
    for i in range(5):
        (tmp_path / f"{i}.png").rename(tmp_path / f"renamed {9 - i}.png")
    assert split_holdout(scan(config.data), config.drift)[1][0].digest == before.digest


def test_a_probe_folder_holds_nothing_out(tmp_path):
    config = config_from_flat({"instance_data_dir": str(folder_of(tmp_path / "a", 4)), "drift_data_dir": str(folder_of(tmp_path / "b", 2)),
                               "instance_prompt": "a dog", "resolution": 64})  # fmt: skip
    assert split_holdout(scan(config.data), config.drift) == (scan(config.data).items, ())
    assert len(scan_probe(config.data, config.drift)[0]) == 2


# Which rows --------------------------------------------------------------------------------------------------------------

SHAPES = [(64, 64)] * 5 + [(48, 80)] * 3 + [(80, 48)]


@pytest.mark.parametrize(("batch_size", "repeats"), [(1, 1), (2, 1), (2, 3), (4, 1), (16, 2)])
def test_an_epoch_shows_every_row_as_often_as_configured_in_whole_batches_of_one_shape(batch_size, repeats):
    schedule = Schedule(SHAPES, repeats=repeats, batch_size=batch_size, seed=1)
    for epoch in range(3):
        first = epoch * schedule.batches_per_epoch
        batches = [schedule.rows(first + i) for i in range(schedule.batches_per_epoch)]
        assert all(len(batch) == batch_size and len({SHAPES[row] for row in batch}) == 1 for batch in batches)
        shown = Counter(row for batch in batches for row in batch)
        for shape in set(SHAPES):
            of_shape = [shown[row] for row in range(len(SHAPES)) if SHAPES[row] == shape]
            filled = -len(of_shape) * repeats % batch_size  # rows that fill the last batch up
            assert sum(of_shape) == len(of_shape) * repeats + filled and min(of_shape) >= repeats
            assert max(of_shape) - min(of_shape) <= math.ceil(filled / len(of_shape)) + (repeats > 1)


def test_which_rows_come_depends_on_seed_and_number_alone():
    one_way, other_way = (Schedule(SHAPES, repeats=2, batch_size=2, seed=3) for _ in range(2))
    forward = [one_way.rows(number) for number in range(40)]
    torch.rand(5)  # nobody's business
    assert [other_way.rows(number) for number in reversed(range(40))][::-1] == forward
    assert [Schedule(SHAPES, repeats=2, batch_size=2, seed=4).rows(number) for number in range(40)] != forward
    assert forward[: one_way.batches_per_epoch] != forward[one_way.batches_per_epoch : 2 * one_way.batches_per_epoch]


def test_class_rows_go_round_and_round():
    carousel = Carousel(5, batch_size=3, seed=0)
    rows = [row for number in range(10) for row in carousel.rows(number)]
    assert all(sorted(rows[first : first + 5]) == list(range(5)) for first in range(0, 30, 5))
    assert Carousel(5, batch_size=3, seed=0).rows(7) == rows[21:24]
    assert len({tuple(rows[first : first + 5]) for first in range(0, 30, 5)}) > 1


# Prepared, with a real model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tiny_folder):
    from rollout_studio.core.families import load_model

    return load_model(
        config_from_flat({"pretrained_model_name_or_path": str(tiny_folder("lumina2")), "device": "cpu"}).model
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six pictures of two shapes, each with its caption."""
    folder = tmp_path / "pictures"
    for i in range(6):
        put(folder, f"{i}.png", noise(90 if i < 4 else 50, 90, seed=i))
        put(folder, f"{i}.txt", f"sks number {i}")
    return folder


@pytest.fixture
def config_with(folder, model):
    def make(**changes):
        flat = {"pretrained_model_name_or_path": model.source.location, "instance_data_dir": str(folder), "resolution": 32,
                "train_batch_size": 2, "drift_holdout_images": 0}  # fmt: skip
        return config_from_flat(flat | changes)

    return make


@pytest.fixture
def ready(model, config_with, tmp_path):
    """A config's changes -> prepared in the test's own cache."""

    def make(cache: str = "cache", **changes):
        config = config_with(**changes)
        return prepare(model, config, scan(config.data), tmp_path / cache)

    return make


@pytest.fixture
def encodings(model, monkeypatch) -> Counter:
    """How often the model encoded pictures and prompts."""
    count = Counter()
    images, prompts = model.encode_images, model.encode_prompts
    monkeypatch.setattr(model, "encode_images", lambda *a: (count.update(images=1), images(*a))[1])
    monkeypatch.setattr(
        model, "encode_prompts", lambda texts, **k: (count.update(prompts=len(texts)), prompts(texts, **k))[1]
    )
    return count


def assert_same(one, other):
    assert torch.equal(one.latents, other.latents) and one.ids == other.ids and one.captions == other.captions
    assert torch.equal(one.is_class, other.is_class) and one.flipped == other.flipped
    assert one.conditioning.keys() == other.conditioning.keys()
    assert all(torch.equal(one.conditioning[key], other.conditioning[key]) for key in one.conditioning)


def test_latents_are_what_the_model_makes_of_the_cropped_picture(model, ready, folder):
    prepared = ready(center_crop=True, random_flip=True)
    (seen,) = {size for item in prepared.items for size in [item.bucket] if item.name == "0.png"}
    picture = np.asarray(Image.open(folder / "0.png").resize(seen, Image.Resampling.LANCZOS))
    for flip in (False, True):
        pixels = torch.tensor(picture[:, ::-1].copy() if flip else picture.copy()).permute(2, 0, 1)[None] / 127.5 - 1
        row = prepared.rows[0]
        stored = prepared.latents.get(row.flipped if flip else row.latents)["latents"]
        assert torch.allclose(stored, model.encode_images(pixels, None)[0], atol=1e-4)


@pytest.mark.parametrize(("small", "threads"), [(1e12, 1), (0, 2)], ids=["little work", "much work"])
def test_a_picture_of_little_work_is_encoded_on_one_thread(model, ready, monkeypatch, small, threads):
    """Beside the threads that decode, sharing little work and waking the others takes longer than the work."""
    seen, encode, before = [], model.encode_images, torch.get_num_threads()
    monkeypatch.setattr(model, "encode_images", lambda *a: (seen.append(torch.get_num_threads()), encode(*a))[1])
    monkeypatch.setattr(preparing, "SMALL_WORK", small, raising=False)
    torch.set_num_threads(2)
    try:
        ready()
        assert set(seen) == {threads} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def call_sizes(model, monkeypatch):
    """How many pictures each call of the autoencoder got; `call_sizes.most`: what the memory holds."""
    encode = model.encode_images

    class Sizes(list):
        most = 100

    sizes = Sizes()

    def limited(pixels, *rest):
        sizes.append(len(pixels))
        if len(pixels) > sizes.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(pixels, *rest)

    monkeypatch.setattr(model, "encode_images", limited)
    return sizes


def all_latents(prepared):
    return {row.latents: prepared.latents.get(row.latents)["latents"] for row in prepared.rows}


def test_pictures_of_one_size_are_encoded_together_under_the_same_keys_to_the_same_latents(
    ready, monkeypatch, call_sizes
):
    """Four of one size and two of another, three at a time; where the memory does not hold them, one by one, to the bit."""
    alone = all_latents(ready("alone"))
    assert call_sizes == [1] * 6, "on a CPU"
    monkeypatch.setattr(preparing, "pictures_at_once", lambda device, size: 3)
    call_sizes.clear()
    together = all_latents(ready("together"))
    assert sorted(call_sizes) == [1, 2, 3]
    call_sizes.clear()
    call_sizes.most = 1
    halved = all_latents(ready("halved"))
    assert sum(size for size in call_sizes if size == 1) == 6 and len(call_sizes) <= 8
    assert alone.keys() == together.keys() == halved.keys()
    for key, latents in alone.items():
        torch.testing.assert_close(together[key], latents, atol=1e-5, rtol=0)
        assert torch.equal(halved[key], latents)


@pytest.mark.parametrize(
    ("device", "side", "number"), [("cpu", 64, 1), ("cuda", 64, 8), ("cuda", 512, 4), ("mps", 768, 1), ("cuda", 1024, 1), ("cuda", 2048, 1)]
)  # fmt: skip
def test_no_more_pixels_are_encoded_together_than_one_large_picture_has(device, side, number):
    assert preparing.pictures_at_once(device, (side, side)) == number


def test_a_batch_is_of_one_shape_and_each_row_has_its_own_caption(ready):
    prepared = ready()
    assert bucket_counts(prepared.items) == {(32, 32): 4, (16, 64): 2} or len(bucket_counts(prepared.items)) == 2
    for step in range(12):
        batch = prepared.batch(step)
        assert batch.latents.shape[:2] == (2, 4) and batch.latents.dtype == torch.float32 and not batch.is_class.any()
        assert batch.captions == [f"sks number {name[0]}" for name in batch.ids]
        expected = prepared.model.collate(prepared.model.encode_prompts(batch.captions))
        assert all(torch.equal(batch.conditioning[key], expected[key]) for key in expected)


def test_a_row_reports_what_was_cut_out_of_its_picture_and_a_mirrored_one_the_mirrored_cut(ready):
    """A 90 x 90 picture cut at a place of its own, brought to 32 x 32: the corners of the two are as far from opposite edges."""
    prepared = ready(random_flip=True)
    for item, row in zip(prepared.items, prepared.rows, strict=True):
        width, height = item.bucket
        plain, mirrored = row.frames
        assert plain.original == mirrored.original == (item.height, item.width) and plain.size == mirrored.size == (
            height,
            width,
        )
        scaled = round(item.width * max(width / item.width, height / item.height))
        assert plain.corner[0] == mirrored.corner[0] and abs(plain.corner[1] + mirrored.corner[1] + width - scaled) <= 1
    asked = []
    prepared.model = SimpleNamespace(
        device="cpu", collate=lambda prompts: prompts, framed=lambda cond, frames: asked.append(frames)
    )
    batch = prepared.batch(0)
    rows = {row.name: row for row in prepared.rows}
    assert asked == [[rows[name].frames[flip] for name, flip in zip(batch.ids, batch.flipped, strict=True)]]


def test_a_batch_is_a_function_of_seed_and_step_so_resuming_needs_no_state(ready):
    changes = {"random_flip": True, "caption_dropout_probability": 0.4, "gradient_accumulation_steps": 2}
    prepared = ready(**changes)
    through = [prepared.batch(step, micro) for step in range(6) for micro in range(2)]
    torch.manual_seed(77)
    again = ready(cache="another", **changes)
    assert_same(again.batch(4, 1), through[9])
    assert_same(again.batch(0, 0), through[0])
    other = ready(**changes, seed=7)
    assert [other.batch(step).ids for step in range(6)] != [through[2 * step].ids for step in range(6)]


def test_drawing_a_batch_leaves_the_global_random_state_alone(ready):
    prepared = ready(random_flip=True, caption_dropout_probability=0.5)
    state = torch.get_rng_state()
    prepared.batch(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_steps_that_do_not_exist_are_refused(ready):
    prepared = ready(gradient_accumulation_steps=2)
    for step, micro in ((-1, 0), (0, 2), (0, -1)):
        with pytest.raises(ValueError, match="micro-steps from 0 to 1"):
            prepared.batch(step, micro)


def test_accumulation_goes_through_the_same_batches_as_single_steps(ready):
    single, double = ready(), ready(gradient_accumulation_steps=2)
    assert [double.batch(step, micro).ids for step in range(4) for micro in range(2)] == [
        single.batch(step).ids for step in range(8)
    ]


def test_a_dropped_caption_is_the_models_own_unconditional_and_changes_no_other_draw(model, ready):
    plain, dropping, all_dropped = (ready(caption_dropout_probability=p) for p in (0.0, 0.5, 1.0))
    dropped = 0
    for step in range(10):
        batch = dropping.batch(step)
        assert batch.ids == plain.batch(step).ids
        dropped += batch.captions.count("")
        encoded = [model.encode_prompts([text])[0] if text else model.unconditional() for text in batch.captions]
        expected = model.collate(encoded)
        assert all(torch.equal(batch.conditioning[key], expected[key]) for key in expected)
    assert 3 < dropped < 17
    assert all_dropped.batch(0).captions == ["", ""]


def test_half_of_the_rows_are_mirrored_and_come_from_the_mirrored_picture(ready):
    plain, flipping = ready(), ready(random_flip=True)
    flipped = 0
    for step in range(20):
        batch, upright = flipping.batch(step), plain.batch(step)
        assert batch.ids == upright.ids
        for row, flip in enumerate(batch.flipped):
            flipped += flip
            assert torch.equal(batch.latents[row], upright.latents[row]) != flip
    assert 10 < flipped < 30


def test_a_second_run_encodes_nothing_and_trains_on_the_same_bits(ready, encodings):
    first = ready(random_flip=True)  # six captions, and the empty negative prompt
    assert encodings == {"images": 12, "prompts": 7} and first.counts.made == 19
    second = ready(random_flip=True)
    assert encodings == {"images": 12, "prompts": 7} and (second.counts.reused, second.counts.made) == (19, 0)
    for step in range(4):
        assert_same(first.batch(step), second.batch(step))


def test_only_what_changed_is_made_again(model, ready, folder, encodings):
    ready()
    put(folder, "0.txt", "another sks")
    ready()
    assert encodings == {"images": 6, "prompts": 8}
    put(folder, "1.png", noise(90, 90, seed=50))
    ready()
    assert encodings == {"images": 7, "prompts": 8}
    ready(resolution=64)
    assert encodings == {"images": 13, "prompts": 8}


def test_latents_of_another_vae_are_not_served_from_the_cache(model, ready, encodings):
    ready()
    weight = next(iter(model.vae.parameters()))
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(1.01)
        ready()
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert encodings == {"images": 12, "prompts": 7}


def test_the_identity_of_a_network_is_its_content(tiny_folder, model):
    from diffusers import AutoencoderKL

    fresh = AutoencoderKL.from_pretrained(tiny_folder("lumina2") / "vae")
    assert identity(fresh) == identity(model.vae)
    fresh.register_to_config(scaling_factor=0.7)
    assert identity(fresh) != identity(model.vae)


def cut(data: bytes) -> bytes:
    return data[:-100]


def flip_byte(data: bytes) -> bytes:
    place = len(data) - 9
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def flip_header(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


def other_entry(data: bytes) -> bytes:
    import safetensors.torch

    return safetensors.torch.save({"latents": torch.ones(4, 8, 8)}, metadata={"key": "0" * 64, "sha256": "0" * 64})


@pytest.mark.parametrize(
    "damage", [cut, flip_byte, flip_header, other_entry, lambda data: b"", lambda data: bytes(len(data))]
)
def test_a_damaged_cache_is_noticed_reported_and_made_again_to_the_same_bits(ready, tmp_path, damage):
    first = ready()
    for kind in ("latents", "text"):
        path = min((tmp_path / "cache" / kind).glob("*/*.safetensors"))
        path.write_bytes(damage(path.read_bytes()))
    second = ready()
    assert second.counts.rebuilt == 2 and [problem.code for problem in second.problems] == ["cache-damaged"] * 2
    for step in range(4):
        assert_same(first.batch(step), second.batch(step))
    assert ready().counts.rebuilt == 0


def test_values_that_are_not_finite_never_leave_the_cache(tmp_path):
    cache = TensorCache(tmp_path, "latents")
    cache.write("0" * 64, {"latents": torch.full((2, 3), torch.nan)})
    with pytest.raises(CorruptEntry, match="not finite"):
        cache.read("0" * 64)


def test_entries_keep_every_format_and_shape(tmp_path):
    cache = TensorCache(tmp_path, "text")
    tensors = {
        "a": torch.randn(2, 3).bfloat16(),
        "b": torch.tensor([True, False]),
        "c": torch.tensor(3),
        "d": torch.randn(4, 5).T,
    }
    cache.write("1" * 64, tensors)
    back = cache.read("1" * 64)
    assert back.keys() == tensors.keys() and all(
        torch.equal(back[key], tensors[key]) and back[key].dtype == tensors[key].dtype for key in back
    )
    assert cache.read("2" * 64) is None


def test_two_runs_may_write_one_cache_and_readers_never_see_a_torn_entry(tmp_path):
    key, tensors, torn = "3" * 64, {"latents": torch.randn(16, 32, 32)}, []
    stop = threading.Event()

    def write():
        for _ in range(50):
            TensorCache(tmp_path, "latents").write(key, tensors)

    def read():
        while not stop.is_set():
            try:
                TensorCache(tmp_path, "latents").read(key)
            except CorruptEntry as error:
                torn.append(error)

    reader, writers = threading.Thread(target=read), [threading.Thread(target=write) for _ in range(3)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert not torn and [path.suffix for path in (tmp_path / "latents" / "33").iterdir()] == [".safetensors"]


def test_leftovers_of_killed_runs_are_swept_but_not_those_of_live_ones(ready, tmp_path):
    ready()
    old, young = (put(tmp_path, f"cache/latents/00/.x.{name}.partial", b"torso") for name in ("old", "young"))
    os.utime(old, (1, 1))
    ready()
    assert not old.exists() and young.exists()


def test_a_full_disk_is_reported_and_leaves_no_torso(ready, tmp_path, monkeypatch):
    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DatasetError, match="is full. Free some space"):
        ready()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_next_run_encodes_the_part_that_is_kept_of_a_picture_and_only_that_anew(
    ready, folder, encodings, model, monkeypatch
):
    half = Image.new("RGB", (90, 90), "red")
    half.paste("blue", (40, 0, 90, 90))
    put(folder, "0.png", half)
    ready()
    assert encodings["images"] == 6
    write_cut(folder / "0.png", Cut(45, 0, 90, 90), 90, 90)
    seen, encode = [], model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda pixels, *a: (seen.append(pixels), encode(pixels, *a))[1])
    ready()
    assert len(seen) == 1 and encodings["images"] == 7
    assert seen[0].shape[-2] > seen[0].shape[-1], "the bucket of the part"
    assert seen[0][0, 0].max() < -0.9 and seen[0][0, 2].min() > 0.9, "blue alone"


def test_a_picture_that_changes_after_the_scan_stops_the_run(model, config_with, folder, tmp_path):
    config = config_with()
    found = scan(config.data)
    put(folder, "3.png", noise(90, 90, seed=99))
    with pytest.raises(DatasetError, match="3.png changed while"):
        prepare(model, config, found, tmp_path / "cache")


def test_an_entry_lost_during_training_is_named_with_the_remedy(ready, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "MEMORY_BYTES", 0)
    prepared = ready()
    prepared.batch(0)
    for path in (tmp_path / "cache" / "latents").glob("*/*.safetensors"):
        path.unlink()
    with pytest.raises(DatasetError, match="it is gone. Resume the run"):
        prepared.batch(0)
    prepared.read_ahead(0)
    with pytest.raises(DatasetError, match="it is gone. Resume the run"):
        prepared.batch(0)


def test_the_next_step_is_read_on_a_thread_and_is_the_one_that_would_be_read_then(ready, monkeypatch):
    flat = {"random_flip": True, "caption_dropout_probability": 0.5, "gradient_accumulation_steps": 2}
    kept = ready(**flat)
    kept.read_ahead(3)
    assert kept.latents._reader is kept.text._reader is None, "all is in memory"
    monkeypatch.setattr(preparing, "MEMORY_BYTES", 0)
    prepared, readers, read = ready(**flat), [], TensorCache.read
    monkeypatch.setattr(
        TensorCache, "read", lambda self, key: (readers.append(threading.current_thread().name), read(self, key))[1]
    )
    for step in (3, 4, 9):
        prepared.read_ahead(step)
        for micro in range(2):
            assert_same(prepared.batch(step, micro), kept.batch(step, micro))
    assert readers and all(name.startswith("read-ahead") for name in readers)
    prepared.batch(5)
    assert "MainThread" in readers, "what was not announced"


def test_what_does_not_fit_into_memory_is_read_from_the_cache(ready, monkeypatch):
    kept = ready()
    monkeypatch.setattr(preparing, "MEMORY_BYTES", 1500)
    assert_same(ready().batch(5), kept.batch(5))


def test_a_scan_with_errors_is_not_prepared(model, config_with, tmp_path, folder):
    (folder / "0.txt").unlink()
    config = config_with()
    with pytest.raises(DatasetError, match="0.txt"):
        prepare(model, config, scan(config.data), tmp_path / "cache")


def test_held_out_pictures_are_in_the_probe_and_in_no_batch(model, ready):
    prepared = ready(drift_holdout_images=2, drift_num_images=3)
    assert len(prepared.probe.ids) == 2 and prepared.probe.held_out
    assert prepared.probe.latents.shape == (2, 4, prepared.bucket[1] // 4, prepared.bucket[0] // 4)
    assert prepared.probe.captions == [f"sks number {name[0]}" for name in prepared.probe.ids]
    trained = {name for step in range(20) for name in prepared.batch(step).ids}
    assert len(trained) == 4 and not trained & set(prepared.probe.ids)
    assert set(prepared.training_probe.ids) <= trained and not prepared.training_probe.held_out
    expected = model.encode_prompts(prepared.probe.captions)
    assert all(
        torch.equal(got[key], want[key])
        for got, want in zip(prepared.probe.conditioning, expected, strict=True)
        for key in want
    )
    assert ready().probe is None


def test_probe_pictures_can_come_from_a_folder_of_their_own(ready, tmp_path):
    for i in range(3):
        put(tmp_path, f"probe/p{i}.png", noise(70, 40, seed=30 + i))
        put(tmp_path, f"probe/p{i}.txt", "sks elsewhere")
    prepared = ready(drift_data_dir=str(tmp_path / "probe"), drift_num_images=2)
    assert len(prepared.probe.ids) == 2 and len(prepared.items) == 6


# Prior preservation ------------------------------------------------------------------------------------------------------

PRIOR = {"with_prior_preservation": True, "class_prompt": "a thing", "class_sample_steps": 2, "num_class_images": 5}


def test_a_prior_batch_holds_as_many_class_rows_behind_the_instance_rows(ready):
    prepared = ready(**PRIOR)
    assert prepared.counts.generated == 5 and prepared.rows_per_batch == 4
    shown = Counter()
    for step in range(10):
        batch = prepared.batch(step)
        assert batch.is_class.tolist() == [False, False, True, True] and batch.latents.shape[0] == 4
        assert batch.captions[2:] == ["a thing"] * 2 and all(name.startswith("class/") for name in batch.ids[2:])
        assert batch.ids[:2] == ready().batch(step).ids, (
            "the instance rows are those of a run without prior preservation"
        )
        shown.update(batch.ids[2:])
    assert set(shown.values()) == {4}


def test_missing_class_pictures_are_drawn_and_saved_and_none_twice(ready, tmp_path, model, config_with):
    class_folder = tmp_path / "class"
    put(class_folder, "mine.png", noise(64, 64, seed=70))
    reported = []
    config = config_with(**PRIOR, class_data_dir=str(class_folder))
    prepared = prepare(
        model, config, scan(config.data), tmp_path / "cache", lambda *progress: reported.append(progress)
    )
    assert prepared.counts.generated == 4 and ("class pictures", 4, 4) in reported
    names = sorted(path.name for path in class_folder.iterdir())
    assert names == [*(f"class-00000{number}.png" for number in range(4)), "class-pictures.json", "mine.png"]
    assert Image.open(class_folder / names[0]).size == (32, 32)
    assert ready(**PRIOR, class_data_dir=str(class_folder)).counts.generated == 0


def test_a_class_picture_is_the_same_whether_drawn_at_once_or_after_an_interruption(ready, tmp_path):
    ready(**PRIOR)
    (folder,) = (tmp_path / "cache" / "class").iterdir()
    once = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(set(once.values())) == 5 + 1, "and the record of how they were made"
    (folder / "class-000003.png").unlink()
    (folder / "class-000004.png").unlink()
    assert ready(**PRIOR).counts.generated == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == once


def test_what_an_earlier_run_generated_does_not_change_a_smaller_one(ready):
    few = ready(cache="few", **PRIOR | {"num_class_images": 3})
    ready(cache="many", **PRIOR)
    after_many = ready(cache="many", **PRIOR | {"num_class_images": 3})
    for step in range(5):
        assert_same(few.batch(step), after_many.batch(step))


def test_a_shape_that_the_model_cannot_take_is_refused(model, config_with, tmp_path, monkeypatch):
    monkeypatch.setattr(type(model), "size_multiple", 24)
    config = config_with()
    with pytest.raises(DatasetError, match="multiples of 24 px"):
        prepare(model, config, scan(config.data), tmp_path / "cache")
