"""The node editor in a real browser: a graph built by hand, run, left and found again; files in and out; the parts without a screen."""

import base64
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")
from PIL import Image
from playwright.sync_api import expect
from rollout_studio.app.graph import runs as graph_runs
from rollout_studio.app.graph.tab import WORKFLOWS
from rollout_studio.nodes.execute import pictures
from rollout_studio.nodes.execute.execute import provenance_of
from rollout_studio.nodes.graph.graph import Graph, Node, to_data
from rollout_studio.nodes.reading import read

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def served(tmp_path_factory, new_port):
    """One page for all tests of this file, whose graphs can be held; overrides the one of conftest."""
    from rollout_studio.app.page import launch
    from rollout_studio.app.parts.watch import Watch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_runs, "COMMAND", (sys.executable, str(Path(__file__).with_name("held_graph.py"))))
        watch = Watch(tmp_path_factory.mktemp("runs"))
        port = new_port()
        demo = launch(watch, port)
        yield demo.address, watch.store, demo.link
        demo.close(verbose=False)


@pytest.fixture
def editor(visit, tab):
    """Opens the page at its Graph tab, and waits until the editor is there."""

    def open_editor(**how):
        page = visit(**how)
        tab(page, "Graph")
        expect(page.locator(".rsg-shell")).to_be_visible()
        return page

    return open_editor


def card(page, id):
    return page.locator(f'.rsg-node[data-node="{id}"]')


def socket(page, id, name):
    return card(page, id).get_by_label(name)


def drag(page, start, end, drop=True):
    """Pull a link from one socket to another, as a hand does."""
    a, b = start.bounding_box(), end.bounding_box()
    page.mouse.move(a["x"] + a["width"] / 2, a["y"] + a["height"] / 2)
    page.mouse.down()
    page.mouse.move((a["x"] + b["x"]) / 2, (a["y"] + b["y"]) / 2, steps=4)
    page.mouse.move(b["x"] + b["width"] / 2, b["y"] + b["height"] / 2, steps=4)
    if drop:
        page.mouse.up()


def add(page, words, x, y):
    """Double-click the canvas and choose the first node that is found."""
    box = page.locator(".rsg-canvas").bounding_box()
    page.mouse.dblclick(box["x"] + x, box["y"] + y)
    page.get_by_label("Search for a node").fill(words)
    page.keyboard.press("Enter")
    expect(page.locator(".rsg-search")).to_have_count(0)


def saved(page, how="As a file"):
    """What Save writes."""
    page.get_by_role("button", name="Save", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=how).click()
    return json.loads(download.value.path().read_text(encoding="utf-8"))


