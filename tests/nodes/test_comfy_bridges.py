"""The bridges between ComfyUI's types and ours, on fakes of what they touch (comfy_fakes.py says what those follow)."""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import comfy_fakes as fakes
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families import ModelError, load_model
from rollout_studio.nodes.comfy import bridges, running
from rollout_studio.nodes.comfy.host_model import SCHEDULES, HostModel
from rollout_studio.nodes.comfy.pack import mappings
from rollout_studio.nodes.graph.values import settings
from tiny import tiny_folder  # noqa: F401 - the fixture

CLASSES, _ = mappings()
WORDS = ["a red circle", "sks on blue, far left"]
KINDS = {
    "sd1": (fakes.SD15, fakes.ModelSamplingDiscrete, fakes.EPS),
    "sd2_v": (fakes.SD20, fakes.ModelSamplingDiscrete, fakes.V_PREDICTION),
    "sdxl": (fakes.SDXL, fakes.ModelSamplingDiscrete, fakes.EPS),
    "sd3_without_t5": (fakes.SD3, fakes.ModelSamplingDiscreteFlow, fakes.CONST),
}


@pytest.fixture
def host(tmp_path, monkeypatch, store):
    folders = {"output": tmp_path / "output", "temp": tmp_path / "temp", "loras": tmp_path / "loras"}
    fakes.install(monkeypatch, folders)
    monkeypatch.setattr(running, "open_store", lambda root: store)
    return folders


@pytest.fixture(scope="module")
def opened(tiny_folder):  # noqa: F811 - the fixture
    """A tiny model of ours by its name, opened once: nothing here changes it."""

    @cache
    def load(name):
        flat = {
            "pretrained_model_name_or_path": str(tiny_folder(name)),
            "base_model_precision": "float32",
            "device": "cpu",
        }
        return load_model(config_from_flat(flat).model, for_training=False)

    return load


@pytest.fixture
def tiny(opened):
    """(our model, what ComfyUI's loader would give of the same weights)."""

    def made(name="sd1"):
        own, (kind, table, meaning) = opened(name), KINDS[name]
        given = 3.0 if meaning is fakes.CONST else own.pipe.scheduler.alphas_cumprod
        return own, fakes.loaded(own, kind, table, meaning, given, pooled=name in ("sdxl", "sd3_without_t5"))

    return made


def call(key, **given):
    """What a node answers to ComfyUI."""
    types = CLASSES[f"RolloutStudio{key}"].INPUT_TYPES()
    defaults = {
        name: entry[1].get("default") for part in ("required", "optional") for name, entry in types[part].items()
    }
    return CLASSES[f"RolloutStudio{key}"]().run(**{**defaults, **given})


@pytest.mark.parametrize("name", KINDS)
def test_the_hosts_model_answers_as_ours_with_the_same_weights(name, host, tiny):
    """Also at times between two entries of the table, which the host by itself would round."""
    own, (model, clip, vae) = tiny(name)
    adapted = HostModel(model, clip, vae)
    x = torch.randn(2, own.latent_channels, 8, 6, generator=torch.Generator().manual_seed(0))
    times = [0.999, 0.31] if own.is_flow else [3.3, 700.25]
    answer = adapted.denoise(x, torch.tensor(times), adapted.collate(adapted.encode_prompts(WORDS)))
    expected = own.denoise(x, torch.tensor(times), own.collate(own.encode_prompts(WORDS)))
    torch.testing.assert_close(answer, expected, rtol=2e-4, atol=2e-4)
    assert adapted.prediction_type == own.prediction_type and adapted.name == own.name
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(adapted.encode_images(pixels), own.encode_images(pixels), rtol=1e-4, atol=1e-5)
    latents = own.encode_images(pixels)
    torch.testing.assert_close(adapted.decode(latents), own.decode(latents), rtol=1e-4, atol=1e-5)


