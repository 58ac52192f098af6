"""The page's parts without a browser: the guard, the charts, words, previews, and what the tabs say."""

import asyncio
import math
import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image
from rollout_studio.app.page import free_port
from rollout_studio.app.parts import charts, words
from rollout_studio.app.parts.access import Access
from rollout_studio.app.parts.charts import Line, chart
from rollout_studio.app.parts.guard import Guard, local_hosts
from rollout_studio.app.parts.previews import Previews
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.train.rollout_panel import cost_sentence, ramp_panel
from rollout_studio.app.train.summary import side_panel
from rollout_studio.core.config import load_preset, rollout_level, with_changes
from rollout_studio.core.runs.run_log import RunLog

# -- the guard --------------------------------------------------------------------------------------------------------------


def answer(headers, kind="http", method="GET", path="/", query=b""):
    """What the guard lets through ("through"), or the status or close code that it answers."""
    said = []

    async def app(scope, receive, send):
        said.append("through")

    async def send(message):
        said.append(message.get("status", message.get("code")))

    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query,
    }
    access = Access(7860)
    cookie = ("cookie", access.set_cookie().decode().split(";")[0])
    scope["headers"] = [(k.encode(), v.encode()) for k, v in [*headers, cookie]]
    asyncio.run(Guard(app, local_hosts(7860), access)(scope, None, send))
    return said[0]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST:7860"])
def test_the_page_answers_its_own_names(host):
    assert answer([("host", host)]) == "through"
    assert answer([("host", host), ("origin", f"http://{host.lower()}")], method="POST") == "through"


@pytest.mark.parametrize(
    "headers",
    [
        [("host", "evil.com")], [("host", "evil.com:7860")], [("host", "127.0.0.1:7861")], [("host", "localhost.:7860")],
        [("host", "127.0.0.1:7860"), ("host", "evil.com")], [], [("host", "127.0.0.1")],
        [("host", "127.0.0.1:7860"), ("origin", "http://evil.com")], [("host", "127.0.0.1:7860"), ("origin", "null")],
        [("host", "127.0.0.1:7860"), ("origin", "http://127.0.0.1:8080")],
        [("host", "127.0.0.1:7860"), ("x-forwarded-host", "evil.com")],
        [("host", "127.0.0.1:7860"), ("sec-fetch-site", "cross-site")],
    ],
)  # fmt: skip
def test_every_other_name_and_site_is_refused(headers):
    assert answer(headers, method="POST") == 403
    assert answer(headers, kind="websocket") == 1008


def test_a_link_from_another_site_may_open_the_page():
    assert answer([("host", "127.0.0.1:7860"), ("sec-fetch-site", "cross-site")], method="GET") == "through"


@pytest.mark.parametrize(
    ("path", "query"), [("/a\0b", b""), ("/", b"x=%00"), ("/a\x1b[31m", b""), ("/", b"x=\x7f"), ("/a\n", b"")]
)
def test_an_address_with_a_control_character_is_a_bad_request(path, query):
    here = [("host", "127.0.0.1:7860")]
    assert answer(here, path=path, query=query) == 400
    assert answer(here, kind="websocket", path=path, query=query) == 1008
    assert answer([("host", "evil.com")], path=path, query=query) == 403
    assert answer(here, path="/gradio_api/file=/ü x/\u202e.png", query=b"x=%20%C3%BC") == "through"


def test_the_proxy_of_other_sites_is_shut():
    assert answer([("host", "127.0.0.1:7860")], path="/gradio_api/proxy=http://169.254.169.254/") == 404


# -- charts and words ---------------------------------------------------------------------------------------------------------


def test_a_spike_survives_thinning():
    ys = [0.0] * 5000
    ys[3210] = 9.0
    xs, thin = charts.thinned(list(range(5000)), ys, 400)
    assert len(thin) <= 402 and max(thin) == 9.0 and xs[thin.index(9.0)] == 3210


def test_gaps_stay_gaps_and_nothing_that_is_no_number_reaches_the_drawing():
    drawn = chart([Line("loss", [1, 2, 3, 4], [1.0, math.nan, 2.0, math.inf])], title="Loss", x_label="step")
    path = re.search(r' d="([^"]+)"', drawn)[1]
    assert path.count("M") == 2 and "nan" not in drawn and "inf" not in drawn


def test_a_chart_without_points_says_so():
    assert "Nothing to draw yet" in chart([Line("loss", [], [])], title="Loss", x_label="step")


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant():
    assert charts.smoothed([3.0, 3.0, 3.0], 0.9) == pytest.approx([3.0, 3.0, 3.0])
    assert charts.smoothed([math.nan, 2.0], 0.9)[1] == pytest.approx(2.0)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.03, 0.07), (-3, 1234567), (1, 1)])
def test_ticks_are_few_round_and_inside(low, high):
    found = charts.ticks(low, high)
    assert 1 <= len(found) <= 6 and all(low <= tick <= high for tick in found)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0.4 s"),
        (8, "8 s"),
        (125, "2 min 5 s"),
        (660, "11 min"),
        (11400, "3 h 10 min"),
        (187200, "2 days 4 h"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_durations_are_human(seconds, said):
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (0.001, "0.001"), (1e-5, "1.00e-5"), (1234.5, "1234"), (0.66666, "0.667"), (math.nan, "–")],
)
def test_numbers_are_short(value, said):
    assert words.quantity(value) == said


HOSTILE = "<script>alert(1)</script>${alert(2)}{{value}}\"'`"


def test_markup_and_templates_are_inert():
    said = words.text(HOSTILE)
    assert not set("<>\"'`${}") & set(re.sub(r"&#?\w+;", "", said))


