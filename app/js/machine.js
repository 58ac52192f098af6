// The meters of the machine (see app/runs/machine_card.py): a bar for now, and a line for the last minutes that this page was looked at.
const KEPT = 100;
const box = element.querySelector('.rs-machine');
const parts = element.querySelector('[data-part=parts]');
const past = new Map(); // part and meter -> the last readings, as shares of the total (or of the largest one)

const make = (name, given, ...inside) => {
  const made = Object.assign(document.createElement(name), given);
  made.append(...inside);
  return made;
};
const number = (value) => String(value >= 100 ? Math.round(value) : Number(value.toPrecision(3)));

function meter(part, each) {
  const key = `${part.name}/${each.name}`;
  const before = [...(past.get(key) ?? []), each.used].slice(-KEPT);
  past.set(key, before);
  const most = each.total ?? Math.max(...before, 1);
  const words = each.total === null || each.unit === '%' ? `${number(each.used)} ${each.unit}` : `${say('{0} of {1}', number(each.used), number(each.total))} ${each.unit}`;
  const points = before.map((value, i) => `${((KEPT - before.length + i) * 100) / (KEPT - 1)},${(30 - (28 * Math.min(value, most)) / most).toFixed(1)}`).join(' ');
  const made = make('div', { className: 'rs-gauge' }, make('span', { textContent: each.name }), make('b', { textContent: words }));
  made.insertAdjacentHTML('beforeend', `<svg viewBox="0 0 100 30" preserveAspectRatio="none" aria-hidden="true"><polyline points="${points}"/></svg>`);
  return made;
}

async function look() {
  if (!element.isConnected) return; // the page is another one
  // `element` has no size while the card is hidden: its nearest neighbour up the page tells whether its tab is open
  const seen = document.visibilityState === 'visible' && element.parentElement?.offsetParent;
  if (seen) {
    try {
      const now = await server.machine({});
      parts.replaceChildren(...now.map((part) => make('div', { className: 'rs-machine-part' }, make('h4', { textContent: part.name }), make('div', { className: 'rs-gauges' }, ...part.meters.map((each) => meter(part, each))))));
      box.hidden = false;
    } catch (error) {
      console.warn('The machine could not be asked; it is asked again.', error); // the server may be starting again
    }
  }
  setTimeout(look, EVERY_MS);
}
look();
