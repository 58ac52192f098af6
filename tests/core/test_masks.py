"""Masks: what of a picture trains. They go the picture's own way into the latents, and nothing outside them moves a weight."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from rollout_studio.core.adapters.trainable import attach, trainable_parameters
from rollout_studio.core.before.preflight import preflight
from rollout_studio.core.config import config_from_flat, idle_remarks
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.data import DatasetError, beside, prepare, scan
from rollout_studio.core.data.masks import cut, to_cells, weights
from rollout_studio.core.data.transform import crop_for
from rollout_studio.core.families import load_model
from rollout_studio.core.maths.grid import build_grid
from rollout_studio.core.maths.reflexflow import frequency_weight
from rollout_studio.core.maths.row_loss import row_losses
from rollout_studio.core.remedies import Batch, Ground, remedy_for
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.losses import batch_loss
from tiny_run import BASE, ROLLOUT, events, losses

SIDE = (56, 40)
ON = {"masked_training": "soft"}


def photo(seed: int, size=SIDE) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def left_half(size=SIDE, share: float = 0.5) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, int(size[0] * share) - 1, size[1]), fill=255)
    return mask


@pytest.fixture
def masked(tmp_path):
    """Three pictures: one with a mask beside it, one with transparency, one whole."""
    folder = tmp_path / "masked"
    folder.mkdir()
    for number in range(3):
        photo(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a cup, number {number}", encoding="utf-8")
    left_half().save(folder / "0-mask.png")
    clear = photo(1).convert("RGBA")
    clear.putalpha(left_half())
    clear.save(folder / "1.png")
    return folder


def data_of(folder, **changes):
    return config_from_flat({"instance_data_dir": str(folder), "resolution": 32, **ON, **changes}).data


def found_in(folder, **changes):
    found = scan(data_of(folder, **changes))
    return {item.name: item for item in found.items}, {problem.code: problem for problem in found.problems}


# What the scan finds -----------------------------------------------------------------------------------------------------


def test_a_mask_is_the_file_beside_the_picture_or_its_transparency_and_no_picture_itself(masked):
    items, problems = found_in(masked)
    assert list(items) == ["0.png", "1.png", "2.png"] and not any("mask" in code for code in problems)
    assert items["0.png"].mask.path == masked / "0-mask.png"
    assert items["1.png"].mask.path is None and items["1.png"].mask.digest == items["1.png"].digest
    assert items["2.png"].mask is None


def test_the_file_comes_before_the_transparency(masked):
    left_half(share=0.25).save(masked / "1-MASK.png")
    assert found_in(masked)[0]["1.png"].mask.path == masked / "1-MASK.png"


def test_while_masks_are_off_the_pictures_are_whole_and_a_note_says_that_a_mask_is_there(masked):
    items, problems = found_in(masked, masked_training="off", instance_prompt="a cup")
    assert list(items) == ["0.png", "1.png", "2.png"]
    assert all(item.mask is None for item in items.values())
    assert problems["mask-unused"].level == "note" and "1 picture has a mask" in problems["mask-unused"].message


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda path: left_half((55, 40)).save(path), "mask-size", "55 x 40 pixels, its picture 0.png 56 x 40"),
        (lambda path: Image.new("L", SIDE, 0).save(path), "mask-empty", "black everywhere"),
        (lambda path: path.write_bytes(b"no picture"), "mask-bad", "cannot be used"),
    ],
)
def test_a_mask_that_cannot_be_used_is_a_named_error_before_the_start(masked, spoil, code, words):
    spoil(masked / "0-mask.png")
    problem = found_in(masked)[1][code]
    assert problem.level == "error" and problem.where == str(masked / "0-mask.png") and words in problem.message
    assert problem.remedy


def test_a_picture_that_is_transparent_everywhere_is_an_error_and_an_opaque_one_is_whole(masked):
    clear = photo(1).convert("RGBA")
    clear.putalpha(0)
    clear.save(masked / "1.png")
    opaque = photo(2).convert("RGBA")
    opaque.save(masked / "2.png")
    items, problems = found_in(masked)
    assert problems["mask-empty"].where == str(masked / "1.png") and items["2.png"].mask is None


def test_onetrainers_masks_count_where_there_is_none_of_ours_and_its_conditions_are_no_pictures(masked):
    for number in (0, 2):
        left_half().save(masked / f"{number}-masklabel.png")
    photo(5).save(masked / "2-condlabel.png")
    items, problems = found_in(masked)
    assert list(items) == ["0.png", "1.png", "2.png"] and not any("mask" in code for code in problems)
    assert (items["0.png"].mask.path.name, items["2.png"].mask.path.name) == ("0-mask.png", "2-masklabel.png")
    assert [beside.found_mask(items[name].path).name for name in ("0.png", "2.png")] == [
        "0-mask.png",
        "2-masklabel.png",
    ]
    assert "2-condlabel.png" in problems["other-files"].message
    left_half().save(masked / "lost-masklabel.png")
    assert found_in(masked)[1]["mask-orphan"].where == str(masked / "lost-masklabel.png")


def test_a_mask_that_the_crop_cuts_off_is_an_error(tmp_path):
    photo(0, (160, 40)).save(tmp_path / "wide.png")
    left_half((160, 40), 0.05).save(tmp_path / "wide-mask.png")
    problems = found_in(tmp_path, instance_prompt="a cup", aspect_buckets=False, center_crop=True)[1]
    assert "cuts off" in problems["mask-empty"].message


def test_a_mask_without_a_picture_is_named(masked):
    left_half().save(masked / "lost-mask.png")
    assert found_in(masked)[1]["mask-orphan"].where == str(masked / "lost-mask.png")


def test_the_check_before_a_start_counts_the_masks(masked, pictures, tmp_path):
    def codes(folder):
        found = preflight(
            config_from_flat({"instance_data_dir": str(folder), "resolution": 32, **ON}), tmp_path / "runs" / "x"
        )
        return {finding.code: finding for finding in found}

    assert "2 of 3 pictures" in codes(masked)["mask-some"].message
    assert codes(pictures)["mask-none"].level == "warning"


def test_a_weight_for_the_background_waits_for_masks():
    assert any(
        "masked_background_weight" in each for each in idle_remarks(config_from_flat({"masked_background_weight": 0.2}))
    )
    with pytest.raises(ConfigError, match="masked_background_weight = 1.5"):
        config_from_flat({"masked_background_weight": 1.5})


# The way into the latents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (48, 16), (16, 48)])
def test_a_mask_goes_through_the_crop_resize_and_flip_of_its_picture(size, flip):
    """A picture that is its own mask: what comes out of both ways is the same, up to the filter."""
    rng = np.random.default_rng(5)
    shades = Image.fromarray(rng.integers(0, 256, (6, 5), dtype=np.uint8)).resize((90, 70), Image.Resampling.BICUBIC)
    crop = crop_for(90, 70, size, center=False, digest="x")
    from rollout_studio.core.data.transform import apply

    picture = apply(shades.convert("RGB"), crop, flip=flip)[..., 0] / 255
    mask = cut(shades, crop, flip=flip)
    assert mask.shape == (size[1], size[0]) and np.abs(mask - picture).mean() < 0.02
    cells = to_cells(torch.from_numpy(mask), size[1] // 4, size[0] // 4)
    assert cells.shape == (1, size[1] // 4, size[0] // 4)
    torch.testing.assert_close(cells[0, 1, 2], torch.from_numpy(mask[4:8, 8:12]).mean())


def test_soft_counts_shares_hard_counts_from_one_half_on_and_the_background_fills_up():
    cells = torch.tensor([[[0.0, 0.25, 0.5, 1.0]]])
    assert torch.equal(weights(cells, hard=False, background=0.0), cells)
    assert weights(cells, hard=True, background=0.0).tolist() == [[[0, 0, 1, 1]]]
    torch.testing.assert_close(weights(cells, hard=False, background=0.5), torch.tensor([[[0.5, 0.625, 0.75, 1.0]]]))


@pytest.fixture(scope="module")
def flow_model(tiny_folder):
    return load_model(
        config_from_flat({"pretrained_model_name_or_path": str(tiny_folder("lumina2")), "device": "cpu"}).model
    )


@pytest.fixture
def ready(flow_model, masked, tmp_path):
    def make(folder=masked, **changes):
        flat = {
            "instance_data_dir": str(folder),
            "resolution": 32,
            "train_batch_size": 3,
            "drift_holdout_images": 0,
            **ON,
            **changes,
        }
        config = config_from_flat(flat)
        return prepare(flow_model, config, scan(config.data), tmp_path / "cache")

    return make


def test_a_batch_has_each_rows_mask_mirrored_with_it_and_class_rows_are_whole(ready, tmp_path, pictures):
    prior = {
        "with_prior_preservation": True,
        "class_prompt": "a cup",
        "class_data_dir": str(pictures),
        "num_class_images": 4,
    }
    data, seen = ready(random_flip=True, center_crop=True, **prior), set()
    for step in range(6):
        batch = data.batch(step)
        assert batch.mask.shape == (6, 1, *batch.latents.shape[2:])
        width = batch.mask.shape[3]
        for name, flipped, mask in zip(batch.ids, batch.flipped, batch.mask, strict=True):
            if name in ("2.png",) or name.startswith("class/"):
                assert bool((mask == 1).all())
                continue
            half = mask.flip(-1) if flipped else mask
            assert half[..., : width // 2 - 1].min() == 1 and half[..., width // 2 + 1 :].max() == 0
            seen.add((name, flipped))
    assert seen == {(name, flipped) for name in ("0.png", "1.png") for flipped in (False, True)}


def test_a_batch_without_a_masked_row_has_none(ready, masked):
    (masked / "0-mask.png").unlink()
    photo(1).save(masked / "1.png")
    assert ready().batch(0).mask is None


def test_the_mask_is_part_of_the_cache_by_its_content_alone(ready, masked):
    first = ready()
    assert ready().counts.made == 0
    assert ready(masked_training="hard", masked_background_weight=0.5).counts.made == 0
    (masked / "0-mask.png").touch()
    assert ready().counts.made == 0
    left_half(share=0.25).save(masked / "0-mask.png")
    again = ready()
    assert again.counts.made == 1
    place = [item.name for item in again.items].index("0.png")
    old, new = (each.latents.get(each.rows[place].latents) for each in (first, again))
    assert torch.equal(old["latents"], new["latents"]) and not torch.equal(old["mask"], new["mask"])


def test_a_mask_of_which_no_cell_is_half_white_is_refused_when_hard(ready, masked):
    thin = Image.new("L", SIDE, 0)
    ImageDraw.Draw(thin).rectangle((20, 20, 21, 21), fill=255)
    thin.save(masked / "0-mask.png")
    ready()
    with pytest.raises(DatasetError, match="0-mask.png: nothing of its mask is left.*soft"):
        ready(masked_training="hard")


# The loss ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "mode"),
    [("sd1", "single-pass"), *((flow, mode) for flow in ("sd3", "flux", "qwen") for mode in ("single-pass", "paper"))],
)
def test_what_lies_outside_the_mask_has_no_gradient_the_anti_drift_term_included(
    tiny_folder, variant, mode, monkeypatch
):
    """Rows roll, on flow models with both of ReflexFlow's terms; the outputs that carry gradient are watched. A U-Net (which predicts
    epsilon, so ReflexFlow is off), latents as they are, and latents that travel as packed tokens."""
    flat = {
        **BASE, **ROLLOUT, "pretrained_model_name_or_path": str(tiny_folder(variant)), "device": "cpu",
        "scheduled_sampling_probability": 1.0, "scheduled_sampling_reflexflow_mode": mode,
    }  # fmt: skip
    config = config_from_flat(flat)
    model = load_model(config.model)
    attach(model, config)
    draws = torch.Generator().manual_seed(1)
    x0 = model.encode_images(torch.rand(2, 3, 32, 32, generator=draws) * 2 - 1, None)
    noise = torch.randn(x0.shape, generator=draws)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, 2:5, 1:4], mask[1, :, :, 6:] = 1, 0.5
    cond = model.collate(model.encode_prompts(["a cup", "a red cup"]))
    grid = build_grid(
        config.rollout,
        lambda steps: model.inference_times(steps, x0.shape[1:]),
        lambda: model.training_times(x0.shape[1:]),
    )
    remedy = remedy_for(config, Ground(model.noise_path, model.prediction_type, grid))
    t = torch.tensor([0.3, 0.5]) * model.noise_path.t_max
    plan = next(plan for step in range(30) if bool((plan := remedy.plan(t, step=step, seed=3)).rolled.all()))
    outputs, denoise = [], type(model).denoise

    def watched(self, *given):
        answer = denoise(self, *given)
        if answer.requires_grad:
            answer.retain_grad()
            outputs.append(answer)
        return answer

    monkeypatch.setattr(type(model), "denoise", watched)
    parts = batch_loss(model, config, remedy, Batch(x0, noise, cond, mask=mask), plan).parts
    assert (float(parts.extra.detach().abs().max()) > 0) == model.is_flow, "the anti-drift term is there"
    parts.total.sum().backward()
    assert len(outputs) == (2 if mode == "paper" else 1)
    for output in outputs:
        rows = mask if len(output) == len(mask) else mask[plan.rows]
        outside = (rows == 0).expand_as(output)
        assert output.grad[outside].abs().max() == 0 and float((output.grad[~outside] != 0).float().mean()) > 0.9
    assert any(
        float(parameter.grad.abs().max()) > 0 for parameter in trainable_parameters(model) if parameter.grad is not None
    )


@pytest.mark.parametrize("norm", ["max", "mean", "l2", "l1"])
def test_the_frequency_weight_inside_a_mask_is_that_of_the_inside_alone(norm):
    draws = torch.Generator().manual_seed(0)
    rolled, clean = (torch.randn(2, 3, 4, 5, generator=draws) for _ in range(2))
    mask = torch.zeros(2, 3, 4, 5)
    mask[..., 1:3] = 1
    weight = frequency_weight(rolled, clean, 0.7, norm, mask)
    inside = frequency_weight(rolled[..., 1:3], clean[..., 1:3], 0.7, norm)
    torch.testing.assert_close(weight[..., 1:3], inside)
    assert bool((weight[..., 3:] == 1).all())
    assert torch.equal(
        frequency_weight(rolled, clean, 0.7, norm, torch.ones(2, 3, 4, 5)).isfinite(),
        torch.ones(2, 3, 4, 5, dtype=torch.bool),
    )


def test_a_rows_loss_is_the_mean_over_what_counts():
    output, target = torch.tensor([[1.0, 2, 3, 4]]), torch.zeros(1, 4)
    mask = torch.tensor([[1.0, 0.5, 0, 0]])
    assert float(row_losses(output, target, mask=mask).total) == pytest.approx((1 + 0.5 * 4) / 1.5)


# A run -------------------------------------------------------------------------------------------------------------------


def test_a_masked_run_resumes_bit_for_bit_and_another_mask_is_another_set(tiny_run, without_drift, masked):
    changes = {
        **ON,
        **ROLLOUT,
        "instance_data_dir": str(masked),
        "random_flip": True,
        "aspect_buckets": True,
        "checkpoint_step_interval": 2,
    }
    whole = tiny_run("lumina2", "whole", max_train_steps=3, **changes)
    assert train(whole) == 0
    plain = tiny_run("lumina2", "plain", max_train_steps=3, **{**changes, "masked_background_weight": 1.0})
    assert train(plain) == 0 and losses(plain) != losses(whole)
    import shutil

    resumed = tiny_run("lumina2", "resumed", max_train_steps=3, **changes)
    shutil.copytree(whole.checkpoints_path / "step-000002", resumed.checkpoints_path / "step-000002")
    assert train(resumed, resume=True) == 0
    assert losses(resumed) == losses(whole)[2:]

    left_half(share=0.25).save(masked / "0-mask.png")
    other = tiny_run("lumina2", "other", max_train_steps=3, **changes)
    shutil.copytree(whole.checkpoints_path / "step-000002", other.checkpoints_path / "step-000002")
    assert train(other, resume=True) != 0
    assert "0.png" in str(events(other))
