"""Encoded prompts on disk: found again without opening a text encoder, never those of another one."""

import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.data import prepare, preparing, prompts, scan
from rollout_studio.core.families import load_model, locate
from rollout_studio.core.families.fingerprint import WINDOW_BYTES, WINDOWS, part_fingerprint
from rollout_studio.core.families.loading import Loader
from rollout_studio.core.families.prompts import PromptEncoder
from rollout_studio.core.train.loop import train
from tiny_run import events

CAPTIONS = 4  # of the shared pictures


@pytest.fixture
def work(monkeypatch) -> Counter:
    """How often text encoders were opened, and how many prompts they encoded."""
    count, open_, encode = Counter(), Loader.text_encoders, PromptEncoder.encode

    def counted(self, prompts, negative):
        count.update(encoded=len(prompts))
        return encode(self, prompts, negative)

    monkeypatch.setattr(Loader, "text_encoders", lambda self: (count.update(opened=1), open_(self))[1])
    monkeypatch.setattr(PromptEncoder, "encode", counted)
    return count


@pytest.fixture
def opened_with(tiny_folder, pictures):
    """A fresh model, whose folder may be another one, and a config with the four pictures."""

    def make(folder: Path | None = None, **changes):
        flat = {
            "pretrained_model_name_or_path": str(tiny_folder("sd3") if folder is None else folder),
            "instance_data_dir": str(pictures), "resolution": 32, "drift_holdout_images": 0, "device": "cpu", **changes,
        }  # fmt: skip
        config = config_from_flat(flat)
        return load_model(config.model), config

    return make


@pytest.fixture
def ready(opened_with, tmp_path):
    """The same, prepared in the test's own cache: (the model, what was prepared)."""

    def make(folder: Path | None = None, progress=None, **changes):
        model, config = opened_with(folder, **changes)
        return model, prepare(model, config, scan(config.data), tmp_path / "cache", progress)

    return make


def test_a_second_run_opens_no_text_encoder_whatever_it_draws(ready, work):
    samples = {
        "validation_prompts": ["a sample"],
        "validation_negative_prompt": "blurry",
        "caption_dropout_probability": 0.5,
    }
    _, first = ready(**samples)
    assert work == {"opened": 1, "encoded": CAPTIONS + 3}  # the sample, its negative prompt, the empty one
    model, second = ready(**samples)
    model.sample(["a sample"], steps=1, height=32, width=32, negative_prompt="blurry")
    model.unconditional()
    assert work == {"opened": 1, "encoded": CAPTIONS + 3} and (second.counts.reused, second.counts.made) == (11, 0)
    for one, other in zip(*(sorted(each.batch(3).conditioning.items()) for each in (first, second)), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1])


def test_more_prompts_than_memory_keeps_come_from_the_disk(ready, work, monkeypatch):
    monkeypatch.setattr("rollout_studio.core.families.prompts.KNOWN_PROMPTS", 2)
    drawn = ["one", "two", "three"]
    ready(validation_prompts=drawn)
    encoded = work["encoded"]
    model, _ = ready(validation_prompts=drawn)
    model.sample(drawn, steps=1, height=32, width=32)
    assert work == {"opened": 1, "encoded": encoded}


def test_a_run_stopped_while_it_encodes_goes_on_where_it_was(ready, work, monkeypatch):
    monkeypatch.setattr(prompts, "_TOGETHER", 1)
    monkeypatch.setattr(preparing, "throttled", lambda report: report if report is not None else lambda *_: None)

    def stop(what, done, total):
        if what == "captions" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ready(progress=stop)
    assert work["encoded"] == 3
    ready()
    assert work["encoded"] == CAPTIONS + 1


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_3", "tokenizer_2", "precision", "family"])
def test_another_encoder_tokenizer_precision_or_family_never_hits(ready, work, tiny_folder, tmp_path, part):
    ready()
    other = tmp_path / "other"
    shutil.copytree(tiny_folder("flux" if part == "family" else "sd3"), other)
    changes = {"base_model_precision": "bfloat16"} if part == "precision" else {}
    if part.startswith("text_encoder"):
        (file,) = (other / part).glob("*.safetensors")
        tensors = safetensors.torch.load_file(file)
        name = max(tensors)
        tensors[name].view(-1)[-1] += 1
        safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    if part == "tokenizer_2":
        config = other / part / "tokenizer_config.json"
        config.write_text(
            config.read_text("utf-8").replace('"model_max_length": 24', '"model_max_length": 20'), "utf-8"
        )
    _, prepared = ready(other, **changes)
    assert work["encoded"] == 2 * (CAPTIONS + 1)
    assert prepared.counts.reused == 0 if part == "family" else prepared.counts.reused == CAPTIONS  # latents


