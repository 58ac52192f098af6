"""Automatic captions: what is written where, what a stop or a kill leaves, and which models are refused. Tiny models; no network."""

import json
import os
import shutil
import sys
import types
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny_captioners
from PIL import Image
from rollout_studio.core.captioning import job as job_module
from rollout_studio.core.captioning import models, tagger, writing
from rollout_studio.core.captioning.folder import HIDDEN, composed, plan
from rollout_studio.core.captioning.job import CaptionJob
from rollout_studio.core.captioning.models import CaptionError
from rollout_studio.core.captioning.settings import ONLY, OPTIONS, CaptionSettings, read_settings
from rollout_studio.core.captioning.writing import write_captions
from rollout_studio.core.config import OPTIONS as TRAINING_OPTIONS
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.demo import DREAMBOOTH

COLOURS = {
    "red": (220, 10, 10),
    "blue": (10, 10, 230),
    "green": (10, 200, 30),
    "white": (255, 255, 255),
    "grey": (90, 90, 90),
}


def picture(path, colour=(220, 10, 10), size=(60, 50)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Five pictures, each named by its colour; two have captions."""
    place = tmp_path / "my pictures"
    for name, colour in COLOURS.items():
        picture(place / f"{name}.png", colour)
    (place / "blue.txt").write_text("the sea", encoding="utf-8")
    (place / "grey.txt").write_text("a wall\n", encoding="utf-8")
    return place


@pytest.fixture(scope="session")
def blip(tmp_path_factory):
    return tiny_captioners.save_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="session")
def florence(tmp_path_factory):
    return tiny_captioners.save_florence(tmp_path_factory.mktemp("florence"))


@pytest.fixture
def named(monkeypatch, tmp_path):
    """The model says the colour that it sees, so that every caption must stand at its own picture; gives the settings, and what was shown."""
    shown = []

    class Naming:
        device = "cpu"

        def describe(self, pictures):
            shown.append(len(pictures))
            return [colour_of(each) for each in pictures]

    def colour_of(image):
        mean = np.asarray(image).reshape(-1, 3).mean(0)
        return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())

    place = tmp_path / "model"
    place.mkdir()
    for file in models.TAGGER_FILES:
        (place / file).write_text("never opened")
    monkeypatch.setattr(writing, "open_describer", lambda found, settings: Naming())
    return types.SimpleNamespace(settings=lambda **given: CaptionSettings(model=str(place), **given), shown=shown)


def texts(folder):
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in sorted(folder.glob("*.txt"))}


def run(folder, settings, stop_after=None):
    """Write; gives (result, events). `stop_after`: batches until it is stopped."""
    events, asked = [], []

    def should_stop():
        asked.append(1)
        return stop_after is not None and len(asked) > stop_after

    result = write_captions(
        folder, settings, lambda event, **values: events.append({"event": event, **values}), should_stop
    )
    return result, events


# -- what is written ------------------------------------------------------------------------------------------------------


def test_every_picture_without_a_caption_gets_its_own_and_the_others_keep_theirs(folder, named):
    (folder / "red.txt").write_text(" \n")  # an empty file is no caption
    result, events = run(folder, named.settings(batch_size=2))
    assert texts(folder) == {"blue": "the sea", "green": "green", "grey": "a wall", "red": "red", "white": "white"}
    assert (result.written, result.skipped, result.left) == (3, 0, 0) and named.shown == [2, 1]
    assert [(each["picture"], each["done"], each["total"]) for each in events if each["event"] == "written"] == [
        ("green.png", 1, 3), ("red.png", 2, 3), ("white.png", 3, 3),
    ]  # fmt: skip
    assert not (folder / HIDDEN).exists()


def test_the_second_start_has_nothing_to_do_and_opens_no_model(folder, named):
    run(folder, named.settings())
    result, events = run(folder, CaptionSettings(model="/there/is/none"))
    assert result.written == 0 and [each["event"] for each in events] == ["plan", "finished"]


@pytest.mark.parametrize(
    ("given", "caption"),
    [
        ({}, "a red cup"),
        ({"text_before": "a photo of"}, "a photo of a red cup"),
        ({"text_after": ", studio  light"}, "a red cup, studio light"),
        ({"text_after": "at night", "trigger_word": "zwx"}, "zwx, a red cup at night"),
        ({"text_before": "the ZWX,", "trigger_word": "zwx"}, "the ZWX, a red cup"),
    ],
)
def test_texts_and_trigger_word_stand_around_what_the_model_wrote(given, caption):
    assert composed(" a red\n cup ", CaptionSettings(**given)) == caption
    assert composed(" \n", CaptionSettings(**given)) == ""


def test_an_unreadable_picture_is_named_and_the_others_go_on(folder, named):
    (folder / "broken.png").write_bytes((folder / "red.png").read_bytes()[:70])
    result, events = run(folder, named.settings(batch_size=1))
    skipped = [each for each in events if each["event"] == "skipped"]
    assert [each["picture"] for each in skipped] == ["broken.png"] and "broken or cut off" in skipped[0]["reason"]
    assert (result.written, result.skipped, result.left) == (3, 1, 0) and "broken" not in texts(folder)


def test_what_a_person_owns_is_never_overwritten_and_each_is_named(folder, named, tmp_path):
    picture(folder / "red.jpg")
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("elsewhere")
    (folder / "green.txt").symlink_to(elsewhere)
    (folder / "white.txt").write_bytes(b"\0\1\2")
    os.chmod(folder / "grey.txt", 0o444)
    made = plan(folder, named.settings(existing="overwrite"))
    assert {each.picture: each.reason.split()[-1] for each in made.skipped} == {
        "red.png": "red.txt", "green.png": "place", "white.png": "mark", "grey.png": "write-protected",
    }  # fmt: skip
    assert [each.picture.name for each in made.wanted] == ["blue.png", "red.jpg"]


def test_a_caption_that_a_person_writes_meanwhile_stays(folder, named, monkeypatch):
    original = writing.open_describer

    def opened(found, settings):
        (folder / "red.txt").write_text("mine")
        return original(found, settings)

    monkeypatch.setattr(writing, "open_describer", opened)
    result, _ = run(folder, named.settings())
    assert texts(folder)["red"] == "mine" and result.skipped == 1 and result.written == 2


def test_built_in_pictures_and_folders_without_any_are_refused(tmp_path):
    with pytest.raises(CaptionError, match="built in"):
        plan(DREAMBOOTH, CaptionSettings())
    with pytest.raises(CaptionError, match="does not exist"):
        plan(tmp_path / "nowhere", CaptionSettings())
    with pytest.raises(CaptionError, match="no pictures"):
        plan(tmp_path, CaptionSettings())


# -- stopped, killed, gone on with ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", ["keep", "back up", "overwrite"])
def test_a_stopped_start_goes_on_with_what_lacks(folder, named, existing):
    settings = named.settings(existing=existing, batch_size=1)
    first, _ = run(folder, settings, stop_after=2)
    assert first.written == 2 and first.left > 0
    before = texts(folder)
    for path in folder.glob("*.txt"):
        os.utime(path, (0, 0))
    second, _ = run(folder, settings)
    assert (second.written, second.left) == (first.left, 0)
    untouched = {path.stem for path in folder.glob("*.txt") if path.stat().st_mtime == 0}
    assert untouched == set(before) - ({"grey"} if existing != "keep" else set())
    kept = {path.name: path.read_text().strip() for path in folder.glob(f"{HIDDEN}/before-*/*.txt")}
    assert kept == ({"blue.txt": "the sea", "grey.txt": "a wall"} if existing == "back up" else {})
    assert texts(folder) == (
        {name: name for name in COLOURS} | ({"blue": "the sea", "grey": "a wall"} if existing == "keep" else {})
    )
    assert not (folder / HIDDEN / "unfinished.jsonl").exists()


def test_other_settings_begin_anew_and_a_finished_start_does_too(folder, named):
    run(folder, named.settings(existing="overwrite", batch_size=1), stop_after=2)
    other = named.settings(existing="overwrite", trigger_word="zwx")
    assert len(plan(folder, other).wanted) == 5
    run(folder, other)
    assert set(texts(folder).values()) == {f"zwx, {name}" for name in COLOURS} and len(plan(folder, other).wanted) == 5


def test_what_a_kill_leaves_is_done_again_and_the_oldest_caption_stays_the_backup(folder, named):
    """Killed between the caption and the line about it, in the middle of that line, and in the middle of a file."""
    settings = named.settings(existing="back up", batch_size=1)
    run(folder, settings, stop_after=1)  # blue
    journal = folder / HIDDEN / "unfinished.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text(f"{lines[0]}\n{lines[1][:9]}")
    (folder / f".green.partial-{2**22 + 7}-1.txt").write_text("half a capt")
    (folder / f".red.partial-{os.getpid()}-1.txt").write_text("of a live one")
    result, _ = run(folder, settings)
    assert result.written == 5
    assert [path.name for path in folder.glob(".*.txt")] == [f".red.partial-{os.getpid()}-1.txt"]
    assert {path.read_text().strip() for path in folder.glob(f"{HIDDEN}/before-*/*.txt")} == {"the sea", "a wall"}


@pytest.mark.slow
def test_a_killed_process_leaves_whole_captions_and_a_further_start_does_the_rest(tmp_path, blip):
    """In a process of its own, with a model of transformers, as the page runs it."""
    place = tmp_path / "many"
    for number in range(40):
        picture(place / f"{number:02d}.png", (number, 90, 90))
    settings = CaptionSettings(model=str(blip), batch_size=1, max_tokens=40, device="cpu")
    job = CaptionJob(place, settings)
    while not job.state.over and job.state.written < 2:
        job._reader.join(0.005)
    job._process.kill()
    state = job.wait(60)
    assert (
        state.phase == "failed"
        and f"exit code {job._process.returncode}" in state.message
        and "start again" in state.remedy
    )
    assert (state.total, state.device) == (40, "cpu")
    whole = texts(place)
    assert 2 <= len(whole) < 40 and all(len(text.split()) > 3 for text in whole.values())
    result, _ = run(place, settings)
    assert result.written == 40 - len(whole) and len(texts(place)) == 40
    assert not list(place.glob(".*"))


def scripted(monkeypatch, tmp_path, body):
    """Jobs run `body` in place of the worker: it has `say`, and `ended` waits for the end of the input."""
    script = tmp_path / "worker.py"
    head = "import json, sys\ndef say(event, **values): print(json.dumps({'event': event, **values}), flush=True)\nended = sys.stdin.read\n"
    script.write_text(head + body)
    monkeypatch.setattr(job_module, "COMMAND", (sys.executable, str(script)))


def test_a_job_reports_what_its_process_says_and_stops_it_by_ending_its_input(monkeypatch, tmp_path):
    body = """
request = json.load(open(sys.argv[1]))
say('plan', total=3, kept=1, done=1, skipped=1)
say('skipped', picture='bad.png', reason='it is broken', remedy='Copy it.', done=0, total=3)
say('download', file='model.safetensors', done=0, total=9)
say('model', name=request['settings']['model'], kind='BLIP', bytes=7)
say('opened', device='cpu')
say('written', picture='a.png', caption='a cup', done=1, total=3)
ended()
say('finished', written=1, skipped=1, left=2)
"""
    scripted(monkeypatch, tmp_path, body)
    job = CaptionJob(tmp_path, CaptionSettings(model="owner/name"))
    while not job.state.written:
        job._reader.join(0.005)
    state = job.state
    assert (state.phase, state.model, state.device, state.total, state.done, state.kept) == (
        "writing",
        "owner/name",
        "cpu",
        3,
        1,
        2,
    )
    assert state.last == "a.png: a cup" and [each.picture for each in state.skipped] == ["bad.png"] and not state.over
    job.stop()
    assert job.wait(30).phase == "stopped" and job._process.returncode == 0
    job.stop()  # a second time, and after the end: nothing


def test_a_job_whose_process_dies_says_so_with_the_end_of_its_log(monkeypatch, tmp_path):
    scripted(
        monkeypatch, tmp_path, "say('opened', device='cpu')\nprint('libfoo: cannot', file=sys.stderr)\nsys.exit(9)"
    )
    state = CaptionJob(tmp_path, CaptionSettings()).wait(30)
    assert state.phase == "failed" and "exit code 9" in state.message and state.message.endswith("libfoo: cannot")
    scripted(monkeypatch, tmp_path, "say('refused', message='no', remedy='yes')")
    state = CaptionJob(tmp_path, CaptionSettings()).wait(30)
    assert (state.phase, state.message, state.remedy) == ("failed", "no", "yes")


def test_full_memory_and_disk_are_explained(folder, named, monkeypatch):
    class Full:
        device = "cpu"

        def describe(self, pictures):
            raise MemoryError

    monkeypatch.setattr(writing, "open_describer", lambda found, settings: Full())
    with pytest.raises(CaptionError, match="The memory is full.*caption_batch_size below 4"):
        run(folder, named.settings())
    with pytest.raises(CaptionError, match="a smaller model, or caption_device cpu"):
        run(folder, named.settings(batch_size=1))

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.undo()
    monkeypatch.setattr(writing.Writer, "write", lambda self, wanted, caption: full(wanted.file, caption))
    monkeypatch.setattr(
        writing,
        "open_describer",
        lambda found, settings: types.SimpleNamespace(device="cpu", describe=lambda p: ["a"] * len(p)),
    )
    with pytest.raises(CaptionError, match="No space left on device.*Free some space"):
        run(folder, named.settings())


# -- the models -------------------------------------------------------------------------------------------------------------


def directly(folder, image, **how):
    """What the model writes by transformers' own calls."""
    import transformers

    found = models.find(str(folder))
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = getattr(transformers, models.KINDS[found.kind].class_name).from_pretrained(folder).eval()
    text = how.pop("text", None)
    given = processor(images=image, **({} if text is None else {"text": text}), return_tensors="pt")
    return processor.decode(model.generate(**given, num_beams=3, **how)[0], skip_special_tokens=True).strip()


def test_blip_writes_what_transformers_own_calls_give(blip, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    for prompt, longest in ((None, 7), ("the old dog", 12)):
        settings = CaptionSettings(model=str(blip), prompt=prompt, max_tokens=longest, device="cpu")
        written = writing.open_describer(models.find(str(blip)), settings).describe([image, image])
        assert written == [directly(blip, image, text=prompt, max_new_tokens=longest)] * 2
        assert written[0].startswith(prompt or "")


def test_florence_gets_the_task_of_the_detail_and_writes_what_transformers_own_calls_give(florence):
    image = Image.new("RGB", (70, 50), (200, 20, 20))
    found = models.find(str(florence))
    for detail, task in ((None, "<DETAILED_CAPTION>"), ("short", "<CAPTION>"), ("long", "<MORE_DETAILED_CAPTION>")):
        describer = writing.open_describer(
            found, CaptionSettings(model=str(florence), detail=detail, max_tokens=6, device="cpu")
        )
        assert describer._texts(2) == [task] * 2
    assert describer.describe([image, image]) == [directly(florence, image, text=task, max_new_tokens=6)] * 2


def test_what_a_kind_of_model_does_not_have_is_refused_before_it_is_opened(blip, folder):
    unset = {"detail": "long", "prompt": "a", "max_tokens": 9, "threshold": 0.5, "character_threshold": 0.5}
    assert set(unset) == set(ONLY)
    for kind in models.KINDS:
        faults = CaptionSettings(**unset).refusals(kind)
        assert {fault.options[0] for fault in faults} == {
            f"caption_{field}" for field, kinds in ONLY.items() if kind not in kinds
        }
    with pytest.raises(
        ConfigError, match="caption_threshold = 0.5: BLIP has no such setting, only a tagger; leave it unset"
    ):
        run(folder, CaptionSettings(model=str(blip), threshold=0.5))
    assert len(texts(folder)) == 2


@pytest.fixture
def copied(blip, tmp_path):
    """A copy of the BLIP, to be spoiled."""
    import shutil

    return Path(shutil.copytree(blip, tmp_path / "copy"))


def spoil_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_pickled_weights_are_refused_with_the_way_to_convert_them(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(
        CaptionError, match=r"only in pytorch_model.bin, which are not opened.*save_pretrained\('FOLDER'\)"
    ):
        models.find(str(copied))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"architectures": ["BlipForQuestionAnswering"]},
            "holds a BlipForQuestionAnswering.*Florence2ForConditionalGeneration",
        ),
        ({"architectures": None, "model_type": "clip"}, "holds a clip"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "code of its own"),
    ],
)
def test_another_class_and_a_models_own_code_are_refused(copied, change, words):
    (copied / "evil.py").write_text("raise SystemExit('ran')")
    spoil_config(copied, **change)
    with pytest.raises(CaptionError, match=words):
        models.find(str(copied))


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (["config.json"], "no config.json"),
        (["model.safetensors"], "no weights"),
        (["processor_config.json"], "how pictures are prepared"),
        (["tokenizer.json"], "its words"),
    ],
)
def test_missing_files_are_named(copied, gone, words):
    for name in gone:
        (copied / name).unlink()
    with pytest.raises(CaptionError, match=words):
        models.find(str(copied))


