"""At offset 0 our loss is that of diffusers' own scripts: same pictures, noise, times, prompts, weighting. Where the two differ on purpose
stands at the end, with the option that makes them equal."""

import pytest
import torch
from diffusers import DiffusionPipeline
from recipes import FRAMES, RECIPES, flow_loss, table, variance_preserving_loss
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families import FAMILIES, locate
from rollout_studio.core.families.conditioning import Frame
from rollout_studio.core.maths.grid import Grid
from rollout_studio.core.maths.rollout import plan_offsets
from rollout_studio.core.remedies import Batch, Ground, Plain, remedy_for
from rollout_studio.core.train.losses import batch_loss
from stock import open_model
from tiny import FAMILY_OF, PROMPTS

FLOWS = tuple(name for name in RECIPES if FAMILIES[FAMILY_OF[name]].is_flow)
OTHERS = tuple(name for name in RECIPES if name not in FLOWS)
INDEX = torch.tensor([130, 770])
"""Places in the table of 1000 noise levels, of two rows; for a variance-preserving model the timesteps."""
ROLLOUT = {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_grid_steps": 6}


@pytest.fixture(scope="module")
def pair(tiny_folder):
    """Name -> our model and, opened apart from it, the stock pipeline."""
    opened = {}

    def of(name):
        if name not in opened:
            folder = tiny_folder(name)
            pipe = DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(locate(str(folder)).absent))
            for part in pipe.components.values():
                if isinstance(part, torch.nn.Module):
                    part.requires_grad_(False)
            opened[name] = open_model(folder), pipe
        return opened[name]

    return of


def drawn(model, seed=3):
    """Two pictures that are no squares, and noise for their latents."""
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.rand(2, 3, 32, 48, generator=draws) * 2 - 1
    return pixels, torch.randn(2, model.latent_channels, 8, 12, generator=draws)


def posterior():
    return torch.Generator().manual_seed(7)


def our_losses(model, pixels, noise, t, *, is_class=None, **options):
    """(B,) of the trainer's own loss with a rollout switched on that leads no row anywhere; plain training gives the same bits."""
    config = config_from_flat({"pretrained_model_name_or_path": "a-model", **ROLLOUT, **options})
    x0 = model.encode_images(pixels, posterior())
    cond = model.framed(model.collate(model.encode_prompts(PROMPTS)), [Frame(*frame) for frame in FRAMES])
    grid = Grid(model.inference_times(6, x0.shape[1:]).numpy())
    ground = Ground(model.noise_path, model.prediction_type, grid)
    plan = plan_offsets(t, torch.zeros(2, dtype=torch.int64), model.noise_path, grid)
    plain, batch = Plain(config, ground), Batch(x0, noise, cond, is_class)
    with torch.no_grad():
        rolled = batch_loss(model, config, remedy_for(config, ground), batch, plan).parts.total
        alone = batch_loss(model, config, plain, batch, plain.plan(t, step=0, seed=0)).parts.total
    assert torch.equal(rolled, alone) and len(rolled) == 2
    return rolled


def recipe_at(name, pair, weighting="none", precondition=False):
    """(our model, pixels, noise, noise levels, losses of the recipe)."""
    model, pipe = pair(name)
    pixels, noise = drawn(model)
    with torch.no_grad():
        latents = RECIPES[name].latents(pipe, pixels, posterior())
        levels, losses = flow_loss(RECIPES[name], pipe, latents, noise, INDEX, list(PROMPTS), weighting=weighting, precondition=precondition)  # fmt: skip
    return model, pixels, noise, levels, losses


def test_every_recipe_for_a_family_here_is_compared():
    """The others have none: Chroma, PixArt-Sigma, AuraFlow, ERNIE-Image."""
    without = set(FAMILIES) - {FAMILY_OF[name] for name in RECIPES}
    assert without == {"chroma", "pixart", "auraflow", "ernie"}


# mode and logit_normal weigh nothing: they are about which times are drawn
@pytest.mark.parametrize("name", FLOWS)
def test_the_loss_of_a_flow_model_is_the_recipes_at_its_noise_levels(name, pair):
    for weighting in ("none", "cosmap"):
        model, pixels, noise, levels, expected = recipe_at(name, pair, weighting)
        ours = our_losses(model, pixels, noise, levels.double(), loss_weighting=weighting)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        assert (expected[0] - expected[1]).abs() > 1e-3


@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("weighting", ["none", "sigma_sqrt", "cosmap"])
def test_sd3_has_the_recipes_other_weightings_and_its_preconditioning(weighting, precondition, pair):
    model, pixels, noise, levels, expected = recipe_at("sd3", pair, weighting, precondition)
    ours = our_losses(model, pixels, noise, levels.double(), loss_weighting=weighting, precondition_outputs=precondition)  # fmt: skip
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("name", OTHERS)
def test_the_loss_of_a_variance_preserving_model_is_the_recipes_with_and_without_min_snr(name, gamma, pair):
    model, pipe = pair(name)
    pixels, noise = drawn(model)
    with torch.no_grad():
        latents = RECIPES[name].latents(pipe, pixels, posterior())
        expected = variance_preserving_loss(RECIPES[name], pipe, latents, noise, INDEX, list(PROMPTS), snr_gamma=gamma)
    ours = our_losses(model, pixels, noise, INDEX.double(), snr_gamma=gamma)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (expected[0] - expected[1]).abs() > 1e-3


# Differences on purpose ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOWS)
def test_a_shift_makes_our_table_of_noise_levels_the_recipes(name, tiny_folder, pair):
    """Scripts leave out a shift that depends on the picture's size, Sana's is lost with its solver's name, Lumina's bends towards the
    picture, because its script takes the table for one of clean parts."""
    recipe, (_, pipe) = RECIPES[name], pair(name)
    theirs = table(pipe).sigmas[:1000]
    levels = (1 - theirs).flip(0) if recipe.towards_data else theirs
    shape = (4, 8, 12)
    ours = open_model(tiny_folder(name), flow_shift=recipe.shift).training_times(shape)
    if recipe.towards_data:  # their noisiest is a thousandth below ours, and their cleanest is 0
        torch.testing.assert_close(ours[1:], levels[:-1], atol=1e-5, rtol=0)
    else:
        torch.testing.assert_close(ours, levels, atol=1e-6, rtol=0)
    if recipe.shift is not None:
        assert (open_model(tiny_folder(name)).training_times(shape) - levels).abs().max() > 0.05


def test_with_prior_preservation_a_batchs_mean_is_half_of_the_recipes_sum_of_two_means(pair):
    """Half of its rows are class pictures there; the gradient's direction is the same, and the rate counts twice."""
    model, pixels, noise, levels, rows = recipe_at("sd3", pair)
    theirs = rows[0] + 0.3 * rows[1]
    ours = our_losses(model, pixels, noise, levels.double(), is_class=torch.tensor([False, True]), with_prior_preservation=True,
                      class_prompt="a thing", prior_loss_weight=0.3)  # fmt: skip
    torch.testing.assert_close(2 * ours.mean(), theirs, atol=1e-5, rtol=1e-5)


def test_a_training_reads_the_posteriors_mode_where_most_recipes_draw_from_it(pair):
    model, pipe = pair("sd3")
    pixels, _ = drawn(model)
    config = pipe.vae.config
    mode = (pipe.vae.encode(pixels).latent_dist.mode() - config.shift_factor) * config.scaling_factor
    torch.testing.assert_close(model.encode_images(pixels), mode)
    assert (mode - RECIPES["sd3"].latents(pipe, pixels, posterior())).abs().max() > 0.1
