"""Who may in: the link's token, the login, the token that is kept, and what `ui` asks for. Without a browser or a server."""

import asyncio
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import urllib.error
import urllib.request

import psutil
import pytest
from rollout_studio.app.parts import access as access_module
from rollout_studio.app.parts import login
from rollout_studio.app.parts.access import Access, kept_token
from rollout_studio.app.parts.guard import Guard, Inside, ListeningHosts, local_hosts
from rollout_studio.app.parts.listening import LOGIN_VARIABLE, read_listening
from rollout_studio.core.config.options import ConfigError

PORT = 7860
LOGIN = "ada:correct horse"


class Door:
    """A guard, and a client at `address` that keeps its cookies."""

    def __init__(self, access, hosts=None):
        self.seen, self.cookie, self.address = [], None, "10.0.0.1"
        self.guard = Guard(self.behind, local_hosts(PORT) if hosts is None else hosts, access)

    async def behind(self, scope, receive, send):
        self.seen.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    def ask(self, path="/", query="", method="GET", kind="http", body=b"", **headers):
        """The first message of the answer."""
        named = {"host": f"127.0.0.1:{PORT}", **headers} | ({"cookie": self.cookie} if self.cookie else {})
        scope = {"type": kind, "method": method, "path": path, "query_string": query.encode(), "client": (self.address, 1),
                 "headers": [(name.encode(), value.encode()) for name, value in named.items()]}  # fmt: skip
        said = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            said.append(message)

        asyncio.run(self.guard(scope, receive, send))
        for name, value in said[0].get("headers", ()) if said else ():
            if name == b"set-cookie":
                self.cookie = value.decode().split(";")[0]
        return said[0] if said else {"status": "through"}

    def log_in(self, user, password):
        return self.ask(login.PATH, method="POST", body=f"user={user}&password={password}".encode())["status"]


def token_of(access):
    return re.search(r"token=([\w-]+)", access.link("http://x/"))[1]


def test_the_token_opens_the_page_once_and_the_cookie_from_then_on():
    access = Access(PORT)
    door = Door(access)
    assert door.ask()["status"] == 403 and door.ask(kind="websocket")["code"] == 1008
    assert door.ask(query="token=" + "A" * 43)["status"] == 403
    assert door.ask("/config", "token=" + token_of(access))["status"] == 403  # only where a browser opens the page
    assert door.ask(query="token=" + token_of(access), method="POST")["status"] == 403
    opened = door.ask(query="__theme=dark&token=" + token_of(access))
    assert opened["status"] == 200 and not door.seen  # the guard's own answer, which leads on
    assert door.ask("/config")["status"] == 200 and door.ask(kind="websocket")["status"] == "through"


def test_nothing_behind_the_guard_sees_token_or_cookie():
    access = Access(PORT)
    door = Door(access)
    door.ask(query="token=" + token_of(access))
    assert (
        door.ask(query="token=" + token_of(access))["status"] == 200 and not door.seen
    )  # led to the address without it
    door.cookie = f"a=1; {door.cookie}; b=2"
    door.ask()
    assert token_of(access) not in repr(door.seen) and (b"cookie", b"a=1; b=2") in door.seen[-1]["headers"]


@pytest.mark.parametrize("odd", ['x="{[;', "rollout-studio-7860=", "=;;=", "rollout-studio-7860=wrong"])
def test_cookies_of_other_programs_do_not_lock_anyone_out(odd):
    door = Door(Access(PORT))
    door.cookie = odd
    assert door.ask()["status"] == 403
    door.ask(query="token=" + token_of(door.guard.access))
    door.cookie = f"{odd}; {door.cookie}"
    assert door.ask()["status"] == 200


def test_the_page_of_another_port_has_another_cookie():
    door = Door(Access(PORT))
    door.cookie = Access(7861, token_of(door.guard.access)).set_cookie().decode().split(";")[0]
    assert door.ask()["status"] == 403


def test_a_server_that_starts_answers_only_its_own_two_questions():
    access = Access(PORT)
    door = Door(access)
    access.starting = True
    assert door.ask("/gradio_api/startup-events")["status"] == 200 and door.ask(method="HEAD")["status"] == 200
    assert door.ask()["status"] == 403 and door.ask("/config")["status"] == 403
    access.starting = False
    assert door.ask("/gradio_api/startup-events")["status"] == 403


def test_everyone_is_let_in_only_where_that_was_asked_for():
    assert Door(Access(PORT, everyone=True)).ask()["status"] == 200
    assert Access(PORT, everyone=True).link("http://x/") == "http://x/"


# -- the token that is kept


