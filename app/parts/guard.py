"""The gate in front of every request: this page answers only itself, in a browser that has opened its link or logged in.

Gradio checks neither `Host` (so a hostile site can rebind its name to 127.0.0.1) nor where an upload comes from. The guard refuses, with 403:
a Host or forwarded host outside the list, an Origin outside it (`null` too), and writing requests that the browser itself calls
cross-site. Then it asks for the cookie of `access.py`, and hands it out for the link's token or for a login (`login.py`). It covers
websockets, files, uploads and server functions, because it stands before the router.

It also answers 400 to an address with a control character in it (`%00`), which names nothing here and is an exception further in, and
404 to Gradio's proxy of other sites, which this page does not use.
"""

import contextlib
import ipaddress
import secrets
from collections.abc import Callable, Container, Iterable
from typing import Any
from urllib.parse import unquote

from . import login
from .access import WITHOUT_LINK, Access, without_token

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; media-src 'self' blob:; worker-src 'self' blob:; "
    "object-src 'none'; frame-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""What the page may load. Scripts are the server's files and those that stand in the page as it was sent, each marked with the answer's
nonce; a handler or script in markup that comes later does not run. Gradio needs `new Function` (templates of gr.HTML) and inline styles."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
_OWN_HEADERS = (*_HEADERS, (b"cache-control", b"no-store"), (b"content-security-policy",
                b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"))  # fmt: skip
"""Of what the guard itself answers."""
_PASSED = "rollout_studio.nonce"
_AT_START = (("GET", "/gradio_api/startup-events"), ("HEAD", "/"))


def local_hosts(port: int) -> frozenset[str]:
    """What a browser on this machine sends as Host for a page on `port`."""
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))


class ListeningHosts:
    """What a browser on another machine may send as Host: this machine's address in numbers, or a name that was given.

    Numbers cannot be rebound: a hostile site reaches this page under its own name only, and that is not in the list.
    """

    def __init__(self, port: int, names: Iterable[str]) -> None:
        self._port = port
        self._names = local_hosts(port) | {f"{name.lower()}{end}" for name in names for end in ("", f":{port}")}

    def __contains__(self, host: object) -> bool:
        if not isinstance(host, str):
            return False
        name, _, port = host.rpartition(":")
        if host in self._names:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return port == str(self._port)


class Guard:
    """ASGI middleware.

    Args:
        app: what lies behind.
        hosts: the accepted values of Host, lower case, with port.
        access: who may in.
    """

    def __init__(self, app, hosts: Container[str], access: Access) -> None:
        self.app = app
        self.hosts = hosts
        self.access = access
        self.tries = login.Tries()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        status, reason = 403, self.refusal(scope)
        if reason is None and not self._may_in(scope):
            if scope["type"] == "http":
                await self._at_the_door(scope, receive, send)
                return
            reason = WITHOUT_LINK
        if reason is None:
            status, reason = _bad_address(scope)
        if reason is None:
            nonce = secrets.token_urlsafe(16)
            scope = {**scope, "headers": self.access.without_cookie(scope["headers"]), _PASSED: nonce}
            await self.app(scope, receive, _with_headers(send, nonce))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
        else:
            await _say(send, status, f"Refused: {reason}\n".encode())

    def _may_in(self, scope) -> bool:
        """Whether the request brings the cookie. One that brings the token too is led to the address without it first."""
        opened = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        if opened and self.access.has_token(scope.get("query_string", b"")):
            return False
        if self.access.everyone or self.access.has_cookie(scope["headers"]):
            return True
        return self.access.starting and scope["type"] == "http" and (scope["method"], scope["path"]) in _AT_START

    async def _at_the_door(self, scope, receive, send) -> None:
        """What somebody without the cookie gets: the cookie for the token or the login, else 403."""
        method, path, query = scope["method"], scope["path"], scope.get("query_string", b"")
        if self.access.by_login:
            if method == "POST" and path == login.PATH:
                status, said = await login.answer(self.access, self.tries, scope, receive)
            else:
                status, said = 403, "This page asks for a login."
            if status == 303:
                await _say(send, 303, b"", (b"location", b"/"), (b"set-cookie", self.access.set_cookie()))
            else:
                await _say(send, status, login.form(said), (b"content-type", b"text/html; charset=utf-8"))
        elif method == "GET" and path == "/" and self.access.has_token(query):
            self.access.used(query)
            rest = without_token(query)
            address = ("/?" + rest if rest else "/").encode()
            # Not a redirect: after a click in a mail or a web terminal a redirect would still count as coming from another
            # site, and the browser would not send the new cookie along.
            on = b'<!doctype html><meta http-equiv="refresh" content="0; url=' + address.replace(b"&", b"&amp;") + b'">'
            head = ((b"content-type", b"text/html; charset=utf-8"), (b"set-cookie", self.access.set_cookie()))
            await _say(send, 200, on, *head)
        else:
            await _say(send, 403, f"Refused: {WITHOUT_LINK}\n".encode())

    def refusal(self, scope) -> str | None:
        """Why a request is refused, or None."""
        headers: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value.decode("latin-1").strip().lower())
        host = headers.get(b"host", [])
        if len(host) != 1 or host[0] not in self.hosts:
            return "this page does not answer under this name (Host); on this machine it is 127.0.0.1 or localhost."
        if any(value not in self.hosts for value in headers.get(b"x-forwarded-host", [])):
            return "this page is not meant to stand behind another name (X-Forwarded-Host)."
        if any(_host_of(value) not in self.hosts for value in headers.get(b"origin", [])):
            return "the request comes from another site (Origin)."
        writes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if writes and "cross-site" in headers.get(b"sec-fetch-site", []):
            return "the request comes from another site (Sec-Fetch-Site)."
        return None


