"""The page in a real browser: what must hold on every visit. The whole story is in `test_page_story.py`.

Each test fails on a page error and on any request that leaves this machine.
"""

import os
import random
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")
import page_fuzz
from page_fuzz import EVERY_ROUTE
from PIL import Image
from playwright.sync_api import expect
from rollout_studio.core.runs.notes import Notes, write_notes
from rollout_studio.core.runs.store import RunStore

pytestmark = pytest.mark.timeout(600)


def test_a_bad_value_is_shown_at_its_field_and_nothing_starts(visit, served, tab, step):
    page, before = visit(), len(served[1].list())
    tab(page, "Train")
    step(page, "settings")
    page.locator("#opt-learning_rate input").fill("50")
    page.locator("#opt-learning_rate input").blur()
    expect(page.locator("#opt-learning_rate")).to_contain_text("must be at most 10")
    expect(page.locator("#side")).to_contain_text("Please mend this first")
    page.locator("#start-hero").click()
    page.wait_for_timeout(1500)
    assert len(served[1].list()) == before
    page.locator("#opt-learning_rate input").fill("0.002")
    page.locator("#opt-learning_rate input").blur()
    expect(page.locator("#opt-learning_rate")).not_to_contain_text("must be at most 10")
    expect(page.locator("#side")).to_contain_text("0.002")


def test_a_preset_and_a_level_fill_the_form_and_the_panels_follow(visit, tab, step):
    page = visit()
    tab(page, "Train")
    step(page, "rollout")
    page.locator("#level").get_by_label("Off").click()
    expect(page.locator("#rollout-picture")).to_contain_text("No rollout")
    step(page, "model")
    page.locator("#preset").get_by_label("Stable Diffusion 1.5").click()
    expect(
        page.locator("#opt-pretrained_model_name_or_path input, #opt-pretrained_model_name_or_path textarea")
    ).to_have_value(re.compile("stable-diffusion-v1-5"))
    expect(page.locator("#side")).to_contain_text('"resolution": 512')
    step(page, "pictures")
    expect(page.locator("#pictures")).to_contain_text("No pictures yet")
    step(page, "rollout")
    page.locator("#level").get_by_label("Strong").click()
    expect(page.locator("#side")).to_contain_text('"scheduled_sampling_max_step_offset": 4')
    expect(page.locator("#rollout-picture svg").first).to_be_visible()


def test_a_run_in_progress_is_followed_and_commanded(visit, served, write, tab):
    """A trainer is played by this process, which owns the run's lock and writes its events."""
    store = RunStore(served[1].root)
    run = store.create({"max_train_steps": 100}, "played", preset="demo")
    with run.lock():
        run.write_state(state="running", step=10)
        run.emit("start", pid=os.getpid(), device="cpu", total_steps=100, resumed_from=None)
        write.samples(run, 0)
        write.steps(run, 1, 10, 100)
        page = visit()
        expect(page.get_by_test_id("progress")).to_contain_text("step 10 of 100")
        page.get_by_role("button", name="Sample now").click()
        for _ in range(100):
            taken = run.take_commands()
            if taken:
                break
            page.wait_for_timeout(100)
        assert [command.name for command in taken] == ["sample"]
        write.samples(run, 10)
        write.steps(run, 11, 20, 100)
        run.write_state(state="paused", step=20)
        run.emit("paused", step=20)
        expect(page.get_by_test_id("progress")).to_contain_text("step 20 of 100")
        tab(page, "Samples and drift")
        expect(page.locator("#run-samples")).to_contain_text("step 10")
        expect(page.get_by_role("button", name="Go on")).to_be_visible()
        expect(page.get_by_role("button", name="Pause", exact=True)).to_be_hidden()
        expect(page.get_by_role("button", name="Delete", exact=True)).to_be_hidden()
    # The owner is gone without a word: the page says so by itself.
    expect(page.get_by_test_id("state")).to_have_text("crashed")
    expect(page.locator("#run-messages")).to_contain_text("crashed at step 20")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Remove it for good").click()
    expect(page.locator("#run-picker")).not_to_contain_text("played")
    assert not run.path.exists()


