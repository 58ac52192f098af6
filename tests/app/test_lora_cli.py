"""`rollout-studio lora`: resize, convert, merge and upload as commands; the hub is a fake."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import errors
from original_layout import single_file
from rollout_studio.app.cli.main import main as cli
from rollout_studio.app.cli.progress import Progress
from rollout_studio.core import adapters
from rollout_studio.core.adapters import header
from rollout_studio.core.adapters.model_card import model_card
from rollout_studio.core.adapters.upload import card_of, upload
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families import load_model
from rollout_studio.core.families.registry import FAMILIES
from rollout_studio.core.runs.store import RunStore
from safetensors.torch import load_file, save_file
from tiny import build

SETTINGS = {
    "device": "cpu", "lora_rank": 4, "lora_targets": ["to_q"], "trigger_word": "sks | dog", "validation_prompts": ["sks `on` a hill\nat night"],
    "instance_data_dir": "/home/ada/secret-dogs", "resolution": 64, "learning_rate": 3e-4,
}  # fmt: skip


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A LoRA file of a tiny model, and the model's folder."""
    folder = build("sd1", tmp_path_factory.mktemp("model") / "sd1")
    config = config_from_flat({**SETTINGS, "pretrained_model_name_or_path": str(folder)})
    model = load_model(config.model)
    adapters.attach(model, config)
    for parameter in adapters.trainable_parameters(model):
        parameter.data += 0.1
    return adapters.export_lora(model, tmp_path_factory.mktemp("lora") / "cat.safetensors", config, step=7), folder


def hub_lora(folder, **settings):
    """A file whose base is on the hub; the weights are of no interest."""
    from rollout_studio.core.adapters.header import lora_metadata
    from safetensors.torch import save_file
    from torch import ones

    config = config_from_flat({**SETTINGS, "pretrained_model_name_or_path": "owner/some-model", **settings})
    base = {"ss_base_model_version": "sdxl_base_v1-0", "architecture": "x"}
    save_file(
        {"unet.a.lora_A.weight": ones(1, 2)},
        folder / "cat.safetensors",
        metadata=lora_metadata(config, base, title="cat", step=7),
    )
    return folder / "cat.safetensors"


class Hub:
    """Remembers what it is asked; stands in for `HfApi`."""

    def __init__(self, there=False, refuses=None):
        self.there, self.refuses, self.asked, self.sent = there, refuses, [], {}

    def repo_exists(self, repository):
        return self.there

    def create_repo(self, repository, *, private, exist_ok):
        self.asked.append((repository, private))

    def create_commit(self, repository, operations, *, commit_message):
        if self.refuses is not None:
            raise self.refuses
        self.sent = {one.path_in_repo: one.path_or_fileobj for one in operations}
        self.card = Path(self.sent["README.md"]).read_text(encoding="utf-8")


# Files ---------------------------------------------------------------------------------------------------------------------


def test_a_lora_is_converted_and_back_and_resized_and_merged(lora, tmp_path, capsys):
    path, folder = lora
    there, back, small = (tmp_path / f"{name}.safetensors" for name in ("there", "back", "small"))
    base = ["--model", str(folder)]
    assert cli(["lora", "convert", str(path), "--to", "kohya", *base, "--out", str(there)]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(there) and f"{len(load_file(there))} of {len(load_file(there))} keys" in told.err
    assert cli(["lora", "convert", str(there), "--to", "diffusers", *base, "--out", str(back)]) == 0
    assert all((load_file(path)[name] == tensor).all() for name, tensor in load_file(back).items())
    assert cli(["lora", "resize", str(there), "--rank", "1", "--layers", *base, "--out", str(small)]) == 0
    told = capsys.readouterr()
    assert "Rank 4 to 1" in told.err and told.out.count(" %  ") == len(load_file(path)) / 2
    assert cli(["lora", "merge", str(path), *base, "--out", str(tmp_path / "whole")]) == 0
    assert (tmp_path / "whole" / "model_index.json").is_file() and "whose effect is" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["resize {0} --rank 2 --out {1}/x.bin", "convert {0} --to kohya --out {0}", "convert {0} --to kohya --out {1}/x.safetensors",
                                   "resize {0} --rank 9 --model {2} --out {1}/x.safetensors", "resize {1}/none.safetensors --rank 2 --out {1}/x.safetensors",
                                   "merge {0} --model {2} --out {2}", "convert {0} --to kohya --model {1} --out {1}/x.safetensors"])  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_written(words, lora, tmp_path, capsys):
    path, folder = lora
    assert cli(["lora", *(word.format(path, tmp_path, folder) for word in words.split())]) == 78
    message = capsys.readouterr().err
    assert "Traceback" not in message and message.strip() and not list(tmp_path.iterdir())