def test_a_graph_is_built_by_hand_run_left_and_found_again(editor, visit, served, write):
    hold = served[1].root / "hold"
    hold.touch()
    page = editor()
    add(page, "scheduled", 120, 60)
    add(page, "ramp", 620, 60)
    add(page, "demo model", 120, 420)
    field = card(page, "scheduled_sampling").get_by_label("Farthest start (grid steps)")
    field.fill("2")

    # A link that does not fit is refused, with the reason while it is held there and after it was dropped.
    drag(
        page,
        socket(page, "demo_model", "Model, output, gives model"),
        socket(page, "probability_ramp_plot", "Rollout, input, takes sampling"),
        drop=False,
    )
    expect(page.get_by_test_id("refusing")).to_have_text(
        "Demo Model gives model, but Rollout of Probability Ramp Plot takes sampling."
    )
    page.mouse.up()
    expect(page.get_by_test_id("notice")).to_contain_text("takes sampling")
    expect(page.locator(".react-flow__edge")).to_have_count(0)
    # the server's word, at the node
    expect(card(page, "probability_ramp_plot").locator(".rsg-fault")).to_contain_text("needs a link")

    drag(
        page,
        socket(page, "scheduled_sampling", "Rollout, output, gives sampling"),
        socket(page, "probability_ramp_plot", "Rollout, input, takes sampling"),
    )
    expect(page.locator(".react-flow__edge")).to_have_count(1)
    expect(card(page, "probability_ramp_plot").locator(".rsg-fault")).to_have_count(0)

    # Undo and redo, by the keys and to the end.
    before = saved(page)
    page.locator(".rsg-shell").focus()
    page.keyboard.press("Control+z")
    expect(page.locator(".react-flow__edge")).to_have_count(0)
    page.keyboard.press("Control+Shift+z")
    expect(page.locator(".react-flow__edge")).to_have_count(1)
    assert saved(page) == before
    assert before["prompt"]["scheduled_sampling"]["inputs"] == {"max_step_offset": 2}
    assert before["prompt"]["probability_ramp_plot"]["inputs"] == {"rollout": ["scheduled_sampling", 0]}

    # It runs, tells progress, is found again after a reload and by a second viewer, and ends with a picture in the node.
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_test_id("graph-run")).to_have_attribute("data-state", "running")
    expect(card(page, "probability_ramp_plot").get_by_role("progressbar")).to_be_visible()
    expect(card(page, "scheduled_sampling")).to_have_attribute("data-state", "done")
    page.reload()
    expect(page.get_by_test_id("graph-run")).to_have_attribute("data-state", "running")
    expect(card(page, "probability_ramp_plot")).to_have_attribute("data-state", "running")
    # What a Train node has reported, as if this were one: its run's loss as it goes, and the newest samples.
    training = served[1].create({"max_train_steps": 100}, "trained-1")
    write.steps(training, 1, 30, 100)
    with (max(served[1].root.joinpath(".graphs").glob("2*")) / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "trains", "node": "probability_ramp_plot", "run": "trained-1"}\n')
    loss = card(page, "probability_ramp_plot").locator(".rsg-loss")
    expect(loss).to_contain_text("at step 30")
    write.steps(training, 31, 40, 100)
    write.samples(training, 40)
    expect(loss).to_contain_text("at step 40")
    newest = card(page, "probability_ramp_plot").get_by_role("button", name="Look at step 40: a large zwx")
    expect(newest.locator("img")).to_be_visible()
    second = visit()  # a live graph run is where a visitor lands
    expect(second.get_by_test_id("graph-run")).to_have_attribute("data-state", "running")
    second.get_by_role("button", name="Another graph: show it").click()
    expect(card(second, "probability_ramp_plot")).to_have_attribute("data-state", "running")
    hold.unlink()
    for viewer in (page, second):
        expect(viewer.get_by_test_id("graph-run")).to_have_attribute("data-state", "done")
        picture = card(viewer, "probability_ramp_plot").locator(".rsg-pictures img")
        expect(picture).to_be_visible()
        viewer.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=picture.element_handle())
    assert picture.get_attribute("src").startswith("gradio_api/file=")

    # What was saved opens again as it was; opening is one undo away from what was there before.
    assert saved(page) == before
    page.get_by_role("button", name="Open", exact=True).click()
    page.get_by_role("menuitem", name="An empty graph").click()
    expect(page.locator(".rsg-node")).to_have_count(0)
    file = served[1].root.parent / "mine.json"
    file.write_text(json.dumps(before))
    page.get_by_label("Open a file").set_input_files(file)
    expect(page.locator(".rsg-node")).to_have_count(3)
    assert saved(page) == before
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".rsg-node")).to_have_count(0)

    # Another value: what was drawn is marked as old. Stopping a run that waits ends it.
    page.get_by_role("button", name="Redo").click()
    hold.touch()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(card(page, "probability_ramp_plot").get_by_test_id("state")).to_contain_text("done before")
    field.fill("3")
    expect(card(page, "probability_ramp_plot").get_by_test_id("state")).to_contain_text("changed since")
    expect(page.get_by_test_id("graph-run")).to_have_attribute("data-state", "done")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(card(page, "probability_ramp_plot").get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_test_id("graph-run")).to_have_attribute("data-state", "interrupted")


