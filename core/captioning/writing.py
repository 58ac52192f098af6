"""The work itself: find the model, look at the pictures, write a caption beside each. In this process; the page starts `worker` instead.

What happens is said in events, each with a name and values (`EVENTS`). Memory: the model, and one batch of pictures of at most `MOST_PX` a
side; a picture is decoded whole for a moment, one at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from ..config.options import ConfigError
from ..data import pictures
from ..memory import is_out_of_memory, memory_message
from ..platform_calls import use_all_cores
from ..sizes import size
from .folder import Plan, Skipped, Wanted, Writer, composed, plan
from .models import KINDS, CaptionError, Found, Listed, NotHere, download, find, hub_listing
from .settings import CaptionSettings

Say = Callable[..., None]
"""Called with an event's name and its values."""

EVENTS = ("plan", "download", "model", "opened", "written", "skipped", "finished")
MOST_PX = 1536
"""Longest side that a model is shown; all of them scale down to at most 768 themselves."""


@dataclass(frozen=True)
class Result:
    """`written`, `skipped`: pictures of this start; `left`: those that a stopped start has not come to."""

    written: int
    skipped: int
    left: int


def outlook(folder: str | Path, settings: CaptionSettings) -> tuple[Plan, Found | Listed]:
    """What a start would do: the pictures, and the model that is here or, where the settings allow to ask, what would be downloaded.

    Raises: CaptionError, ConfigError.
    """
    made, found = plan(folder, settings), here_or_listed(settings)
    if isinstance(found, Found):
        check_kind(settings, found)
    return made, found


def here_or_listed(settings: CaptionSettings) -> Found | Listed:
    """The model on this computer, else what the hub has of it where the settings allow to ask. Raises CaptionError."""
    try:
        return find(settings.model, settings.revision)
    except NotHere:
        if not settings.download or Path(settings.model).expanduser().exists():
            raise
        return hub_listing(settings.model, settings.revision)


def check_kind(settings: CaptionSettings, found: Found) -> None:
    """Raises ConfigError where something is set that this kind of model does not have."""
    faults = settings.refusals(found.kind)
    if faults:
        raise ConfigError(faults)


def write_captions(folder: str | Path, settings: CaptionSettings, say: Say, should_stop: Callable[[], bool]) -> Result:
    """Write the captions of a folder; see `EVENTS`. Stopped, it has done what it has said; a further start does the rest.

    Args:
        say: called with `plan`: total, kept, done, skipped; `download`: file, done, total (bytes); `model`: name, kind, bytes; `opened`:
            device; `written`: picture, caption, done, total; `skipped`: picture, reason, remedy, done, total; `finished`: written, skipped,
            left.
        should_stop: asked between batches.

    Raises: CaptionError, ConfigError. Captions that were written stay.
    """
    made = plan(folder, settings)
    total = len(made.wanted)
    say("plan", total=total, kept=made.kept, done=made.done, skipped=len(made.skipped))
    for each in made.skipped:
        say("skipped", picture=each.picture, reason=each.reason, remedy=each.remedy, done=0, total=total)
    written = skipped = 0
    with _explaining(made.folder, settings):
        if made.wanted:
            found = _present(settings, say)
            check_kind(settings, found)
            say("model", name=found.name, kind=KINDS[found.kind].label, bytes=found.bytes_)
            describer = open_describer(found, settings)
            say("opened", device=describer.device)
        writer = Writer(made.folder, settings)
        for batch in _batches(made.wanted, settings.batch_size):
            if should_stop():
                break
            for wanted, outcome in _captioned(batch, describer, settings):
                left_out = outcome if isinstance(outcome, Skipped) else writer.write(wanted, outcome)
                written, skipped = written + (left_out is None), skipped + (left_out is not None)
                how_far = {"done": written + skipped, "total": total}
                if left_out is None:
                    say("written", picture=wanted.picture.name, caption=outcome, **how_far)
                else:
                    say("skipped", picture=left_out.picture, reason=left_out.reason, remedy=left_out.remedy, **how_far)
        left = total - written - skipped
        if left == 0:
            writer.finish()
    say("finished", written=written, skipped=skipped + len(made.skipped), left=left)
    return Result(written, skipped + len(made.skipped), left)


class Describer(Protocol):
    """A model that is open. `device`: where it computes."""

    device: str

    def describe(self, pictures: Sequence[Image.Image]) -> list[str]:
        """One text for each picture."""


def open_describer(found: Found, settings: CaptionSettings) -> Describer:
    """Open a model: seconds to minutes. Torch is only loaded for a model that needs it. Raises CaptionError."""
    if found.kind == "tagger":
        from .tagger import Tagger

        return Tagger(found, settings)
    from .describers import Sentences

    use_all_cores()
    return Sentences(found, settings)


def _batches(wanted: Sequence[Wanted], count: int) -> Iterator[Sequence[Wanted]]:
    for first in range(0, len(wanted), count):
        yield wanted[first : first + count]


def _captioned(
    batch: Sequence[Wanted], describer: Describer, settings: CaptionSettings
) -> Iterator[tuple[Wanted, str | Skipped]]:
    """Each picture of a batch with its caption, or why it has none; those that cannot be read come first."""
    shown: list[tuple[Wanted, Image.Image]] = []
    for wanted in batch:
        try:
            picture = pictures.decode(pictures.read_bytes(wanted.picture))
        except pictures.BadPicture as bad:
            yield wanted, Skipped(wanted.picture.name, bad.message, bad.remedy)
            continue
        picture.thumbnail((MOST_PX, MOST_PX))
        shown.append((wanted, picture))
    if not shown:
        return
    texts = describer.describe([picture for _, picture in shown])
    for (wanted, _), text in zip(shown, texts, strict=True):
        caption = composed(text, settings)
        nothing = Skipped(
            wanted.picture.name,
            "the model wrote nothing",
            "Write its caption by hand; of a tagger, lower the threshold.",
        )
        yield wanted, caption if caption else nothing


def _present(settings: CaptionSettings, say: Say) -> Found:
    """The model, downloaded first where that is allowed and needed."""
    found = here_or_listed(settings)
    if isinstance(found, Found):
        return found
    download(found, settings.revision, lambda file, done, total: say("download", file=file, done=done, total=total))
    return find(settings.model, settings.revision)


@contextmanager
def _explaining(folder: Path, settings: CaptionSettings) -> Iterator[None]:
    """Running out of memory or disk inside is raised as a CaptionError."""
    try:
        yield
    except (CaptionError, ConfigError):
        raise
    except OSError as error:
        if is_out_of_memory(error):
            raise _memory(error, settings) from error
        raise CaptionError(
            f"A caption could not be written into {folder} ({error.strerror or error}).",
            "Free some space there, or check that you may write into it; then start again.",
        ) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise _memory(error, settings) from error


def _memory(error: Exception, settings: CaptionSettings) -> CaptionError:
    fewer = f"caption_batch_size below {settings.batch_size}" if settings.batch_size > 1 else "a smaller model"
    return CaptionError(
        memory_message(error),
        f"Close other programs that hold memory, or take {fewer}, or caption_device cpu. What was written stays; a further start does the rest.",
    )


def model_words(found: Found | Listed) -> str:
    """A model in words, for a person who is about to start."""
    if isinstance(found, Found):
        return f"{found.name} is on this computer: {KINDS[found.kind].label}, {size(found.bytes_)} to load"
    return f"{found.name} would be downloaded: {size(found.bytes_)} in {len(found.absent)} files"