def test_a_token_is_kept_for_the_next_start_where_only_this_account_can_read_it(tmp_path):
    folder, runs = tmp_path / "own", tmp_path / "runs"
    token = kept_token(runs, folder)
    assert kept_token(runs, folder) == token != kept_token(tmp_path / "other", folder)
    assert Door(Access(PORT, token)).guard.access.set_cookie() == Access(PORT, token).set_cookie()
    if os.name == "posix":
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not runs.exists()  # nothing is written into the folder of the runs


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
@pytest.mark.parametrize("spoilt", ["readable", "link", "text"])
def test_a_kept_token_that_others_may_know_is_replaced(tmp_path, spoilt):
    token = kept_token(tmp_path, tmp_path / "own")
    (file,) = (tmp_path / "own").iterdir()
    if spoilt == "readable":
        file.chmod(0o644)
    elif spoilt == "link":
        file.rename(tmp_path / "theirs")
        file.symlink_to(tmp_path / "theirs")
    else:
        file.write_text("x")
    again = kept_token(tmp_path, tmp_path / "own")
    assert re.fullmatch(r"[\w-]{43}", again) and again != token
    assert not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="opens the link itself")
def test_the_browser_is_opened_by_a_private_file_with_a_ticket_for_one_use(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from rollout_studio.app import page

    opened = []
    monkeypatch.setattr(page.webbrowser, "open", opened.append)
    access, address = Access(PORT), f"http://127.0.0.1:{PORT}/"
    demo = SimpleNamespace(access=access, address=address)
    page._open_browser(demo, tmp_path / "read only, or absent", tmp_path)
    page._open_browser(demo, tmp_path, tmp_path / "unused")
    (file,) = tmp_path.iterdir()
    assert opened == [file.as_uri()] * 2 and stat.S_IMODE(file.stat().st_mode) == 0o600
    ticket = re.search(r"token=([\w-]{43})", file.read_text())[1]
    assert token_of(access) not in file.read_text()
    first, second = Door(access), Door(access)
    assert first.ask(query=f"token={ticket}")["status"] == 200 and first.ask()["status"] == 200
    assert second.ask(query=f"token={ticket}")["status"] == 403


def test_own_folders_are_the_accounts_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    if os.name == "posix" and access_module.sys.platform != "darwin":
        assert access_module.own_folder() == tmp_path / "rollout-studio"


# -- other machines


def test_a_page_for_other_machines_asks_for_the_login_on_every_route():
    door = Door(Access(PORT, login=LOGIN), ListeningHosts(PORT, ["studio.example"]))
    assert door.guard.access.link("http://x/") == "http://x/"
    token = door.guard.access._token
    assert door.ask(query=f"token={token}")["status"] == 403
    door.cookie = f"rollout-studio-{PORT}={token}"
    assert door.ask()["status"] == 403
    door.cookie = None
    assert door.log_in("ada", "wrong") == 403 and door.log_in("eve", "correct+horse") == 403 and door.cookie is None
    assert door.log_in("ada", "correct+horse") == 303
    assert door.ask("/config")["status"] == 200 and door.ask(kind="websocket")["status"] == "through"
    other = Door(Access(PORT, token, login="ada:new password"))
    other.cookie = door.cookie
    assert other.ask()["status"] == 403  # another password, and old cookies are worthless


def test_guessing_is_slowed_down_more_and_more():
    door, now = Door(Access(PORT, login=LOGIN)), [0.0]
    door.guard.tries = login.Tries(lambda: now[0])
    assert [door.log_in("ada", "no") for _ in range(6)] == [403] * 5 + [429]
    assert door.log_in("ada", "correct+horse") == 429  # nor does the right one help
    door.address = "10.0.0.2"
    assert door.log_in("ada", "no") == 403  # others are not held up
    door.address = "10.0.0.1"
    waits = []
    for _ in range(8):
        waits.append(door.guard.tries.wait_s(door.address))
        now[0] += waits[-1]
        assert door.log_in("ada", "no") == 403
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    now[0] += 3600
    assert door.log_in("ada", "correct+horse") == 303 and door.guard.tries.wait_s(door.address) == 0


def test_many_addresses_together_do_not_guess_faster():
    tries = login.Tries(lambda: 0.0)
    for number in range(login.FREE_TRIES_OF_ALL):
        assert tries.wait_s(f"10.0.0.{number}") == 0
        tries.wrong(f"10.0.0.{number}")
    assert tries.wait_s("10.9.9.9") == 60


def test_a_login_form_that_never_ends_is_cut_off():
    assert Door(Access(PORT, login=LOGIN)).log_in("a" * 5000, "x") == 413


@pytest.mark.parametrize("host, taken", [("192.168.1.5:7860", True), ("[fe80::1]:7860", True), ("studio.example", True), ("studio.example:7860", True),
                                         ("localhost:7860", True), ("evil.example:7860", False), ("192.168.1.5:80", False), ("192.168.1.5", False),
                                         ("1.2.3.4.evil.example:7860", False)])  # fmt: skip
def test_a_page_for_other_machines_answers_numbers_and_given_names(host, taken):
    assert (host in ListeningHosts(PORT, ["studio.example"])) == taken
    door = Door(Access(PORT, login=LOGIN), ListeningHosts(PORT, ["studio.example"]))
    door.log_in("ada", "correct+horse")
    origin = {"origin": f"https://{host}", "host": f"127.0.0.1:{PORT}"}
    assert (door.ask("/x", method="POST", **origin)["status"] == 200) == taken


def private(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_listening_is_refused_without_a_login_and_says_how_to_give_one(tmp_path):
    for given, said in (
        ({}, "--login-file"),
        ({"login_file": tmp_path / "absent"}, "cannot be read"),
        ({"login_file": private(tmp_path / "short", "ada:short")}, "at least 8"),
        ({"login_file": private(tmp_path / "name", "correct horse")}, "NAME:PASSWORD"),
        ({"login_file": private(tmp_path / "good", LOGIN), "key": tmp_path / "k"}, "needs both"),
        ({"login_file": tmp_path / "good", "key": tmp_path / "good", "certificate": tmp_path / "good"}, "do not work"),
    ):
        with pytest.raises(ConfigError, match=said) as refused:
            read_listening("0.0.0.0", environment={}, **given)
        assert "horse" not in str(refused.value) and "ada:short" not in str(refused.value)
    for address in ("127.0.0.1", "everywhere", "::"):
        with pytest.raises(ConfigError, match="--listen"):
            read_listening(address, tmp_path / "good", environment={})


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_a_login_that_others_can_read_is_refused(tmp_path):
    (tmp_path / "login").write_text(LOGIN)
    (tmp_path / "login").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_listening("0.0.0.0", tmp_path / "login", environment={})


def test_the_login_is_in_no_environment_of_a_child_and_in_no_description():
    environment = {LOGIN_VARIABLE: LOGIN}
    listening = read_listening("0.0.0.0", None, environment=environment)
    assert listening.login == LOGIN and not environment and "horse" not in repr(listening)


def test_a_page_for_other_machines_without_a_login_does_not_start(tmp_path):
    from rollout_studio.app import page
    from rollout_studio.app.parts.listening import Listening

    with pytest.raises(ValueError, match="login"):
        page.launch(None, PORT, Access(PORT), Listening("0.0.0.0", LOGIN))
    with pytest.raises(ValueError, match="login"):
        page._access(tmp_path, PORT, Listening("0.0.0.0", LOGIN), everyone=True)


# -- the page as it is started


def test_what_comes_past_the_guard_is_not_answered():
    """Gradio's own middleware stands around an app's; should the guard not stand around that, nothing is served."""
    reached = []

    async def app(scope, receive, send):
        reached.append(scope["type"])

    for kind in ("http", "websocket"):
        with pytest.raises(RuntimeError, match="past the guard"):
            asyncio.run(Inside(app)({"type": kind, "headers": []}, None, None))
    asyncio.run(Inside(app)({"type": "lifespan"}, None, None))
    assert reached == ["lifespan"]


def started(tmp_path, port, *flags, **environment):
    """The page as a process of its own: (process, the address that it prints)."""
    command = [sys.executable, "-m", "rollout_studio.app", "ui", "--no-browser", "--port", str(port), "--runs-dir", str(tmp_path / "runs"), *flags]  # fmt: skip
    own = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), **environment}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=own)
    for line in process.stdout:
        found = re.search(r" is at (http\S+)", line)
        if found:
            return process, found[1]
    raise AssertionError(f"the page ended with {process.wait()}")


