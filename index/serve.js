// The search page: keeps the question, asks the server, shows the answers. What strangers wrote is only ever text.

import { counted, factRows, listOf, milliseconds, titleOf } from "./serve_answers.js";
import { Filters } from "./serve_filters.js";
import { Recorder, kindOfFile, partsOfWords, showParts, wordsOfParts } from "./serve_parts.js";

const $ = (id) => document.getElementById(id);
const TRIES = 4;
const UNREACHED = {
  message: "The server does not answer.",
  hint: "See whether it is still running, then try again.",
};

let index = null;
let parts = [];
let running = null;
let waiting = 0;
const kept = new Map(); // by history entry: parts with files, which no address can hold
const filters = new Filters($("conditions"), () => ask({ replace: true }));
const recorder = new Recorder($("level"), (left) => {
  $("record-label").textContent = `Stop (${Math.ceil(left)} s)`;
});

// What the server says

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw UNREACHED;
  }
  if (response.ok) return response.json();
  const told = await response.json().catch(() => ({}));
  const error = told.error ?? { message: `The server answered with ${response.status}.`, hint: "" };
  throw { ...error, status: response.status, wait_s: Number(response.headers.get("Retry-After")) || 1 };
}

/** A server that is at its limit says when to come again. */
async function callPatiently(path, options) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await call(path, options);
    } catch (error) {
      if (error.status !== 429 || tries === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * error.wait_s * (0.5 + Math.random())));
      options.signal?.throwIfAborted();
    }
  }
}

// The question

function chosen() {
  return new FormData($("composer")).get("to");
}

const wanted = () => Number($("k").value);

function question() {
  const files = [];
  const told = parts.map((part) => {
    const value = part.file ? `file${files.push(part.file) - 1}` : part.value;
    return { [part.kind]: value, weight: part.weight, minus: part.minus };
  });
  const asked = {
    parts: told, to: chosen(), k: Math.min(index?.limits.max_k ?? Infinity, wanted() + parts.length), where: filters.conditions, fuse: $("fuse").value,
    distinct: $("distinct").checked, exact: $("exact").checked,
  };
  const form = new FormData();
  form.set("query", JSON.stringify(asked));
  files.forEach((file, n) => form.set(`file${n}`, file, file.name));
  return form;
}

function addressOfQuestion() {
  const told = new URLSearchParams();
  const shareable = parts.filter((part) => !part.file);
  for (const part of shareable) told.append(part.kind, part.value);
  const weights = shareable.map((part) => (part.minus ? -part.weight : part.weight));
  if (weights.some((weight) => weight !== 1)) told.set("w", weights.join(","));
  if (chosen() !== "image") told.set("to", chosen());
  if ($("k").value !== "24") told.set("k", $("k").value);
  if ($("fuse").value !== "sum") told.set("fuse", $("fuse").value);
  if (!$("distinct").checked) told.set("distinct", "0");
  if ($("exact").checked) told.set("exact", "1");
  for (const condition of filters.conditions) told.append("where", condition);
  const query = told.toString();
  return query ? `?${query}` : location.pathname;
}

async function takeAddress() {
  const told = new URLSearchParams(location.search);
  parts = kept.get(history.state?.entry) ?? [];
  if (!parts.length) {
    const weights = (told.get("w") ?? "").split(",").map(Number);
    let n = 0;
    for (const [kind, value] of told) {
      if (kind !== "text" && kind !== "item") continue;
      const weight = weights[n++] || 1;
      parts.push({ kind, value, name: value, weight: Math.min(2, Math.abs(weight)), minus: weight < 0 });
    }
    await Promise.all(parts.filter((part) => part.kind === "item").map(describe));
  }
  for (const radio of document.getElementsByName("to")) radio.checked = radio.value === (told.get("to") ?? "image");
  for (const [id, usual] of [["k", "24"], ["fuse", "sum"]]) {
    const value = told.get(id) ?? usual;
    if ([...$(id).options].some((option) => option.value === value)) $(id).value = value;
  }
  $("distinct").checked = told.get("distinct") !== "0";
  $("exact").checked = told.get("exact") === "1";
  filters.conditions = told.getAll("where");
  $("text").value = wordsOfParts(parts);
}

async function describe(part) {
  try {
    const item = await call(`/v1/items/${encodeURIComponent(part.value)}`);
    Object.assign(part, { name: titleOf(item), thumb: item.thumb });
  } catch {
    part.name = part.value; // the search itself will say that there is no such item
  }
}

function remember({ replace }) {
  const entry = replace && history.state?.entry ? history.state.entry : crypto.randomUUID?.() ?? String(Math.random());
  kept.set(entry, [...parts]);
  history[replace ? "replaceState" : "pushState"]({ entry }, "", addressOfQuestion());
}

function showQuestion() {
  showParts($("parts"), parts, (structure) => {
    if (structure) {
      $("text").value = wordsOfParts(parts);
      showQuestion();
    }
    askSoon();
  });
  $("clear").hidden = parts.length === 0 && filters.conditions.length === 0;
  $("filter-count").textContent = filters.conditions.length || "";
  document.body.classList.toggle("searched", parts.length > 0);
}

