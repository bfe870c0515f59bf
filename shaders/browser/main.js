// The page. `?model=FOLDER` and `?dtype=f32` choose the model. For tests: `?auto` reads `image=URL`, with `case=TEXT`, at once and, with
// `post=PATH`, sends the result to the server that the page comes from; with `picked` the model's files take the way of chosen ones. An
// image that a person chose is never sent anywhere.

import { checkShaders } from "./check.js";
import { NoGpu } from "./device.js";
import { ChosenFiles, MODEL_FILES, ServedFolder } from "./files.js";
import { openGpu, Reader } from "./reader.js";
import { FIELDS, parseReport } from "./report.js";

const query = new URLSearchParams(location.search);
const DEMO = new URL("../../assets/demo/", import.meta.url);
/** The demonstration model's images; their cases are of the form that it learned from. */
const EXAMPLES = [["nih-00004621_000.jpg", 72, "man"], ["nih-00015599_000.jpg", 44, "woman"], ["nih-00028558_000.jpg", 38, "woman"]];
const EXAMPLE_CASE = "Follow-up number 0 in this patient's series of chest radiographs. Posteroanterior (PA) view requested for the "
  + "assessment of the chest.";
const element = (id) => document.getElementById(id);

/** What is there so far. */
const state = { ops: null, reader: null, image: null, name: "", busy: null, opening: false, url: null };

function status(text) {
  element("status").textContent = text;
}

function problem(error) {
  const notice = element("problem");
  notice.hidden = !error;
  notice.textContent = error ? error.message : "";
  if (error) {
    console.error(error);
    status("");
  }
}

function progress(done, of) {
  const bar = element("progress-bar");
  element("progress").hidden = done === null;
  if (of > 0) {
    [bar.max, bar.value] = [of, done];
  } else {
    bar.removeAttribute("value");
  }
}

function refresh() {
  element("write").disabled = !(state.reader && state.image) && !state.busy;
  element("write").textContent = state.busy ? "Stop" : "Write report";
}

/** Refuses what would change the model or the image under a running report. */
function refuseWhileBusy() {
  if (state.busy || state.opening) {
    throw new Error(state.busy ? "A report is being written; stop it first." : "A model is being loaded; wait for it.");
  }
}

/** Puts a model on the device in place of the present one. */
async function openModel(folder) {
  refuseWhileBusy();
  problem(null);
  state.opening = true;
  state.reader = null;
  refresh();
  element("model-name").textContent = folder.name;
  const words = { fetching: "Fetching the weights…", loading: "Putting the weights on the device…", compiling: "Compiling kernels…" };
  try {
    // A new device: the old model's memory goes with the old one.
    state.ops?.device.raw.destroy();
    state.ops = null;
    status("Opening the GPU…");
    state.ops = await openGpu({ defaultLimits: query.has("default-limits") });
    const { device } = state.ops;
    element("adapter").textContent = device.name + (device.fallback ? " (software)" : "");
    const started = performance.now();
    const dtype = query.get("dtype") === "f32" ? "f32" : "bf16";
    state.reader = await Reader.open(state.ops, folder, dtype, (what, done, of) => {
      status(words[what]);
      progress(done, of);
    });
    state.loaded = performance.now() - started;
    const millions = (state.reader.parameters / 1e6).toFixed(1);
    element("model-name").textContent = `${folder.name}, ${millions} M parameters in ${dtype}`;
    status(state.image ? "Ready." : "Ready. Choose an X-ray.");
  } finally {
    state.opening = false;
    progress(null);
    refresh();
  }
}

/** Shows an image and makes it the one to read. */
function showImage(blob, name) {
  if (state.busy) {
    refuseWhileBusy();
  }
  problem(null);
  if (state.url) {
    URL.revokeObjectURL(state.url);
  }
  Object.assign(state, { image: blob, name, url: URL.createObjectURL(blob) });
  const picture = element("xray");
  picture.src = state.url;
  picture.alt = `X-ray ${name}`;
  element("hint").hidden = true;
  element("file").textContent = name;
  element("as-seen").checked = false;
  element("as-seen").disabled = true;
  for (const button of element("examples").children) {
    button.setAttribute("aria-pressed", String(button.dataset.name === name));
  }
  showFields("");
  element("times").textContent = "";
  toggleSeen();
  refresh();
}

