"""Pictures and captions as the page handles them: what is written where, what is refused, and that nothing typed is lost. No browser here."""

import base64
import io
import json
import os
import stat

import pytest
from PIL import Image
from rollout_studio.app.parts.folders import listing
from rollout_studio.app.parts.forms import Form
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.train.pictures import captions
from rollout_studio.app.train.pictures.captions import (
    Draft,
    DroppedSets,
    Edits,
    Refused,
    read_edits,
    safe_stem,
    save_captions,
)
from rollout_studio.app.train.pictures.checks import KINDS, checks_card
from rollout_studio.app.train.pictures.many import ManyEdit, read_edit
from rollout_studio.app.train.pictures.panel import PicturesPanel
from rollout_studio.app.train.pictures.set_view import PER_PAGE
from rollout_studio.app.train.pictures.tool import Marks, read_marks, save_marks
from rollout_studio.core.config import load_preset, with_changes
from rollout_studio.core.data import scan
from rollout_studio.core.data.beside import Cut
from rollout_studio.core.demo import DREAMBOOTH
from rollout_studio.core.findings import Finding

HOSTILE = "<script>alert(1)</script>${alert(2)}{{value}}\"'`"


def picture(path, colour=(200, 30, 30), size=(96, 80)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three pictures of a person's own, two with captions."""
    own = tmp_path / "my pictures"
    for number, name in enumerate(("cup.png", "große Tasse.png", "Zug 日本.jpg")):
        picture(own / name, (60 * number, 90, 200))
    (own / "cup.txt").write_text("a cup", encoding="utf-8")
    (own / "große Tasse.txt").write_text("eine große Tasse", encoding="utf-8")
    return own


@pytest.fixture
def panel(tmp_path):
    """The panel over an empty runs folder."""
    import gradio as gr

    config = load_preset("demo")
    with gr.Blocks():
        return PicturesPanel(Form(config), config, Watch(tmp_path / "runs"), gr.Radio(["demo"], value="demo"))


def data(folder, **changes):
    return with_changes(
        load_preset("demo"), {"instance_data_dir": str(folder), "with_prior_preservation": False, **changes}
    ).data


def drafts(**texts):
    return {f"{name}.png": Draft(text, was) for name, (text, was) in texts.items()}


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- saving captions ----------------------------------------------------------------------------------------------------------


def test_a_caption_is_written_beside_its_picture_whatever_its_letters(folder):
    typed = {"cup.png": Draft("a zwx cup – on a table", "a cup"), "Zug 日本.jpg": Draft("電車 “fast” 🚆", "")}
    written = save_captions(folder, typed, "empty file")
    assert (
        written.saved == {"cup.png": "a zwx cup – on a table", "Zug 日本.jpg": "電車 “fast” 🚆"} and not written.failed
    )
    assert (folder / "Zug 日本.txt").read_text(encoding="utf-8") == "電車 “fast” 🚆\n"
    assert (folder / "große Tasse.txt").read_text(encoding="utf-8") == "eine große Tasse", (
        "untouched captions stay as they are"
    )


def test_hostile_captions_are_text_on_one_line(folder):
    written = save_captions(folder, {"cup.png": Draft(f"{HOSTILE}\r\n\0 second\tline\u2028", "a cup")}, "empty file")
    assert (
        written.saved["cup.png"] == f"{HOSTILE} second line" == (folder / "cup.txt").read_text(encoding="utf-8").strip()
    )


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png",
        "/etc/passwd.png",
        "sub/cup.png",
        "..\\outside.png",
        ".hidden.png",
        "absent.png",
        "cup.txt",
        "cup",
        "",
        "..",
        "a\0b.png",
    ],
)
def test_a_caption_is_written_beside_a_picture_of_the_folder_and_nowhere_else(folder, name):
    picture(folder.parent / "outside.png")
    picture(folder / "sub" / "cup.png")
    picture(folder / ".hidden.png")
    before = tree(folder.parent)
    assert name in save_captions(folder, {name: Draft("mine", "")}, "no file").failed
    assert tree(folder.parent) == before


