"""The embedded demo: a picture world drawn by rule, two small models of it, and one new thing to teach them.

Importing this package costs nothing (no torch, no diffusers). The models are ordinary diffusers folders:

    from diffusers import DiffusionPipeline
    picture = DiffusionPipeline.from_pretrained(FLOW)("a small red circle on a white background, on the left").images[0]

See `world` (scenes, captions, drawing), `judge` (reads a picture by rule), `things` (the new thing) and, for the
story, `docs/demo.md`.
"""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "presets" / "demo"
FLOW = ASSETS / "flow"
"""A flow-matching model."""
EPSILON = ASSETS / "epsilon"
"""An epsilon model."""
DREAMBOOTH = ASSETS / "dreambooth"
"""Five pictures of a thing that the world lacks, each with a caption beside it."""
POST = ASSETS / "dreambooth-post"
"""Five pictures of a second such thing, to learn beside the first in one run."""
CLASS = ASSETS / "class"
"""Pictures of the world with their captions, for prior preservation: other shapes than the new thing."""
HELDOUT = ASSETS / "dreambooth-heldout"
"""More pictures of that thing, never trained on: what drift is measured on."""

BUILT_IN = {
    "demo-flow": FLOW,
    "demo-epsilon": EPSILON,
    "demo-dreambooth": DREAMBOOTH,
    "demo-dreambooth-post": POST,
    "demo-class": CLASS,
    "demo-dreambooth-heldout": HELDOUT,
}
"""Names that options take in place of a folder."""
MODELS = ("demo-flow", "demo-epsilon")
"""Those of them that are models."""


def resolve(name_or_path: str) -> str:
    """The folder behind a built-in name; any other text as it is (a folder, or a hub id)."""
    return str(BUILT_IN[name_or_path]) if name_or_path in BUILT_IN else name_or_path
