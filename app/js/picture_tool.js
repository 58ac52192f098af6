// Crop a picture and paint its mask (see app/train/pictures/tool.py). Gradio's HTML component hands in `element`, `props`, `trigger` and
// `watch`. `props.shown` comes from Python: {stamp, state: "closed" | "open" | "kept", error, name, folder, url, width, height, cut, mask,
// shapes}; `props.value` goes there: {folder, name, cut, mask}. Nothing is written before "Save".
//
// What was done is a list of steps over what was opened: undo takes one off the list. Marks: `out` holds, as opacity, what is left out of
// the training; the file that Python writes is its reverse (white = trained on). It is painted on a copy of at most 1024 px a side.

const dialog = element.querySelector('.rs-tool');
const SMALLEST = 16; // as core/data/beside.py
const SIDE = 1024; // pixels of the longer side that is worked on, as app/train/pictures/tool.py
const HANDLE = 12; // CSS pixels from a corner or edge that still take hold of it
let shown = null, stamp = '', image = null, opened = null;
let steps = [], undone = [], mode = 'crop', brush = {size: 12, leaveOut: false}, cursor = null;
let out = null, veil = null, marked = false, cut = null, held = null, finger = null, busy = false, canvas = null, parts = {};
let saving = null; // what was opened and is being saved: {stamp, name}

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, className, act, label) {
  const made = make('button', `rs-small ${className || ''}`, text);
  made.type = 'button';
  if (label) made.setAttribute('aria-label', label);
  made.addEventListener('click', act);
  return made;
}

const whole = () => ({left: 0, top: 0, right: shown.width, bottom: shown.height});
const same = (a, b) => a.left === b.left && a.top === b.top && a.right === b.right && a.bottom === b.bottom;
const perPixel = () => shown.width / canvas.width; // pixels of the picture for one of the canvas
const perCss = () => canvas.width / Math.max(1, canvas.getBoundingClientRect().width);

// -- what was done ----------------------------------------------------------------------------------------------------------

function layer() {
  const made = document.createElement('canvas');
  made.width = canvas.width; made.height = canvas.height;
  return made;
}

function stroke(step) {
  const pen = out.getContext('2d');
  veil = null;
  if (step.fresh) { pen.globalCompositeOperation = 'source-over'; pen.fillRect(0, 0, out.width, out.height); }
  pen.globalCompositeOperation = step.leaveOut ? 'source-over' : 'destination-out';
  pen.lineCap = pen.lineJoin = 'round'; pen.lineWidth = step.size;
  const [first] = step.points; // a line to where it began draws nothing
  pen.beginPath(); pen.arc(first.x, first.y, step.size / 2, 0, 7); pen.fill();
  pen.beginPath();
  pen.moveTo(first.x, first.y);
  for (const point of step.points) pen.lineTo(point.x, point.y);
  pen.stroke();
  pen.globalCompositeOperation = 'source-over';
}

function play() { // from what was opened to what is now
  out = layer(); veil = null; cut = opened.cut;
  const pen = out.getContext('2d');
  if (opened.out) pen.drawImage(opened.out, 0, 0);
  for (const step of steps) {
    if (step.kind === 'crop') cut = step.cut;
    else if (step.kind === 'stroke') stroke(step);
    else if (step.kind === 'clear') pen.clearRect(0, 0, out.width, out.height);
    else { // invert
      pen.globalCompositeOperation = 'source-out'; pen.fillRect(0, 0, out.width, out.height); pen.globalCompositeOperation = 'source-over';
    }
  }
  const pixels = new Uint32Array(pen.getImageData(0, 0, out.width, out.height).data.buffer); // 0 = nothing left out there
  marked = pixels.some((value) => value !== 0);
  fill();
}

function done(step) { steps.push(step); undone = []; play(); }
const painted = () => steps.some((step) => step.kind !== 'crop');
const changed = () => steps.length > 0;

// -- drawing ----------------------------------------------------------------------------------------------------------------

