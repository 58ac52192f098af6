"""The page's API, called by hand with what no browser of ours would send: every handler, every server function, every route.

No answer of 500 or more, no exception in code of ours, no call without an end, nothing read from outside, no process started. The tests are in
`app/test_page.py`: a few calls in the default suite; `python -m pytest -m slow -s tests/app/test_page.py -k by_hand` makes many and prints how
many (`FUZZ_ROUNDS` of every handler).
"""

import http.client
import json
import os
import random
import sys
import time
import traceback
from pathlib import Path

from rollout_studio.core import platform_calls

ROOT = Path(__file__).parents[1]
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "5"))
PATIENCE_S = 60.0
JUNK = [None, True, -1, 0, 3.5, 10**30, "", "x", "\0", "../../etc/passwd", "/etc/passwd", "<script>", "${1}", "~nobody/x", "a" * 5000, [], {}, [None], [[1]], {"a": 1},
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], {"url": "http://169.254.169.254/"},
        {"__type__": "update"}, {"name": "x", "header": "{}"}, "demo", "nobody", "\u202e", "C:\\x", ["a", "b"], "2" * 400, {"value": {"value": []}}, -0.0, "NaN", "data:image/png;base64,AAAA"]  # fmt: skip


EVERY_ROUTE = {
    "GET": ("/", "/config", "/theme.css", "/robots.txt", "/manifest.json", "/favicon.ico", "/assets/x.js", "/static/img/logo.svg", "/login", "/logout",
            "/openapi.json", "/gradio_api/info", "/gradio_api/startup-events", "/gradio_api/heartbeat/x", "/gradio_api/queue/data?session_hash=x",
            "/gradio_api/queue/status", "/gradio_api/file=/etc/passwd", "/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/upload_progress?upload_id=x",
            "/gradio_api/app_id", "/gradio_api/token", "/gradio_api/runs", "/custom_component/x/client/component/y.js", "/monitoring", "/svelte/x.js"),
    "HEAD": ("/", "/config"),
    "POST": ("/gradio_api/run/predict", "/gradio_api/api/0", "/gradio_api/call/on_show", "/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/cancel",
             "/gradio_api/reset", "/gradio_api/component_server", "/gradio_api/process_recording", "/login", "/nothing", "/"),
    "OPTIONS": ("/", "/gradio_api/upload"),
}  # fmt: skip
"""Of each of Gradio's own routes one by its method, and one of each kind by name."""


class Client:
    """A program that has the cookie, and asks without caring."""

    def __init__(self, served):
        self.port = int(served[0].rsplit(":", 1)[1].strip("/"))
        self.cookie = None
        self.cookie = self.ask("GET", served[2]().removeprefix(served[0].rstrip("/")))[1]["set-cookie"].split(";")[0]
        self.config = json.loads(self.ask("GET", "/config")[2])
        self.tried = 0

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        named = {name.replace("_", "-"): value for name, value in headers.items()} | (
            {"Cookie": self.cookie} if self.cookie else {}
        )
        connection.request(method, path, body=body, headers=named)
        answer = connection.getresponse()
        content = answer.read() if answer.getheader("content-length") else b""
        connection.close()
        return answer.status, answer.headers, content

    def post(self, path, data):
        self.tried += 1
        return self.ask("POST", path, json.dumps(data).encode(), Content_Type="application/json")

    def call(self, number, data):
        """A handler by its number; waits for its end. Returns what the queue says of it."""
        session = f"fuzz{self.tried}"
        status, _, content = self.post("/gradio_api/queue/join", {"data": data, "fn_index": number, "session_hash": session, "event_data": random.choice(JUNK), "trigger_id": None})  # fmt: skip
        if status != 200:
            return status, content
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={session}", headers={"Cookie": self.cookie})
        answer, end = connection.getresponse(), time.monotonic() + PATIENCE_S
        try:
            while time.monotonic() < end:
                line = answer.fp.readline()
                if not line or b"process_completed" in line or b"close_stream" in line:
                    return 200, line
        finally:
            connection.close()
        raise AssertionError(f"handler {number} has no end with {data!r:.300}")


