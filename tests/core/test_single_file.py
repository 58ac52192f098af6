"""Checkpoints in one file, as A1111 and ComfyUI have them: the same model as the folder that they were made from."""

import gc
import inspect
import json
import os
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline
from diffusers.loaders import single_file_model, single_file_utils
from original_layout import single_file, tensors
from rollout_studio.core.adapters.check import check_export
from rollout_studio.core.adapters.header import published_config
from rollout_studio.core.before.estimate import known_facts, memory_estimate
from rollout_studio.core.before.model_check import check_model
from rollout_studio.core.before.model_files import model_findings
from rollout_studio.core.before.preflight import preflight
from rollout_studio.core.config import ModelConfig, RunConfig, config_from_flat, idle_remarks
from rollout_studio.core.families import FAMILIES, ModelError, base, checkpoint_file, load_model, locate
from rollout_studio.core.families.checkpoint_file import recognise
from rollout_studio.core.families.fingerprint import part_fingerprint
from rollout_studio.core.families.known import known_family
from rollout_studio.core.families.loading import Loader
from rollout_studio.core.families.single_file import SingleFileLoader, clip_tokenizer
from rollout_studio.core.families.single_file_facts import Contents
from rollout_studio.core.look.bench import Bench
from rollout_studio.core.look.preview.request import Weights
from rollout_studio.core.train.loop import train
from rollout_studio.nodes.execute import fingerprints
from safetensors.torch import load_file, save_file
from stock import stock_pipeline
from tiny import PROMPTS
from tiny_run import losses

MADE = {"sd1": "sd1x", "sd2_v": "sd2x", "sdxl": "sdxl", "sd3": "sd3"} | {
    name: name for name in ("flux", "chroma", "flux2_klein", "flux2_dev", "zimage", "krea2", "qwen", "anima")
}
"""Tiny pipeline -> its family."""


@pytest.fixture(scope="module")
def folder_of(tiny_folder, tmp_path_factory):
    """The tiny folders; of those with CLIP's projection left as the identity, as SD 3 has it."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tiny_folder(name)
            if name == "sd3":
                pipe = DiffusionPipeline.from_pretrained(made[name])
                with torch.no_grad():
                    weight = pipe.text_encoder.text_projection.weight
                    weight.copy_(torch.eye(len(weight)))
                made[name] = tmp_path_factory.mktemp("sd3") / "model"
                pipe.save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture(scope="module")
def file_of(folder_of, tmp_path_factory):
    made = {}

    def file(name):
        if name not in made:
            made[name] = single_file(name, folder_of(name), tmp_path_factory.mktemp("file"))
        return made[name]

    return file


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """diffusers' converters, with the tiny transformers' width in place of the one that two of them have as a constant."""
    for kind, name in (("FluxTransformer2DModel", "flux"), ("ChromaTransformer2DModel", "chroma")):
        converter = f"convert_{name}_transformer_checkpoint_to_diffusers"
        source = inspect.getsource(getattr(single_file_utils, converter))
        assert source.count("inner_dim = 3072") == 1
        names = dict(vars(single_file_utils))
        exec(source.replace("inner_dim = 3072", "inner_dim = 32"), names)  # noqa: S102 - diffusers' own text
        monkeypatch.setitem(
            single_file_model.SINGLE_FILE_LOADABLE_CLASSES[kind], "checkpoint_mapping_fn", names[converter]
        )


def chosen(file, folder, **options):
    return ModelConfig(
        pretrained_model_name_or_path=str(file), pretrained_components=str(folder), device="cpu", **options
    )


@pytest.mark.parametrize("name", MADE)
def test_a_file_gives_the_pictures_of_the_folder_that_it_was_made_from(name, folder_of, file_of):
    folder = folder_of(name)
    plain = load_model(ModelConfig(pretrained_model_name_or_path=str(folder), device="cpu"), for_training=False)
    model = load_model(chosen(file_of(name), folder), for_training=False)
    assert model.name == MADE[name] and model.prediction_type == plain.prediction_type
    drawn = {"steps": 2, "height": 32, "width": 32, "seed": 3}
    for ours, theirs in zip(model.sample(list(PROMPTS), **drawn), plain.sample(list(PROMPTS), **drawn), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    for part in (
        model.component,
        "vae",
        *(each for each in model.facts.text_encoders if getattr(model.pipe, each) is not None),
    ):
        mine, other = getattr(model.pipe, part).state_dict(), getattr(plain.pipe, part).state_dict()
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in other)


@pytest.mark.parametrize("name", MADE)
def test_names_and_shapes_are_known_without_opening_the_weights(name, folder_of, file_of):
    """The estimate counts with them: they are those of the network that is opened."""
    checkpoint = recognise(file_of(name))
    pipe = stock_pipeline(folder_of(name))
    network = getattr(pipe, checkpoint.facts.component)
    by = [
        facts.name
        for facts in FAMILIES.values()
        if facts.single_file and facts.single_file.recognised(checkpoint.contents)
    ]
    assert by == [MADE[name]] == [checkpoint.facts.name]
    named = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert checkpoint.kind.network(checkpoint.contents) == named
    said = checkpoint.kind.says(checkpoint.contents).get(checkpoint.facts.component, {})
    for key, value in said.items():
        ours = list(network.config[key]) if isinstance(network.config[key], tuple) else network.config[key]
        assert ours == value, key


def beginning(file, start, into, *, without=(), **more):
    """The tiny Anima's file, the names of its network beginning with `start`."""
    named = {start + name.removeprefix("net."): tensor for name, tensor in load_file(file).items()}
    kept = {name: tensor for name, tensor in named.items() if not name.startswith(tuple(without))}
    return saved(kept | more, into / "x.safetensors")