function striped(one) { // what is left out: orange with stripes, so that it shows on every picture
  const made = layer(), pen = made.getContext('2d');
  pen.drawImage(out, 0, 0);
  pen.globalCompositeOperation = 'source-in';
  pen.fillStyle = '#c2570c'; pen.fillRect(0, 0, made.width, made.height);
  pen.globalCompositeOperation = 'source-atop';
  pen.strokeStyle = '#1c1917'; pen.lineWidth = 2 * one;
  for (let x = -made.height; x < made.width; x += 10 * one) { pen.beginPath(); pen.moveTo(x, made.height); pen.lineTo(x + made.height, 0); pen.stroke(); }
  return made;
}

function paint() {
  const pen = canvas.getContext('2d'), scale = 1 / perPixel(), one = perCss();
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (!veil) veil = striped(one);
  pen.globalAlpha = mode === 'mask' ? 0.6 : 0.45; pen.drawImage(veil, 0, 0); pen.globalAlpha = 1;
  const box = {x: cut.left * scale, y: cut.top * scale, w: (cut.right - cut.left) * scale, h: (cut.bottom - cut.top) * scale};
  pen.fillStyle = 'rgb(0 0 0 / .62)';
  pen.beginPath(); pen.rect(0, 0, canvas.width, canvas.height); pen.rect(box.x, box.y, box.w, box.h); pen.fill('evenodd');
  if (mode === 'crop') {
    pen.lineWidth = 2 * one; pen.strokeStyle = '#fff'; pen.strokeRect(box.x, box.y, box.w, box.h);
    pen.setLineDash([6 * one, 6 * one]); pen.strokeStyle = '#0f766e'; pen.strokeRect(box.x, box.y, box.w, box.h); pen.setLineDash([]);
    for (const [x, y] of spots(box)) {
      pen.fillStyle = '#fff'; pen.fillRect(x - 6 * one, y - 6 * one, 12 * one, 12 * one);
      pen.fillStyle = '#0f766e'; pen.fillRect(x - 4 * one, y - 4 * one, 8 * one, 8 * one);
    }
  } else if (cursor) {
    for (const [colour, width] of [['#000', 4], ['#fff', 2]]) {
      pen.lineWidth = width * one; pen.strokeStyle = colour;
      pen.beginPath(); pen.arc(cursor.x, cursor.y, Math.max(2 * one, brushSize() / 2), 0, 7); pen.stroke();
    }
  }
}

const spots = ({x, y, w, h}) => [0, .5, 1].flatMap((i) => [0, .5, 1].filter((j) => i !== .5 || j !== .5).map((j) => [x + i * w, y + j * h]));
const brushSize = () => Math.max(1, brush.size / 100 * Math.max(canvas.width, canvas.height));

// The fields and buttons, and the picture.
function fill() {
  const w = cut.right - cut.left, h = cut.bottom - cut.top;
  for (const [name, value] of Object.entries({left: cut.left, top: cut.top, width: w, height: h})) {
    if (document.activeElement !== parts[name]) parts[name].value = value;
  }
  parts.undo.disabled = steps.length === 0 || busy; parts.redo.disabled = undone.length === 0 || busy; parts.reset.disabled = !changed() || busy;
  parts.save.disabled = !changed() || busy;
  parts.save.textContent = busy ? say('Saving …') : say('Save');
  for (const name of ['crop', 'mask']) {
    parts[`to_${name}`].setAttribute('aria-pressed', String(mode === name));
    parts[`${name}_row`].hidden = mode !== name;
  }
  parts.keep.setAttribute('aria-pressed', String(!brush.leaveOut)); parts.leave.setAttribute('aria-pressed', String(brush.leaveOut));
  const side = Math.round(Math.sqrt(shown.area));
  const few = w * h < shown.area ? ` ${say('That is less than the {0} px it is trained at: it will be enlarged.', `${side} × ${side}`)}` : '';
  const part = same(cut, whole()) ? say('The whole picture is kept, {0} px.', `${w} × ${h}`) : say('{0} px of {1} are kept.', `${w} × ${h}`, `${shown.width} × ${shown.height}`);
  const off = shown.masks ? '' : ` ${say('Masks are off: set “Train on a part of the picture” (masked_training) to soft, or this one does nothing.')}`;
  const mask = marked ? `${say('Striped: left out of the training.')}${off}` : say('No mask: all of what is kept is trained on.');
  parts.status.textContent = mode === 'crop' ? part + few : mask;
  canvas.setAttribute('aria-label', `${shown.name}. ${part} ${mask}`);
  canvas.style.cursor = mode === 'mask' ? 'none' : 'crosshair';
  paint();
}