/** Either the image, or the pixels that the model got. */
function toggleSeen() {
  const seen = element("as-seen").checked;
  element("xray").hidden = seen || !state.image;
  element("seen").hidden = !seen;
}

/** Draws the global image of a reading. */
function drawSeen(planes) {
  const canvas = element("seen");
  const edge = Math.sqrt(planes[0].length);
  [canvas.width, canvas.height] = [edge, edge];
  const pixels = new ImageData(edge, edge);
  for (let i = 0; i < edge * edge; i += 1) {
    pixels.data.set([planes[0][i], planes.at(planes.length >> 1)[i], planes.at(-1)[i], 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  element("as-seen").disabled = false;
}

/** The four fields of a text, complete or still growing. */
function showFields(text, done = false) {
  element("raw").textContent = text;
  const rows = [...parseReport(text)].flatMap(([field, { value, state: given }]) => {
    const name = document.createElement("dt");
    name.textContent = field;
    const cell = document.createElement("dd");
    if (given === "given" && Array.isArray(value)) {
      cell.append(...value.map((label) => {
        const chip = document.createElement("span");
        chip.className = "label";
        chip.textContent = label.replaceAll("_", " ");
        return chip;
      }));
    } else if (given === "given") {
      cell.textContent = value;
    } else {
      cell.className = "absent";
      const words = { unknown: "unknown", unreadable: `not readable: ${value}`, missing: done ? "not in the answer" : "" };
      cell.textContent = words[given];
    }
    return [name, cell];
  });
  element("fields").replaceChildren(...rows);
}

/** Age and gender go before the case, as the cases of the demonstration model begin. */
function clinicalCase() {
  const text = element("case").value.trim();
  const [age, gender] = [element("age").value, element("gender").value];
  if (!age && !gender) {
    return text;
  }
  const article = /^(8|11$|18$)/.test(age) ? "An" : "A";
  const who = age ? `${article} ${age}-year-old ${gender || "patient"}.` : `A ${gender}.`;
  return `${who} ${text}`.trim();
}

/** Reads the image that is shown; the answer has at most `most` tokens. */
async function writeReport(most = 256) {
  if (state.busy) {
    state.busy.abort();
    return null;
  }
  problem(null);
  state.busy = new AbortController();
  element("report").setAttribute("aria-busy", "true");
  refresh();
  status("Reading the image…");
  showFields("");
  element("times").textContent = "";
  try {
    const { signal } = state.busy;
    const onText = (text) => showFields(text);
    const answer = await state.reader.read(state.image, state.name, { clinicalCase: clinicalCase(), most, signal, onText });
    showFields(answer.text, true);
    drawSeen(answer.tiles.at(-1));
    const { times, ids, promptIds } = answer;
    const rate = (ids.length / ((times.total - times.first) / 1000)).toFixed(0);
    const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;
    element("times").textContent = `${seconds(times.total)}: image ${seconds(times.decode + times.resize)}, first token after ${seconds(times.first)}, `
      + `then ${ids.length} tokens at ${rate}/s. ${promptIds.length} tokens read, ${times.launches} kernel launches.`;
    status({ stop_token: "Done.", length: "The answer was cut: it was too long.", cancelled: "Stopped." }[answer.finish]);
    return answer;
  } finally {
    state.busy = null;
    element("report").setAttribute("aria-busy", "false");
    refresh();
  }
}

/** Runs a handler; what it throws is shown. */
const guarded = (handler) => async (event) => {
  try {
    await handler(event);
  } catch (error) {
    problem(error);
  }
};

function connect() {
  const stage = element("stage");
  const take = guarded((files) => files[0] && showImage(files[0], files[0].name));
  element("pick").addEventListener("change", ({ target }) => take(target.files));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    // Anywhere on the page: a file that misses the stage must not replace the page.
    addEventListener(kind, (event) => {
      event.preventDefault();
      stage.classList.toggle("over", kind === "dragover");
    });
  }
  addEventListener("drop", ({ dataTransfer }) => take(dataTransfer.files));
  element("as-seen").addEventListener("change", toggleSeen);
  element("ask").addEventListener("submit", guarded(async (event) => {
    event.preventDefault();
    await writeReport();
  }));
  for (const id of ["folder", "files"]) {
    element(id).addEventListener("change", guarded(({ target }) => target.files.length > 0 && openModel(new ChosenFiles([...target.files]))));
  }
  element("default-model").addEventListener("click", guarded(() => openModel(new ServedFolder(DEMO))));
  element("theme").addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });
  element("examples").append(...EXAMPLES.map(([name, age, gender]) => {
    const button = document.createElement("button");
    const picture = document.createElement("img");
    const url = new URL(`images/${name}`, DEMO);
    Object.assign(picture, { src: url.href, alt: `Example ${name}`, onerror: () => button.remove() });
    Object.assign(button, { type: "button", title: name });
    button.dataset.name = name;
    button.append(picture);
    button.addEventListener("click", guarded(async () => {
      await fetchImage(url);
      element("case").value = EXAMPLE_CASE;
      [element("age").value, element("gender").value] = [age, gender];
    }));
    return button;
  }));
}

