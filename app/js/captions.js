// The pictures of a set with a caption field under each (see app/train/pictures/panel.py). Gradio's HTML component hands in `element`,
// `props`, `trigger` and `watch`. `props.shown` comes from Python; `props.value` goes there: {folder, page, drafts} as JSON.
//
// Captions that are typed and not saved ("drafts") are kept by folder: nothing else on the page, no other page of pictures and no reload
// loses them. Names and captions come from strangers: they only ever become text, never markup.

const box = element.querySelector('.rs-set');
const STORE = 'rollout-studio-captions';
const kept = window.rolloutStudioCaptions || (window.rolloutStudioCaptions = {drafts: stored(), sent: '', chosen: {}, undos: {}});
let areas = new Map();
let signature = '';
let later = null;
let wanted = null; // the page that was asked for and has not come yet: {folder, page}

function stored() {
  try {
    const read = JSON.parse(sessionStorage.getItem(STORE));
    return read && typeof read === 'object' ? read : {};
  } catch (error) {
    return {}; // storage is switched off or holds something else: drafts then live as long as the page
  }
}

function drafts() {
  const folder = props.shown.folder;
  return kept.drafts[folder] || (kept.drafts[folder] = {});
}

// The drafts of pictures that are there; those of a removed one wait for its return.
function live() {
  const there = new Set(props.shown.names);
  return Object.fromEntries(Object.entries(drafts()).filter(([name]) => there.has(name)));
}

function unsavedAnywhere() {
  return Object.values(kept.drafts).some((each) => Object.keys(each).length > 0);
}

// What Python knows of the drafts; also into the browser's own storage, for a reload.
function report() {
  if (later) { clearTimeout(later); later = null; }
  const shown = props.shown;
  const now = JSON.stringify({folder: shown.folder, page: wanted ? wanted.page : shown.page, drafts: live()});
  if (props.value !== now) props.value = now;
  try {
    sessionStorage.setItem(STORE, JSON.stringify(kept.drafts));
  } catch (error) { /* full or switched off: they stay in memory */ }
}

function send(event, data) { report(); trigger(event, data || {}); }

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, className, act, label) {
  const made = make('button', className, text);
  made.type = 'button';
  if (label) made.setAttribute('aria-label', label);
  made.addEventListener('click', act);
  return made;
}

function typed(item, text) {
  const mine = drafts();
  if (text === item.caption) delete mine[item.name];
  else mine[item.name] = {text, was: mine[item.name] ? mine[item.name].was : item.caption};
  bar();
  if (later) clearTimeout(later);
  later = setTimeout(() => { report(); trigger('input', {}); }, 500); // the checks follow
}

function marks(item) {
  const row = make('div', 'rs-marks');
  for (const mark of item.marks) {
    const made = make('span', `rs-mark rs-mark-${mark.level}`, mark.short);
    made.title = mark.full;
    row.append(made);
  }
  return row;
}

function card(item) {
  const figure = make('figure', 'rs-picture');
  figure.tabIndex = -1;
  if (item.url) {
    const image = make('img'), frame = make('div', 'rs-picture-frame');
    image.src = item.url; image.alt = item.name; image.loading = 'lazy';
    frame.append(image);
    figure.append(frame);
  } else figure.append(make('div', 'rs-gone', say('cannot be shown')));
  const head = make('div', 'rs-picture-head');
  const name = make('span', 'rs-picture-name', item.name);
  name.title = item.size ? `${item.name}, ${item.size}` : item.name;
  let select = null;
  if (item.editable) { select = selector(item); head.append(select); }
  head.append(name);
  if (props.shown.markable && item.readable) head.append(button('✂', 'rs-remove rs-edit', () => send('edit', {name: item.name}), say('Crop or mask {0}', item.name)));
  if (props.shown.removable) head.append(button('×', 'rs-remove', () => send('delete', {name: item.name}), say('Remove {0}', item.name)));
  figure.append(head);
  let area = null;
  if (item.editable) {
    area = make('textarea', 'rs-caption');
    area.rows = 2; area.spellcheck = true;
    area.setAttribute('aria-label', say('Caption of {0}', item.name));
    area.addEventListener('input', () => { typed(item, area.value); area.classList.toggle('rs-draft', item.name in drafts()); });
    area.addEventListener('change', () => { report(); });
    figure.append(area);
  } else figure.append(make('figcaption', '', item.caption || item.fallback));
  let row = marks(item);
  figure.append(row);
  const held = {item, area, select, refresh(next) {
    Object.assign(item, next);
    part(figure, item.cut);
    const replaced = marks(item);
    row.replaceWith(replaced); row = replaced;
    if (!area) return;
    const draft = drafts()[item.name];
    const wanted = draft ? draft.text : item.caption;
    if (area.value !== wanted) area.value = wanted;
    area.placeholder = item.fallback ? say('as for all: {0}', item.fallback) : say('no caption yet');
    area.classList.toggle('rs-draft', Boolean(draft));
  }};
  held.refresh(item);
  areas.set(item.name, held);
  return figure;
}

