// Draws a list of folders (see app/parts/folders.py). Gradio's HTML component hands in `element`, `props`, `trigger` and `watch`.
// Names come from the disk: they only ever become text, never markup.

const box = element.querySelector('.rs-folders');

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, className, label, act) {
  const made = make('button', className, text);
  made.type = 'button';
  if (label) made.setAttribute('aria-label', label);
  made.addEventListener('click', act);
  return made;
}

function draw() {
  const shown = props.listing;
  const inside = box.contains(document.activeElement);
  box.replaceChildren();
  if (!shown) return;
  const open = (folder) => trigger('select', {folder}); // not {path}: Gradio takes that for a file to be served
  const use = (folder) => trigger('submit', {folder});

  const head = make('div', 'rs-folders-head');
  const up = button(say('↑ Up'), 'rs-small', say('Up to the folder above'), () => open(shown.parent));
  up.disabled = shown.parent === null;
  head.append(up, make('span', 'rs-folders-path', shown.path));
  const here = button(shown.mark && shown.fits ? say('Use this folder ({0})', shown.mark) : say('Use this folder'), 'rs-small rs-main', '', () => use(shown.path));
  here.disabled = !shown.fits;
  const none = shown.want === 'model' ? say('There is no model (model_index.json) in this folder itself.') : say('There is no picture in this folder itself.');
  here.title = shown.fits ? '' : none;
  head.append(here, button(say('Close'), 'rs-small', say('Close the list of folders'), () => trigger('clear')));
  const places = make('div', 'rs-folders-places');
  for (const place of shown.places) places.append(button(place.name, 'rs-link', '', () => open(place.path)));

  const list = make('ul', 'rs-folders-list');
  list.setAttribute('aria-label', say('Folders in {0}', shown.path));
  for (const each of shown.folders) {
    const row = make('li', each.fits ? 'rs-fits' : '');
    row.append(button(each.name, 'rs-folder', '', () => (each.file ? use : open)(each.path)));
    if (each.mark) row.append(make('span', 'rs-folders-mark', each.mark));
    if (each.fits) row.append(button(say('Use'), 'rs-small rs-main', say('Use {0}', each.name), () => use(each.path)));
    list.append(row);
  }
  box.append(head, places, list);
  if (shown.mark && !shown.fits) box.append(make('p', 'rs-quiet', say('In this folder: {0}.', shown.mark)));
  if (shown.note) box.append(make('p', 'rs-quiet', shown.note));
  if (inside || drawn) (shown.parent === null ? places.querySelector('button') || here : up).focus({preventScroll: true});
}

let drawn = false;
draw();
watch('listing', () => { drawn = true; draw(); });
