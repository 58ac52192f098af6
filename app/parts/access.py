"""Who may use the page: whoever has opened the link that was printed, or has logged in.

Loopback is shared by every program and every account of a machine, so an address alone is no protection. The link carries a token once; the
answer puts it into a cookie and leads to the address without it, and from then on the cookie alone counts (`guard.py` asks for it on
every route). The token is kept per account and runs folder, so that an open tab works again after a restart of the page.

Cookies do not tell ports apart, hence the port in the name: two pages of one machine do not log each other out.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from ...core import platform_calls

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 random bytes
Headers = Iterable[tuple[bytes, bytes]]
IN_LINK = "token"
"""The name under which the link carries the token."""
WITHOUT_LINK = "this page opens only with its link: open the one that was printed where the page was started (it ends in ?token=...)."


class Access:
    """What a request must bring.

    Args:
        port: of the page.
        token: 43 characters of `secrets.token_urlsafe(32)`; None = one for this start only.
        login: "user:password" where people log in; then the link is not printed and its token opens nothing. None = by the link.
        everyone: ask for nothing. Only ever on loopback: the command line refuses it otherwise.
        secure: the page is served with TLS, so its cookie never travels without.
    """

    def __init__(
        self,
        port: int,
        token: str | None = None,
        login: str | None = None,
        everyone: bool = False,
        secure: bool = False,
    ) -> None:
        self.cookie_name = f"rollout-studio-{port}"
        self._attributes = "Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
        self._token = secrets.token_urlsafe(32) if token is None else token
        self._login = login
        self.everyone = everyone
        self.starting = False
        """Gradio asks its own server twice whether it is up; only then may these two requests come without a cookie."""
        self._ticket: str | None = None
        self._value = self._token
        if login is not None:  # another password, another cookie: whoever knew the old one is out
            self._value = hmac.new(self._token.encode(), login.encode(), hashlib.sha256).hexdigest()

    @property
    def by_login(self) -> bool:
        """People log in, with a name and a password."""
        return self._login is not None

    def link(self, address: str, **query: str) -> str:
        """What to open instead of `address`; `query` is kept when the token has gone."""
        if not self.everyone and not self.by_login:
            query = {**query, IN_LINK: self._token}
        return f"{address}?{urlencode(query)}" if query else address

    def ticket_link(self, address: str) -> str:
        """A link that opens the page once; the next one made takes its place. For places that are less private than a terminal."""
        if self.everyone or self.by_login:
            return address
        self._ticket = secrets.token_urlsafe(32)
        return f"{address}?{urlencode({IN_LINK: self._ticket})}"

    def has_cookie(self, headers: Headers) -> bool:
        """Whether one of the cookies under our name is ours. In constant time. `headers`: pairs of bytes, as ASGI has them."""
        found = [value for name, value in _cookies(headers) if name == self.cookie_name.encode()]
        right = [hmac.compare_digest(value, self._value.encode()) for value in found]  # all are compared
        return any(right)

    def has_token(self, query: bytes) -> bool:
        """Whether an address carries the token, or a ticket that was not used yet. In constant time."""
        given = [value.encode() for name, value in parse_qsl(query.decode("latin-1")) if name == IN_LINK]
        valid = [each.encode() for each in (self._token, self._ticket) if each is not None]
        right = [hmac.compare_digest(value, each) for value in given for each in valid]
        return not self.by_login and any(right)

    def used(self, query: bytes) -> None:
        """Somebody came in with this address: a ticket in it opens nothing any more."""
        if self._ticket is not None and self._ticket.encode() in query:
            self._ticket = None

    def knows(self, user: str, password: str) -> bool:
        """Whether this is the login. In constant time, whatever the lengths."""
        if self._login is None:
            return False
        name, _, secret = self._login.partition(":")
        right = [hmac.compare_digest(_digest(a), _digest(b)) for a, b in ((user, name), (password, secret))]
        return all(right)

    def set_cookie(self) -> bytes:
        """The value of `Set-Cookie`: unreadable for scripts, never sent along from another site, gone with the browser."""
        return f"{self.cookie_name}={self._value}; {self._attributes}".encode()

    def without_cookie(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """The headers without our cookie: nothing behind the guard needs it, so nothing there can pass it on or write it down."""
        kept = []
        for name, value in headers:
            if name.lower() == b"cookie":
                parts = [each for each in value.split(b";") if each.split(b"=")[0].strip() != self.cookie_name.encode()]
                if not parts:
                    continue
                value = b";".join(parts).strip()
            kept.append((name, value))
        return kept


def without_token(query: bytes) -> str:
    """The rest of an address's query."""
    left = [(name, value) for name, value in parse_qsl(query.decode("latin-1")) if name != IN_LINK]
    return urlencode(left)


def _cookies(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Every cookie of a request. By hand: `http.cookies` drops all of them for one odd one, and other programs' cookies come along."""
    parts = [part for name, value in headers if name.lower() == b"cookie" for part in value.split(b";")]
    pairs = [part.partition(b"=") for part in parts]
    return [(name.strip(), value.strip().strip(b'"')) for name, _, value in pairs]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


# ---- the token that survives a restart


def own_folder() -> Path:
    """Where this account keeps what is its own alone. On Windows and macOS the profile, which other accounts cannot read."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "rollout-studio"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "rollout-studio"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rollout-studio"


def kept_token(runs: Path, folder: Path | None = None) -> str:
    """The token of this account for a runs folder: the one of the last start, else a new one, which is kept.

    Kept in the account's own folder (`own_folder`), not in the runs folder, which people share, copy and back up. A file that others
    could read, write or have made is not believed: a new token takes its place.

    Raises: OSError when it can be neither read nor written.
    """
    folder = own_folder() / "pages" if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / hashlib.sha256(os.fsencode(runs.resolve())).hexdigest()[:32]
    token = _read_private(path)
    if token is None:
        token = secrets.token_urlsafe(32)
        write_private(path, token.encode())
    return token


def kept_tokens() -> list[str]:
    """Every token that this account keeps, of whatever runs folder: what must be in no file that is handed on."""
    folder = own_folder() / "pages"
    try:
        found = [_read_private(path) for path in sorted(folder.iterdir())]
    except OSError:
        return []  # no page was started here yet
    return [token for token in found if token is not None]


def write_private(path: Path, content: bytes) -> None:
    """A file that from its first moment only this account can read (POSIX: 0600; Windows: by the rights of its folder)."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        platform_calls.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_private(path: Path) -> str | None:
    """The token in a file, or None where there is none, or none to be trusted."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return None
    except OSError:
        if path.is_symlink():
            return None
        raise
    with open(file, "rb") as opened:
        about, content = os.fstat(opened.fileno()), opened.read(200)
    if os.name == "posix" and (about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o077):
        return None
    text = content.decode("ascii", errors="replace")
    return text if _TOKEN.fullmatch(text) else None