@pytest.mark.parametrize(
    "start", ["net.", *(pytest.param(each, marks=pytest.mark.slow) for each in ("model.diffusion_model.", ""))]
)
def test_a_part_within_the_network_is_found_whatever_the_names_begin_with(start, folder_of, file_of, tmp_path):
    file, folder = beginning(file_of("anima"), start, tmp_path), folder_of("anima")
    report = check_model(chosen(file, folder))
    assert report.usable and report.family == "anima" and report.holds == ("transformer", "text_conditioner")
    plain = load_model(ModelConfig(pretrained_model_name_or_path=str(folder), device="cpu"), for_training=False)
    model = load_model(chosen(file, folder))  # in stages: encoders for the prompts, and the network when they are gone
    model.remember([""], negative=True)
    encoded = model.encode_prompts(PROMPTS)
    model.free_text_encoders()
    assert model.pipe.text_conditioner is None and next(model.denoiser.parameters()).is_meta is False
    for mine, theirs in zip(encoded, plain.encode_prompts(PROMPTS), strict=True):
        assert torch.equal(mine["prompt_embeds"], theirs["prompt_embeds"])
    mine, theirs = model.denoiser.state_dict(), plain.denoiser.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)
    source = locate(str(file), components=str(folder))
    assert part_fingerprint(source, "text_conditioner") != part_fingerprint(source, "text_encoder") is not None


def test_a_part_within_the_network_that_is_not_whole_is_refused(folder_of, file_of, tmp_path):
    folder = folder_of("anima")
    for changed, words in (
        ({"without": ["net.llm_adapter.blocks.1.mlp.0.weight"]}, "tensors are missing"),
        ({"net.llm_adapter.more.weight": torch.ones(2)}, "no place in it"),
        ({"net.llm_adapter.out_proj.weight": torch.ones(3, 3)}, "size mismatch"),
    ):
        file = beginning(file_of("anima"), "net.", tmp_path, **changed)
        with pytest.raises(ModelError, match=f"text_conditioner does not fit a Anima model.*{words}"):
            load_model(chosen(file, folder), for_training=False)
    cosmos = beginning(file_of("anima"), "net.", tmp_path, without=["net.llm_adapter."])
    with pytest.raises(ModelError, match="no family here recognises"):
        recognise(cosmos)


# Configs that come along ------------------------------------------------------------------------------------------------

NUMBERS = {
    "sd1x": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2x": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
    "sd3": {
        "transformer": 2_028_328_000,
        "vae": 83_819_683,
        "text_encoder": 123_650_304,
        "text_encoder_2": 694_659_840,
    },
}
"""Parameters of the released models, as their publishers and diffusers' users count them."""


