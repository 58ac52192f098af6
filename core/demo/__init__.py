"""The embedded demo: a picture world drawn by rule, two small text-to-image models of it, and one new thing to teach them.

Importing this package costs nothing (no torch, no diffusers). The models are ordinary diffusers folders:

    from diffusers import DiffusionPipeline
    picture = DiffusionPipeline.from_pretrained(FLOW)("a small red circle on a white background, on the left").images[0]

See `world` (scenes, captions, drawing), `judge` (reads a picture by rule), `things` (the new thing), `docs/demo.md` (the story).
"""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "presets" / "demo"
FLOW = ASSETS / "flow"
"""A flow-matching model: `Lumina2Pipeline`."""
EPSILON = ASSETS / "epsilon"
"""An epsilon model: `StableDiffusionPipeline`."""
DREAMBOOTH = ASSETS / "dreambooth"
"""Five pictures of a thing that the world lacks, each with a caption beside it."""
