// The parts of a question: words, sounds, pictures and items of the index, with their weights; and the recorder.

const PEAKS = 24;
const SOUND_NAMES = /\.(wav|flac|ogg|oga|opus|mp3|m4a|mp4|mov|webm|mkv|aac|aiff?)$/i;
const PICTURE_NAMES = /\.(jpe?g|png|webp|gif|bmp)$/i;
const KINDS = { text: "words", audio: "sound", image: "picture", item: "from the index" };
const RECORDINGS = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];

export function kindOfFile(file) {
  if (file.type.startsWith("image/") || PICTURE_NAMES.test(file.name)) return "image";
  if (/^(audio|video)\//.test(file.type) || SOUND_NAMES.test(file.name)) return "audio";
  return null;
}

/** Words as typed become parts: `dog -bark -"car horn"` asks for a dog without bark and car horn. */
export function partsOfWords(words) {
  const minus = [];
  const plus = words.replace(/(^|\s)-(?:"([^"]+)"|(\S+))/g, (_, before, phrase, word) => {
    minus.push(phrase ?? word);
    return before;
  });
  const value = plus.replace(/\s+/g, " ").trim();
  const parts = value ? [{ kind: "text", value, weight: 1, minus: false }] : [];
  return parts.concat(minus.map((text) => ({ kind: "text", value: text, weight: 1, minus: true })));
}