def payload(client, dependency, rng):
    """What the page holds, with some of it replaced; or anything."""
    values = {each["id"]: each["props"].get("value") for each in client.config["components"]}
    data = [values.get(each) for each in dependency["inputs"]]
    if rng.random() < 0.1:
        return rng.choice([None, [], {}, "x", data[:-1], [*data, 1]])
    for place in range(len(data)):
        if rng.random() < max(0.05, 1.5 / len(data)):
            data[place] = rng.choice(JUNK)
    return data


def handlers(client, dependencies, rng):
    for each in dependencies:
        status, content = client.call(each["id"], payload(client, each, rng))
        assert status < 500, (each["id"], status, content[:300])
        assert b"Traceback" not in content and b"root:x:0" not in content, content[:500]


def server_functions(client, count, rng):
    """What the components of the page offer to their scripts: the graph's editor and others."""
    offered = [
        (each["id"], name) for each in client.config["components"] for name in each["props"].get("server_fns") or []
    ]
    assert offered
    for _ in range(count):
        component, name = rng.choice(offered)
        data = {"data": rng.choice([rng.choice(JUNK), [rng.choice(JUNK)]]), "fn_name": rng.choice([name, name, name, "__class__", "x"]), "component_id": rng.choice([component, component, component, -1, "x", 10**9]), "session_hash": "x"}  # fmt: skip
        status, _, content = client.post("/gradio_api/component_server", data)
        assert b"Traceback" not in content and b"root:x:0" not in content
        yield status, data


def routes(client, count, rng):
    known = [
        path for paths in EVERY_ROUTE.values() for path in paths if "heartbeat" not in path and "queue/data" not in path
    ]
    for _ in range(count):
        path = rng.choice(known)
        for _ in range(rng.randrange(3)):
            path += rng.choice(
                [
                    "/",
                    "/..",
                    "%2e%2e/",
                    "?",
                    "&x=",
                    "%00",
                    "%ff",
                    "=",
                    "..%2f",
                    "/etc/passwd",
                    "a" * 300,
                    "\\",
                    "%0d%0a",
                    "{}",
                    "?session_hash=",
                    "?token=",
                ]
            )
        method = rng.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE"])
        body = (
            rng.choice([None, b"", b"{", b"[]", b"\xff" * 40, b'{"data": []}', b"x" * 10_000])
            if method not in ("GET", "HEAD")
            else None
        )
        kind = rng.choice(
            ["application/json", "multipart/form-data", "multipart/form-data; boundary=b", "text/plain", ""]
        )
        client.tried += 1
        status, _, content = client.ask(method, path, body, Content_Type=kind)
        assert status < 500 or status == 501, (method, path, kind, body, status, content[:300])
        assert b"root:x:0" not in content


def watch(monkeypatch):
    """Exceptions in code of ours that Gradio caught; and no process may be started."""
    from gradio import queueing, route_utils, routes

    ours = []

    def noted(*_):
        kind, error, trace = sys.exc_info()
        folders = tuple(f"{ROOT / folder}{os.sep}" for folder in ("app", "core", "nodes"))
        own = [frame for frame in traceback.extract_tb(trace) if frame.filename.startswith(folders)]
        if own:
            where = own[-1]
            if "super()" not in (where.line or ""):  # there Gradio itself refused it
                ours.append(f"{where.filename}:{where.lineno} {where.line}: {kind.__name__}: {error!s:.200}")

    fake = type(
        "Traceback", (), {"print_exc": staticmethod(noted), "__getattr__": lambda self, name: getattr(traceback, name)}
    )()
    for module in (queueing, routes, route_utils):
        monkeypatch.setattr(module, "traceback", fake)

    def never(*_, **__):
        raise OSError("no process is started here")

    for name in ("start_detached", "start_helper"):
        monkeypatch.setattr(platform_calls, name, never)
    return ours
