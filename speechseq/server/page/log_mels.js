/** Log-mels as speechseq/training/features.py gives them, to be looked at. */

/** Hertz to mels and back, by the name of the scale. */
const MEL_SCALES = {
  htk: {
    mels: (hertz) => 2595 * Math.log10(1 + hertz / 700),
    hertz: (mels) => 700 * (10 ** (mels / 2595) - 1),
  },
  slaney: {
    mels: (hertz) => (hertz < 1000 ? (hertz * 3) / 200 : 15 + 27 * logOf(hertz / 1000, 6.4)),
    hertz: (mels) => (mels < 15 ? (mels * 200) / 3 : 1000 * 6.4 ** ((mels - 15) / 27)),
  },
};

/** Return log-mels `{values, frames, mels}`, row after row; frame n is centred on n · hop - edge.
 *
 * The transform has the next power of two of the model's points; mostly these are one already.
 */
export function logMels(samples, settings) {
  const { window_samples: width, hop_samples: hop, edge_samples: edge, mels, floor } = settings;
  const asked = settings.transform_samples;
  const points = 2 ** Math.ceil(Math.log2(asked));
  const transform = fourier(points);
  const window = waves(width, width, (angle) => 0.5 - 0.5 * Math.cos(angle)); // Hann
  const filters = filtersOf(settings, points);
  const frames = Math.floor((samples.length + 2 * edge) / hop) + 1;
  const values = new Float32Array(frames * mels);
  const first = Math.floor((asked - width) / 2) - Math.floor(asked / 2) - edge;
  for (let frame = 0; frame < frames; frame++) {
    const begin = first + frame * hop;
    const power = transform(window.map((weight, n) => weight * (samples[begin + n] ?? 0)));
    filters.forEach(({ bin, weights }, mel) => {
      const energy = weights.reduce((sum, weight, n) => sum + weight * power[bin + n], 0);
      values[frame * mels + mel] = Math.log((energy * asked) / points + floor);
    });
  }
  return { values, frames, mels };
}

/** Return a function from hertz to rows of the filter bank: row n is drawn from n to n + 1. */
export function rowOf({ mels, low_hz: low, top_hz: top, mel_scale: scale }) {
  const position = MEL_SCALES[scale].mels;
  const step = (position(top) - position(low)) / (mels + 1);
  return (hertz) => (position(hertz) - position(low)) / step - 0.5;
}

/** Return each filter's weights, and the Fourier bin of the first one. */
function filtersOf({ rate, mels, low_hz: low, top_hz: top, mel_scale: scale }, points) {
  const { mels: position, hertz } = MEL_SCALES[scale];
  const step = (position(top) - position(low)) / (mels + 1);
  const edges = Array.from({ length: mels + 2 }, (_, n) => hertz(position(low) + n * step));
  return edges.slice(0, mels).map((left, n) => {
    const [middle, right] = [edges[n + 1], edges[n + 2]];
    const height = scale === "slaney" ? 2 / (right - left) : 1;
    const bin = Math.ceil((left * points) / rate);
    const last = Math.min(Math.floor((right * points) / rate), points / 2);
    const weights = Float64Array.from({ length: Math.max(last - bin + 1, 0) }, (_, m) => {
      const at = ((bin + m) * rate) / points;
      return height * Math.min((at - left) / (middle - left), (right - at) / (right - middle));
    });
    return { bin, weights };
  });
}

/** Return a function from real values to the power (points / 2 + 1,) of their transform.
 *
 * Source: Cooley and Tukey 1965, radix 2, in place.
 */
function fourier(points) {
  const order = new Uint32Array(points);
  for (let n = 1; n < points; n++) order[n] = (order[n >> 1] >> 1) | (n & 1 ? points >> 1 : 0);
  const cosines = waves(points / 2, points, Math.cos);
  const sines = waves(points / 2, points, (angle) => -Math.sin(angle));
  return (given) => {
    const real = new Float64Array(points);
    const imaginary = new Float64Array(points);
    given.forEach((value, n) => (real[order[n]] = value)); // order is its own inverse
    for (let half = 1; half < points; half *= 2) butterflies(real, imaginary, half, cosines, sines);
    return real.slice(0, points / 2 + 1).map((value, n) => value ** 2 + imaginary[n] ** 2);
  };
}

/** Return so many values of a function of the angle, which goes round once in a period. */
function waves(length, period, value) {
  return Float64Array.from({ length }, (_, n) => value((2 * Math.PI * n) / period));
}

function logOf(value, base) {
  return Math.log(value) / Math.log(base);
}

function butterflies(real, imaginary, half, cosines, sines) {
  const stride = cosines.length / half;
  for (let start = 0; start < real.length; start += 2 * half) {
    for (let n = 0; n < half; n++) {
      const upper = start + n;
      const lower = upper + half;
      const cosine = cosines[n * stride];
      const sine = sines[n * stride];
      const re = real[lower] * cosine - imaginary[lower] * sine;
      const im = real[lower] * sine + imaginary[lower] * cosine;
      real[lower] = real[upper] - re;
      imaginary[lower] = imaginary[upper] - im;
      real[upper] += re;
      imaginary[upper] += im;
    }
  }
}
