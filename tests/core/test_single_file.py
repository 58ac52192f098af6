"""Checkpoints in one file, as A1111 and ComfyUI have them: the same model as the folder that they were made from."""

import gc
import inspect
import json
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import single_file_model, single_file_utils
from original_layout import single_file, tensors
from rollout_studio.core.config import ModelConfig
from rollout_studio.core.families import FAMILIES, ModelError, load_model, locate
from rollout_studio.core.families.checkpoint_file import recognise
from tiny import PROMPTS

MADE = {"sd1": "sd1x", "sd2_v": "sd2x", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux"}
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
def narrow_flux(monkeypatch):
    """diffusers' converter, with the tiny transformer's width in place of the one that it has as a constant."""
    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    assert source.count("inner_dim = 3072") == 1
    names = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", "inner_dim = 32"), names)
    kinds = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(kinds, "checkpoint_mapping_fn", names["convert_flux_transformer_checkpoint_to_diffusers"])


def chosen(file, folder, **options):
    return ModelConfig(
        pretrained_model_name_or_path=str(file), pretrained_components_path=str(folder), device="cpu", **options
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
    for part in (model.component, "vae", *(each for each in model.facts.text_encoders if getattr(model.pipe, each) is not None)):
        mine, other = getattr(model.pipe, part).state_dict(), getattr(plain.pipe, part).state_dict()
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in other)


@pytest.mark.parametrize("name", MADE)
def test_names_and_shapes_are_known_without_opening_the_weights(name, folder_of, file_of):
    """The estimate counts with them: they are those of the network that is opened."""
    checkpoint = recognise(file_of(name))
    pipe = DiffusionPipeline.from_pretrained(folder_of(name))
    network = getattr(pipe, checkpoint.facts.component)
    assert checkpoint.facts.name == MADE[name]
    named = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert checkpoint.kind.renamed(checkpoint.contents.network) == named
    said = checkpoint.kind.says(checkpoint.contents).get(checkpoint.facts.component, {})
    for key, value in said.items():
        ours = list(network.config[key]) if isinstance(network.config[key], tuple) else network.config[key]
        assert ours == value, key
