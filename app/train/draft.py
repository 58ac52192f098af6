"""What the Train form holds, kept by the browser: a reload of the page, or its restart, loses no setting."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ...core.config import RunConfig, config_from_flat, differences
from ...core.config.options import ConfigError


class Draft:
    """One browser's draft. `state` is among the form's outputs; nothing reads it but `restored`, when the page arrives.

    Only what differs from the defaults is kept, so that a later version with another default is not held to this one's.
    """

    def __init__(self) -> None:
        # A fixed key and secret: without them a restart of the page would throw the draft away.
        self.state = gr.BrowserState(None, storage_key="rollout-studio-form", secret="the form of this page")

    def kept(self, config: RunConfig, preset: str, name: str | None) -> dict[Any, Any]:
        """The update that keeps a config, the preset it is compared with, and the run's name."""
        return {self.state: {"changes": differences(config), "preset": preset, "name": name}}

    @staticmethod
    def read(value: Any) -> tuple[RunConfig, str, str] | None:
        """(config, preset, run name) of a kept value; None where nothing usable was kept.

        A draft of another version may no longer be a config. It is then left alone: the form shows its preset, as for a newcomer.
        """
        if (
            not isinstance(value, Mapping)
            or not isinstance(value.get("changes"), Mapping)
            or not isinstance(value.get("preset"), str)
        ):
            return None
        name = value.get("name")
        try:
            return config_from_flat(value["changes"]), value["preset"], name if isinstance(name, str) else ""
        except ConfigError:
            return None
