/** Files and the microphone, to mono samples at the rate that a model takes. */

/** Larger files are not decoded: the browser would hold all of their samples. */
const MOST_BYTES = 100e6;

/** A browser that has not found a file's length by then (milliseconds) will not. */
const LENGTH_WAIT = 3000;

/** Return a file's samples (samples,) at a rate: mono, in [-1, 1], of so many seconds at most.
 *
 * The browser's decoder resamples with a filter, which its audio nodes do not.
 */
export async function readFile(file, rate, mostSeconds) {
  // WebKit's decoder never answers to no bytes at all.
  if (!file.size) throw new Error("empty; give an audio file");
  if (file.size > MOST_BYTES) {
    throw new Error(`larger than ${MOST_BYTES / 1e6} MB; cut it, or use speechseq transcribe`);
  }
  // Decoded first, an hour of a compressed file would fill gigabytes.
  check(await secondsOf(file), mostSeconds);
  const context = new OfflineAudioContext(1, 1, rate);
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    throw new Error("cannot be read any more; choose it again");
  }
  let buffer;
  try {
    buffer = await context.decodeAudioData(bytes);
  } catch {
    throw new Error("not audio that this browser reads; give wav, flac, ogg or mp3");
  }
  check(buffer.duration, mostSeconds);
  return averaged(buffer);
}

function check(seconds, mostSeconds) {
  if (seconds > mostSeconds) {
    throw new Error(`longer than ${mostSeconds} s; cut it, or use speechseq transcribe`);
  }
}

/** Return how long a file says it is, in seconds; 0 where the browser cannot tell. */
async function secondsOf(file) {
  const place = URL.createObjectURL(file);
  const audio = new Audio();
  const told = new Promise((resolve) => {
    audio.onloadedmetadata = () => resolve(audio.duration);
    audio.onerror = () => resolve(0);
    setTimeout(resolve, LENGTH_WAIT, 0);
  });
  audio.preload = "metadata";
  audio.src = place;
  const seconds = await told;
  audio.removeAttribute("src");
  URL.revokeObjectURL(place);
  return Number.isFinite(seconds) ? seconds : 0;
}

/** Start to record; return a function that ends it and gives the recording as a wav file.
 *
 * `heard` is told the seconds recorded so far, with each block, `gone` that the microphone went.
 */
export async function startRecording(heard, gone) {
  const stream = await openMicrophone();
  let context = null;
  const close = async () => {
    stream.getTracks().forEach((track) => track.stop());
    await context?.close();
  };
  let capture;
  try {
    context = new AudioContext();
    await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    // Of a microphone with two channels the mean is heard, as of a file.
    const mono = { channelCount: 1, channelCountMode: "explicit" };
    capture = new AudioWorkletNode(context, "capture", mono);
    context.createMediaStreamSource(stream).connect(capture).connect(context.destination);
  } catch (error) {
    await close();
    throw error;
  }
  stream.getAudioTracks()[0].onended = gone;
  const blocks = [];
  let size = 0;
  let isOver = false;
  capture.port.onmessage = ({ data }) => {
    blocks.push(data);
    size += data.length;
    if (!isOver) heard(size / context.sampleRate);
  };
  return async () => {
    isOver = true; // what is still on its way belongs to the recording, but nobody is told
    await close();
    if (!size) {
      // Firefox runs no audio, and so hears none, on a machine that has nowhere to play it.
      throw new Error("holds no sound; record longer, or connect loudspeakers: some browsers need them");
    }
    return wavFile(joined(blocks, size), context.sampleRate);
  };
}

/** Open the microphone, without the filters for telephone calls: no model is trained on those. */
async function openMicrophone() {
  if (!navigator.mediaDevices) throw new Error("browsers record over https or localhost alone");
  const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Error(`cannot be opened (${error.message}); allow it, or choose a file`);
  }
}

function averaged(buffer) {
  const samples = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    buffer.getChannelData(channel).forEach((value, n) => {
      samples[n] += Math.min(Math.max(value, -1), 1) / buffer.numberOfChannels;
    });
  }
  return samples;
}

function joined(blocks, size) {
  const samples = new Float32Array(size);
  let position = 0;
  for (const block of blocks) {
    samples.set(block, position);
    position += block.length;
  }
  return samples;
}

/** Return mono samples as a wav file of 32-bit floats. */
function wavFile(samples, rate) {
  const header = new DataView(new ArrayBuffer(44));
  const write = (position, text) =>
    [...text].forEach((letter, n) => header.setUint8(position + n, letter.charCodeAt(0)));
  write(0, "RIFF");
  header.setUint32(4, 36 + samples.byteLength, true);
  write(8, "WAVEfmt ");
  header.setUint32(16, 16, true); // bytes of what follows up to "data"
  header.setUint16(20, 3, true); // floats
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, rate, true);
  header.setUint32(28, 4 * rate, true); // bytes a second
  header.setUint16(32, 4, true); // bytes a sample
  header.setUint16(34, 32, true); // bits a sample
  write(36, "data");
  header.setUint32(40, samples.byteLength, true);
  return new File([header, samples], "recording", { type: "audio/wav" });
}
