// The canvas: React Flow shows the document's nodes and links; what the hand does becomes changes of the document.
import {
  Background, Controls, MiniMap, ReactFlow, ReactFlowProvider, applyNodeChanges, useCallback, useEffect, useMemo, useReactFlow, useRef, useState,
} from "./vendor/parts.js"; // prettier-ignore
import * as graph from "./document.js";
import { WIDTH } from "./arrange.js";
import { Frame, NARROWEST, NodeCard, WIDEST } from "./node.js";
import { Bar, Menu, Notices, Picture, Problems, Search, Help, Welcome } from "./panels.js";
import { refusal } from "./types.js";
import { cardId, categoryColour, frameId, html, idOf, isFrame, useEditor } from "./view.js";

const NODE_TYPES = { card: NodeCard, frame: Frame };
const EDITABLE = "input:not([type=checkbox]):not([type=range]), textarea, select";
const NARROW = 640;
const BESIDE = { top: 0.05, right: 0.05, bottom: 0.05, left: "64px" }; // the zoom buttons stay free

export function App({ editor, home }) {
  return html`<${ReactFlowProvider}><${Canvas} editor=${editor} home=${home} /></${ReactFlowProvider}>`;
}

function Canvas({ editor, home }) {
  const flow = useReactFlow();
  const document = useEditor(editor, (state) => state.document);
  const kinds = useEditor(editor, (state) => state.kinds);
  const colours = useEditor(editor, (state) => state.colours);
  const statuses = useEditor(editor, (state) => state.statuses);
  const fit = useEditor(editor, (state) => state.fit);
  const chosen = useEditor(editor, (state) => state.chosen);
  const data = useMemo(() => ({ editor }), [editor]);
  const [nodes, setNodes] = useState(() => flowNodes(document, [], data));
  const latest = useRef(nodes);
  const update = useCallback((change) => {
    latest.current = change(latest.current);
    setNodes(latest.current);
  }, []);
  const [chosenLinks, setChosenLinks] = useState(() => new Set());
  const shell = useRef(null);
  const pointer = useRef(null); // where the mouse is over the canvas, for pasting there
  const carried = useRef(null); // nodes that move along with a frame that is dragged
  const picked = useRef(false); // whether a link's end was dropped somewhere

  useEffect(() => {
    update((before) => flowNodes(document, before, data));
  }, [document, data, update]);
  useEffect(() => {
    editor.sizes = (id) => {
      const size = flow.getInternalNode(cardId(id))?.measured;
      return size?.width && size?.height ? { width: size.width, height: size.height } : null;
    };
  }, [editor, flow]);
  useEffect(() => {
    if (fit) requestAnimationFrame(() => showAll(flow, shell.current.clientWidth, editor.document));
  }, [fit, flow, editor]);
  useEffect(() => {
    if (!chosen.length) return;
    const wanted = new Set(chosen.map(cardId));
    update((before) => before.map((node) => (node.selected === wanted.has(node.id) ? node : { ...node, selected: wanted.has(node.id) })));
  }, [chosen, update]);

  const edges = useMemo(() => flowEdges(document, kinds, colours, statuses, chosenLinks), [document, kinds, colours, statuses, chosenLinks]);

  // ---- moving, sizing, choosing

  const onNodesChange = useCallback(
    (changes) => {
      const kept = changes.filter((change) => change.type !== "remove"); // the document says what is there
      update((before) => applyNodeChanges(withCarried(kept, before, carried.current), before));
      commit(editor, kept, latest.current);
    },
    [editor, update],
  );
  const onNodeDragStart = useCallback(
    (_, node) => {
      carried.current = isFrame(node.id) ? membersOf(editor, node) : null;
    },
    [editor],
  );
  const onEdgesChange = useCallback((changes) => {
    setChosenLinks((before) => {
      const after = new Set(before);
      for (const change of changes) if (change.type === "select") after[change.selected ? "add" : "delete"](change.id);
      return after;
    });
  }, []);
  const selected = () => flow.getNodes().filter((node) => node.selected);
  const selectedIds = () => selected().filter((node) => !isFrame(node.id)).map((node) => idOf(node.id));
  const remove = () => {
    const frames = selected().filter((node) => isFrame(node.id)).map((node) => idOf(node.id));
    editor.remove(selectedIds(), frames, edges.filter((edge) => edge.selected).map((edge) => edge.data));
    setChosenLinks(new Set());
  };

  // ---- linking

  const linkOf = (connection) => ({
    from: idOf(connection.source), slot: Number(connection.sourceHandle.slice(4)), to: idOf(connection.target), input: connection.targetHandle.slice(3),
  }); // prettier-ignore
  const isValidConnection = useCallback(
    (connection) => {
      const reason = refusal(editor.document, editor.state.kinds, linkOf(connection));
      if (editor.state.refusing !== reason) editor.set({ refusing: reason });
      return reason === null;
    },
    [editor],
  );
  const startLink = (_, { nodeId, handleId, handleType }) => editor.set({ linking: endOf(editor, nodeId, handleId, handleType), refusing: null, menu: null });
  const onConnect = useCallback((connection) => editor.link(linkOf(connection)), [editor]);
  const onConnectEnd = (event, state) => {
    const end = editor.state.linking;
    editor.set({ linking: null, refusing: null });
    if (state.isValid || end === null) return;
    if (state.toHandle) return tellRefused(editor, state);
    const at = "changedTouches" in event ? event.changedTouches[0] : event;
    if (globalThis.document.elementFromPoint(at.clientX, at.clientY)?.classList.contains("react-flow__pane")) openSearch(at.clientX, at.clientY, end);
  };
  const onClickConnectEnd = () => {
    const reason = editor.state.refusing; // from `isValidConnection`: React Flow does not report here where it ended
    editor.set({ linking: null, refusing: null });
    if (reason !== null) editor.notify(reason);
  };
  const onReconnect = useCallback((edge, connection) => {
    picked.current = true;
    editor.relink(edge.data, linkOf(connection));
  }, [editor]); // prettier-ignore
  const onReconnectEnd = (_, edge, __, state) => {
    editor.set({ linking: null, refusing: null });
    if (!picked.current && !state.toHandle) editor.unlink([edge.data]);
    else if (!picked.current && !state.isValid) tellRefused(editor, state);
    picked.current = false;
  };

  // ---- the search, the view

  const openSearch = (clientX, clientY, end = null) => {
    const box = shell.current.getBoundingClientRect();
    editor.set({ search: { x: clientX - box.left, y: clientY - box.top, at: flow.screenToFlowPosition({ x: clientX, y: clientY }), end }, menu: null, panel: null });
  };
  const searchHere = () => {
    const box = shell.current.getBoundingClientRect();
    const at = pointer.current ?? { x: box.left + box.width / 2 - 150, y: box.top + box.height / 3 };
    openSearch(at.x, at.y);
  };
  const focusNode = (id) => {
    editor.set({ chosen: [id], menu: null });
    flow.fitView({ nodes: [{ id: cardId(id) }], padding: 0.4, maxZoom: 1, duration: 250 });
  };
  const saveForComfy = async () => {
    const text = await editor.forComfy();
    if (text !== null) download(editor.fileName(".comfyui"), text);
  };
  const pasteText = (text, at) => {
    const clip = graph.clipped(text);
    if (clip !== null) editor.paste(clip, pasteOffset(clip, at && flow.screenToFlowPosition(at)));
    else if (text.trimStart().startsWith("{")) editor.openText(text, "The pasted text");
    return clip !== null || text.trimStart().startsWith("{");
  };
  const pasteHere = async (at) => {
    try {
      if (!pasteText(await navigator.clipboard.readText(), at)) editor.notify("No nodes and no workflow are on the clipboard.");
    } catch (error) {
      editor.notify(`The browser does not give its clipboard to the menu (${error.name}); press Ctrl+V.`);
    }
  };
  const actions = {
    search: searchHere, remove, focusNode, fitView: () => flow.fitView({ padding: BESIDE, maxZoom: 1, duration: 250 }),
    arrange: () => editor.arrange(selectedIds()), group: () => editor.group(selectedIds()), mute: () => editor.mute(selectedIds()), bypass: () => editor.bypass(selectedIds()),
    duplicate: () => editor.duplicate(selectedIds()), selectAll: () => editor.set({ chosen: [...editor.document.nodes.keys()] }),
    searchAt: (x, y) => openSearch(x, y), paste: pasteHere, saveForComfy,
    save: () => download(editor.fileName(), graph.toText(editor.document)), choose: () => shell.current.querySelector("input[type=file]").click(),
    full: () => (globalThis.document.fullscreenElement ? globalThis.document.exitFullscreen() : home.requestFullscreen()),
  }; // prettier-ignore

  // ---- the keyboard, the clipboard, files

  const onKeyDown = (event) => {
    const action = shortcut(event, editor, actions);
    if (action === null) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  };
  const onCopy = (event, cut = false) => {
    const ids = selectedIds();
    if (event.target.closest?.(EDITABLE) || !ids.length) return;
    event.clipboardData.setData("text/plain", graph.copy(editor.document, ids));
    event.preventDefault();
    if (cut) editor.remove(ids);
  };
  const onPaste = (event) => {
    if (event.target.closest?.(EDITABLE)) return;
    if (pasteText(event.clipboardData.getData("text/plain"), pointer.current)) event.preventDefault();
  };
  const onDrop = (event) => {
    const [file] = event.dataTransfer.files;
    if (!file) return;
    event.preventDefault();
    editor.openFile(file);
  };
  // React Flow's pane takes no focus: without it, keys would go to the page.
  const onPointerDown = (event) => {
    if (editor.state.menu && !event.target.closest(".rsg-menu")) editor.set({ menu: null });
    if (!event.target.closest(`${EDITABLE}, button, .react-flow__node, .rsg-search`)) shell.current.focus({ preventScroll: true });
  };
  useKeys(shell, { keydown: onKeyDown, copy: onCopy, cut: (event) => onCopy(event, true), paste: onPaste });
  const onContextMenu = (event, node) => isFrame(node.id) || editor.openMenu(idOf(node.id), event);
  const onPaneContextMenu = (event) => {
    event.preventDefault();
    editor.set({ menu: { id: null, x: event.clientX, y: event.clientY }, panel: null });
  };
  const onDoubleClick = (event) => event.target.classList.contains("react-flow__pane") && openSearch(event.clientX, event.clientY);

  return html`
    <div class="rsg-shell" ref=${shell} tabIndex="-1" onDrop=${onDrop} onDragOver=${(event) => event.preventDefault()} onPointerDown=${onPointerDown}>
      <${Bar} editor=${editor} actions=${actions} />
      <div class="rsg-canvas" onDoubleClick=${onDoubleClick} onPointerMove=${(event) => { pointer.current = { x: event.clientX, y: event.clientY }; }}
        onPointerLeave=${() => { pointer.current = null; }}>
        <${ReactFlow} nodes=${nodes} edges=${edges} nodeTypes=${NODE_TYPES} onNodesChange=${onNodesChange} onEdgesChange=${onEdgesChange}
          onNodeDragStart=${onNodeDragStart} isValidConnection=${isValidConnection} onConnectStart=${startLink} onConnect=${onConnect}
          onConnectEnd=${onConnectEnd} onClickConnectStart=${startLink} onClickConnectEnd=${onClickConnectEnd} onReconnectStart=${(_, edge, handleType) => startReconnect(editor, edge, handleType)}
          onReconnect=${onReconnect} onReconnectEnd=${onReconnectEnd} onNodeContextMenu=${onContextMenu} onPaneContextMenu=${onPaneContextMenu}
          onMoveEnd=${(_, view) => { editor.view = view; editor.save(); }} defaultViewport=${editor.view ?? undefined}
          deleteKeyCode=${null} multiSelectionKeyCode=${MULTI} selectionKeyCode="Shift" zoomOnDoubleClick=${false} minZoom=${0.08} maxZoom=${2}
          connectionRadius=${28} elevateNodesOnSelect=${true} proOptions=${undefined}>
          <${Background} gap=${22} size=${1.8} />
          <${Controls} showInteractive=${false} position="bottom-left" fitViewOptions=${{ padding: BESIDE, maxZoom: 1, duration: 250 }} />
          <${MiniMap} pannable zoomable position="bottom-right" nodeColor=${(node) => mapColour(editor, node)} nodeBorderRadius=${6} ariaLabel="Map of the graph" />
        </${ReactFlow}>
        <${Welcome} editor=${editor} actions=${actions} />
        <${Notices} editor=${editor} />
        <${Problems} editor=${editor} actions=${actions} />
        <${Help} editor=${editor} />
      </div>
      <${Search} editor=${editor} shell=${shell} />
      <${Menu} editor=${editor} shell=${shell} actions=${actions} />
      <${Picture} editor=${editor} />
      <input type="file" accept=".json,.png,.safetensors" hidden aria-label="Open a file" onChange=${(event) => { if (event.target.files[0]) editor.openFile(event.target.files[0]); event.target.value = ""; }} />
    </div>`; // prettier-ignore
}

