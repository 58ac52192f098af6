// Try it (see app/runs/try_it/panel.py): the slider between two pictures, and pictures that are dropped anywhere on the panel, which go the way
// of the button Settings from a picture.
window.rsTry?.abort(); // the component may be mounted again
window.rsTry = new AbortController();
const quiet = { signal: window.rsTry.signal };
const panel = () => element.closest('.rs-try');
const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
let inside = 0;

document.addEventListener('input', (event) => {
  if (event.target.matches?.('.rs-try .rs-cut')) {
    event.target.parentElement.style.setProperty('--cut', `${event.target.value}%`);
    event.target.setAttribute('aria-valuetext', `${Math.round(Number(event.target.value))} %`);
  }
}, quiet);

const over = (more) => {
  inside = Math.max(0, inside + more);
  panel()?.classList.toggle('rs-dropping', inside > 0);
};
const within = (event) => panel()?.contains(event.target) && carriesFiles(event);
document.addEventListener('dragenter', (event) => { if (within(event)) over(1); }, quiet);
document.addEventListener('dragleave', (event) => { if (within(event)) over(-1); }, quiet);
document.addEventListener('dragover', (event) => { if (within(event)) event.preventDefault(); }, quiet);
document.addEventListener('drop', (event) => {
  if (!within(event)) return;
  event.preventDefault();
  over(-inside);
  const input = document.querySelector('#try-picture')?.parentElement.querySelector('input[type=file]'); // Gradio's, beside its button
  const file = [...event.dataTransfer.files][0];
  if (!input || !file) return;
  const list = new DataTransfer();
  list.items.add(file);
  input.files = list.files;
  input.dispatchEvent(new Event('change', { bubbles: true }));
}, quiet);
