/** Log-probabilities to text and words, as speechseq/recogniser.py does it. */

import { bestClass, DECODERS, mean } from "./decoding.js";

const UNKNOWN = "_unknown_";

/** Return a function: log-probabilities, seconds -> `{text, words, confidence, duration}`.
 *
 * Words are `{text, start, end, confidence}`, in seconds.
 */
export function recogniserOf(model) {
  const isSequence = model.vocabulary.kind !== "classes";
  const decode = isSequence ? DECODERS[model.decoder](model.vocabulary) : bestClass;
  return (logProbs, duration) => {
    let found = decode(logProbs);
    if (!isSequence) found = sureClass(model, found, logProbs);
    const words = (isSequence ? wordsOf : wholeWord)(model, found, duration);
    const text = words.map((word) => word.text).join(" ");
    return { text, words, confidence: found.confidence, duration };
  };
}

/** Return the seconds at which a frame begins, without the silence put around the sound. */
export function frameStart({ frame_seconds: step, edge_seconds: edge }, frame) {
  return frame * step - edge;
}

function textOf({ kind, tokens }, numbers) {
  const units = numbers.map((number) => tokens[number]);
  return kind === "characters" ? units.join("").trim().replace(/\s+/g, " ") : units.join(" ");
}

/** Return the class; unknown, or none where there is no such, if it is not sure enough. */
function sureClass({ vocabulary, least_confidence }, found, logProbs) {
  if (found.confidence >= least_confidence) return found;
  const unknown = vocabulary.tokens.indexOf(UNKNOWN);
  if (unknown < 0) return { ...found, tokens: [] };
  return { ...found, tokens: [unknown], confidence: Math.exp(logProbs.values[unknown]) };
}

/** Return the class, if there is one, as the only word. */
function wholeWord({ vocabulary }, { tokens, confidence }, duration) {
  return tokens.map((n) => ({ text: vocabulary.tokens[n], start: 0, end: duration, confidence }));
}

/** Gather the tokens between spaces (each token, where tokens are words) into sure words. */
function wordsOf(model, found, duration) {
  const { kind, tokens } = model.vocabulary;
  const groups = [[]];
  found.tokens.forEach((token, position) => {
    if (kind !== "characters") groups.push([position]);
    else if (tokens[token] === " ") groups.push([]);
    else groups.at(-1).push(position);
  });
  const spelt = groups.filter((group) => group.length);
  const words = spelt.map((group) => wordOf(model, found, group, duration));
  return words.filter((word) => word.confidence >= model.least_confidence);
}

/** Return by how many frames letters are told later than they can have been said. */
function lateness({ letter_gap: most }, { starts, ends }, group) {
  const gaps = group.slice(1).map((place, n) => starts[place] - ends[group[n]]);
  return gaps.reduce((late, gap) => late + Math.max(gap - most, 0), 0);
}

function wordOf(model, found, group, duration) {
  const seconds = (frame) => {
    const time = Math.round(1000 * Math.max(frameStart(model, frame), 0));
    return Math.min(time, Math.floor(1000 * duration)) / 1000;
  };
  return {
    text: textOf(
      model.vocabulary,
      group.map((position) => found.tokens[position]),
    ),
    start: seconds(found.starts[group[0]]),
    end: seconds(found.ends[group.at(-1)] - lateness(model, found, group)),
    confidence: Math.exp(mean(group.map((n) => Math.log(Math.max(found.confidences[n], Number.MIN_VALUE))))),
  };
}
