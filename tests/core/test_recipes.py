"""At offset 0 our loss is that of diffusers' own scripts: same pictures, noise, times, prompts, weighting. Where the two differ on purpose
stands at the end, with the option that makes them equal."""

import pytest
import torch
from recipes import INDEX, RECIPES, both, drawn, flow_loss, our_losses, posterior, stock_pipeline, table
from rollout_studio.core.families import FAMILIES
from stock import open_model
from tiny import FAMILY_OF, PROMPTS

FLOWS = tuple(name for name in RECIPES if FAMILIES[FAMILY_OF[name]].is_flow)
OTHERS = tuple(name for name in RECIPES if name not in FLOWS)


@pytest.fixture(scope="module")
def pair(tiny_folder):
    """Name -> our model and, opened apart from it, the stock pipeline."""
    opened = {}

    def of(name):
        if name not in opened:
            opened[name] = open_model(tiny_folder(name)), stock_pipeline(tiny_folder(name))
        return opened[name]

    return of


def test_every_recipe_for_a_family_here_is_compared():
    """The others have none."""
    without = set(FAMILIES) - {FAMILY_OF[name] for name in RECIPES}
    assert without == {
        "chroma",
        "pixart",
        "auraflow",
        "ernie",
        "wan",
        "cogview4",
        "longcat",
        "ovis",
        "anima",
        "qwen21",
        "kolors",
    }


# mode and logit_normal weigh nothing: they are about which times are drawn
@pytest.mark.parametrize("name", FLOWS)
def test_the_loss_of_a_flow_model_is_the_recipes_at_its_noise_levels(name, pair):
    for weighting in ("none", "cosmap"):
        ours, expected = both(name, *pair(name), weighting=weighting)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        assert (expected[0] - expected[1]).abs() > 1e-3


@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("weighting", ["none", "sigma_sqrt", "cosmap"])
def test_sd3_has_the_recipes_other_weightings_and_its_preconditioning(weighting, precondition, pair):
    ours, expected = both("sd3", *pair("sd3"), weighting=weighting, precondition=precondition)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("name", OTHERS)
def test_the_loss_of_a_variance_preserving_model_is_the_recipes_with_and_without_min_snr(name, gamma, pair):
    ours, expected = both(name, *pair(name), snr_gamma=gamma)
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
    model, pipe = pair("sd3")
    pixels, noise = drawn(model)
    with torch.no_grad():
        latents = RECIPES["sd3"].latents(pipe, pixels, posterior())
        levels, rows = flow_loss(RECIPES["sd3"], pipe, latents, noise, INDEX, list(PROMPTS))
    ours = our_losses(model, pixels, noise, levels.double(), is_class=torch.tensor([False, True]), with_prior_preservation=True,
                      class_prompt="a thing", prior_loss_weight=0.3)  # fmt: skip
    torch.testing.assert_close(2 * ours.mean(), rows[0] + 0.3 * rows[1], atol=1e-5, rtol=1e-5)


def test_a_training_reads_the_posteriors_mode_where_most_recipes_draw_from_it(pair):
    model, pipe = pair("sd3")
    pixels, _ = drawn(model)
    config = pipe.vae.config
    mode = (pipe.vae.encode(pixels).latent_dist.mode() - config.shift_factor) * config.scaling_factor
    torch.testing.assert_close(model.encode_images(pixels), mode)
    assert (mode - RECIPES["sd3"].latents(pipe, pixels, posterior())).abs().max() > 0.1