def test_nothing_stays_on_the_hosts_model(host, tiny):
    """It is cloned: the table that does not round is the clone's, as the host keeps patches."""
    _, (model, clip, vae) = tiny()
    adapted = HostModel(model, clip, vae)
    adapted.denoise(torch.randn(1, 4, 8, 8), torch.tensor([10.5]), adapted.collate(adapted.encode_prompts(WORDS[:1])))
    assert "model_sampling" not in model.objects and model.model.current_patcher is None
    fakes.prepare_sampling(model, None, {})
    sigma = model.model.model_sampling.sigmas[[10]]
    assert model.model.model_sampling.timestep(sigma).tolist() == [10]


def test_the_hosts_wrapper_of_its_network_acts(host, tiny):
    _, (model, clip, vae) = tiny()
    seen = []

    def wrapper(apply, given):
        seen.append(len(given["input"]))
        return apply(given["input"], given["timestep"], **given["c"])

    model.model_options["model_function_wrapper"] = wrapper
    adapted = HostModel(model, clip, vae)
    adapted.denoise(torch.randn(2, 4, 8, 8), torch.tensor([5.0, 9.0]), adapted.collate(adapted.encode_prompts(WORDS)))
    assert seen == [2]


def test_texts_of_several_windows_are_repeated_to_one_length(host, tiny):
    _, loaded = tiny()
    long, short = torch.randn(6, 16), torch.randn(4, 16)
    texts = HostModel(*loaded).collate([{"prompt_embeds": long}, {"prompt_embeds": short}])["prompt_embeds"]
    assert texts.shape == (2, 12, 16) and torch.equal(texts[1, 4:8], short)


def dataset(tmp_path):
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, colour in enumerate(("red", "blue")):
        Image.effect_noise((64, 64), 40 + 60 * number).convert("RGB").save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} thing", encoding="utf-8")
    return settings({"instance_data_dir": str(folder), "resolution": 64})


PROBE = settings({"drift_num_images": 1, "drift_offsets": [1], "drift_fine_factor": 2})
SHORT = settings({"scheduled_sampling_grid_steps": 3})


def test_a_stock_models_report_has_the_numbers_of_our_own(host, tiny, tmp_path):
    """Beside it a patched clone, which shares the network: each is loaded before it is asked."""
    from rollout_studio.core.look.drift.files import read_report
    from rollout_studio.core.look.drift.measure import measure
    from rollout_studio.core.look.drift.settings import Settings
    from rollout_studio.core.look.revisit import for_measuring, probe_sets

    own, (model, clip, vae) = tiny()
    patched, data = model.clone(), dataset(tmp_path)
    patched.add_patches(["some.weight"], 0.5)
    answer = call(
        "ComfyDriftReport", model=patched, base=model, clip=clip, vae=vae, dataset=data, drift=PROBE, rollout=SHORT
    )
    report, _, words = answer["result"]
    config = for_measuring(config_from_flat(data.flat | PROBE.flat | SHORT.flat))
    expected = measure(
        own, probe_sets(own, config, tmp_path / "cache"), Settings.from_config(config), weights="base"
    ).curves
    curves = read_report(report.path).curves
    found = [curve for curve in curves if curve.weights == "base"]
    assert [curve.role for curve in found] == [curve.role for curve in expected]
    for one, other in zip(found, expected, strict=True):
        for kind in ("short", "trajectory", "clean_loss"):
            for point, right in zip(getattr(one, kind), getattr(other, kind), strict=True):
                assert point.t == pytest.approx(right.t, rel=1e-4)
                for name, measure_ in right.measures.items():
                    assert point.measures[name].value == pytest.approx(
                        measure_.value, rel=2e-3, abs=2e-4, nan_ok=True
                    ), name
    assert (
        curves[0].weights == "tuned"
        and curves[0].short[0].measures["distance"] != found[0].short[0].measures["distance"]
    )
    assert len(patched.patches) == 1 and not model.patches
    assert words and answer["ui"]["text"] == [words] and len(answer["ui"]["images"]) >= 2


def test_a_rollout_of_a_stock_model_is_shown(host, tiny, tmp_path):
    _, (model, clip, vae) = tiny()
    answer = call(
        "ComfyRolloutPreview", model=model, clip=clip, vae=vae, dataset=dataset(tmp_path), rollout=SHORT, offset=1
    )
    assert len(answer["ui"]["images"]) == 1 and answer["result"][0].shape[-1] == 3


