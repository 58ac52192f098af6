"""A LoRA that does not fit says so before it is used: what is wrong with the file or the match, how much fits, and the remedy."""

import json
import pickle
import re
import struct
import subprocess
import sys

import pytest
import torch
from rollout_studio.core import adapters
from rollout_studio.core.adapters import LoraError, lora_file
from rollout_studio.core.adapters.loading import load_lora
from rollout_studio.core.adapters.lora_file import read_lora_header
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families import load_model
from safetensors.torch import load_file, save_file
from tiny import ONE_PER_FAMILY, predictions

FAMILIES = ONE_PER_FAMILY


def config_of(folder, **options):
    return config_from_flat({"pretrained_model_name_or_path": str(folder), "device": "cpu", "lora_rank": 4} | options)


@pytest.fixture(scope="module")
def good(tiny_folder, tmp_path_factory):
    """The path of a LoRA that was trained (moved) on a tiny model of the family."""
    made = {}

    def make(family):
        if family not in made:
            config = config_of(tiny_folder(family))
            model = load_model(config.model)
            adapters.attach(model, config)
            draws = torch.Generator().manual_seed(9)
            with torch.no_grad():
                for parameter in adapters.trainable_parameters(model):
                    parameter += 0.1 * torch.randn(parameter.shape, generator=draws)
            made[family] = adapters.export(model, tmp_path_factory.mktemp(family) / "good.safetensors", config)
        return made[family]

    return make


@pytest.fixture
def fresh(tiny_folder):
    return lambda family="lumina2": load_model(config_of(tiny_folder(family)).model, for_training=False)


# A good file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_that_fits_is_counted_and_acts(family, good, fresh):
    model, file = fresh(family), good(family)
    base = predictions(model)
    fit = load_lora(model, file, "mine")
    number = len(load_file(file))
    assert fit.used == fit.total == number == 2 * fit.layers and 0 < fit.change < 10
    assert str(fit).startswith(
        f"{number} of {number} tensors used, in {number // 2} layers, whose weights it changes by "
    )
    assert not torch.equal(predictions(model), base)
    assert not any(parameter.requires_grad for parameter in model.denoiser.parameters())


def test_the_change_is_the_size_of_b_a_over_that_of_the_weights(good, fresh):
    model, tensors = fresh(), load_file(good("lumina2"))
    weights = {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
    changed = whole = 0.0
    for name, a in tensors.items():
        if ".lora_A." in name:
            b = tensors[name.replace("lora_A", "lora_B")]
            changed += float((b @ a).square().sum())
            whole += float(weights[name.removeprefix("transformer.").replace(".lora_A", "")].square().sum())
    assert load_lora(model, good("lumina2"), "mine").change == pytest.approx((changed / whole) ** 0.5, rel=1e-5)


def test_a_lora_without_effect_says_so(good, fresh, tmp_path):
    file = tmp_path / "zero.safetensors"
    save_file({name: tensor * (".lora_A." in name) for name, tensor in load_file(good("lumina2")).items()}, file)
    assert "no effect" in str(load_lora(fresh(), file, "mine"))


@pytest.mark.parametrize("alpha", [2.0, 4.0])
def test_a_file_in_kohyas_layout_is_counted_with_its_alphas(good, fresh, tmp_path, alpha):
    tensors = {}
    for name, tensor in load_file(good("sd1")).items():
        layer, _, end = name.removeprefix("unet.").rpartition(".lora_")
        layer = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{layer}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = tensor
        tensors[f"{layer}.alpha"] = torch.tensor(alpha)
    file = tmp_path / "kohya.safetensors"
    save_file(tensors, file)
    kohya, ours = load_lora(fresh("sd1"), file, "mine"), load_lora(fresh("sd1"), good("sd1"), "mine")
    assert (kohya.used, kohya.total) == (ours.used, ours.total) and kohya.change == pytest.approx(
        ours.change * alpha / 4, rel=1e-5
    )


# Files that are none --------------------------------------------------------------------------------------------------


def header_of(entries, body=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(shape=(1,), start=0, stop=4, kind="F32"):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, stop]}


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