def full_size(family):
    """The released pipeline, without memory."""
    folder = Path(checkpoint_file.__file__).parent / family / "single_file"
    index, parts = json.loads((folder / "model_index.json").read_text()), {}
    for part in NUMBERS[family]:
        library, name = index[part]
        kind = getattr(diffusers if library == "diffusers" else transformers, name)
        with init_empty_weights():
            if library == "diffusers":
                parts[part] = kind.from_config(json.loads((folder / part / "config.json").read_text()))
            else:
                parts[part] = kind(kind.config_class.from_pretrained(folder, subfolder=part))
    return SimpleNamespace(**{"text_encoder_3": None, **parts}), parts


@pytest.mark.parametrize("family", NUMBERS)
def test_the_configs_that_come_along_are_those_of_the_released_models(family):
    """By their numbers of parameters; and a file of that size is recognised and named as the network is."""
    pipe, parts = full_size(family)
    counted = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
    assert counted == NUMBERS[family]
    made = tensors("sd3" if family == "sd3" else family, pipe)
    contents = Contents({name: tuple(tensor.shape) for name, tensor in made.items()})
    assert [
        facts.name for facts in FAMILIES.values() if facts.single_file and facts.single_file.recognised(contents)
    ] == [family]
    facts = FAMILIES[family]
    network = parts[facts.component]
    named = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert facts.single_file.network(contents) == named
    converter = single_file_model.SINGLE_FILE_LOADABLE_CLASSES[type(network).__name__]["checkpoint_mapping_fn"]
    inside = {name: tensor for name, tensor in made.items() if name.startswith("model.diffusion_model.")}
    converted = converter(config=dict(network.config), checkpoint=inside)
    assert {key: tuple(tensor.shape) for key, tensor in converted.items()} == named
    assert set(facts.single_file.within(contents)) == set(parts) - {facts.component}


def test_the_tokenizer_that_comes_along_is_clips():
    """Numbers as openai/CLIP's own tokenizer gives them; padding as Stable Diffusion 1 and 2 have it."""
    first, second = (
        clip_tokenizer(
            json.loads(
                (
                    Path(checkpoint_file.__file__).parent / f"{family}/single_file/tokenizer/tokenizer_config.json"
                ).read_text()
            )
        )
        for family in ("sd1x", "sd2x")
    )
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407] and len(first) == 49408
    padded = [each("a", padding="max_length").input_ids for each in (first, second)]
    assert [len(each) for each in padded] == [77, 77] and [each[-1] for each in padded] == [49407, 0]


@pytest.fixture(scope="module")
def small_configs(folder_of, tmp_path_factory):
    """A tiny checkpoint whose family's own configs are tiny ones: it opens without anything beside it."""
    place = tmp_path_factory.mktemp("own")
    pipe = DiffusionPipeline.from_pretrained(folder_of("sdxl"))
    vocabulary = 49408
    for part in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, part)
        encoder.resize_token_embeddings(vocabulary)
        encoder.config.eos_token_id = 2
    for part in ("tokenizer", "tokenizer_2"):
        setattr(pipe, part, clip_tokenizer({"pad_token": "!", "model_max_length": 24}))
    pipe.save_pretrained(place / "whole")
    shutil.copytree(
        place / "whole",
        place / "sdxl" / "single_file",
        ignore=shutil.ignore_patterns("*.safetensors", "tokenizer.json", "vocab*"),
    )
    return place / "whole", single_file("sdxl", place / "whole", place), place


def test_a_whole_file_needs_nothing_beside_it(small_configs, monkeypatch):
    folder, file, families = small_configs
    monkeypatch.setattr(checkpoint_file, "FOLDER", families)
    theirs = load_model(ModelConfig(pretrained_model_name_or_path=str(folder), device="cpu"), for_training=False)
    ours = load_model(ModelConfig(pretrained_model_name_or_path=str(file), device="cpu"), for_training=False)
    drawn = [each.sample(["a red circle"], steps=2, height=32, width=32)[0].tobytes() for each in (ours, theirs)]
    assert drawn[0] == drawn[1]