@pytest.mark.slow
def test_every_shipped_workflow_goes_through_the_editor_unchanged(editor):
    page = editor()
    files = sorted(WORKFLOWS.glob("*.json"))
    assert len(files) >= 7
    page.get_by_role("button", name="Compare two rollouts").click()
    for file in files:
        page.get_by_label("Open a file").set_input_files(file)
        expect(page.locator(".rsg-title")).to_have_text(file.stem)
        data = json.loads(file.read_text(encoding="utf-8"))
        expect(page.locator(".rsg-node")).to_have_count(len(data["prompt"]))
        links = sum(isinstance(value, list) for node in data["prompt"].values() for value in node["inputs"].values())
        expect(page.locator(".react-flow__edge")).to_have_count(links)
        assert saved(page) == data
    expect(page.locator(".rsg-fault")).to_have_count(0)


def test_a_dropped_picture_brings_its_graph_and_text_from_files_stays_text(editor, tmp_path):
    nasty = '<img src=x onerror="document.title=1">${document.title=1}{{document.title=1}}'
    graph = Graph({
        "__proto__": Node("RolloutStudioScheduledSampling", {"max_step_offset": 2}, nasty),
        'a"]\\ b': Node("RolloutStudioNote", {"text": nasty}, muted=True),
        "odd": Node("RolloutStudioScheduledSampling", {"max_step_offset": -1, nasty[:60]: 1}),
        "alien": Node(nasty[:60]),
    }, {"nodes": {"__proto__": {"x": "far", "y": None}}})  # fmt: skip
    picture = pictures.saved(Image.new("RGB", (40, 30)), tmp_path / "made here.png", provenance_of(graph))
    page = editor()
    dropped = page.evaluate_handle("""(bytes) => { const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0))], 'made here.png')); return data; }""",
                                   base64.b64encode(picture.read_bytes()).decode())  # fmt: skip
    page.dispatch_event(".rsg-canvas", "drop", {"dataTransfer": dropped})
    expect(page.locator(".rsg-node")).to_have_count(4)
    expect(page.locator(".rsg-node strong").first).to_have_text(nasty)
    expect(card(page, "odd").locator('[data-field="max_step_offset"]')).to_contain_text("Must be at least 0")
    expect(page.locator(".rsg-count")).to_have_text("4 problems")
    page.get_by_role("button", name="Run", exact=True).click()  # refused as a whole, with the list
    expect(page.get_by_role("complementary", name="Problems")).to_contain_text("There is no node")
    assert page.locator(".rsg-node img, .rsg-panel img").count() == 0
    assert page.title() == "Rollout Studio"
    written = saved(page)
    again, problems = read(written)
    assert not problems and again.nodes == graph.nodes and written["prompt"].keys() == to_data(graph)["prompt"].keys()


def test_the_form_becomes_a_graph_and_a_graphs_training_the_form(editor, tab):
    page = editor()
    page.get_by_role("button", name="My Train form").click()
    expect(card(page, "train")).to_be_visible()
    card(page, "settings").get_by_label("Training steps").fill("77")
    page.get_by_role("button", name="To the form").click()
    page.locator("#step-settings > button").click()
    expect(page.locator("#opt-max_train_steps input")).to_be_visible()
    expect(page.locator("#opt-max_train_steps input")).to_have_value("77")
    tab(page, "Graph")
    expect(card(page, "train")).to_be_visible()


