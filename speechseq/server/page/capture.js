/** Hands the microphone's samples on, block by block; runs beside the page, in the audio thread. */

class Capture extends AudioWorkletProcessor {
  process([[samples]]) {
    if (samples) this.port.postMessage(samples.slice());
    return true;
  }
}

registerProcessor("capture", Capture);