def test_what_cannot_be_measured_is_refused_and_a_node_named(host, tiny):
    own, (model, clip, vae) = tiny()
    given = {"model": model, "clip": clip, "vae": vae, "dataset": settings({})}
    model.model.model_config = fakes.Flux()
    with pytest.raises(
        RuntimeError, match="its kind Flux: inside ComfyUI only .*Stable Diffusion XL.* Model node.*Rollout Preview"
    ):
        call("ComfyRolloutPreview", **given)
    own, (model, clip, vae) = tiny()
    model.model.model_config.unet_config["in_channels"] = 9
    with pytest.raises(ModelError, match="takes 9 channels where latents have 4"):
        HostModel(model, clip, vae)
    model.model.model_config.unet_config["in_channels"] = 4
    vae.latent_channels = 16
    with pytest.raises(ModelError, match="The VAE has 16 latent channels, the model 4"):
        HostModel(model, clip, vae)
    alphas = own.pipe.scheduler.alphas_cumprod
    model.add_object_patch("model_sampling", fakes.sampling(fakes.ModelSamplingDiscrete, fakes.LCM, alphas))
    with pytest.raises(ModelError, match="with LCM, which has no counterpart"):
        HostModel(model, clip, fakes.Vae(own))


def test_the_widget_offers_the_schedules_that_the_adapter_knows():
    assert bridges.SCHEDULE.choices == SCHEDULES


def test_a_stop_in_comfyui_ends_a_measurement(host, tiny, tmp_path, monkeypatch):
    from types import SimpleNamespace

    class InterruptProcessingException(BaseException):
        pass

    def check():
        raise InterruptProcessingException

    monkeypatch.setitem(
        sys.modules, "comfy.model_management", SimpleNamespace(throw_exception_if_processing_interrupted=check)
    )
    _, (model, clip, vae) = tiny()
    with pytest.raises(InterruptProcessingException):
        call("ComfyDriftReport", model=model, clip=clip, vae=vae, dataset=dataset(tmp_path), drift=PROBE, rollout=SHORT)


# ---- a trained LoRA


@pytest.fixture
def lora_file(monkeypatch, tmp_path):
    """In place of a run's export: a file with two layers, whose names a test may change."""
    from safetensors.torch import save_file

    names = ["unet.a.lora_A.weight", "unet.b.lora_A.weight"]

    def for_loader(context, checkpoint, name, folder):
        folder.mkdir(parents=True, exist_ok=True)
        assert not torch.is_inference_mode_enabled()
        save_file(
            {each: torch.ones(1, 2) for each in names},
            str(folder / f"{name}.safetensors"),
            metadata={"ss_network_dim": "1"},
        )
        return folder / f"{name}.safetensors"

    monkeypatch.setattr(bridges, "for_loader", for_loader)
    return names


def test_our_lora_lands_on_the_hosts_model_and_in_its_list(host, tiny, lora_file):
    _, (model, clip, _) = tiny()
    with torch.inference_mode():  # as ComfyUI runs nodes
        answer = call("ComfyLoRA", checkpoint="weights", model=model, clip=clip, strength_model=0.5, name="mine")
    changed, text, listed = answer["result"]
    assert changed.patches == {name: [0.5] for name in lora_file} and not model.patches and not text.patcher.patches
    assert (host["loras"] / listed).is_file() and Path(listed) == Path("rollout-studio", "mine.safetensors")
    assert answer["ui"]["text"] == [listed]


def test_without_a_model_the_lora_is_only_saved(host, lora_file):
    model, clip, listed = call("ComfyLoRA", checkpoint="weights")["result"]
    assert model is None and clip is None and (host["loras"] / listed).is_file()


def test_a_lora_of_another_kind_is_refused_with_the_number_of_layers(host, tiny, lora_file):
    _, (model, _, _) = tiny()
    lora_file[:] = ["unet.a.lora_A.weight", "unet.foreign.lora_A.weight"]
    with pytest.raises(
        RuntimeError, match=r"1 of the LoRA's 2 layers fit ComfyUI's model \(SD15\).*Sample Images node"
    ):
        call("ComfyLoRA", checkpoint="weights", model=model)


