"""Runs as a trainer would leave them, written in milliseconds: real files through the run store, real pictures and drift reports."""

import math
import os
import random
import re
from types import SimpleNamespace
from urllib.parse import parse_qsl

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rollout_studio.core.look.drift.files import report_to_json
from rollout_studio.core.look.drift.report import Curve, DriftReport, Measure, Point
from rollout_studio.core.look.drift.words import summary
from rollout_studio.core.look.pictures.filmstrip import Frame, Strip
from rollout_studio.core.look.pictures.strips import write_strips
from rollout_studio.core.runs.store import RunStore


def _picture(path, seed, size=(64, 64)):
    rng = random.Random(seed)
    picture = Image.new("RGB", size, tuple(rng.randrange(180, 256) for _ in range(3)))
    x, y = rng.randrange(8, size[0] - 28), rng.randrange(8, size[1] - 28)
    ImageDraw.Draw(picture).ellipse((x, y, x + 20, y + 20), fill=tuple(rng.randrange(0, 160) for _ in range(3)))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _curve(weights, scale, loss=1.0):
    def point(sigma, offset):
        names = ("distance", "solver", "floor_model", "cos_clean", "noise_shift", "std_ratio")
        values = (scale * offset * sigma / 20, scale * sigma / 60, scale * offset * sigma / 30, 0.99, 0.01, 1.01)
        measures = {name: Measure(value, 0.01, (value, value * 1.1)) for name, value in zip(names, values, strict=True)}
        return Point(t=sigma, alpha=1 - sigma, sigma=sigma, offset=offset, steps=float(offset), measures=measures)

    sigmas = [0.1, 0.3, 0.5, 0.7, 0.9]
    losses = tuple(Point(t=s, alpha=1 - s, sigma=s, offset=0, steps=0.0, measures={"loss": Measure(scale * (0.2 + s / 5), 0.01, (0.2 * loss, 0.3 * loss))})
                   for s in sigmas)  # fmt: skip
    return Curve(label=weights, weights=weights, role="held-out", pictures=2, samples=2, fine_samples=2, trajectory_samples=2,
                 short=tuple(point(s, k) for s in sigmas for k in (1, 3)), trajectory=(), clean_loss=losses, spectrum=None,
                 network_rows=10, network_calls=5)  # fmt: skip


def _strip(weights, seed):
    """Three columns of small pictures; the rolled ones differ more from column to column, the tuned ones less than the base's."""
    clean = np.random.default_rng(seed).integers(0, 90, (12, 8, 3), dtype=np.uint8)
    step = 12 if weights == "tuned" else 30
    frames = tuple(Frame(2 * i, 0.8 - i / 4, 0.8 - i / 4, clean, clean + np.uint8(step * i)) for i in range(3))
    return Strip(weights, "a zwx shape", clean, frames, {"sampler": "unipc"})


def write_drift(run, step, drift=0.8, loss=1.0):
    """A drift report with its pictures, and the event that tells of it. `drift`, `loss`: tuned over base."""
    folder = run.drift_path / f"step-{step:06d}"
    folder.mkdir(parents=True)
    report = DriftReport(model="demo-flow", prediction_type="flow_matching", path="rectified flow", probe="p", settings={}, step=step,
                         curves=(_curve("base", 1.0), *((_curve("tuned", drift, loss),) if step else ())))  # fmt: skip
    (folder / "report.json").write_text(report_to_json(report), encoding="utf-8")
    _picture(folder / "filmstrip.png", step, (1200, 320))
    write_strips([_strip("tuned" if step else "base", 3)], folder)
    _picture(folder / "spectrum.png", step, (640, 320))
    run.emit("drift", step=step, path=f"drift/step-{step:06d}/report.json", summary=summary(report))


def write_steps(run, first, last, total, seconds=0.42, rolled=True):
    """`step` events with everything that the trainer tells. Every third step or so rolls nothing out; with `rolled` false none does."""
    rng = random.Random(first)
    for step in range(first, last + 1):
        main = 0.9 * math.exp(-step / 80) + 0.25 + rng.random() / 8
        adr = 0.4 * rng.random()
        run.emit("step", step=step, loss=main + adr, loss_parts={"main": main, "adr": adr, "prior": 0.0}, lr=1e-3, grad_norm=1.0,
                 rows=8, rolled_rows=rng.randrange(3) if rolled else 0, source_noise_rows=0, mean_offset=1.2, network_rows=6, network_calls=3, frequency_weight_std=0.1,
                 effective_probability=min(0.25, step / 160), seconds=seconds, eta_s=seconds * (total - step), memory_mib=812.0)  # fmt: skip