const MULTI = ["Meta", "Control", "Shift"];

/** Keys and the clipboard for the editor: while something in it has the focus, or had it last and is gone (a deleted node leaves none). */
function useKeys(shell, handlers) {
  const now = useRef(handlers);
  now.current = handlers;
  useEffect(() => {
    const page = globalThis.document, ended = new AbortController();
    let mine = false;
    for (const type of ["pointerdown", "focusin"]) {
      page.addEventListener(type, (event) => { mine = shell.current.contains(event.target); }, { capture: true, signal: ended.signal }); // prettier-ignore
    }
    for (const type of Object.keys(handlers)) {
      page.addEventListener(type, (event) => {
        const ours = shell.current.contains(event.target) || (event.target === page.body && mine && shell.current.offsetParent !== null);
        if (ours) now.current[type](event);
      }, { signal: ended.signal }); // prettier-ignore
    }
    return () => ended.abort();
  }, [shell]);
}

// ---- document -> React Flow

/** The nodes as React Flow takes them; what did not change stays the same object, so that it is not drawn again. */
function flowNodes(document, before, data) {
  const old = new Map(before.map((node) => [node.id, node]));
  const kept = (id, type, place, size) => {
    const was = old.get(id);
    const same = was && was.position.x === place.x && was.position.y === place.y && was.width === size.width && (type === "card" || was.height === size.height);
    if (same) return was;
    return { ...was, id, type, data, position: { x: place.x, y: place.y }, ...size, ...(type === "frame" ? { zIndex: -1, dragHandle: ".rsg-frame-title" } : {}) };
  };
  const frames = document.groups.map((group) => kept(frameId(group.id), "frame", group, { width: group.width, height: group.height }));
  const cards = [...document.nodes.keys()].map((id) => {
    const place = graph.placeOf(document, id) ?? { x: 0, y: 0 };
    const width = typeof place.width === "number" && place.width >= NARROWEST && place.width <= WIDEST ? place.width : WIDTH;
    return kept(cardId(id), "card", place, { width });
  });
  return [...frames, ...cards];
}