# What it says -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "metadata", "expected"),
    [
        ({}, None, "epsilon"),
        ({"v_pred": torch.empty(0)}, None, "v_prediction"),
        ({}, {"modelspec.prediction_type": "v"}, "v_prediction"),
    ],
)
def test_what_the_network_predicts_is_read_from_the_file_where_it_says_it(
    more, metadata, expected, folder_of, tmp_path
):
    file = single_file("sdxl", folder_of("sdxl"), tmp_path, metadata=metadata, **more)
    model = load_model(chosen(file, folder_of("sdxl")), for_training=False)
    assert model.prediction_type == model.pipe.scheduler.config.prediction_type == expected
    assert check_model(chosen(file, folder_of("sdxl"))).prediction_type == expected


def test_a_half_precision_file_opens_in_the_precision_that_is_asked_for(folder_of, tmp_path):
    file = single_file("sdxl", folder_of("sdxl"), tmp_path, dtype=torch.float16)
    model = load_model(chosen(file, folder_of("sdxl"), base_model_precision="bfloat16"), for_training=False)
    kinds = [next(part.parameters()).dtype for part in (model.denoiser, model.pipe.text_encoder_2, model.vae)]
    assert kinds == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert recognise(file).precision == "float16"


def test_parts_that_the_file_lacks_come_from_the_pipeline_that_is_named(folder_of, tmp_path):
    without = ("first_stage_model.", "conditioner.embedders.1.")
    file, folder = single_file("sdxl", folder_of("sdxl"), tmp_path, without=without), folder_of("sdxl")
    model = load_model(chosen(file, folder), for_training=False)
    plain = load_model(ModelConfig(pretrained_model_name_or_path=str(folder), device="cpu"), for_training=False)
    drawn = [each.sample(["a"], steps=1, height=32, width=32)[0].tobytes() for each in (model, plain)]
    assert drawn[0] == drawn[1]
    report = check_model(chosen(file, folder))
    assert report.usable and report.holds == ("unet", "text_encoder") and report.lender == str(folder)
    assert any("has no vae, text_encoder_2" in finding.message for finding in report.findings)


def test_what_a_file_lacks_is_told_before_the_start_with_the_official_model(folder_of, file_of):
    facts, found = model_findings(ModelConfig(pretrained_model_name_or_path=str(file_of("flux"))))
    assert {finding.code for finding in found} == {"model-parts", "model-offline"}
    assert "black-forest-labs/FLUX.1-dev" in " ".join(finding.message for finding in found)
    assert facts.family.name == "flux" and facts.shapes["transformer_blocks.0.attn.add_q_proj.weight"] == (32, 32)
    with pytest.raises(
        ModelError, match=r"has no vae, text_encoder, text_encoder_2; that comes from 'black-forest-labs/FLUX.1-dev'"
    ):
        locate(str(file_of("flux")))


def test_a_text_encoder_that_may_be_absent_is_left_out_with_a_note(folder_of, file_of):
    """SD 3's T5: a file that has it is used without, unless a pipeline with its tokenizer is named."""
    found = model_findings(ModelConfig(pretrained_model_name_or_path=str(file_of("sd3"))))[1]
    (note,) = [finding for finding in found if finding.code == "model-parts"]
    assert (
        note.level == "note" and "text_encoder_3 is not used" in note.message and "pretrained_components" in note.remedy
    )
    assert not model_findings(chosen(file_of("sd3"), folder_of("sd3")))[1]


# Refused ----------------------------------------------------------------------------------------------------------------


def written(path, content):
    path.write_bytes(content)
    return path