def test_hostile_prompts_names_and_messages_are_inert_everywhere(store):
    from rollout_studio.app.runs.head import head
    from rollout_studio.app.runs.messages import messages
    from rollout_studio.app.runs.samples import samples_grid

    run = store.create({"validation_prompts": [HOSTILE]}, "hostile", preset=HOSTILE)
    run.emit("sample", step=0, images=[{"prompt": HOSTILE, "seed": HOSTILE, "path": "../../etc/passwd"}])
    run.emit("phase", name=HOSTILE, done=1, total=2)
    run.emit("warning", message=HOSTILE, remedy=HOSTILE)
    run.emit("error", message=HOSTILE, remedy=HOSTILE, traceback=HOSTILE)
    run.write_state(state="running", message=HOSTILE)
    watch = Watch(store.root)
    summary, log = store.summary(run), RunLog(run).update()
    shown = [
        head(summary, log, None), messages(summary, log), samples_grid(summary, log, watch),
        side_panel(with_changes(load_preset("demo"), {"validation_prompts": (HOSTILE,)}), "demo"),
    ]  # fmt: skip
    for part in shown:
        assert "<script" not in part and "${" not in part and "{{" not in part
    assert "gone" in shown[2] and "passwd" not in shown[2]


# -- previews and the tabs ------------------------------------------------------------------------------------------------------


def test_only_pictures_inside_the_run_are_copied_out(tmp_path):
    from PIL import Image

    previews, inside = Previews(), tmp_path / "run"
    inside.mkdir()
    for place in (inside / "a.png", tmp_path / "outside.png"):
        Image.new("RGB", (4, 5)).save(place)
    (inside / "secret.txt").write_text("x")
    assert previews.address(inside / "a.png", inside).startswith("gradio_api/file=")
    for path in (
        inside / ".." / "outside.png",
        tmp_path / "outside.png",
        inside / "secret.txt",
        inside / "none.png",
        inside,
    ):
        assert previews.address(path, inside) is None


def test_a_broken_picture_has_no_thumbnail(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert Previews().thumbnail(tmp_path / "a.png") is None


def test_a_cropped_picture_is_shown_as_it_is_measured(tmp_path):
    """The laboratory's gallery; a crop that does not fit shows the whole picture, and who measures it is told why."""
    from rollout_studio.core.data.beside import Cut, crop_path, write_cut

    previews, picture = Previews(), tmp_path / "half.png"
    whole = Image.new("RGB", (64, 48), "red")
    whole.paste("blue", (40, 0, 64, 48))
    whole.save(picture)

    def shown(**how):
        with Image.open(Path(unquote(previews.thumbnail(picture, **how).removeprefix("gradio_api/file=")))) as small:
            return small.size, small.convert("RGB").getpixel((1, 1))

    assert shown(cropped=True)[0] == (64, 48)
    write_cut(picture, Cut(44, 8, 64, 40), 64, 48)
    (size, (red, _, blue)) = shown(cropped=True)
    assert size == (20, 32) and blue > 200 and red < 50
    assert shown()[0] == (64, 48), "the pictures of a set are shown whole, with a frame around what is kept"
    crop_path(picture).write_text("no crop")
    assert shown(cropped=True)[0] == (64, 48)


def test_the_ramp_and_the_cost_are_reported_for_a_rollout_and_its_absence_is_reported_too():
    on = with_changes(load_preset("demo"), rollout_level("gentle", 300))
    off = with_changes(on, {"scheduled_sampling_max_step_offset": 0})
    assert "svg" in ramp_panel(on) and "extra forwards" in cost_sentence(on)
    assert "svg" not in ramp_panel(off) and "No rollout" in cost_sentence(off)


def test_the_side_panel_shows_every_key_and_what_was_changed():
    config = with_changes(load_preset("demo"), {"max_train_steps": 7})
    shown = side_panel(config, "demo")
    before = load_preset("demo").training.max_train_steps
    assert "Training steps" in shown and f"<s>{before}</s> 7" in shown
    assert shown.count("&quot;: ") >= 90


def test_samples_stand_by_prompt_and_step_and_drift_in_words(store, write):
    from rollout_studio.app.drift import measured
    from rollout_studio.app.runs.samples import samples_grid

    run = write.run(store)
    watch = Watch(store.root)
    summary, log = store.summary(run), RunLog(run).update()
    grid = samples_grid(summary, log, watch)
    assert [grid.count(f">{head}<") for head in ("before", "step 40", "step 80", "step 120")] == [1, 1, 1, 1]
    assert grid.count("<img") == 8
    strip = measured.filmstrip(summary, log.drifts[120], watch)
    assert "How to read it" in strip and "clean loss" in strip and "<img" in strip
    assert measured.curves(summary, log, log.drifts[120], watch).count("<svg") == 3


def test_a_damaged_drift_report_is_reported_not_raised(store, write):
    from rollout_studio.app.drift import measured

    run = write.run(store)
    (run.drift_path / "step-000120" / "report.json").write_text("{")
    summary, log = store.summary(run), RunLog(run).update()
    assert "cannot be read" in measured.filmstrip(summary, log.drifts[120], Watch(store.root))


def test_a_long_run_shows_its_first_and_last_samples():
    from rollout_studio.app.runs.samples import chosen_steps

    found = chosen_steps(list(range(0, 10_000, 50)))
    assert len(found) == 12 and found[0] == 0 and found[-1] == 9950


def test_the_next_free_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port
        with pytest.raises(OSError, match="--port"):
            free_port(port, tried=1)


def test_the_page_does_not_import_torch():
    code = (
        "import sys, tempfile; from rollout_studio.app.page import *; build(Watch(tempfile.mkdtemp())); "
        "from rollout_studio.core.before.preflight import preflight; from rollout_studio.core.config import load_preset; "
        "preflight(load_preset('demo')); print(sorted({'torch', 'diffusers', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
