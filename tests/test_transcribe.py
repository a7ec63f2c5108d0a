"""speechseq transcribe: many files on many processes, in order; long ones, and how far they are."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import RATE, Call, tone

from speechseq.audio import read_audio, write_wav
from speechseq.cli import main, many_files
from speechseq.cli.many_files import Task
from speechseq.errors import AudioError
from speechseq.long_audio import Counted
from speechseq.recogniser import Recogniser, load

SAMPLES = sorted((Path(__file__).parents[1] / "data" / "samples").glob("*.wav"))


@pytest.fixture
def transcribe(call: Call) -> Call:
    """A function that transcribes: exit code, stdout, stderr."""
    return partial(call, "transcribe")


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Thirty clips of words, of many lengths, whose order by name is not that by length."""
    paths = []
    for number in range(30):
        paths.append(tmp_path / "clips" / f"{number:02}.wav")
        paths[-1].parent.mkdir(exist_ok=True)
        sample = read_audio(SAMPLES[number * 5 % len(SAMPLES)], RATE)
        write_wav(paths[-1], np.pad(sample, (0, number * 7 % 11 * 800)), RATE)
    return paths


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes help with three files, and take three at a time."""
    monkeypatch.setattr(many_files, "SHARED_BYTES", 3 * many_files.FILE_BYTES)
    monkeypatch.setattr(many_files, "CHUNK_BYTES", 3 * many_files.FILE_BYTES)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow no other process."""

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(many_files, "_processes", never)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """What the samples are recognised as, one by one."""
    recogniser = load()
    return {str(path): recogniser.transcribe(path).text for path in SAMPLES}


# ---- many files ----


@pytest.mark.usefixtures("shared")
def test_the_least_confidence_reaches_all_processes(transcribe: Call, clips: list[Path]) -> None:
    for jobs in (1, 2):
        words = [*clips, "-f", "json", "--least-confidence", "1", "--jobs", jobs]
        lines = [json.loads(line) for line in transcribe(*words)[1].splitlines()]
        assert [line["words"] for line in lines] == [[]] * len(clips)


@pytest.mark.parametrize("least", ["-0.1", "1.5", "nan"])
def test_the_least_confidence_is_a_probability(transcribe: Call, least: str) -> None:
    code, _, err = transcribe(SAMPLES[0], f"--least-confidence={least}")
    assert (code, err) == (
        2,
        f"speechseq: --least-confidence: {least}; a number from 0 to 1 goes here\n",
    )


@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.usefixtures("shared")
def test_the_order_is_kept_whoever_does_the_work(
    transcribe: Call, clips: list[Path], jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = []
    made = many_files._processes

    def watched(count: int) -> contextlib.AbstractContextManager[ProcessPoolExecutor]:
        pools.append(count)
        return made(count)

    monkeypatch.setattr(many_files, "_processes", watched)
    recogniser = load()
    names = [clips[number] for number in np.random.default_rng(0).permutation(len(clips))]
    expected = "".join(f"{name}\t{recogniser.transcribe(name).text}\n" for name in names)
    assert transcribe(*names, "--jobs", jobs) == (0, expected, "")
    assert pools == ([] if jobs == 1 else [jobs - 1])
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("shared")
def test_errors_stand_in_their_files_places(transcribe: Call, clips: list[Path]) -> None:
    clips[4].write_bytes(b"no audio")
    clips[20].unlink()
    code, out, err = transcribe(*clips, "--jobs", 2)
    assert code == 3
    there = [path for number, path in enumerate(clips) if number not in (4, 20)]
    assert [line.split("\t")[0] for line in out.splitlines()] == list(map(str, there))
    first, second, summary = err.splitlines()
    assert first.startswith(f"speechseq: {clips[4]}: not audio that can be read")
    assert second.startswith(f"speechseq: {clips[20]}: no such file")
    assert summary == "speechseq: 2 of 30 inputs failed; they are named above"


@pytest.mark.usefixtures("shared")
def test_the_other_processes_use_the_same_settings(transcribe: Call, clips: list[Path]) -> None:
    words = [*clips, "-f", "json", "--decoder", "greedy"]
    expected, found = (transcribe(*words, "--jobs", jobs)[1].splitlines() for jobs in (1, 2))
    recogniser = load().decoding_with("greedy")
    for path, one, two in zip(clips, expected, found, strict=True):
        text = recogniser.transcribe(path).text
        assert json.loads(one)["text"] == json.loads(two)["text"] == text
        assert [word["start"] for word in json.loads(one)["words"]] == [
            word["start"] for word in json.loads(two)["words"]
        ]


@pytest.mark.usefixtures("shared")
def test_standard_input_among_many(
    transcribe: Call, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SAMPLES[0].read_bytes()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    code, out, _ = transcribe(*clips[:7], "-", *clips[7:], "--jobs", 2)
    assert code == 0
    assert out.splitlines()[7] == f"-\t{load().transcribe(SAMPLES[0]).text}"


@pytest.mark.usefixtures("alone")
def test_little_work_starts_no_process(transcribe: Call, clips: list[Path]) -> None:
    assert transcribe(clips[0], "--jobs", 4)[0] == 0
    assert transcribe(*clips, "--jobs", 4)[0] == 0


@pytest.mark.usefixtures("alone")
def test_one_job_is_this_process(
    transcribe: Call, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_files, "SHARED_BYTES", 0)
    assert transcribe(*clips, "--jobs", 1)[0] == 0


@pytest.mark.parametrize("jobs", ["0", "-3", "many"])
def test_jobs_are_counted_from_one(transcribe: Call, jobs: str) -> None:
    code, out, err = transcribe(SAMPLES[0], "--jobs", jobs)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"speechseq: .*--jobs: .*; .*\n", err)


def test_chunks_are_bounded_in_files_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_files, "CHUNK_BYTES", 3 * many_files.FILE_BYTES)
    big = tmp_path / "big"
    big.write_bytes(bytes(5 * many_files.FILE_BYTES))
    names = ["a", "b", "c", "d", str(big), "e", "-", "f"]
    assert list(many_files._chunks(names)) == [
        ["a", "b", "c"],
        ["d"],
        [str(big)],
        ["e"],
        ["-"],
        ["f"],
    ]
    assert list(many_files._chunks([])) == []


