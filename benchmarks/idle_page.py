"""What an untouched page costs the browser: `python benchmarks/idle_page.py [seconds]` (Chromium in ROLLOUT_STUDIO_CHROMIUM or on the path).

Prints, for the page as it is and for the same page woken by a Gradio timer every 1.5 s (the baseline): seconds of the main thread's work
and requests to the server, both over `seconds` (10) in which nobody touches anything and nothing runs.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import gradio as gr
from playwright.sync_api import expect, sync_playwright
from rollout_studio.app import page, page_updates
from rollout_studio.app.parts.pulse import EVERY_S, Pulse
from rollout_studio.app.parts.watch import Watch


class Timed(Pulse):
    """The baseline: every tick is a Gradio event."""

    def __init__(self, has_news) -> None:
        self.component = gr.Timer(EVERY_S)
        self.component.news = self.component.tick

    def known(self, viewer):
        return {self.component: gr.Timer(active=True)}


def measure(name: str, pulse: type[Pulse], seconds: float) -> None:
    page_updates.Pulse = pulse
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        watch = Watch(Path(folder))
        port = page.free_port(7990)
        demo = page.launch(watch, port)
        path = os.environ.get("ROLLOUT_STUDIO_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            tab.goto(demo.link())
            expect(tab.get_by_role("button", name="Start").first).to_be_visible(timeout=120_000)
            tab.wait_for_timeout(8000)  # fonts, first panels
            tools = tab.context.new_cdp_session(tab)
            tools.send("Performance.enable")
            requests = []
            tab.on("request", lambda request: requests.append(request.url))

            def busy() -> float:
                return {each["name"]: each["value"] for each in tools.send("Performance.getMetrics")["metrics"]}[
                    "TaskDuration"
                ]

            before = busy()
            tab.wait_for_timeout(1000 * seconds)
            print(
                f"{name:28s} main thread {busy() - before:5.2f} of {seconds:g} s   {len(requests)} requests", flush=True
            )
        finally:
            browser.close()
            demo.close(verbose=False)
            watch.close()


if __name__ == "__main__":
    asked = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    measure("Gradio timer (baseline)", Timed, asked)
    measure("as it is", Pulse, asked)