def test_a_shard_that_lacks_and_a_tagger_of_one_file_are_named(copied, tmp_path):
    (copied / "model.safetensors").rename(copied / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(models.NotHere, match="model-00002-of-00002.safetensors is missing"):
        models.find(str(copied))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.onnx").write_bytes(b"x")
    with pytest.raises(CaptionError, match="no selected_tags.csv"):
        models.find(str(tmp_path / "half"))


def test_weights_that_would_be_random_are_refused(copied):
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    lost = next(name for name in weights if "crossattention" in name)
    del weights[lost]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CaptionError, match=f"no weights for 1 parts.*{lost}"):
        writing.open_describer(models.find(str(copied)), CaptionSettings(device="cpu"))


def test_a_device_that_is_not_there_is_refused(blip):
    with pytest.raises(CaptionError, match="caption_device = cuda:7"):
        writing.open_describer(models.find(str(blip)), CaptionSettings(device="cuda:7"))


# -- the hub ----------------------------------------------------------------------------------------------------------------


class Hub:
    """A hub with one model, and an empty cache."""

    def __init__(self, folder, monkeypatch, cache):
        import huggingface_hub

        self.folder, self.cache, self.asked, self.fetched = folder, cache, 0, []
        cache.mkdir(exist_ok=True)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file, revision: self.cached(file))
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.fetch)
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda api, name, **how: self.info())

    def info(self):
        self.asked += 1
        files = [types.SimpleNamespace(rfilename=path.name, size=path.stat().st_size) for path in self.folder.iterdir()]
        return types.SimpleNamespace(siblings=[*files, types.SimpleNamespace(rfilename="README.md", size=10**12)])

    def cached(self, file):
        return str(self.cache / file) if (self.cache / file).exists() else None

    def fetch(self, name, file, revision):
        if self.cached(file) is None:
            self.fetched.append(file)
            (self.cache / file).write_bytes((self.folder / file).read_bytes())
        return self.cached(file)


