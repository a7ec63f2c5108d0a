/** Pictures of a sound and of what a network heard in it, above one axis of seconds. */

import { rowOf } from "./log_mels.js";
import { frameStart } from "./recogniser.js";

const MARGIN = { left: 64, right: 12, top: 8, bottom: 24 };
const ROW_PIXELS = 14;
const CLASSES_SHOWN = 10;
const STEPS_SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120];
const FREQUENCIES = [125, 250, 500, 1000, 2000, 4000, 8000, 16000];
const GLOW = [
  [0, 0, 4],
  [81, 18, 124],
  [183, 55, 121],
  [252, 137, 97],
  [252, 253, 191],
];

/** Draw samples between their loudest levels, and shade the words in them. */
export function drawWaveform(canvas, { samples, duration, words }) {
  const plot = plotOn(canvas, duration);
  const { context, box, x } = plot;
  const peak = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-4);
  const y = (value) => box.top + (0.5 - value / peak / 2) * box.height;
  context.fillStyle = plot.colour("--wash");
  for (const { start, end } of words) {
    context.fillRect(x(start), box.top, x(end) - x(start), box.height);
  }
  context.fillStyle = plot.colour("--accent");
  for (let pixel = 0; pixel < box.width; pixel++) {
    const [low, high] = extremes(samples, pixel / box.width, (pixel + 1) / box.width);
    context.fillRect(box.left + pixel, y(high), 1, Math.max(y(low) - y(high), 1));
  }
  context.fillStyle = plot.colour("--ink");
  context.textAlign = "center";
  for (const { text, start, end } of words) {
    context.fillText(text, x((start + end) / 2), box.top + 12);
  }
  for (const value of [peak, 0, -peak]) label(plot, value.toPrecision(2), y(value));
  secondsAxis(plot, duration);
  const level = `up to ${peak.toPrecision(2)} of full scale`;
  describe(canvas, `Waveform of ${duration.toFixed(2)} seconds, ${level}. ${spoken(words)}`);
}

/** Draw log-mels, a band a row, the highest on top. */
export function drawLogMels(canvas, { logMels, duration, model }) {
  const plot = plotOn(canvas, duration);
  const { rate, hop_samples: hop, edge_samples: edge, mels } = model.log_mel;
  const least = logMels.values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = logMels.values.reduce((a, b) => Math.max(a, b), -Infinity);
  const image = imageOf(logMels.frames, mels, (frame, row) => {
    const value = logMels.values[frame * mels + mels - 1 - row];
    return [...glow((value - least) / (most - least || 1)), 255];
  });
  // A frame is centred on its hop.
  const edges = [-0.5, logMels.frames - 0.5].map((frame) => (frame * hop - edge) / rate);
  paint(plot, image, edges);
  frequencyAxis(plot, rowOf(model.log_mel), mels);
  secondsAxis(plot, duration);
  const bands = `${mels} bands from ${model.log_mel.low_hz} to ${model.log_mel.top_hz} hertz`;
  const range = `natural logarithms of energy from ${least.toFixed(1)} to ${most.toFixed(1)}`;
  describe(canvas, `Log-mel spectrogram: ${bands}, ${duration.toFixed(2)} seconds, ${range}.`);
}

/** Draw probabilities: of tokens over time, or of the most probable classes of a whole. */
export function drawPosteriors(canvas, shown) {
  const { kind, tokens } = shown.model.vocabulary;
  const rows = kind === "classes" ? Math.min(CLASSES_SHOWN, tokens.length) : tokens.length;
  canvas.style.height = `${rows * ROW_PIXELS + MARGIN.top + MARGIN.bottom}px`;
  if (kind === "classes") drawClasses(canvas, shown, rows);
  else drawTokens(canvas, shown);
}

function drawTokens(canvas, { logProbs, duration, model, words }) {
  const plot = plotOn(canvas, duration);
  const { frames, tokens, values } = logProbs;
  const opacity = (frame, token) => 255 * Math.exp(values[frame * tokens + token]);
  const image = imageOf(frames, tokens, (frame, token) => [0, 0, 0, opacity(frame, token)]);
  const edges = [0, frames].map((frame) => frameStart(model, frame));
  paint(plot, tinted(image, plot.colour("--accent")), edges);
  model.vocabulary.tokens.forEach((token, row) => {
    label(plot, shownAs(token), plot.box.top + (row + 0.5) * ROW_PIXELS);
  });
  secondsAxis(plot, duration);
  describe(canvas, `Probabilities of ${tokens} tokens in ${frames} frames. ${spoken(words)}`);
}

