// One chart of curves over training steps (see app/parts/live_chart.py): which curves, how smooth, a logarithmic axis, and a part of the steps
// in large, all in the browser. New points come as `props.value` (Gradio loses what it is told of any other property before a tab is opened for
// the first time); what was chosen stays.
const find = (name) => element.querySelector(`[data-part="${name}"]`);
const box = element.querySelector('.rs-live');
const plot = find('plot');
const kept = JSON.parse(localStorage.getItem('rollout-studio-chart') || '{}'); // smoothing and axis are a habit, not a property of a run
const hidden = new Set();
let range = null; // [from, to] of the horizontal axis; null: all of it
let cursor = null; // the place that the reading stands for
let drag = null;
let lines = [];
let span = [0, 1];

const svg = (name, given) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(given)) made.setAttribute(key, value);
  return made;
};
const html = (name, given, ...inside) => {
  const made = Object.assign(document.createElement(name), given);
  made.append(...inside);
  return made;
};

function quantity(value) {
  if (!Number.isFinite(value)) return '–';
  if (value === 0) return '0';
  const size = Math.abs(value);
  return size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(size >= 1000 ? 6 : 3))) : value.toExponential(2);
}

/** Exponential moving average with bias correction, as `charts.smoothed`; a gap (null) keeps the last value. */
function smoothed(ys, weight) {
  let mean = 0;
  let total = 0;
  return ys.map((y) => {
    if (y !== null) [mean, total] = [weight * mean + (1 - weight) * y, weight * total + 1 - weight];
    return total ? mean / total : null;
  });
}

function ticks(low, high, about) {
  const raw = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index += 1) found.push(index * step);
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
    for (const factor of high / low > 1000 ? [1] : [1, 2, 5]) if (factor * 10 ** power >= low && factor * 10 ** power <= high) found.push(factor * 10 ** power);
  return found.length > 1 ? found : ticks(low, high, 4);
}

const isLog = () => find('log').checked;
const weight = () => Number(find('smooth').value);
const across = (x) => (1000 * (x - span[0])) / (span[1] - span[0]);

function path(xs, ys, down, from, to) {
  const parts = [];
  let pen = 'M';
  for (let i = from; i <= to; i += 1) {
    if (ys[i] === null || (isLog() && !(ys[i] > 0))) pen = 'M';
    else {
      parts.push(`${pen}${across(xs[i]).toFixed(1)} ${down(ys[i]).toFixed(1)}`);
      pen = 'L';
    }
  }
  if (parts.length === 1) parts.push('h6'); // a single point would be invisible
  return parts.join('');
}

function draw() {
  const data = props.value;
  box.hidden = !data || !data.lines.length;
  if (box.hidden) return;
  find('title').textContent = data.title;
  const keys = data.lines.map((line) => line.key);
  const legend = find('legend');
  if ([...legend.children].map((each) => each.dataset.key).join('|') !== keys.join('|')) {
    legend.replaceChildren(...data.lines.map((line) => {
      const mark = html('i', { className: `rs-key${line.dashed ? ' rs-key-dashed' : ''}` });
      mark.style.setProperty('--k', `var(--rs-${line.color})`);
      const button = html('button', { type: 'button', className: 'rs-key-button' }, mark, line.name);
      button.dataset.key = line.key;
      return button;
    }));
  }
  for (const button of legend.children) button.setAttribute('aria-pressed', String(!hidden.has(button.dataset.key)));
  const whole = [Math.min(...data.lines.map((line) => line.xs[0])), Math.max(data.end, ...data.lines.map((line) => line.xs[line.xs.length - 1]))];
  if (!(whole[1] > whole[0])) whole[1] = whole[0] + 1;
  span = range ?? [0, whole[1]];
  lines = data.lines.filter((line) => !hidden.has(line.key)).map((line) => {
    const smooth = smoothed(line.ys, weight());
    let from = line.xs.findIndex((x) => x >= span[0]);
    let to = line.xs.findLastIndex((x) => x <= span[1]);
    if (from < 0 || to < from) [from, to] = [0, -1];
    return { ...line, smooth, from: Math.max(0, from - 1), to: Math.min(line.xs.length - 1, to + 1), inside: [from, to] };
  });
  scale();
}

function scale() {
  let low = Infinity;
  let high = -Infinity;
  for (const line of lines)
    for (let i = line.inside[0]; i <= line.inside[1]; i += 1)
      for (const y of weight() && !line.raw ? [line.smooth[i]] : [line.smooth[i], line.ys[i]])
        if (y !== null && !(isLog() && !(y > 0))) [low, high] = [Math.min(low, y), Math.max(high, y)];
  const empty = !Number.isFinite(low);
  if (empty) [low, high] = [isLog() ? 0.1 : 0, 1];
  if (isLog()) [low, high] = [low / 1.05, high * 1.05];
  else {
    const room = high > low ? high - low : Math.abs(high) || 1;
    [low, high] = [low >= 0 && low < 1.5 * room ? 0 : low - 0.05 * room, high + 0.05 * room]; // a loss is read from zero
  }
  const down = isLog()
    ? (y) => 1000 * (1 - Math.log(y / low) / Math.log(high / low))
    : (y) => 1000 * (1 - (y - low) / (high - low));
  const yTicks = isLog() ? logTicks(low, high) : ticks(low, high, 4);
  const drawn = yTicks.map((y) => svg('line', { x1: 0, x2: 1000, y1: down(y), y2: down(y), class: 'rs-grid' }));
  for (const line of lines) {
    const add = (ys, more) => {
      const made = svg('path', { d: path(line.xs, ys, down, line.from, line.to), class: `rs-line${more}${line.dashed ? ' rs-dashed' : ''}` });
      made.style.setProperty('--k', `var(--rs-${line.color})`);
      drawn.push(made);
    };
    if (line.raw && weight() > 0) add(line.ys, ' rs-faint');
    add(line.smooth, '');
  }
  drawn.push(svg('line', { y1: 0, y2: 1000, class: 'rs-cursor', 'data-part': 'cursor' }), svg('rect', { y: 0, height: 1000, class: 'rs-selecting', 'data-part': 'selecting' }));
  plot.replaceChildren(...drawn);
  find('y').replaceChildren(...yTicks.map((y) => label(quantity(y), 'top', down(y) / 10)));
  find('x').replaceChildren(...ticks(...span, 5).map((x) => label(quantity(x), 'left', across(x) / 10)));
  find('x-name').textContent = props.value.x;
  find('whole').disabled = range === null;
  const last = lines.map((line) => `${line.name} ${quantity(line.smooth[line.smooth.length - 1])}`).join('; ');
  plot.setAttribute('aria-label', `${props.value.title}. ${say('At the end')}: ${last}. ${say('Arrow keys read the values, plus and minus zoom, 0 shows all.')}`);
  read();
}