def test_a_gpu_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert many_files.cores("cpu") == len(os.sched_getaffinity(0))
    assert many_files.cores("mps") == 1
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    assert many_files.cores("cuda") == many_files.cores("auto") == 1
    assert many_files.cores("cpu") > 0


# ---- tasks ----


def answered(chunk: Sequence[str]) -> list[many_files.Answer]:
    return [AudioError(name) for name in chunk]


def task(name: str, state: str) -> Task:
    """A task that another process has done, is doing, or has not begun; or that is for here."""
    if state == "here":
        return Task([name])
    future: Future[list[many_files.Answer]] = Future()
    if state == "doing":
        future.set_running_or_notify_cancel()
    if state == "done":
        future.set_result([AudioError(f"{name} elsewhere")])
    return Task([name], future)


def test_what_is_not_begun_is_done_here_and_nothing_is_done_twice() -> None:
    done: list[str] = []

    def work(chunk: Sequence[str]) -> list[many_files.Answer]:
        done.extend(chunk)
        return answered(chunk)

    tasks = iter([task("a", "here"), task("b", "done"), task("c", "waiting"), task("d", "done")])
    found = list(many_files._in_turn(tasks, work, 3))
    assert [found_task.chunk for found_task in found] == [["a"], ["b"], ["c"], ["d"]]
    answers = [str(answer) for found_task in found for answer in found_task.answers()]
    assert answers == ["a", "b elsewhere", "c", "d elsewhere"]
    assert done == ["a", "c"]


def test_work_ahead_is_bounded_while_another_process_is_slow() -> None:
    done: list[str] = []
    handed: list[str] = []

    def work(chunk: Sequence[str]) -> list[many_files.Answer]:
        done.extend(chunk)
        return answered(chunk)

    def tasks() -> Iterator[Task]:
        for name in "abcdefgh":
            handed.append(name)
            yield task(name, "doing" if name == "a" else "waiting")

    first = next(many_files._in_turn(tasks(), work, 4))
    assert first.chunk == ["a"]
    assert done == ["b", "c", "d"]
    assert handed == ["a", "b", "c", "d"]


