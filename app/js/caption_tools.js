// Tools for many captions at once, above the pictures; runs in the scope of captions.js, which follows. What they propose comes from Python
// and becomes drafts; what stood before is kept, so that one edit after the other can be undone, also after saving.

const UNDOS = 50;

function chosen() { // names of the selected pictures of this folder
  const folder = props.shown.folder;
  return kept.chosen[folder] || (kept.chosen[folder] = new Set());
}

function undos() {
  const folder = props.shown.folder;
  return kept.undos[folder] || (kept.undos[folder] = []);
}

function liveChosen() { const there = new Set(props.shown.names); return [...chosen()].filter((name) => there.has(name)); }

// A box on a picture's card, shown while the tools are open.
function selector(item) {
  const box_ = make('input', 'rs-select');
  box_.type = 'checkbox';
  box_.checked = chosen().has(item.name);
  box_.setAttribute('aria-label', say('Select {0}', item.name));
  box_.addEventListener('change', () => {
    if (box_.checked) chosen().add(item.name); else chosen().delete(item.name);
    toolbar();
  });
  return box_;
}

function input(label, className) {
  const made = make('input', className);
  made.type = 'text'; made.setAttribute('aria-label', label); made.placeholder = label;
  return made;
}

function many(act, data) {
  const place = box.querySelector('.rs-many');
  const some = place.querySelector('input[value=some]').checked;
  send('apply', {act, ...data, ...(some ? {names: liveChosen()} : {})});
}

function scope(value, checked) {
  const holder = make('label', 'rs-scope'), radio = make('input');
  Object.assign(radio, {type: 'radio', name: 'rs-scope', value, checked});
  radio.addEventListener('change', () => { kept.scope = value; toolbar(); }); // the cards are made anew with every page
  holder.append(radio, make('span'));
  return holder;
}

function captionTools() {
  const place = make('details', 'rs-many');
  place.open = Boolean(kept.tools);
  place.addEventListener('toggle', () => { kept.tools = place.open; box.classList.toggle('rs-selecting', place.open); });
  box.classList.toggle('rs-selecting', place.open);
  const find = input(say('Find in captions')), other = input(say('Replace by')), exact = make('input'), exactly = make('label', 'rs-scope');
  exact.type = 'checkbox';
  exactly.append(exact, make('span', '', say('Match case')));
  const replace = () => many('replace', {text: find.value, replacement: other.value, exact: exact.checked});
  const tag = input(say('Tag'), 'rs-tag-field');
  const rows = [make('div', 'rs-many-row'), make('div', 'rs-many-row'), make('div', 'rs-many-row')];
  rows[0].append(make('span', 'rs-many-title', say('For')), scope('all', kept.scope !== 'some'), scope('some', kept.scope === 'some'),
    button(say('Select those shown'), 'rs-link', () => { for (const name of areas.keys()) chosen().add(name); drawn(); }),
    button(say('Select none'), 'rs-link', () => { chosen().clear(); drawn(); }));
  rows[1].append(make('span', 'rs-many-title', say('Text')), find, other, exactly, button(say('Replace'), 'rs-small', replace));
  rows[2].append(make('span', 'rs-many-title', say('Tags')), tag, button(say('Add in front'), 'rs-small', () => many('front', {text: tag.value})),
    button(say('Add at the end'), 'rs-small', () => many('end', {text: tag.value})), button(say('Remove'), 'rs-small', () => many('remove', {text: tag.value}), say('Remove the tag')));
  for (const each of [find, other]) each.addEventListener('keydown', (event) => { if (event.key === 'Enter') replace(); });
  place.append(make('summary', '', say('Edit many captions')), ...rows, make('div', 'rs-tags'));
  return place;
}

function drawn() { // the boxes on the cards, after the selection changed
  for (const [name, held] of areas) if (held.select) held.select.checked = chosen().has(name);
  toolbar();
}

// The counts in the tools, and the tags.
function toolbar() {
  const place = box.querySelector('.rs-many');
  if (!place) return;
  const [all, some] = place.querySelectorAll('.rs-scope span');
  all.textContent = say('all {0} pictures', props.shown.total);
  some.textContent = say('the {0} selected', liveChosen().length);
  const list = place.querySelector('.rs-tags'), field = place.querySelector('.rs-tag-field');
  const now = JSON.stringify(props.shown.tags);
  if (list.dataset.tags !== now) {
    list.dataset.tags = now;
    list.replaceChildren(...props.shown.tags.map(([tag, count]) => {
      const made = button('', 'rs-tag', () => { field.value = tag; field.focus(); }, say('{0}, in {1}', tag, count));
      made.append(make('span', '', tag), make('b', '', String(count)));
      return made;
    }));
  }
}

// The line that takes the last edit of many captions back.
function undoLine() {
  const old = box.querySelector('.rs-undo-many');
  if (old) old.remove();
  const last = undos()[undos().length - 1], place = box.querySelector('.rs-set-bar');
  if (!last || !place) return;
  const row = make('p', 'rs-undo-many rs-quiet', `${say('{0} in {1} captions.', last.label, Object.keys(last.before).length)} `);
  row.append(button(say('Undo this'), 'rs-link', takeBack));
  place.after(row);
}

function takeBack() {
  const last = undos().pop(), mine = drafts();
  for (const [name, {text, was, then}] of Object.entries(last.before)) {
    if (mine[name] && mine[name].text !== then) continue; // typed since: that stays
    if (text === was) delete mine[name]; else mine[name] = {text, was};
  }
  for (const held of areas.values()) held.refresh({});
  undoLine(); bar(); send('input');
}

function remember(shown) { // what an answer proposed, before it becomes drafts; and what was saved
  for (const each of undos()) for (const [name, text] of Object.entries(shown.saved)) if (each.before[name]) each.before[name].was = text.now;
  if (!shown.label || Object.keys(shown.proposed).length === 0) return;
  const before = Object.fromEntries(Object.entries(shown.proposed).map(([name, each]) => [name, {text: each.before, was: each.was, then: each.text}]));
  undos().push({label: shown.label, before});
  if (undos().length > UNDOS) undos().shift();
}

// A name in the checks leads to its picture: to its page, its card, its caption.
function lead(at) {
  const shown = props.shown, page = Math.floor(at / shown.per_page);
  kept.lead = {folder: shown.folder, page, at: at % shown.per_page};
  if (page === shown.page) arrive(); else { wanted = {folder: shown.folder, page}; send('select'); }
}

function arrive() {
  const aim = kept.lead, shown = props.shown;
  if (!aim || aim.folder !== shown.folder || aim.page !== shown.page) return;
  kept.lead = null;
  const card = box.querySelectorAll('.rs-picture')[aim.at];
  if (!card) return;
  card.scrollIntoView({block: 'center'});
  card.focus({preventScroll: true});
  card.classList.add('rs-found');
  setTimeout(() => card.classList.remove('rs-found'), 2500);
}
