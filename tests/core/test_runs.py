"""The run store: what survives a kill, two owners, a torn line, a hostile name."""

import json
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from rollout_studio.core import platform_calls
from rollout_studio.core.runs import commands, folder, rows
from rollout_studio.core.runs.errors import RunError, StorageError
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.store import RunStore

SLEEPER = "import time; time.sleep(60)"
# A worker that behaves: takes the lock, says so, and listens until it is told to stop.
POLITE = textwrap.dedent("""
    import sys, time
    from rollout_studio.core.runs.folder import RunDir
    run = RunDir(sys.argv[1])
    with run.lock():
        run.write_state(state="running", step=3)
        run.emit("step", step=3, loss=0.5)
        deadline = time.time() + 30
        while time.time() < deadline:
            if any(command.name == "stop" for command in run.take_commands()):
                break
            time.sleep(0.02)
        run.emit("end", state="stopped", step=3)
        run.write_state(state="stopped", step=3)
""")


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path / "runs", worker=(sys.executable, "-c", POLITE))
    yield store
    for summary in store.list():
        if summary.alive:
            store.kill(summary.name)


@pytest.fixture
def run(store):
    return store.create({}, "first")


def wait_for(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} s")


def checkpoint(run, step):
    folder = run.checkpoints_path / f"step-{step:06d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def dead_process():
    """Identity of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = platform_calls.identity(child.pid)
    child.communicate(b"\n")
    return who


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_come_back_once_in_order_from_the_given_offset(run):
    run.emit("start", pid=1)
    first, offset = run.events()
    run.emit("step", step=1, loss=0.5)
    second, offset = run.events(offset)
    assert [event["event"] for event in first + second] == ["start", "step"]
    assert run.events(offset) == ([], offset)


def test_half_a_line_is_left_for_the_next_look(run):
    run.emit("start")
    with open(run.events_path, "ab") as file:
        file.write(b'{"event": "step", "st')
        file.flush()
        events, offset = run.events()
        assert [event["event"] for event in events] == ["start"]
        file.write(b'ep": 1}\n')
    assert run.events(offset)[0] == [{"event": "step", "step": 1}]


def test_a_line_cut_by_a_kill_harms_only_itself(run):
    run.emit("start")
    with open(run.events_path, "ab") as file:
        file.write(b'{"event": "st')
    run.emit("step", step=2)
    assert [event["event"] for event in run.events()[0]] == ["start", "damaged", "step"]


def test_nan_and_infinity_become_text_so_that_every_line_is_strict_json(run):
    run.emit("step", loss=math.nan, parts={"adr": -math.inf}, fine=0.0, path=Path("a") / "b")

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    record = json.loads(run.events_path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert (record["loss"], record["parts"], record["fine"], record["path"]) == ("nan", {"adr": "-inf"}, 0.0, "a/b")


def test_what_json_cannot_hold_is_refused_and_writes_nothing(run):
    with pytest.raises(TypeError, match="cannot hold object"):
        run.emit("step", loss=object())
    assert run.events() == ([], 0)


def test_four_writers_and_a_reader_never_share_a_line(run):
    def write(name):
        for number in range(100):
            run.emit("step", writer=name, step=number, filler="x" * 200)

    writers = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for writer in writers:
        writer.start()
    seen, offset = [], 0
    while any(writer.is_alive() for writer in writers) or run.events(offset)[0]:
        new, offset = run.events(offset, limit_bytes=1000)
        seen += new
    assert len(seen) == 400 and all(event["event"] == "step" for event in seen)


# -- commands and state ---------------------------------------------------------------------------------------------------


def test_commands_arrive_once_in_order_with_their_arguments(run):
    ids = [run.send("save"), run.send("sample", prompt="a red circle"), run.send("stop")]
    taken = run.take_commands()
    assert [(command.name, command.id) for command in taken] == list(zip(["save", "sample", "stop"], ids, strict=True))
    assert taken[1].args == {"prompt": "a red circle"}
    assert run.take_commands() == []


def test_a_file_that_is_no_command_is_set_aside_and_reported(run):
    (run.commands_path / "0-x.json").write_text('{"command": "rm -rf", "args": {}, "id": "1"}')
    run.send("save")
    assert [command.name for command in run.take_commands()] == ["save"]
    assert run.events()[0][0]["event"] == "warning"
    assert (run.commands_path / "0-x.bad").exists()


def test_an_unknown_command_is_refused_with_the_list(run):
    with pytest.raises(RunError, match="stop-and-save"):
        run.send("explode")


def test_a_reader_never_sees_a_part_of_the_state(run):
    done = threading.Event()

    def write():
        for number in range(150):
            run.write_state(state="running", step=number, message="m" * (number * 40))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert run.read_state()["state"] in ("created", "running")
    writer.join()
    assert run.read_state()["step"] == 149


def test_writing_the_state_keeps_the_other_fields(run):
    created = run.read_state()["created"]
    assert run.write_state(state="running")["created"] == created


# -- owners ---------------------------------------------------------------------------------------------------------------


def test_a_second_owner_is_refused_while_the_first_lives(run):
    with run.lock():
        with pytest.raises(RunError, match=f"process {os.getpid()}"), run.lock():
            pass
        assert run.owner()["pid"] == os.getpid()
    assert run.owner() is None


def test_the_lock_of_a_killed_process_is_taken_over(run):
    run.lock_path.write_text(json.dumps(dead_process()))
    with run.lock():
        assert run.owner()["pid"] == os.getpid()


def test_a_reused_pid_and_a_restarted_machine_do_not_look_alive():
    me = platform_calls.identity()
    assert platform_calls.is_alive(me)
    assert not platform_calls.is_alive({**me, "process_start": me["process_start"] - 100})
    assert not platform_calls.is_alive({**me, "boot_id": "another"})
    assert not platform_calls.is_alive({"pid": 1})
    assert not platform_calls.is_alive(None)


def test_killing_never_touches_a_process_that_is_not_the_one_described():
    with subprocess.Popen([sys.executable, "-c", SLEEPER]) as child:
        who = platform_calls.identity(child.pid)
        assert not platform_calls.kill({**who, "process_start": who["process_start"] - 100})
        assert child.poll() is None
        assert platform_calls.kill(who)


def test_of_many_processes_that_take_one_lock_at_once_one_wins(run):
    code = textwrap.dedent("""
        import sys, time
        from rollout_studio.core.runs.errors import RunError
        from rollout_studio.core.runs.folder import RunDir
        sys.stdin.readline()
        try:
            with RunDir(sys.argv[1]).lock():
                print("won", flush=True)
                sys.stdin.readline()
        except RunError:
            print("lost", flush=True)
            sys.stdin.readline()
    """)
    run.lock_path.write_text(json.dumps(dead_process()))  # all of them want to take it over
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.stdout.readline().strip() for child in children]
    for child in children:
        child.communicate("\n")
    assert sorted(answers) == ["lost", "lost", "lost", "won"]


# -- a runs folder that is no good ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "below", ["a file/runs", "a" * 300, "zero\0byte"], ids=["below a file", "too long", "zero byte"]
)
def test_an_impossible_runs_folder_is_refused_with_the_remedy(tmp_path, below):
    (tmp_path / "a file").touch()
    with pytest.raises(StorageError, match="cannot be made .* with --runs-dir, or in the variable ROLLOUT_STUDIO_RUNS"):
        RunStore(tmp_path / below)


def test_in_a_read_only_folder_runs_are_read_and_what_must_write_is_refused_with_the_remedy(as_nobody):
    store = RunStore(as_nobody / "runs")
    store.create({}, "first")
    store.enqueue("first")
    store.create({}, "live").lock_path.write_text(json.dumps(platform_calls.identity()))
    everything = [store.root, *store.root.rglob("*")]
    for path in everything:
        path.chmod(0o555)
    try:
        assert {summary.name for summary in store.list()} == {"live", "first"} and [
            job.run for job in store.queue()
        ] == ["first"]
        assert store.reconcile() == []
        for act in (
            lambda: store.create({}, "second"),
            lambda: store.dequeue("first"),
            lambda: store.clone("first", "copy"),
        ):
            with pytest.raises(StorageError, match="cannot be written .* with --runs-dir"):
                act()
        with pytest.raises(RunError, match="stop cannot be sent: nothing can be written into .*commands"):
            store.send("live", "stop")
    finally:
        for path in everything:
            path.chmod(0o755)


def test_a_runs_folder_that_is_gone_is_reported(store):
    store.root.rmdir()
    with pytest.raises(StorageError, match="cannot be read"):
        store.list()
    store.root.mkdir()


def test_a_damaged_queue_is_reported_with_its_file_and_the_runs_are_still_listed(store, run):
    (store.root / ".queue.sqlite3").write_bytes(b"no database" * 1000)
    assert [summary.name for summary in store.list()] == ["first"]
    for act in (store.queue, store.pump, lambda: store.enqueue("first")):
        with pytest.raises(StorageError, match="queue.sqlite3 is damaged .* Move it away"):
            act()


def test_looking_at_a_queue_writes_nothing(store, run):
    """An open page looks every second; and a full disk must not hide what is there."""
    store.enqueue("first")
    with run.lock():
        before = {path: path.stat().st_mtime_ns for path in (store.root, store.root / ".queue.sqlite3")}
        assert [job.run for job in store.queue()] == ["first"]
        assert store.reconcile() == []
        assert {path: path.stat().st_mtime_ns for path in before} == before


# -- names, creation, deletion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "/etc", "C:\\x", "a/b", "a\\b", "a\0b", "CON", "nul.txt", "com1", "-rf", "$(x)", "%2e%2e", "a\u202eb",
     "a" * 65, "a ", "a.", ".hidden", "ü", "a\n"],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused(store, name):
    with pytest.raises(RunError, match="cannot name a run"):
        store.create({}, name)
    assert store.list() == []


def test_an_existing_name_is_refused_and_the_run_untouched(store, run):
    before = run.config_path.read_bytes()
    with pytest.raises(RunError, match="exists already"):
        store.create({"seed": 1}, "first")
    assert run.config_path.read_bytes() == before


def test_a_link_in_place_of_a_run_is_refused(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    try:
        (store.root / "link").symlink_to(outside, target_is_directory=True)
    except OSError:
        pytest.skip("this system or user may not make links")
    for act in (store.get, store.delete):
        with pytest.raises(RunError, match="is a link"):
            act("link")
    assert store.list() == [] and (outside / "config.json").exists()


def test_names_are_made_from_the_preset_when_none_is_given(store):
    names = [store.create({}, preset="my preset!").name for _ in range(2)]
    assert len(set(names)) == 2 and all(name.startswith("my-preset-20") for name in names)


def test_the_whole_resolved_configuration_is_kept(store):
    run = store.create({"max_train_steps": 7}, "short")
    config = run.read_config()
    assert config["max_train_steps"] == 7 and "scheduled_sampling_probability" in config
    assert run.read_state()["total_steps"] == 7


def test_a_clone_has_the_configuration_with_the_changes(store, run):
    clone = store.clone("first", "second", {"seed": 7})
    assert clone.read_config() == {**run.read_config(), "seed": 7}
    assert clone.events() == ([], 0)


def test_deleting_removes_one_run_and_refuses_a_live_one(store, run):
    other = store.create({}, "other")
    with run.lock(), pytest.raises(RunError, match="Stop it first"):
        store.delete("first")
    store.delete("first")
    assert not run.path.exists() and other.config_path.exists()
    with pytest.raises(RunError, match="no run 'first'"):
        store.delete("first")


def test_a_deleted_run_comes_back_whole_and_beside_one_that_took_its_name(store, run):
    files = {path.relative_to(run.path): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    store.enqueue("first")
    store.delete("first")
    store.create({"seed": 9}, "first")
    store.delete("first")
    assert [thrown.name for thrown in store.trash()] == ["first-2", "first"] and not store.list()
    store.create({}, "first")
    back = store.restore("first")
    assert back.name == "first-2"  # the first one of all, with a number because its name is taken
    assert {path.relative_to(back.path) for path in back.path.rglob("*") if path.is_file()} == set(files)
    assert store.summary("first-2").state == "created" and not store.queue()
    store.empty_trash("first-2")
    assert not store.trash() and not list(store.root.glob(".deleted-*"))
    with pytest.raises(RunError, match="no run 'first' in the trash. In it: nothing"):
        store.restore("first")
    store.delete("first", for_good=True)
    assert not store.trash() and [each.name for each in store.list()] == ["first-2"]


# -- processes ---------------------------------------------------------------------------------------------------------------


def test_a_started_run_lives_on_its_own_and_obeys(store, run):
    pid = store.start("first")
    wait_for(lambda: run.read_state()["state"] == "running")
    assert run.owner()["pid"] == pid and store.summary("first").alive
    if os.name == "posix":
        assert os.getsid(pid) != os.getsid(0)
    store.send("first", "stop")
    wait_for(lambda: not store.summary("first").alive)
    assert store.summary("first").state == "stopped"
    assert store.reconcile() == []
    with pytest.raises(RunError, match="not running"):
        store.send("first", "save")


def test_another_store_sees_and_commands_a_run_that_it_did_not_start(store, run):
    store.start("first")
    wait_for(lambda: run.read_state()["state"] == "running")
    other = RunStore(store.root)
    assert other.reconcile() == [] and other.summary("first").alive
    other.send("first", "stop")
    wait_for(lambda: not other.summary("first").alive)


def test_a_run_does_not_start_twice(store, run):
    store.start("first")
    with pytest.raises(RunError, match="already running"):
        store.start("first")


def test_a_killed_run_is_called_crashed_with_its_step_and_checkpoint_and_can_be_resumed(store, run):
    store.start("first")
    wait_for(lambda: run.read_state()["state"] == "running" and run.events()[0])
    checkpoint(run, 2)
    (run.checkpoints_path / "step-000009").mkdir()  # unfinished: no manifest
    platform_calls.kill(run.owner())
    [summary] = store.reconcile()
    assert (summary.state, summary.step, summary.last_checkpoint, summary.resumable) == ("crashed", 3, 2, True)
    assert "crashed at step 3, last checkpoint 2" in summary.message
    assert run.events()[0][-1]["state"] == "crashed"
    assert store.reconcile() == []
    with pytest.raises(RunError, match="already trained"):
        store.start("first")
    store.start("first", resume=True)
    wait_for(lambda: run.read_state()["state"] == "running")


def test_a_worker_that_dies_before_it_begins_is_reported_with_the_end_of_its_log(tmp_path):
    store = RunStore(tmp_path, worker=(sys.executable, "-c", "raise SystemExit('no such model')"))
    store.create({}, "broken")
    store.start("broken")
    wait_for(lambda: store.reconcile())
    assert "no such model" in store.summary("broken").message


def test_a_run_after_a_restart_of_the_machine_is_crashed(store, run):
    run.write_state(state="running", step=5)
    run.lock_path.write_text(json.dumps({**platform_calls.identity(), "boot_id": "before"}))
    assert [summary.state for summary in store.reconcile()] == ["crashed"]


# -- the queue -----------------------------------------------------------------------------------------------------------------


def test_the_queue_starts_one_run_per_device_in_order(store):
    for name in ("a", "b", "c"):
        store.create({"device": "cpu"}, name)
        store.enqueue(name)
    store.create({"device": "cuda"}, "gpu")
    store.enqueue("gpu")
    assert [job.run for job in store.queue()] == ["a", "b", "c", "gpu"]
    assert store.pump() == ["a", "gpu"]
    assert store.pump() == []
    wait_for(lambda: store.summary("a").state == "running")
    store.send("a", "stop")
    wait_for(lambda: not store.summary("a").alive)
    assert store.pump() == ["b"]
    assert [job.run for job in store.queue()] == ["c"]


def test_a_run_of_several_processes_waits_for_all_its_gpus_and_is_not_overtaken(store):
    for name, device, processes in (("a", "cuda:1", 1), ("both", "cuda", 2), ("b", "cuda:0", 1), ("cpu", "cpu", 2)):
        store.create({"device": device, "num_processes": processes, "train_batch_size": 2}, name)
        store.enqueue(name)
    assert store.pump() == ["a", "cpu"]
    wait_for(lambda: store.summary("a").state == "running")
    store.send("a", "stop")
    wait_for(lambda: not store.summary("a").alive)
    assert store.pump() == ["both"]
    assert store.pump() == []
    assert [job.run for job in store.queue()] == ["b"]


def test_waiting_runs_are_reordered_and_taken_out(store):
    for name in ("a", "b", "c"):
        store.create({}, name)
        store.enqueue(name)
    store.move("c", -5)
    assert [job.run for job in store.queue()] == ["c", "a", "b"]
    store.move("c", 1)
    assert store.dequeue("b") and not store.dequeue("b")
    assert [job.run for job in store.queue()] == ["a", "c"]
    assert store.summary("b").state == "created"
    store.delete("a")
    assert [job.run for job in store.queue()] == ["c"]


def test_queueing_twice_is_queueing_once(store, run):
    assert store.enqueue("first") == store.enqueue("first")
    assert len(store.queue()) == 1


def test_the_queue_survives_a_new_store(store, run):
    store.enqueue("first")
    assert [job.run for job in RunStore(store.root).queue()] == ["first"]


def test_a_run_that_cannot_start_is_marked_and_the_next_one_starts(store):
    for name in ("gone", "next"):
        store.create({}, name)
        store.enqueue(name)
    store.get("gone").write_state(cwd=str(store.root / "nowhere"))
    assert store.pump() == ["next"]
    assert store.summary("gone").state == "failed" and "nowhere" in store.summary("gone").message


BREAKAGES = {
    "state of another type": lambda path: (path / "state.json").write_text("[]"),
    "lock of another type": lambda path: (path / "run.lock").write_text("5"),
    "no config": lambda path: (path / "config.json").unlink(),
    "config of another type": lambda path: (path / "config.json").write_text("null"),
    "a folder for a log": lambda path: (path / "log.txt").mkdir(),
    "a folder for a state": lambda path: ((path / "state.json").unlink(), (path / "state.json").mkdir()),
    "gone": lambda path: path.rename(path.with_name(".away")),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_run_folder_holds_up_no_other_run_in_the_queue(store, breakage):
    for name in ("broken", "next"):
        store.create({}, name)
        store.enqueue(name)
    BREAKAGES[breakage](store.root / "broken")
    store.reconcile()
    assert store.pump() == ["next"]
    assert [job.run for job in store.queue()] == []
    assert {summary.state for summary in store.list() if summary.name == "broken"} <= {"failed"}


def test_a_broken_run_folder_that_is_not_queued_keeps_no_device_busy_and_hides_no_crash(store, run):
    for name in ("broken", "dead"):
        store.create({}, name)
        store.get(name).write_state(state="running", step=4)
        store.get(name).lock_path.write_text(json.dumps(dead_process()))
    (store.root / "broken" / "run.lock").write_text("[]")
    store.enqueue("first")
    assert [summary.name for summary in store.reconcile()] == ["dead"]
    assert store.pump() == ["first"]


def test_a_live_run_keeps_its_device_busy_though_its_config_is_damaged(store, run):
    other = store.create({}, "other")
    store.enqueue("first")
    with other.lock():
        other.config_path.write_text("[]")
        assert store.pump() == []
    assert store.pump() == ["first"]


def test_a_waiting_run_that_can_neither_start_nor_be_marked_keeps_its_place_and_says_why(store, monkeypatch):
    for name in ("barred", "next"):
        store.create({}, name)
        store.enqueue(name)
    write = RunDir.write_state

    def barred(self, **fields):
        if self.name == "barred":
            raise PermissionError(13, "Permission denied", str(self.state_path))
        return write(self, **fields)

    monkeypatch.setattr(RunDir, "write_state", barred)
    assert store.pump() == ["next"]
    assert [job.run for job in store.queue()] == ["barred"]
    reported = store.summary("barred")
    assert reported.state == "queued" and "Permission denied" in reported.message


def test_a_run_deleted_while_the_list_is_read_is_left_out(store, run, monkeypatch):
    store.create({}, "other")
    summary = RunStore.summary

    def late(self, run):
        if run.name == "first":
            run.path.rename(store.root / ".deleted-x")
        return summary(self, run)

    monkeypatch.setattr(RunStore, "summary", late)
    assert [each.name for each in store.list()] == ["other"]


def test_a_run_that_may_not_be_entered_is_listed_with_the_reason(as_nobody):
    store = RunStore(as_nobody / "runs")
    for name in ("shut", "open"):
        store.create({}, name)
    (store.root / "shut").chmod(0)
    try:
        shown = {summary.name: summary for summary in store.list()}
        assert shown["shut"].state == "failed" and "Permission denied" in shown["shut"].message
        assert shown["open"].state == "created"
        assert store.reconcile() == [] and store.pump() == []
    finally:
        (store.root / "shut").chmod(0o700)


def test_a_failed_run_is_retried_from_its_checkpoint_or_as_a_clone(store, run):
    run.emit("error", message="boom", remedy="none")
    run.emit("end", state="failed")
    run.write_state(state="failed", step=3)
    assert store.failure("first")["message"] == "boom"
    assert store.retry("first").name != "first"
    checkpoint(run, 2)
    assert store.retry("first").name == "first"
    assert [job.resume for job in store.queue() if job.run == "first"] == [True]


def test_several_processes_pump_one_queue_and_each_run_starts_once(tmp_path):
    """The claim is one UPDATE in a write transaction: no run is started twice, none is lost."""
    note = (
        "import sys, pathlib; open(pathlib.Path(sys.argv[1]).parent / 'starts.txt', 'a').write(sys.argv[1] + chr(10))"
    )
    store = RunStore(tmp_path, worker=(sys.executable, "-c", note))
    names = [f"run{number}" for number in range(6)]
    for name in names:
        store.create({}, name)
        store.enqueue(name)
    pump = f"from rollout_studio.core.runs.store import RunStore; import sys, time\ns = RunStore(sys.argv[1], worker=(sys.executable, '-c', {note!r}))\nend = time.time() + 20\nwhile s.queue() and time.time() < end: s.pump(); time.sleep(0.01)"
    for child in [subprocess.Popen([sys.executable, "-c", pump, str(tmp_path)]) for _ in range(3)]:
        assert child.wait(30) == 0
    starts = tmp_path / "starts.txt"
    wait_for(lambda: starts.exists() and len(starts.read_text().splitlines()) >= len(names))
    assert sorted(Path(line).name for line in starts.read_text().splitlines()) == names


# -- the rest --------------------------------------------------------------------------------------------------------------------


def test_the_log_tail_shows_only_the_last_state_of_a_progress_bar(run):
    run.log_path.write_bytes(b"first\nbar 1\rbar 2\rbar 3\nlast")
    assert run.log_tail(2) == "bar 3\nlast"


def test_a_damaged_run_is_listed_with_what_is_wrong(store, run):
    run.state_path.write_text("{")
    [summary] = store.list()
    assert summary.state == "failed" and "damaged" in summary.message


NO_OBJECT = ["[]", '"text"', "5", "null", "true", "[" * 100_000]


@pytest.mark.parametrize("content", NO_OBJECT, ids=lambda content: content[:6])
@pytest.mark.parametrize("file", ["run.lock", "process.json", "state.json", "config.json"])
def test_a_file_of_another_json_type_is_reported_with_its_name_and_what_to_do(store, run, file, content):
    """Written by another program or by a hand; every reader of runs meets it."""
    (run.path / file).write_text(content)
    [summary] = store.list()
    assert summary.state == "failed" and summary.message.startswith(f"{run.path / file} is damaged")
    assert "Move it away" in summary.message
    for act in (store.start, store.enqueue):
        with pytest.raises(RunError, match=f"{file} is damaged"):
            act("first")


@pytest.mark.parametrize(("field", "value", "rule"), [
    ("state", "flying", "one of created, queued"), ("state", ["running"], "one of created, queued"), ("step", "3", "a whole number"),
    ("step", True, "a whole number"), ("created", "yesterday", "a number of seconds"), ("updated", None, "a number of seconds"),
    ("message", {"a": 1}, "text or null"), ("cwd", 5, "text"),
])  # fmt: skip
def test_a_state_with_a_field_of_another_type_is_reported_with_the_rule(store, run, field, value, rule):
    store.create({}, "healthy")
    run.state_path.write_text(json.dumps({**run.read_state(), field: value}))
    damaged = store.summary("first")
    assert damaged.state == "failed" and f"{field} must be {rule}" in damaged.message
    assert {summary.name for summary in store.list()} == {"first", "healthy"}


def test_a_folder_where_a_file_belongs_is_reported(store, run):
    run.state_path.unlink()
    run.state_path.mkdir()
    [summary] = store.list()
    assert summary.state == "failed" and "state.json cannot be read" in summary.message


def test_a_damaged_lock_does_not_hide_the_process_that_the_store_started(store, run):
    run.lock_path.write_text("[]")
    run.process_path.write_text(json.dumps(platform_calls.identity()))
    assert run.owner()["pid"] == os.getpid()


@pytest.mark.parametrize("file", ["run.lock", "state.json", "config.json"])
def test_a_worker_that_meets_a_damaged_file_says_so_without_a_traceback(store, run, file):
    (run.path / file).write_text("[]")
    done = subprocess.run(
        [sys.executable, "-m", "rollout_studio.core.train.worker", str(run.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert f"{file} is damaged" in done.stderr and "Traceback" not in done.stderr + done.stdout


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    path.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        platform_calls.write_atomically(path, b"new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_run_store_does_not_import_torch():
    code = "import sys, rollout_studio.core.runs.store as r, tempfile; r.RunStore(tempfile.mkdtemp()).create({}, 'x'); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_every_state_and_command_is_one_that_the_page_knows():
    assert set(folder.ACTIVE_STATES) < set(folder.STATES) and "stop-and-save" in commands.COMMANDS


def test_a_run_dir_needs_no_store(tmp_path):
    run = RunDir(tmp_path)
    run.emit("start")
    assert run.take_commands() == [] and run.read_state() == {"state": "created"} and run.last_checkpoint() is None


# ---- what is asked often


def test_the_last_event_of_a_kind_is_found_without_reading_the_whole_file(run, monkeypatch):
    """A page asks it of every failed run; a long run has 100,000 events."""
    run.emit("error", message="first")
    for step in range(3000):
        run.emit("step", step=step, note="an error" * 5)
    run.emit("error", message='the "last" one')
    run.emit("end", state="failed", step=3000)
    assert run.last_event("error")["message"] == 'the "last" one'
    assert run.last_event("step")["step"] == 2999
    assert run.last_event("sample") is None  # over every block's border
    monkeypatch.setattr(folder, "_BACKWARDS_BYTES", 100)  # shorter than a line
    assert run.last_event("error")["message"] == 'the "last" one'
    monkeypatch.setattr(RunDir, "events", lambda self, *where: pytest.fail("read from the beginning"))
    assert run.last_event("end")["state"] == "failed"


def test_steps_that_are_trained_again_are_reported_once_and_no_reader_loses_its_place(run, monkeypatch):
    monkeypatch.setattr(folder, "_BACKWARDS_BYTES", 100)  # over many blocks' borders
    for step in range(1, 14):
        run.emit("step", step=step, note="x" * (step * 7))
        if step % 5 == 0:
            run.emit("saved", step=step)
        if step % 4 == 0:
            run.emit("sample", step=step)
            run.emit("drift", step=step)
    run.emit("warning", message="hot", step=12)
    run.emit("end", state="crashed", step=13)
    size, (before, offset) = run.events_path.stat().st_size, run.events()
    run.forget_after(10)
    assert run.events_path.stat().st_size == size
    kept = [(event["event"], event.get("step")) for event in run.events()[0]]
    assert kept == [
        (event["event"], event["step"])
        for event in before
        if event["step"] <= 10 or event["event"] in ("warning", "end")
    ]
    run.emit("start", resumed_from=10)
    run.emit("step", step=11)
    assert [event["event"] for event in run.events(offset)[0]] == ["start", "step"]
    steps = [event["step"] for event in run.events()[0] if event["event"] == "step"]
    assert steps == list(range(1, 12))


def test_a_line_cut_by_the_kill_stays_as_it_is_when_steps_are_forgotten(run):
    run.emit("step", step=1)
    run.emit("step", step=2)
    with open(run.events_path, "ab") as file:
        file.write(b'{"event": "step", "step": 3, "lo')
    run.forget_after(1)
    run.emit("step", step=2)
    assert [event["event"] for event in run.events()[0]] == ["step", "damaged", "step"]


@pytest.fixture
def settled(store, monkeypatch):
    """Forty runs that have ended some time ago; `settled.read` lists the files that are read from now on."""
    for number in range(40):
        run = store.create({}, f"run{number}")
        run.emit("end", state="done")
        run.write_state(state="done", step=number)
        checkpoint(run, number + 1)
    monkeypatch.setattr(rows, "_SETTLED_NS", 0)
    store.list()
    read, real = [], folder.read_json
    monkeypatch.setattr(folder, "read_json", lambda path: read.append(path) or real(path))
    store.read = read
    return store


def test_runs_that_have_ended_are_not_read_again_by_a_page_that_lists_them_every_second(settled):
    before = settled.list()
    assert settled.reconcile() == [] and settled.list() == before and len(before) == 40
    assert settled.read == []


CHANGES = {
    "its state": (
        lambda run: run.write_state(state="stopped", step=99),
        lambda row: (row.state, row.step) == ("stopped", 99),
    ),
    "a lock": (lambda run: run.lock_path.write_text(json.dumps(platform_calls.identity())), lambda row: row.alive),
    "a worker": (lambda run: run.process_path.write_text(json.dumps(platform_calls.identity())), lambda row: row.alive),
    "a checkpoint": (lambda run: checkpoint(run, 500), lambda row: row.last_checkpoint == 500),
    "no whole checkpoint any more": (
        lambda run: (run.checkpoints_path / "step-000008" / "manifest.json").unlink(),
        lambda row: row.last_checkpoint is None,
    ),
    "its config": (lambda run: run.config_path.write_text("[]"), lambda row: row.state == "failed"),
    "a damaged state": (lambda run: run.state_path.write_text("["), lambda row: row.state == "failed"),
    "no state any more": (lambda run: run.state_path.unlink(), lambda row: row.state == "created"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_any_file_of_a_run_is_in_the_next_list(settled, change):
    make, shown = CHANGES[change]
    make(settled.get("run7"))
    assert shown(next(row for row in settled.list() if row.name == "run7"))
    for path in (settled.get("run7").lock_path, settled.get("run7").process_path):
        path.unlink(missing_ok=True)  # it names the process of these tests


def test_a_live_run_is_looked_at_every_time(settled):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run = settled.get("run3")
    run.write_state(state="running")
    run.lock_path.write_text(json.dumps(platform_calls.identity(child.pid)))
    assert settled.summary("run3").alive
    child.communicate(b"\n")
    assert not settled.summary("run3").alive  # none of its files has changed


def test_a_run_whose_process_died_is_named_also_when_its_row_was_known(settled):
    run = settled.get("run3")
    run.write_state(state="running", updated=0)
    run.state_path.write_text(json.dumps({**run.read_state(), "updated": 0}))
    assert settled.summary("run3").state == "crashed"
    assert [row.name for row in settled.reconcile()] == ["run3"]
    assert run.read_state()["state"] == "crashed"


def test_a_file_written_a_moment_ago_is_read_again(store, run):
    """Its next change might carry the same time."""
    read = store.summary("first")
    assert store.summary("first") is not read and store.summary("first") == read


def test_a_deleted_run_and_another_of_its_name_are_not_mixed_up(settled):
    settled.delete("run5")
    assert len(settled.list()) == 39
    settled.create({"max_train_steps": 9}, "run5")
    assert settled.summary("run5").total_steps == 9


def test_half_a_line_is_no_last_event(run):
    run.emit("error", message="whole")
    with open(run.events_path, "ab") as file:
        file.write(b'{"event": "error", "mess')
    assert run.last_event("error")["message"] == "whole"


@pytest.mark.parametrize("inherited", [None, "ACTIVE"])
def test_a_worker_is_started_with_threads_that_sleep_while_they_wait(store, run, monkeypatch, inherited):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if inherited:
        monkeypatch.setenv("OMP_WAIT_POLICY", inherited)
    started = {}

    def start(command, log, *, cwd, extra_env):
        started.update(extra_env)
        raise OSError("seen enough")

    monkeypatch.setattr(platform_calls, "start_detached", start)
    with pytest.raises(RunError):
        store.start(run.name)
    assert started["OMP_WAIT_POLICY"] == (inherited or "PASSIVE")
