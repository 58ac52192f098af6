"""The gate in front of every request: this page answers only itself, in this machine's own browser.

Gradio checks neither `Host` (so a hostile site can rebind its name to 127.0.0.1) nor where an upload comes from. The guard refuses, with 403:
a Host or forwarded host outside the list, an Origin outside it (`null` too), and writing requests that the browser itself calls
cross-site. It covers websockets, and files and uploads, because it stands before the router.

It also answers 400 to an address with a control character in it (`%00`), which names nothing here and is an exception further in, and
404 to Gradio's proxy of other sites, which this page does not use.
"""

from collections.abc import Iterable
from urllib.parse import unquote

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"SAMEORIGIN"),
)


def local_hosts(port: int) -> frozenset[str]:
    """What a browser on this machine sends as Host for a page on `port`."""
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))


class Guard:
    """ASGI middleware.

    Args:
        app: what lies behind.
        hosts: the accepted values of Host, lower case, with port.
    """

    def __init__(self, app, hosts: Iterable[str]) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.origins = frozenset(f"{scheme}://{host}" for host in self.hosts for scheme in ("http", "https"))

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        status, reason = 403, self.refusal(scope)
        if reason is None:
            status, reason = _bad_address(scope)
        if reason is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            body = f"Refused: {reason}\n".encode()
            head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": head})
            await send({"type": "http.response.body", "body": body})

    def refusal(self, scope) -> str | None:
        """Why a request is refused, or None."""
        headers: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value.decode("latin-1").strip().lower())
        host = headers.get(b"host", [])
        if len(host) != 1 or host[0] not in self.hosts:
            return "this page answers on 127.0.0.1 and localhost only (Host)."
        if any(value not in self.hosts for value in headers.get(b"x-forwarded-host", [])):
            return "this page is not meant to stand behind another name (X-Forwarded-Host)."
        if any(value not in self.origins for value in headers.get(b"origin", [])):
            return "the request comes from another site (Origin)."
        writes = scope["type"] == "websocket" or scope["method"] not in _SAFE_METHODS
        if writes and "cross-site" in headers.get(b"sec-fetch-site", []):
            return "the request comes from another site (Sec-Fetch-Site)."
        return None


def _bad_address(scope) -> tuple[int, str | None]:
    """(status, why) of an address that nothing here can have; why is None for any other."""
    path = scope["path"]  # percent signs are resolved in it, unlike in the query
    query = unquote(scope.get("query_string", b"").decode("latin-1"))
    if any(character < " " or character == "\x7f" for character in path + query):
        return 400, "an address cannot hold a control character, such as %00."
    if "/proxy=" in path:
        return 404, "this page fetches nothing from other sites (proxy)."
    return 200, None


def _with_headers(send):
    async def sending(message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return sending
