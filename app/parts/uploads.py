"""What may be sent to the page: how much, how fast, how often; and what is left of an upload that broke off.

Gradio limits one file (`max_file_size`). It does not limit a whole request, the sum of them or the time one takes, fills the disk to its end,
and keeps the torso of an upload whose browser went away. This stands between the guard and Gradio: only who may use the page gets here.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core import platform_calls
from ...core.sizes import size

PATH = "/gradio_api/upload"
LARGEST_UPLOAD = 8 * 2**30
"""Bytes of one request with files: a thousand pictures of 8 MB."""
LARGEST_OTHER = 64 * 2**20
"""Bytes of any other request: the form with every caption of a large set, and the header of a LoRA."""
MOST_FILES = 50_000
"""In the folder of uploads, which is emptied hourly of what is a day old, and wholly when the page ends."""
AT_ONCE = 8
"""Uploads at the same time."""
SILENCE_S = 60.0
"""A sender that sends nothing for so long has gone."""
LONGEST_S = 3600.0
FREE_FLOOR = 2**30
"""Bytes that stay free on the disk of the uploads, which is often that of the system."""
_LOOK_EVERY = 64 * 2**20  # bytes between two looks at the free room
_TORSO = "tmp*"  # how Python's temporary files are called, which Gradio writes into first


class _Refused(Exception):
    def __init__(self, status: int, words: str) -> None:
        self.status, self.words = status, words
        super().__init__(words)


class Uploads:
    """ASGI middleware.

    Args:
        app: what lies behind.
        folder: where Gradio puts uploads.
    """

    def __init__(self, app: Any, folder: Path) -> None:
        self.app, self.folder = app, folder
        self._going, self._torsos = 0, False

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        has_files = scope["path"] == PATH
        try:
            self._check(_length(scope["headers"]), has_files)
        except _Refused as no:
            await _say(send, no)
            return
        if has_files:
            await self._upload(scope, receive, send)
        else:
            await self._pass_on(scope, _Body(receive, LARGEST_OTHER), send)

    def _check(self, length: int, has_files: bool) -> None:
        """Raises _Refused for a request whose head alone says that it cannot be taken."""
        largest = LARGEST_UPLOAD if has_files else LARGEST_OTHER
        if length > largest:
            raise _Refused(
                413, f"That is {size(length)}; at most {size(largest)} are taken at once. Send less at a time."
            )
        if not has_files:
            return
        if self._going >= AT_ONCE:
            raise _Refused(429, f"{AT_ONCE} uploads are on their way already. Wait for one of them to end.")
        if self.folder.is_dir() and sum(1 for _ in self.folder.iterdir()) >= MOST_FILES:
            raise _Refused(
                429,
                f"{MOST_FILES} uploaded files lie here already. Start the page again, which removes them, or name a folder instead.",
            )
        self._check_room(length)

    def _check_room(self, wanted: int) -> None:
        free = platform_calls.free_bytes(self.folder)
        if free - wanted < FREE_FLOOR:
            raise _Refused(
                507,
                f"The disk of uploads has {size(free)} free, and {size(FREE_FLOOR)} of it stay free. Make room, or name a folder instead.",
            )

    async def _upload(self, scope, receive, send) -> None:
        self._going += 1
        try:
            body = _Body(receive, LARGEST_UPLOAD, self._check_room)
            self._torsos |= not await self._pass_on(scope, body, send)
        finally:
            self._going -= 1
        if self._torsos and self._going == 0:  # whose torso it is cannot be told while another one is being written
            self._torsos = False
            await asyncio.to_thread(self._remove_torsos)

    async def _pass_on(self, scope, body: "_Body", send) -> bool:
        """Whether the request came whole. One that broke a limit is answered with the reason, unless it was answered already."""
        started = False

        async def sending(message) -> None:
            nonlocal started
            if body.refused is None:  # else it is what Gradio makes of a browser that has gone
                started = True
                await send(message)

        try:
            await self.app(scope, body.receive, sending)
        except Exception:
            if body.refused is None:
                raise
        if body.refused is not None and not started:
            await _say(send, body.refused)
        return body.refused is None

    def _remove_torsos(self) -> None:
        for path in self.folder.glob(_TORSO):
            if path.is_file():
                path.unlink(missing_ok=True)


class _Body:
    """The body of one request as it comes. Where it breaks a limit, what lies behind is told that the browser has gone."""

    def __init__(self, receive, largest: int, check_room: Callable[[int], None] | None = None) -> None:
        self._receive, self._largest, self._check_room = receive, largest, check_room
        self._seen, self._end, self._is_whole = 0, time.monotonic() + LONGEST_S, False
        self.refused: _Refused | None = None

    async def receive(self) -> Any:
        if self._is_whole:
            return await self._receive()  # Gradio listens on, for the browser to leave, as long as its answer takes
        if self.refused is None:
            try:
                return await self._next()
            except TimeoutError:
                self.refused = _Refused(408, "It stood still, or took too long. Try again.")
            except _Refused as no:
                self.refused = no
        return {"type": "http.disconnect"}

    async def _next(self) -> Any:
        message = await asyncio.wait_for(self._receive(), max(0.0, min(SILENCE_S, self._end - time.monotonic())))
        if message["type"] == "http.disconnect":
            raise _Refused(400, "The browser has gone.")
        before, self._seen = self._seen, self._seen + len(message.get("body", b""))
        if self._seen > self._largest:
            raise _Refused(
                413, f"That is more than {size(self._largest)}, which are taken at once. Send less at a time."
            )
        if self._check_room is not None and before // _LOOK_EVERY != self._seen // _LOOK_EVERY:
            self._check_room(0)
        self._is_whole = not message.get("more_body", False)
        return message


def _length(headers: Any) -> int:
    """What a request says of its own length; 0 where it says nothing that can be read."""
    found = [value for name, value in headers if name.lower() == b"content-length"]
    return int(found[0]) if len(found) == 1 and found[0].isdigit() and len(found[0]) < 20 else 0


async def _say(send, no: _Refused) -> None:
    body = f"Refused: {no.words}\n".encode()
    head = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": no.status, "headers": head})
    await send({"type": "http.response.body", "body": body})
