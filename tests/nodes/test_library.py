"""What nodes of the library do with files, without a graph around them."""

from types import SimpleNamespace

import pytest
from PIL import Image
from rollout_studio.core import adapters
from rollout_studio.core.adapters.embedding_files import export_embedding, file_beside, path_beside
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.data.beside import Cut, crop_path, mask_path, write_cut, write_mask
from rollout_studio.core.families import load_model
from rollout_studio.core.look import revisit
from rollout_studio.core.look.drift.correction import CORRECTION_OPTIONS
from rollout_studio.core.look.drift.files import report_to_json
from rollout_studio.core.look.drift.report import DriftReport
from rollout_studio.nodes.execute.context import Context
from rollout_studio.nodes.graph.values import Checkpoint, Folder, NodeError, settings
from rollout_studio.nodes.library import data, looking, training
from tiny import build


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


def test_edited_captions_keep_onetrainers_masks_and_take_what_lies_beside_a_picture_for_none(context, cropped):
    (cropped / "a-mask.png").rename(cropped / "a-masklabel.png")
    (cropped / "a-condlabel.png").write_bytes((cropped / "a.png").read_bytes())
    data.caption_edit(context, Folder(str(cropped)), "", "", "a cat", "")
    kept = ["a-crop.json", "a-masklabel.png", "a.png", "a.txt"]
    assert sorted(file.name for file in context.work.iterdir()) == kept


def test_the_preview_of_a_dataset_shows_the_part_that_is_kept(context, cropped):
    dataset = settings({"instance_data_dir": str(cropped), "instance_prompt": "a cat", "resolution": 64})
    (shown,) = data.dataset_preview(context, dataset, 4)
    colours = {colour for _, colour in Image.open(shown.files[0].path).getcolors(1 << 20)}
    assert (0, 255, 0) in colours and (255, 0, 0) not in colours and shown.captions == ("1 of 1 pictures",)


def test_a_report_with_a_correction_is_measured_and_one_without_is_the_runs_own(context, store, monkeypatch):
    """The run's own report lies there; it is without a correction."""
    run = store.create(config_from_flat({"device": "cpu"}), "cat")
    there = run.drift_path / "step-000009"
    there.mkdir(parents=True)
    text = report_to_json(DriftReport("demo-flow", "flow_matching", "rectified-flow", "p", {}, (), 9))
    (there / "report.json").write_text(text, encoding="utf-8")
    asked = []

    def measured(context, config, checkpoint, folder, correction):
        asked.append(correction)
        folder.mkdir()
        (folder / "report.json").write_text(text, encoding="utf-8")

    monkeypatch.setattr(looking, "_measured", measured)
    checkpoint = Checkpoint(str(run.path), "cat", 9, "9" * 64)
    chosen = {name: option.default for name, option in CORRECTION_OPTIONS.items()}
    looking.drift_report_node(context, checkpoint, None, **chosen)
    assert asked == []
    (context.work / "drift").rename(context.work / "first")
    looking.drift_report_node(context, checkpoint, None, **{**chosen, "correction": "shifted_time"})
    assert [each.label for each in asked] == ["shifted time ±0.02 above 0.5"]


def test_an_exported_lora_brings_its_new_tokens(context, store, tmp_path, monkeypatch):
    """Of the last step those of the run, of an earlier one those of its checkpoint; two lie side by side."""
    flat = {"pretrained_model_name_or_path": str(build("sd1", tmp_path / "sd1")), "device": "cpu", "lora_rank": 2, "max_train_steps": 9,
            "new_tokens": 2, "trigger_word": "qrx", "new_token_initializer": "dog"}  # fmt: skip
    config = config_from_flat(flat)
    run, model = store.create(config, "cat"), load_model(config.model)
    adapters.attach(model, config)
    ready = adapters.export_lora(model, run.lora_path / "cat.safetensors", config, step=9)
    with pytest.raises(NodeError, match="0 embedding files"):
        training.export_lora(context, Checkpoint(str(run.path), "cat", 9, "9" * 64), "mine")
    export_embedding(model, path_beside(ready, "qrx"), config)
    found = SimpleNamespace(tensors={"trainable": adapters.adapter_state(model)})
    monkeypatch.setattr(revisit, "open_checkpoint", lambda run, step: found)
    for step in (9, 5):
        path, lora = training.export_lora(context, Checkpoint(str(run.path), "cat", step, str(step) * 64), "mine")
        beside = context.out / f"mine-step-{step}-{str(step) * 6}" / "embeddings" / "qrx.safetensors"
        assert (
            lora.file.path == path
            and file_beside(beside.parents[1] / f"{beside.parents[1].name}.safetensors") == beside
        )