// A frame over the thumbnail around what is kept of the picture.
function part(figure, cut) {
  const frame = figure.querySelector('.rs-picture-frame');
  if (!frame) return;
  const old = frame.querySelector('.rs-kept');
  if (old) old.remove();
  if (!cut) return;
  const across = Math.min(1, cut.aspect), down = Math.min(1, 1 / cut.aspect); // how much of the square the picture fills
  const made = make('div', 'rs-kept');
  const percent = (share) => `${100 * share}%`;
  Object.assign(made.style, {left: percent((1 - across) / 2 + cut.left * across), top: percent((1 - down) / 2 + cut.top * down),
    width: percent(cut.width * across), height: percent(cut.height * down)});
  frame.append(made);
}

function pager(shown) {
  const row = make('nav', 'rs-pager');
  row.setAttribute('aria-label', say('Pages of pictures'));
  const go = (page) => { wanted = {folder: shown.folder, page}; send('select'); };
  const back = button(say('‹ Previous'), 'rs-small', () => go(shown.page - 1));
  const on = button(say('Next ›'), 'rs-small', () => go(shown.page + 1));
  back.disabled = shown.page === 0; on.disabled = shown.page >= shown.pages - 1;
  const first = shown.page * shown.per_page + 1;
  row.append(back, make('span', '', say('{0} of {1}', `${first}–${first + shown.items.length - 1}`, shown.total)), on);
  return row;
}

// The line above the pictures: what can be done with the captions now.
function bar() {
  const shown = props.shown, place = box.querySelector('.rs-set-bar');
  if (!place) return;
  const insert = place.querySelector('.rs-insert');
  insert.textContent = shown.trigger ? say('Put “{0}” into the captions', shown.trigger) : say('Insert the trigger word');
  insert.disabled = !shown.trigger;
  insert.title = shown.trigger ? say('In front of every caption that lacks it; nothing is written until you save.') : say('Write a trigger word above first.');
  const names = Object.keys(live());
  const here = names.filter((name) => areas.has(name)).length;
  place.classList.toggle('rs-unsaved', names.length > 0);
  place.querySelector('.rs-save').disabled = place.querySelector('.rs-discard').disabled = names.length === 0;
  const away = names.length - here;
  const hint = place.querySelector('.rs-hint');
  if (names.length === 0) hint.textContent = shown.hint;
  else {
    const many = away ? say('{0} captions changed and not saved yet ({1} on other pages).', names.length, away) : say('{0} captions changed and not saved yet.', names.length);
    const one = away ? say('1 caption changed and not saved yet ({0} on other pages).', away) : say('1 caption changed and not saved yet.');
    hint.replaceChildren(make('b', '', names.length === 1 ? one : many), ` ${shown.where}`);
  }
}

function tools(shown) {
  const row = make('div', 'rs-set-bar');
  const buttons = make('div', 'rs-set-buttons');
  const insert = button('', 'rs-small rs-insert', () => send('apply'));
  const save = button(say('Save captions'), 'rs-small rs-main rs-save', () => send('submit'));
  const discard = button(say('Discard changes'), 'rs-small rs-discard', () => {
    delete kept.drafts[props.shown.folder]; delete kept.undos[props.shown.folder];
    for (const held of areas.values()) held.refresh({});
    bar(); send('input');
  });
  buttons.append(insert, save, discard);
  row.append(make('span', 'rs-hint'), buttons);
  return row;
}

