"""The pictures that a viewer of the laboratory can choose from: built in, a run's, and their own."""

from typing import Any

from ..parts.watch import Watch
from ..parts.words import text
from . import choices
from .viewers import ViewerSession

PICK = """
element.addEventListener('change', event => {
  if (event.target.matches('input[name=rs-picture]')) trigger('pick', {key: event.target.value});
});
// After a new list: what the page says is chosen, not what was clicked before in the old one.
watch('value', () => element.querySelectorAll('input').forEach(input => { input.checked = input.hasAttribute('checked'); }));
"""
"""What the gallery's component does in the browser."""


class Gallery:
    """The pictures offered to a viewer, and the chosen one; the viewer's own are in the `ViewerSession`."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._built_in = choices.built_in()

    @property
    def first(self) -> choices.Picture | None:
        """The picture of a viewer who has chosen none."""
        return self._built_in[0] if self._built_in else None

    def picture(self, session: ViewerSession) -> choices.Picture | None:
        """The picture that is chosen."""
        return session.memory.get("picture", self.first)

    def offered(self, session: ViewerSession) -> list[choices.Picture]:
        return choices.without_copies(
            [*session.memory.get("mine", ()), *session.memory.get("of_run", ()), *self._built_in]
        )

    def add(self, session: ViewerSession, picture: choices.Picture) -> None:
        """Offer a picture of the viewer's own, before all others."""
        session.memory["mine"] = choices.without_copies([picture, *session.memory.get("mine", ())])[
            : choices.MOST_PICTURES
        ]

    def offer_those_of(self, session: ViewerSession, weights: Any) -> None:
        """Offer the pictures of the run whose weights are chosen. Raises RunError where its config cannot be read."""
        name = weights.split("/")[1] if isinstance(weights, str) and weights.startswith("run/") else None
        run = self.watch.run(name)
        session.memory["of_run"] = (
            [] if run is None else choices.pictures_of_run(run.name, self.watch.store.get(run.name).read_config())
        )

    def first_markup(self) -> str:
        """For the first visit."""
        return self._markup(self._built_in, "" if self.first is None else self.first.key)

    def markup(self, session: ViewerSession, picked: str | None = None) -> str:
        """What is offered to the viewer. `picked`: the key of the picture to show as chosen; None = the one that is."""
        chosen = self.picture(session)
        return self._markup(
            self.offered(session), (chosen.key if chosen is not None else "") if picked is None else picked
        )

    def _markup(self, pictures: list[choices.Picture], picked: str) -> str:
        """The pictures as radio buttons: arrow keys move, and a screen reader reads the captions."""
        groups: dict[str, list[str]] = {}
        for picture in pictures:
            address = self.watch.previews.thumbnail(picture.path, cropped=True)  # as it is measured
            if address is None:
                continue  # it went away, or is no picture
            alt = picture.caption if picture.caption else picture.path.name
            groups.setdefault(picture.group, []).append(
                f'<label title="{text(alt)}"><input type="radio" name="rs-picture" value="{text(picture.key)}"{" checked" if picture.key == picked else ""}>'
                f'<img src="{text(address)}" alt="{text(alt)}"></label>'
            )
        drawn = "".join(
            f'<div class="rs-thumbs-name">{text(group)}</div><div class="rs-thumbs">{"".join(items)}</div>'
            for group, items in groups.items()
        )
        return (
            f'<fieldset class="rs-picks"><legend>Picture</legend>{drawn}</fieldset>'
            if drawn
            else '<div class="rs-gone">No built-in pictures; use one of yours.</div>'
        )
