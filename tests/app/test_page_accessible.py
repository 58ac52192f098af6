"""Every part of the page through axe-core in a real browser: no serious and no critical finding, light on a desk and dark on a phone.

axe-core comes with `axe-playwright-python`; its rules are those of WCAG 2 A and AA and its own best practices.
"""

import pytest

pytest.importorskip("playwright.sync_api")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from rollout_studio.core.runs.store import RunStore

pytestmark = pytest.mark.timeout(600)
SEVERE = {"serious", "critical"}


def severe(page):
    """What axe-core finds that keeps people out, and headings that are out of order: (rule, what is wrong, where)."""
    page.wait_for_timeout(300)  # what has just come into view has its final colours
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (rule["id"], node["failureSummary"], node["target"])
        for rule in found
        if rule["impact"] in SEVERE or rule["id"] == "heading-order"
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(("theme", "width"), [pytest.param("light", 1400, marks=pytest.mark.slow), ("dark", 400)])
def test_no_part_of_the_page_keeps_anyone_out(visit, served, write, tab, step, theme, width):
    store = RunStore(served[1].root)
    if not (store.root / "finished").exists():
        write.run(store, "finished", state="stopped")
    page = visit(f"?__theme={theme}", width=width)
    # What scrolls under the bar with Start has no background of its own for axe-core.
    page.add_style_tag(content=".rs-go { position: static !important; }")
    wrong = {}
    tab(page, "Train")
    for name in ("model", "pictures", "settings", "rollout", "start"):
        step(page, name)
        fold = {"pictures": "#auto-captions", "settings": "#all-settings", "rollout": "#rollout-numbers"}.get(name)
        if fold is not None:
            page.locator(f"{fold} > button").click()
        wrong[f"Train, {name}"] = severe(page)
    tab(page, "Runs")
    expect(page.locator("#run-loss svg").first).to_be_visible()
    for name in ("Overview", "Samples and drift", "Try it", "Compare", "Log"):
        tab(page, name)
        for fold in ("#try-others", "#try-matrix") if name == "Try it" else ():
            page.locator(f"{fold} > button").click()
        wrong[f"Runs, {name}"] = severe(page)
        if name == "Samples and drift":
            page.locator("#run-samples td a").nth(1).click()
            page.get_by_label("With a slider beside").select_option(index=1)
            wrong["Runs, a sample in full"] = severe(page)
            page.keyboard.press("Escape")
    tab(page, "Drift")
    for name in ("Measured by runs", "Look now"):
        tab(page, name)
        wrong[f"Drift, {name}"] = severe(page)
    tab(page, "Graph")
    page.get_by_role("button", name="Compare two rollouts").click()
    expect(page.locator(".react-flow__node").last).to_be_visible()
    wrong["Graph"] = severe(page)
    if width < 640:  # nothing lies over the cards that a finger would hit in place of them
        expect(page.locator(".react-flow__minimap")).to_have_css("display", "none")
    found = [f"{part}: {rule} at {where}\n  {what}" for part, each in wrong.items() for rule, what, where in each]
    assert not found, "\n".join(found)
