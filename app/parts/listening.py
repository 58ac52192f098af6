"""Serving other machines: only with a login, and what is needed for it, checked before anything starts."""

import ipaddress
import os
import ssl
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from ...core.config.options import ConfigError, Fault

LOGIN_VARIABLE = "ROLLOUT_STUDIO_LOGIN"
_SHORTEST_PASSWORD = 8
_NO_LOGIN = (
    "--listen lets other machines reach this page, so it needs a login. Write NAME:PASSWORD into a file that only you can read and give it "
    f"with --login-file FILE, or set the variable {LOGIN_VARIABLE}=NAME:PASSWORD. (Never as an argument: every account can read those.)"
)


@dataclass(frozen=True)
class Listening:
    """How the page is served to other machines."""

    address: str
    """Of this machine, where it listens; 0.0.0.0 = all of them."""
    login: str
    """"name:password"."""
    names: tuple[str, ...] = ()
    """Names under which browsers may reach it, besides addresses in numbers."""
    certificate: Path | None = None
    key: Path | None = None

    def __repr__(self) -> str:
        return f"Listening({self.address}, names={self.names}, certificate={self.certificate})"  # never the login


def read_listening(
    address: str,
    login_file: Path | None = None,
    names: tuple[str, ...] = (),
    certificate: Path | None = None,
    key: Path | None = None,
    environment: MutableMapping[str, str] = os.environ,
) -> Listening:
    """What the command line asks for. The login's variable is taken out of `environment`, so that no child process inherits it.

    Raises: ConfigError with every fault and its remedy.
    """
    faults, login = [], environment.pop(LOGIN_VARIABLE, None)
    try:
        place = ipaddress.IPv4Address(address)
        if place.is_loopback:
            faults.append(Fault(f"--listen {address}: that is this machine alone, which is the default. Leave it out."))
    except ValueError:
        faults.append(
            Fault(f"--listen {address}: must be an IPv4 address of this machine, or 0.0.0.0 for all of them.")
        )
    try:
        if login_file is not None:
            login = _read_login(login_file)
        faults += [Fault(_NO_LOGIN)] if login is None else _login_faults(login)
        if (certificate is None) != (key is None):
            faults.append(Fault("TLS needs both: --tls-certificate FILE and --tls-key FILE."))
        elif certificate is not None and key is not None:
            _check_tls(certificate, key)
    except ConfigError as error:
        faults += error.faults
    if faults or login is None:
        raise ConfigError(faults)
    return Listening(address, login, names, certificate, key)


def _read_login(path: Path) -> str:
    """The first line of the file. Raises ConfigError when it cannot be read, or others can read it too."""
    try:
        with open(path, encoding="utf-8") as file:
            mode, line = os.fstat(file.fileno()).st_mode, file.readline(2000)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Fault(f"--login-file {path}: cannot be read ({error}).")]) from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigError([Fault(f"--login-file {path}: other accounts can read it. Take that away: chmod 600 {path}")])
    return line.rstrip("\r\n")


def _login_faults(login: str) -> list[Fault]:
    """What is wrong with "name:password"; never quotes it."""
    name, colon, password = login.partition(":")
    if not colon or not name:
        return [Fault("The login must be NAME:PASSWORD, in one line.")]
    if len(password) < _SHORTEST_PASSWORD:
        return [Fault(f"The login's password must have at least {_SHORTEST_PASSWORD} characters.")]
    return []


def _check_tls(certificate: Path, key: Path) -> None:
    """Open both as the server will. Raises ConfigError. A key with a password is refused: the server would ask for it on the terminal."""

    def asked() -> str:
        raise ConfigError(
            [Fault(f"--tls-key {key}: is locked with a password. Give one without, readable only by you.")]
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=asked)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            [Fault(f"--tls-certificate {certificate}, --tls-key {key}: do not work ({error}).")]
        ) from None
