"""speechseq listen: a file in its own time, a microphone that is made up, and what goes wrong."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
import soundfile
from conftest import Call, Called, tone
from hypothesis import given
from hypothesis import strategies as st

from speechseq.audio import read_audio, write_wav
from speechseq.cli import listen as command
from speechseq.cli import main, microphone
from speechseq.cli.listen import DIM, Page
from speechseq.cli.pipe import piped_blocks
from speechseq.errors import AudioError
from speechseq.recogniser import load

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
SAMPLE = SAMPLES / "seven_zero_eight.wav"
RATE = 8000


@pytest.fixture
def two_utterances(tmp_path: Path) -> Path:
    """Two samples with a long pause between."""
    parts = [read_audio(SAMPLES / f"{name}.wav", RATE) for name in ("seven", "seven_zero_eight")]
    path = tmp_path / "two.wav"
    write_wav(path, np.concatenate([parts[0], np.zeros(3 * RATE, np.float32), parts[1]]), RATE)
    return path


# ---- files ----


def test_a_file_is_heard_a_line_an_utterance(call: Call, two_utterances: Path) -> None:
    words = ("--fast", "--latency", "1000")
    assert call("listen", two_utterances, *words) == (0, "seven\nseven zero eight\n", "")


def test_all_of_a_file_is_heard_first(call: Call) -> None:
    expected = f"{load().transcribe(SAMPLE).text}\n"
    assert call("listen", SAMPLE, "--fast", "--latency", "inf") == (0, expected, "")


def test_one_direction_says_a_word_soon_after_its_end() -> None:
    sample = SAMPLES / "nine_one_one.wav"
    live, sound = load("digits-live"), read_audio(sample, RATE)
    assert live.hear_on, "it goes on from where it was"
    stream, waits = live.stream(), []
    for piece in np.split(sound, range(400, len(sound), 400)):
        if stream.hear(piece):
            waits.append(stream.seconds - stream.sure.words[-1].end)
    stream.finish()
    assert stream.sure.text == live.transcribe(sample).text == "nine one one"
    assert len(waits) >= 2 and max(waits) < 0.2


def test_a_classifier_says_nothing_where_there_are_none_of_its_words(call: Call) -> None:
    assert call("listen", SAMPLE, "--fast", "-m", "commands-en") == (0, "", "")


def test_a_file_is_heard_in_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    clock = types.SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(command, "time", clock)
    heard = 0
    for block in command._of_file(str(SAMPLE), load(), False):
        heard += len(block)
        assert now[0] - 100.0 == pytest.approx(heard / RATE)
        now[0] += 0.01  # the computing
    assert heard == len(read_audio(SAMPLE, RATE))
    now[0] = 100.0
    slept.clear()
    assert sum(map(len, command._of_file(str(SAMPLE), load(), True))) == heard
    assert not slept


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--fast"], 2, "--fast: a microphone or a pipe has its own time; give a FILE"),
        (["-", "--fast"], 2, "--fast: a microphone or a pipe has its own time; give a FILE"),
        (["x.wav", "--input", "usb"], 2, "--input usb: not with a FILE; give one of them"),
        ([SAMPLE, "--latency", "-1"], 2, "latency -1: milliseconds, 0 to 60000 or inf, go here"),
        ([SAMPLE, "--latency", "nan"], 2, "latency nan: milliseconds, 0 to 60000 or inf, go here"),
        ([SAMPLE, "--latency", "soon"], 2, "argument --latency: invalid float value: 'soon'"),
        (
            [SAMPLE, "-m", "an4"],
            2,
            "stream: features.cmvn utterance needs the whole; use transcribe",
        ),
        ([SAMPLE, "--latency", "1e308"], 2, "latency 1e+308: milliseconds, 0 to 60000 or inf"),
        (["nothing.wav"], 1, "nothing.wav: no such file; check the name"),
        ([SAMPLE, "more.wav"], 2, "unknown argument more.wav"),
    ],
)
def test_what_is_wrong_is_one_line(
    call: Call, words: list[object], code: int, message: str
) -> None:
    found = call("listen", *words)
    assert found[:2] == (code, "")
    assert found[2].startswith(f"speechseq: {message}")
    assert found[2].count("\n") == 1


def test_what_was_heard_is_told_when_interrupted(
    call: Call, two_utterances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = command._of_file

    def interrupted(*arguments: Any) -> Iterator[np.ndarray]:
        for number, block in enumerate(honest(*arguments)):
            if number == 10:  # behind the first word, before it is sure
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(command, "_of_file", interrupted)
    code, out, err = call("listen", two_utterances, "--fast")
    assert (code, out, err) == (130, "seven\n", "speechseq: interrupted\n")


# ---- a pipe ----


class Pipe(io.RawIOBase):
    """Bytes in which nobody can go back, and of which a few come at a time."""

    def __init__(self, data: bytes):
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._data.read(min(len(buffer), 101))
        buffer[: len(part)] = part
        return len(part)


def piped(samples: np.ndarray, subtype: str, rate: int, channels: int, length: int = 0) -> bytes:
    """Samples (samples,) as a wav file whose header says another length, if one is given."""
    file = io.BytesIO()
    many = np.repeat(samples[:, None], channels, axis=1)
    soundfile.write(file, many, rate, format="WAV", subtype=subtype)
    data = bytearray(file.getvalue())
    if length:
        data[4:8] = data[40:44] = length.to_bytes(4, "little")
    return bytes(data)


@pytest.fixture
def listen_to(call: Call, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Called]:
    """A function that has the command listen to bytes on its standard input."""

    def listen(data: bytes) -> Called:
        stdin = types.SimpleNamespace(buffer=io.BufferedReader(Pipe(data)))
        monkeypatch.setattr(sys, "stdin", stdin)
        return call("listen", "-")

    return listen


@pytest.mark.parametrize(
    ("subtype", "rate", "channels", "length"),
    [
        ("PCM_16", RATE, 1, 0),
        ("PCM_16", 16000, 2, 0xFFFFFFFF),  # ffmpeg
        ("PCM_16", 44100, 1, 0x7FFFFFFF),  # sox
        ("PCM_32", RATE, 1, 0x80000000),  # arecord
        ("PCM_U8", RATE, 3, 0),
    ],
)
def test_a_wav_is_heard_through_a_pipe(
    listen_to: Callable[[bytes], Called],
    two_utterances: Path,
    subtype: str,
    rate: int,
    channels: int,
    length: int,
) -> None:
    sound = piped(read_audio(two_utterances, rate), subtype, rate, channels, length)
    assert listen_to(sound) == (0, "seven\nseven zero eight\n", "")
    # Its last sample is half there.
    assert listen_to(sound[: 1 - channels or -1]) == (0, "seven\nseven zero eight\n", "")


def test_words_come_before_the_pipe_ends(two_utterances: Path) -> None:
    sound = piped(read_audio(two_utterances, RATE), "PCM_16", RATE, 1, 0xFFFFFFFF)
    with subprocess.Popen(
        [sys.executable, "-m", "speechseq", "listen", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(sound[: 2 * 3 * RATE])
        process.stdin.flush()
        assert process.stdout.readline() == b"seven\n"
        process.stdin.write(sound[2 * 3 * RATE :])
        process.stdin.close()
        assert process.stdout.read() == b"seven zero eight\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "-: not plain wav (it ends at once); send 16 bits, one channel or two, as `arecord"),
        (b"fLaC" + bytes(60), "-: not plain wav (file does not start with RIFF id); send 16 bits"),
        (piped(tone(400, 0.1), "PCM_16", 16000, 1)[:44], "-: holds no samples; send longer audio"),
        (
            piped(tone(400, 0.1), "FLOAT", 16000, 1),
            "-: not plain wav (unknown format: 3); send 16 bits",
        ),
        (
            piped(tone(400, 0.1), "PCM_16", 16000, 1)[:34] + b"\x40\0data\xff\xff\0\0",
            "-: samples of 8 bytes; send 16 bits",
        ),
        (
            piped(tone(400, 0.1), "PCM_16", 16000, 65),
            "-: its header says 65 channels at 16000 Hz; convert it to something usual",
        ),
        (
            piped(tone(400, 0.1), "PCM_16", 2_000_000_000, 1),
            "-: its header says 1 channels at 2000000000 Hz; convert it to something usual",
        ),
    ],
)
def test_what_comes_through_a_pipe_is_hostile(
    listen_to: Callable[[bytes], Called], data: bytes, message: str
) -> None:
    code, out, err = listen_to(data)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"speechseq: {message}")


@given(data=st.binary(max_size=200))
def test_no_header_is_more_than_an_error(data: bytes) -> None:
    stream = io.BufferedReader(Pipe(b"RIFF\xff\xff\xff\xffWAVEfmt " + data))
    with contextlib.suppress(AudioError):
        for block in piped_blocks(cast(BinaryIO, stream), RATE):
            assert np.isfinite(block).all()


# ---- a microphone ----


class PortAudioError(Exception):
    """As sounddevice's."""