// -- crop -------------------------------------------------------------------------------------------------------------------

const ratio = () => { const [w, h] = parts.shape.value.split(':').map(Number); return w && h ? w / h : 0; };
const least = () => Math.min(SMALLEST, shown.width, shown.height);
const within = (value, low, high) => Math.min(Math.max(value, low), high);

// A box of whole pixels inside the picture; with a fixed shape, `keep` names the corner or edges that stay where they are.
function fitted(left, top, w, h, keep) {
  const aspect = ratio();
  w = within(w, least(), shown.width); h = within(h, least(), shown.height);
  if (aspect) {
    if (w / h > aspect) w = h * aspect; else h = w / aspect;
    const grow = Math.max(1, least() / w, least() / h);
    w = Math.min(shown.width, w * grow); h = Math.min(shown.height, h * grow);
  }
  if (keep.right !== undefined) left = keep.right - w;
  if (keep.bottom !== undefined) top = keep.bottom - h;
  left = within(left, 0, shown.width - w); top = within(top, 0, shown.height - h);
  const box = {left: Math.round(left), top: Math.round(top)};
  box.right = Math.min(shown.width, box.left + Math.max(least(), Math.round(w))); box.bottom = Math.min(shown.height, box.top + Math.max(least(), Math.round(h)));
  return box;
}

const moved = (from, x, y) => {
  const w = from.right - from.left, h = from.bottom - from.top;
  const left = Math.round(within(from.left + x, 0, shown.width - w)), top = Math.round(within(from.top + y, 0, shown.height - h));
  return {left, top, right: left + w, bottom: top + h};
};

function grip(at) { // what of the box lies under a point of the canvas: -1 | 0 | 1 for each axis, or 'inside', or 'new'
  const scale = 1 / perPixel(), near = HANDLE * perCss();
  const x = [cut.left * scale, cut.right * scale], y = [cut.top * scale, cut.bottom * scale];
  const inX = at.x > x[0] - near && at.x < x[1] + near, inY = at.y > y[0] - near && at.y < y[1] + near;
  if (!inX || !inY) return 'new';
  const side = (value, [low, high]) => (Math.abs(value - low) < near ? -1 : Math.abs(value - high) < near ? 1 : 0);
  const sides = {x: side(at.x, x), y: side(at.y, y)};
  if (sides.x || sides.y) return sides;
  return same(cut, whole()) ? 'new' : 'inside';
}

function dragged(from, at) {
  const p = perPixel(), x = (at.x - from.at.x) * p, y = (at.y - from.at.y) * p, was = from.cut;
  if (from.grip === 'inside') return moved(was, x, y);
  if (from.grip === 'new') {
    const a = {x: from.at.x * p, y: from.at.y * p}, b = {x: within(at.x * p, 0, shown.width), y: within(at.y * p, 0, shown.height)};
    const keep = {...(b.x < a.x ? {right: a.x} : {}), ...(b.y < a.y ? {bottom: a.y} : {})};
    return fitted(a.x, a.y, Math.abs(b.x - a.x), Math.abs(b.y - a.y), keep);
  }
  const {x: sx, y: sy} = from.grip, keep = {...(sx < 0 ? {right: was.right} : {}), ...(sy < 0 ? {bottom: was.bottom} : {})};
  let w = was.right - was.left + sx * x, h = was.bottom - was.top + sy * y;
  if (sx > 0) w = Math.min(w, shown.width - was.left);
  if (sx < 0) w = Math.min(w, was.right);
  if (sy > 0) h = Math.min(h, shown.height - was.top);
  if (sy < 0) h = Math.min(h, was.bottom);
  if (ratio() && !sx) w = h * ratio();
  if (ratio() && !sy) h = w / ratio();
  return fitted(was.left, was.top, w, h, keep);
}

function typedBox() {
  const read = (name) => Math.round(Number(parts[name].value));
  const box = fitted(read('left'), read('top'), read('width'), read('height'), {});
  if (!Object.values(box).every(Number.isFinite)) { fill(); return; }
  if (!same(box, cut)) done({kind: 'crop', cut: box});
}

// -- pointer and keys -------------------------------------------------------------------------------------------------------

