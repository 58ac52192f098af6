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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several processes a file's tests stay together (`--dist loadfile`), and so does each half of the browser tests: three browsers
    at a time would fill a small machine, and one alone would be the last to end."""
    from xdist.scheduler import LoadFileScheduling

    browser_files = sorted(f"tests/app/{path.name}" for path in (ROOT / "tests" / "app").glob(f"{BROWSER_TESTS}*.py"))

    class Grouped(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return f"browser {browser_files.index(file) % 2}" if file in browser_files else file

    return Grouped(config, log) if config.getvalue("dist") == "loadfile" else None


BROWSER_TESTS = "test_page"
"""How the names of files with browser tests begin."""


PROOFS = {
    "test_denoise_and_guidance_give_what_the_stock_pipeline_hands_to_its_scheduler",
    "test_inference_times_are_the_pipelines_own_schedule",
    "test_the_inference_grid_is_the_models_own_schedule",
    "test_rows_of_different_offsets_in_one_rollout_equal_single_rows",
    "test_an_euler_rollout_from_the_noisiest_node_gives_the_stock_pipelines_latents",
    "test_a_lora_of_two_steps_with_rollout_does_in_a_stock_pipeline_what_it_does_here",
}
"""What the default suite runs of `tiny.PROVEN_ONLY`."""


def pytest_collection_modifyitems(items):
    """Browser tests come first, because they take longest. A test marked `gpu` is skipped where torch finds neither CUDA nor MPS. Of the
    families in `tiny.PROVEN_ONLY` the proofs are in the default suite; what else they promise is among the slow tests."""
    items.sort(key=lambda item: not item.path.name.startswith(BROWSER_TESTS))
    later = getattr(sys.modules.get("tiny"), "PROVEN_ONLY", ())  # tests of families have imported it; nothing else need
    for item in items:
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if item.originalname not in PROOFS and any(isinstance(one, str) and one in later for one in given):
            item.add_marker(pytest.mark.slow)
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