function flowEdges(document, kinds, colours, statuses, chosen) {
  return graph.links(document).flatMap((link) => {
    const output = kinds.get(document.nodes.get(link.from)?.kind)?.outputs[link.slot];
    if (!output || !kinds.get(document.nodes.get(link.to).kind)?.byName.has(link.input)) return []; // reported at the node
    const id = `${cardId(link.to)} ${link.input}`;
    const busy = statuses.get(link.to)?.state === "running";
    return [{
      id, source: cardId(link.from), sourceHandle: `out:${link.slot}`, target: cardId(link.to), targetHandle: `in:${link.input}`, data: link,
      reconnectable: "target", selected: chosen.has(id), animated: busy, className: document.nodes.get(link.from).muted || document.nodes.get(link.to).muted ? "rsg-dim" : "",
      style: { stroke: colours[output.type] ?? "#8f9aa3" },
    }]; // prettier-ignore
  });
}

function mapColour(editor, node) {
  if (isFrame(node.id)) return "transparent";
  const state = editor.state.statuses.get(idOf(node.id))?.state;
  if (state === "failed") return "#d92d20";
  return categoryColour(editor.state.kinds.get(editor.document.nodes.get(idOf(node.id))?.kind)?.category);
}

// ---- React Flow -> document

/** Position changes of the nodes in a dragged frame, beside the frame's own. */
function withCarried(changes, nodes, carried) {
  if (carried === null) return changes;
  const change = changes.find((each) => each.type === "position" && each.id === carried.frame && each.position);
  if (!change) return changes;
  const frame = nodes.find((node) => node.id === carried.frame);
  const dx = change.position.x - frame.position.x, dy = change.position.y - frame.position.y;
  const along = nodes.filter((node) => carried.members.has(node.id) && !changes.some((each) => each.id === node.id && each.type === "position"));
  return [...changes, ...along.map((node) => ({ type: "position", id: node.id, position: { x: node.position.x + dx, y: node.position.y + dy } }))];
}

