"""What the models of the FLUX.2 generation have in common (no torch)."""

from .facts import JOINT_ATTENTION, USUAL_FLOW, Geometry, PartConfigs, TextCost, vae_geometry, width_of
from .unsuitable_facts import other_inputs

TOKENS = 512
"""Captions are padded to so many, and the padding takes part in the attention."""
PATCH = 2
"""A latent cell is a square of 2x2 cells of the autoencoder."""
LORA_TARGETS = (*JOINT_ATTENTION, "to_qkv_mlp_proj", "attn.to_out")
"""Blocks with a stream for the text have separate projections; the last two names are those of the blocks with a single stream."""


def geometry(configs: PartConfigs) -> Geometry:
    found = vae_geometry("transformer", cells_per_token=1)(configs)
    channels, pixels = found.channels, found.pixels_per_latent
    return Geometry(
        channels=None if channels is None else PATCH**2 * channels,
        pixels_per_latent=None if pixels is None else PATCH * pixels,
        cells_per_token=1,
        # The network's config names no size; a bare `pipe(prompt)` draws 128 x 128 cells of the autoencoder.
        native_size=None if pixels is None else 128 * pixels,
    )


def text(configs: PartConfigs) -> TextCost:
    """Hidden states of three layers of the text encoder, side by side."""
    return TextCost(TOKENS, 4 * TOKENS * width_of(configs, "transformer", "joint_attention_dim", usual=15360))


def mu_with_steps(positions: int, steps: int) -> float:
    """The exponent of the shift for a picture of so many positions, sampled in so many steps.

    Two fits over the positions, for 10 and for 200 steps, and the straight line between them; above 4300 positions that of 200 steps.
    Source: the FLUX.2 release; diffusers' `compute_empirical_mu`.
    """
    at_200 = 0.00016927 * positions + 0.45666666
    if positions > 4300:
        return at_200
    at_10 = 8.73809524e-05 * positions + 1.89833333
    slope = (at_200 - at_10) / 190.0
    return slope * steps + (at_200 - 200.0 * slope)


OTHER_INPUTS = other_inputs(latents=32, cells=PATCH)
SCHEDULE = USUAL_FLOW.but(
    usual={**USUAL_FLOW.usual, "use_dynamic_shifting": True},
    sigmas="steps",
    mu_with_steps=mu_with_steps,
    usual_steps=50,
)