def test_a_caption_that_changed_on_disk_meanwhile_is_not_overwritten_unseen(folder):
    (folder / "cup.txt").write_text("from an editor")
    written = save_captions(folder, drafts(cup=("mine", "a cup")), "empty file")
    assert 'changed meanwhile, it says "from an editor"' in written.failed["cup.png"] and written.changed == {
        "cup.png": "from an editor"
    }
    assert (folder / "cup.txt").read_text() == "from an editor"
    again = save_captions(folder, drafts(cup=("mine", written.changed["cup.png"])), "empty file")
    assert again.saved == {"cup.png": "mine"}, "seen and saved again, it is replaced"


def test_a_write_protected_caption_is_left_alone_and_the_others_are_saved(folder):
    os.chmod(folder / "cup.txt", stat.S_IREAD)
    written = save_captions(
        folder, {"cup.png": Draft("mine", "a cup"), "große Tasse.png": Draft("meine", "eine große Tasse")}, "empty file"
    )
    os.chmod(folder / "cup.txt", stat.S_IREAD | stat.S_IWRITE)
    assert "cup.txt is write-protected" in written.failed["cup.png"] and written.saved == {"große Tasse.png": "meine"}
    assert (folder / "cup.txt").read_text() == "a cup"


def test_a_folder_that_vanished_fails_every_caption_with_the_reason(tmp_path):
    written = save_captions(tmp_path / "gone", drafts(a=("x", ""), b=("y", "")), "no file")
    assert set(written.failed) == {"a.png", "b.png"} and "cannot be read" in written.failed["a.png"]