def test_a_copy_of_the_model_elsewhere_is_the_same_model(ready, work, tiny_folder, tmp_path):
    ready()
    shutil.copytree(tiny_folder("sd3"), tmp_path / "copy")
    ready(tmp_path / "copy")
    assert work == {"opened": 1, "encoded": CAPTIONS + 1}


def test_encoders_that_files_do_not_tell_apart_are_opened_and_told_by_their_weights(ready, work, monkeypatch):
    monkeypatch.setattr(prompts, "part_fingerprint", lambda source, part: None)
    ready()
    ready()
    assert work == {"opened": 2, "encoded": CAPTIONS + 1}


def test_runs_at_the_same_time_share_the_cache(opened_with, tmp_path):
    runs, found, wrong = [opened_with() for _ in range(3)], [], []
    for model, _ in runs:  # libraries do not open models on several threads; runs are processes
        model.text.opened()

    def run(model, config):
        try:
            found.append(prepare(model, config, scan(config.data), tmp_path / "cache"))
        except Exception as error:  # noqa: BLE001 - a thread's error must reach the test
            wrong.append(error)

    threads = [threading.Thread(target=run, args=each) for each in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and not any(prepared.problems for prepared in found)
    batches = [prepared.batch(1) for prepared in found]
    assert all(torch.equal(batch.latents, batches[0].latents) for batch in batches)


def test_a_damaged_entry_of_a_sample_is_made_again_and_said(ready, work, tmp_path, caplog):
    model, _ = ready(validation_prompts=["a sample"])
    path = model.text.shelf.cache.path(model.text.shelf.key("a sample", False))
    path.write_bytes(path.read_bytes()[:-3])
    _, again = ready(validation_prompts=["a sample"])
    assert again.counts.rebuilt == 1 and [problem.code for problem in again.problems] == ["cache-damaged"]
    path.write_bytes(b"")
    assert model.text.shelf.read("a sample", False) is None and "It is made again" in caplog.text


def test_a_second_training_takes_everything_from_the_cache_and_says_so(tiny_run, work, without_drift):
    one = tiny_run("sd3", "one", validation_prompts=["a"])
    assert train(one) == 0
    two = tiny_run("sd3", "two", validation_prompts=["a"])
    assert train(two) == 0
    first, second = (events(run, "prepared")[0] for run in (one, two))
    assert (first["reused"], first["made"], first["encoders_opened"]) == (0, 2 * CAPTIONS + 2, True)
    assert (second["reused"], second["made"], second["encoders_opened"]) == (2 * CAPTIONS + 2, 0, False)
    assert second["seconds"] >= 0 and work["opened"] == 1


# Fingerprints ----------------------------------------------------------------------------------------------------------


def test_a_fingerprint_follows_content_names_and_the_variant(tiny_folder, tmp_path):
    source = locate(str(tiny_folder("sd3")))
    was = part_fingerprint(source, "text_encoder")
    assert was == part_fingerprint(source, "text_encoder") != part_fingerprint(source, "text_encoder_2")
    assert part_fingerprint(replace(source, variant="fp16"), "text_encoder") != was
    copy = tmp_path / "copy"
    shutil.copytree(source.location, copy)
    assert part_fingerprint(locate(str(copy)), "text_encoder") == was
    config = copy / "text_encoder/config.json"
    config.write_text(config.read_text("utf-8").replace("quick_gelu", "gelu"), "utf-8")
    assert part_fingerprint(locate(str(copy)), "text_encoder") != was
    assert part_fingerprint(source, "no_such_part") is None


def test_a_fingerprint_reads_a_little_of_every_large_tensor(tmp_path):
    (tmp_path / "text_encoder").mkdir()
    file = tmp_path / "text_encoder/model.safetensors"
    source = replace(locate("demo-flow"), location=str(tmp_path))
    weights = torch.zeros(64 * WINDOW_BYTES * WINDOWS)

    def fingerprint(place: int | None) -> str:
        changed = weights.clone()
        if place is not None:
            changed[place] = 1
        safetensors.torch.save_file({"first": torch.zeros(2), "large": changed}, file)
        return part_fingerprint(source, "text_encoder")

    assert len({fingerprint(place) for place in (None, 0, len(weights) // 3, -1)}) >= 3
    assert fingerprint(None) == fingerprint(None)


def test_the_files_of_a_hub_model_are_those_of_its_snapshot(tiny_folder, monkeypatch):
    source = locate(str(tiny_folder("sd3")))
    index = str(Path(source.location) / "model_index.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, path, revision: index)
    assert part_fingerprint(replace(source, location="owner/model"), "text_encoder") == part_fingerprint(source, "text_encoder")  # fmt: skip