class Library:
    """A made-up sounddevice: one microphone, which plays samples and then behaves as told."""

    PortAudioError = PortAudioError

    def __init__(self, samples: np.ndarray, own_rate: int, then: Callable[[], None]):
        self.samples = samples
        self.own_rate = own_rate
        self.then = then
        self.only_own = False
        self.status: Any = 0
        self.opened: dict[str, Any] = {}

    def query_devices(self, device: Any = None, kind: str = "") -> Any:
        mine = {"name": "Own", "max_input_channels": 1, "default_samplerate": float(self.own_rate)}
        if not kind:
            return [mine, {"name": "Speaker", "max_input_channels": 0}]
        if device not in (None, 0, "Own"):
            raise ValueError(f"No input device matching {device!r}")
        return mine

    def check_input_settings(self, device: Any, *, channels: int, samplerate: int) -> None:
        if self.only_own and samplerate != self.own_rate:
            raise PortAudioError("Invalid sample rate")

    def InputStream(self, **settings: Any) -> Any:  # noqa: N802 (its name)
        self.opened = settings
        return _Opened(self, settings)


class _Opened:
    def __init__(self, library: Library, settings: dict[str, Any]):
        self._library, self._settings = library, settings

    def __enter__(self) -> None:
        size, call = self._settings["blocksize"], self._settings["callback"]
        buffer = np.zeros((size, 1), np.float32)  # PortAudio uses one again and again
        for at in range(0, len(self._library.samples) - size + 1, size):
            buffer[:, 0] = self._library.samples[at : at + size]
            call(buffer, size, None, self._library.status)
        self._library.then()

    def __exit__(self, *_: object) -> None:
        self._settings["closed"] = True


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Library]:
    """A function that plugs in a microphone, which plays a sample."""

    def plug(own_rate: int = RATE, then: Callable[[], None] = lambda: None) -> Library:
        sample = np.pad(read_audio(SAMPLE, own_rate), (0, 2 * own_rate))
        library = Library(sample, own_rate, then)
        monkeypatch.setitem(sys.modules, "sounddevice", library)
        monkeypatch.setattr(microphone, "SILENT_SECONDS", 0.01)
        return library

    return plug


