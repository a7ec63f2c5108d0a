"""Composed strings: reproducible, of one speaker, in order, in as much noise as asked for."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, TONES, tone

from speechseq.audio import write_wav
from speechseq.cli import main
from speechseq.compose import Composition, compose, write_strings
from speechseq.errors import DataError
from speechseq.manifest import Utterance, read_manifest, write_manifest
from speechseq.tokens import SILENCE, UNKNOWN
from speechseq.training.noise import coloured_noise

QUIET = Composition(strings=12, longest=4, gap_seconds=(0.05, 0.2), level_db=(-40.0, -30.0), seed=1)
"""Strings whose words stand apart, and so quiet that no noise below drives them over full scale."""


@pytest.fixture
def words(tones: Path) -> list[Utterance]:
    return read_manifest(tones)


@pytest.fixture(scope="module")
def noises() -> list[np.ndarray]:
    return [coloured_noise(30000, tilt, np.random.default_rng(7)) for tilt in (0.0, -1.0)]


def composed(words: list[Utterance], noises: list[np.ndarray], **more: object):
    """Return strings as `QUIET`, but for what is said."""
    return list(compose(words, RATE, dataclasses.replace(QUIET, **more), noises))


def stretches(samples: np.ndarray, least: float = 0.02) -> list[tuple[int, int]]:
    """Return where there is sound, (start, end), between silences of `least` seconds or more."""
    at = np.flatnonzero(samples)
    cuts = np.flatnonzero(np.diff(at) > least * RATE)
    return list(zip(at[[0, *(cuts + 1)]], at[[*cuts, -1]] + 1, strict=True))


def heard(samples: np.ndarray) -> str:
    """Tell which of the tones a stretch of sound is."""
    hertz = np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples)
    return min(TONES, key=lambda name: abs(np.log(hertz / TONES[name])))


def decibels(ratio: float) -> float:
    return float(10 * np.log10(ratio))


def test_texts_are_what_is_heard_in_order(words: list[Utterance]) -> None:
    strings = composed(words, [])
    assert len(strings) == 12
    for samples, text, _ in strings:
        assert samples.dtype == np.float32
        said = [heard(samples[start:end]) for start, end in stretches(samples)]
        assert " ".join(said) == text


def test_strings_are_as_long_as_asked_for(words: list[Utterance]) -> None:
    counts = Counter(len(text.split()) for _, text, _ in composed(words, [], strings=60))
    assert set(counts) == {1, 2, 3, 4}
    counts = Counter(len(text.split()) for _, text, _ in composed(words, [], shortest=4))
    assert counts == {4: 12}


def test_margins_and_gaps_stay_in_their_bounds(words: list[Utterance]) -> None:
    margins, gaps = [], []
    for samples, _, _ in composed(words, [], strings=60, margin_seconds=(0.03, 0.3)):
        found = stretches(samples)
        margins += [found[0][0], len(samples) - found[-1][1]]
        gaps += [after[0] - before[1] for before, after in pairwise(found)]
    for spaces, low, high in ((margins, 0.03, 0.3), (gaps, 0.05, 0.2)):
        assert low * RATE - 1 <= min(spaces) < (low + 0.05) * RATE
        assert (high - 0.05) * RATE < max(spaces) <= high * RATE + 9, "a clip may begin with zeros"


def test_words_overlap_where_gaps_are_below_0(tmp_path: Path) -> None:
    sound = tone(900.0, 0.3)
    write_wav(tmp_path / "a.wav", sound, RATE)
    fixed = {"shortest": 2, "longest": 2, "gap_seconds": (-0.05, -0.05)}
    ((samples, text, _),) = composed(
        [Utterance(str(tmp_path / "a.wav"), 0.3, "a")],
        [],
        strings=1,
        margin_seconds=(0.1, 0.1),
        **fixed,
    )
    assert text == "a a"
    expected = np.zeros(800 + 2 * 2400 - 400 + 800)
    expected[800:3200] += sound
    expected[2800:5200] += sound
    assert len(samples) == len(expected)
    scale = np.dot(samples, expected) / np.dot(expected, expected)
    np.testing.assert_allclose(samples, scale * expected, atol=1e-4)


def test_a_string_is_of_one_speaker_and_all_have_their_turn(words: list[Utterance]) -> None:
    signed = [dataclasses.replace(u, text=f"{u.speaker}.{n}") for n, u in enumerate(words)]
    strings = composed(signed, [])
    for _, text, speaker in strings:
        assert {word.partition(".")[0] for word in text.split()} == {speaker}
    assert Counter(speaker for _, _, speaker in strings) == dict.fromkeys(
        ("s0", "s1", "s2", "s3"), 3
    )


def test_the_same_seed_gives_the_same_strings(
    words: list[Utterance], noises: list[np.ndarray]
) -> None:
    one, again, other = (composed(words, noises, snr_db=5.0, seed=n) for n in (1, 1, 2))
    for (samples, *rest), (same, *same_rest) in zip(one, again, strict=True):
        np.testing.assert_array_equal(samples, same)
        assert rest == same_rest
    assert [text for _, text, _ in one] != [text for _, text, _ in other]
    fewer = composed(words, noises, snr_db=5.0, strings=3)
    assert [text for _, text, _ in fewer] == [text for _, text, _ in one[:3]]


def test_levels_lie_in_their_range(words: list[Utterance]) -> None:
    levels = []
    for samples, _, _ in composed(words, [], strings=40):
        size = sum(end - start for start, end in stretches(samples))
        levels.append(decibels(np.sum(samples.astype(np.float64) ** 2) / size))
    assert -40.1 < min(levels) < -38 and -32 < max(levels) < -29.9


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.0])
def test_noise_is_so_far_below_the_speech(
    snr_db: float, words: list[Utterance], noises: list[np.ndarray]
) -> None:
    clean, noisy = composed(words, []), composed(words, noises, snr_db=snr_db)
    for (speech, text, speaker), (mixed, *rest) in zip(clean, noisy, strict=True):
        assert rest == [text, speaker]
        noise = (mixed - speech).astype(np.float64)
        size = sum(end - start for start, end in stretches(speech))
        power = np.sum(speech.astype(np.float64) ** 2) / size
        assert decibels(power / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.05)


def test_another_ratio_is_the_same_noise_scaled(
    words: list[Utterance], noises: list[np.ndarray]
) -> None:
    clean, near, far = (composed(words, noises, snr_db=snr_db) for snr_db in (None, 0.0, 20.0))
    for (speech, *_), (loud, *_), (quiet, *_) in zip(clean, near, far, strict=True):
        np.testing.assert_allclose(loud - speech, 10 * (quiet - speech), atol=1e-5)
        assert np.abs(loud - speech).max() > 0.01


def test_over_full_scale_all_is_turned_down_alike(
    words: list[Utterance], noises: list[np.ndarray]
) -> None:
    """The ratio stays: what is taken from the noise is taken from the speech."""
    loud = {"level_db": (-6.0, -6.0), "longest": 1}
    clean = composed(words, noises, **loud)
    for (speech, *_), (mixed, *_) in zip(
        clean, composed(words, noises, snr_db=-10.0, **loud), strict=True
    ):
        assert np.abs(mixed).max() == pytest.approx(1.0)
        ((start, end),) = stretches(speech)
        part = np.dot(mixed, speech) / np.dot(speech, speech)
        noise = (mixed - part * speech).astype(np.float64)
        power = part**2 * np.sum(speech.astype(np.float64) ** 2) / (end - start)
        assert part < 0.8
        assert decibels(power / np.mean(noise**2)) == pytest.approx(-10.0, abs=1.0)


def test_short_noise_begins_again(words: list[Utterance]) -> None:
    short = coloured_noise(500, 0.0, np.random.default_rng(0))
    clean, noisy = composed(words, []), composed(words, [short], snr_db=0.0)
    for (speech, *_), (mixed, *_) in zip(clean, noisy, strict=True):
        noise = mixed - speech
        np.testing.assert_allclose(noise[500:], noise[:-500], atol=1e-6)


@pytest.mark.parametrize("label", [UNKNOWN, SILENCE])
def test_what_is_no_word_stands_in_no_text(label: str, words: list[Utterance]) -> None:
    some = [dataclasses.replace(u, text=label) if u.text == "low" else u for u in words]
    plain, strings = composed(words, []), composed(some, [])
    for (samples, text, _), (same, found, _) in zip(plain, strings, strict=True):
        assert found == " ".join(text.replace("low", "").split())
        np.testing.assert_array_equal(samples, same)


def test_what_cannot_be_composed_is_named(words: list[Utterance]) -> None:
    with pytest.raises(DataError, match="compose: no utterances; give a split that holds some"):
        composed([], [])
    with pytest.raises(DataError, match="compose: a signal-to-noise ratio needs noise; give"):
        composed(words, [], snr_db=3.0)


# ---- files ----


def test_strings_are_written_with_their_manifest(
    words: list[Utterance], noises: list[np.ndarray], tmp_path: Path
) -> None:
    settings = dataclasses.replace(QUIET, snr_db=3.0)
    path = write_strings(compose(words, RATE, settings, noises), tmp_path / "new" / "set", RATE)
    assert path == tmp_path / "new" / "set" / "strings.jsonl"
    found, expected = read_manifest(path), list(compose(words, RATE, settings, noises))
    assert len(found) == 12
    for utterance, (samples, text, speaker) in zip(found, expected, strict=True):
        assert (utterance.text, utterance.speaker, utterance.split) == (text, speaker, "test")
        written, rate = soundfile.read(utterance.audio_filepath, dtype="float32")
        assert rate == RATE
        assert utterance.duration == len(written) / RATE
        np.testing.assert_allclose(written, samples, atol=1 / 30000)
    assert '"/' not in path.read_text(), "the folder may be moved"


def test_strings_are_written_over_nothing(words: list[Utterance], tmp_path: Path) -> None:
    path = write_strings(compose(words, RATE, QUIET), tmp_path / "out", RATE)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    other = dataclasses.replace(QUIET, seed=5)
    with pytest.raises(DataError, match="holds files already; name another folder"):
        write_strings(compose(words, RATE, other), tmp_path / "out", RATE)
    assert before == {file.name: file.read_bytes() for file in path.parent.iterdir()}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "00000.wav").write_text("mine")
    with pytest.raises(DataError, match="holds files already"):
        write_strings(compose(words, RATE, QUIET), tmp_path / "own", RATE)
    assert (tmp_path / "own" / "00000.wav").read_text() == "mine"
    with pytest.raises(DataError, match="cannot be written"):
        write_strings(compose(words, RATE, QUIET), tmp_path / "own" / "00000.wav", RATE)


@pytest.mark.parametrize("there", [False, True])
def test_strings_that_are_interrupted_leave_nothing(
    there: bool, words: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "out" if there else home).mkdir(parents=True)
    monkeypatch.chdir(home / "out" if there else home)

    def write(path: Path, samples: np.ndarray, rate: int) -> None:
        if path.name == "00003.wav":
            raise KeyboardInterrupt
        write_wav(path, samples, rate)

    monkeypatch.setattr("speechseq.compose.write_wav", write)
    with pytest.raises(KeyboardInterrupt):
        write_strings(compose(words, RATE, QUIET), Path("." if there else "out"), RATE)
    assert list(home.rglob("*")) == ([home / "out"] if there else [])
    monkeypatch.undo()
    path = write_strings(compose(words, RATE, QUIET), home / "out", RATE)
    assert {each.name for each in home.iterdir()} == {"out"}
    assert len(read_manifest(path)) == 12
    assert len(list(path.parent.iterdir())) == 13


# ---- the command ----


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["data", "compose", "--split", "train", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_the_command_prints_the_manifest(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noise").mkdir()
    write_wav(
        tmp_path / "noise" / "tap.wav", coloured_noise(9000, 0.0, np.random.default_rng()), RATE
    )
    (tmp_path / "noise" / "README.md").write_text("no recording")
    words = [tones, "--strings", 5, "--shortest", 2, "--longest", 3, "--rate", 8000]
    for name, more in {
        "clean": [],
        "noisy": ["--noise", tmp_path / "noise", "--snr", -2.5],
    }.items():
        code, out, err = run(capsys, *words, "-o", tmp_path / name, *more)
        assert (code, err) == (0, "")
        assert out == f"{tmp_path / name / 'strings.jsonl'}\n"
    clean, noisy = (read_manifest(tmp_path / n / "strings.jsonl") for n in ("clean", "noisy"))
    assert len(clean) == 5
    assert {len(u.text.split()) for u in clean} == {2, 3}
    for one, other in zip(clean, noisy, strict=True):
        assert (one.text, one.speaker, one.duration) == (other.text, other.speaker, other.duration)
        assert Path(one.audio_filepath).read_bytes() != Path(other.audio_filepath).read_bytes()
    code, out, err = run(capsys, *words, "-o", tmp_path / "clean")
    assert (code, out) == (1, "")
    assert "holds files already; name another folder" in err


def test_the_command_takes_a_seed_and_a_rate(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for seed in (0, 1):
        place = tmp_path / str(seed)
        run(capsys, tones, "-o", place, "--strings", 6, "--seed", seed)
        utterances = read_manifest(place / "strings.jsonl")
        assert soundfile.info(utterances[0].audio_filepath).samplerate == 16000
        texts.append([u.text for u in utterances])
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--noise", "there"], "compose: --noise and --snr go together; give both or neither"),
        (["--snr", "3"], "compose: --noise and --snr go together; give both or neither"),
        (["--strings", "0"], "compose: --strings, --shortest and --longest are 1 or more"),
        (["--shortest", "0"], "compose: --strings, --shortest and --longest are 1 or more"),
        (["--shortest", "3", "--longest", "2"], "compose: --strings, --shortest and --longest"),
        (["--strings", "many"], "argument --strings: invalid int value"),
        (["--seed", "-1"], "--seed -1"),
        (["--rate", "0"], "--rate 0"),
        (["--rate", "2000000000"], "--rate 2000000000: a number from 1000 to 192000 goes here"),
        (["--noise", "there", "--snr", "nan"], "--snr nan"),
        (["--noise", "there", "--snr", "-4000"], "--snr -4000.0: a number from -100 to 100"),
        (["--noise", "there", "--snr", "inf"], "--snr inf"),
    ],
)
def test_wrong_flags_are_usage_errors(
    words: list[str], says: str, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, tones, "-o", tmp_path / "new", *words)
    assert (code, out) == (2, "")
    assert says in err
    assert err.startswith("speechseq: ") and err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_without_recordings_is_named(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (tmp_path / "none", tmp_path):
        code, _, err = run(capsys, tones, "-o", tmp_path / "new", "--noise", place, "--snr", 3)
        assert code == 1
        assert err.startswith(f"speechseq: {place}: no recordings here")
        assert err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_manifest_of_nothing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(tmp_path / "gone.jsonl", [Utterance("gone.wav", 1.0, "a", split="train")])
    code, out, err = run(capsys, tmp_path / "gone.jsonl", "-o", tmp_path / "new")
    assert (code, out) == (1, "")
    assert "gone.wav" in err and err.count("\n") == 1
    assert not (tmp_path / "new" / "strings.jsonl").exists()