function membersOf(editor, frame) {
  const group = editor.document.groups.find((each) => each.id === idOf(frame.id));
  const inside = [...editor.document.nodes.keys()].filter((id) => {
    const place = graph.placeOf(editor.document, id), size = editor.sizeOf(id);
    if (place === null) return false;
    const x = place.x + size.width / 2, y = place.y + size.height / 2;
    return x > group.x && x < group.x + group.width && y > group.y && y < group.y + group.height;
  });
  return { frame: frame.id, members: new Set(inside.map(cardId)) };
}

/** What was moved or sized by the hand goes into the document when the hand lets go. */
function commit(editor, changes, nodes) {
  const ended = changes.some((change) => (change.type === "position" && change.dragging === false) || (change.type === "dimensions" && change.resizing === false));
  if (!ended) return;
  let document = editor.document;
  const places = [], groups = new Map();
  for (const node of nodes) {
    const id = idOf(node.id), x = Math.round(node.position.x), y = Math.round(node.position.y);
    if (isFrame(node.id)) {
      groups.set(id, { x, y, width: Math.round(node.width), height: Math.round(node.height) });
    } else if (document.nodes.has(id)) {
      const was = graph.placeOf(document, id), width = Math.round(node.width);
      if (was === null || was.x !== x || was.y !== y) places.push([id, { x, y }]);
      if (width !== WIDTH ? was?.width !== width : was?.width !== undefined) places.push([id, { width: width === WIDTH ? undefined : width }]);
    }
  }
  if (places.length) document = graph.place(document, places);
  for (const [id, box] of groups) {
    const was = document.groups.find((group) => group.id === id);
    if (was && Object.keys(box).some((name) => was[name] !== box[name])) document = graph.changeGroup(document, id, box);
  }
  editor.change(document, "moved");
}