def test_a_microphone_is_heard_until_it_is_gone(
    call: Call, plugged: Callable[..., Library]
) -> None:
    library = plugged()
    code, out, err = call("listen", "--latency", "1000")
    assert (code, out) == (1, "seven zero eight\n")
    first, behind, last = err.splitlines()
    assert first == "listening to Own; Ctrl-C ends"
    assert behind == "listen: too slow to keep up; a longer --latency takes less computing"
    assert last == "speechseq: microphone Own: gives nothing; see that it is plugged in"
    assert library.opened["closed"]
    assert (library.opened["samplerate"], library.opened["channels"]) == (RATE, 1)


def test_sound_that_the_system_lost_is_told_once(
    call: Call, plugged: Callable[..., Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microphone, "BEHIND_SECONDS", 1e9)
    library = plugged()
    for overflow, told in ((False, 0), (True, 1)):
        library.status = types.SimpleNamespace(input_overflow=overflow)
        code, out, err = call("listen", "--latency", "1000")
        assert (code, out) == (1, "seven zero eight\n")
        lost = "listen: the system lost sound of the microphone; end what else computes"
        assert err.splitlines().count(lost) == told


def test_a_microphone_of_another_rate_is_resampled(
    call: Call, plugged: Callable[..., Library]
) -> None:
    library = plugged(16000)
    library.only_own = True
    assert call("listen", "--latency", "1000", "--input", "0")[1] == "seven zero eight\n"
    assert (library.opened["samplerate"], library.opened["device"]) == (16000, 0)


def test_a_microphone_is_interrupted(plugged: Callable[..., Library], call: Call) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    library = plugged(then=interrupt)
    code, _, err = call("listen", "--input", "Own")
    assert (code, err.splitlines()[-1]) == (130, "speechseq: interrupted")
    assert library.opened["device"] == "Own"


def test_what_waits_when_a_microphone_is_interrupted_is_heard(
    plugged: Callable[..., Library],
) -> None:
    library = plugged()
    mine = microphone.Microphone(None)
    blocks = mine.blocks(RATE)
    taken = [next(blocks) for _ in range(3)]
    rest = mine.rest()
    taken.append(next(rest))
    library.opened["callback"](np.ones((400, 1), np.float32), 400, None, 0)  # it is open still
    found = np.concatenate([*taken, *rest])
    np.testing.assert_array_equal(found, library.samples[: len(found)])
    assert len(library.samples) - len(found) < 400


def test_no_such_microphone_is_named(call: Call, plugged: Callable[..., Library]) -> None:
    library = plugged()
    code, out, err = call("listen", "--input", "usb")
    assert (code, out) == (1, "")
    assert err == (
        "speechseq: microphone usb: not found (No input device matching 'usb'); "
        "choose from 'Own' with --input, or give a file\n"
    )

    def none(device: Any = None, kind: str = "") -> Any:
        if kind:
            raise PortAudioError("Error querying device -1")
        return []

    library.query_devices = none  # type: ignore[method-assign]
    assert call("listen")[2] == (
        "speechseq: microphone: not found (Error querying device -1); plug one in, or give a file\n"
    )


def test_a_microphone_that_cannot_be_opened_is_named(
    call: Call, plugged: Callable[..., Library]
) -> None:
    def fail() -> None:
        raise PortAudioError("Device unavailable\n[-9985]")

    plugged(then=fail)
    code, _, err = call("listen")
    assert code == 1
    assert "speechseq: microphone Own: cannot be opened (Device unavailable [-9985]); see" in err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError(), "sounddevice is not installed; pip install '.[listen]' in the clone"),
        (OSError("PortAudio library not found"), "PortAudio library not found; install it"),
    ],
)
def test_what_is_not_installed_is_named(
    call: Call, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "sounddevice":
                raise error

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    code, out, err = call("listen")
    assert (code, out) == (1, "")
    assert err.startswith(f"speechseq: listen: {message}")
    assert err.endswith("or give a file\n")


def test_a_microphone_waits_for_what_is_said(plugged: Callable[..., Library]) -> None:
    """Samples that come later, from PortAudio's own thread, are heard as they come."""
    library = plugged()
    library.samples = tone(300, 0.05, RATE)
    blocks = microphone.Microphone(None).blocks(RATE)
    first = next(blocks)
    np.testing.assert_array_equal(first, library.samples)
    later = threading.Timer(
        0.0, lambda: library.opened["callback"](np.ones((400, 1), np.float32), 400, None, 0)
    )
    later.start()
    later.join()
    assert next(blocks).tolist() == [1.0] * 400


# ---- a terminal ----


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, *, out: bool = True) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out)
    monkeypatch.setenv("COLUMNS", "20")


def test_unsure_words_stand_behind_the_sure_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch)
    page = Page()
    page.show("nine")
    page.add("")
    page.add("nine")
    page.show("one two three four")
    page.add("one")
    page.end_line()
    page.end_line()
    out, err = capsys.readouterr()
    assert out == "nine one\n"
    shown = [part.split("\x1b[0m")[0] for part in err.split(DIM)[1:]]
    assert shown == ["nine", " one two three "]


def test_only_a_terminal_sees_what_is_not_sure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["listen", str(SAMPLE), "--fast"]) == 0
    assert capsys.readouterr().err == ""
    on_a_terminal(monkeypatch, out=False)
    assert main(["listen", str(SAMPLE), "--fast", "--latency", "1000"]) == 0
    out, err = capsys.readouterr()
    assert out == "seven zero eight\n"
    assert f"{DIM}seven zero\x1b[0m" in err