def test_one_step_is_open_at_a_time_and_the_tab_stays_short(visit, tab, step):
    sizes = {1400: 1800, 400: 4500}  # width -> most height
    page = visit()
    tab(page, "Train")
    heads = page.locator(".rs-step-fold > button")
    expect(heads).to_have_count(5)
    for number, name in enumerate(("model", "pictures", "settings", "rollout", "start")):
        step(page, name)
        for other in range(5):
            opened = re.compile(r"\bopen\b")
            (expect(heads.nth(other)).to_have_class if other == number else expect(heads.nth(other)).not_to_have_class)(
                opened
            )
        for width, most_high in sizes.items():
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(400)  # what was closed has gone
            assert page.evaluate("document.documentElement.scrollHeight") <= most_high, (name, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            expect(page.locator("#start-hero")).to_be_in_viewport()  # wherever one is
    expect(heads.nth(3)).to_contain_text("Rollout: off")


def test_a_setting_is_found_by_its_words_and_a_fault_leads_to_its_field(visit, tab, step):
    page = visit()
    tab(page, "Train")
    page.locator("#preset label").first.focus()
    page.keyboard.press("/")
    page.keyboard.type("warm up")
    found = page.locator("#find-option li[role=option]")
    expect(found.first).to_contain_text("Warm-up")
    page.keyboard.press("Enter")
    warmup = page.locator("#opt-lr_warmup_steps input")
    expect(warmup).to_be_focused()  # in the third step, behind All settings, its tab and its fold
    expect(warmup).to_be_in_viewport()
    page.keyboard.type("0")
    page.locator("#find-option input").fill("no such words")
    expect(page.locator("#find-option")).to_contain_text("No setting has these words")

    step(page, "settings")
    page.locator("#opt-learning_rate input").fill("50")
    page.locator("#opt-learning_rate input").blur()
    step(page, "pictures")
    page.locator("#side a[data-option=learning_rate]").click()
    expect(page.locator("#opt-learning_rate input")).to_be_focused()


EVIL = "<img src=x onerror='window.ran=1'><svg onload='window.ran=1'></svg><b id=evil>${window.ran=1}{{window.ran=1}}"


def hostile(run, folder):
    """Markup in everything that a run tells, and a folder with a picture whose name and caption are markup."""
    run.emit("sample", step=120, images=[{"prompt": EVIL, "seed": 1, "path": "samples/step-000120/00.png"}])
    run.emit("warning", message=EVIL, remedy=EVIL)
    run.emit("error", message=EVIL, remedy=EVIL, traceback=EVIL)
    run.log_path.write_text(EVIL)
    write_notes(run, Notes(("<b id=evil>",), EVIL))
    folder.mkdir()
    name = "a<img src=x onerror=window.ran=1><b id=evil>" if os.name == "posix" else "a"
    Image.new("RGB", (64, 64), "red").save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(EVIL)


def test_no_tab_is_wider_than_the_window_and_markup_is_text_on_each(visit, served, write, tab, step, tmp_path):
    """What is refused by the page's policy is a fault too (`visit`): escaped markup does not even try."""
    run = write.run(RunStore(served[1].root), "finished", state="stopped", config={"instance_prompt": EVIL})
    page = visit("?__theme=dark", width=400)
    for name in ("Train", "Runs", "Drift", "Graph"):
        tab(page, name)
        if name == "Runs":
            page.locator("#run-picker").get_by_label("finished").click()
            expect(page.locator("#run-glance img").first).to_be_visible()
        for width in (400, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
        expect(page.locator("h1:visible")).to_have_text(["RolloutStudio"])  # one of the page, on every tab
    hostile(run, tmp_path / "pictures")
    tab(page, "Train")
    step(page, "pictures")
    folder = page.locator("#opt-instance_data_dir input, #opt-instance_data_dir textarea")
    folder.fill(str(tmp_path / "pictures"))
    folder.blur()
    expect(page.locator("#pictures")).to_contain_text("onerror" if os.name == "posix" else "a.png")
    tab(page, "Runs")
    expect(page.locator("#run-messages")).to_contain_text("onerror=")
    for name in ("Samples and drift", "Try it", "Compare", "Log", "Overview", "Drift", "Graph"):
        tab(page, name)
        page.wait_for_timeout(300)
        assert page.evaluate("window.ran") is None and page.locator("#evil").count() == 0, name


def ask(served, path="/", method="GET", body=None, cookie=True, **headers):
    """(status, headers, body) of a request by a program of this machine; `cookie`: ours, as after the link, or the one given."""
    import http.client

    port = int(served[0].rsplit(":", 1)[1].strip("/"))
    if cookie is True:
        cookie = ask(served, served[2]().removeprefix(served[0].rstrip("/")), cookie=None)[1]["set-cookie"].split(";")[
            0
        ]
    named = {name.replace("_", "-"): value for name, value in headers.items()} | ({"Cookie": cookie} if cookie else {})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body=body, headers=named)
    answer = connection.getresponse()
    content = answer.read() if answer.getheader("content-length") else b""
    connection.close()
    return answer.status, answer.headers, content


def test_without_the_link_every_route_is_shut(served):
    """Whatever Gradio has: each of its own routes, and one of each kind by name."""
    wrong = "rollout-studio-" + served[0].rsplit(":", 1)[1].strip("/") + "=" + "A" * 43
    for method, paths in EVERY_ROUTE.items():
        for path in paths:
            for cookie in (None, wrong):
                status, head, body = ask(served, path, method, cookie=cookie)
                assert status == 403, (method, path, cookie)
                assert method == "HEAD" or b"open the one that was printed" in body
                assert "set-cookie" not in head
    preflight = {"Access_Control_Request_Method": "POST", "Origin": "http://127.0.0.1:1"}
    assert (
        ask(served, "/gradio_api/upload", "OPTIONS", cookie=None, **preflight)[0] == 403
    )  # Gradio answers these before all else
    assert ask(served, "/gradio_api/info")[0] != 403 and ask(served)[0] == 200


MARKUP = """() => {
  window.ran = 0; const box = document.createElement('div'); document.body.append(box);
  box.innerHTML = '<img src="data:," onerror="window.ran++"><a href="javascript:window.ran++">x</a><svg onload="window.ran++"></svg>';
  box.querySelector('a').click();
}"""


def test_the_link_leads_to_an_address_without_it_and_a_reload_and_a_second_tab_work(visit, served):
    """And markup that got into the page all the same runs nothing."""
    page = visit("?__theme=dark")
    page.wait_for_url(served[0] + "?__theme=dark")
    (cookie,) = [each for each in page.context.cookies() if each["name"].startswith("rollout-studio-")]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["expires"] == -1
    second = page.context.new_page()
    assert page.reload(wait_until="commit").status == 200
    assert second.goto(served[0], wait_until="commit").status == 200
    expect(page.get_by_role("tab", name="Train", exact=True)).to_be_visible()
    assert "token=" not in page.content()
    refused = []
    second.on("console", lambda message: refused.append(message.text))
    second.evaluate(MARKUP)
    second.wait_for_timeout(500)
    # how many of the three are told differs between versions of Chromium
    assert second.evaluate("window.ran") == 0 and len([each for each in refused if "Content Security" in each]) >= 2
    stranger = page.context.browser.new_context().new_page()
    assert stranger.goto(served[0]).status == 403
    expect(stranger.locator("body")).to_contain_text("open the one that was printed")
    stranger.context.close()


def test_every_answer_says_what_the_page_may_load_and_that_nobody_may_frame_it(served):
    for path, cookie in (("/", True), ("/", None), ("/theme.css", True), ("/%00", True)):
        head = ask(served, path, cookie=cookie)[1]
        assert head["x-content-type-options"] == "nosniff" and head["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in head["content-security-policy"] and head["x-frame-options"] == "DENY"
        assert "http:" not in head["content-security-policy"] and "*" not in head["content-security-policy"]


def test_another_site_and_another_name_are_refused(served):
    here = served[0].removeprefix("http://").strip("/")
    for headers in (
        {"Host": "evil.com"},
        {"Host": here, "Origin": "http://evil.com"},
        {"Host": here, "Origin": "null"},
    ):
        assert ask(served, "/gradio_api/upload", "POST", b"", **headers)[0] == 403
    assert ask(served, "/gradio_api/upload", "POST", b"", Host=here, Origin=f"http://{here}")[0] != 403


def test_no_address_is_answered_with_an_error_of_the_server(served):
    """A zero byte, percent-encoded, is an exception in many places behind the page."""
    for path in (
        "/%00",
        "/gradio_api/file=%00",
        "/gradio_api/proxy=%00",
        "/gradio_api/proxy=http://%ff",
        "/assets/%00.js",
        "/?x=%00",
        "/%ff%fe",
        "/static/img/" + "a" * 300,
        "/static/img/" + "%C3%A9" * 140,
        "/gradio_api/file=/" + "a/" * 3000,
    ):
        assert 400 <= ask(served, path)[0] < 500, path


def test_files_outside_the_previews_are_not_served(served, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    run = served[1].create({})
    for path in (secret, run.config_path):
        status, _, body = ask(served, f"/gradio_api/file={path}")
        assert status in (403, 404) and b"Refused" not in body  # by Gradio, which was asked
    served[1].delete(run.name)


# What is sent to it (S20) ---------------------------------------------------------------------------------------------


def raw(served, *pieces, wait=0.0, length=None, path="/gradio_api/upload"):
    """The answer to an upload that is written by hand: `length` as its head says, then the pieces with `wait` seconds between them; b"" = the
    sender leaves without waiting for one."""
    import socket

    port = int(served[0].rsplit(":", 1)[1].strip("/"))
    cookie = ask(served, served[2]().removeprefix(served[0].rstrip("/")), cookie=None)[1]["set-cookie"].split(";")[0]
    size = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {cookie}\r\nContent-Type: multipart/form-data; boundary=b\r\nConnection: close\r\n{size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sender:
        sender.sendall(head.encode())
        for piece in pieces:
            if piece == b"":
                return 0, ""
            time.sleep(wait)
            try:
                sender.sendall(piece if length is not None else b"%x\r\n%s\r\n" % (len(piece), piece))
            except OSError:
                break  # it was answered before it was all there
        answer = b""
        with suppress(ConnectionResetError):  # it closed with bytes of ours unread: what it had answered is here
            while received := sender.recv(4000):
                answer += received
    answer = answer.decode()
    return int(answer.split()[1]), answer


PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nwords'
END = b"\r\n--b--\r\n"


def test_what_is_too_large_too_much_or_too_slow_is_refused_and_leaves_nothing(served, monkeypatch):
    from rollout_studio.app.parts import uploads

    folder = Path(os.environ["GRADIO_TEMP_DIR"])

    def left():
        return sorted(path.name for path in folder.glob("tmp*")) if folder.is_dir() else []

    status, answer = raw(served, PART, END, length=len(PART + END))
    assert status == 200 and "a.txt" in answer and not left()
    monkeypatch.setattr(uploads, "SILENCE_S", 0.5)
    cases = [
        (413, "at most 8.0 GiB", {}, {"length": 100 * 2**30}, (PART,)),
        (413, "at most 64 MiB", {}, {"length": 100 * 2**20, "path": "/gradio_api/queue/join"}, (b"{",)),
        (413, "more than 100 bytes", {"LARGEST_UPLOAD": 100}, {}, (PART, PART, PART)),
        (413, "more than 100 bytes", {"LARGEST_OTHER": 100}, {"path": "/gradio_api/queue/join"}, (PART, PART, PART)),
        (408, "stood still", {}, {"length": 1000, "wait": 0}, (PART,)),
        (429, "uploaded files lie here", {"MOST_FILES": 1}, {"length": len(PART + END)}, (PART, END)),
        (429, "on their way already", {"AT_ONCE": 0}, {"length": len(PART + END)}, (PART, END)),
        (507, "stay free", {"FREE_FLOOR": 2**62}, {"length": len(PART + END)}, (PART, END)),
    ]  # fmt: skip
    for status, words, limits, how, pieces in cases:
        with monkeypatch.context() as changed:
            for name, value in limits.items():
                changed.setattr(uploads, name, value)
            got, answer = raw(served, *pieces, **how)
        assert (got, words in answer) == (status, True), (words, got, answer)
    raw(served, PART, b"", length=1000)  # and one whose browser goes away
    for _ in range(100):
        if not left():
            break
        time.sleep(0.05)
    assert not left()
    assert raw(served, PART, END, length=len(PART + END))[0] == 200  # and the page takes uploads as before


def test_the_private_folder_of_a_page_that_was_killed_goes_with_the_next_start(tmp_path, monkeypatch):
    from rollout_studio.app.parts import previews

    monkeypatch.setattr(previews.tempfile, "tempdir", str(tmp_path))
    mine = previews.Previews()
    (mine.folder / "uploads").mkdir()
    left = tmp_path / "rollout-studio-left"
    shutil.copytree(mine.folder, left)
    (left / ".owner.json").write_text('{"pid": 1, "process_start": 0.0, "boot_id": "another boot"}')
    others = [tmp_path / "rollout-studio-older", tmp_path / "rollout-studio-odd", tmp_path / "something"]
    for folder in others:
        folder.mkdir()
    (others[1] / ".owner.json").write_text("[")
    if os.name == "posix":
        (tmp_path / "rollout-studio-link").symlink_to(others[2])
    previews.Previews()
    assert not left.exists() and mine.uploads.is_dir() and all(folder.is_dir() for folder in others)


# Called by hand --------------------------------------------------------------------------------------------------------


def test_a_few_calls_by_hand_are_answered_without_an_exception_of_ours(served, monkeypatch):
    client, watched, rng = page_fuzz.Client(served), page_fuzz.watch(monkeypatch), random.Random(5)
    page_fuzz.handlers(client, rng.sample(client.config["dependencies"], 12), rng)
    assert all(status < 500 for status, _ in page_fuzz.server_functions(client, 10, rng))
    page_fuzz.routes(client, 25, rng)
    assert not watched, "\n".join(watched)


@pytest.mark.slow  # minutes
@pytest.mark.timeout(3600)
def test_many_calls_by_hand_of_everything_are_answered_without_an_exception_of_ours(served, monkeypatch):
    client, watched, rng = page_fuzz.Client(served), page_fuzz.watch(monkeypatch), random.Random(os.urandom(8))
    before, last = client.tried, time.monotonic()
    for _ in range(page_fuzz.ROUNDS):
        page_fuzz.handlers(client, client.config["dependencies"], rng)
    wrong = [
        (status, data)
        for status, data in page_fuzz.server_functions(client, 40 * page_fuzz.ROUNDS, rng)
        if status >= 500
    ]
    page_fuzz.routes(client, 200 * page_fuzz.ROUNDS, rng)
    print(
        f"\n{client.tried - before} requests to {len(client.config['dependencies'])} handlers, server functions and routes in {time.monotonic() - last:.0f} s"
    )
    assert not watched and not wrong, "\n".join(sorted({*watched, *map(str, wrong)}))
    assert not [run for run in served[1].list() if run.alive]