// ---- links in the hand

/** The end of a link that is being dragged: its type, and what may take it up. */
function endOf(editor, flowId, handle, handleType) {
  const node = idOf(flowId), declared = editor.state.kinds.get(editor.document.nodes.get(node).kind);
  if (handleType === "source") {
    const slot = Number(handle.slice(4));
    return { wants: "takers", node, slot, type: declared.outputs[slot].type };
  }
  const input = handle.slice(3);
  return { wants: "givers", node, input, type: declared.byName.get(input).type };
}

function startReconnect(editor, edge) {
  editor.set({ linking: endOf(editor, edge.source, edge.sourceHandle, "source"), refusing: null });
}

function tellRefused(editor, state) {
  const ends = [state.fromHandle, state.toHandle];
  const source = ends.find((end) => end.type === "source"), target = ends.find((end) => end.type === "target");
  if (!source || !target) return editor.notify("A link goes from an output, on a node's right side, to an input, on another one's left side.");
  const link = { from: idOf(source.nodeId), slot: Number(source.id.slice(4)), to: idOf(target.nodeId), input: target.id.slice(3) };
  const reason = refusal(editor.document, editor.state.kinds, link);
  if (reason !== null) editor.notify(reason);
}

// ---- small things

/** The whole graph; on a narrow screen, where it would be too small to read, its beginning. */
function showAll(flow, width, document) {
  const places = [...document.nodes.keys()].map((id) => graph.placeOf(document, id)).filter(Boolean);
  if (width > NARROW || !places.length) return flow.fitView({ padding: BESIDE, maxZoom: 1 });
  const x = Math.min(...places.map((place) => place.x)), y = Math.min(...places.map((place) => place.y)), zoom = 0.72;
  return flow.setViewport({ x: 16 - x * zoom, y: 16 - y * zoom, zoom });
}

function pasteOffset(clip, at) {
  const places = [...clip.nodes.keys()].map((id) => graph.placeOf(clip, id)).filter(Boolean);
  if (!at || !places.length) return { x: 40, y: 40 };
  const x = Math.min(...places.map((place) => place.x)), y = Math.min(...places.map((place) => place.y));
  return { x: Math.round(at.x - x), y: Math.round(at.y - y) };
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  Object.assign(globalThis.document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** What a key does here, or null. Inside fields keys belong to the field. */
function shortcut(event, editor, actions) {
  const typing = event.target.closest(EDITABLE) !== null;
  const mod = event.ctrlKey || event.metaKey, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (mod && key === "Enter") return () => editor.running || editor.run();
  if (mod && key === "s") return actions.save;
  if (mod && key === "o") return actions.choose;
  if (key === "Escape") {
    const { search, menu, picture, panel } = editor.state;
    if (search || menu || picture || panel) return () => editor.set({ search: null, menu: null, picture: null, panel: null });
    return null;
  }
  if (typing) return null;
  if (mod && key === "z") return event.shiftKey ? editor.redo : editor.undo;
  if (mod && key === "y") return editor.redo;
  if (mod && key === "a") return actions.selectAll;
  if (mod && key === "d") return actions.duplicate;
  if (mod && key === "g") return actions.group;
  if (mod && key === "m") return actions.mute;
  if (mod && key === "b") return actions.bypass;
  if (mod || event.altKey) return null;
  return { Delete: actions.remove, Backspace: actions.remove, "/": actions.search, m: actions.mute, l: actions.arrange, f: actions.fitView,
    "?": () => editor.set({ panel: "help" }) }[key] ?? null; // prettier-ignore
}
