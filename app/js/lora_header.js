// Reads the header of a LoRA that is dropped or chosen in #import-file here, in the browser, and sends its notes alone: the settings are in
// the first kilobytes, and hundreds of megabytes of weights behind them need not travel. Other files go the usual way.
// Gradio's HTML component hands in `trigger`. Names and notes are data, checked by the page's process.

const LARGEST_HEADER = 16 * 2 ** 20; // bytes, as in core/adapters/header.py

window.rsLoraHeader?.abort(); // the component may be mounted again
window.rsLoraHeader = new AbortController();
const how = {capture: true, signal: window.rsLoraHeader.signal};

function lora(event, files) {
  const inside = event.target instanceof Element && event.target.closest('#import-file');
  return inside && files?.length === 1 && files[0].name.toLowerCase().endsWith('.safetensors') ? files[0] : null;
}

function notesOf(text) {
  try {
    return JSON.stringify({__metadata__: JSON.parse(text).__metadata__ ?? {}});
  } catch {
    return text; // damaged: what is wrong with it is said where every header is read
  }
}

async function read(file) {
  let header = '';
  try {
    const start = await file.slice(0, 8).arrayBuffer();
    const length = start.byteLength < 8 ? 0 : Number(new DataView(start).getBigUint64(0, true));
    if (length >= 2 && length <= Math.min(LARGEST_HEADER, file.size)) header = notesOf(await file.slice(8, 8 + length).text());
  } catch (error) {
    console.warn('The file could not be read in the browser.', error);
  }
  trigger('submit', {name: file.name, header});
}

document.addEventListener('change', (event) => {
  const file = lora(event, event.target.files);
  if (!file) return;
  event.stopImmediatePropagation();
  read(file).then(() => { event.target.value = ''; }); // the same file may be chosen again
}, how);

document.addEventListener('drop', (event) => {
  const file = lora(event, event.dataTransfer?.files);
  if (!file) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  event.target.dispatchEvent(new DragEvent('dragleave', {bubbles: true})); // takes the highlight away
  read(file);
}, how);
