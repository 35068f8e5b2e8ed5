// The page of the human test: consent, then one trial after the other. What the study says is only ever text.

const $ = (id) => document.getElementById(id);
const RETRY_MS = 1000;
const SIDES = ["left", "right", "neither"];
const WAIT = "The server does not answer.";

let study = null;
let rater = null;
let trial = null; // the one that is shown: {trial, sound, left, right}
let plays = 0;
let wasHeard = false;
let shownAt = 0;
let isSending = false;

// What the server says

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function notice(message = "", advice = "") {
  $("notice").hidden = !message;
  $("message").textContent = message;
  $("advice").textContent = advice;
}

/** A server that is gone is asked again until it is back: nothing that was said to it gets lost. */
async function call(name, told) {
  const options = told && {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(told),
  };
  for (;;) {
    let response;
    try {
      response = await fetch(`/v1/${name}`, options ?? {});
    } catch {
      notice(WAIT, "Stay on this page: it tries again, and nothing is lost.");
      await pause(RETRY_MS);
      continue;
    }
    if ($("message").textContent === WAIT) notice();
    if (response.status === 429) {
      await pause(RETRY_MS);
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    throw answer.error ?? { code: "", message: `The server answered with ${response.status}.`, hint: "" };
  }
}

function tell(error) {
  notice(error.message ?? String(error), error.hint ?? "");
}

// Who takes part: the browser keeps the secret, so that a reload goes on where it was

const key = () => `unibrivl-study-${study.study}`;

function keep(secret) {
  rater = secret;
  try {
    if (secret) localStorage.setItem(key(), secret);
    else localStorage.removeItem(key());
  } catch {
    // a browser that keeps nothing: a reload begins anew
  }
}

function kept() {
  try {
    return localStorage.getItem(key());
  } catch {
    return null;
  }
}

// What is seen

function show(name) {
  for (const id of ["welcome", "trial", "end"]) $(id).hidden = id !== name;
  $("top").hidden = name !== "trial";
  $("bottom").hidden = name === "welcome";
  $("keys").hidden = name !== "trial";
  document.body.dataset.shown = name;
}

function showWelcome() {
  $("title").textContent = study.title;
  const paragraphs = study.consent.split(/\n\s*\n/).filter((text) => text.trim());
  $("consent-text").replaceChildren(
    ...paragraphs.map((text) => Object.assign(document.createElement("p"), { textContent: text.trim() })),
  );
  $("length").textContent = `${study.trials} sounds. You need loudspeakers or headphones.`;
  $("agree").checked = false;
  $("simulated").hidden = !(study.simulated || navigator.webdriver);
  show("welcome");
}

async function showState(state) {
  $("simulated").hidden = !state.simulated;
  if (state.withdrawn) return showEnd("You have withdrawn", "None of your answers is counted. Thank you all the same.");
  if (!state.next) return showEnd("Thank you", "All your answers are stored. You can close this page.");
  $("progress-label").textContent = `${state.answered + 1} of ${state.trials}`;
  $("progress").max = state.trials;
  $("progress").value = state.answered;
  await showTrial(state.next);
}

function showEnd(title, text) {
  trial = null;
  $("sound").pause();
  $("end-title").textContent = title;
  $("end-text").textContent = text;
  show("end");
  $("bottom").hidden = title !== "Thank you";
  $("end-title").focus();
}

async function showTrial(next) {
  trial = null;
  plays = 0;
  wasHeard = false;
  $("answer-form").reset();
  $("choices").disabled = true;
  $("next").disabled = true;
  $("hint").textContent = "Play the sound to its end first.";
  $("sound").src = next.sound;
  for (const side of ["left", "right"]) $(side).src = next[side];
  showPlaying(false);
  $("heard").style.transform = "scaleX(0)";
  $("withdraw").hidden = false;
  show("trial");
  await Promise.all(["left", "right"].map((side) => $(side).decode())).catch(() => {
    tell({ message: "A picture cannot be shown.", hint: "Load the page again." });
  });
  trial = next;
  shownAt = performance.now();
  $("question").focus();
  document.body.dataset.trial = next.trial;
}

function showPlaying(isPlaying) {
  $("play-icon").setAttribute("d", isPlaying ? "M7 7h10v10H7z" : "M8 5v14l11-7z");
  $("play-label").textContent = isPlaying ? "Playing" : wasHeard ? "Play again" : "Play the sound";
  $("play").disabled = isPlaying;
}

// What a person does

async function play() {
  if (!trial || !$("sound").paused) return;
  $("sound").currentTime = 0;
  try {
    await $("sound").play();
  } catch {
    return tell({ message: "The sound cannot be played.", hint: "Load the page again, or take another browser." });
  }
  notice();
  plays += 1;
  showPlaying(true);
  requestAnimationFrame(showHeard);
}

function showHeard() {
  const sound = $("sound");
  if (sound.duration > 0) $("heard").style.transform = `scaleX(${Math.min(1, sound.currentTime / sound.duration)})`;
  if (!sound.paused) requestAnimationFrame(showHeard);
}

$("sound").addEventListener("ended", () => {
  wasHeard = true;
  showPlaying(false);
  $("heard").style.transform = "scaleX(1)";
  $("choices").disabled = false;
  if (!chosen()) $("hint").textContent = "Choose a picture, or neither.";
});

function chosen() {
  return new FormData($("answer-form")).get("side");
}

function showChosen() {
  $("next").disabled = !chosen();
  $("hint").textContent = "";
}

$("play").addEventListener("click", play);
$("answer-form").addEventListener("change", showChosen);

$("consent-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!$("agree").checked || isSending) return;
  isSending = true;
  try {
    const told = { study: study.study, agreed: true, automated: navigator.webdriver === true };
    const state = await call("consent", told);
    keep(state.rater);
    await showState(state);
  } catch (error) {
    tell(error);
  } finally {
    isSending = false;
  }
});

$("answer-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const side = chosen();
  if (!trial || !wasHeard || !side || isSending) return;
  isSending = true;
  $("next").disabled = true;
  const told = { rater, trial: trial.trial, side, time_ms: Math.round(performance.now() - shownAt), plays };
  try {
    await showState(await call("answer", told));
  } catch (error) {
    tell(error);
    $("next").disabled = false;
  } finally {
    isSending = false;
  }
});

$("withdraw").addEventListener("click", () => $("sure").showModal());
$("sure").addEventListener("close", async () => {
  if ($("sure").returnValue !== "yes") return;
  $("sure").returnValue = "";
  try {
    await showState(await call("withdraw", { rater }));
  } catch (error) {
    tell(error);
  }
});

$("another").addEventListener("click", () => {
  keep(null);
  notice();
  showWelcome();
});

document.addEventListener("keydown", (event) => {
  if (document.body.dataset.shown !== "trial" || $("sure").open) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const side = SIDES[Number(event.key) - 1];
  if (event.key.toLowerCase() === "p") play();
  else if (side && !$("choices").disabled) {
    document.querySelector(`input[value=${side}]`).click();
  } else if (event.key === "Enter" && event.target.tagName !== "BUTTON" && !$("next").disabled) {
    event.preventDefault();
    $("answer-form").requestSubmit();
  }
});

try {
  study = await call("study");
  rater = kept();
  if (rater) {
    try {
      await showState(await call("state", { rater }));
    } catch (error) {
      if (error.code !== "no_rater") throw error;
      keep(null);
    }
  }
  if (!rater) showWelcome();
} catch (error) {
  tell(error);
}
document.body.dataset.ready = "yes";
