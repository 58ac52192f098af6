"""Every call whose meaning depends on the operating system, with its counterpart on the others.

Nothing here knows of runs or models: identity of processes, durable files, locks, detached starts.
"""

import contextlib
import functools
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

WINDOWS = os.name == "nt"
_WAITING = "OMP_WAIT_POLICY"
_REPLACE_PATIENCE_S = 2.0  # Windows refuses to replace a file while a reader has it open; readers are quick


# ---------------------------------------------------------------------------------------------------------------------
# Who is alive
# ---------------------------------------------------------------------------------------------------------------------


@functools.cache
def boot_id() -> str:
    """Names this boot of this machine, so that a pid written before a restart is never taken for a live process.

    Linux has a random id for each boot. Elsewhere the boot time serves, in steps of a minute: it is computed from the
    wall clock, which may be corrected by a second or two.
    """
    with contextlib.suppress(FileNotFoundError):  # only Linux has the file
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"boot-{round(psutil.boot_time() / 60)}"


def process_start(pid: int) -> float | None:
    """When the process `pid` started (seconds; on Linux since boot, else since 1970), or None when it is gone.

    pid and start time together name one process: a pid alone is reused. A zombie has ended and counts as gone. On Linux
    the kernel's own tick count is read, which a corrected wall clock does not change.
    """
    if sys.platform == "linux":
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
        return None if fields[0] in "ZX" else int(fields[19]) / os.sysconf("SC_CLK_TCK")
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def identity(pid: int | None = None) -> dict[str, object]:
    """`{"pid", "process_start", "boot_id"}` of a process (this one by default): what `is_alive` recognises later."""
    pid = os.getpid() if pid is None else pid
    return {"pid": pid, "process_start": process_start(pid), "boot_id": boot_id()}


def is_alive(who: Mapping[str, object] | None) -> bool:
    """Whether exactly the process that `identity` once described still runs, on this boot."""
    if not who or who.get("boot_id") != boot_id():
        return False
    pid, began = who.get("pid"), who.get("process_start")
    if not isinstance(pid, int) or isinstance(pid, bool) or not isinstance(began, (int, float)):
        return False
    now = process_start(pid)
    return now is not None and abs(now - began) < 0.5


def kill(who: Mapping[str, object], *, children: bool = True) -> bool:
    """End the described process at once, and its children. False when it was gone; never touches a reused pid.

    Nor the system's first process, this one, one that this one descends from, or one of another account: none of them is a job of ours,
    whatever a file says.
    """
    if not is_alive(who):
        return False
    try:
        process = psutil.Process(who["pid"])
        if (
            process.pid <= 1
            or process in (this := psutil.Process(), *this.parents())
            or process.username() != this.username()
        ):
            return False
        family = [*(process.children(recursive=True) if children else ()), process]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended by itself meanwhile: what was wanted
            member.kill()
    psutil.wait_procs(family, timeout=5)
    return True


def end_children() -> None:
    """End at once what this process has started."""
    family = psutil.Process().children(recursive=True)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def ask_to_end(pid: int) -> None:
    """Ask a process of ours to end in its own time, as Ctrl+C would; nothing where it is gone.

    Windows has no such request for a process by its number, only ending it at once. There is no need: a console's Ctrl+C and closing
    reach every process that is attached to it.
    """
    if not WINDOWS:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


# ---------------------------------------------------------------------------------------------------------------------
# Files that are whole or absent
# ---------------------------------------------------------------------------------------------------------------------


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable. Windows has no such call: NTFS journals renames itself."""
    if WINDOWS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(source: Path, target: Path) -> None:
    """`os.replace`, with patience on Windows, where a reader that has `target` open makes it fail for a moment."""
    deadline = time.monotonic() + _REPLACE_PATIENCE_S
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not WINDOWS or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def write_atomically(path: Path, data: bytes) -> None:
    """`replacing`, for content that is at hand."""
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, of the same suffix, to write a file to; when the block ends, that file takes the place of `path`.

    Every reader, also after a power cut, sees the old content or the new one, never a part.

    Raises: OSError (28 when the disk is full). Then, and whenever the block raises, the old file is untouched and the partial one removed.
    """
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}-{time.monotonic_ns()}{path.suffix}")
    try:
        yield partial
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())
        replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which the block makes: it takes the place of `path` as a whole.

    A kill leaves the old folder or the new one (in the moment between two renames the old one as `.<name>.old`). For one writer at a time.
    """
    partial, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        yield partial
        if path.exists():
            replace(path, old)
        try:
            replace(partial, path)
        except OSError:
            if old.exists():
                replace(old, path)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def overwrite(path: Path, data: bytes, *, durable: bool = True) -> bool:
    """Put `data` into the bytes that a file has already, for a disk that has no others; False when the file is shorter.

    Not atomic, but one call for one block. What is left of the old content behind it is blanked. `durable`: wait until the disk has it.
    """
    with open(path, "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(data):
            return False
        file.seek(0)
        file.write(data.ljust(size))
        if durable:
            os.fsync(file.fileno())
    return True


def no_room(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full."""
    if isinstance(error, OSError) and (error.errno in (28, 122) or getattr(error, "winerror", None) in (39, 112)):
        return True
    return "disk is full" in str(error)  # sqlite's words


