"""The login of a page that listens to other machines: a form without scripts, and a brake on guessing."""

import html
import math
import time
from urllib.parse import parse_qs

from .access import Access

PATH = "/rollout-studio-login"
FREE_TRIES = 5
FREE_TRIES_OF_ALL = (
    100  # of all addresses together, in the same window: addresses are cheap, and a proxy's headers can be forged here
)
WINDOW_S = 60.0
LONGEST_WAIT_S = 3600.0
_REMEMBERED = 10_000  # addresses; an attacker may have many
_LARGEST_FORM = 4096  # bytes

_FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Rollout Studio: log in</title><style>
:root {{ color-scheme: light dark }} body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 22rem; margin: 15vh auto; padding: 0 1rem }}
label, input, button {{ display: block; width: 100%; box-sizing: border-box; margin-top: .7rem; font: inherit; padding: .4rem }}
label {{ padding: 0 }}</style>
<h1>Rollout Studio</h1><p role="status">{said}</p>
<form method="post" action="{path}"><label>Name <input name="user" autocomplete="username" autofocus required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button></form></html>
"""


class Tries:
    """Who has guessed wrongly, and how long that address must wait: after 5 wrong tries within a minute one minute, and after each further
    wrong try twice as long, up to an hour. A right one, or a day without a try, clears it. All addresses together have 100 wrong tries a minute."""

    def __init__(self, now=time.monotonic) -> None:
        self._now = now
        self._wrong: dict[str, list[float]] = {}
        self._all: list[float] = []
        self._until: dict[str, tuple[float, float]] = {}  # address -> (may try again at, last wait)

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 = now."""
        now = self._now()
        self._all = [t for t in self._all if now - t < WINDOW_S]
        own = self._until.get(address, (now, 0.0))[0] - now
        everybody = self._all[0] + WINDOW_S - now if len(self._all) >= FREE_TRIES_OF_ALL else 0.0
        return max(own, everybody, 0.0)

    def wrong(self, address: str) -> None:
        """A wrong try."""
        now = self._now()
        self._all.append(now)
        at, last = self._until.get(address, (-math.inf, 0.0))
        if last and now - at > 86_400:
            last = 0.0
        recent = [t for t in self._wrong.pop(address, []) if now - t < WINDOW_S] + [now]
        self._wrong[address] = recent
        if last or len(recent) >= FREE_TRIES:
            wait = min(max(WINDOW_S, 2 * last), LONGEST_WAIT_S)
            self._until.pop(address, None)
            self._until[address] = (now + wait, wait)
        for kept in (self._wrong, self._until):
            while len(kept) > _REMEMBERED:
                del kept[next(iter(kept))]  # the oldest

    def right(self, address: str) -> None:
        """A right one."""
        self._wrong.pop(address, None)
        self._until.pop(address, None)


def form(said: str = "This page asks for a login.") -> bytes:
    """The page with the form. `said`: a sentence above it."""
    return _FORM.format(said=html.escape(said), path=PATH).encode()


async def answer(access: Access, tries: Tries, scope, receive) -> tuple[int, str]:
    """A try to log in: (status, sentence); 303 = it is right."""
    address = scope["client"][0] if scope.get("client") else "unknown"
    wait = tries.wait_s(address)
    if wait:
        return 429, f"Too many wrong tries. Wait {math.ceil(wait)} seconds, then try again."
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return 400, "The connection ended."
        body += message.get("body", b"")
        if len(body) > _LARGEST_FORM:
            return 413, "That is longer than a name and a password."
        if not message.get("more_body", False):
            break
    wait = tries.wait_s(address)  # others of the same address may have been wrong while this one was being sent
    if wait:
        return 429, f"Too many wrong tries. Wait {math.ceil(wait)} seconds, then try again."
    fields = parse_qs(body.decode("utf-8", errors="replace"), keep_blank_values=True)
    if access.knows(fields.get("user", [""])[0], fields.get("password", [""])[0]):
        tries.right(address)
        return 303, ""
    tries.wrong(address)
    return 403, "Name or password is wrong."
