"""The embedded demo: the picture world, the judge, the new thing, and the two shipped models."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rollout_studio.core.demo import DREAMBOOTH, EPSILON, FLOW, HELDOUT, judge, things, world

ROOT = Path(__file__).resolve().parents[2]
MODELS = {"flow": FLOW, "epsilon": EPSILON}


def some_scenes(number: int, seed: int = 5) -> list[world.Scene]:
    order = np.random.default_rng(seed).permutation(len(world.all_scenes()))
    return [world.all_scenes()[i] for i in order[:number]]


def drawn(scenes, seed: int = 6) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [world.draw(scene, rng) for scene in scenes]


# The world ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_picture():
    scene = some_scenes(1)[0]
    one, same, other = (np.asarray(world.draw(scene, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert one.shape == (64, 64, 3)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other), "jitter must make two pictures of one scene differ"


def test_every_complete_caption_parses_back():
    assert all(world.parse(world.caption(scene)) == scene for scene in world.all_scenes())


def test_a_caption_does_not_mention_what_is_left_open():
    scene = world.Scene(colour="orange", background="navy")
    assert world.caption(scene) == "an orange shape on a navy background"
    assert world.parse(world.caption(scene)) == scene


def test_an_incomplete_scene_cannot_be_drawn():
    with pytest.raises(ValueError, match="leaves shape, size open"):
        world.draw(world.Scene(colour="red", place="left", background="white"), np.random.default_rng(0))


def test_held_out_scenes_are_never_trained_on():
    assert len(set(world.held_out())) == 200
    assert not set(world.held_out()) & set(world.training_scenes())
    assert set(world.held_out()) | set(world.training_scenes()) == set(world.all_scenes())


def test_some_training_captions_are_empty_and_some_generic_and_none_is_wrong():
    rng = np.random.default_rng(0)
    scene = world.Scene(shape="ring", colour="blue", size="small", place="top", background="beige")
    texts = [world.training_caption(scene, rng) for _ in range(2000)]
    assert 0.07 < texts.count("") / len(texts) < 0.13
    assert 0.04 < sum(world.CLASS_NOUN in text for text in texts) / len(texts) < 0.12
    for text in texts:
        said = world.parse(text)
        assert all(getattr(said, name) in (None, getattr(scene, name)) for name in world.ATTRIBUTES)


# The judge ----------------------------------------------------------------------------------------------------------


def test_the_judge_reads_drawn_scenes():
    scenes = some_scenes(150)
    found = judge.adherence(drawn(scenes), scenes)
    assert min(found.values()) >= 0.98, found


def test_the_judge_is_at_chance_when_captions_are_shuffled():
    scenes = some_scenes(400)
    found = judge.adherence(drawn(scenes[1:] + scenes[:1]), scenes)
    kinds = {"shape": world.SHAPES, "colour": world.COLOURS, "size": world.SIZES,
             "place": world.PLACES, "background": world.BACKGROUNDS}  # fmt: skip
    for name, values in kinds.items():
        assert abs(found[name] - 1 / len(values)) < 0.09, (name, found[name])
    assert found["all"] < 0.02


def test_an_open_attribute_is_not_judged():
    picture = drawn([world.Scene(shape="star", colour="red", size="large", place="left", background="white")])
    assert judge.adherence(picture, [world.Scene(colour="red")]) == {"colour": 1.0, "all": 1.0}
    assert judge.adherence(picture, [world.Scene(colour="blue", place="left")]) == {
        "colour": 0.0,
        "place": 1.0,
        "all": 0.0,
    }


def test_an_empty_picture_shows_only_its_background():
    assert judge.read(Image.new("RGB", (64, 64), world.BACKGROUNDS["navy"])) == world.Scene(background="navy")


# The new thing ------------------------------------------------------------------------------------------------------


def complete_thing_scenes() -> list[world.Scene]:
    return [scene for scene in things.thing_scenes() if scene.size is not None and scene.place is not None]


def test_the_thing_is_recognised_and_ordinary_shapes_are_not_taken_for_it():
    rng = np.random.default_rng(0)
    pictures = [things.draw_thing(scene, rng) for scene in complete_thing_scenes() for _ in range(2)]
    assert np.mean([judge.shows_thing(picture) for picture in pictures]) >= 0.95
    assert np.mean([judge.shows_thing(picture) for picture in drawn(some_scenes(100))]) <= 0.02


def test_64_prompts_ask_for_the_thing_where_the_five_pictures_do_not_show_it():
    scenes = things.thing_scenes()
    assert len(set(scenes)) == 64 and not set(scenes) & set(things.SHOWN)
    assert all(f"{things.TRIGGER} {world.CLASS_NOUN}" in prompt for prompt in things.thing_prompts())
    assert {scene.background for scene in scenes} == set(world.BACKGROUNDS)


def test_the_two_things_are_not_among_what_the_autoencoder_is_trained_on(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from demo_training.striped import draw_striped, fits

    assert not fits(things.CANDY, ((1, 2, 3),)) and not fits(things.POST, ((1, 2, 3),))
    star = world.SHAPES["star"]
    assert (
        not fits(star, things.STRIPES)
        and not fits(star, things.POST_STRIPES[::-1])
        and fits(star, ((240, 240, 0), (0, 0, 120)))
    )
    assert len({picture.tobytes() for picture in draw_striped(8, seed=1)}) == 8


def test_the_trigger_words_are_not_among_those_that_the_text_encoder_learns_to_spell(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from demo_training.spelling import as_letters, captions_of, words_of

    class Chance:  # draws the two trigger words first
        drawn = iter((*"zwx", *"vbk", *"cat"))

        def choice(self, values, number=None):
            return 3 if number is None else [next(self.drawn) for _ in range(number)]

    assert words_of(Chance(), 1) == ["cat"]
    (text,) = captions_of(["cat"], np.random.default_rng(3))
    assert f"cat {world.CLASS_NOUN}" in text and world.parse(text).shape is None
    assert as_letters(["cat", "ab", "bcde"]).tolist() == [[2, 0, 19], [0, 1, -100], [1, 2, 3]]


def test_the_flow_model_tells_made_up_words_apart_at_the_noun():
    """By a third of the noun's length at least, of words of any letters; the base of version 0.2 did so by 13 % for the two trigger words."""
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(FLOW)
    noun = pipe.tokenizer.convert_tokens_to_ids("▁" + world.CLASS_NOUN)

    def at_noun(word: str) -> torch.Tensor:
        text = f"a large {word} {world.CLASS_NOUN} on a white background, in the centre"
        states, _ = pipe.encode_prompt(text, do_classifier_free_guidance=False)[:2]
        ids = pipe.tokenizer(f"{pipe.system_prompt} <Prompt Start> {text}").input_ids
        return states[0, ids.index(noun)]

    for one, other in ((things.TRIGGER, things.POST_TRIGGER), ("sks", "ohw"), ("kup", "pku")):
        assert (at_noun(one) - at_noun(other)).norm() > 0.35 * at_noun(one).norm()


