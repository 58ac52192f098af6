"""The page: four tabs over the runs folder, served to whoever has opened its link; on this machine only, unless asked otherwise.

The process that serves it never imports torch, so it starts quickly and survives whatever a model does; a run is a process of its own
(`core.runs.store`), which this page starts, follows by reading its files, and commands by leaving files.
"""

import atexit
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Container
from pathlib import Path

# Before Gradio is imported: it reads these once, and must not phone anywhere.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from starlette.middleware import Middleware

from . import see_rollout
from .drift.tab import DriftTab
from .graph.tab import GraphTab
from .page_updates import PageUpdates
from .parts.access import Access, kept_token, write_private
from .parts.guard import Guard, Inside, ListeningHosts, around, local_hosts
from .parts.listening import Listening
from .parts.odd_requests import UNKNOWN, refuse_unknown
from .parts.panel import QUICK
from .parts.style import CSS, theme
from .parts.translation import TranslatedBlocks
from .parts.uploads import Uploads
from .parts.watch import Watch
from .runs.run_list import run_choices
from .runs.tab import RunsTab
from .train.tab import TrainTab

HOST = "127.0.0.1"
PORT = 7860
_PORTS_TRIED = 50
_BRAND = '<div class="rs-brand"><h1>Rollout<i>Studio</i></h1><span>DreamBooth with rollout and ReflexFlow, and the drift in view</span></div>'


class Page(TranslatedBlocks):
    """The components, and how the page that serves them is entered."""

    access: Access
    address: str

    def link(self, **query: str) -> str:
        """What a browser must open first."""
        return self.access.link(self.address, **query)


