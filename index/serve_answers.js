// The answers: lists of cards with pictures and players, and how they were found.

import { player } from "./serve_parts.js";

const NAMES = { image: ["picture", "pictures"], audio: ["sound", "sounds"] };

export function titleOf(item) {
  return item.caption || item.labels?.join(", ") || item.key || item.item_id;
}

function subtitleOf(item) {
  const span = item.end_ms > item.start_ms ? `${item.start_ms / 1000} to ${item.end_ms / 1000} s` : "";
  const equal = item.same_content ? `${item.same_content} more with the same` : "";
  return [item.caption ? (item.labels ?? []).join(", ") : "", item.language, span, equal].filter(Boolean).join(" · ");
}

export const counted = (count, modality) => `${count.toLocaleString("en")} ${NAMES[modality][count === 1 ? 0 : 1]}`;

export function milliseconds(answer) {
  const total = Object.values(answer.timings_ms ?? {}).reduce((sum, ms) => sum + ms, 0);
  return total < 10 ? `${total.toFixed(1)} ms` : `${Math.round(total)} ms`;
}

function factsOf(answer) {
  const facts = { search: answer.mode === "exact" ? "exact: every item was compared" : "approximate" };
  for (const [direction, recall] of Object.entries(answer.recorded)) {
    const at10 = recall["10"];
    facts[`recall at 10, ${direction}`] = at10 ? `${at10.value} (${at10.low} to ${at10.high}), measured at the build` : "";
  }
  for (const [modality, strategy] of Object.entries(answer.filter.strategy)) {
    facts[`${NAMES[modality][1]} searched`] = `${counted(answer.filter.matched[modality], modality)}, ${strategy}`;
  }
  facts.time = Object.entries(answer.timings_ms).map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`).join(", ");
  return { ...facts, index: answer.index, snapshot: answer.snapshot };
}

/** How an answer was found, as rows of a description list. */
export const factRows = (answer) => Object.entries(factsOf(answer)).map(([name, value]) => factRow(name, value));

function factRow(name, value) {
  const row = document.createElement("div");
  const [term, told] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name;
  told.textContent = value;
  row.append(term, told);
  return row;
}

/** A heading and cards. `among`: how many were searched; `none`: what to say where nothing was found; `actions`: what
 * the buttons of a card do, `{more(part), add(part), canAdd}`. */
export function listOf(modality, found, { heading = `Nearest ${NAMES[modality][1]}`, among = null, none = "", actions }) {
  const section = document.createElement("section");
  section.className = "list";
  const title = document.createElement("h2");
  title.textContent = heading;
  if (among !== null) {
    const small = document.createElement("small");
    small.textContent = `among ${counted(among, modality)}`;
    title.append(small);
  }
  section.append(title);
  if (!found.length) {
    const empty = document.createElement("p");
    empty.className = "none";
    empty.textContent = none;
    section.append(empty);
    return section;
  }
  const list = document.createElement("ol");
  list.className = `cards ${modality}`;
  const best = Math.max(...found.map((item) => item.calibrated ?? 0));
  list.append(...found.map((item, number) => cardOf(item, number + 1, best, actions)));
  section.append(list);
  return section;
}

function cardOf(item, place, best, actions) {
  const card = document.getElementById("card-template").content.cloneNode(true).firstElementChild;
  const title = titleOf(item);
  card.querySelector(".title").textContent = title;
  card.querySelector(".subtitle").textContent = subtitleOf(item);
  card.setAttribute("aria-label", item.rank ? `${place}: ${title}` : title);
  const holder = card.querySelector(".picture");
  if (item.thumb) {
    const image = new Image(64, 64);
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = `Picture of ${title}`.slice(0, 160);
    image.src = item.thumb;
    image.addEventListener("error", () => {
      image.remove();
      holder.classList.add("gone");
    });
    holder.append(image);
  }
  if (item.media) card.querySelector(".player").append(player(item.media, title));
  showScore(card, item, place, best);
  const part = { kind: "item", value: item.item_id, name: title, thumb: item.thumb, weight: 1, minus: false };
  const [more, add] = [card.querySelector(".more"), card.querySelector(".add")];
  more.setAttribute("aria-label", `More like ${title}`);
  more.addEventListener("click", () => actions.more({ ...part }));
  add.setAttribute("aria-label", `Add ${title} to the question`);
  add.addEventListener("click", () => actions.add({ ...part }));
  add.hidden = !actions.canAdd;
  return card;
}

/** The bar compares answers of one list; the words on pointing compare them with chance. */
function showScore(card, item, place, best) {
  if (item.score === undefined || item.score === null) {
    card.querySelector(".score").remove();
    return;
  }
  card.querySelector(".rank").textContent = place;
  card.querySelector(".value").textContent = item.score.toFixed(3);
  card.querySelector(".score").title = `cosine, higher than that of ${item.percentile.toFixed(1)} % of random pairs`;
  const share = best > 0 ? Math.min(1, Math.max(0, item.calibrated / best)) : 0;
  card.querySelector(".fill").setAttribute("width", `${(100 * share).toFixed(1)}%`);
}