def test_a_base_in_one_file_gets_the_parts_that_it_lacks_from_the_pipeline_that_is_named(
    lora, tmp_path, capsys, monkeypatch
):
    path, folder = lora
    file = single_file("sd1", folder, tmp_path, without=("first_stage_model.", "cond_stage_model."))
    words = ["lora", "resize", str(path), "--rank", "2", "--out", str(tmp_path / "small.safetensors")]

    def offline(*args, **how):
        raise errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    assert cli([*words, "--model", str(file)]) == 78  # the official pipeline, which is not here
    assert re.search("has no .*vae.*; that comes from 'stable-diffusion", capsys.readouterr().err)
    merged = ["lora", "merge", str(path), "--out", str(tmp_path / "whole")]
    assert cli([*merged, "--model", str(file), "--components", str(folder)]) == 0
    assert (tmp_path / "whole" / "vae").is_dir() and "whose effect is" in capsys.readouterr().err
    assert cli([*words, "--model", str(folder), "--components", str(folder)]) == 78
    assert "only a base in one .safetensors file lacks parts" in capsys.readouterr().err
    # what the LoRA itself names
    for lender, code in ((str(folder), 0), (str(tmp_path / "gone"), 78)):
        named = {"pretrained_model_name_or_path": str(file), "pretrained_components": lender}
        save_file(load_file(path), tmp_path / "named.safetensors", metadata={header.CONFIG_KEY: json.dumps(named)})
        target = tmp_path / f"small-{code}.safetensors"
        assert cli(["lora", "resize", str(tmp_path / "named.safetensors"), "--rank", "2", "--out", str(target)]) == code
        assert target.exists() == (code == 0)
    assert "what it lacks with --components" in capsys.readouterr().err


# The hub -------------------------------------------------------------------------------------------------------------------


def test_an_upload_is_private_with_a_card_made_from_the_header(tmp_path):
    file, hub = hub_lora(tmp_path), Hub()
    assert upload([file], "ada/cat", api=hub) == "https://huggingface.co/ada/cat"
    assert hub.asked == [("ada/cat", True)] and hub.sent.keys() == {"README.md", "cat.safetensors"}
    head = yaml.safe_load(hub.card.split("---")[1])
    assert (
        head["base_model"] == "owner/some-model" and head["instance_prompt"] == "sks | dog" and "lora" in head["tags"]
    )
    for words in ("# cat", "A LoRA for Stable Diffusion XL", "`sks | dog`", "`` sks `on` a hill at night ``", "| `lora_rank` | 4 |",
                  "| `learning_rate` | 0.0003 |", 'weight_name="cat.safetensors"'):  # fmt: skip
        assert words in hub.card
    assert "/home/ada" not in hub.card


def test_the_card_says_no_more_than_the_header(tmp_path):
    card = card_of([hub_lora(tmp_path, publish_texts=False, publish_folders=False)])
    assert not any(word in card for word in ("sks", "hill", "secret-dogs")) and "owner/some-model" in card


@pytest.mark.parametrize(("family", "layout", "named"), [
    ("flux", "diffusers", True), ("sdxl", "diffusers", False), ("sdxl", "kohya", True), ("cogview4", "diffusers", False), ("sana", "both", True),
])  # fmt: skip
def test_a_card_names_comfyui_where_it_reads_the_file(family, layout, named):
    card = model_card([Path("cat.safetensors")], {}, {"lora_layout": layout}, FAMILIES[family])
    assert ("Load LoRA" in card) == named and f"A LoRA for {FAMILIES[family].label}" in card


def test_the_family_of_a_card_is_the_headers_and_not_the_settings(tmp_path):
    """Settings may say "auto"; what loads the file differs from family to family."""
    assert "load_lora_weights" in card_of([hub_lora(tmp_path)])
    file = tmp_path / "pixart.safetensors"
    notes = header.read_metadata(hub_lora(tmp_path)) | {"ss_base_model_version": "pixart_sigma"}
    save_file(
        {"transformer.a.lora_A.weight": torch.ones(1, 2), "transformer.a.lora_B.weight": torch.ones(2, 1)},
        file,
        metadata=notes,
    )
    assert "load_lora_weights" not in card_of([file]) and "inject_adapter_in_model" in card_of([file])


def test_a_repository_that_is_there_is_added_to_only_when_asked(tmp_path):
    file, hub = hub_lora(tmp_path), Hub(there=True)
    with pytest.raises(adapters.ExportError, match="exists already"):
        upload([file], "ada/cat", api=hub)
    assert not hub.asked and not hub.sent
    upload([file], "ada/cat", replace=True, private=False, api=hub)
    assert hub.asked == [("ada/cat", False)] and hub.sent