def free_bytes(path: Path) -> int:
    """Free space of the volume that holds `path`, or of its nearest parent that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def file_lock(path: Path, timeout_s: float = 10.0) -> Iterator[None]:
    """Hold the lock file `path` for a moment (a critical section of milliseconds). The system frees it when we die.

    Raises: TimeoutError when another process keeps it longer than `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    with open(path, "ab") as file:
        while True:
            try:
                _lock(file.fileno())
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{path} has been locked by another process for {timeout_s:g} s. Wait, or end that process."
                    ) from error
                time.sleep(0.01)
        try:
            yield
        finally:
            _unlock(file.fileno())


if WINDOWS:  # pragma: no cover - covered on Windows only
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _unlock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


# ---------------------------------------------------------------------------------------------------------------------
# Processes of their own
# ---------------------------------------------------------------------------------------------------------------------


def worker_environment() -> dict[str, str]:
    """What every Python process of ours that computes is started with, beside the environment it inherits.

    Threads that wait must sleep, not spin: spinning OpenMP workers fight with the threads that decode pictures, and with a
    training beside them, and everything takes ten times as long. Safe path: a random.py in the folder where the page was
    started must not shadow the standard library.
    """
    policy = os.environ.get(_WAITING, "PASSIVE")
    return {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", _WAITING: policy}


def sleep_while_waiting() -> None:
    """The same for threads of this process, where the variable is not set: call it before torch is imported.

    OpenMP reads its settings once, when its library is loaded; a torch that is there already is not changed.
    """
    os.environ.setdefault(_WAITING, "PASSIVE")


def use_all_cores() -> int:
    """Let torch use every physical core that this process may, unless OMP_NUM_THREADS says otherwise; returns the
    number of threads.
    """
    import torch  # here, not above: the page's process has none

    if not os.environ.get("OMP_NUM_THREADS"):
        physical = psutil.cpu_count(logical=False)  # None where the system does not say
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(1, min(number for number in (physical, allowed) if number is not None)))
    return torch.get_num_threads()


def start_detached(command: Sequence[str], log: Path, *, cwd: Path, extra_env: Mapping[str, str]) -> subprocess.Popen:
    """Start a process that outlives us: no terminal, no shared signals, output appended to `log`.

    The caller polls the returned handle now and then: on POSIX an ended child stays a zombie until its parent asks.
    """
    apart = (
        {"creationflags": subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP}
        if WINDOWS
        else {"start_new_session": True}
    )
    with open(log, "ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **extra_env},
            close_fds=True,
            **apart,
        )


def start_helper(command: Sequence[str], log: Path, *, extra_env: Mapping[str, str]) -> subprocess.Popen:
    """Start a process that serves us over pipes: requests to its `stdin`, answers from its `stdout`, the rest to `log`.

    Ctrl+C in our terminal does not reach it; it must end by itself when its input ends, which is when we are gone. Pipes
    are binary. `log` is begun anew.
    """
    apart = (
        {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        if WINDOWS
        else {"start_new_session": True}
    )
    with open(log, "wb") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**os.environ, **extra_env},
            close_fds=True,
            **apart,
        )


def device_name(name: str) -> str:
    """One name for each device, so that runs which would share one are recognised: "auto" is what it most likely means here, "cuda" is
    cuda:0; others are what they are.
    """
    if name == "auto":
        name = likely_device()
    return "cuda:0" if name == "cuda" else name


def gpu_count() -> int:
    """How many NVIDIA GPUs torch would number here, from 0, as far as this can be known without importing it; 0 without a driver."""
    return visible_gpus(_installed_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_gpus(installed: int, visible: str | None) -> int:
    """How many of the `installed` GPUs CUDA shows when CUDA_VISIBLE_DEVICES is `visible`: the list ends at the first entry that names none."""
    if visible is None:
        return installed
    count = 0
    for entry in visible.split(","):
        entry = entry.strip()
        if not entry or (entry.lstrip("-").isdigit() and not 0 <= int(entry) < installed):
            break
        count += 1
    return count


@functools.cache
def _installed_gpus() -> int:
    if not shutil.which("nvidia-smi"):
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def likely_device() -> str:
    """What `device = auto` will most likely mean, without importing torch: cuda, mps or cpu.

    The queue only needs to know which runs would share a device; the worker decides with torch itself.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi") and hidden not in ("", "-1"):
        return "cuda"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    return "cpu"