BAD = {
    "a.ckpt": (lambda path, file: written(path, b"PK\x03\x04rest"), "pickled", "save_file"),
    "b.safetensors": (lambda path, file: written(path, b"PK\x03\x04rest"), "pickled", "safetensors"),
    "c.gguf": (lambda path, file: written(path, b"GGUF\x03"), "GGUF", "bfloat16"),
    "d.safetensors": (lambda path, file: written(path, file.read_bytes()[:-100]), "cut off", "again"),
    "e.safetensors": (lambda path, file: written(path, b""), "cut off", "again"),
    "f.txt": (lambda path, file: written(path, b"hello"), "no .safetensors", "hub id"),
    "g.safetensors": (lambda path, file: saved({"lora_unet_x.lora_down.weight": torch.ones(2, 3)}, path), "LoRA", "trained on"),
    "h.safetensors": (lambda path, file: saved({"a.weight": torch.ones(2, 3)}, path), "no family here recognises", "Stable Diffusion XL"),
    "i.safetensors": (lambda path, file: saved({"control_model.x": torch.ones(2)}, path), "control network", "Single files"),
    "j.safetensors": (lambda path, file: saved({"decoder.x": torch.ones(2)}, path), "VAE alone", "Single files"),
    "k.safetensors": (
        lambda path, file: saved({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(file).items()}, path), "fp8", "bfloat16"),
    "l.safetensors": (lambda path, file: saved({**load_file(file), "x.weight.absmax": torch.ones(2)}, path), "quantised", "same model"),
}  # fmt: skip


def saved(content, path):
    save_file(content, path)
    return path


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_a_base_are_refused_with_the_remedy_before_and_at_the_opening(name, file_of, tmp_path):
    make, words, remedy = BAD[name]
    file = make(tmp_path / name, file_of("sd1"))
    config = ModelConfig(pretrained_model_name_or_path=str(file), device="cpu")
    (finding,) = model_findings(config)[1]
    assert finding.level == "error" and words in finding.message and remedy in finding.remedy
    with pytest.raises(ModelError, match=words):
        load_model(config)
    assert not check_model(config).usable and known_family(config) is None


def test_contradictions_are_refused(folder_of, file_of, tmp_path):
    def fault(config):
        return " ".join(finding.message for finding in model_findings(config)[1] if finding.level == "error")

    assert "holds a sdxl model" in fault(chosen(file_of("sd1"), folder_of("sdxl")))
    assert "model_family is sd3" in fault(chosen(file_of("sd1"), folder_of("sd1"), model_family="sd3"))
    assert "is a single file, too" in fault(chosen(file_of("sd1"), file_of("sd1")))
    assert "revision" in fault(chosen(file_of("sd1"), folder_of("sd1"), revision="v2"))
    assert "no such folder" in fault(chosen(file_of("sd1"), tmp_path / "gone"))
    parts = load_file(file_of("sd1"))
    parts["model.diffusion_model.input_blocks.0.0.weight"] = torch.ones(8, 9, 3, 3)
    assert "inpainting" in fault(chosen(saved(parts, tmp_path / "inpainting.safetensors"), folder_of("sd1")))
    wide = {name: tensor for name, tensor in load_file(file_of("flux2_klein")).items() if name != "txt_in.weight"}
    file = saved({**wide, "txt_in.weight": torch.ones(32, 48)}, tmp_path / "9B.safetensors")
    assert "takes text of width 48 (joint_attention_dim)" in fault(chosen(file, folder_of("flux2_klein")))
    gone = tmp_path / "lends"
    shutil.copytree(folder_of("flux"), gone)
    for weights in (gone / "transformer").glob("*.safetensors"):  # they are in the file
        weights.unlink()
    assert fault(chosen(file_of("flux"), gone)) == ""
    shutil.rmtree(gone / "text_encoder_2")
    assert "text_encoder_2/ is missing" in fault(chosen(file_of("flux"), gone))


def test_a_distilled_transformer_is_known_by_what_it_lacks(folder_of, file_of, tmp_path):
    kept = {name: tensor for name, tensor in load_file(file_of("flux")).items() if not name.startswith("guidance_in")}
    file = saved(kept, tmp_path / "schnell.safetensors")
    config = chosen(file, folder_of("flux"))
    (finding,) = [each for each in model_findings(config)[1] if each.level == "error"]
    assert "takes no guidance" in finding.message
    with pytest.raises(ModelError, match="takes no guidance"):
        load_model(config)


