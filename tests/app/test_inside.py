"""S21: a file that somebody puts a link in the place of, between the check of its path and its opening."""

import os
import zipfile

import pytest
from PIL import Image
from rollout_studio.app.parts import previews, report_page
from rollout_studio.core import inside
from rollout_studio.core.inside import open_inside
from rollout_studio.core.runs import archive
from rollout_studio.core.runs.store import RunStore

SECRET = b"the secret of somebody else"


@pytest.fixture
def home(tmp_path):
    """A folder with a picture in a folder of its own; beside it a secret."""
    (tmp_path / "secret.png").write_bytes(SECRET)
    (tmp_path / "home" / "deep").mkdir(parents=True)
    Image.new("RGB", (4, 3), "red").save(tmp_path / "home" / "deep" / "a.png")
    return tmp_path / "home"


def swap_file(home):
    (home / "deep" / "a.png").unlink()
    (home / "deep" / "a.png").symlink_to(home.parent / "secret.png")


def swap_folder(home):
    """A link in the place of a folder on the way leads just as far."""
    (home.parent / "elsewhere").mkdir()
    (home.parent / "elsewhere" / "a.png").write_bytes(SECRET)
    (home / "deep").rename(home / "away")
    (home / "deep").symlink_to(home.parent / "elsewhere")


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@pytest.mark.parametrize("swap", [swap_file, swap_folder])
@pytest.mark.parametrize("windows", [False, True])
def test_a_link_in_the_place_of_a_file_is_not_opened(home, swap, windows, monkeypatch):
    if windows:  # its way, with Linux' answer to where an open file lies
        if not os.path.isdir("/proc/self/fd"):
            pytest.skip("nothing here tells where an open file lies")
        monkeypatch.setattr(inside, "WINDOWS", True)
        monkeypatch.setattr(inside, "_true_path", lambda handle: home.__class__(os.readlink(f"/proc/self/fd/{handle}")))
    path = home / "deep" / "a.png"
    with open_inside(path, home) as file:
        assert file.read(4) == b"\x89PNG"
    swap(home)
    with pytest.raises(OSError):
        open_inside(path, home)


def test_a_path_that_leads_elsewhere_a_folder_and_a_pipe_are_not_opened(home):
    os.mkfifo(home / "pipe") if hasattr(os, "mkfifo") else None
    for path in (
        home / ".." / "secret.png",
        home.parent / "secret.png",
        home,
        home / "deep",
        home / "pipe",
        home / "no",
    ):
        with pytest.raises(OSError):
            open_inside(path, home)


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
@pytest.mark.parametrize("who", ["page", "report", "zip"])
def test_what_is_shown_shared_or_packed_is_never_a_file_that_was_put_there_after_the_check(who, tmp_path, monkeypatch):
    """The link comes at the worst moment: after every check, right before the opening."""
    run = RunStore(tmp_path / "runs").create({}, "mine")
    picture = run.samples_path / "a.png"
    picture.parent.mkdir()
    Image.new("RGB", (4, 3), "red").save(picture)
    Image.new("RGB", (5, 3), "blue").save(tmp_path / "secret.png")
    secret = (tmp_path / "secret.png").read_bytes()

    def swapped(path, folder):
        if path.name == "a.png":
            picture.unlink()
            picture.symlink_to(tmp_path / "secret.png")
        return open_inside(path, folder)

    for module in (previews, report_page, archive):
        monkeypatch.setattr(module, "open_inside", swapped)
    if who == "page":
        shown = previews.Previews()
        assert shown.address(picture, run.path) is None
        assert not list(shown.pictures.iterdir())
    elif who == "report":
        assert report_page.Inline(64).address(picture, run.path) is None
    else:
        with pytest.raises(OSError):
            archive.pack(run, tmp_path / "run.zip")
        assert not list(tmp_path.glob("run.zip*"))
    assert picture.is_symlink() and picture.read_bytes() == secret


def test_a_packed_run_is_whole_and_names_its_kinds_of_packing(tmp_path):
    run = RunStore(tmp_path / "runs").create({}, "mine")
    run.samples_path.mkdir()
    (run.samples_path / "a.bin").write_bytes(bytes(range(256)) * 10)
    with zipfile.ZipFile(archive.pack(run, tmp_path / "run.zip")) as packed:
        assert packed.read("mine/samples/a.bin") == bytes(range(256)) * 10
        assert packed.read("mine/config.json") == run.config_path.read_bytes()
        assert packed.getinfo("mine/config.json").compress_type == zipfile.ZIP_DEFLATED
        assert packed.getinfo("mine/samples/a.bin").compress_type == zipfile.ZIP_STORED
