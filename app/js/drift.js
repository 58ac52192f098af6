// A filmstrip of the Drift tab, in the browser alone: the scrubber shows one step large, the before/after slider cuts between two
// pictures. Runs once (gr.HTML's js_on_load, app/drift/scrubber.py); a new filmstrip takes the place of the old one inside `element`.
let column = null;  // null: where the two differ most
let who = '0';
let sides = null;
let cut = null;  // per cent; null: where the two pictures differ most

const cell = (variant, row, at) =>
  element.querySelector(`.rs-cell[data-v="${variant}"][data-row="${row}"][data-col="${at}"]`) ||
  element.querySelector(`.rs-cell[data-v="0"][data-row="${row}"][data-col="${at}"]`);
const image = (variant, row, at) => cell(variant, row, at).querySelector('img');
const picture = (variant, row, at) => { const found = image(variant, row, at); return found ? found.src : ''; };

// Where two pictures differ most, from left to right: half of their difference lies on either side of it. Per cent, null where they are equal.
async function apart(first, second) {
  const side = 48, pen = Object.assign(document.createElement('canvas'), {width: side, height: side}).getContext('2d', {willReadFrequently: true});
  const pixels = async source => {
    const drawn = new Image();
    drawn.src = source;
    await drawn.decode();
    pen.drawImage(drawn, 0, 0, side, side);
    return pen.getImageData(0, 0, side, side).data;
  };
  const [a, b] = [await pixels(first), await pixels(second)];
  const columns = new Array(side).fill(0);
  for (let at = 0; at < a.length; at += 4) for (let colour = 0; colour < 3; colour++) columns[(at / 4) % side] += (a[at + colour] - b[at + colour]) ** 2;
  const whole = columns.reduce((sum, each) => sum + each, 0);
  if (whole < 1) return null;
  let left = 0;
  return Math.round(100 * (columns.findIndex(each => (left += each) >= whole / 2) + 0.5) / side);
}

function place(box, percent) {
  box.style.setProperty('--cut', `${percent}%`);
  box.querySelector('.rs-cut').value = percent;
}

async function wipe(look, first, second) {
  const box = look.querySelector('.rs-wipe-box');
  look.querySelector('[data-wipe=a]').src = first;
  look.querySelector('[data-wipe=b]').src = second;
  if (cut !== null) return place(box, cut);
  const found = await apart(first, second).catch(() => null);
  // another step, or a hand at the slider, may have come meanwhile
  if (cut === null && look.querySelector('[data-wipe=b]').src === second && look.querySelector('[data-wipe=a]').src === first) place(box, found === null ? 50 : found);
}

let greeted = false;  // the example has stood here

function show() {
  const look = element.querySelector('.rs-look');
  if (!look) return;
  // On a narrow screen the example stands above the controls, and a picture of one's own below them: stay with it.
  if (element.querySelector('.rs-example')) greeted = true;
  else if (greeted) { greeted = false; if (window.innerWidth < 1000) document.querySelector('#look-progress').scrollIntoView({block: 'start'}); }
  // The page stands still while a filmstrip grows in the place of a taller one.
  if (look.matches('.rs-growing')) { element.style.minHeight = `${Math.max(element.offsetHeight, parseFloat(element.style.minHeight) || 0)}px`; return; }
  element.style.minHeight = '';
  const scrub = look.querySelector('.rs-scrub');
  if (!scrub) return; // a strip that stands still
  const at = column === null || column > Number(scrub.max) ? Number(scrub.dataset.start) : column;
  scrub.value = at;
  const mark = look.querySelector(`.rs-axis [data-col="${at}"]`);
  scrub.setAttribute('aria-valuetext', say('step {0}, noise level {1}', mark.dataset.step, mark.dataset.noise));
  look.querySelectorAll('[data-col]').forEach(each => each.classList.toggle('rs-on', Number(each.dataset.col) === at));
  const pick = look.querySelector('.rs-who');
  if (pick) { if (pick.querySelector(`option[value="${who}"]`)) pick.value = who; else who = '0'; } else who = '0';
  look.querySelectorAll('[data-big]').forEach(image => { image.src = picture(who, image.dataset.big, at); });
  const select = look.querySelector('.rs-sides');
  if (sides && [...select.options].some(option => option.value === sides)) select.value = sides;
  const [a, b] = select.value.split('|').map(side => side.split('.'));
  wipe(look, picture(a[0], a[1], at), picture(b[0], b[1], at));
  const difference = cell(who, 'heat', at).querySelector('.rs-diff').textContent;
  look.querySelector('.rs-where').textContent = say('step {0} · noise level {1} · {2} apart', mark.dataset.step, mark.dataset.noise, difference);
}

function turn(to) {
  const scrub = element.querySelector('.rs-scrub');
  column = Math.min(Math.max(to, 0), Number(scrub.max));
  show();
}

element.addEventListener('input', event => {
  const target = event.target;
  if (target.matches('.rs-scrub')) turn(Number(target.value));
  if (target.matches('.rs-cut')) { cut = Number(target.value); target.parentElement.style.setProperty('--cut', `${cut}%`); }
});
element.addEventListener('change', event => {
  if (event.target.matches('.rs-who')) { who = event.target.value; show(); }
  if (event.target.matches('.rs-sides')) { sides = event.target.value; cut = null; show(); }
});
element.addEventListener('click', event => {
  const place = event.target.closest('.rs-reel [data-col]');
  if (place && element.querySelector('.rs-scrub')) turn(Number(place.dataset.col));
});
// With the strip itself in focus the arrow keys go from step to step, as on the slider.
element.addEventListener('keydown', event => {
  const scrub = element.querySelector('.rs-scrub');
  if (!scrub || !event.target.matches('.rs-film')) return;
  const to = {ArrowLeft: Number(scrub.value) - 1, ArrowRight: Number(scrub.value) + 1, Home: 0, End: Number(scrub.max)}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  turn(to);
  element.querySelector(`.rs-cell[data-col="${scrub.value}"]`).scrollIntoView({block: 'nearest', inline: 'nearest'});
});
watch('value', show);
show();