def test_a_file_that_lacks_tensors_is_refused_and_not_filled_with_noise(folder_of, file_of, tmp_path):
    for start in (
        "model.diffusion_model.middle_block.1.norm",
        "first_stage_model.decoder.mid",
        "cond_stage_model.transformer.text_model.final",
    ):
        kept = {name: tensor for name, tensor in load_file(file_of("sd1")).items() if not name.startswith(start)}
        with pytest.raises(ModelError, match="missing"):
            load_model(chosen(saved(kept, tmp_path / "x.safetensors"), folder_of("sd1")), for_training=False)


# Training ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """The parts that were read from the file, in order; "network" where it was asked for, with the text encoders that were in memory then."""
    encoders, order = [], []
    first, network, part = Loader.before_network, Loader.network, SingleFileLoader._part

    def recorded_first(self):
        pipe = first(self)
        assert all(weight.is_meta for weight in getattr(pipe, self.facts.component).parameters())
        return pipe

    def recorded_part(self, name):
        order.append(name)
        made = part(self, name)
        if name in self.facts.text_encoders:
            encoders.append(weakref.ref(made))
        return made

    def recorded_network(self):
        gc.collect()
        order.append(("network", sum(one() is not None for one in encoders)))
        return network(self)

    monkeypatch.setattr(Loader, "before_network", recorded_first)
    monkeypatch.setattr(Loader, "network", recorded_network)
    monkeypatch.setattr(SingleFileLoader, "_part", recorded_part)
    return order


def test_a_training_from_a_file_is_that_from_its_folder_and_holds_one_part_at_a_time(
    folder_of, file_of, tiny_run, opened, without_drift, monkeypatch
):
    monkeypatch.setattr(base, "ENCODERS_BESIDE_NETWORK", 0)
    more = {"validation_prompts": ["a"], "with_prior_preservation": True, "class_prompt": "a thing", "num_class_images": 1,
            "class_sample_steps": 1, "max_train_steps": 2}  # fmt: skip
    runs = [
        tiny_run(
            "sdxl",
            "file",
            **more,
            pretrained_model_name_or_path=str(file_of("sdxl")),
            pretrained_components=str(folder_of("sdxl")),
        ),
        tiny_run("sdxl", "folder", **more),
    ]
    assert [each.message for each in preflight(config_from_flat(runs[0].read_config())) if each.level == "error"] == []
    assert train(runs[0]) == 0
    assert opened[:5] == ["vae", "text_encoder", "text_encoder_2", ("network", 0), "unet"]
    assert opened[5:] == ["unet", "vae"]  # the load check of the exported file, with the trainer's own prompts
    assert train(runs[1]) == 0
    assert losses(runs[0]) == losses(runs[1]) and len(losses(runs[0])) == 2
    loras = [load_file(next(run.path.glob("lora/*.safetensors"))) for run in runs]
    assert loras[0].keys() == loras[1].keys() and all(torch.equal(loras[0][key], loras[1][key]) for key in loras[0])
    config = config_from_flat(runs[0].read_config())
    check = check_export(next(runs[0].path.glob("lora/*.safetensors")), config)  # against the base opened afresh
    assert check.passed and check.used == check.total > 0
    assert file_of("sdxl").parent.name not in json.dumps(published_config(config))


def test_a_text_encoder_in_a_file_is_told_by_its_own_tensors(folder_of, file_of, tmp_path):
    """So that captions cached for it are found again, whatever network lies beside it."""

    def fingerprint(file):
        return part_fingerprint(locate(str(file), components=str(folder_of("sd1"))), "text_encoder")

    tensors, told = load_file(file_of("sd1")), [fingerprint(file_of("sd1"))]
    for start in ("model.diffusion_model.", "cond_stage_model."):
        name = next(each for each in sorted(tensors) if each.startswith(start) and tensors[each].is_floating_point())
        save_file({**tensors, name: tensors[name] + 1}, tmp_path / f"{start}safetensors")
        told.append(fingerprint(tmp_path / f"{start}safetensors"))
    assert told[0] is not None and told[0] == told[1] != told[2]


def test_a_full_fine_tune_of_a_file_becomes_a_folder_that_opens(folder_of, file_of, tiny_run, without_drift):
    run = tiny_run(
        "sd1", "full", model_type="full", max_train_steps=1, pretrained_model_name_or_path=str(file_of("sd1")),
        pretrained_components=str(folder_of("sd1")),
    )  # fmt: skip
    assert train(run) == 0
    (index,) = run.path.rglob("model_index.json")
    assert locate(str(index.parent)).family == "sd1x"