@pytest.mark.slow
def test_an_open_tab_survives_a_restart_of_the_page(tmp_path, new_port):
    links, cookie, port = [], None, new_port()
    for _ in range(2):
        process, link = started(tmp_path, port)
        try:
            assert port == int(re.search(r":(\d+)/", link)[1])
            address, secret = link.split("?token=")
            argv = [" ".join(each.cmdline()) for each in psutil.Process(process.pid).children(recursive=True)]
            assert secret not in " ".join([*argv, *psutil.Process(process.pid).cmdline()])
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(address)
            links.append(link)
            if cookie is None:
                cookie = urllib.request.urlopen(link).headers["set-cookie"].split(";")[0]
            asked = urllib.request.Request(address + "config", headers={"Cookie": cookie})
            assert urllib.request.urlopen(asked).status == 200
        finally:
            process.terminate()
            process.wait(20)
    assert links[0] == links[1]
    secret = links[0].split("?token=")[1].encode()
    holders = [file for file in tmp_path.rglob("*") if file.is_file() and secret in file.read_bytes()]
    assert [stat.S_IMODE(file.stat().st_mode) for file in holders] == [0o600] and "state" in holders[0].parts


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_a_page_for_other_machines_is_served_with_tls_and_a_login(tmp_path, new_port):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)  # fmt: skip
    flags = ["--listen", "0.0.0.0", "--listen-name", "localhost", "--tls-certificate", str(certificate), "--tls-key", str(key)]  # fmt: skip
    process, address = started(tmp_path, new_port(), *flags, **{LOGIN_VARIABLE: LOGIN})
    try:
        assert address.startswith("https://localhost:") and "token" not in address
        here = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=certificate)),
            urllib.request.HTTPCookieProcessor(),
        )
        for path in ("", "config", "gradio_api/info"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                here.open(address + path)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            here.open(address.rstrip("/") + login.PATH, b"user=ada&password=wrong")
        assert here.open(address.rstrip("/") + login.PATH, b"user=ada&password=correct+horse").status == 200
        assert here.open(address + "config").status == 200
        assert "horse" not in " ".join(psutil.Process(process.pid).cmdline())
    finally:
        process.terminate()
        process.wait(20)
