"""Checkpoints of pipelines that diffusers has as modular blocks only: opened part by part, called and saved as others are."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from rollout_studio.core.before.model_files import model_findings
from rollout_studio.core.config import ModelConfig
from rollout_studio.core.families import FAMILIES, ModelError, load_model, locate
from rollout_studio.core.families.index_files import MODULAR
from rollout_studio.core.families.modular import ModularLoader
from rollout_studio.core.families.single_file import loader_of
from stock import open_model, stock_pipeline
from tiny import PROMPTS, predictions

NAME = "anima"


@pytest.fixture(scope="module")
def folder(tiny_folder):
    return tiny_folder(NAME)


@pytest.fixture(scope="module")
def model(folder):
    return open_model(folder)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def findings(place, **options):
    return model_findings(ModelConfig(pretrained_model_name_or_path=str(place), **options))[1]


def test_where_an_index_says_that_parts_lay_and_which_blocks_they_had_is_not_followed(copy, model):
    index = json.loads((copy / MODULAR).read_text())
    parts = [entry for entry in index.values() if isinstance(entry, list)]
    assert len(parts) == 7
    for entry in parts:
        entry[2] |= {"pretrained_model_name_or_path": "somebody/elsewhere", "revision": "old", "subfolder": "there"}
    (copy / MODULAR).write_text(json.dumps(index | {"_blocks_class_name": "TheirOwnBlocks"}))
    (copy / "modular_config.json").write_text(json.dumps({"auto_map": {"ModularPipelineBlocks": "evil.Blocks"}}))
    (copy / "evil.py").write_text("raise SystemExit('code of the repository ran')")
    assert findings(copy) == [] and torch.equal(predictions(open_model(copy)), predictions(model))


@pytest.mark.parametrize("part", ["text_conditioner", "t5_tokenizer"])
def test_a_part_that_is_not_there_is_refused_before_and_at_the_opening(part, copy):
    shutil.rmtree(copy / part)
    (finding,) = findings(copy)
    assert finding.level == "error" and f"its part {part}/ is missing" in finding.message
    with pytest.raises(ModelError, match=f"lacks its part {part}") as error:
        open_model(copy)
    assert "download or save the model again" in error.value.remedy


def test_pickled_weights_of_a_part_are_refused(copy):
    (copy / "text_conditioner" / "diffusion_pytorch_model.safetensors").rename(
        copy / "text_conditioner" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(ModelError, match="can run code"):
        open_model(copy)
    assert "only as pickles" in findings(copy)[0].message


def test_a_variant_is_opened_where_a_part_has_it_and_refused_where_none_has(copy, model):
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert torch.equal(predictions(open_model(copy, variant="fp16")), predictions(model))
    staged = load_model(ModelConfig(pretrained_model_name_or_path=str(copy), device="cpu", variant="fp16"))
    assert torch.equal(staged.unconditional()["prompt_embeds"], model.unconditional()["prompt_embeds"])
    assert findings(copy, variant="fp16") == [] and "only fp16" in findings(copy)[0].message
    with pytest.raises(ModelError):
        open_model(copy)
    with pytest.raises(ModelError, match="no files of variant 'bf16'") as error:
        open_model(copy, variant="bf16")
    assert "Leave variant out" in error.value.remedy


def test_of_a_hub_model_what_is_needed_is_fetched_and_no_pickles(folder, monkeypatch):
    """All of it before anything is prepared, and afterwards the parts that are opened."""
    import huggingface_hub

    asked = []

    def snapshot(name, *, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, {each.removesuffix("/*") for each in allow_patterns if each.endswith("/*")}))
        assert MODULAR in allow_patterns and {"*.bin", "*.*.safetensors"} <= set(ignore_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    source = replace(locate(str(folder)), location="owner/model", revision="v1")
    loader = loader_of(FAMILIES[NAME], source, torch.float32)
    assert isinstance(loader, ModularLoader)
    # What the source reads of its parts' configs would be asked of the hub too.
    monkeypatch.setattr(ModularLoader, "_skeleton", lambda self: torch.nn.Linear(1, 1))
    pipe = loader.before_network()
    assert pipe.text_encoder is None and pipe.vae is not None and isinstance(pipe.transformer, torch.nn.Linear)
    small = {"vae", "scheduler", "tokenizer", "t5_tokenizer"}
    assert asked == [
        ("owner/model", "v1", small | {"transformer", "text_encoder", "text_conditioner"}),
        ("owner/model", "v1", small),
    ]
    assert set(loader.text_encoders()) == {"text_encoder", "text_conditioner"}
    assert asked[-1][2] == {"scheduler", "tokenizer", "t5_tokenizer", "text_encoder", "text_conditioner"}

    def refused(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(ModelError, match="could not be reached"):
        loader.fetch()


def test_a_saved_pipeline_names_no_folder_of_this_computer_and_opens_again(model, tmp_path):
    model.pipe.save_pretrained(tmp_path / "saved", safe_serialization=True)
    index = (tmp_path / "saved" / MODULAR).read_text()
    assert str(tmp_path) not in index and json.loads(index)["_class_name"] == "AnimaModularPipeline"
    assert torch.equal(predictions(open_model(tmp_path / "saved")), predictions(model))
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    stock = stock_pipeline(tmp_path / "moved")
    assert all(getattr(stock, part) is not None for part in stock.pretrained_component_names)


def test_it_is_called_as_others_are_and_keeps_its_own_strength(model):
    asked = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "latent", "return_dict": False}
    before = (model.default_steps, model.default_guidance)
    inputs = model.pipeline_inputs(model.encode_prompts(PROMPTS), model.unconditional())
    (plain,) = model.pipe(**inputs, guidance_scale=1.0, generator=torch.Generator().manual_seed(0), **asked)
    (strong,) = model.pipe(**inputs, guidance_scale=9.0, generator=torch.Generator().manual_seed(0), **asked)
    assert plain.shape == (2, 4, 1, 8, 8) and (strong - plain).abs().max() > 1e-3
    assert before == (model.default_steps, model.default_guidance) == (50, 4.0)
    with pytest.raises(ValueError, match="not prompt_embed"):
        model.pipe(prompt_embed=1, guidance_scale=1.0, **asked)
    with pytest.raises(ValueError, match="gives latents alone"):
        model.pipe(**inputs, guidance_scale=1.0, **asked | {"output_type": "pil"})
