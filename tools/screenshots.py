"""Take the screenshots in `docs/pictures`: `python tools/screenshots.py --runs FOLDER` (Chromium as for the browser tests).

FOLDER contains finished runs, the newest of them a demo run with samples and drift reports at several steps. Each tab is taken in light and
dark, 1400 and 400 px wide. Paths of this machine are removed; nothing else is changed.
"""

import argparse
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page, expect, sync_playwright
from rollout_studio.app.page import free_port, launch
from rollout_studio.app.parts.watch import Watch
from rollout_studio.core.runs.run_log import follow
from rollout_studio.core.runs.store import RunStore

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
expect.set_options(timeout=90_000)
WIDTHS, THEMES = (1400, 400), ("light", "dark")
_PAINT_OUT = """root => {
  const shortened = text => text.split(root).join("runs").replace(/\\/(?:tmp|home|Users|work)\\/[^\\s"'<]*?\\/(?=[^\\/\\s"'<]+(?:$|["'<\\s]))/g, "…/");
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) { const now = shortened(node.data); if (now !== node.data) node.data = now; }
  for (const field of document.querySelectorAll("input[type=text], textarea")) { const now = shortened(field.value); if (now !== field.value) field.value = now; }
}"""


def train(page: Page) -> None:
    expect(page.locator("#preset label").first).to_be_visible()


def rollout(page: Page) -> None:
    page.locator("#step-rollout > button").click()
    expect(page.locator("#rollout-picture svg").filter(visible=True).first).to_be_visible()


def runs(page: Page) -> None:
    expect(page.locator("#run-loss svg").first).to_be_visible()


def samples(page: Page) -> None:
    page.get_by_role("tab", name="Samples and drift", exact=True).click()
    expect(page.locator("#run-samples img").first).to_be_visible()


def compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.wait_for_timeout(3000)
    if not page.locator("#compare-charts svg").count():  # no control of the run is there: the next run takes its place
        page.locator("#compare-runs input").click()
        page.get_by_role("option").nth(1).click()
        page.keyboard.press("Escape")
        page.locator("#compare-runs input").blur()
    expect(page.locator("#compare-charts svg").first).to_be_visible()


def drift(page: Page) -> None:
    page.locator("#look-show").click()
    expect(page.locator(".rs-example")).to_have_count(0)
    expect(page.locator(".rs-cell[data-row=heat] img").last).to_be_visible()
    expect(page.locator(".rs-growing")).to_have_count(0)


def try_it(page: Page) -> None:
    page.get_by_role("tab", name="Try it", exact=True).click()
    page.locator("#try-draw").click()
    expect(page.get_by_test_id("newest-try").locator("figure img").last).to_be_visible()
    expect(page.locator("#try-now [role=progressbar]")).to_have_count(0)


def graph(page: Page) -> None:
    page.get_by_role("button", name="Compare two rollouts").click()
    expect(page.locator(".react-flow__node").last).to_be_visible()


SHOTS: dict[str, tuple[str, Callable[[Page], None]]] = {
    "train": ("Train", train), "rollout": ("Train", rollout), "runs": ("Runs", runs), "samples": ("Runs", samples), "compare": ("Runs", compare),
    "try": ("Runs", try_it),
    "drift": ("Drift", drift), "graph": ("Graph", graph),
}  # fmt: skip
"""Name of a picture -> the tab, and what is done on it first."""


def taken(page: Page, root: Path, most_high: int = 2600) -> Image.Image:
    """The whole page, at most `most_high` px of it, with few colours: a quarter of the bytes."""
    for y in range(0, most_high, 600):  # pictures far down are fetched when they come into view
        page.evaluate("y => scrollTo(0, y)", y)
        page.wait_for_timeout(250)
    page.evaluate("scrollTo(0, 0)")
    # what stays in view while a person scrolls would stand in the middle of a picture of the whole page
    page.add_style_tag(content=".rs-go { position: static !important; }")
    page.wait_for_timeout(1500)  # pictures arrive, bars settle
    page.evaluate(_PAINT_OUT, str(root))
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    return picture.crop((0, 0, picture.width, min(picture.height, most_high)))


def saved(picture: Image.Image, name: str) -> None:
    path = PICTURES / f"{name}.png"
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB", flush=True)


def steps_picture(store: RunStore, most: int = 7, side: int = 128) -> Image.Image | None:
    """Samples of the newest run with any: a row for each prompt, a column for each step."""
    for summary in store.list():
        samples = follow(store.get(summary.name)).samples
        if len(samples) < 3:
            continue
        steps = sorted(samples)
        steps = [
            steps[round(index * (len(steps) - 1) / (min(most, len(steps)) - 1))]
            for index in range(min(most, len(steps)))
        ]
        prompts = [image["prompt"] for image in samples[steps[0]]]
        font, gap, head = ImageFont.load_default(15), 8, 26
        picture = Image.new("RGB", (gap + len(steps) * (side + gap), head + len(prompts) * (side + gap + 22)), "white")
        pen = ImageDraw.Draw(picture)
        for column, step in enumerate(steps):
            x = gap + column * (side + gap)
            pen.text(
                (x + side / 2, head / 2),
                "before" if step == 0 else f"step {step}",
                fill="#24292c",
                font=font,
                anchor="mm",
            )
            for row, image in enumerate(samples[step]):
                y = head + row * (side + gap + 22)
                if column == 0:
                    pen.text((x, y + 9), image["prompt"], fill="#5d6468", font=font, anchor="lm")
                sample = Image.open(summary.path / image["path"]).convert("RGB")
                picture.paste(sample.resize((side, side), Image.Resampling.LANCZOS), (x, y + 20))
        return picture
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder with finished runs")
    parser.add_argument("--run", help="the run that is shown on the Runs tab; without it the live or the newest one")
    parser.add_argument("--only", nargs="*", choices=list(SHOTS), help="only these")
    parser.add_argument("--out", type=Path, help="another folder than docs/pictures")
    given = parser.parse_args()
    if given.out is not None:
        globals()["PICTURES"] = given.out
        given.out.mkdir(parents=True, exist_ok=True)
    watch = Watch(given.runs.resolve())
    steps = steps_picture(watch.store)
    if steps is not None:
        saved(steps, "demo-steps")
    port = free_port(7970)
    demo = launch(watch, port)
    try:
        with sync_playwright() as playwright:
            path = os.environ.get("ROLLOUT_STUDIO_CHROMIUM", shutil.which("chromium"))
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            for theme in THEMES:
                for width in WIDTHS:
                    for name, (tab, prepare) in SHOTS.items():
                        if given.only and name not in given.only:
                            continue
                        context = browser.new_context(viewport={"width": width, "height": 900}, device_scale_factor=1)
                        page = context.new_page()
                        page.set_default_timeout(60_000)
                        page.goto(demo.link(__theme=theme))
                        page.wait_for_timeout(3000)  # a page that has a live run goes there first
                        page.get_by_role("tab", name=tab, exact=True).click()
                        if tab == "Runs" and given.run:
                            page.locator("#run-picker").get_by_label(f"{given.run}  ·").first.click()
                            expect(page.locator("#run-head h2")).to_have_text(given.run)
                        prepare(page)
                        saved(taken(page, watch.store.root), f"page-{name}-{theme}-{width}")
                        context.close()
            browser.close()
    finally:
        demo.close(verbose=False)


if __name__ == "__main__":
    main()