def test_the_keys_copy_mute_group_arrange_and_delete(editor):
    page = editor()
    page.get_by_role("button", name="See what a rollout is").click()
    expect(page.locator(".rsg-node")).to_have_count(8)
    first = saved(page)
    card(page, "strip").locator(".rsg-head").click(position={"x": 20, "y": 12})
    page.keyboard.press("Control+c")
    page.keyboard.press("Control+v")
    expect(card(page, "rollout_preview")).to_have_count(0)
    expect(card(page, "strip_2")).to_be_visible()
    # links from outside come along
    assert saved(page)["prompt"]["strip_2"]["inputs"] == first["prompt"]["strip"]["inputs"]
    page.keyboard.press("m")
    expect(card(page, "strip_2")).to_have_attribute("data-state", "muted")
    page.keyboard.press("Control+g")
    expect(page.locator(".rsg-frame")).to_have_count(1)
    before = saved(page)["layout"]
    title = page.locator(".rsg-frame-title").bounding_box()
    page.mouse.move(title["x"] + title["width"] - 8, title["y"] + 6)
    page.mouse.down()
    page.mouse.move(title["x"] + title["width"] + 32, title["y"] + 46, steps=5)
    page.mouse.up()
    after = saved(page)["layout"]
    way = [after["groups"][0][axis] - before["groups"][0][axis] for axis in "xy"]
    assert way[0] > 0
    inside = {"strip", "strip_2"}  # the copy lies on the original: both move along, nothing else does
    for id, place in after["nodes"].items():
        assert [place[axis] - before["nodes"][id][axis] for axis in "xy"] == (way if id in inside else [0, 0])
    card(page, "strip_2").locator(".rsg-head").click(position={"x": 20, "y": 12})
    page.keyboard.press("Delete")
    expect(card(page, "strip_2")).to_have_count(0)
    page.keyboard.press("Control+a")
    page.keyboard.press("l")
    boxes = page.evaluate(
        "() => [...document.querySelectorAll('.rsg-node')].map((each) => each.getBoundingClientRect().toJSON())"
    )
    overlap = [(a, b) for number, a in enumerate(boxes) for b in boxes[:number]
               if a["left"] < b["right"] and b["left"] < a["right"] and a["top"] < b["bottom"] and b["top"] < a["bottom"]]  # fmt: skip
    assert not overlap
    for _ in ("arranged", "deleted", "dragged", "grouped", "muted", "pasted"):
        page.keyboard.press("Control+z")
    assert saved(page) == first

    # A link without the mouse; one that does not fit, and one that does.
    def link(start, end):
        for each in (start, end):
            each.focus()
            page.keyboard.press("Enter")

    links = page.locator(".react-flow__edge").count()
    link(
        socket(page, "model", "Model, output, gives model"),
        socket(page, "strip", "Checkpoint, input, takes checkpoint"),
    )
    expect(page.get_by_test_id("notice")).to_contain_text("takes checkpoint")
    link(socket(page, "ramp", "Picture, output, gives image"), socket(page, "save", "Images, input, takes image"))
    assert saved(page)["prompt"]["save"]["inputs"]["images"] == ["ramp", 0]
    # an input takes one link: the new one replaced the old
    expect(page.locator(".react-flow__edge")).to_have_count(links)


def test_what_a_comfyui_user_does_by_habit_works_and_the_graph_goes_there_and_back(editor):
    page = editor()
    box = page.locator(".rsg-canvas").bounding_box()
    page.mouse.click(box["x"] + 700, box["y"] + 80, button="right")
    page.get_by_role("menuitem", name="Add a node").click()
    page.get_by_label("Search for a node").fill("train")  # also begins other titles
    page.keyboard.press("Enter")
    socket(page, "train", "Rollout, input, takes sampling").hover()
    page.mouse.down()
    page.mouse.move(box["x"] + 420, box["y"] + 300, steps=4)
    page.mouse.up()
    page.get_by_label("Search for a node").fill("reflexflow")
    page.keyboard.press("Enter")
    made = card(page, "reflexflow").bounding_box()
    assert made["x"] < box["x"] + 420 < card(page, "train").bounding_box()["x"]  # what feeds a node stands left of it
    page.keyboard.press("Control+m")
    expect(card(page, "reflexflow")).to_have_attribute("data-state", "muted")
    page.keyboard.press("Control+b")  # one way of leaving it out takes the other's place
    expect(card(page, "reflexflow")).to_have_attribute("data-state", "bypassed")
    assert saved(page)["prompt"]["reflexflow"]["_meta"] == {"bypassed": True}
    there = saved(page, "For ComfyUI")
    assert [(node["type"], node["mode"]) for node in there["nodes"]] == [
        ("RolloutStudioTrain", 0),
        ("RolloutStudioReflexFlow", 4),
    ]
    page.get_by_label("Open a file").set_input_files(
        {"name": "from there.json", "mimeType": "application/json", "buffer": json.dumps(there).encode()}
    )
    expect(page.locator(".rsg-title")).to_have_text("from there")
    expect(page.locator('[data-state="bypassed"]')).to_have_count(1)
    expect(page.locator(".react-flow__edge")).to_have_count(1)