def build(watch: Watch) -> Page:
    """The whole page over one runs folder."""
    with Page(title="Rollout Studio", analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        gr.HTML(_BRAND)
        with gr.Tabs() as tabs:
            with gr.Tab("Train", id="train"):
                train = TrainTab(watch)
            with gr.Tab("Runs", id="runs"):
                runs = RunsTab(watch)
            with gr.Tab("Drift", id="drift") as drift_tab:
                drift = DriftTab(watch)
            with gr.Tab("Graph", id="graph"):
                graph = GraphTab(watch)
        updates = PageUpdates(watch, tabs, runs, drift, graph)
        train.shown_run = lambda name: {
            tabs: gr.Tabs(selected="runs"),
            runs.picker: gr.Radio(choices=run_choices(watch.runs()), value=name),
        }
        train.wire(tabs, runs.picker)
        runs.buttons.wire_change(train, runs.picker, tabs)
        graph.wire(train, tabs)
        runs.wire(updates.view, updates.inputs, updates.outputs)
        drift.wire(drift_tab)
        see_rollout.wire(train, drift, tabs)
        updates.wire(demo)
        demo.load(train.restored, {*train.inputs, train.draft.state}, train.outputs, **QUICK)
    return demo


def free_port(wanted: int, tried: int = _PORTS_TRIED, host: str = HOST) -> int:
    """`wanted`, or the next port that nothing listens on. Raises OSError with the remedy when `tried` in a row are taken."""
    for port in range(wanted, min(wanted + tried, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # else a port that was just given back looks taken for a minute
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        return port
    raise OSError(f"Ports {wanted} to {wanted + tried - 1} are all taken. Give another one with --port.")


def launch(watch: Watch, port: int, access: Access | None = None, listening: Listening | None = None) -> Page:
    """Start serving on `port` in a thread and return at once; `.link()` opens it, `.close()` ends it. For `serve` and for the tests.

    Args:
        access: what a request must bring; None = a token for this start only.
        listening: how it is served to other machines; None = this machine only. Then `access` must be by login.
    """
    access = Access(port) if access is None else access
    if listening is not None and not access.by_login:
        raise ValueError("a page that other machines reach needs a login")
    os.environ["GRADIO_TEMP_DIR"] = str(watch.previews.uploads)
    demo = build(watch)
    demo.access = access
    demo.address = (
        f"{'http' if listening is None or listening.key is None else 'https'}://{_shown_host(listening)}:{port}/"
    )
    access.starting = True
    demo.queue(default_concurrency_limit=4, max_size=64).launch(
        server_name=HOST if listening is None else listening.address,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        ssr_mode=False,
        quiet=True,
        inbrowser=False,
        footer_links=["settings"],
        enable_monitoring=False,
        mcp_server=False,
        show_error=False,
        strict_cors=True,
        run_history=False,
        allowed_paths=[str(watch.previews.folder)],
        max_file_size="200mb",
        theme=theme(),
        css=CSS,
        ssl_verify=False,  # of Gradio's own two questions whether its server is up, which go to this machine
        **_tls(listening),
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": [Middleware(Inside)],
            "exception_handlers": dict.fromkeys(UNKNOWN, refuse_unknown),
            "lifespan": around(
                lambda app: Guard(Uploads(app, watch.previews.uploads), _hosts(port, listening), access)
            ),
        },
    )
    access.starting = False
    return demo


def _hosts(port: int, listening: Listening | None) -> Container[str]:
    return local_hosts(port) if listening is None else ListeningHosts(port, (socket.gethostname(), *listening.names))


def _shown_host(listening: Listening | None) -> str:
    """The host of the address that is printed."""
    if listening is None:
        return HOST
    return next(iter((*listening.names, socket.gethostname()))) if listening.address == "0.0.0.0" else listening.address


def _tls(listening: Listening | None) -> dict[str, str]:
    if listening is None or listening.certificate is None:
        return {}
    return {"ssl_certfile": str(listening.certificate), "ssl_keyfile": str(listening.key)}


def serve(
    port: int | None = None,
    runs_dir: Path | str | None = None,
    open_browser: bool = True,
    stop: Callable[[], bool] | None = None,
    listening: Listening | None = None,
    everyone: bool = False,
) -> int:
    """Serve the page until Ctrl+C. Runs go on when it ends, and the next page finds them again.

    Args:
        port: wanted port; None = 7860. When it is taken the next free one is used, and printed.
        runs_dir: the folder of all runs; None = ROLLOUT_STUDIO_RUNS, else `runs` here.
        open_browser: open the page in the default browser.
        stop: called every half second; True = end. For embedding.
        listening: serve other machines too, with a login; None = this one only.
        everyone: let every program and account of this machine in. Never with `listening`.

    Returns:
        The exit code: 0, or 1 when no port is free.
    """
    wanted = PORT if port is None else port
    try:
        port = free_port(wanted, host=HOST if listening is None else listening.address)
        watch = Watch(runs_dir)
        access = _access(watch.store.root, port, listening, everyone)
        demo = launch(watch, port, access, listening)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    if port != wanted:
        print(f"Port {wanted} is taken; using {port} instead.")
    print(f"Rollout Studio is at {demo.link()}\n{_who_may_in(access)}")
    print(f"Runs are kept in {watch.store.root}. Ctrl+C ends the page; runs go on.", flush=True)
    if open_browser:
        _open_browser(demo, watch.store.root, watch.previews.folder)
    waiting = threading.Event()
    try:
        while stop is None or not stop():
            waiting.wait(0.5)
    except KeyboardInterrupt:
        print("\nThe page has ended. Runs go on; start it again to follow them.")
    finally:
        demo.close(verbose=False)
        watch.close()
    return 0


def _access(runs: Path, port: int, listening: Listening | None, everyone: bool) -> Access:
    """What a request must bring. Without a place to keep a token in, there is one for this start only, and that is said."""
    if everyone and listening is not None:
        raise ValueError("a page that other machines reach needs a login")
    try:
        token = kept_token(runs)
    except OSError as error:
        print(f"The link cannot be kept ({error}), so it changes with every start, and open tabs must be opened anew.", file=sys.stderr)  # fmt: skip
        token = None
    secure = listening is not None and listening.key is not None
    return Access(port, token, None if listening is None else listening.login, everyone, secure)


def _who_may_in(access: Access) -> str:
    if access.everyone:
        return "WARNING: every program and every account of this machine may use it, read your pictures and start runs."
    if access.by_login:
        return "It asks for the login."
    return "Only this link opens it, until the browser is closed. It stays the same at the next start; do not share it."


def _open_browser(demo: Page, runs: Path, private: Path) -> None:
    """Open the page. Through a private file, because every account can read the arguments of the browser's process, except on Windows.

    The file lies in the runs folder: browsers that are packed as a snap read nothing in a temporary folder. It holds a ticket for one use.
    """
    link = demo.access.ticket_link(demo.address)
    if os.name != "nt" and link != demo.address:
        content = f'<!doctype html><meta http-equiv="refresh" content="0; url={link}">'.encode()
        file = runs / f".open-{demo.access.cookie_name}.html"
        try:
            write_private(file, content)
        except OSError:  # a folder that is read only
            file = private / file.name
            write_private(file, content)
        atexit.register(file.unlink, missing_ok=True)
        link = file.absolute().as_uri()
    webbrowser.open(link)