async function fetchImage(url) {
  const answer = await fetch(url);
  if (!answer.ok) {
    throw new Error(`${url.pathname}: ${answer.status} ${answer.statusText}`);
  }
  showImage(await answer.blob(), url.pathname.split("/").at(-1));
}

/** A served folder's files as if they had been chosen. */
async function asChosen(folder) {
  const blobs = await Promise.all(MODEL_FILES.map(async (name) => [name, await folder.open(name)]));
  return new ChosenFiles(blobs.filter(([, blob]) => blob).map(([name, blob]) => new File([blob], name)));
}

/** Sends a test's result to the server that the page comes from. */
async function post(result) {
  const to = new URL(query.get("post") ?? "", location.href);
  if (query.has("post") && to.origin === location.origin) {
    await fetch(to, { method: "POST", body: JSON.stringify(result) });
  }
}

/** What a test asked for: a report of every `image`, with the `case` and of `most` tokens given at the same place. */
async function automatic() {
  const [cases, most] = ["case", "most"].map((key) => query.getAll(key));
  const answers = [];
  for (const [i, image] of query.getAll("image").entries()) {
    await fetchImage(new URL(image, location.href));
    element("case").value = cases[i] ?? "";
    const { tiles, ...answer } = await writeReport(Number(most[i]) || undefined);
    // Bytes as digits, to be compared with the program's.
    const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
    const fields = Object.fromEntries(parseReport(answer.text));
    answers.push({ image, fields, ...answer, tiles: tiles.map((planes) => planes.map(hex)) });
  }
  const { device, stream } = state.ops;
  return { adapter: device.name, load_ms: state.loaded, answers, kernels: stream.kernels() };
}

async function start() {
  connect();
  showFields("");
  try {
    if (query.has("check")) {
      await post(await checkShaders(document.querySelector("main"), query.get("variants")));
      return;
    }
    const model = query.get("model");
    const folder = new ServedFolder(model ? new URL(model.replace(/\/?$/, "/"), location.href) : DEMO);
    await openModel(query.has("picked") ? await asChosen(folder) : folder);
    if (query.has("auto")) {
      await post(await automatic());
    }
  } catch (error) {
    if (error instanceof NoGpu) {
      element("adapter").textContent = "no WebGPU";
    }
    problem(error);
    const kind = error instanceof NoGpu ? "no GPU" : "failed";
    await post({ error: `${kind}: ${error.message}`, stack: String(error.stack) });
  }
}

await start();