def test_a_full_disk_leaves_the_old_caption_whole(folder, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(captions.platform_calls, "write_atomically", full)
    assert "No space left" in save_captions(folder, drafts(cup=("mine", "a cup")), "no file").failed["cup.png"]
    assert (folder / "cup.txt").read_text() == "a cup" and not list(folder.glob(".*"))


def test_captions_that_are_too_long_or_no_text_are_refused(folder):
    assert "KiB" in save_captions(folder, drafts(cup=("x" * 70_000, "a cup")), "no file").failed["cup.png"]
    assert (
        "no text file can hold" in save_captions(folder, drafts(cup=("\ud800", "a cup")), "no file").failed["cup.png"]
    )
    (folder / "cup.txt").write_bytes(b"\0\1")
    assert "Mend or remove it yourself" in save_captions(folder, drafts(cup=("mine", "")), "no file").failed["cup.png"]
    assert (folder / "cup.txt").read_bytes() == b"\0\1"


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="links need rights on Windows")
def test_a_caption_that_is_a_link_is_not_replaced(folder, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("elsewhere")
    (folder / "cup.txt").unlink()
    (folder / "cup.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert "is a link" in save_captions(folder, drafts(cup=("mine", "elsewhere")), "no file").failed["cup.png"]
    assert (tmp_path / "elsewhere.txt").read_text() == "elsewhere"


def test_two_pictures_with_one_caption_file_cannot_get_two_captions(folder):
    picture(folder / "cup.jpg")
    written = save_captions(folder, {"cup.png": Draft("one", "a cup"), "cup.jpg": Draft("two", "a cup")}, "no file")
    assert not written.saved and all("caption of several pictures" in reason for reason in written.failed.values())


def test_an_emptied_caption_removes_only_a_file_of_ours(folder):
    save_captions(folder, drafts(cup=("", "a cup")), "empty file")
    assert (folder / "cup.txt").read_bytes() == b""
    save_captions(folder, {"große Tasse.png": Draft("  ", "eine große Tasse")}, "no file")
    assert not (folder / "große Tasse.txt").exists()


def test_the_caption_file_that_a_scan_reads_is_the_one_that_is_written(folder):
    (folder / "cup.txt").rename(folder / "CUP.TXT")
    save_captions(folder, drafts(cup=("mine", "a cup")), "no file")
    assert sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".txt") == [
        "CUP.TXT",
        "große Tasse.txt",
    ]


@pytest.mark.parametrize(
    "raw",
    ["{", "[]", "{}", '{"folder": 1, "page": 0, "drafts": {}}', '{"folder": "", "page": -1, "drafts": {}}', '{"folder": "", "page": true, "drafts": {}}',
     '{"folder": "", "page": 0, "drafts": []}', '{"folder": "", "page": 0, "drafts": {"a.png": "x"}}',
     '{"folder": "", "page": 0, "drafts": {"a.png": {"text": 1, "was": ""}}}', '{"folder": "", "page": 0, "drafts": {"a.png": {"text": "x"}}}'],
)  # fmt: skip
def test_what_the_page_would_never_send_is_refused(raw):
    with pytest.raises(Refused, match="Reload the page"):
        read_edits(raw)


# -- dropped pictures -----------------------------------------------------------------------------------------------------------


def test_dropped_pictures_become_a_set_of_their_own_with_their_captions(folder, tmp_path):
    sets, before = DroppedSets(tmp_path / "sets"), tree(folder)
    added = sets.add([*folder.iterdir(), folder.parent / "notes.pdf"])
    assert (added.pictures, added.captions, added.refused) == (3, 2, ["notes.pdf (no picture)"])
    assert tree(added.folder) == before == tree(folder)
    assert sets.kind(added.folder) == "dropped" and sets.kind(folder) == "own" and sets.kind(DREAMBOOTH) == "built-in"


def test_more_pictures_are_added_and_nothing_is_overwritten(folder, tmp_path):
    sets = DroppedSets(tmp_path / "sets")
    first = sets.add([folder / "cup.png", folder / "cup.txt"]).folder
    other = picture(tmp_path / "other" / "cup.png", (1, 2, 3))
    other.with_suffix(".txt").write_text("another cup")
    added = sets.add([other, other.with_suffix(".txt"), folder / "große Tasse.png"], first)
    assert added.folder == first and added.pictures == 2
    assert sorted(tree(first)) == ["cup-2.png", "cup-2.txt", "cup.png", "cup.txt", "große Tasse.png"]
    assert (first / "cup.txt").read_text() == "a cup" and (first / "cup-2.txt").read_text() == "another cup"
    again = sets.add([folder / "cup.png"], first)
    assert again.twice == ["cup.png"] and again.pictures == 0


def test_a_caption_dropped_later_finds_its_picture_and_one_without_is_named(folder, tmp_path):
    sets = DroppedSets(tmp_path / "sets")
    first = sets.add([folder / "cup.png"]).folder
    (tmp_path / "notes.txt").write_text("x")
    added = sets.add([folder / "cup.txt", tmp_path / "notes.txt"], first)
    assert (first / "cup.txt").read_text() == "a cup" and added.refused == ["notes.txt (a caption without its picture)"]
    assert sets.add([tmp_path / "notes.txt"]).folder is None and len(list(sets.root.iterdir())) == 1


@pytest.mark.parametrize(
    ("stem", "kept"),
    [("große Tasse", "große Tasse"), ("con", "_con"), ("aux.1", "_aux.1"), (" .. ", "picture"), ('a<b>:"c', "a b c"), ("x" * 200, "x" * 80),
     ("日本", "日本"), ("a\nb", "a b"), ("bad\udcff", "bad")],
)  # fmt: skip
def test_names_of_dropped_files_are_kept_where_every_system_takes_them(stem, kept):
    assert safe_stem(stem) == kept


def test_a_removed_picture_can_be_brought_back_and_a_persons_own_is_never_removed(folder, tmp_path):
    sets = DroppedSets(tmp_path / "sets")
    mine, before = sets.add(folder.iterdir()).folder, tree(folder)
    sets.remove(mine, "cup.png")
    assert not (mine / "cup.png").exists() and not (mine / "cup.txt").exists() and sets.removed(mine) == 1
    assert sets.bring_back(mine) == "cup.png" and sets.removed(mine) == 0
    assert (mine / "cup.txt").read_text() == "a cup"
    for place, name in (
        (folder, "cup.png"),
        (DREAMBOOTH, "thing-1.png"),
        (mine, "../../my pictures/cup.png"),
        (mine, "absent.png"),
    ):
        with pytest.raises(Refused):
            sets.remove(place, name)
    assert tree(folder) == before and (DREAMBOOTH / "thing-1.png").exists()


# -- the panel -------------------------------------------------------------------------------------------------------------------


def test_the_trigger_word_is_proposed_once_for_every_caption_that_lacks_it(panel, folder):
    mine = data(folder, trigger_word="qrx", instance_prompt="a thing")
    edits = Edits(str(folder), drafts={"große Tasse.png": Draft("die QRX, groß", "eine große Tasse")})
    put_in = ManyEdit("trigger")
    proposed = panel.set_editor.many(mine, edits, put_in).texts
    assert proposed == {
        "cup.png": {"text": "qrx, a cup", "was": "a cup", "before": "a cup"},
        "Zug 日本.jpg": {"text": "qrx, a thing", "was": "", "before": ""},
    }
    assert tree(folder)["cup.txt"] == b"a cup", "nothing is written before Save"
    typed = {**edits.drafts, **{name: Draft(each["text"], each["was"]) for name, each in proposed.items()}}
    assert panel.set_editor.many(mine, Edits(str(folder), drafts=typed), put_in).texts == {}
    panel.set_editor.save(mine, Edits(str(folder), drafts=typed))
    assert (folder / "Zug 日本.txt").read_text(encoding="utf-8") == "qrx, a thing\n"
    assert panel.set_editor.many(mine, Edits(str(folder)), put_in).texts == {}


def test_tags_and_texts_of_many_captions_are_edited_and_what_stood_there_comes_along_for_undo(panel, folder):
    mine = data(folder, instance_prompt="a thing")
    edits = Edits(str(folder), drafts={"cup.png": Draft("a cup, red", "a cup")})

    def edited(**sent):
        texts = panel.set_editor.many(mine, edits, read_edit(sent)).texts
        return {name: each["text"] for name, each in texts.items()}

    assert edited(act="end", text="photo, RED") == {
        "cup.png": "a cup, red, photo", "große Tasse.png": "eine große Tasse, photo, RED", "Zug 日本.jpg": "a thing, photo, RED",
    }  # fmt: skip
    assert edited(act="front", text="tall", names=["cup.png", "gone.png"]) == {"cup.png": "tall, a cup, red"}
    assert edited(act="remove", text="Red") == {"cup.png": "a cup"}
    assert edited(act="replace", text="TASSE", replacement="cup") == {"große Tasse.png": "eine große cup"}
    assert edited(act="replace", text="TASSE", replacement="cup", exact=True) == {}
    proposal = panel.set_editor.many(mine, edits, read_edit({"act": "remove", "text": "red"}))
    assert proposal.texts["cup.png"] == {"text": "a cup", "was": "a cup", "before": "a cup, red"}
    assert (proposal.message, proposal.label) == (
        '"red" removed from 1 caption. Check them, then save.',
        '"red" removed',
    )
    for wrong in (
        {"act": "end", "text": " , "},
        {"act": "replace", "text": ""},
        {"act": "drop"},
        {"act": "end", "text": "x", "names": []},
    ):
        with pytest.raises(Refused):
            edited(**wrong)
    shown = panel.reader.read(mine, edits).shown
    assert shown["tags"] == [("a cup", 1), ("a thing", 1), ("eine große Tasse", 1), ("red", 1)]


def grey(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def sent_marks(folder, name, cut, mask):
    return read_marks(json.dumps({"folder": str(folder), "name": name, "cut": cut, "mask": mask}))


def test_a_crop_and_a_mask_are_saved_beside_the_picture_and_nothing_of_a_persons_own_is_lost(panel, folder):
    mine, before = data(folder, instance_prompt="a thing"), tree(folder)
    half = Image.new("L", (48, 40), 255)
    half.paste(0, (0, 0, 24, 40))
    box = {"left": 10, "top": 0, "right": 90, "bottom": 80}
    panel.set_editor.mark(mine, sent_marks(folder, "cup.png", box, {"png": grey(half)}))
    with Image.open(folder / "cup-mask.png") as mask:
        assert (mask.size, mask.mode, mask.getpixel((10, 40)), mask.getpixel((80, 40))) == ((96, 80), "L", 0, 255)
    items = {item.name: item for item in scan(mine).items}
    assert len(items) == 3 and (items["cup.png"].width, items["cup.png"].height) == (80, 80)
    panel.set_editor.mark(mine, sent_marks(folder, "cup.png", None, {"png": ""}))
    kept = list((folder / ".replaced").iterdir())
    assert len(kept) == 1 and not (folder / "cup-mask.png").exists() and not (folder / "cup-crop.json").exists()
    assert {name: content for name, content in tree(folder).items() if not name.startswith(".")} == before
    for cut, mask in ((None, {"png": grey(Image.new("L", (48, 40)))}), (box, {"png": grey(half.rotate(180).crop((24, 0, 48, 40)))}),
                      ({**box, "right": 97}, None), ({**box, "right": 12}, None)):  # fmt: skip
        with pytest.raises(Refused):
            panel.set_editor.mark(mine, sent_marks(folder, "cup.png", cut, mask))
    for name, place in (
        ("../cup.png", folder),
        ("cup.txt", folder),
        ("absent.png", folder),
        ("cup-mask.png", folder),
        ("cup.png", folder.parent),
    ):
        with pytest.raises(Refused):
            panel.set_editor.mark(mine, sent_marks(place, name, None, None))
    with pytest.raises(Refused, match="built in"):
        panel.set_editor.mark(data(DREAMBOOTH), sent_marks(DREAMBOOTH, "thing-1.png", None, None))
    assert {name: content for name, content in tree(folder).items() if not name.startswith(".")} == before


@pytest.mark.parametrize("mask", ["data:image/png;base64,QUJD", "QUJD", "data:image/png;base64,!", 7, None])
def test_a_mask_that_no_browser_of_ours_sends_is_refused(mask):
    with pytest.raises(Refused, match="Reload the page"):
        read_marks(json.dumps({"folder": "f", "name": "n.png", "cut": None, "mask": {"png": mask}}))
    with pytest.raises(Refused, match="Reload the page"):
        read_marks(
            json.dumps({"folder": "f", "name": "n.png", "cut": None, "mask": {"png": grey(Image.new("L", (1025, 4)))}})
        )


def test_crop_and_mask_go_with_their_picture_when_it_is_removed_brought_back_or_dropped_again(panel, tmp_path, folder):
    half = Image.new("L", (96, 80), 255)
    half.save(folder / "cup-mask.png")
    sets = panel.sets
    mine = sets.add(sorted(folder.iterdir())).folder
    assert {path.name for path in mine.iterdir()} == {
        "cup.png",
        "cup.txt",
        "cup-mask.png",
        "große Tasse.png",
        "große Tasse.txt",
        "Zug 日本.jpg",
    }
    save_marks(mine, Marks(str(mine), "cup.png", Cut(0, 0, 40, 40), None))
    before = tree(mine)
    sets.remove(mine, "cup.png")
    assert not [path for path in mine.iterdir() if path.name.startswith("cup")]
    assert (
        sets.bring_back(mine) == "cup.png"
        and {name: each for name, each in tree(mine).items() if "/" not in name} == before
    )
    half.paste(0, (0, 0, 9, 9))
    half.save(tmp_path / "cup-mask.png")
    added = sets.add([tmp_path / "cup-mask.png"], mine)
    assert (added.masks, added.pictures) == (1, 0) and len(list((mine / ".replaced").iterdir())) == 1


def test_onetrainers_mask_is_taken_from_dropped_files_and_goes_when_the_mask_is_taken_away(panel, tmp_path, folder):
    Image.new("L", (96, 80), 255).save(folder / "cup-masklabel.png")
    picture(folder / "cup-condlabel.png")
    added = panel.sets.add(sorted(folder.iterdir()))
    assert (added.masks, added.pictures, added.refused) == (1, 3, ["cup-condlabel.png (a condition)"])
    save_marks(folder, Marks(str(folder), "cup.png", None, "none"))
    assert not (folder / "cup-masklabel.png").exists() and len(list((folder / ".replaced").iterdir())) == 1


def test_two_hundred_pictures_come_in_pages_and_their_captions_all_count(panel, tmp_path):
    for number in range(200):
        picture(tmp_path / "many" / f"{number:03d}.png", (number, 90, 200), (64, 64))
    mine, name = data(tmp_path / "many", trigger_word="qrx", instance_prompt="a cup"), str(tmp_path / "many")
    first = panel.reader.read(mine, Edits(name)).shown
    assert (first["total"], first["pages"], len(first["items"])) == (200, 9, PER_PAGE)
    last = panel.reader.read(mine, Edits(name, page=8)).shown
    assert last["items"][0]["name"] == "192.png" and len(last["items"]) == 8
    assert panel.reader.read(mine, Edits(name, page=99)).shown["page"] == 8
    assert panel.reader.read(mine, Edits("another folder", page=3)).shown["page"] == 0
    assert len(panel.set_editor.many(mine, Edits(name), ManyEdit("trigger")).texts) == 200


def test_the_look_can_be_sent_to_a_browser_whatever_the_files_are_called(panel, folder):
    if os.name == "posix":
        picture(folder / "plain.png").rename(folder / os.fsdecode(b"no\xfftext.png"))
    picture(folder / "${alert(1)}{{x}}.png").with_suffix(".txt").write_text(HOSTILE)
    look = panel.reader.read(data(folder))
    json.dumps(look.shown).encode()
    look.checks.encode()
    assert not set("<{$`") & set(
        "".join(part.split(">", 1)[-1] for part in look.checks.split("<")[1:]).replace("&#", "")
    )
    odd = [item for item in look.shown["items"] if "\\udcff" in item["name"]]
    assert all(not item["editable"] for item in odd)


def test_what_may_be_done_follows_from_the_owner_of_the_pictures(panel, folder):
    built_in, own = panel.reader.read(data("demo-dreambooth")).shown, panel.reader.read(data(folder)).shown
    assert "built in: they cannot be edited. Drop your own" in built_in["head"]
    assert not built_in["editable"] and not any(item["editable"] for item in built_in["items"])
    assert own["editable"] and not own["removable"] and "until you press Save" in own["hint"]
    dropped = panel.reader.read(
        data(panel.set_editor.add(data("demo-dreambooth"), list(folder.iterdir())).folder)
    ).shown
    assert dropped["editable"] and dropped["removable"]
    names = panel.reader.read(data(folder, caption_strategy="filename")).shown
    assert (
        not names["editable"] and names["items"][1]["caption"] == "große Tasse" and "caption strategy" in names["head"]
    )


def test_refusals_reach_no_file(panel, folder):
    typed = {"cup.png": Draft("mine", "a cup")}
    for mine, edits in (
        (data("demo-dreambooth"), Edits(str(DREAMBOOTH), drafts={"thing-1.png": Draft("mine", "")})),
        (data(folder, caption_strategy="filename"), Edits(str(folder), drafts=typed)),
        (data(folder), Edits("/another", drafts=typed)),
    ):
        with pytest.raises(Refused):
            panel.set_editor.save(mine, edits)
    with pytest.raises(Refused, match="its own folder"):
        panel.set_editor.remove(data(folder), "cup.png")
    assert tree(folder)["cup.txt"] == b"a cup"


def test_each_check_stands_at_its_picture_and_once_in_the_list(panel, folder):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    (folder / "phone.heic").write_bytes(b"x")
    for kind in (".png", ".txt"):
        (folder / f"twin{kind}").write_bytes((folder / f"cup{kind}").read_bytes())
    look = panel.reader.read(data(folder, resolution=256, trigger_word="qrx", instance_prompt=None))
    marks = {item["name"]: [mark["short"] for mark in item["marks"]] for item in look.shown["items"]}
    assert marks["broken.png"] == marks["phone.heic"] == ["unreadable"]
    assert set(marks["cup.png"]) == {"twice", "too small", 'no "qrx"'}
    assert marks["Zug 日本.jpg"] == ["no caption", "too small"] and "twice" in marks["twin.png"]
    assert (
        look.checks.count("<li") == len({"bad png", "bad heic", "missing", "small", "twice", "trigger"})
        and "4 × Too small" in look.checks
    )
    at = [item["name"] for item in look.shown["items"]].index("Zug 日本.jpg")
    assert f'data-picture-at="{at}" translate="no">Zug 日本.jpg</button>' in look.checks, "a name leads to its picture"
    assert "“Caption for pictures without one”" in look.checks and "instance_prompt" not in look.checks
    assert "6 pictures (2 left out" in look.shown["head"]
    typed = Edits(str(folder), drafts={"Zug 日本.jpg": Draft("a qrx train", "")})
    (held,) = [
        item
        for item in panel.reader.read(data(folder, instance_prompt=None, trigger_word="qrx"), typed).shown["items"]
        if item["name"] == "Zug 日本.jpg"
    ]
    assert held["marks"] == [], "the marks follow what is typed"


def test_a_sound_set_says_so_and_no_folder_says_what_to_do(panel, folder):
    (folder / "Zug 日本.txt").write_text("ein Zug", encoding="utf-8")
    sound = panel.reader.read(data(folder, trigger_word=None, aspect_buckets=False))
    assert "All 3 pictures can be read" in sound.checks and not any(item["marks"] for item in sound.shown["items"])
    assert "Drop some above" in panel.reader.read(data(folder, instance_data_dir=None)).shown["head"]
    gone = panel.reader.read(data(folder / "gone"))
    assert "does not exist" in gone.checks and gone.shown["total"] == 0


def test_every_kind_of_finding_has_a_title():
    for code, (title, _) in KINDS.items():
        assert title in checks_card([Finding("warning", "/x/a.png", "message", "remedy", code)], 1, "")


def test_a_set_that_a_run_was_made_with_stays_as_it_was(panel, folder):
    old = panel.set_editor.add(data("demo-dreambooth"), list(folder.iterdir())).folder
    panel.set_editor.store.create({"instance_data_dir": str(old)}, "first")
    before = tree(old)
    saved = panel.set_editor.save(data(old), Edits(str(old), drafts={"cup.png": Draft("mine", "a cup")}))
    assert saved.copied and saved.folder != old and (saved.folder / "cup.txt").read_text() == "mine\n"
    removed = panel.set_editor.remove(data(old), "cup.png")
    assert removed.copied and not (removed.folder / "cup.png").exists()
    added = panel.set_editor.add(data(old), [picture(folder / "more.png", (9, 9, 9))])
    assert added.copied and (added.folder / "more.png").exists() and (added.folder / "cup.png").exists()
    assert tree(old) == before and "first" in saved.infos[0]
    again = panel.set_editor.save(
        data(saved.folder), Edits(str(saved.folder), drafts={"cup.png": Draft("again", "mine")})
    )
    assert not again.copied, "a set of no run is changed in place"


def test_pictures_dropped_beside_a_persons_own_folder_are_a_set_of_their_own(panel, folder, tmp_path):
    before = tree(folder)
    answer = panel.set_editor.add(data(folder), [picture(tmp_path / "new.png")])
    assert panel.sets.kind(answer.folder) == "dropped" and sorted(tree(answer.folder)) == ["new.png"]
    assert tree(folder) == before and "your folder" in answer.infos[0]


def test_class_pictures_are_shown_with_what_they_are_for(panel, tmp_path, folder):
    assert panel.reader.read(load_preset("demo").data).classes.count("<figure") == PER_PAGE
    assert "Off: only your pictures" in panel.reader.read(data(folder)).classes
    drawn = panel.reader.read(
        data(folder, with_prior_preservation=True, class_prompt=HOSTILE, class_data_dir=None, num_class_images=7)
    ).classes
    assert "7 class pictures of" in drawn and "untrained model" in drawn and "<script" not in drawn
    picture(tmp_path / "class" / "dog.png")
    some = panel.reader.read(
        data(
            folder,
            with_prior_preservation=True,
            class_prompt="a dog",
            class_data_dir=str(tmp_path / "class"),
            num_class_images=3,
        )
    )
    assert "1 class picture from" in some.classes and "2 more of" in some.classes and "class picture" not in some.checks
    same = panel.reader.read(
        data(folder, with_prior_preservation=True, class_prompt="a dog", class_data_dir=str(folder))
    )
    assert "folder of their own" in same.classes


# -- the browser of folders --------------------------------------------------------------------------------------------------------


def test_folders_are_listed_by_name_with_what_they_hold(folder, tmp_path):
    for name in ("Beta", "alpha", ".hidden"):
        (tmp_path / name).mkdir()
    shown = listing(tmp_path, "pictures")
    assert [each["name"] for each in shown["folders"]] == ["alpha", "Beta", "my pictures"]
    assert [each["mark"] for each in shown["folders"]] == ["", "", "3 pictures"] and shown["parent"] == str(
        tmp_path.parent
    )
    assert listing(folder, "pictures")["fits"] and not shown["fits"]


def test_models_are_marked_and_a_single_file_is_offered_in_its_folder(tmp_path):
    for name, file in (("diffusers", "model_index.json"), ("single", "v1.safetensors"), ("other", "x.txt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    shown = {each["name"]: each for each in listing(tmp_path, "model")["folders"]}
    assert shown["diffusers"]["fits"] and shown["diffusers"]["mark"] == "model"
    assert not shown["single"]["fits"] and "v1.safetensors" in shown["single"]["mark"] and shown["other"]["mark"] == ""
    (file,) = listing(tmp_path / "single", "model")["folders"]
    assert (file["name"], file["fits"], file["file"]) == ("v1.safetensors", True, True)
    assert listing(tmp_path / "single", "pictures")["folders"] == []


def test_a_folder_that_cannot_be_read_is_reported_and_the_way_up_stays_open(tmp_path):
    shown = listing(tmp_path / "gone", "pictures")
    assert "cannot be read" in shown["note"] and shown["parent"] == str(tmp_path) and shown["folders"] == []


def test_very_many_folders_are_cut_and_names_that_are_no_text_left_out(tmp_path):
    for number in range(405):
        (tmp_path / f"{number:03d}").mkdir()
    if os.name == "posix":
        os.mkdir(os.fsencode(tmp_path) + b"/no\xfftext")
    shown = listing(tmp_path, "model")
    assert len(shown["folders"]) == 400 and "5 more folders" in shown["note"]
    json.dumps(shown).encode()