function askSoon() {
  $("results").setAttribute("aria-busy", "true");
  clearTimeout(waiting);
  waiting = setTimeout(() => ask({ replace: true }), 250);
}

function addPart(part, { alone = false } = {}) {
  if (index && parts.length >= index.limits.max_parts && !alone) {
    return tell({ message: `A question has ${index.limits.max_parts} parts at most.`, hint: "Remove one first." });
  }
  parts = alone ? [part] : [...parts, part];
  $("text").value = wordsOfParts(parts);
  ask();
}

/** What the buttons of an answer do. */
function actions() {
  const more = (part) => {
    addPart(part, { alone: true });
    scrollTo({ top: 0 });
  };
  return { more, add: addPart, canAdd: parts.length > 0 };
}

function addFile(file, name) {
  const kind = kindOfFile(file);
  if (!kind) {
    return tell({ message: `${file.name} is neither a sound nor a picture.`, hint: "WAV, FLAC, OGG, MP3, M4A and videos are heard; JPEG, PNG, WebP, GIF and BMP are seen." });
  }
  if (!file.size) return tell({ message: `${file.name} is empty.`, hint: "Choose another file." });
  const most = index?.limits.max_body_bytes ?? Infinity;
  if (file.size > most) {
    return tell({ message: `${file.name} is too large.`, hint: `It has ${megabytes(file.size)}, this server takes ${megabytes(most)}.` });
  }
  addPart({ kind, file, url: URL.createObjectURL(file), name: name ?? file.name, weight: 1, minus: false });
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

// The answers

async function ask({ replace = false, remembered = false } = {}) {
  clearTimeout(waiting);
  running?.abort();
  if (!remembered) remember({ replace });
  showQuestion();
  if (!parts.length) {
    $("results").removeAttribute("aria-busy");
    return showStart();
  }
  const mine = (running = new AbortController());
  $("results").setAttribute("aria-busy", "true");
  try {
    const answer = await callPatiently("/v1/search", { method: "POST", body: question(), signal: mine.signal });
    tell(answer.other_encoder && { message: "Another model than the index's own answers: these results mean little.", hint: answer.other_encoder });
    showAnswer(answer);
  } catch (error) {
    if (mine.signal.aborted || error.name === "AbortError") return;
    if (error.status === 401) return signIn();
    tell(error, () => ask({ replace: true }));
  } finally {
    if (running === mine) {
      running = null;
      $("results").removeAttribute("aria-busy");
    }
  }
}

/** What was searched with is no answer to itself. */
function others(found) {
  const asked = new Set(parts.map((part) => part.kind === "item" && !part.minus && part.value));
  return found.filter((item) => !asked.has(item.item_id)).slice(0, wanted());
}

function showAnswer(answer) {
  const results = Object.entries(answer.results).map(([modality, found]) => [modality, others(found)]);
  const none = filters.conditions.length ? "Nothing matches these filters. Loosen or remove one." : "Nothing was found.";
  const told = ([modality, found]) => listOf(modality, found, { among: answer.filter.matched[modality], none, actions: actions() });
  $("lists").replaceChildren(...results.map(told));
  const counts = results.map(([modality, found]) => counted(found.length, modality));
  $("status").textContent = `${counts.join(" and ")} found`;
  $("summary").textContent = `${counts.join(" and ")} in ${milliseconds(answer)}.`;
  $("facts").replaceChildren(...factRows(answer));
  $("shared").hidden = true;
  $("record-of-search").hidden = false;
}

function showStart() {
  $("record-of-search").hidden = true;
  $("status").textContent = "";
  const examples = index?.examples ?? [];
  $("lists").replaceChildren(...(examples.length ? [listOf("image", examples, { heading: "Or begin with one of these", actions: actions() })] : []));
}

// What went wrong, and what to do

function tell(error, again = null) {
  $("notice").hidden = !error;
  if (!error) return;
  const [message, advice] = wordsOf(error);
  document.querySelector("#notice .message").textContent = message;
  document.querySelector("#notice .advice").textContent = advice;
  const isMine = error.status >= 400 && error.status < 500 && error.status !== 429; // asking once more changes nothing
  $("again").hidden = !again || isMine;
  $("again").onclick = again;
}

/** The server counts parts; people know them by name. What follows a semicolon is what to do. */
function wordsOf(error) {
  if (error instanceof Error || typeof error.message !== "string") return ["Something went wrong on this page.", String(error)];
  const named = error.message.replace(/^part (\d+)\b/, (told, number) => {
    const part = parts[number - 1];
    return part ? (part.kind === "text" ? `\u201c${part.value}\u201d` : part.name) : told;
  });
  const [message, ...rest] = error.hint ? [named] : named.split("; ");
  const advice = error.hint || rest.join("; ");
  return [message, advice.charAt(0).toUpperCase() + advice.slice(1)];
}

function signIn() {
  $("sign-in").showModal();
  $("token").focus();
}

async function toggleRecording() {
  if (recorder.isOn) return recorder.stop();
  const [button, use] = [$("record"), document.querySelector("#record use")];
  const show = (isOn) => {
    button.setAttribute("aria-pressed", String(isOn));
    use.setAttribute("href", isOn ? "#icon-stop" : "#icon-microphone");
    $("level").hidden = !isOn;
    $("record-label").textContent = isOn ? "Stop" : "Record a sound";
  };
  try {
    show(true);
    const file = await recorder.record(index?.limits.record_s ?? 10);
    if (file) addFile(file, "Your recording");
  } catch (error) {
    tell(
      error.name === "NotAllowedError"
        ? { message: "The browser does not let this page use the microphone.", hint: "Allow it in the browser's address bar, or add a sound file instead." }
        : { message: "No microphone can be used here.", hint: "Browsers record on https:// and on this machine's own address only. A sound file works everywhere." },
    );
  } finally {
    show(false);
  }
}

async function share() {
  let told = "The address is copied.";
  try {
    await navigator.clipboard.writeText(location.href);
  } catch {
    told = `Copy it from the address bar: ${location.href}`;
  }
  if (parts.some((part) => part.file)) told += " Your own sounds and pictures are not part of it: they stay on this page.";
  $("shared").textContent = told;
  $("shared").hidden = false;
}

function moveFocus(event) {
  const card = event.target.closest?.(".card");
  if (!card || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("audio, input, select")) return;
  const cards = [...document.querySelectorAll("#lists .card")];
  const here = cards.indexOf(card);
  const row = cards.filter((other) => other.offsetTop === card.offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
  if (step) {
    cards[Math.min(cards.length - 1, Math.max(0, here + step))].focus();
  } else if (event.key === "p") {
    const audio = card.querySelector("audio");
    if (audio) audio.paused ? audio.play() : audio.pause();
  } else if (event.key === "m") {
    card.querySelector(".more").click();
  } else {
    return;
  }
  event.preventDefault();
}

function listen() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const weights = new Map(parts.filter((part) => part.kind === "text").map((part) => [part.value, part.weight]));
    const words = partsOfWords($("text").value).map((part) => ({ ...part, weight: weights.get(part.value) ?? 1 }));
    parts = [...words, ...parts.filter((part) => part.kind !== "text")];
    ask();
  });
  $("record").addEventListener("click", toggleRecording);
  for (const [button, input] of [["add-sound", "sound-file"], ["add-picture", "picture-file"]]) {
    $(button).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      if ($(input).files.length) addFile($(input).files[0]);
      $(input).value = "";
    });
  }
  for (const id of ["k", "fuse", "distinct", "exact"]) $(id).addEventListener("change", () => ask({ replace: true }));
  for (const radio of document.getElementsByName("to")) radio.addEventListener("change", () => ask({ replace: true }));
  $("show-filters").addEventListener("click", () => showFilters($("filters").hidden));
  $("add-filter").addEventListener("click", () => filters.add().querySelector(".value").focus());
  $("clear").addEventListener("click", () => {
    parts = [];
    filters.conditions = [];
    $("text").value = "";
    tell(null);
    ask();
    ($("words").hidden ? $("record") : $("text")).focus();
  });
  $("share").addEventListener("click", share);
  $("dismiss").addEventListener("click", () => tell(null));
  $("sign-in-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await call("/v1/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token: $("token").value }) });
      $("sign-in").close();
      start();
    } catch {
      $("wrong-token").hidden = false;
    }
  });
  listenToTheWholePage();
}