@pytest.mark.usefixtures("shared")
def test_a_process_that_ends_is_told(
    transcribe: Call, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(ProcessPoolExecutor, "submit", broken)
    code, out, err = transcribe(*clips, "--jobs", 2)
    assert (code, out) == (1, "")
    message = "speechseq: transcribe: another process ended on its own; --jobs 1 does without\n"
    assert err == message


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a group of its own, with enough to do, and its two processes at work."""
    clip = tmp_path / "clip.wav"
    write_wav(clip, tone(500.0, 20.0), RATE)
    for number in range(300):
        (tmp_path / f"{number:03}.wav").hardlink_to(clip)
    command = [sys.executable, "-m", "speechseq", "transcribe", str(tmp_path), "--jobs", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        for _ in range(10):
            assert process.stdout.readline()  # the fifth is already of the other process
        yield process
        process.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_ends_all_processes_at_once(at_work: subprocess.Popen[str]) -> None:
    """Ctrl-C goes to the whole group, as a terminal sends it."""
    os.killpg(at_work.pid, signal.SIGINT)
    out, err = at_work.communicate(timeout=60)  # the last process that holds them ends the pipes
    assert at_work.returncode == 130
    assert err == "speechseq: interrupted\n"
    assert out.count("\n") < 280


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_no_process_outlives_the_command(at_work: subprocess.Popen[str]) -> None:
    at_work.kill()
    out, _ = at_work.communicate(timeout=60)
    assert out.count("\n") < 280


# ---- long files ----


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    """A recording of 65 s with words in its first five."""
    samples = np.zeros(65 * RATE, np.float32)
    for number, path in enumerate(SAMPLES[:3]):
        clip = read_audio(path, RATE)
        samples[(1 + 2 * number) * RATE :][: len(clip)] = clip
    path = tmp_path / "talk.wav"
    write_wav(path, samples, RATE)
    return path


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_long_text_is_one_line(transcribe: Call, long_file: Path, texts: dict[str, str]) -> None:
    expected = " ".join(texts[str(path)] for path in SAMPLES[:3])
    assert transcribe(long_file) == (0, f"{expected}\n", "")


def test_all_words_of_a_long_file_have_their_times(transcribe: Call, long_file: Path) -> None:
    code, out, err = transcribe(long_file, "-f", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["duration"] == 65.0
    starts = [word["start"] for word in found["words"]]
    assert starts == sorted(starts)
    assert 0.9 < starts[0] < starts[-1] < 7


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_how_far_a_long_file_is(
    source: str, transcribe: Call, long_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    stream = io.BytesIO(long_file.read_bytes())
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=stream))
    assert transcribe(long_file if source == "file" else "-")[0] == 0
    drawn = terminal.getvalue()
    name = long_file if source == "file" else "-"
    assert f"{name}, seconds" in drawn
    assert drawn.endswith("65/65\n")
    assert drawn.count("\n") == 1


def test_an_error_is_told_on_a_line_of_its_own(
    transcribe: Call, long_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(blocks: Counted) -> Iterator[np.ndarray]:
        assert blocks._progress
        blocks._progress(1.0)
        raise AudioError("damaged; convert it again")

    monkeypatch.setattr(Counted, "__iter__", damaged)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert transcribe(long_file)[0] == 1
    bar, error, _ = terminal.getvalue().split("\n")
    assert bar.endswith("1/65")
    assert error == "speechseq: damaged; convert it again"


def test_no_bar_is_drawn_for_short_files(transcribe: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert transcribe(SAMPLES[0])[0] == 0
    assert terminal.getvalue() == ""


def test_how_many_files_are_done(
    transcribe: Call, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert transcribe(*clips, "-o", tmp_path / "out")[0] == 0
    assert terminal.getvalue().endswith("30/30\n")
    monkeypatch.setattr(sys, "stderr", silent := Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert transcribe(*clips)[0] == 0
    assert silent.getvalue() == "", "the lines themselves tell"


def test_steady_noise_is_not_heard(
    transcribe: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "noise.wav"
    write_wav(path, 0.01 * np.random.default_rng(0).standard_normal(70 * RATE), RATE)
    heard = []
    network = Recogniser.log_probs

    def watched(self: Recogniser, *pieces: object, **how: object) -> Iterator[np.ndarray]:
        heard.append(how["floor"] is None)
        return network(self, *pieces, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Recogniser, "log_probs", watched)
    assert transcribe(path, "--skip-silence") == (0, "\n", "")
    assert transcribe(path)[0] == 0
    write_wav(tmp_path / "second.wav", np.zeros(62 * RATE), RATE)
    assert transcribe(path, tmp_path / "second.wav", "--skip-silence")[0] == 0
    assert heard == [False, True, False, False]


def test_a_long_file_that_is_damaged_is_one_line(
    transcribe: Call, long_file: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes(long_file.read_bytes()[:-50_000])
    code, out, err = transcribe(cut)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"speechseq: .*cut\.wav: cut short, .*; copy it again\n", err)


def test_an_error_of_a_single_input_is_that_of_the_command(
    long_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", str(long_file.with_name("none.wav")), "--debug"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "none.wav: no such file" in shown
