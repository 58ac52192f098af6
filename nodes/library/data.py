"""Pictures and captions."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from ...core import platform_calls
from ...core.config.options import shown
from ...core.demo import resolve
from ...core.runs.run_log import PHASES
from ..execute import fingerprints, pictures
from ..graph import values
from ..graph.declaration import Output, Socket, local, node, of_option
from ..graph.parts import CLASS_OPTIONS, DATASET_OPTIONS, picked, widgets
from ..graph.values import File, Folder, Images, NodeError, holds, settings

PICTURES = ".pictures"
"""In the runs folder: folders that were made of pictures on wires, named by what is in them."""
MORE = ("images_b", "images_c", "images_d")


def _absent_folder(inputs):
    path = inputs["path"]
    if path is None:
        yield "path", "name the folder with your pictures; demo-dreambooth is a set that comes along."
        return
    where = os.path.expanduser(resolve(path))
    if not os.path.isdir(where):
        why = (
            "is a file; name the folder that it lies in"
            if os.path.isfile(where)
            else "there is no such folder; check the path, or make it"
        )
        yield "path", f"path = {shown(path)}: {why}."


@node(
    "ImageFolder", "Image Folder", "Data",
    inputs=(of_option("instance_data_dir", called="path"),),
    outputs=(Output("folder", values.FOLDER, "The folder."),),
    absent=_absent_folder,
    fingerprint=lambda inputs: fingerprints.of_folder(inputs["path"]),
    aliases=("pictures", "directory"),
)  # fmt: skip
def image_folder(context, path):
    """A folder with pictures, and a caption in a .txt file beside each if you like. Changed files are noticed by their content."""
    return (Folder(path),)


@node(
    "DreamBoothDataset", "DreamBooth Dataset", "Data",
    inputs=(Socket("folder", values.FOLDER, "The pictures of the thing to learn."), *widgets(DATASET_OPTIONS)),
    outputs=(Output("dataset", values.DATASET, "What is trained on."),),
    aliases=("captions", "trigger word", "resolution", "buckets"),
)  # fmt: skip
def dreambooth_dataset(context, folder, **given):
    """The pictures as a training set: captions, trigger word, resolution, crops and flips."""
    return (settings({"instance_data_dir": folder.path}).with_(picked(DATASET_OPTIONS, given)),)


@node(
    "ClassImages", "Class Images", "Data",
    inputs=(
        Socket("dataset", values.DATASET, "The training set that gets class pictures."),
        Socket("folder", values.FOLDER, "Where class pictures lie or are generated; without it: a folder in the cache.", True, makes=True),
        of_option("with_prior_preservation", default=True),
        *widgets(CLASS_OPTIONS[1:]),
    ),
    outputs=(Output("dataset", values.DATASET, "The training set with prior preservation."),),
    aliases=("prior preservation", "regularization", "output preservation"),
)  # fmt: skip
def class_images(context, dataset, folder, **given):
    """Prior preservation: pictures of the whole class, so that the model does not forget it. Missing ones are generated.
    Output preservation keeps the model's answers to the class prompt, with or without pictures."""
    where = None if folder is None else folder.path
    return (dataset.with_({"class_data_dir": where}).with_(picked(CLASS_OPTIONS, given)),)


@node(
    "CaptionEdit", "Caption Edit", "Data",
    inputs=(
        Socket("folder", values.FOLDER, "Pictures with caption files."),
        local("find", "str", "", "Text to look for in every caption; empty = nothing is replaced."),
        local("replace", "str", "", "What stands in its place."),
        local("prefix", "str", "", "Put before every caption."),
        local("suffix", "str", "", "Put after every caption."),
    ),
    outputs=(Output("folder", values.FOLDER, "A copy with the edited captions; your own files stay as they are."),),
    lane="files",
    version=2,
)  # fmt: skip
def caption_edit(context, folder, find, replace, prefix, suffix):
    """Edit all captions at once, in a copy of the folder. A picture without a caption file gets one from prefix and suffix alone.
    Crops and masks beside the pictures go along."""
    from ...core.data import captions
    from ...core.data.beside import crop_path, found_mask

    if folder.path is None:
        raise NodeError("No folder is named.", "Name one in the Image Folder node.")
    source = Path(resolve(folder.path)).expanduser()
    if not source.is_dir():
        raise NodeError(f"{folder.path}: there is no such folder.", "Check the path in the Image Folder node.")
    for file in pictures.in_folder(source):
        for each in (file, crop_path(file), found_mask(file)):
            if each.is_file():
                shutil.copyfile(each, context.work / each.name)
        beside = file.with_suffix(".txt")
        try:
            text = captions.decode(beside.read_bytes())[0] if beside.is_file() else ""
        except captions.BadCaption as bad:
            raise NodeError(f"{beside.name}: {bad}.", "Mend the caption file.") from None
        text = captions.clean(prefix + (text.replace(find, replace) if find else text) + suffix)
        if text:
            (context.work / beside.name).write_text(text, encoding="utf-8")
    return (Folder(str(context.work)),)