function place(event) {
  const box = canvas.getBoundingClientRect();
  return {x: (event.clientX - box.left) * canvas.width / box.width, y: (event.clientY - box.top) * canvas.height / box.height};
}

function begin(at) {
  if (mode === 'crop') held = {at, cut, grip: grip(at)};
  else held = {kind: 'stroke', leaveOut: brush.leaveOut, size: brushSize(), points: [at], fresh: !brush.leaveOut && !marked};
  if (mode === 'mask') { stroke(held); paint(); }
}

function go(at) {
  if (mode === 'crop') { cut = dragged(held, at); fill(); return; }
  const last = held.points[held.points.length - 1];
  held.points.push(at);
  stroke({...held, fresh: false, points: [last, at]});
  paint();
}

function end() {
  const was = held;
  held = null;
  if (!was) return;
  if (was.kind === 'stroke') done(was);
  else if (same(was.cut, cut)) fill();
  else done({kind: 'crop', cut});
}

function keys(event) {
  const side = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (side) {
    event.preventDefault();
    const step = Math.max(1, Math.round(Math.max(shown.width, shown.height) / 100));
    if (mode === 'crop') {
      const w = cut.right - cut.left + side[0] * step, h = cut.bottom - cut.top + side[1] * step;
      const fixed = ratio() ? (side[0] ? [w, w / ratio()] : [h * ratio(), h]) : [w, h];
      const next = event.shiftKey ? fitted(cut.left, cut.top, Math.min(fixed[0], shown.width - cut.left), Math.min(fixed[1], shown.height - cut.top), {}) : moved(cut, side[0] * step, side[1] * step);
      if (!same(next, cut)) done({kind: 'crop', cut: next});
    } else {
      if (!cursor) cursor = {x: canvas.width / 2, y: canvas.height / 2};
      const far = Math.max(1, brushSize() / 4);
      cursor = {x: within(cursor.x + side[0] * far, 0, canvas.width), y: within(cursor.y + side[1] * far, 0, canvas.height)};
      if (held) go(cursor); else paint();
    }
  } else if (mode === 'mask' && event.key === ' ' && !event.repeat) {
    event.preventDefault();
    if (!cursor) cursor = {x: canvas.width / 2, y: canvas.height / 2};
    if (!held) begin(cursor);
  } else if (mode === 'mask' && event.key === ' ') event.preventDefault();
  else if (mode === 'mask' && (event.key === '[' || event.key === ']')) {
    brush.size = within(brush.size * (event.key === '[' ? 0.8 : 1.25), 1, 50); parts.size.value = brush.size; paint();
  }
}

function back() { if (steps.length) { undone.push(steps.pop()); play(); } }
function again() { if (undone.length) { steps.push(undone.pop()); play(); } }

// -- the dialog -------------------------------------------------------------------------------------------------------------

function field(name, label) {
  const holder = make('label', 'rs-tool-number', label);
  const input = make('input');
  input.type = 'number'; input.min = 0; input.step = 1; input.inputMode = 'numeric';
  input.addEventListener('change', typedBox);
  parts[name] = input;
  holder.append(input);
  return holder;
}