def test_the_parts_without_a_screen(editor):
    """Pure functions, in the browser that ships with the tests: no other JavaScript engine is needed."""
    page = editor()
    wrong = page.evaluate(CHECKS)
    assert not wrong, "\n".join(wrong)


CHECKS = """async () => {
  const home = document.querySelector('.rsg').dataset.address;
  const [graph, types, fields, search, layout] = await Promise.all(
    ['document', 'types', 'fields', 'search', 'arrange'].map((name) => import(home.replace('mount.js', `${name}.js`))));
  const wrong = [];
  const sorted = (value) => value === null || typeof value !== 'object' || Array.isArray(value) ? value : Object.fromEntries(Object.keys(value).sort().map((key) => [key, value[key]]));
  const text = (value) => JSON.stringify(value, (_, each) => sorted(each));
  const is = (what, got, wanted) => text(got) === text(wanted) || wrong.push(`${what}: ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`);
  const number = { name: 'rate', type: 'FLOAT', value_type: 'float', default: 0.5, minimum: 0, maximum: 4, unsettable: false, socket: false };
  const file = { format: graph.FORMAT, version: 1, layout: { nodes: { a: { x: 1, y: 2, mine: [3] } }, other: 4 }, prompt: {
    b: { class_type: 'B', inputs: { x: ['a', 0], list: { __value__: ['a', 1] }, none: null }, _meta: { title: 'T', muted: true } }, a: { class_type: 'A', inputs: {} } } };
  const document_ = graph.read(file);

  is('the file comes back', graph.write(document_), file);
  for (const broken of [null, [], {}, { ...file, format: 'x' }, { ...file, version: 2 }, { ...file, prompt: { a: 1 } }]) {
    try { graph.read(broken); wrong.push(`${JSON.stringify(broken)} was read`); } catch (error) { if (!(error.message.includes('no workflow') || error.message.includes('no kind'))) wrong.push(String(error)); }
  }
  is('a link is known', graph.links(document_), [{ from: 'a', slot: 0, to: 'b', input: 'x' }]);
  is('feeding goes through', [graph.feeds(document_, 'a', 'b'), graph.feeds(document_, 'b', 'a')], [true, false]);
  const without = graph.removeNodes(document_, ['a']);
  is('links go with their node', [...without.nodes.get('b').inputs.keys()], ['list', 'none']);
  is('the old document stays', graph.write(document_), file);
  is('undone by giving the default back', graph.setInput(graph.setInput(document_, 'a', 'n', 1), 'a', 'n', undefined).nodes.get('a').inputs.size, 0);
  const [pasted, ids] = graph.paste(document_, graph.clipped(graph.copy(document_, ['b'])), { x: 5, y: 5 });
  is('a copy keeps its links', [ids, pasted.nodes.get('b_2').inputs.get('x')], [['b_2'], ['a', 0]]);
  is('another text is no clip', [graph.clipped('{}'), graph.clipped('hello')], [null, null]);
  const same = graph.signatures(document_), moved = graph.signatures(graph.place(graph.setTitle(document_, 'b', 'new'), [['a', { x: 9 }]]));
  const other = graph.signatures(graph.setInput(document_, 'a', 'n', 1));
  is('a name and a place change no result', [same.get('a') === moved.get('a'), same.get('b') === moved.get('b')], [true, true]);
  is('a field changes what comes after it', [same.get('a') === other.get('a'), same.get('b') === other.get('b')], [false, false]);

  is('types', [types.accepts('A,B', 'B'), types.accepts('*', 'X'), types.accepts('A', 'B'), types.accepts('AB', 'A')], [true, true, false, false]);
  const kinds = types.byKind([
    { key: 'A', title: 'Source', category: 'c', help: 'gives things', aliases: ['origin'], inputs: [{ name: 'y', socket: true, type: 'X', optional: true }], outputs: [{ name: 'x', type: 'X' }] },
    { key: 'B', title: 'Target', category: 'c', help: '', aliases: [], inputs: [{ name: 'x', socket: true, type: 'X' }, { name: 'z', socket: true, type: 'IMAGE' }], outputs: [{ name: 'o', type: 'X' }] }]);
  const link = (from, to, input) => types.refusal(document_, kinds, { from, slot: 0, to, input });
  is('a fitting link', link('a', 'b', 'x'), null);
  is('a wrong type', link('a', 'b', 'z').includes('gives x, but Z of T takes image'), true);
  is('a circle', link('b', 'a', 'y').includes('circle'), true);
  is('itself', link('a', 'a', 'y').includes('own result'), true);
  is('search', [search.find(kinds, 'orig').map((each) => each.key), search.find(kinds, 'zzz').length], [['A'], 0]);
  is('a whole title first', search.find(types.byKind([{ ...kinds.get('A'), title: 'Targets' }, kinds.get('B')]), 'target').map((each) => each.key), ['B', 'A']);
  is('only what fits', search.find(kinds, '', search.fitting({ type: 'IMAGE', wants: 'takers' })).map((each) => each.key), ['B']);

  is('a number', [fields.read(number, '1e-3'), fields.read(number, '0.5'), fields.read(number, 'abc'), fields.read(number, '')], [0.001, undefined, 'abc', '']);
  is('bounds', [fields.fault(number, 5), fields.fault(number, 'abc'), fields.fault(number, 1)], ['Must be at most 4.', 'Must be a number.', null]);
  const maybe = { ...number, type: 'STRING', default: null, unsettable: true };
  is('unset', [fields.read(maybe, ''), fields.read(maybe, '2'), fields.shown(maybe, undefined)], [undefined, 2, '']);
  const list = { name: 'l', type: 'STRING', value_type: 'list[int]', default: { __value__: [1] }, multiline: false, unsettable: false, minimum: null, maximum: null };
  is('a list', [fields.read(list, '1, 3'), fields.read(list, '1'), fields.read(list, '1, x'), fields.shown(list, { __value__: [1, 3] })], [{ __value__: [1, 3] }, undefined, '1, x', '1, 3']);
  const lines = { ...list, value_type: 'list[str]', multiline: true };
  is('lines', fields.read(lines, 'a, b\\n\\nc'), { __value__: ['a, b', 'c'] });
  is('a switch of three', fields.read({ name: 's', type: 'COMBO', value_type: 'bool', default: null, unsettable: true, choices: ['unset', 'true', 'false'] }, 'false'), false);

  const chain = Array.from({ length: 6 }, (_, n) => [`n${n}`, { kind: 'A', inputs: new Map(n ? [['y', [`n${n - 1}`, 0]]] : []), title: null, muted: false }]);
  const arranged = layout.placed({ ...graph.EMPTY, nodes: new Map(chain) }, () => ({ width: 300, height: 100 }));
  const xs = chain.map(([id]) => graph.placeOf(arranged, id).x);
  is('left to right', xs.every((x, n) => n === 0 || x >= xs[n - 1] + 300), true);
  return wrong;
}"""
