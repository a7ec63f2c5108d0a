/** Log-probabilities to token numbers, as speechseq/decoding.py does it, to the last comparison.
 *
 * A hypothesis is `{tokens, starts, ends, confidences, confidence}`: tokens, the frames
 * [start, end) each was seen in, and probabilities: geometric means over frames.
 */

const BLANK = 0;

/** Take the best token of each frame, merge repeats, drop blanks. */
function greedy(logProbs) {
  return along(
    logProbs,
    Array.from({ length: logProbs.frames }, (_, n) => best(row(logProbs, n))),
  );
}

function row({ values, tokens }, frame) {
  return values.subarray(frame * tokens, (frame + 1) * tokens);
}

function best(values) {
  return values.reduce((most, value, n) => (value > values[most] ? n : most), 0);
}

/** Return what a path (frames,) of tokens spells, and how probable it is. */
function along(logProbs, path) {
  // float32 softmax may round above certainty
  const logs = path.map((token, n) => Math.min(row(logProbs, n)[token], 0));
  const found = { tokens: [], starts: [], ends: [], confidences: [], confidence: 1 };
  const spoken = [];
  for (let start = 0, end; start < path.length; start = end) {
    end = start + 1;
    while (path[end] === path[start]) end++;
    if (path[start] === BLANK) continue;
    const run = logs.slice(start, end);
    found.tokens.push(path[start]);
    found.starts.push(start);
    found.ends.push(end);
    found.confidences.push(Math.exp(mean(run)));
    spoken.push(...run);
  }
  found.confidence = Math.exp(mean(spoken.length ? spoken : logs));
  return found;
}

/** Return the mean of numbers; 0 for none. */
export function mean(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0) / Math.max(numbers.length, 1);
}

/** Return a decoder into the vocabulary's words and no others: the best path that spells them. */
function lexicon(vocabulary) {
  const words = new Set(vocabulary.words);
  const states = statesOf(vocabulary);
  return (logProbs) => {
    const found = greedy(logProbs);
    // The best path of all is the lexicon's best, too, where it spells nothing but its words.
    const text = found.tokens.map((token) => vocabulary.tokens[token]).join("");
    if (!text || text.split(" ").every((word) => words.has(word))) return found;
    return along(
      logProbs,
      bestPath(states, logProbs).map((state) => states.tokens[state]),
    );
  };
}

/** Return the states of every word, a blank between each two characters, and four shared ones.
 *
 * These are blanks before the first word, blanks behind a word, the space, and blanks behind the
 * space. `sources` are the states that each is reached from: itself and up to two more; the numbers
 * `none`, `entry` and `end` stand for none, whatever leads into a word, the best end of a word.
 */
function statesOf(vocabulary) {
  const spellings = vocabulary.words.map((word) =>
    [...word].map((letter) => vocabulary.tokens.indexOf(letter)),
  );
  const size = spellings.reduce((sum, { length }) => sum + 2 * length - 1, 0) + 4;
  const [before, behind, space, after] = [size - 4, size - 3, size - 2, size - 1];
  const [none, entry, end] = [size, size + 1, size + 2];
  const places = { size, before, behind, space, after, entry, end };
  const states = { ...places, tokens: [], sources: [], last: [] };
  for (const spelling of spellings) addWord(states, spelling, none);
  const spaced = vocabulary.tokens.indexOf(" ");
  states.tokens.push(BLANK, BLANK, spaced < 0 ? BLANK : spaced, BLANK);
  states.sources.push([before, none, none], [behind, end, none]);
  states.sources.push(spaced < 0 ? [space, none, none] : [space, end, behind]);
  states.sources.push(spaced < 0 ? [after, none, none] : [after, space, none]);
  return states;
}

function addWord({ tokens, sources, last, entry }, spelling, none) {
  spelling.forEach((token, n) => {
    if (n) addState(BLANK, tokens.length - 1, none);
    // A character may follow the one before it directly, unless the two are the same.
    const direct = n && token !== spelling[n - 1] ? tokens.length - 2 : none;
    addState(token, n ? tokens.length - 1 : entry, direct);
  });
  last.push(tokens.length - 1);

  function addState(token, previous, skipped) {
    sources.push([tokens.length, previous, skipped]);
    tokens.push(token);
  }
}

/** Return the state of each frame on the best path (Viterbi). */
function bestPath(states, logProbs) {
  const { size, before, behind, space, after, entry, end, last } = states;
  let scores = new Float64Array(size + 3).fill(-Infinity);
  scores[before] = 0; // before the first frame, at no cost
  const cameBy = [];
  for (let frame = 0; frame < logProbs.frames; frame++) {
    const entrance = highest(scores, [before, space, after]);
    const gates = { [entry]: entrance, [end]: highest(scores, last) };
    scores[entry] = scores[gates[entry]];
    scores[end] = scores[gates[end]];
    const [next, from] = step(states, scores, row(logProbs, frame));
    cameBy.push(from.map((source) => gates[source] ?? source));
    scores = next;
  }
  const path = [highest(scores, [...last, before, behind])];
  for (let frame = logProbs.frames - 1; frame > 0; frame--) {
    path.push(cameBy[frame][path.at(-1)]);
  }
  return path.reverse();
}

/** Return the states' scores one frame later, and the source each came by. */
function step({ size, sources, tokens }, scores, values) {
  const next = new Float64Array(size + 3).fill(-Infinity);
  const from = new Int32Array(size);
  for (let state = 0; state < size; state++) {
    from[state] = highest(scores, sources[state]);
    next[state] = scores[from[state]] + values[tokens[state]];
  }
  return [next, from];
}

/** Return the first of some numbers that has the highest score. */
function highest(scores, numbers) {
  return numbers.reduce((most, number) => (scores[number] > scores[most] ? number : most));
}

/** Take the most probable class of a whole utterance. */
export function bestClass({ values }) {
  const token = best(values);
  const confidence = Math.exp(Math.min(values[token], 0));
  return { tokens: [token], starts: [0], ends: [1], confidences: [confidence], confidence };
}

/** What makes a vocabulary's decoder, by the name model files give it; classes have but one. */
export const DECODERS = { greedy: () => greedy, lexicon };
