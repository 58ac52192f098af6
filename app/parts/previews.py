"""Pictures that the page may show: copies in one private folder, the only one that the server hands out files from.

The folders of runs and of people's pictures are never opened to the browser; what is shown is copied here first, under a name made from
its content's place and time, so that a changed file gets a new address and a cached one stays valid.
"""

import atexit
import hashlib
import io
import json
import mimetypes
import os
import shutil
import stat
import tempfile
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from ...core import platform_calls
from ...core.data.beside import BadCrop, crop_path, read_cut
from ...core.data.pictures import BadPicture, decode, read_bytes
from ...core.inside import open_inside

_SHOWN_AS_IS = {".png", ".jpg", ".jpeg", ".webp"}
_NOT_PUBLISHED = {
    "node_modules",
    "package.json",
    "package-lock.json",
    "build.mjs",
    "vendor.js",
    "README.md",
}  # of a front end: what builds it


_PREFIX = "rollout-studio-"
_OWNER = ".owner.json"
"""In the private folder: which process it belongs to, so that a later start can remove what a killed one left."""


def remove_left_folders(place: Path) -> None:
    """Remove the private folders of pages that were killed: this account's own, whose process is gone. Others are left alone."""
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            about = folder.lstat()
            mine = not hasattr(os, "geteuid") or about.st_uid == os.geteuid()
            if not (mine and stat.S_ISDIR(about.st_mode)):
                continue
            owner = json.loads((folder / _OWNER).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue  # of an older version, or being made at this moment
        if isinstance(owner, dict) and not platform_calls.is_alive(owner):
            shutil.rmtree(folder, ignore_errors=True)


class Previews:
    """The private folder; removed when the process ends, and where that was killed, at the next start of a page."""

    def __init__(self) -> None:
        remove_left_folders(Path(tempfile.gettempdir()))
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        platform_calls.write_atomically(self.folder / _OWNER, json.dumps(platform_calls.identity()).encode())
        self.uploads = self.folder / "uploads"
        self.pictures = self.folder / "pictures"
        self.pictures.mkdir()
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)

    def address(self, path: Path, inside: Path) -> str | None:
        """A relative address of the picture `path` for an `<img>`; None when it is no picture file inside the folder `inside`.

        The path may come from a run's events, which a stranger may have written: it must not lead outside.
        """
        try:
            real = path.resolve(strict=True)
            about = real.stat()
        except OSError:
            return None  # removed meanwhile: the page then says that the picture is gone
        if real.suffix.lower() not in _SHOWN_AS_IS or not real.is_relative_to(inside.resolve()) or not real.is_file():
            return None
        copy = self._named(real, about.st_mtime_ns, about.st_size, real.suffix.lower())
        if not copy.exists():
            try:
                with open_inside(real, inside) as file:  # which may have become a link since
                    content = file.read()
            except OSError:
                return None
            platform_calls.write_atomically(copy, content)
        return self._url(copy)

    def thumbnail(self, path: Path, side: int = 192, *, lossless: bool = False, cropped: bool = False) -> str | None:
        """The address of a copy of a person's picture of at most `side` pixels a side, without its metadata; None when it cannot be read as
        one. `lossless`: every value of the smaller copy is exact. `cropped`: only the part of it that is kept (`core.data.beside`)."""
        try:
            about = path.stat()
            kept = _noted(path) if cropped else ""
            name = f"{kept}-{side}{'-exact' if lossless else ''}.webp"
            copy = self._named(path.absolute(), about.st_mtime_ns, about.st_size, name)
            if not copy.exists():
                picture = decode(read_bytes(path))
                cut = read_cut(path, *picture.size) if kept else None
                if cut is not None:
                    picture = picture.crop((cut.left, cut.top, cut.right, cut.bottom))
                if max(picture.size) > side:
                    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
                data = io.BytesIO()
                picture.save(data, "WEBP", quality=88, lossless=lossless)
                platform_calls.write_atomically(copy, data.getvalue())
        except (OSError, BadPicture):
            return None  # the check beside the pictures says what is wrong with it
        except BadCrop:
            return self.thumbnail(path, side, lossless=lossless)  # whoever measures it is told; here it is shown whole
        return self._url(copy)

    def publish(self, source: Path, name: str) -> str:
        """Hand out a folder of this program's own scripts and style sheets; the relative address of its copy."""
        # Windows may know another type, and browsers refuse a module that has one
        mimetypes.add_type("text/javascript", ".js")
        copy = self.folder / name
        shutil.copytree(
            source, copy, ignore=lambda _, names: [each for each in names if each in _NOT_PUBLISHED], dirs_exist_ok=True
        )
        return self._url(copy)

    def own(self, path: Path) -> str:
        """The address of a file that already lies in the private folder. Raises ValueError for one that does not."""
        if not path.resolve().is_relative_to(self.folder):
            raise ValueError(f"{path} is not in the folder that the page may show")
        return self._url(path)

    def file(self, name: str, content: bytes) -> str:
        """The address of a file to download that is made here and now; the same content again is the same file."""
        copy = self.folder / "files" / hashlib.sha256(content).hexdigest()[:32] / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            platform_calls.write_atomically(copy, content)
        return self._url(copy)

    def named(self, source: Path, name: str, folder: Path | None = None) -> str:
        """The address of a file to download under another name: the server sends a browser the name that the file has on disk.

        Args:
            source: the file; linked where that is possible, else copied.
            folder: of the private folder, to put it into (it goes when that goes); None = one for this content.
        """
        if folder is None:
            about = source.stat()
            folder = (
                self.folder
                / "files"
                / hashlib.sha256(
                    f"{source}\0{about.st_mtime_ns}\0{about.st_size}".encode(errors="surrogatepass")
                ).hexdigest()[:32]
            )
        target = folder / name
        address = self.own(target)
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(source)
            except OSError:  # another volume, or a file system without links
                shutil.copyfile(source, target)
        return address

    def _named(self, path: Path, changed: int, size: int, ending: str) -> Path:
        return self.pictures / (
            hashlib.sha256(f"{path}\0{changed}\0{size}".encode(errors="surrogatepass")).hexdigest()[:32] + ending
        )

    @staticmethod
    def _url(path: Path) -> str:
        return "gradio_api/file=" + quote(path.as_posix())


def _noted(picture: Path) -> str:
    """Of a picture's crop: when it was noted, as a part of a name; "" where there is none."""
    try:
        return f"-{crop_path(picture).stat().st_mtime_ns}"
    except FileNotFoundError:
        return ""