function take(shown) {
  // Once for each answer: what was saved is no draft any more, what was proposed becomes one.
  if (shown.stamp === kept.sent) return;
  kept.sent = shown.stamp;
  if (shown.moved_from && kept.drafts[shown.moved_from]) { // the set was copied: its drafts go along
    kept.drafts[shown.folder] = {...kept.drafts[shown.moved_from], ...kept.drafts[shown.folder]};
    delete kept.drafts[shown.moved_from];
  }
  if (shown.moved_from && kept.undos[shown.moved_from]) {
    kept.undos[shown.folder] = kept.undos[shown.moved_from];
    delete kept.undos[shown.moved_from];
  }
  remember(shown);
  const mine = drafts();
  for (const [name, was] of Object.entries(shown.changed)) if (mine[name]) mine[name].was = was;
  for (const [name, text] of Object.entries(shown.saved)) {
    if (mine[name] && mine[name].text === text.sent) delete mine[name];
    else if (mine[name]) mine[name].was = text.now; // typed on meanwhile
  }
  for (const [name, {text, was}] of Object.entries(shown.proposed)) mine[name] = {text, was};
}

function draw() {
  const shown = props.shown;
  if (!shown) { box.replaceChildren(); return; }
  take(shown);
  // An answer to something asked earlier may still show the page before; the wish stands until it is met.
  if (wanted && (wanted.folder !== shown.folder || shown.page === Math.min(wanted.page, shown.pages - 1))) wanted = null;
  for (const item of shown.items) {
    const draft = drafts()[item.name];
    if (draft && (draft.text === item.caption || !item.editable)) delete drafts()[item.name];
  }
  const now = JSON.stringify([shown.folder, shown.page, shown.total, shown.editable, shown.removable, shown.markable, shown.items.map((item) => [item.name, item.url, item.editable, item.readable])]);
  if (now === signature && box.childElementCount) {
    for (const item of shown.items) areas.get(item.name).refresh(item);
    box.querySelector('.rs-set-head').textContent = shown.head;
  } else {
    signature = now;
    areas = new Map();
    const grid = make('div', 'rs-grid-pictures');
    grid.append(...shown.items.map(card));
    const parts = [make('p', 'rs-set-head', shown.head)];
    if (shown.editable) parts.push(tools(shown), captionTools());
    box.classList.toggle('rs-selecting', Boolean(shown.editable && kept.tools));
    if (shown.pages > 1) parts.push(pager(shown));
    parts.push(grid);
    if (shown.pages > 1) parts.push(pager(shown));
    box.replaceChildren(...parts);
  }
  undo(shown);
  lost(shown);
  bar();
  if (shown.editable) { toolbar(); undoLine(); }
  report();
  arrive();
}

function undo(shown) {
  const old = box.querySelector('.rs-undo');
  if (old) old.remove();
  if (!shown.removed) return;
  const row = make('p', 'rs-undo rs-quiet', `${say('{0} removed.', shown.removed)} `);
  row.append(button(say('Bring back the last one'), 'rs-link', () => send('undo')));
  box.append(row);
}

// The folder is gone or its pictures are, but captions for it were typed: they are shown, so that they can be copied.
function lost(shown) {
  const old = box.querySelector('.rs-lost');
  if (old) old.remove();
  const names = Object.keys(drafts());
  if (shown.total > 0 || names.length === 0) return;
  const note = make('div', 'rs-lost');
  note.append(make('p', '', say('Captions that you typed for this folder and did not save; they come back with its pictures:')));
  note.append(make('pre', '', names.map((name) => `${name}: ${drafts()[name].text}`).join('\n')));
  box.append(note);
}

kept.lead = null;
kept.leads = lead; // of the component that is on the page now
if (!kept.guarded) {
  kept.guarded = true;
  document.addEventListener('click', (event) => {
    const name = event.target.closest('#picture-checks [data-picture-at]');
    if (name) kept.leads(Number(name.dataset.pictureAt));
  });
  window.addEventListener('beforeunload', (event) => { if (unsavedAnywhere()) event.preventDefault(); });
}
draw();
watch('shown', draw);