export function wordsOfParts(parts) {
  const texts = parts.filter((part) => part.kind === "text");
  return texts.map((part) => (part.minus ? `-${/\s/.test(part.value) ? `"${part.value}"` : part.value}` : part.value)).join(" ");
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(svg.namespaceURI, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Show the parts; `changed(searchNow)` is called when a person changes one. */
export function showParts(list, parts, changed) {
  const alone = parts.length === 1;
  list.replaceChildren(
    ...parts.filter((part) => !(alone && part.kind === "text")).map((part) => partRow(part, alone, parts, changed)),
  );
}

function partRow(part, alone, parts, changed) {
  const row = document.getElementById("part-template").content.cloneNode(true).firstElementChild;
  const title = part.kind === "text" ? part.value : part.name;
  row.querySelector(".name").textContent = title;
  row.querySelector(".kind").textContent = KINDS[part.kind];
  row.querySelector(".preview").append(preview(part));
  if (part.kind === "audio") row.querySelector(".kind").replaceChildren(player(part.url, title));
  const slider = row.querySelector(".weight input");
  const told = row.querySelector("output");
  slider.value = part.weight;
  told.textContent = part.weight.toFixed(1);
  slider.setAttribute("aria-label", `Weight of ${title}`);
  slider.addEventListener("input", () => {
    part.weight = Number(slider.value);
    told.textContent = part.weight.toFixed(1);
    changed(false);
  });
  const minus = row.querySelector(".minus input");
  minus.checked = part.minus;
  minus.setAttribute("aria-label", `Take ${title} away instead of adding it`);
  row.classList.toggle("subtracted", part.minus);
  minus.addEventListener("change", () => {
    part.minus = minus.checked;
    row.classList.toggle("subtracted", part.minus);
    changed(false);
  });
  row.querySelector(".weight").hidden = row.querySelector(".minus").hidden = alone && !part.minus;
  row.querySelector(".remove").setAttribute("aria-label", `Remove ${title}`);
  row.querySelector(".remove").addEventListener("click", () => {
    parts.splice(parts.indexOf(part), 1);
    changed(true);
  });
  return row;
}

function preview(part) {
  const url = part.kind === "image" ? part.url : part.kind === "item" ? part.thumb : null;
  if (url) {
    const image = new Image();
    image.src = url;
    image.alt = "";
    image.addEventListener("error", () => image.replaceWith(icon("picture")));
    return image;
  }
  if (part.kind !== "audio") return icon(part.kind === "text" ? "words" : "picture");
  const holder = document.createElement("span");
  holder.append(icon("sound"));
  peaksOf(part).then((peaks) => peaks && holder.replaceChildren(wave(peaks)));
  return holder;
}

export function player(url, title) {
  const audio = document.createElement("audio");
  audio.src = url;
  audio.controls = true;
  audio.preload = "none";
  audio.setAttribute("controlslist", "nodownload noplaybackrate");
  audio.setAttribute("aria-label", `Sound of ${title}`.slice(0, 160));
  return audio;
}

async function peaksOf(part) {
  if (part.peaks === undefined) {
    try {
      const decoded = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await part.file.arrayBuffer());
      const samples = decoded.getChannelData(0);
      const span = Math.max(1, Math.floor(samples.length / PEAKS));
      part.peaks = Array.from({ length: PEAKS }, (_, i) => {
        let peak = 0;
        for (let n = i * span; n < (i + 1) * span && n < samples.length; n += 1) peak = Math.max(peak, Math.abs(samples[n]));
        return peak;
      });
    } catch {
      part.peaks = null; // a video, or a format that this browser does not know: the server may
    }
  }
  return part.peaks;
}

function wave(peaks) {
  const loudest = Math.max(...peaks, 1e-4);
  const svg = icon("sound");
  svg.setAttribute("viewBox", `0 0 ${2 * PEAKS} 32`);
  svg.setAttribute("class", "peaks");
  const path = document.createElementNS(svg.namespaceURI, "path");
  const lines = peaks.map((peak, i) => `M${2 * i + 1} ${16 - 15 * Math.max(0.05, peak / loudest)}V${16 + 15 * Math.max(0.05, peak / loudest)}`);
  path.setAttribute("d", lines.join(""));
  svg.replaceChildren(path);
  return svg;
}

/** Records from the microphone; resolves to a file, or to null if nothing was heard. */
export class Recorder {
  constructor(canvas, tick) {
    this.canvas = canvas;
    this.tick = tick;
    this.recorder = null;
  }

  get isOn() {
    return this.recorder !== null;
  }

  stop() {
    if (this.recorder?.state === "recording") this.recorder.stop();
  }

  async record(seconds) {
    if (!navigator.mediaDevices || !window.MediaRecorder) throw new Error("no-recorder");
    // what a telephone does for voices would take away most other sounds
    const wanted = { echoCancellation: false, noiseSuppression: false, autoGainControl: true };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    const mimeType = RECORDINGS.find((type) => MediaRecorder.isTypeSupported(type));
    this.recorder = new MediaRecorder(stream, mimeType ? { mimeType } : {});
    const pieces = [];
    this.recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
    const stopped = new Promise((resolve) => this.recorder.addEventListener("stop", resolve, { once: true }));
    const context = new AudioContext();
    this.recorder.start();
    this.draw(context, stream, seconds);
    const timer = setTimeout(() => this.stop(), 1000 * seconds);
    await stopped;
    clearTimeout(timer);
    for (const track of stream.getTracks()) track.stop();
    const type = this.recorder.mimeType || "audio/webm";
    this.recorder = null;
    context.close();
    const sound = new Blob(pieces, { type });
    return sound.size ? new File([sound], "recording", { type }) : null;
  }

  draw(context, stream, seconds) {
    const analyser = new AnalyserNode(context, { fftSize: 1024 });
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const levels = [];
    const pen = this.canvas.getContext("2d");
    const started = performance.now();
    const frame = () => {
      if (!this.isOn) return;
      analyser.getFloatTimeDomainData(samples);
      levels.push(Math.min(1, 4 * Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length)));
      const { width, height } = this.canvas;
      pen.clearRect(0, 0, width, height);
      pen.fillStyle = getComputedStyle(this.canvas).color;
      levels.slice(-width / 4).forEach((level, i) => {
        const tall = Math.max(2, level * height);
        pen.fillRect(4 * i, (height - tall) / 2, 2.5, tall);
      });
      this.tick(Math.max(0, seconds - (performance.now() - started) / 1000));
      requestAnimationFrame(frame);
    };
    frame();
  }
}
