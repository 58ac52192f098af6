// The filmstrip of the Drift tab, in the browser alone: the scrubber shows one step large, the before/after slider cuts between two
// pictures. Runs once (gr.HTML's js_on_load); a new filmstrip takes the place of the old one inside `element`.
let column = null;  // null: the last one
let who = '0';
let sides = null;

const cell = (variant, row, at) =>
  element.querySelector(`.rs-cell[data-v="${variant}"][data-row="${row}"][data-col="${at}"]`) ||
  element.querySelector(`.rs-cell[data-v="0"][data-row="${row}"][data-col="${at}"]`);
const picture = (variant, row, at) => cell(variant, row, at).querySelector('img').src;

function show() {
  const look = element.querySelector('.rs-look');
  if (!look) return;
  const scrub = look.querySelector('.rs-scrub');
  const last = Number(scrub.max);
  const at = column === null || column > last ? last : column;
  scrub.value = at;
  const mark = look.querySelector(`.rs-axis [data-col="${at}"]`);
  scrub.setAttribute('aria-valuetext', `step ${mark.dataset.step}, noise level ${mark.dataset.noise}`);
  look.querySelectorAll('[data-col]').forEach(each => each.classList.toggle('rs-on', Number(each.dataset.col) === at));
  const pick = look.querySelector('.rs-who');
  if (pick) { if (pick.querySelector(`option[value="${who}"]`)) pick.value = who; else who = '0'; } else who = '0';
  look.querySelectorAll('[data-big]').forEach(image => { image.src = picture(who, image.dataset.big, at); });
  const select = look.querySelector('.rs-sides');
  if (sides && [...select.options].some(option => option.value === sides)) select.value = sides;
  const [a, b] = select.value.split('|').map(side => side.split('.'));
  look.querySelector('[data-wipe=a]').src = picture(a[0], a[1], at);
  look.querySelector('[data-wipe=b]').src = picture(b[0], b[1], at);
  const apart = cell(who, 'heat', at).querySelector('.rs-diff').textContent;
  look.querySelector('.rs-where').textContent = `step ${mark.dataset.step} · noise level ${mark.dataset.noise} · ${apart} apart`;
}

element.addEventListener('input', event => {
  const target = event.target;
  if (target.matches('.rs-scrub')) { column = Number(target.value) === Number(target.max) ? null : Number(target.value); show(); }
  if (target.matches('.rs-cut')) target.parentElement.style.setProperty('--cut', `${target.value}%`);
});
element.addEventListener('change', event => {
  if (event.target.matches('.rs-who')) { who = event.target.value; show(); }
  if (event.target.matches('.rs-sides')) { sides = event.target.value; show(); }
});
element.addEventListener('click', event => {
  const place = event.target.closest('.rs-reel [data-col]');
  if (!place) return;
  column = Number(place.dataset.col);
  show();
});
watch('value', show);
