// What trains and what waits (see app/runs/queue_table.py). A waiting row is dragged to another place, or moved with its buttons.
const box = element.querySelector('.rs-queue');
const body = element.querySelector('[data-part=rows]');
const told = element.querySelector('[data-part=told]');
let dragged = null;
let focus = null; // what had the focus before the rows were drawn anew: [run, action]

const make = (name, given, ...inside) => {
  const made = Object.assign(document.createElement(name), given);
  made.append(...inside);
  return made;
};

function button(row, action, sign, words, enabled) {
  const made = make('button', { type: 'button', className: 'rs-small', textContent: sign, disabled: !enabled });
  made.dataset.action = action;
  made.setAttribute('aria-label', say(words, row.name));
  made.addEventListener('click', () => {
    focus = [row.name, action];
    if (action === 'out') ask(server.queue_out({ run: row.name }));
    else ask(server.queue_move({ run: row.name, places: action === 'earlier' ? -1 : 1 }));
  });
  return made;
}

// As `value`, because Gradio loses what it is told of any other property before a tab is opened for the first time.
const given = () => (Array.isArray(props.value) ? props.value : []);

function draw(rows) {
  box.hidden = !rows.length;
  const waiting = rows.filter((row) => row.place !== null);
  const last = waiting.length;
  body.replaceChildren(...rows.map((row) => {
    const name = make('button', { type: 'button', className: 'rs-link', textContent: row.name });
    name.addEventListener('click', () => trigger('pick', { name: row.name }));
    const order = row.place === null ? [] : [
      button(row, 'earlier', '↑', 'Earlier: {0}', row.place > 1), button(row, 'later', '↓', 'Later: {0}', row.place < last), button(row, 'out', '×', 'Take {0} out of the queue', true)];
    const state = row.place === null ? row.state : `${row.state}, ${say('number {0}', row.place)}`;
    const made = make('tr', {}, make('th', { scope: 'row' }, name), make('td', { textContent: state }), make('td', { textContent: row.total ? say('{0} of {1}', row.step, row.total) : String(row.step) }),
      make('td', { textContent: row.speed === null ? '–' : say('{0} s a step', row.speed) }), make('td', { textContent: row.left ?? '–' }), make('td', { className: 'rs-order' }, ...order));
    made.dataset.run = row.name;
    if (row.place !== null) {
      made.draggable = true;
      made.title = say('Drag to another place');
      made.dataset.place = row.place;
    }
    return made;
  }));
  if (focus) {
    const there = body.querySelector(`tr[data-run="${CSS.escape(focus[0])}"]`);
    (there?.querySelector(`[data-action=${focus[1]}]:not(:disabled)`) ?? there?.querySelector('[data-action]:not(:disabled)'))?.focus();
    focus = null;
  }
}

async function ask(answer) {
  try {
    const { rows, fault } = await answer;
    told.textContent = fault ?? '';
    if (rows) draw(rows);
  } catch (error) {
    told.textContent = String(error);
  }
}

const rowAt = (event) => event.target.closest('tr[data-place]');
body.addEventListener('dragstart', (event) => {
  dragged = rowAt(event);
  if (!dragged) return;
  event.dataTransfer.effectAllowed = 'move';
  event.dataTransfer.setData('text/plain', dragged.dataset.run);
  dragged.classList.add('rs-dragged');
});
body.addEventListener('dragover', (event) => {
  const over = rowAt(event);
  if (!dragged || !over) return;
  event.preventDefault();
  for (const row of body.children) row.classList.toggle('rs-over-row', row === over && row !== dragged);
});
body.addEventListener('drop', (event) => {
  const over = rowAt(event);
  if (!dragged || !over || over === dragged) return;
  event.preventDefault();
  ask(server.queue_move({ run: dragged.dataset.run, places: Number(over.dataset.place) - Number(dragged.dataset.place) }));
});
body.addEventListener('dragend', () => {
  dragged = null;
  for (const row of body.children) row.classList.remove('rs-dragged', 'rs-over-row');
  draw(given());
});
watch('value', () => {
  if (dragged) return; // drawn when it is dropped
  const active = document.activeElement?.closest?.('.rs-queue tr') && [document.activeElement.closest('tr').dataset.run, document.activeElement.dataset.action];
  if (active && active[1]) focus = active;
  draw(given());
});
draw(given());
