/** Networks: samples (samples,) to log-probabilities, whoever runs them.
 *
 * Log-probabilities are `{values, frames, tokens}`: float32, row after row, a row for each frame.
 */

import { ask } from "./server.js";

const HERE = "in this browser";
const THERE = "on the server";
const RUNTIME = "./vendor/ort.wasm.bundle.min.mjs";
const QUIET = 3; // onnxruntime's log severity: errors only, as in speechseq/model_file.py

let failures = 0; // a browser keeps a module that could not be loaded, under its address

/** Return the network of a model's ONNX file, run by onnxruntime-web in this browser. */
async function here(model) {
  const file = await ask(model.file);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const [ort, session] = await opened(bytes);
  return async (samples) => {
    const inputs = {
      waveform: new ort.Tensor("float32", samples, [1, samples.length]),
      lengths: new ort.Tensor("int64", [BigInt(samples.length)], [1]),
    };
    const { log_probs: found } = await session.run(inputs, ["log_probs"]);
    const [, frames, tokens] = found.dims;
    return { values: found.data, frames, tokens };
  };
}

/** Return onnxruntime-web, and a session of it. */
async function opened(bytes) {
  try {
    const ort = await import(failures ? `${RUNTIME}?${failures}` : RUNTIME);
    ort.env.wasm.numThreads = 1; // the fastest for small recurrent networks
    const options = { executionProviders: ["wasm"], logSeverityLevel: QUIET };
    return [ort, await ort.InferenceSession.create(bytes, options)];
  } catch (error) {
    failures++;
    throw new Error(`onnxruntime-web: ${error.message}; try again, or another place`);
  }
}

/** Return the same network, run by the server. */
async function there(model) {
  const place = `v1/log_probs?model=${encodeURIComponent(model.name)}`;
  const tokens = model.vocabulary.tokens.length;
  return async (samples) => {
    const answer = await ask(place, { method: "POST", body: samples });
    const values = new Float32Array(await answer.arrayBuffer());
    return { values, frames: values.length / tokens, tokens };
  };
}

/** Where a network may run: what makes it, by the name people choose. */
export const PLACES = { [HERE]: here, [THERE]: there };

/** List the places where a model can be run. */
export function placesOf(model, { runtime, server }) {
  return [runtime && model.file && HERE, server && THERE].filter(Boolean);
}