def test_nothing_is_asked_of_the_hub_unless_the_download_is_allowed_and_then_its_size_is_said_first(
    blip, folder, monkeypatch, tmp_path
):
    hub = Hub(blip, monkeypatch, tmp_path / "cache")
    with pytest.raises(models.NotHere, match="is not on this computer; about 1.8 GiB would be downloaded"):
        run(folder, CaptionSettings(model=models.RECOMMENDED[2].name))
    assert hub.asked == 0 and hub.fetched == []
    settings = CaptionSettings(model="owner/blip", download=True, max_tokens=6, device="cpu")
    listed = writing.outlook(folder, settings)[1]
    needed = {path.name: path.stat().st_size for path in blip.iterdir()}
    assert listed.files == needed and hub.fetched == ["config.json"]
    assert listed.bytes_ == sum(needed.values()) - needed["config.json"]
    with pytest.raises(models.NotHere, match="only partly on this computer.*Allow the download"):
        run(folder, CaptionSettings(model="owner/blip"))
    result, events = run(folder, settings)
    downloads = [each for each in events if each["event"] == "download"]
    assert downloads[0]["done"] == 0 and downloads[-1]["done"] == downloads[-1]["total"] == listed.bytes_
    assert sorted(hub.fetched) == sorted(needed) and result.written == 3
    (folder / "red.txt").unlink()
    hub.info = None  # from now on there is no network
    assert run(folder, CaptionSettings(model="owner/blip", max_tokens=6, device="cpu"))[0].written == 1