BROKEN = {
    "empty": (lambda good: b"", "is empty"),
    "truncated": (lambda good: good[:-100], "cut off"),
    "cut in the header": (lambda good: good[:50], "cut off"),
    "more than it says": (lambda good: good + b"more", "should hold"),
    "pickled": (lambda good: pickle.dumps({"lora_A": Evil()}), "pickled"),
    "a page": (lambda good: b"<!DOCTYPE html><html>not found</html>", "no safetensors"),
    "git-lfs": (lambda good: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "header of 2^60": (lambda good: struct.pack("<Q", 2**60) + b"{}", "cut off or no"),
    "header no JSON": (lambda good: struct.pack("<Q", 4) + b"{{{{", "damaged"),
    "header a list": (lambda good: header_of([1, 2]), "damaged"),
    "shape of words": (lambda good: header_of({"lora": tensor(("a",))}, b"1234"), "damaged"),
    "no tensors": (lambda good: header_of({}), "0 of its 0"),
    "a whole model": (lambda good: header_of({"conv_in.weight": tensor()}, b"1234"), "'conv_in.weight'"),
    "8 bits": (
        lambda good: header_of({"transformer.x.lora_A.weight": tensor((4,), kind="F8_E4M3")}, b"1234"),
        "F8_E4M3",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_lora_file_is_refused_in_a_sentence_with_a_remedy(kind, good, fresh, tmp_path):
    make, words = BROKEN[kind]
    file = tmp_path / "given.safetensors"
    file.write_bytes(make(good("lumina2").read_bytes()))
    with pytest.raises(LoraError, match=re.escape(words)) as caught:
        read_lora_header(file)
    assert "given.safetensors" in caught.value.message and caught.value.remedy and len(str(caught.value)) < 500
    with pytest.raises(LoraError):
        load_lora(fresh(), file, "mine")


def test_a_saved_pickle_with_a_false_name_is_not_opened(fresh, tmp_path):
    file = tmp_path / "given.safetensors"
    torch.save({"transformer.x.lora_A.weight": torch.zeros(2, 3)}, file)
    with pytest.raises(LoraError, match="pickled"):
        load_lora(fresh(), file, "mine")


def test_a_missing_file_a_folder_and_another_ending_are_distinguished(tmp_path, good):
    with pytest.raises(LoraError, match="does not exist"):
        read_lora_header(tmp_path / "nothing.safetensors")
    with pytest.raises(LoraError, match="is a folder"):
        read_lora_header(tmp_path)
    renamed = tmp_path / "good.lora"
    renamed.write_bytes(good("lumina2").read_bytes())
    with pytest.raises(LoraError, match=r"must end in \.safetensors"):
        read_lora_header(renamed)


@pytest.mark.parametrize(("limit", "value", "words"), [
    ("LARGEST_FILE", 1000, "at most 1000 bytes"), ("LARGEST_HEADER", 100, "header"), ("LARGEST_METADATA", 10, "notes"), ("MOST_TENSORS", 3, "tensors"),
])  # fmt: skip
def test_a_file_beyond_the_caps_is_refused_by_its_header(good, monkeypatch, limit, value, words):
    monkeypatch.setattr(lora_file, limit, value)
    with pytest.raises(LoraError, match=words):
        read_lora_header(good("lumina2"))


def test_looking_at_a_file_imports_no_torch():
    code = "import sys; from rollout_studio.core.adapters.lora_file import read_lora_header; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Files that do not fit ------------------------------------------------------------------------------------------------


def change_one(tensors, change):
    name = next(name for name in tensors if ".lora_B." in name)
    return tensors | {name: change(tensors[name])}


MISFITS = {
    "other names": (lambda given: {name.replace("transformer.", "transformer.blocks."): t for name, t in given.items()}, "0 of its"),
    "no component": (lambda given: {name.removeprefix("transformer."): t for name, t in given.items()}, "0 of its"),
    "some other names": (lambda given: {name.replace("layers.0.attn.to_q", "layers.0.attn.query"): t for name, t in given.items()}, "{less 2} of its {all}"),
    "one matrix missing": (lambda given: dict(list(given.items())[1:]), "partner"),
    "another width": (lambda given: {name: torch.cat([t, t], 1) if "lora_A" in name else t for name, t in given.items()}, "inputs"),
    "two ranks": (lambda given: change_one(given, lambda t: torch.cat([t, t], 1)), "rank 4 and 8"),
    "NaN": (lambda given: change_one(given, lambda t: t * float("nan")), "1 of its {all} tensors hold NaN"),
    "infinite": (lambda given: {name: t / 0.0 for name, t in given.items()}, "{all} of its {all} tensors hold NaN or infinite"),
    "1e30": (lambda given: {name: t * 0 + 1e30 for name, t in given.items()}, "times their own size"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISFITS)
def test_a_lora_that_does_not_fit_says_how_much_fits_and_leaves_the_model_as_it_was(kind, good, fresh, tmp_path):
    make, words = MISFITS[kind]
    tensors = load_file(good("lumina2"))
    file, number = tmp_path / "given.safetensors", len(tensors)
    save_file({name: tensor.contiguous() for name, tensor in make(tensors).items()}, file)
    model = fresh()
    base = predictions(model)
    with pytest.raises(LoraError) as caught:
        load_lora(model, file, "mine")
    assert words.replace("{all}", str(number)).replace("{less 2}", str(number - 2)) in caught.value.message, (
        caught.value.message
    )
    assert "given.safetensors" in caught.value.message and caught.value.remedy
    assert "mine" not in (getattr(model.denoiser, "peft_config", None) or {}) and torch.equal(predictions(model), base)


@pytest.mark.parametrize(
    ("family", "other"), [("sd1", "sd3"), ("sd3", "lumina2"), ("lumina2", "sd1"), ("sd2_v", "lumina2")]
)
def test_a_lora_of_another_family_is_refused(family, other, good, fresh):
    with pytest.raises(LoraError, match=f"0 of its {len(load_file(good(other)))} tensors"):
        load_lora(fresh(family), good(other), "mine")


def test_an_alpha_of_1e30_is_refused(good, fresh, tmp_path):
    tensors = {}
    for name, tensor in load_file(good("sd1")).items():
        layer, _, end = name.removeprefix("unet.").rpartition(".lora_")
        layer = "lora_unet_" + layer.replace(".", "_")
        tensors |= {
            f"{layer}.lora_{'down' if end.startswith('A') else 'up'}.weight": tensor,
            f"{layer}.alpha": torch.tensor(1e30),
        }
    file = tmp_path / "given.safetensors"
    save_file(tensors, file)
    with pytest.raises(LoraError, match="times their own size"):
        load_lora(fresh("sd1"), file, "mine")


def test_text_encoder_weights_are_counted_or_refused_as_the_caller_says(good, fresh, tmp_path):
    model = fresh("sd1")
    name, layer = next(
        (name, module) for name, module in model.pipe.text_encoder.named_modules() if name.endswith("q_proj")
    )
    tensors = load_file(good("sd1")) | {
        f"text_encoder.{name}.lora_A.weight": torch.ones(4, layer.in_features),
        f"text_encoder.{name}.lora_B.weight": torch.ones(layer.out_features, 4),
    }
    file = tmp_path / "both.safetensors"
    save_file(tensors, file)
    with pytest.raises(LoraError, match=f"text encoder too .2 of its {len(tensors)} tensors"):
        load_lora(model, file, "mine", text_encoders=False)
    assert load_lora(model, file, "mine").used == len(tensors)