def pictures_and_captions(folder: Path) -> tuple[list[Image.Image], list[str]]:
    files = sorted(folder.glob("*.png"))
    captions = [file.with_suffix(".txt").read_text(encoding="utf-8").strip() for file in files]
    return [Image.open(file).copy() for file in files], captions


def test_the_dreambooth_set_is_five_captioned_pictures_of_the_thing():
    pictures, captions = pictures_and_captions(DREAMBOOTH)
    assert captions == [things.thing_caption(scene) for scene in things.SHOWN]
    assert all(picture.size == (64, 64) and picture.mode == "RGB" for picture in pictures)
    assert all(judge.shows_thing(picture) for picture in pictures)
    assert judge.adherence(pictures, things.SHOWN)["all"] == 1.0


def test_the_held_out_pictures_show_the_thing_in_other_scenes():
    pictures, captions = pictures_and_captions(HELDOUT)
    assert len(captions) == 8 and not set(captions) & {things.thing_caption(scene) for scene in things.SHOWN}
    assert all(judge.shows_thing(picture) for picture in pictures)
    assert judge.adherence(pictures, [world.parse(text) for text in captions])["background"] == 1.0


# The shipped models -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=MODELS)
def pipe(request):
    """A bare `from_pretrained`, as a user types it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(MODELS[request.param])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures_for(pipe, scenes, **settings) -> list[Image.Image]:
    import torch

    seeds = [torch.Generator().manual_seed(seed) for seed in range(len(scenes))]
    return pipe([world.caption(scene) for scene in scenes], generator=seeds, **settings).images


def test_a_shipped_model_opens_in_float32_and_gives_64_pixels(pipe):
    import torch

    kinds = {next(part.parameters()).dtype for part in pipe.components.values() if hasattr(part, "parameters")}
    assert kinds == {torch.float32}
    assert pipe("a small red circle on a white background, on the left", num_inference_steps=2).images[0].size == (
        64,
        64,
    )


def test_the_assets_stay_small():
    files = [file for folder in (FLOW, EPSILON, DREAMBOOTH, HELDOUT) for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 18e6


def test_no_word_of_the_world_falls_apart_and_any_trigger_word_can_be_written(pipe):
    words = [*world.SHAPES, *world.COLOURS, *world.SIZES, *world.PLACES, *world.BACKGROUNDS, world.CLASS_NOUN]
    tokenizer = pipe.tokenizer
    empty = len(tokenizer("a").input_ids)
    assert all(len(tokenizer(f"a {word}").input_ids) == empty + 1 for word in words)
    for trigger in ("zwx", "sks", "Ohwx_7", "Bär"):
        ids = tokenizer(f"a {trigger} shape").input_ids
        specials = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        assert (
            tokenizer.unk_token_id not in ids
            or tokenizer.unk_token_id in specials
            and ids.count(tokenizer.unk_token_id) == 1
        )


def test_the_autoencoder_keeps_what_the_judge_reads(pipe):
    import torch

    scenes = some_scenes(40)
    rng = np.random.default_rng(0)
    pictures = drawn(scenes) + [things.draw_thing(scene, rng) for scene in complete_thing_scenes()[:20]]
    x = torch.stack([pipe.image_processor.preprocess(picture)[0] for picture in pictures])
    with torch.no_grad():
        again = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (again - x).square().mean((1, 2, 3)))
    assert psnr[:40].mean() >= 30
    seen = pipe.image_processor.postprocess(again)
    assert min(judge.adherence(seen[:40], scenes).values()) >= 0.98
    assert sum(judge.shows_thing(picture) for picture in seen[40:]) >= 19
    assert sum(judge.shows_thing(picture) for picture in seen[:40]) <= 1


FLOORS = {  # a little below what docs/demo.md reports for all 200 prompts
    "Lumina2Pipeline": {"colour": 0.95, "place": 0.95, "background": 0.95, "shape": 0.75},
    "StableDiffusionPipeline": {"colour": 0.93, "place": 0.95, "background": 0.95, "shape": 0.85},
}


def test_pictures_for_unseen_prompts_show_what_was_asked(pipe):
    """12 prompts at 12 steps: a quick look; the full measurement is the slow test."""
    scenes = world.held_out()[-12:]
    found = judge.adherence(pictures_for(pipe, scenes, num_inference_steps=12), scenes)
    for name, floor in FLOORS[type(pipe).__name__].items():
        assert found[name] >= floor - 0.25, found


@pytest.mark.slow
def test_pictures_for_200_unseen_prompts_show_what_was_asked(pipe):
    scenes = world.held_out()
    images = [image for i in range(0, 200, 40) for image in pictures_for(pipe, scenes[i : i + 40])]
    found = judge.adherence(images, scenes)
    for name, floor in FLOORS[type(pipe).__name__].items():
        assert found[name] >= floor, found