def test_a_text_encoders_layers_go_onto_the_clip(host, tiny, lora_file):
    _, (model, clip, _) = tiny()
    lora_file.append("lora_te_x.lora_down.weight")
    _, text, _ = call("ComfyLoRA", checkpoint="weights", model=model, clip=clip)["result"]
    assert list(text.patcher.patches) == ["lora_te_x.lora_down.weight"]


def test_the_saved_file_has_the_names_that_comfyui_knows(opened, monkeypatch, tmp_path, store):
    """The diffusers layout of a UNet is not among them. The header goes along."""
    from types import SimpleNamespace

    from rollout_studio.core.adapters import attach, export
    from rollout_studio.core.adapters.header import read_header
    from rollout_studio.nodes.execute.context import Context

    own = opened("sd1")
    flat = {"pretrained_model_name_or_path": own.source.location, "lora_rank": 2, "device": "cpu"}
    config = config_from_flat(flat)
    model = load_model(config.model, for_training=False)
    attach(model, config)
    ready = export(model, tmp_path / "run.safetensors", config, step=3)
    monkeypatch.setattr(bridges, "exported", lambda context, checkpoint, name, folder: ready)
    monkeypatch.setattr(bridges.following, "config_of", lambda run: config)
    file = bridges.for_loader(
        Context(store, tmp_path, tmp_path), SimpleNamespace(run=tmp_path), "mine", tmp_path / "loras" / "ours"
    )
    header = read_header(file)
    told = header.pop("__metadata__")
    assert all(name.startswith("lora_unet_") for name in header) and any(
        name.endswith(".lora_down.weight") for name in header
    )
    assert told["ss_network_dim"] == "2" and told["ss_base_model_version"] == "sd_v1" and "ss_steps" in told
    assert len(header) == 3 * len([name for name in read_header(ready) if ".lora_A." in name])


def test_a_dora_of_the_default_layout_is_written_anew_from_its_checkpoint(opened, monkeypatch, tmp_path, store):
    from types import SimpleNamespace

    from rollout_studio.core.adapters import adapter_state, attach, export_lora
    from rollout_studio.core.look import revisit
    from rollout_studio.nodes.execute.context import Context
    from rollout_studio.nodes.graph.values import Checkpoint
    from safetensors.torch import load_file

    flat = {"pretrained_model_name_or_path": opened("sd1").source.location, "lora_rank": 2, "lora_type": "dora", "device": "cpu"}  # fmt: skip
    config = config_from_flat(flat)
    run, model = store.create(config, "cat"), load_model(config.model)
    attach(model, config)
    export_lora(model, run.lora_path / "cat.safetensors", config)
    found = SimpleNamespace(tensors={"trainable": adapter_state(model)})
    monkeypatch.setattr(revisit, "open_checkpoint", lambda run, step: found)
    checkpoint = Checkpoint(str(run.path), "cat", config.training.max_train_steps, "a" * 64)
    (tmp_path / "work").mkdir()
    file = bridges.for_loader(Context(store, tmp_path / "work", tmp_path), checkpoint, "mine", tmp_path / "loras")
    expected = load_file(export_lora(model, tmp_path / "kohya.safetensors", config, layout="kohya"))
    written = load_file(file)
    assert file.parent == tmp_path / "loras" and written.keys() == expected.keys()
    assert all(torch.allclose(written[name], expected[name]) for name in expected)
    assert any(name.endswith(".dora_scale") for name in expected)


def test_layers_of_every_kind_are_counted():
    names = ["lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.alpha", "unet.b.lora_A.weight",
             *(f"lora_unet_c.hada_w{end}" for end in ("1_a", "1_b", "2_a", "2_b")), "lora_unet_d.lokr_w1", "lora_unet_d.lokr_w2_a",
             "lora_unet_e.lokr_w1_a", "lora_unet_e.lokr_w1_b", "lora_unet_e.lokr_w2", "lora_te_x.hada_w1_a"]  # fmt: skip
    assert bridges.layers_in(names) == {"model": 5, "clip": 1}