PROMPTS = (
    "a large zwx shape on a white background, in the centre",
    "a small zwx shape on a navy background, on the left",
)


def write_samples(run, step):
    images = []
    for number, prompt in enumerate(PROMPTS):
        _picture(run.samples_path / f"step-{step:06d}" / f"{number:02d}.png", step * 10 + number)
        images.append({"prompt": prompt, "seed": 42 + number, "path": f"samples/step-{step:06d}/{number:02d}.png"})
    run.emit("sample", step=step, images=images)


def write_whole(
    store: RunStore,
    name="told",
    steps=120,
    total=200,
    state="stopped",
    config=(),
    about=None,
    drifts=None,
    seconds=0.42,
    rolled=True,
):
    """A run that went `steps` far, with samples every 40 steps, two drift reports, a checkpoint and a LoRA file.

    `drifts`: step -> (drift, clean loss) over the base's, for a report there beside the one of step 0; unset = one at the end.
    """
    run = store.create({"max_train_steps": total, **dict(config)}, name, preset="demo", about=about)
    run.emit("start", pid=1, device="cpu", config_hash="0", total_steps=total, resumed_from=None)
    for step in range(0, steps + 1, 40):
        write_samples(run, step)
        if step == 0:
            write_drift(run, step)
        write_steps(run, step + 1, min(step + 40, steps), total, seconds, rolled)
        for at, (drift, loss) in (drifts if drifts is not None else {steps: (0.8, 1.0)}).items():
            if step < at <= step + 40:
                write_drift(run, at, drift, loss)
    folder = run.checkpoints_path / f"step-{steps:06d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    run.lora_path.mkdir()
    (run.lora_path / f"{name}.safetensors").write_bytes(b"\0" * 2000)
    run.emit("exported", step=steps, path=f"lora/{name}.safetensors", check={"missing": [], "unexpected": []})
    run.log_path.write_text("training told\n<script>alert(1)</script>\n")
    run.emit("end", state=state, step=steps)
    run.write_state(state=state, step=steps)
    return run


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture(scope="session")
def write():
    """What a trainer would write: `write.run(store)`, or `write.steps`, `write.samples`, `write.drift` one by one."""
    return SimpleNamespace(run=write_whole, steps=write_steps, samples=write_samples, drift=write_drift)


# -- the page in a real browser ------------------------------------------------------------------------------------------

PATIENCE_MS = 120_000  # on a busy machine of two cores; an idle one needs a few seconds


@pytest.fixture(scope="session")
def new_port():
    """Call it for a free port that no other process of the same test run tries at the same moment."""
    from rollout_studio.app.page import free_port

    process = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return lambda: free_port(7900 + 50 * int(process))


@pytest.fixture(scope="module")
def served(tmp_path_factory, new_port):
    """One page for all tests of a file: (address, the store behind it, the link by its query)."""
    from rollout_studio.app.page import launch
    from rollout_studio.app.parts.watch import Watch

    watch = Watch(tmp_path_factory.mktemp("runs"))
    port = new_port()
    demo = launch(watch, port)
    yield demo.address, watch.store, demo.link
    demo.close(verbose=False)
    watch.close()
    for run in watch.store.list():
        watch.store.kill(run.name)


@pytest.fixture(scope="module")
def browser(chromium):
    sync_api = pytest.importorskip("playwright.sync_api")
    sync_api.expect.set_options(timeout=PATIENCE_MS)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(served, browser):
    """Opens pages in viewers of their own; at the end no page error, no request to elsewhere and nothing against the policy may have happened."""
    wrong, contexts = [], []

    def noticed(request):
        if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", request.url):
            wrong.append(f"external request: {request.url}")

    def told(message):
        if "Content Security Policy" in message.text:
            wrong.append(f"refused by the page's own policy: {message.text}")

    def open_page(path="", width=1400, height=900):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: wrong.append(f"page error: {error}"))
        page.on("request", noticed)
        page.on("console", told)
        page.goto(served[2](**dict(parse_qsl(path.removeprefix("?")))))  # as a person: by the link
        page.wait_for_url(lambda url: "token=" not in url, wait_until="load")  # which leads on to the page
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="session")
def step():
    """`step(page, name)` opens a step of the Train tab: model, pictures, settings, rollout or start."""

    def go(page, name):
        head = page.locator(f"#step-{name} > button")
        if "open" not in head.get_attribute("class").split():
            head.click()

    return go


@pytest.fixture(scope="session")
def tab():
    """`tab(page, name)` goes to a tab of the page."""

    def go(page, name):
        page.get_by_role("tab", name=name, exact=True).click()

    return go