function listenToTheWholePage() {
  let depth = 0;
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => holdsFiles(event) && (depth += 1) && ($("drop").hidden = false));
  addEventListener("dragleave", (event) => holdsFiles(event) && (depth -= 1) === 0 && ($("drop").hidden = true));
  addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    depth = 0;
    $("drop").hidden = true;
    for (const file of event.dataTransfer.files) addFile(file);
  });
  addEventListener("paste", (event) => {
    for (const file of event.clipboardData?.files ?? []) addFile(file);
  });
  addEventListener("popstate", async () => {
    await takeAddress();
    ask({ remembered: true });
  });
  $("results").addEventListener("keydown", moveFocus);
  document.addEventListener("play", (event) => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
  }, true);
}

function showFilters(isOpen) {
  $("filters").hidden = !isOpen;
  $("show-filters").setAttribute("aria-expanded", String(isOpen));
}

async function start() {
  try {
    index = await callPatiently("/v1/index", {});
  } catch (error) {
    return error.status === 401 ? signIn() : tell(error, start);
  }
  tell(null);
  const counts = Object.entries(index.items).map(([modality, count]) => counted(count, modality));
  $("holdings").textContent = counts.join(" and ");
  $("words").hidden = !index.has_text;
  filters.columns = index.columns;
  await takeAddress();
  history.replaceState({ entry: history.state?.entry ?? String(Math.random()) }, "");
  await ask({ remembered: true });
  document.body.dataset.ready = "yes";
}

listen();
start();