function label(text, side, share) {
  const made = html('span', { textContent: text });
  made.style[side] = `${share.toFixed(2)}%`;
  return made;
}

/** The values at the cursor, in words and as a line in the picture. */
function read() {
  const line = find('cursor');
  const at = cursor !== null && cursor >= span[0] && cursor <= span[1] && lines.length ? nearest(lines[0].xs, cursor) : null;
  line.style.display = at === null ? 'none' : '';
  if (at === null) {
    find('reading').textContent = '';
    return;
  }
  const x = lines[0].xs[at];
  line.setAttribute('x1', across(x));
  line.setAttribute('x2', across(x));
  const values = lines.map((each) => {
    const i = each === lines[0] ? at : nearest(each.xs, x);
    return `${each.name} ${quantity(each.smooth[i])}`;
  });
  find('reading').textContent = `${props.value.x} ${quantity(x)} · ${values.join(' · ')}`;
}

function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

function zoom(from, to) {
  const end = Math.max(props.value.end, ...props.value.lines.map((line) => line.xs[line.xs.length - 1]));
  const low = Math.max(0, from);
  const high = Math.min(end, to);
  range = high - low >= end ? null : high - low < 2 * (end / 1e4) ? range : [low, high];
  draw();
}

function by(factor) {
  const middle = cursor !== null && cursor >= span[0] && cursor <= span[1] ? cursor : (span[0] + span[1]) / 2;
  zoom(middle - (middle - span[0]) * factor, middle + (span[1] - middle) * factor);
}

function whole() {
  range = null;
  draw();
}

const place = (event) => {
  const area = plot.getBoundingClientRect();
  return span[0] + (Math.min(1, Math.max(0, (event.clientX - area.left) / area.width))) * (span[1] - span[0]);
};

plot.addEventListener('pointerdown', (event) => {
  if (event.button !== 0) return;
  drag = place(event);
  plot.setPointerCapture(event.pointerId);
});
plot.addEventListener('pointermove', (event) => {
  cursor = place(event);
  const area = find('selecting');
  if (drag !== null && area) {
    area.setAttribute('x', across(Math.min(drag, cursor)));
    area.setAttribute('width', Math.abs(across(drag) - across(cursor)));
  }
  read();
});
plot.addEventListener('pointerup', (event) => {
  const [from, to] = [drag, place(event)];
  drag = null;
  if (from !== null && Math.abs(across(from) - across(to)) > 15) zoom(Math.min(from, to), Math.max(from, to));
  else draw();
});
plot.addEventListener('pointercancel', () => { drag = null; draw(); });
plot.addEventListener('pointerleave', () => { if (drag === null && document.activeElement !== plot) { cursor = null; read(); } });
plot.addEventListener('dblclick', whole);
plot.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !lines.length) return;
  const move = { ArrowLeft: -1, ArrowRight: 1, PageDown: -20, PageUp: 20 }[event.key];
  const { xs, inside: [first, last] } = lines[0];
  if (move) cursor = xs[cursor === null ? (move < 0 ? last : first) : Math.min(last, Math.max(first, nearest(xs, cursor) + move))];
  else if (event.key === 'Home') cursor = xs[first];
  else if (event.key === 'End') cursor = xs[last];
  else if (event.key === '+' || event.key === '=') by(0.5);
  else if (event.key === '-') by(2);
  else if (event.key === '0' || event.key === 'Escape') whole();
  else return;
  event.preventDefault();
  read();
});
find('closer').addEventListener('click', () => by(0.5));
find('wider').addEventListener('click', () => by(2));
find('whole').addEventListener('click', whole);
find('legend').addEventListener('click', (event) => {
  const key = event.target.closest('button')?.dataset.key;
  if (key === undefined) return;
  if (!hidden.delete(key)) hidden.add(key);
  draw();
});
for (const name of ['log', 'smooth'])
  find(name).addEventListener('input', () => {
    localStorage.setItem('rollout-studio-chart', JSON.stringify({ log: isLog(), smooth: find('smooth').value }));
    draw();
  });

find('log').checked = kept.log === true;
find('smooth').value = kept.smooth ?? '0.9';
let who = props.value?.id;
watch('value', () => {
  if (props.value?.id !== who) [who, range, cursor] = [props.value?.id, null, null]; // another run
  if (drag === null) draw();
});
draw();
