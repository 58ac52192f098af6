// The search over all settings (see app/train/find_option.py), and every link to a field: <a data-option="NAME">.
// A field may be in closed folds and behind tabs: `props.places` has, for each option, what must be opened on the way to it.

const field = element.querySelector('input');
const list = element.querySelector('ul');
const words = (text) => text.toLowerCase().split(/[\s_]+/).filter(Boolean);
let found = [];
let chosen = 0;

window.rsFindOption?.abort(); // the component may be mounted again
window.rsFindOption = new AbortController();
const whileMounted = {signal: window.rsFindOption.signal};

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(seen, ms = 4000) {
  for (const end = performance.now() + ms; performance.now() < end; await pause(40)) {
    const is = seen();
    if (is) return is;
  }
  return null;
}

async function open(place) {
  if (place.startsWith('tab:')) {
    const name = place.slice(4);
    const button = await until(() => [...document.querySelectorAll('[role=tab]')].find((each) => each.offsetParent && each.textContent.trim() === name));
    if (button) button.click();
    return;
  }
  const head = await until(() => document.querySelector(`${place} > button`));
  const isOpen = () => head.classList.contains('open');
  // A fold that has just come into view may be drawn once more, closed: it counts as open when it stays open.
  for (let tries = 0; head && tries < 5; tries += 1) {
    if (!isOpen()) head.click();
    await pause(120);
    if (isOpen()) return;
  }
}

async function goTo(name) {
  for (const place of props.places[name] || []) await open(place);
  const target = await until(() => {
    const each = document.getElementById(`opt-${name}`);
    return each && each.offsetParent ? each : null;
  });
  if (!target) return;
  await pause(120); // folds above are still closing
  target.scrollIntoView({block: 'center'});
  target.classList.add('rs-found');
  setTimeout(() => target.classList.remove('rs-found'), 2500);
  const input = target.querySelector('input:not([type=range]), textarea, input');
  if (input) input.focus({preventScroll: true});
}

function score(option, asked) {
  const label = option.label.toLowerCase();
  if (!asked.every((word) => option.text.includes(word))) return 0;
  return 1 + asked.reduce((sum, word) => sum + (label.startsWith(word) ? 4 : label.includes(word) ? 3 : option.name.includes(word) ? 2 : 0), 0);
}

function draw() {
  list.replaceChildren();
  found.forEach((option, number) => {
    const row = document.createElement('li');
    row.id = `found-${number}`;
    row.setAttribute('role', 'option');
    row.setAttribute('aria-selected', String(number === chosen));
    const title = document.createElement('b');
    title.textContent = option.label;
    const where = document.createElement('span');
    where.textContent = option.where;
    const help = document.createElement('small');
    help.textContent = option.help;
    row.append(title, where, help);
    row.addEventListener('pointerdown', (event) => { event.preventDefault(); take(number); });
    list.append(row);
  });
  const none = field.value.trim() && !found.length;
  if (none) list.append(Object.assign(document.createElement('li'), {textContent: say('No setting has these words.'), className: 'rs-none'}));
  list.hidden = !found.length && !none;
  field.setAttribute('aria-expanded', String(!list.hidden));
  field.setAttribute('aria-activedescendant', found.length ? `found-${chosen}` : '');
}

function search() {
  const asked = words(field.value);
  const scored = asked.length ? props.options.map((option) => [score(option, asked), option]).filter(([points]) => points > 0) : [];
  found = scored.sort((one, other) => other[0] - one[0]).slice(0, 8).map(([, option]) => option);
  chosen = 0;
  draw();
}

function close() {
  found = [];
  field.value = '';
  draw();
}

function take(number) {
  const option = found[number];
  if (!option) return;
  close();
  field.blur();
  goTo(option.name);
}

field.addEventListener('input', search);
field.addEventListener('blur', close);
field.addEventListener('keydown', (event) => {
  const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
  if (step && found.length) {
    chosen = (chosen + step + found.length) % found.length;
    draw();
    list.querySelector('[aria-selected=true]').scrollIntoView({block: 'nearest'});
  } else if (event.key === 'Enter') take(chosen);
  else if (event.key === 'Escape') field.blur();
  else return;
  event.preventDefault();
});

document.addEventListener('keydown', (event) => {
  const typing = event.target.closest && event.target.closest('input:not([type=radio], [type=checkbox], [type=range]), textarea, select, [contenteditable]');
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey || typing || !field.offsetParent) return;
  event.preventDefault();
  field.focus();
}, whileMounted);
document.addEventListener('click', (event) => {
  const link = event.target.closest && event.target.closest('a[data-option]');
  if (!link) return;
  event.preventDefault();
  goTo(link.dataset.option);
}, whileMounted);
