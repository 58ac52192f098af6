"""How long a person waits for a drift picture: `python benchmarks/drift_page.py [TIMES]` (Chromium in ROLLOUT_STUDIO_CHROMIUM or on the path).

In a browser, from the click to the first and to the last picture of the filmstrip, on the demo: cold (the tab was opened just now), after the tab was
open for ten seconds, and after a change of the seed, the number of steps or the solver. Each with a page of its own. Run it on a quiet machine.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from page import printed_link
from playwright.sync_api import Page, sync_playwright
from rollout_studio.app.page import free_port

PATIENCE_MS = 300_000
ONE_THERE = """old => {
  const image = document.querySelector('#look-film .rs-cell img');
  return image && image.src !== old && image.complete && image.naturalWidth > 0;
}"""
ALL_THERE = """old => {
  const images = [...document.querySelectorAll('#look-film .rs-look:not(.rs-growing) .rs-cell img')];
  return images.length > 0 && images[0].src !== old && images.every(image => image.complete && image.naturalWidth > 0);
}"""
FIRST = "document.querySelector('#look-film .rs-cell img').src"
Waited = tuple[float, float]
"""Seconds until the first picture of a filmstrip is on the screen, and until all are."""


def seconds(page: Page, act) -> Waited:
    """From `act` until the first, and every picture of a new filmstrip is on the screen."""
    old, began = page.evaluate(FIRST), time.monotonic()
    act()
    page.wait_for_function(ONE_THERE, arg=old)
    one = time.monotonic() - began
    page.wait_for_function(ALL_THERE, arg=old)
    return one, time.monotonic() - began


def once(port: int, folder: Path, opened_s: float) -> tuple[Waited, list[Waited]]:
    command = [
        sys.executable,
        "-m",
        "rollout_studio.app",
        "ui",
        "--no-browser",
        "--port",
        str(port),
        "--runs-dir",
        str(folder),
    ]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    path = os.environ.get("ROLLOUT_STUDIO_CHROMIUM", shutil.which("chromium"))
    try:
        link = printed_link(started)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(link)
            page.get_by_role("tab", name="Drift", exact=True).click()
            page.get_by_role("button", name="Show the drift").wait_for()
            page.wait_for_timeout(1000 * opened_s)
            first = seconds(page, lambda: page.get_by_role("button", name="Show the drift").click())
            further = []
            page.get_by_text("More", exact=True).click()
            for field, value in (("seed", "7"), ("offset", "12"), ("seed", "8")):
                number = page.locator(f"#look-{field} input[type=number]")
                further.append(seconds(page, lambda number=number, value=value: (number.fill(value), number.blur())))
            page.locator("#look-sampler input").click()
            further.append(seconds(page, lambda: page.get_by_role("option", name="euler", exact=True).click()))
            browser.close()
    finally:
        started.terminate()
        started.wait(10)
    return first, further


def _both(waited: Waited) -> str:
    return f"{waited[0]:.2f} / {waited[1]:.2f}"


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder, port = Path(tempfile.mkdtemp(prefix="drift-benchmark-")), free_port(7970)
    for what, opened_s in (("cold", 0.0), ("open for 10 s", 10.0)):
        for _ in range(times):
            load = psutil.getloadavg()[0]
            first, further = once(port, folder, opened_s)
            print(
                f"{what:14s} (first picture / all) {_both(first)} s   further {', '.join(map(_both, further))} s   load average {load:.1f}",
                flush=True,
            )
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