def test_a_missing_token_a_foreign_file_and_a_refusal_are_told(tmp_path, monkeypatch, lora):
    from safetensors.torch import save_file

    file = hub_lora(tmp_path)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(adapters.ExportError, match="hf auth login"):
        upload([file], "ada/cat")
    with pytest.raises(adapters.ExportError, match="owner/name"):
        upload([file], "cat", api=Hub())
    with pytest.raises(adapters.ExportError, match="hub refused ada/cat"):
        upload([file], "ada/cat", api=Hub(refuses=errors.HFValidationError("no right to write")))
    save_file(load_file(file), tmp_path / "foreign.safetensors")
    with pytest.raises(adapters.ExportError, match="no settings of Rollout Studio"):
        upload([tmp_path / "foreign.safetensors"], "ada/cat", api=Hub())


def test_new_tokens_go_along_or_nothing_is_sent(tmp_path):
    tokens = {"trigger_word": "qrx", "new_tokens": 2, "new_token_initializer": "dog", "model_family": "sdxl"}
    file, hub = hub_lora(tmp_path, **tokens), Hub()
    with pytest.raises(adapters.ExportError, match="0 embedding files"):
        upload([file], "ada/cat", api=hub)
    embedding = tmp_path / "embeddings" / "qrx.safetensors"
    embedding.parent.mkdir()
    embedding.write_bytes(b"rows")
    second = tmp_path / "cat-kohya.safetensors"
    second.write_bytes(file.read_bytes())
    upload([file, second], "ada/cat", api=hub)
    assert list(hub.sent) == ["README.md", file.name, second.name, "embeddings/qrx.safetensors"]
    assert hub.sent["embeddings/qrx.safetensors"] == str(embedding) and "`embeddings/qrx.safetensors`" in hub.card
    hub = Hub()
    with pytest.raises(adapters.ExportError, match="publish_texts"):
        upload([hub_lora(tmp_path, **tokens, publish_texts=False)], "ada/cat", api=hub)
    assert not hub.asked and not hub.sent


def test_a_runs_files_are_uploaded_by_its_name(tmp_path, monkeypatch, lora, capsys):
    import shutil

    run = RunStore(tmp_path / "runs").create(config_from_flat(SETTINGS), "cat")
    words = ["lora", "upload", "cat", "--repo", "ada/cat", "--runs-dir", str(tmp_path / "runs")]
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    assert cli(words) == 78 and "no LoRA file" in capsys.readouterr().err
    run.lora_path.mkdir()
    for name in ("cat.safetensors", "cat-kohya.safetensors"):
        shutil.copyfile(lora[0], run.lora_path / name)
    (run.lora_path / "cat.json").write_text(json.dumps({}), encoding="utf-8")
    assert cli(words) == 0
    told = capsys.readouterr()
    assert list(hub.sent) == ["README.md", "cat.safetensors", "cat-kohya.safetensors"] and "private" in told.err
    assert told.out.strip() == "https://huggingface.co/ada/cat"


# What a run says of its files ------------------------------------------------------------------------------------------------

CHECK = {"used": 96, "total": 96, "missing": [], "unexpected": ["x"]}
FILES = [{"path": "lora/cat.safetensors", "layout": "diffusers", "check": CHECK}, {"path": "lora/cat-kohya.safetensors", "layout": "kohya", "check": {**CHECK, "used": 90}}]  # fmt: skip


def test_the_terminal_names_each_file_with_its_layout_and_keys_and_where_the_copy_is():
    stream = io.StringIO()
    progress = Progress(stream)
    progress({"event": "exported", "step": 3, **FILES[0], "files": FILES, "placed": "/comfy/cat.safetensors"})
    progress({"event": "exported", "step": 4, "path": "lora/old.safetensors", "check": CHECK})  # of an earlier version
    said = stream.getvalue()
    for words in ("cat.safetensors (diffusers layout, loaded again: 96 of 96", "cat-kohya.safetensors (kohya layout, loaded again: 90 of 96",
                  "copied to /comfy/cat.safetensors", "old.safetensors (loaded again: 96 of 96"):  # fmt: skip
        assert words in said


def test_the_page_shows_the_check_of_each_file_and_where_the_copy_is(tmp_path):
    from rollout_studio.app.parts.watch import Watch
    from rollout_studio.app.runs.files import files_card

    store = RunStore(tmp_path / "runs")
    run = store.create(config_from_flat({}), "cat")
    run.lora_path.mkdir()
    for name in ("cat.safetensors", "cat-kohya.safetensors"):
        (run.lora_path / name).write_bytes(b"x")
    for event, expected in (
        ({**FILES[0], "files": FILES, "placed": "/comfy/<b>"}, ("(diffusers layout): 96 of 96 keys", "(kohya layout): 90 of 96 keys", "1 unexpected", "/comfy/&lt;b&gt;")),
        ({"path": "lora/cat.safetensors", "check": {"missing": [], "unexpected": []}}, ("as a check: 0 missing and 0 unexpected",)),
    ):  # fmt: skip
        log = SimpleNamespace(exported=event)
        card = files_card(store.summary(run), log, Watch(store.root))
        assert all(words in card for words in expected), card
        assert card.count("rs-file") == 2