@node(
    "DatasetPreview", "Dataset Preview", "Data",
    inputs=(
        Socket("dataset", values.DATASET, "The training set."),
        local("most", "int", 24, "Most pictures shown.", unit="pictures", ge=1, le=200),
    ),
    outputs=(Output("picture", values.IMAGE, "The pictures as they will be cropped, with their captions."),),
    lane="files",
    shows=True,
    version=2,
)  # fmt: skip
def dataset_preview(context, dataset, most):
    """What will be trained on: every picture with its caption and the size that it trains in."""
    from PIL import Image

    from ...core.config import config_from_flat
    from ...core.data import scan, transform

    data = config_from_flat(dataset.flat).data
    found = scan(data, lambda what, done, total: context.progress(done, total, PHASES[what]))
    if found.errors:
        raise NodeError(" ".join(f"{each.where}: {each.message}" for each in found.errors[:5]), found.errors[0].remedy)
    chosen = found.items[:most]
    cells = []
    for item in chosen:
        pixels = transform.apply(pictures.opened(item.path), item.crop(item.bucket, center=data.center_crop))
        cells.append((Image.fromarray(pixels), f"{item.caption}\n{item.bucket[0]} x {item.bucket[1]}"))
    path = pictures.saved(pictures.sheet(cells, columns=min(6, len(cells))), context.work / "dataset.png")
    return (Images((values.file_at(path),), (f"{len(chosen)} of {len(found.items)} pictures",)),)


@node(
    "ImagesToFolder", "Images To Folder", "Data",
    inputs=(
        Socket("images", values.IMAGE, "Pictures; in ComfyUI also a list of them, of any sizes."),
        *(Socket(name, values.IMAGE, "Further pictures, of another size if you like.", True) for name in MORE),
        local(
            "captions", "list[str]", (),
            "One line for each picture, in their order; one line alone is for all; empty = those that the pictures bring, else none.",
            split="\n",
        ),
    ),
    outputs=(Output("folder", values.FOLDER, "A folder with these pictures and a caption file beside each."),),
    lane="files",
    takes_lists=True,
    aliases=("dataset", "pictures to dataset", "save dataset"),
)  # fmt: skip
def images_to_folder(context, images, captions, **more):
    """Pictures from other nodes as a training folder. It is named by its content: the same pictures and captions are the same folder, and
    the same training."""
    given = [images, *(more[name] for name in MORE if more[name] is not None)]
    files = [file for each in given for file in each.files]
    own = [caption for each in given for caption in (each.captions or ("",) * len(each.files))]
    texts = list(captions) if captions else own
    texts = texts * len(files) if len(captions) == 1 else texts
    if len(texts) != len(files):
        raise NodeError(
            f"captions: {len(texts)} lines for {len(files)} pictures.",
            "Give one line for each picture in their order, one line for all, or none.",
        )
    return (_folder_of(context.store.root / PICTURES, files, texts),)


def _folder_of(root: Path, files: list[File], texts: list[str]) -> Folder:
    """The folder of these pictures and captions below `root`, written where it is not there whole. Raises NodeError for a full disk."""
    from ...core.data import captions

    cleaned = [captions.clean(text) for text in texts]
    content = json.dumps([[file.digest, text] for file, text in zip(files, cleaned, strict=True)])
    target = root / hashlib.sha256(content.encode()).hexdigest()[:16]
    made = []
    for number, (file, text) in enumerate(zip(files, cleaned, strict=True)):
        name = f"{number:04d}-{file.digest[:12]}"
        made.append(File(str(target / f"{name}{Path(file.path).suffix.lower()}"), file.digest))
        if text:
            made.append(File(str(target / f"{name}.txt"), hashlib.sha256(text.encode()).hexdigest()))
    folder = Folder(str(target), tuple(made))
    if not holds(folder):
        by_digest = {file.digest: file.path for file in files}
        written = {hashlib.sha256(text.encode()).hexdigest(): text for text in cleaned}
        try:
            root.mkdir(parents=True, exist_ok=True)
            with platform_calls.replacing_folder(target) as part:
                part.mkdir(parents=True)
                for file in made:
                    if file.digest in by_digest:
                        shutil.copyfile(by_digest[file.digest], part / Path(file.path).name)
                    else:
                        (part / Path(file.path).name).write_text(written[file.digest], encoding="utf-8", newline="")
        except OSError as error:
            raise NodeError(
                f"{target}: cannot be written ({error.strerror}).",
                "Make room on the disk, or choose another runs folder.",
            ) from None
    return folder


@node(
    "LoadImage", "Load Image", "Pictures",
    inputs=(local("path", "str", "", "A picture file.", names_path=True, rule=lambda path: None if path else "name a picture file."),),
    outputs=(Output("images", values.IMAGE, "The picture."),),
    lane="files",
    fingerprint=lambda inputs: fingerprints.of_file(inputs["path"] or None),
    absent=lambda inputs: () if os.path.isfile(os.path.expanduser(inputs["path"])) else (
        ("path", f"path = {shown(inputs['path'])}: there is no such file; check the path."),
    ),
)  # fmt: skip
def load_image(context, path):
    """A picture from a file, upright, in plain colours and without its metadata."""
    return (
        Images((values.file_at(pictures.saved(pictures.opened(Path(path).expanduser()), context.work / "image.png")),)),
    )


@node(
    "SaveImage", "Save Image", "Pictures",
    inputs=(
        Socket("images", values.IMAGE, "What is saved."),
        local("name", "str", "picture", "Beginning of the file's name: letters, digits, dots, hyphens, underscores.", rule=pictures.name_fault),
    ),
    lane="files",
    shows=True,
    effect=True,
)  # fmt: skip
def save_image(context, images, name):
    """Write pictures into the output folder. The workflow travels inside: drop such a PNG on the editor to have it back."""
    for file in images.files:
        image = pictures.opened(Path(file.path))
        context.show(pictures.saved(image, context.out / f"{name}-{file.digest[:8]}.png", context.provenance))
    return ()
