"""Pictures on demand: how a request reads, that base and tuned start alike, what a file carries, and a running run that draws itself."""

import json

import pytest
from PIL import Image
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.look.bench import Bench
from rollout_studio.core.look.drift.settings import Stopped
from rollout_studio.core.look.preview.answer import answer
from rollout_studio.core.look.preview.request import PreviewError, PreviewRequest
from rollout_studio.core.look.sample_request import DRAWING_OPTIONS, KIND, SampleRequest, read_request
from rollout_studio.core.train.loop import train
from tiny_run import at_step, events

PROMPT = "a large red circle on a black background"
QUICK = {"what": KIND, "prompts": PROMPT, "steps": 3}


def read(**more) -> SampleRequest:
    return SampleRequest.from_json({**QUICK, **more})


# Requests ------------------------------------------------------------------------------------------------------------


def test_a_record_says_itself_whether_pictures_or_drift_are_wanted():
    assert isinstance(read_request(QUICK), SampleRequest) and isinstance(
        read_request({**QUICK, "what": [KIND]}), SampleRequest
    )
    assert isinstance(read_request({"image": "a.png"}), PreviewRequest)


def test_all_faults_of_a_request_are_reported_at_once():
    with pytest.raises(ConfigError) as reported:
        SampleRequest.from_json({"what": KIND, "prompts": ["", "two\nlines"], "steps": 0, "guidance": float("nan"), "seed": -1, "width": 7, "stepz": 1,
                                 "checkpoints": [], "config": {"resolutoin": 64}})  # fmt: skip
    for wrong in (
        "there is no prompt",
        "one line",
        "steps = 0",
        "guidance = nan",
        "seed = -1",
        "width = 7",
        "'stepz'",
        "checkpoints",
        "'resolutoin'",
    ):
        assert wrong in str(reported.value), wrong


def test_not_more_pictures_than_is_acceptable():
    with pytest.raises(ConfigError, match="at most 16 pictures"):
        read(prompts=["a"] * 8, checkpoints=["base", {"lora": "a"}, {"lora": "b"}])


def test_what_cannot_change_the_picture_does_not_change_the_key():
    assert read().key() == read(config={"learning_rate": -1, "max_train_steps": "many"}).key()
    changes = {"prompts": "another", "seed": 1, "guidance": 2.0, "negative_prompt": "x", "width": 64, "height": 64, "steps": 4,
               "checkpoints": [{"lora": "a.safetensors"}], "config": {"resolution": 64}}  # fmt: skip
    keys = [read().key(), *(read(**{name: value}).key() for name, value in changes.items())]
    assert len(set(keys)) == len(keys) and set(DRAWING_OPTIONS) <= set(changes)


# Drawing -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench():
    return Bench()


def drawn(bench, folder, should_stop=lambda: False, report_progress=lambda share, what: None, parts=None, **more):
    parts = [] if parts is None else parts
    return answer(
        bench, {**QUICK, **more}, folder, report_progress=report_progress, part=parts.append, should_stop=should_stop
    )


def pixels(folder, result, number=0):
    return Image.open(folder / result["pictures"][number]["file"]).tobytes()


def test_a_picture_is_the_pipelines_own_and_carries_its_settings(bench, tmp_path):
    shares = []
    result = drawn(
        bench,
        tmp_path,
        report_progress=lambda share, what: shares.append(share),
        seed=5,
        guidance=2.5,
        negative_prompt="blue",
    )
    [picture] = result["pictures"]
    image = Image.open(tmp_path / picture["file"])
    [own] = bench.model.sample([PROMPT], steps=3, guidance=2.5, negative_prompt="blue", seed=5)
    assert image.tobytes() == own.tobytes()
    reported = json.loads(image.info["rollout_studio"])
    assert (
        reported["prompt"],
        reported["seed"],
        reported["steps"],
        reported["guidance"],
        reported["negative_prompt"],
    ) == (
        PROMPT,
        5,
        3,
        2.5,
        "blue",
    )
    assert image.info["parameters"].startswith(
        f"{PROMPT}\nNegative prompt: blue\nSteps: 3, CFG scale: 2.5, Seed: 5, Size: 64x64"
    )
    assert json.loads((tmp_path / "samples.json").read_text())["pictures"] == result["pictures"]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)