def test_of_a_hub_that_lends_parts_only_what_the_file_lacks_is_fetched(folder_of, file_of, monkeypatch):
    source = locate(str(file_of("flux")), components=str(folder_of("flux")))
    remote = replace(source, frame=replace(source.frame, location="owner/model"))
    asked = []

    def download(cls, name, **options):
        asked.append((name, "transformer" in options, "vae" in options))
        raise OSError("no network")

    monkeypatch.setattr(diffusers.FluxPipeline, "download", classmethod(download))
    with pytest.raises(ModelError, match="no network"):
        SingleFileLoader(FAMILIES["flux"], remote, torch.float32).before_network()
    assert asked == [("owner/model", True, False)]  # a part that is named is not downloaded


def test_a_stopped_run_of_a_file_goes_on_and_its_checkpoint_can_be_tried(folder_of, file_of, tiny_run, without_drift):
    more = {
        "pretrained_model_name_or_path": str(file_of("sd1")),
        "pretrained_components": str(folder_of("sd1")),
        "max_train_steps": 2,
    }
    whole, parts = tiny_run("sd1", "whole", **more), tiny_run("sd1", "parts", **more)
    assert train(whole) == 0
    heard = []

    def stop_after_the_first(event):
        if event["event"] == "step" and not heard:
            heard.append(parts.send("stop-and-save"))

    assert train(parts, listen=stop_after_the_first) == 0 and len(losses(parts)) == 1
    assert train(parts, resume=True) == 0
    assert losses(parts) == losses(whole)
    bench = Bench()
    bench.open(config_from_flat(parts.read_config()))
    shown = bench.with_weights(Weights("run", parts.path, 2, "tuned"))
    assert shown is not None and bench.model.has_adapter and bench.model.name == "sd1x"


def test_text_encoders_come_back_from_the_file(folder_of, file_of):
    model = load_model(chosen(file_of("sdxl"), folder_of("sdxl")))
    before = model.encode_prompts(["a red circle"])
    model.free_text_encoders()
    after = model.encode_prompts(["a red circle"])
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])


def test_the_estimate_counts_a_file_as_it_counts_its_folder(folder_of, file_of):
    for name, family in MADE.items():
        folder, file = (
            known_facts(ModelConfig(pretrained_model_name_or_path=str(path), pretrained_components=lent, device="cpu"))
            for path, lent in ((folder_of(name), None), (file_of(name), str(folder_of(name))))
        )
        configs = [RunConfig(model=ModelConfig(device="cpu"))] * 2
        ours, theirs = (memory_estimate(config, facts) for config, facts in zip(configs, (file, folder), strict=True))
        assert ours.parts == theirs.parts and ours.parts["weights"] > 0, name
        assert (file.native_resolution, file.latent_channels, file.text) == (
            folder.native_resolution,
            folder.latent_channels,
            folder.text,
        )
        assert known_family(ModelConfig(pretrained_model_name_or_path=str(file_of(name)))).name == family


def test_the_path_of_the_rest_does_nothing_for_a_folder():
    config = config_from_flat({"pretrained_model_name_or_path": "demo-flow", "pretrained_components": "x"})
    assert any("pretrained_components is not used" in remark for remark in idle_remarks(config))
    config = config_from_flat({"pretrained_model_name_or_path": "x.safetensors", "pretrained_components": "x"})
    assert not any("pretrained_components" in remark for remark in idle_remarks(config))


def test_what_is_kept_of_a_file_is_made_again_when_the_file_changes(folder_of, file_of, tmp_path):
    """The keys of a node's result and of class pictures."""
    file = tmp_path / "x.safetensors"
    shutil.copy(file_of("sd1"), file)
    first = fingerprints.of_model(str(file))
    assert first != str(file) and fingerprints.of_model(str(file)) == first
    source = locate(str(file), components=str(folder_of("sd1")))
    assert source.weight_files("unet") == [file] and source.weight_files("tokenizer") == []
    os.utime(file, ns=(1, 1))
    assert fingerprints.of_model(str(file)) != first
