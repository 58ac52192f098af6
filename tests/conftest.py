"""What every test gets: no network, one thread, the same random numbers, neither runs folder nor language of the person who runs the tests."""

import os

# Before anything imports torch, a hub client or Gradio: they read these once.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
os.environ.pop("ROLLOUT_STUDIO_LANGUAGE", None)  # tests read English
for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import random
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Files with browser tests come first: they take longest, so none of the processes is left alone with them at the end. A test marked
    `gpu` is skipped where torch finds neither CUDA nor MPS."""
    in_browser = {item.path for item in items if "chromium" in item.fixturenames}
    items.sort(key=lambda item: item.path not in in_browser)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs CUDA or MPS"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(autouse=True)
def _same_start(monkeypatch):
    """Every test starts from the same random state, and from nobody's own settings."""
    for variable in ("ROLLOUT_STUDIO_RUNS", "ROLLOUT_STUDIO_TORCH_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """A connection to anywhere but this machine fails the test that tries it."""
    connect = socket.socket.connect

    def only_here(self, address):
        host = address[0] if isinstance(address, tuple) else "localhost"  # else a path: a Unix socket
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"A test tried to reach {host}; tests have no network.")
        return connect(self, address)

    socket.socket.connect = only_here
    yield
    socket.socket.connect = connect


@pytest.fixture
def as_nobody():
    """Rights count, also where tests run as root; gives a folder that everybody may write to."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this system has no such rights")
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        if me == 0:
            os.seteuid(65534)
        yield Path(folder)
        if me == 0:
            os.seteuid(me)


@pytest.fixture(scope="session")
def chromium() -> str | None:
    """Path of the Chromium for browser tests; None = playwright's own. Without any, a skip, or a failure where one is required."""
    named = os.environ.get("ROLLOUT_STUDIO_CHROMIUM")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = named if named else next(filter(None, map(shutil.which, names)), None)
    if path is not None and Path(path).exists():
        return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        if Path(playwright.chromium.executable_path).exists():
            return None
    why = "No Chromium: `python launch.py test` gets one, or name it in ROLLOUT_STUDIO_CHROMIUM."
    if os.environ.get("ROLLOUT_STUDIO_REQUIRE_BROWSER") == "1":
        pytest.fail(why)
    pytest.skip(why)
