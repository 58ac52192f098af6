// Pictures of a table of samples, full screen (see app/runs/viewer.py): the arrow keys go through the table, and a second picture can be laid
// over the first with a slider between them. A click with Ctrl, or the middle button, opens the picture in a tab of its own, as any link.
const dialog = element.querySelector('dialog');
const find = (name) => dialog.querySelector(`[data-part="${name}"]`);
let rows = []; // the pictures of the table: [[{src, label, row, column}]]
let at = [0, 0];

window.rsViewer?.abort(); // the component may be mounted again
window.rsViewer = new AbortController();

const words = (cell) => (cell ? cell.innerText.trim().replace(/\s+/g, ' ') : '');

/** The table (or the pair) around a picture, without its gaps. */
function gathered(link) {
  const table = link.closest('table');
  const pair = link.closest('.rs-twin');
  if (pair) {
    const caption = words(pair.parentElement.querySelector('figcaption'));
    return [[...pair.querySelectorAll('a')].map((each) => one(each, caption, each.dataset.step === '0' ? say('before') : say('step {0}', each.dataset.step)))];
  }
  const heads = [...table.querySelectorAll('thead th')].map(words);
  const above = words(table.closest('.rs-scroll')?.previousElementSibling);
  return [...table.querySelectorAll('tbody tr')].map((row) => {
    const cells = [...row.children];
    const name = words(cells[0]);
    return cells.flatMap((cell, number) => {
      const each = cell.querySelector('a:has(img)');
      return each ? [one(each, heads.length ? name : `${above} · ${name}`, heads[number] || words(cell.querySelector('.rs-quiet')))] : [];
    });
  }).filter((row) => row.length);
}

const one = (link, row, column) => ({ link, src: link.href, row, column: column ?? '' });
const shown = () => rows[at[0]][at[1]];
const label = (each) => [each.row, each.column].filter(Boolean).join(' · ');

function show() {
  at[0] = Math.min(Math.max(at[0], 0), rows.length - 1);
  at[1] = Math.min(Math.max(at[1], 0), rows[at[0]].length - 1);
  const now = shown();
  find('first').src = now.src;
  find('first').alt = label(now);
  find('caption').textContent = label(now);
  for (const [name, [down, right]] of Object.entries({ left: [0, -1], right: [0, 1], up: [-1, 0], down: [1, 0] })) find(name).disabled = !rows[at[0] + down]?.[at[1] + right];
  const others = rows.flat().filter((each) => each !== now && (each.row === now.row || each.column === now.column || rows.length < 5));
  const select = find('beside');
  const kept = select.value;
  select.replaceChildren(new Option(say('nothing'), ''), ...others.map((each) => new Option((each.row === now.row ? each.column : each.column === now.column ? each.row : label(each)).slice(0, 120), each.src)));
  select.value = others.some((each) => each.src === kept) ? kept : '';
  find('beside-row').hidden = !others.length;
  beside();
}

function beside() {
  const select = find('beside');
  const box = find('box');
  box.classList.toggle('rs-twofold', select.value !== '');
  find('second').src = select.value || 'data:,';
  find('second').alt = select.value ? select.selectedOptions[0].text : '';
  find('caption').textContent = label(shown()) + (select.value ? ` | ${select.selectedOptions[0].text}` : '');
  cut();
}

function cut() {
  find('box').style.setProperty('--cut', `${find('cut').value}%`);
  const share = Math.round(Number(find('cut').value));
  find('cut').setAttribute('aria-valuetext', `${share} %`);
}

function open(link) {
  rows = gathered(link);
  at = [0, 0];
  rows.forEach((row, number) => row.forEach((each, place) => { if (each.link === link) at = [number, place]; }));
  find('beside').value = '';
  dialog.showModal();
  show();
  find('close').focus();
}

const go = (down, right) => { at = [at[0] + down, at[1] + right]; show(); };

document.addEventListener('click', (event) => {
  const link = event.target.closest && event.target.closest('#run-samples a, #run-glance a, #compare-samples a, .rs-try .rs-samples a');
  if (!link || !link.querySelector('img') || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  open(link);
}, { signal: window.rsViewer.signal });
dialog.addEventListener('keydown', (event) => {
  if (event.target.matches('select, input') || event.ctrlKey || event.metaKey || event.altKey) return;
  const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!way) return;
  event.preventDefault();
  if (rows[at[0] + way[0]]?.[at[1] + way[1]] || rows[at[0] + way[0]]) go(...way);
});
for (const [name, way] of Object.entries({ left: [0, -1], right: [0, 1], up: [-1, 0], down: [1, 0] })) find(name).addEventListener('click', () => go(...way));
find('close').addEventListener('click', () => dialog.close());
find('first').addEventListener('load', (event) => {
  const { naturalWidth, naturalHeight } = event.target;
  if (naturalHeight) find('box').style.setProperty('--ratio', naturalWidth / naturalHeight);
});
find('beside').addEventListener('change', beside);
find('cut').addEventListener('input', cut);
dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener('close', () => shown()?.link.focus());