function drawClasses(canvas, { logProbs, model }, rows) {
  const plot = plotOn(canvas, 1);
  const { context, box, x } = plot;
  const ranked = model.vocabulary.tokens
    .map((name, token) => ({ name, probability: Math.exp(logProbs.values[token]) }))
    .sort((one, two) => two.probability - one.probability)
    .slice(0, rows);
  ranked.forEach(({ name, probability }, row) => {
    const y = box.top + row * ROW_PIXELS;
    context.fillStyle = plot.colour("--accent");
    context.fillRect(box.left, y + 1, x(probability) - box.left, ROW_PIXELS - 2);
    label(plot, name, y + ROW_PIXELS / 2);
  });
  axis(plot, [0, 0.25, 0.5, 0.75, 1], "");
  const told = ranked.map(({ name, probability }) => `${name} ${probability.toFixed(3)}`);
  describe(canvas, `Probabilities of the likeliest classes: ${told.join(", ")}.`);
}

function spoken(words) {
  const told = words.map(
    ({ text, start, end }) => `${text} from ${start.toFixed(2)} to ${end.toFixed(2)}`,
  );
  return told.length ? `Words: ${told.join(", ")} seconds.` : "No words.";
}

function describe(canvas, text) {
  canvas.setAttribute("aria-label", text);
}

/** Return a canvas' context in CSS pixels, the box within its margins, and seconds to pixels. */
function plotOn(canvas, duration) {
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  const context = canvas.getContext("2d");
  context.scale(canvas.width / width, canvas.height / height);
  context.font = "12px system-ui, sans-serif";
  const { left, top, right, bottom } = MARGIN;
  const box = { left, top, width: width - left - right, height: height - top - bottom };
  const x = (seconds) => box.left + (seconds / duration) * box.width;
  const style = getComputedStyle(canvas);
  return { context, box, x, colour: (name) => style.getPropertyValue(name) };
}

function label({ context, box, colour }, text, y) {
  context.fillStyle = colour("--quiet");
  context.textAlign = "right";
  context.textBaseline = "middle";
  context.fillText(text, box.left - 6, y, box.left - 8);
  context.textBaseline = "alphabetic";
}

/** Name frequencies, the lowest first, as long as they do not run into each other. */
function frequencyAxis(plot, row, mels) {
  const { top, height } = plot.box;
  let last = Infinity;
  for (const hertz of FREQUENCIES.filter((each) => row(each) >= 0 && row(each) <= mels)) {
    const y = top + (1 - row(hertz) / mels) * height;
    if (last - y < ROW_PIXELS) continue;
    label(plot, hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`, y);
    last = y;
  }
}

function secondsAxis(plot, duration) {
  const most = Math.max(plot.box.width / 60, 1);
  const step = STEPS_SECONDS.find((each) => duration / each <= most) ?? duration;
  const ticks = Array.from({ length: Math.floor(duration / step) + 1 }, (_, n) => n * step);
  axis(plot, ticks, " s");
}

function axis({ context, box, x, colour }, ticks, unit) {
  context.strokeStyle = colour("--line");
  context.strokeRect(box.left - 0.5, box.top - 0.5, box.width + 1, box.height + 1);
  context.fillStyle = colour("--quiet");
  context.textAlign = "center";
  for (const tick of ticks) {
    context.fillRect(x(tick) - 0.5, box.top + box.height, 1, 5);
    context.fillText(`${Number(tick.toFixed(2))}${unit}`, x(tick), box.top + box.height + 18);
  }
}

/** Return the least and most of the samples between two shares of them, zero included. */
function extremes(samples, from, to) {
  const first = Math.floor(from * samples.length);
  const stretch = samples.subarray(first, Math.max(Math.floor(to * samples.length), first + 1));
  return [stretch.reduce((a, b) => Math.min(a, b), 0), stretch.reduce((a, b) => Math.max(a, b), 0)];
}

/** Return an image; a function of column and row gives its red, green, blue and opacity. */
function imageOf(columns, rows, colourOf) {
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const data = new ImageData(columns, rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      data.data.set(colourOf(column, row), 4 * (row * columns + column));
    }
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

/** Return an image in one colour, as opaque as it was. */
function tinted(image, colour) {
  const context = image.getContext("2d");
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, image.width, image.height);
  return image;
}

/** Paint an image from one second to another, as far as it lies in the box. */
function paint({ context, box, x }, image, [first, last]) {
  context.save();
  context.beginPath();
  context.rect(box.left, box.top, box.width, box.height);
  context.clip();
  context.imageSmoothingEnabled = false;
  context.drawImage(image, x(first), box.top, x(last) - x(first), box.height);
  context.restore();
}

function glow(share) {
  const position = share * (GLOW.length - 1);
  const n = Math.min(Math.floor(position), GLOW.length - 2);
  return GLOW[n].map((value, channel) => value + (GLOW[n + 1][channel] - value) * (position - n));
}

function shownAs(token) {
  return { "<blank>": "blank", " ": "space" }[token] ?? token;
}