function build() {
  canvas = make('canvas', 'rs-tool-canvas');
  const finer = Math.max(1, Math.floor(SIDE / Math.max(image.naturalWidth, image.naturalHeight))); // a small picture is marked as finely as a large one
  canvas.width = image.naturalWidth * finer; canvas.height = image.naturalHeight * finer;
  canvas.tabIndex = 0; canvas.setAttribute('role', 'img');
  canvas.addEventListener('pointerdown', (event) => {
    if (event.button !== 0 || held || busy) return;
    event.preventDefault();
    canvas.focus({preventScroll: true}); canvas.setPointerCapture(event.pointerId);
    finger = event.pointerId; // a second finger does nothing
    cursor = place(event); begin(cursor);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (held && event.pointerId !== finger) return;
    const at = place(event);
    if (mode === 'mask') cursor = at;
    if (held) go(at); else if (mode === 'mask') paint();
  });
  for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, (event) => { if (event.pointerId === finger) end(); });
  canvas.addEventListener('pointerleave', () => { if (!held && mode === 'mask') { cursor = null; paint(); } });
  canvas.addEventListener('keydown', keys);
  canvas.addEventListener('keyup', (event) => { if (event.key === ' ') end(); });
  canvas.addEventListener('blur', end);

  parts = {};
  const head = make('div', 'rs-tool-head');
  parts.to_crop = button(say('Crop'), 'rs-choice', () => { mode = 'crop'; fill(); });
  parts.to_mask = button(say('Mask'), 'rs-choice', () => { mode = 'mask'; fill(); });
  head.append(make('h2', '', shown.name), parts.to_crop, parts.to_mask);

  parts.crop_row = make('div', 'rs-tool-row');
  const shape = make('label', 'rs-tool-number', say('Shape'));
  parts.shape = make('select');
  for (const [text, value] of [[say('Free'), ''], ...shown.shapes]) { const option = make('option', '', text); option.value = value; parts.shape.append(option); }
  parts.shape.addEventListener('change', () => {
    if (!ratio()) return;
    const box = fitted(cut.left, cut.top, cut.right - cut.left, cut.bottom - cut.top, {});
    if (!same(box, cut)) done({kind: 'crop', cut: box});
  });
  shape.append(parts.shape);
  parts.crop_row.append(shape, field('left', say('Left')), field('top', say('Top')), field('width', say('Width')), field('height', say('Height')),
    button(say('Whole picture'), '', () => { parts.shape.value = ''; if (!same(cut, whole())) done({kind: 'crop', cut: whole()}); }));

  parts.mask_row = make('div', 'rs-tool-row');
  parts.keep = button(say('Train here'), 'rs-choice', () => { brush.leaveOut = false; fill(); });
  parts.leave = button(say('Leave out'), 'rs-choice', () => { brush.leaveOut = true; fill(); });
  const size = make('label', 'rs-tool-number', say('Brush'));
  parts.size = make('input');
  Object.assign(parts.size, {type: 'range', min: 1, max: 50, step: 1, value: brush.size});
  parts.size.addEventListener('input', () => { brush.size = Number(parts.size.value); });
  size.append(parts.size);
  parts.mask_row.append(parts.keep, parts.leave, size, button(say('Invert'), '', () => done({kind: 'invert'})), button(say('Remove the mask'), '', () => { if (marked) done({kind: 'clear'}); }));

  parts.status = make('p', 'rs-tool-status');
  parts.status.setAttribute('aria-live', 'polite');
  parts.error = make('p', 'rs-tool-error');
  parts.error.setAttribute('role', 'alert'); parts.error.hidden = true;
  const help = make('details', 'rs-quiet');
  help.append(make('summary', '', say('How it works')), make('p', '', [
    say('Crop: drag a box, its edges or its middle; arrow keys move it, with Shift they size it.'),
    say('Mask: paint what to train on; the rest is left out. Arrow keys move the brush, the space bar paints, [ and ] change its size. Ctrl+Z undoes, Ctrl+Shift+Z brings back.'),
    say('The picture itself is never changed: the crop and the mask are files beside it.')].join(' ')));
  const foot = make('div', 'rs-tool-foot');
  parts.undo = button(say('Undo'), '', back); parts.redo = button(say('Redo'), '', again);
  parts.reset = button(say('Reset'), '', () => { steps = []; undone = []; play(); });
  parts.cancel = button(say('Cancel'), '', leave);
  parts.save = button(say('Save'), 'rs-main', save);
  foot.append(parts.undo, parts.redo, parts.reset, make('span', 'rs-tool-gap'), parts.cancel, parts.save);
  parts.sure = make('div', 'rs-tool-sure');
  parts.sure.hidden = true;
  parts.asks = make('span'); parts.go = button('', '', () => { if (busy) dialog.close(); else shut(); });
  parts.stay = button('', 'rs-main', () => { parts.sure.hidden = true; canvas.focus(); });
  parts.sure.append(parts.asks, parts.go, parts.stay);
  const stage = make('div', 'rs-tool-stage');
  stage.append(canvas);
  dialog.replaceChildren(head, stage, parts.status, parts.crop_row, parts.mask_row, parts.error, help, parts.sure, foot);
  dialog.setAttribute('aria-label', say('Crop and mask {0}', shown.name));
}

