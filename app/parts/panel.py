"""What the panels of the Train tab have in common: how they are drawn, wired, and how they change the form.

A panel builds its components in the current layout and has `inputs`, `outputs`, `drawn(config, preset)` and `wire(page)`. All of them
read one form; whatever changes the form goes through `FormPage.filled`, so that every panel and every mark at a field follows.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from ...core.config import RunConfig
from ...core.config.options import ConfigError
from .forms import Form

UNSEEN = {"show_progress": "hidden", "show_progress_on": []}
"""For handlers whose progress nobody sees. The empty list spares the browser telling each of some hundred components twice per event that it
is pending and done: 40 % of what an edit of the form costs there (Gradio 6.31 looks each of them up from the root of the page)."""
QUICK = {**UNSEEN, "concurrency_limit": None, "api_visibility": "private"}
"""For handlers of a few milliseconds: they never wait for others."""
SLOW = {"concurrency_limit": 2, "api_visibility": "private"}
"""For handlers that read folders or check a model: two at once for the whole page."""


class FormPage(Protocol):
    """What the Train tab offers to its panels. Handlers get `given`: every input component -> what it holds."""

    form: Form
    inputs: set[Any]
    outputs: list[Any]

    def filled(
        self, given: Mapping[Any, Any], config: RunConfig, only: Iterable[str] | None = None, preset: str | None = None
    ) -> dict[Any, Any]:
        """Updates that make the form show `config` (or only the options `only` of it), with its panels and marks."""

    def refused(self, given: Mapping[Any, Any], error: ConfigError) -> dict[Any, Any]:
        """Updates that say what is wrong, at the fields and beside the form."""


class Panel(Protocol):
    """One panel. `inputs` and `outputs`: its own components, beside the options' ones (those are the form's)."""

    inputs: list[Any]
    outputs: list[Any]

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        """Updates of its outputs for what the form holds now, as far as they follow from the config. Quick: it runs at every edit."""

    def reread(self, config: RunConfig) -> dict[Any, Any]:
        """Updates that need the disk, after a config (or other pictures) was put into the form."""

    def wire(self, page: FormPage) -> None:
        """Connect its own events."""