def test_a_picture_does_not_claim_a_negative_prompt_that_its_model_does_not_take(tiny_folder, tmp_path):
    asked = {"guidance": 2.5, "negative_prompt": "blue", "width": 64, "height": 64}
    reported = []
    for variant in ("sd3", "flux"):
        config = {"pretrained_model_name_or_path": str(tiny_folder(variant)), "resolution": 64}
        result = drawn(Bench(), tmp_path / variant, config=config, **asked)
        image = Image.open(tmp_path / variant / result["pictures"][0]["file"])
        reported.append((result["negative_prompt"], "Negative prompt: blue" in image.info["parameters"]))
    assert reported == [("blue", True), ("", False)]


def test_pictures_come_one_by_one_and_what_was_drawn_is_not_drawn_again(bench, tmp_path):
    parts, calls = [], []
    first = drawn(bench, tmp_path / "a", parts=parts, prompts=["a red circle", "a blue square"], seed=7)
    assert [len(part["pictures"]) for part in parts] == [1] and [each["seed"] for each in first["pictures"]] == [7, 8]
    again = drawn(
        bench, tmp_path / "b", report_progress=lambda share, what: calls.append(what), prompts=["a red circle"], seed=7
    )
    assert pixels(tmp_path / "b", again) == pixels(tmp_path / "a", first)
    assert len(calls) == 1  # "the picture", and no step of any


def test_drawing_stops_between_two_steps(bench, tmp_path):
    steps = []
    with pytest.raises(Stopped):
        drawn(
            bench,
            tmp_path,
            should_stop=lambda: len(steps) >= 2,
            report_progress=lambda share, what: steps.append(share),
            seed=99,
            steps=10,
        )
    assert len(steps) < 6
    assert drawn(bench, tmp_path / "after", seed=99)["pictures"]  # the model is whole afterwards


def test_a_size_that_the_model_cannot_make_is_reported_with_a_near_one(bench, tmp_path):
    with pytest.raises(PreviewError, match="Take 64"):
        drawn(bench, tmp_path, width=66)
    assert drawn(bench, tmp_path, config={"resolution": 70})["size"] == [
        64,
        64,
    ]  # the square that the run trains, as the trainer samples it


def test_a_checkpoint_its_file_and_the_base_start_alike_and_differ(tiny_run, without_drift, tmp_path):
    run = tiny_run("lumina2", learning_rate=0.05, max_train_steps=2)
    assert train(run) == 0
    bench = Bench()
    [file] = run.lora_path.glob("*.safetensors")
    chosen = ["base", {"run": str(run.path), "step": 2}, {"lora": str(file)}]
    ask = {
        "what": KIND,
        "prompts": PROMPT,
        "steps": 2,
        "guidance": 1.0,
        "config": run.read_config(),
        "checkpoints": chosen,
    }
    result = answer(
        bench, ask, tmp_path, report_progress=lambda *_: None, part=lambda _: None, should_stop=lambda: False
    )
    base, checkpoint, exported = (pixels(tmp_path, result, number) for number in range(3))
    assert checkpoint == exported and base != checkpoint
    assert [each["kind"] for each in result["pictures"]] == ["base", "run", "lora"]


def test_a_running_run_draws_with_its_weights_of_now_and_trains_on_unchanged(tiny_run, without_drift):
    run, alone = tiny_run("lumina2", "asked"), tiny_run("lumina2", "alone")
    ask = {
        "what": KIND,
        "prompts": PROMPT,
        "steps": 2,
        "config": run.read_config(),
        "checkpoints": ["base", {"run": "mine", "live": True}],
    }
    assert train(run, listen=at_step(2, lambda: run.send("drift", request=ask))) == 0
    assert train(alone) == 0
    [reported] = events(run, "preview")
    result = json.loads((run.path / reported["path"]).read_text())
    assert reported["step"] == 2 and [each["kind"] for each in result["pictures"]] == ["base", "live"]
    folder = (run.path / reported["path"]).parent
    assert json.loads(Image.open(folder / result["pictures"][1]["file"]).info["rollout_studio"])["training_step"] == 2
    assert [event["loss"] for event in events(run, "step")] == [event["loss"] for event in events(alone, "step")]