// As large as the window allows, with room for the rows below.
function fit() {
  const wide = dialog.clientWidth - 34, high = window.innerHeight * (window.innerWidth > 640 ? 0.6 : 0.48);
  canvas.style.width = `${Math.floor(Math.min(wide, high * canvas.width / canvas.height))}px`;
}

function leave() {
  if (!changed()) { shut(); return; }
  parts.asks.textContent = busy ? say('The changes are still being saved. If that fails, they are shown here again.') : say('The changes are not saved.');
  parts.go.textContent = busy ? say('Close') : say('Discard them');
  parts.stay.textContent = busy ? say('Wait') : say('Keep editing');
  parts.sure.hidden = false;
  parts.stay.focus();
}

function shut() {
  steps = []; undone = []; busy = false;
  if (dialog.open) dialog.close();
}

function maskFile() { // white where it is trained on
  const made = layer(), pen = made.getContext('2d');
  pen.fillStyle = '#fff'; pen.fillRect(0, 0, made.width, made.height);
  pen.drawImage(out, 0, 0); // its colour is black
  return made.toDataURL('image/png');
}

function save() {
  busy = true; saving = {stamp: shown.stamp, name: shown.name}; parts.error.hidden = true; parts.sure.hidden = true; fill();
  const mask = !painted() ? null : {png: marked ? maskFile() : ''}; // null = as it is, "" = none
  props.value = JSON.stringify({folder: shown.folder, name: shown.name, cut: same(cut, whole()) ? null : cut, mask});
  trigger('submit', {});
}

function picture(url) {
  return new Promise((ready, failed) => { const made = new Image(); made.onload = () => ready(made); made.onerror = failed; made.src = url; });
}

async function open() {
  const mine = shown.stamp;
  let mask = null;
  try {
    image = await picture(shown.url);
    if (shown.mask) mask = await picture(shown.mask);
  } catch (error) {
    if (mine === stamp) dialog.replaceChildren(make('p', 'rs-tool-error', say('The picture could not be loaded. Close this and try again.')), button(say('Close'), '', shut));
    if (!dialog.open) dialog.showModal();
    return;
  }
  if (mine !== stamp) return; // another one was opened meanwhile
  steps = []; undone = []; mode = 'crop'; cursor = null; busy = false; held = null;
  build();
  opened = {cut: shown.cut || whole(), out: null};
  if (mask) { // grey becomes opacity: black is left out
    opened.out = layer();
    const pen = opened.out.getContext('2d');
    pen.drawImage(mask, 0, 0, canvas.width, canvas.height);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 0; at < pixels.data.length; at += 4) { pixels.data[at + 3] = 255 - pixels.data[at]; pixels.data[at] = pixels.data[at + 1] = pixels.data[at + 2] = 0; }
    pen.putImageData(pixels, 0, 0);
  }
  if (!dialog.open) dialog.showModal();
  fit();
  play();
  canvas.focus();
}

function take() {
  const answer = props.shown;
  if (!answer || answer.stamp === stamp) return;
  stamp = answer.stamp;
  const saved = saving;
  if (answer.state !== 'open') saving = null;
  if (answer.state === 'open') { shown = answer; open(); }
  else if (saved && shown && saved.stamp !== shown.stamp) { // of a picture that was left while it was being saved
    if (answer.state === 'kept' && dialog.open) { parts.error.textContent = say('{0} was not saved: {1}', saved.name, answer.error); parts.error.hidden = false; }
  }
  else if (answer.state === 'kept' && canvas && busy) { // not saved; whoever has closed the dialog meanwhile gets it back as it was
    busy = false; parts.error.textContent = answer.error; parts.error.hidden = false; parts.sure.hidden = true;
    if (!dialog.open) dialog.showModal();
    fill();
  }
  else shut();
}

dialog.addEventListener('cancel', (event) => { event.preventDefault(); leave(); });
dialog.addEventListener('keydown', (event) => {
  if (event.key.toLowerCase() === 'z' && (event.ctrlKey || event.metaKey) && !['INPUT', 'SELECT'].includes(event.target.tagName)) {
    event.preventDefault();
    if (busy || held) return;
    if (event.shiftKey) again(); else back();
  }
});
window.addEventListener('resize', () => { if (dialog.open && canvas && out) { fit(); veil = null; paint(); } });
take();
watch('shown', take);