def _host_of(origin: str) -> str:
    """The host and port of an Origin; "null" and anything odd stays what it is, and is no host."""
    scheme, mark, host = origin.partition("://")
    return host if mark and scheme in ("http", "https") else f"{origin}?"


async def _say(send, status: int, body: bytes, *head: tuple[bytes, bytes]) -> None:
    """An answer of the guard's own."""
    kind = (
        () if any(name == b"content-type" for name, _ in head) else ((b"content-type", b"text/plain; charset=utf-8"),)
    )
    headers = [*head, *kind, (b"content-length", str(len(body)).encode()), *_OWN_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _bad_address(scope) -> tuple[int, str | None]:
    """(status, why) of an address that nothing here can have; why is None for any other."""
    path = scope["path"]  # percent signs are resolved in it, unlike in the query
    query = unquote(scope.get("query_string", b"").decode("latin-1"))
    if any(character < " " or character == "\x7f" for character in path + query):
        return 400, "an address cannot hold a control character, such as %00."
    if len(path) > 4000 or any(len(part.encode("utf-8", "surrogatepass")) > 260 for part in path.split("/")):
        return 404, "nothing here has a name that long."  # to a system that is asked for one it is an error
    if "/proxy=" in path:
        return 404, "this page fetches nothing from other sites (proxy)."
    return 200, None


def _with_headers(send, nonce: str):
    policy = (b"content-security-policy", _POLICY.format(nonce=nonce).encode())

    async def sending(message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS, policy]}
        await send(message)

    return sending


class Inside:
    """ASGI middleware behind the guard: it refuses whatever did not come through it, and marks the scripts of a page with its nonce.

    Gradio puts middleware of its own around that of an app, and answers some requests there (preflights), so the guard is put around
    all of it when the server starts (`around`). Should that ever not happen, nothing is served.
    """

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif _PASSED not in scope:
            raise RuntimeError("a request came past the guard")
        else:
            own = scope["type"] == "http" and scope["path"] == "/"  # not a file that happens to be HTML
            await self.app(scope, receive, _marking(send, scope[_PASSED]) if own else send)


def around(guard: Callable[[Any], Guard]):
    """A lifespan handler that puts the guard around the whole app."""

    @contextlib.asynccontextmanager
    async def lifespan(app):
        app.middleware_stack = guard(app.middleware_stack)
        yield

    return lifespan


def _marking(send, nonce: str):
    """Give every script of an HTML page the nonce. Only what the server itself wrote: Gradio escapes "<" in the values in it."""
    held: list[dict] = []
    body: list[bytes] = []

    async def sending(message) -> None:
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            if any(kind.startswith(b"text/html") for kind in kinds):
                held.append(message)
                return
        elif message["type"] == "http.response.body" and held:
            body.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            page = b"".join(body).replace(b"<script", f'<script nonce="{nonce}"'.encode())
            start = held.pop()
            head = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
            await send({**start, "headers": [*head, (b"content-length", str(len(page)).encode())]})
            message = {**message, "body": page}
        await send(message)

    return sending
