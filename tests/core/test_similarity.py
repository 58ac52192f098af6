"""Samples against training pictures: near copies by their pixels, similarity by encoders that are saved as the real ones are."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from rollout_studio.core.config import config_to_flat
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.study import similarity as settings_of
from rollout_studio.core.study.comparing import Comparison, compare_runs, last_samples, nearest, small
from rollout_studio.core.study.measures import KINDS, measured
from rollout_studio.core.study.plan import StudyError, study_of
from rollout_studio.core.study.similarity import (
    SIMILARITY,
    Similarity,
    SimilarityError,
    encoder_folder,
    is_compared,
    left_out,
    similarity_of,
    similarity_values,
)
from rollout_studio.core.study.table import as_text, results
from rollout_studio.core.study.work import CellState
from tiny import clip_text, clip_tokenizer

PIXELS_ONLY = Similarity(clip=None, dino=None)
PROMPTS = ["a zwx circle", "a dog"]
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}  # fmt: skip


def speckled(seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((64, 64), Image.Resampling.NEAREST)


@pytest.fixture
def folder(tmp_path):
    """Six captioned pictures."""
    made = tmp_path / "mine"
    made.mkdir()
    for seed in range(6):
        speckled(seed).save(made / f"{seed}.png")
        (made / f"{seed}.txt").write_text("a zwx circle")
    return made


@pytest.fixture
def run_with(tiny_run, folder):
    """A run that has drawn these pictures at its end; two of the six pictures are held out."""

    def make(*samples: Image.Image, name: str = "one", **changes):
        flat = {"instance_data_dir": str(folder), "resolution": 64, "trigger_word": "zwx", "validation_prompts": PROMPTS, "drift_holdout_images": 2}  # fmt: skip
        run = tiny_run("lumina2", name=name, **{**flat, **changes})
        end = run.checkpoints_path / "step-000003"
        end.mkdir(parents=True)
        (end / "manifest.json").write_text(json.dumps({"step": 3, "run": run.name}))
        (run.path / "samples").mkdir(exist_ok=True)
        images = []
        for number, (picture, prompt) in enumerate(zip(samples, PROMPTS, strict=False)):
            picture.save(run.path / "samples" / f"{number}.png")
            images.append({"prompt": prompt, "seed": number, "path": f"samples/{number}.png"})
        run.emit("sample", step=3, images=images)
        run.emit("sample", step=3, images=[{"prompt": "by hand", "seed": 0, "path": "samples/0.png"}])
        return run

    return make


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("clip"), clip_tokenizer()
    text = clip_text(tokenizer).config.to_dict()
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    Dinov2Model(Dinov2Config(**VISION)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


# Near copies -------------------------------------------------------------------------------------------------------------


def test_the_distance_is_the_root_of_the_mean_square_to_the_nearest():
    others = np.stack([np.zeros((4, 5, 3), np.float32), np.full((4, 5, 3), 0.5, np.float32)])
    some = np.stack([np.full((4, 5, 3), 0.1, np.float32), np.full((4, 5, 3), 0.5, np.float32)])
    assert nearest(some, others) == pytest.approx([0.1, 0.0], abs=1e-7)
    assert small(speckled(0)).shape == (64, 64, 3) and small(speckled(0)).max() <= 1


def test_copies_have_no_distance_and_new_pictures_that_of_held_out_ones(run_with, folder):
    def found(*samples, **changes):
        return Comparison(PIXELS_ONLY).compare(run_with(*samples, **changes))["nearest_training"]

    from rollout_studio.core.config import config_from_flat
    from rollout_studio.core.data import scan, split_holdout

    run = run_with(speckled(20), speckled(21))
    config = config_from_flat(run.read_config())
    trained, held_out = split_holdout(scan(config.data), config.drift)
    assert (len(trained), len(held_out)) == (4, 2)
    copies, unseen = ([Image.open(item.path).convert("RGB") for item in items][:2] for items in (trained, held_out))
    assert found(*copies, name="copies") == pytest.approx(0, abs=1e-6)
    assert found(*unseen, name="unseen") == pytest.approx(1, rel=1e-6)
    assert found(speckled(20), speckled(21), name="new") == pytest.approx(1, abs=0.2)
    mirrored = [each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in copies]
    assert found(*mirrored, name="mirrored") > 0.5
    assert found(*mirrored, name="with-flips", random_flip=True) == pytest.approx(0, abs=1e-6)


def test_without_held_out_pictures_or_samples_it_is_left_out_with_the_reason(run_with):
    run = run_with(speckled(1), speckled(2), drift_holdout_images=0)
    assert Comparison(PIXELS_ONLY).compare(run) == {} and "no held-out pictures" in left_out(run)[0]
    bare = run_with(name="bare")
    assert Comparison(PIXELS_ONLY).compare(bare) == {} and "validation_prompts" in left_out(bare)[0]


def test_only_the_samples_of_the_runs_own_prompts_at_its_end_count(run_with):
    run = run_with(speckled(1), speckled(2))
    assert [each.prompt for each in last_samples(run, PROMPTS)] == PROMPTS
    assert last_samples(run, ["another prompt"]) == []


# Encoders ----------------------------------------------------------------------------------------------------------------


def test_similarity_by_encoders_is_the_cosine_that_their_own_classes_give(run_with, clip, dino, folder):
    from transformers import AutoImageProcessor, AutoModel, CLIPModel, CLIPProcessor

    samples = [speckled(30), speckled(31)]
    found = Comparison(Similarity(str(clip), str(dino))).compare(run_with(*samples, drift_holdout_images=0))
    own = [Image.open(folder / f"{n}.png").convert("RGB") for n in range(6)]

    def unit(vectors):
        return torch.nn.functional.normalize(vectors, dim=1)

    model, prepare = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    with torch.no_grad():
        given = prepare(text=["a circle", "a dog"], images=samples, return_tensors="pt", padding=True)
        answer = model(**given)  # its embeddings are of length 1
        theirs = model(**prepare(text=["a"], images=own, return_tensors="pt", padding=True)).image_embeds
        assert found["clip_text"] == pytest.approx(
            float((answer.image_embeds * answer.text_embeds).sum(1).mean()), abs=1e-5
        )
        assert found["clip_image"] == pytest.approx(float((answer.image_embeds[:1] @ theirs.T).mean()), abs=1e-5), (
            "of the sample whose prompt has the trigger word alone"
        )
        eye, looks = AutoModel.from_pretrained(dino).eval(), AutoImageProcessor.from_pretrained(dino)
        seen, known = (unit(eye(**looks(each, return_tensors="pt")).last_hidden_state[:, 0]) for each in (samples, own))
    assert found["dino_image"] == pytest.approx(float((seen[:1] @ known.T).mean()), abs=1e-5)


def test_a_comparison_is_kept_and_made_once(run_with, clip, dino, monkeypatch):
    run, how = run_with(speckled(1), speckled(2)), Similarity(str(clip), str(dino))
    assert not is_compared(run, how) and similarity_values(run) == {}
    compare_runs(how, [run])
    assert is_compared(run, how) and not is_compared(run, PIXELS_ONLY)
    assert set(similarity_values(run)) == {"nearest_training", "clip_image", "clip_text", "dino_image"} <= set(KINDS)
    assert measured(run).values.items() >= similarity_values(run).items()
    monkeypatch.setattr(Comparison, "compare", lambda *_: pytest.fail("compared again"))
    compare_runs(how, [run])
    (run.path / SIMILARITY).write_text("{")
    assert similarity_values(run) == {} and not is_compared(run, how)


def test_an_encoder_that_nobody_named_is_left_out_and_one_that_was_named_is_refused(
    run_with, dino, monkeypatch, tmp_path
):
    monkeypatch.setattr(settings_of, "_cached", _not_here)
    run = run_with(speckled(1), speckled(2))
    assert set(Comparison(Similarity(dino=None)).compare(run)) == {"nearest_training"}
    assert left_out(run) == [
        "Similarity by CLIP is not measured: clip = openai/clip-vit-large-patch14: is not on this computer."
    ]
    with pytest.raises(SimilarityError, match="not on this computer"):
        similarity_of({"clip": "owner/model"}, "s.yaml")
    given = similarity_of({"clip": False, "dino": str(dino)}, "s.yaml")
    assert (given.clip, given.dino, given.asked) == (None, str(dino), ("dino",))
    assert similarity_of(True, "s.yaml") == Similarity() and similarity_of(False, "s.yaml") is None


def _not_here(kind, name):
    raise SimilarityError(f"{kind} = {name}: is not on this computer.", "Download it.")


def test_what_is_no_encoder_is_refused_with_the_reason(clip, dino, tmp_path):
    with pytest.raises(SimilarityError, match="holds a Dinov2Model"):
        encoder_folder("clip", str(dino))
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json"):
        if (clip / name).is_file():
            (tmp_path / name).write_bytes((clip / name).read_bytes())
    with pytest.raises(SimilarityError, match="no weights"):
        encoder_folder("clip", str(tmp_path))
    for given in ({"clop": "a"}, {"clip": 3}, "yes", {"clip": " "}):
        with pytest.raises(SimilarityError, match="cannot be read"):
            similarity_of(given, "s.yaml")


def test_an_encoder_that_lacks_weights_is_refused_instead_of_being_random(dino, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in dino.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(dino / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "layernorm" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    found = Comparison(Similarity(None, str(tmp_path)))._encoder("dino")
    assert isinstance(found, SimilarityError) and "would be random" in found.message


# In a study --------------------------------------------------------------------------------------------------------------


def test_a_study_that_compares_samples_needs_prompts(run_with, tmp_path, folder):
    flat = config_to_flat(_config(run_with))
    written = {
        "study": "s",
        "config": flat,
        "grid": {"lora_rank": [2, 3]},
        "similarity": {"clip": False, "dino": False},
    }
    assert study_of(written, "s", tmp_path, tmp_path).similarity == PIXELS_ONLY
    with pytest.raises(StudyError, match="draws none"):
        study_of({**written, "set": {"validation_prompts": []}}, "s", tmp_path, tmp_path)
    with pytest.raises(StudyError, match="similarity = 3"):
        study_of({**written, "similarity": 3}, "s", tmp_path, tmp_path)


def test_the_table_has_what_was_measured_and_says_what_was_left_out(run_with, tmp_path, dino, monkeypatch):
    monkeypatch.setattr(settings_of, "_cached", _not_here)
    written = {"study": "s", "config": config_to_flat(_config(run_with)), "grid": {"lora_rank": [2, 3]}, "seeds": [1]}
    study = study_of({**written, "similarity": {"dino": str(dino)}}, "s", tmp_path, tmp_path)
    runs = [run_with(speckled(n), speckled(n + 1), name=cell.run) for n, cell in enumerate(study.cells())]
    compare_runs(study.similarity, runs)
    store = RunStore(tmp_path / "runs")
    found = results(study, [CellState(cell, "done") for cell in study.cells()], store)
    assert found.measures[:2] == ["nearest_training", "dino_image"]
    assert found.missing == (
        "Similarity by CLIP is not measured: clip = openai/clip-vit-large-patch14: is not on this computer.",
    )
    assert "samples and training pictures, cosine by DINO (1 at most, for copies)" in as_text(found)


def _config(run_with):
    from rollout_studio.core.config import config_from_flat

    return config_from_flat(run_with(speckled(1)).read_config())
