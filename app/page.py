"""The page: four tabs over the runs folder, served on this machine only.

The process that serves it never imports torch, so it starts quickly and survives whatever a model does; a run is a process of its own
(`core.runs.store`), which this page starts, follows by reading its files, and commands by leaving files.
"""

import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
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
from .parts.guard import Guard, local_hosts
from .parts.panel import QUICK
from .parts.style import CSS, theme
from .parts.translation import TranslatedBlocks
from .parts.watch import Watch
from .runs.run_list import run_choices
from .runs.tab import RunsTab
from .train.tab import TrainTab

HOST = "127.0.0.1"
PORT = 7860
_PORTS_TRIED = 50
_BRAND = '<div class="rs-brand"><h1>Rollout<i>Studio</i></h1><span>DreamBooth with rollout and ReflexFlow, and the drift in view</span></div>'


def build(watch: Watch) -> gr.Blocks:
    """The whole page over one runs folder."""
    with TranslatedBlocks(title="Rollout Studio", analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
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


def free_port(wanted: int, tried: int = _PORTS_TRIED) -> int:
    """`wanted`, or the next port that nothing listens on. Raises OSError with the remedy when `tried` in a row are taken."""
    for port in range(wanted, min(wanted + tried, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # else a port that was just given back looks taken for a minute
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port
    raise OSError(f"Ports {wanted} to {wanted + tried - 1} are all taken. Give another one with --port.")


def launch(watch: Watch, port: int) -> gr.Blocks:
    """Start serving on `port` in a thread and return at once; `.close()` ends it. For `serve` and for the tests."""
    os.environ["GRADIO_TEMP_DIR"] = str(watch.previews.folder / "uploads")
    demo = build(watch)
    demo.queue(default_concurrency_limit=4, max_size=64).launch(
        server_name=HOST,
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
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "openapi_url": None,
            "middleware": [Middleware(Guard, hosts=local_hosts(port))],
        },
    )
    return demo


def serve(
    port: int | None = None,
    runs_dir: Path | str | None = None,
    open_browser: bool = True,
    stop: Callable[[], bool] | None = None,
) -> int:
    """Serve the page until Ctrl+C. Runs go on when it ends, and the next page finds them again.

    Args:
        port: wanted port; None = 7860. When it is taken the next free one is used, and printed.
        runs_dir: the folder of all runs; None = ROLLOUT_STUDIO_RUNS, else `runs` here.
        open_browser: open the page in the default browser.
        stop: called every half second; True = end. For embedding.

    Returns:
        The exit code: 0, or 1 when no port is free.
    """
    wanted = PORT if port is None else port
    try:
        port = free_port(wanted)
        watch = Watch(runs_dir)
        demo = launch(watch, port)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    if port != wanted:
        print(f"Port {wanted} is taken; using {port} instead.")
    address = f"http://{HOST}:{port}/"
    print(
        f"Rollout Studio is at {address}\nRuns are kept in {watch.store.root}. Ctrl+C ends the page; runs go on.",
        flush=True,
    )
    if open_browser:
        webbrowser.open(address)
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
