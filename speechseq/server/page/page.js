/** The page's controls: a sound comes in, is recognised, and is shown. */

import { drawLogMels, drawPosteriors, drawWaveform } from "./draw.js";
import { logMels } from "./log_mels.js";
import { PLACES, placesOf } from "./network.js";
import { recogniserOf } from "./recogniser.js";
import { ask, useToken } from "./server.js";
import { readFile, startRecording } from "./sound.js";

const UNAUTHORISED = 401;

const part = (id) => document.getElementById(id);
const loaded = new Map(); // networks that were made, by model and place

let offer = null; // what models there are, and where they may run
let file = null; // the sound that was given last
let shown = null; // all that is drawn of it
let opening = false; // whether the microphone is on its way
let stop = null; // ends the recording that runs
let turn = 0; // of several recognitions only the last one is shown

async function enter() {
  try {
    offer = await (await ask("models.json")).json();
  } catch (error) {
    if (error.status === UNAUTHORISED) openDoor();
    return say(error.message, true);
  }
  const wasAsked = !part("door").hidden;
  part("door").hidden = true;
  fill(
    part("model"),
    offer.models.map(({ name }) => name),
  );
  offerPlaces();
  for (const id of ["model", "place", "record", "file"]) part(id).disabled = false;
  if (wasAsked) part("record").focus(); // the token's field, which had it, is gone
  say("Ready.");
  recognise(); // a sound that the server would not hear without a token
}

/** Ask for the token. */
function openDoor() {
  part("door").hidden = false;
  part("token").select(); // a screen reader tells where it is, whatever the status line said
}

function chosen() {
  return offer.models[part("model").selectedIndex];
}

function offerPlaces() {
  fill(part("place"), placesOf(chosen(), offer));
}

function fill(select, names) {
  const before = select.value;
  select.replaceChildren(...names.map((name) => new Option(name)));
  if (names.includes(before)) select.value = before;
}

function say(text, isWrong = false) {
  part("status").textContent = text;
  part("status").classList.toggle("wrong", isWrong);
}

/** Run what may fail, and say why it did. */
async function attempt(what, work, isOver = () => false) {
  try {
    await work();
    return true;
  } catch (error) {
    if (error.status === UNAUTHORISED) openDoor();
    if (!isOver()) say(`${what}: ${error.message}`, true);
    return false;
  }
}

/** Recognise the last sound with the chosen model, and show all of it. */
async function recognise() {
  if (!file || !part("place").value) return;
  const own = ++turn;
  const isOver = () => own !== turn;
  const model = chosen();
  const place = part("place").value;
  say(`${file.name}: listening …`);
  const work = async () => {
    const samples = await readFile(file, model.rate, offer.most_seconds);
    if (!samples.length) throw new Error("holds no sound; give a longer one");
    const duration = samples.length / model.rate;
    const network = await networkOf(model, place);
    const began = performance.now();
    const logProbs = await network(samples);
    const found = recogniserOf(model)(logProbs, duration);
    const took = performance.now() - began;
    if (isOver()) return;
    const mels = logMels(samples, model.log_mel);
    shown = { model, samples, duration, logProbs, logMels: mels, ...found };
    show();
    say(`${file.name}: ${duration.toFixed(2)} s, recognised in ${took.toFixed(1)} ms ${place}.`);
  };
  if (!(await attempt(file.name, work, isOver)) && !isOver()) clear();
}

/** Show nothing of the last sound: what is shown belongs to the name in the status line. */
function clear() {
  shown = null;
  part("answer").hidden = true;
  part("text").textContent = "";
}

/** Return a promise of a model's network; two who ask at once get the same one. */
function networkOf(model, place) {
  const key = JSON.stringify([model.name, place]);
  if (!loaded.has(key)) {
    const network = PLACES[place](model);
    loaded.set(key, network);
    network.catch(() => loaded.delete(key));
  }
  return loaded.get(key);
}

function show() {
  part("answer").hidden = false;
  part("text").textContent = shown.text || "No words were recognised.";
  part("text").classList.toggle("none", !shown.text);
  part("words").replaceChildren(...shown.words.map(wordRow));
  const ofClasses = shown.model.vocabulary.kind === "classes";
  part("posteriors-title").textContent = ofClasses
    ? "Probabilities of the likeliest classes"
    : "Probability of each token over time, from 0 (pale) to 1 (full)";
  draw();
}

function wordRow({ text, start, end, confidence }) {
  const row = document.createElement("tr");
  for (const value of [text, start.toFixed(2), end.toFixed(2), confidence.toFixed(3)]) {
    row.insertCell().textContent = value;
  }
  return row;
}

function draw() {
  if (!shown) return;
  drawWaveform(part("waveform"), shown);
  drawLogMels(part("log-mels"), shown);
  drawPosteriors(part("posteriors"), shown);
}

function take(given) {
  file = given;
  clear();
  recognise();
}

async function record() {
  if (opening) return;
  if (stop) return finish();
  say("Opening the microphone …");
  const heard = (seconds) => {
    part("clock").textContent = `${seconds.toFixed(1)} s`;
    if (seconds >= 0.98 * offer.most_seconds) finish();
  };
  // A button that is disabled would lose the keyboard's focus.
  opening = true;
  await attempt("microphone", async () => {
    stop = await startRecording(heard, finish);
    say("Recording.");
    part("record").textContent = "Stop and recognise";
    part("record").toggleAttribute("data-on", true);
  });
  opening = false;
}

async function finish() {
  if (!stop) return;
  const ended = stop();
  stop = null;
  part("record").textContent = "Record";
  part("record").toggleAttribute("data-on", false);
  part("clock").textContent = "";
  await attempt("recording", async () => take(await ended));
}

function listenToDrops() {
  const over = (is) => part("drop").classList.toggle("over", is);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  addEventListener("dragleave", () => over(false));
  addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    if (offer && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}

part("door").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(part("token").value);
  enter();
});
part("model").addEventListener("change", () => {
  offerPlaces();
  recognise();
});
part("place").addEventListener("change", recognise);
part("record").addEventListener("click", record);
part("file").addEventListener("click", () => {
  part("file").value = ""; // the same file, chosen again, is a change, too
});
part("file").addEventListener("change", () => {
  if (part("file").files.length) take(part("file").files[0]);
});
new ResizeObserver(draw).observe(part("waveform"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
listenToDrops();
enter();