def test_a_hub_that_cannot_be_reached_or_has_only_pickles_is_explained(copied, folder, monkeypatch, tmp_path):
    from huggingface_hub import errors

    settings = CaptionSettings(model="owner/blip", download=True)
    hub = Hub(copied, monkeypatch, tmp_path / "cache")
    for error in (errors.OfflineModeIsEnabled("offline"), errors.HTTPError("no route")):

        def failing(error=error):
            raise error

        hub.info = failing
        with pytest.raises(
            CaptionError, match="not on this computer, and the hub could not be reached.*hf download owner/blip"
        ):
            run(folder, settings)
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    hub = Hub(copied, monkeypatch, tmp_path / "other")
    with pytest.raises(CaptionError, match="only in pytorch_model.bin"):
        run(folder, settings)
    assert "pytorch_model.bin" not in hub.fetched


def test_a_download_that_the_disk_cannot_hold_is_refused_before_it_begins(blip, folder, monkeypatch, tmp_path):
    hub = Hub(blip, monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=100))
    with pytest.raises(CaptionError, match="100 bytes are free"):
        run(folder, CaptionSettings(model="owner/blip", download=True))
    assert hub.fetched == ["config.json"]


# -- taggers ----------------------------------------------------------------------------------------------------------------


def test_a_tag_needs_its_threshold_and_the_surest_come_first(tmp_path):
    tags = tagger.read_tags(tiny_captioners.save_tagger(tmp_path) / "selected_tags.csv")
    assert [tag.name for tag in tags] == ["general", "blue thing", "green thing", "red thing", "o_o", "miss red"]
    sure = np.array([0.99, 0.5, 0.2, 0.9, 0.35, 0.8], dtype=np.float64)
    assert tagger.chosen_tags(sure, tags, 0.35, 0.85) == ["red thing", "blue thing", "o_o"]
    assert tagger.chosen_tags(sure, tags, 0.6, 0.8) == ["miss red", "red thing"]