# ---- pictures on wires as a dataset


def picture(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255


def files_in(folder):
    return {path.name: path.read_bytes() for path in Path(folder.path).iterdir()}


def test_stock_pictures_are_a_folder_named_by_its_content(host, store):
    """ComfyUI hands over lists, because the node takes lists: one list of two batches of different sizes."""
    batches, lines = [picture(2, 8, 9, 3), picture(1, 5, 7, 3, seed=1)], ["a red thing\na blue thing", "a thing"]
    assert CLASSES["RolloutStudioImagesToFolder"].INPUT_IS_LIST is True
    (folder,) = call("ImagesToFolder", images=batches, captions=lines)
    names = sorted(files_in(folder))
    assert [Path(name).suffix for name in names] == [".png", ".txt"] * 3 and Path(
        folder.path
    ).parent == store.root / ".pictures"
    assert [files_in(folder)[name].decode() for name in names[1::2]] == ["a red thing", "a blue thing", "a thing"]
    assert call("ImagesToFolder", images=batches, captions=lines) == (folder,)
    assert call("ImagesToFolder", images=batches, captions=["x"])[0].path != folder.path
    assert call("ImagesToFolder", images=batches[::-1], captions=lines)[0].path != folder.path


def test_a_folder_that_was_changed_or_deleted_is_made_anew(host):
    import shutil

    given = {"images": [picture(2, 8, 9, 3)], "captions": ["one", "two"]}
    (folder,) = call("ImagesToFolder", **given)
    whole = files_in(folder)
    next(Path(folder.path).glob("*.txt")).write_text("another", encoding="utf-8")
    assert call("ImagesToFolder", **given) == (folder,) and files_in(folder) == whole
    shutil.rmtree(folder.path)
    assert call("ImagesToFolder", **given) == (folder,) and files_in(folder) == whole


def test_one_caption_is_for_all_and_none_writes_none(host):
    (folder,) = call("ImagesToFolder", images=[picture(2, 8, 9, 3)], captions=["a thing"])
    assert [path.read_text() for path in Path(folder.path).glob("*.txt")] == ["a thing"] * 2
    (folder,) = call("ImagesToFolder", images=[picture(2, 8, 9, 3)], captions=[""])
    assert not list(Path(folder.path).glob("*.txt"))


def test_captions_that_do_not_match_are_refused(host):
    with pytest.raises(RuntimeError, match="captions: 2 lines for 3 pictures.*one line for each"):
        call("ImagesToFolder", images=[picture(3, 8, 9, 3)], captions=["a\nb"])


def test_outside_comfyui_its_nodes_are_refused_in_words():
    from rollout_studio.nodes.graph.declaration import IN_COMFYUI, NODES
    from rollout_studio.nodes.graph.graph import Graph, Node
    from rollout_studio.nodes.graph.validate import faults

    assert "RolloutStudioImagesToFolder" in NODES and not set(NODES) & set(bridges.HOST_NODES)
    assert all(key.startswith(IN_COMFYUI) for key in bridges.HOST_NODES)
    problems = list(faults(Graph({"1": Node("RolloutStudioComfyDriftReport")})))
    assert any("run this workflow inside ComfyUI" in problem.message for problem in problems)


def test_pictures_of_our_own_graph_keep_their_captions(store, tmp_path):
    """Without ComfyUI: no tensors, and captions that pictures bring."""
    from rollout_studio.nodes.execute.context import Context
    from rollout_studio.nodes.graph.declaration import NODES
    from rollout_studio.nodes.graph.values import Images, file_at

    given = Images(
        tuple(map(file_at, sorted(Path(dataset(tmp_path).flat["instance_data_dir"]).glob("*.png")))), ("one", "two")
    )
    run = NODES["RolloutStudioImagesToFolder"].function
    more = dict.fromkeys(("images_b", "images_c", "images_d"))
    (folder,) = run(Context(store, tmp_path, tmp_path), images=given, captions=(), **more)
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(folder.path).glob("*.txt"))]
    assert texts == ["one", "two"]