def test_a_tagger_is_shown_the_picture_on_a_white_square_blue_first():
    shown = tagger.as_input(Image.new("RGB", (40, 20), (200, 30, 10)), 40)
    assert shown.shape == (40, 40, 3) and shown.dtype == np.float32
    assert shown[20, 20].tolist() == [10, 30, 200] and shown[0, 0].tolist() == [255, 255, 255]


def test_without_onnxruntime_a_tagger_is_refused_with_the_remedy(tmp_path, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    place = tiny_captioners.save_tagger(tmp_path / "tagger")
    with pytest.raises(CaptionError, match="needs the package onnxruntime.*pip install onnxruntime"):
        run(folder, CaptionSettings(model=str(place)))


def test_a_device_of_a_tagger_is_one_that_onnxruntime_has():
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    assert tagger._providers("auto", [cpu]) == ("cpu", [cpu])
    assert tagger._providers("auto", [cuda, cpu]) == ("cuda", [(cuda, {"device_id": 0}), cpu])
    assert tagger._providers("cuda:1", [cuda, cpu])[1][0] == (cuda, {"device_id": 1})
    for device, words in (("cuda", "no CUDA"), ("mps", "cuda or the cpu")):
        with pytest.raises(CaptionError, match=words):
            tagger._providers(device, [cpu])


@pytest.mark.slow
def test_a_tagger_in_onnx_writes_the_tags_of_each_picture(tmp_path, folder):
    pytest.importorskip("onnxruntime")
    place = tiny_captioners.save_tagger(tmp_path / "tagger")
    for path in (folder / "white.png", folder / "grey.png", folder / "grey.txt", folder / "blue.txt"):
        path.unlink()
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250)), ("green", (0, 250, 0))):
        picture(folder / f"{name}.png", colour, (64, 64))
    run(folder, CaptionSettings(model=str(place), batch_size=2))
    assert texts(folder) == {"red": "miss red, red thing", "blue": "blue thing", "green": "green thing, o_o"}
    (place / "selected_tags.csv").write_text("tag_id,name,category,count\n0,a,0,1\n")
    with pytest.raises(CaptionError, match="gives a number for each of the 1 tags"):
        run(folder, CaptionSettings(model=str(place), existing="overwrite"))


# -- the settings -------------------------------------------------------------------------------------------------------------


def test_every_setting_has_a_name_of_its_own_help_and_version():
    labels = [option.label for option in OPTIONS.values()]
    assert len(set(labels)) == len(labels) and all(
        option.help.endswith(".") and option.since == "0.3" for option in OPTIONS.values()
    )
    assert not {option.name for option in OPTIONS.values()} & set(TRAINING_OPTIONS)


def test_settings_read_text_and_name_every_fault():
    read = read_settings({"threshold": "0.5", "download": "true", "trigger_word": "none", "batch_size": "3"})
    assert read == CaptionSettings(threshold=0.5, download=True, batch_size=3)
    assert read_settings(asdict(read)) == read
    with pytest.raises(ConfigError) as caught:
        read_settings({"threshold": 7, "existing": "none", "treshold": 1})
    assert [fault.options for fault in caught.value.faults] == [
        ("caption_threshold",),
        ("caption_existing",),
        ("treshold",),
    ]
    assert "Did you mean 'threshold'?" in str(caught.value)
