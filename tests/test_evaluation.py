"""Evaluation with a recogniser that says what a test tells it to."""

from __future__ import annotations

import builtins
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from speechseq import evaluation
from speechseq.audio import write_wav
from speechseq.errors import DataError, SpeechseqError
from speechseq.evaluation import Report, draw_confusion, evaluate, report_text
from speechseq.manifest import Utterance
from speechseq.metrics import interval
from speechseq.recogniser import Recogniser
from speechseq.recognition import Recognition
from speechseq.tokens import Vocabulary

RATE = 8000
WORDS = Vocabulary.from_texts("words", ["one two three"])
CLASSES = Vocabulary.from_texts("classes", ["one", "two", "three"])


class Parrot:
    """Recognises a clip by its length in samples, and remembers its batches."""

    rate = RATE

    def __init__(self, vocabulary: Vocabulary, says: dict[int, str], seconds: float = 0.0):
        self.vocabulary = vocabulary
        self.says = says
        self.seconds = seconds
        self.batches: list[list[int]] = []

    def transcribe(self, clip: np.ndarray) -> Recognition:
        return self.transcribe_batch([clip])[0]

    def transcribe_batch(self, clips: Sequence[np.ndarray]) -> list[Recognition]:
        self.batches.append([len(clip) for clip in clips])
        time.sleep(self.seconds)
        return [Recognition(self.says[len(c)], (), 0.5, len(c) / RATE) for c in clips]


def silence(samples: int, text: str, speaker: str = "") -> Utterance:
    return Utterance("", samples / RATE, text, speaker=speaker)


def measure(
    said: Sequence[str],
    heard: Sequence[str],
    *,
    vocabulary: Vocabulary = WORDS,
    speakers: Sequence[str] = (),
) -> Report:
    """Evaluate utterances of 1000, 1001, ... samples."""
    names = speakers or [""] * len(said)
    utterances = [
        silence(1000 + number, text, speaker)
        for number, (text, speaker) in enumerate(zip(said, names, strict=True))
    ]
    parrot = Parrot(vocabulary, {1000 + number: text for number, text in enumerate(heard)})
    return evaluate(cast(Recogniser, parrot), utterances)


def test_no_more_is_held_than_so_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CLIPS_SECONDS", 2500 / RATE)
    said = [str(number) for number in range(8)]
    done: list[tuple[int, int]] = []
    utterances = [silence(1000 + number, text) for number, text in enumerate(said)]
    missing = Utterance("nowhere.wav", 1.0, "x")
    parrot = Parrot(WORDS, {1000 + number: text for number, text in enumerate(said)})
    report = evaluate(
        cast(Recogniser, parrot),
        [*utterances[:4], missing, *utterances[4:]],
        progress=lambda *counts: done.append(counts),
    )
    assert [item.hypothesis for item in report.items] == said
    assert parrot.batches == [[1007, 1006, 1005], [1004, 1003, 1002], [1001, 1000]]
    assert done == [(4, 9), (7, 9), (9, 9)]
    assert len(report.failed) == 1


def test_a_long_recording_is_heard_as_transcribe_hears_it() -> None:
    clips = {1000: "one", 2000: "two", 2001: "three"}
    parrot = Parrot(WORDS, clips)
    heard: list[int] = []
    parrot.transcribe = lambda clip: heard.append(len(clip)) or Recognition("one", (), 1.0, 1.0)
    monkey = [silence(samples, text) for samples, text in clips.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "BATCH_SECONDS", 4002 / RATE)
        evaluate(cast(Recogniser, parrot), monkey)
    assert heard == [1000] and parrot.batches == [[2001, 2000]]


def test_scores_by_hand() -> None:
    report = measure(["one two", "three", "two"], ["one", "three", "two two"])
    assert report.task == "words"
    assert report.utterances == 3
    assert report.accuracy.value == pytest.approx(1 / 3)
    assert report.wer is not None
    assert report.cer is not None
    assert report.wer.value == pytest.approx(2 / 4)  # " two" lost, " two" inserted
    assert report.cer.value == pytest.approx(8 / 15)
    assert report.confusion is None  # a reference of two words is no class
    assert report.audio_seconds == pytest.approx((1000 + 1001 + 1002) / RATE)


def test_accuracys_interval_is_the_errors_turned_over() -> None:
    said = ["one"] * 40
    report = measure(said, ["one"] * 30 + ["two"] * 10)
    low, high = interval([0.0] * 30 + [1.0] * 10, [1.0] * 40)
    assert (report.accuracy.low, report.accuracy.high) == pytest.approx((1 - high, 1 - low))
    assert report.accuracy.low < 0.75 < report.accuracy.high


def test_all_right_is_not_certain() -> None:
    report = measure(["one"] * 50, ["one"] * 50)
    assert report.accuracy.high == 1
    assert report.accuracy.low == pytest.approx(0.025 ** (1 / 50))
    assert "exact, utterances" in report_text(report)


def test_labels_that_begin_alike_are_told_apart() -> None:
    said = ["lights off", "lights on"] * 3
    classes = Vocabulary.from_texts("classes", said)
    lines = report_text(measure(said, said, vocabulary=classes)).splitlines()
    head = lines[lines.index("said (rows), recognised (columns)") + 1]
    assert head.split() == ["lights", "of", "lights", "on", "(other)"]


def test_every_speakers_error_rate_may_be_the_same() -> None:
    """Each of three has as many errors as words, but not one in every utterance."""
    report = measure(["one"] * 6, ["two two", "one"] * 3, speakers=list("aabbcc"))
    (line,) = (line for line in report_text(report).splitlines() if line.startswith("WER"))
    assert line == "WER 100.00 %  (95 % interval 100.00–100.00, over speakers)"


@pytest.mark.parametrize("heard", ["one", "one two"])
def test_references_without_a_word_can_only_be_added_to(heard: str) -> None:
    report = measure([""] * 3, ["", "", heard])
    (line,) = (line for line in report_text(report).splitlines() if line.startswith("WER"))
    assert line.endswith("(the references hold nothing to be missed)")


def test_one_utterance_has_no_interval() -> None:
    lines = report_text(measure(["one two"], ["one"])).splitlines()
    assert "WER 50.00 %  (one utterance says nothing of others: no interval)" in lines
    assert any(line.startswith("accuracy 0.00 %  (95 % interval 0.00–97.50") for line in lines)


def test_speakers_are_resampled_where_they_are_known() -> None:
    said, heard = ["one"] * 8, ["one"] * 6 + ["two"] * 2
    known = measure(said, heard, speakers=list("aabbccdd"))
    assert (known.speakers, known.accuracy.resampled) == (4, "speakers")
    assert "over speakers" in report_text(known)
    with_silence = measure(said, heard, speakers=["", *"abbccdd"])
    assert (with_silence.speakers, with_silence.accuracy.resampled) == (4, "speakers")
    for speakers in (list("aaaabbbb"), [""] * 8):
        report = measure(said, heard, speakers=speakers)
        assert report.accuracy.resampled == "utterances"
        assert report.speakers == len(set(speakers) - {""})


def test_references_are_normalised_as_in_training() -> None:
    report = measure(["  ONE  Two "], ["one two"])
    assert report.items[0].reference == "one two"
    assert report.accuracy.value == 1


def test_a_reference_that_is_no_text_is_named_before_anything_is_heard() -> None:
    parrot = Parrot(WORDS, {1000: "one"})
    bad = Utterance("b.wav", 0.125, "caf\udce9")
    with pytest.raises(DataError, match=r"^b\.wav: text 'caf\\udce9': is no Unicode; write it"):
        evaluate(cast(Recogniser, parrot), [silence(1000, "one"), bad])
    assert parrot.batches == []


def test_classes_have_confusions_and_no_word_errors() -> None:
    report = measure(["one", "two", "two"], ["one", "one", "two"], vocabulary=CLASSES)
    assert report.wer is report.cer is None
    assert report.labels == ("one", "two")
    np.testing.assert_array_equal(report.confusion, [[1, 0, 0], [1, 1, 0]])
    assert [(c.label, c.support, c.recall, c.precision) for c in report.classes] == [
        ("one", 1, 1, 0.5),
        ("two", 2, 0.5, 1),
    ]


def test_single_words_of_a_sequence_model_are_classes_too() -> None:
    report = measure(["one", "two"], ["one", "two two"])
    assert report.wer is not None
    np.testing.assert_array_equal(report.confusion, [[1, 0, 0], [0, 0, 1]])


def test_many_labels_are_not_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MOST_LABELS", 2)
    assert measure(["one", "two"], ["one", "two"]).confusion is not None
    assert measure(["one", "two", "three"], ["one", "two", "three"]).confusion is None


def test_items_of_one_file_are_told_apart() -> None:
    whole = silence(3 * RATE, "one two")
    parts = [
        replace(whole, text=text, offset=offset, duration=1.0)
        for text, offset in (("one", 0.5), ("two", 2.0))
    ]
    report = evaluate(cast(Recogniser, Parrot(WORDS, {RATE: "one"})), parts)
    told = [(item["offset"], item["reference"]) for item in report.to_dict()["items"]]
    assert told == [(0.5, "one"), (2.0, "two")]


def test_items_keep_the_order_and_batches_are_bounded() -> None:
    lengths = [RATE // 4, RATE * 3, RATE // 8, RATE * 4, RATE // 2]
    parrot = Parrot(WORDS, {length: str(length) for length in lengths})
    seen: list[tuple[int, int]] = []
    report = evaluate(
        cast(Recogniser, parrot),
        [silence(length, "one", str(length)) for length in lengths],
        progress=lambda done, of: seen.append((done, of)),
    )
    assert [item.hypothesis for item in report.items] == [str(length) for length in lengths]
    assert [item.speaker for item in report.items] == [str(length) for length in lengths]
    assert all(max(b) * len(b) <= evaluation.BATCH_SECONDS * RATE for b in parrot.batches)
    assert seen[-1] == (5, 5)
    assert len(seen) == len(parrot.batches) == 2


def test_audio_is_read_from_its_stretch(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    write_wav(path, np.zeros(RATE), RATE)
    parrot = Parrot(WORDS, {2000: "one"})
    utterance = Utterance(str(path), 0.25, "one", offset=0.5)
    assert evaluate(cast(Recogniser, parrot), [utterance]).accuracy.value == 1
    assert parrot.batches == [[2000]]


def test_unreadable_audio_is_named_and_not_scored(tmp_path: Path) -> None:
    missing = Utterance(str(tmp_path / "gone.wav"), 1.0, "two")
    parrot = Parrot(WORDS, {1000: "one"})
    report = evaluate(cast(Recogniser, parrot), [missing, silence(1000, "one")])
    assert report.utterances == 1
    assert report.accuracy.value == 1
    assert len(report.failed) == 1
    assert f"failed: {missing.audio_filepath}: no such file" in report_text(report)
    with pytest.raises(DataError, match=r"none of 1 utterances .*gone\.wav: no such file"):
        evaluate(cast(Recogniser, parrot), [missing])
    with pytest.raises(DataError, match="none of 0 utterances could be read; check"):
        evaluate(cast(Recogniser, parrot), [])


def test_real_time_factor_counts_the_recogniser_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read = evaluation.read_utterance

    def slowly(utterance: Utterance, rate: int) -> np.ndarray:
        time.sleep(0.3)
        return read(utterance, rate)

    monkeypatch.setattr(evaluation, "read_utterance", slowly)
    parrot = Parrot(WORDS, {RATE * 2: "one"}, seconds=0.05)
    report = evaluate(cast(Recogniser, parrot), [silence(RATE * 2, "one")])
    assert 0.05 <= report.compute_seconds < 0.3
    assert report.real_time_factor == report.compute_seconds / 2


def test_report_is_plain_json() -> None:
    report = measure(["one", "two"], ["one", "three"], vocabulary=CLASSES)
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["task"] == "classes"
    assert values["accuracy"]["value"] == 0.5
    assert values["wer"] is None
    assert values["confusion"] == [[1, 0, 0], [0, 0, 1]]
    assert values["items"][1]["hypothesis"] == "three"
    assert values["real_time_factor"] == report.real_time_factor
    assert measure(["one two"], ["one"]).to_dict()["confusion"] is None


def test_report_text() -> None:
    text = report_text(measure(["one", "two", "two"], ["one", "one", "two"]))
    lines = text.splitlines()
    assert lines[0] == "3 utterances, 0.0 min, unknown speakers"
    assert lines[1].startswith("accuracy 66.67 %  (95 % interval ")
    assert lines[2].startswith("WER 33.33 %  (95 % interval ")
    assert "two        2    50.0      100.0" in lines
    assert lines[-3:] == [
        "            one     two (other)",
        "one           1       ·       ·",
        "two           1       1       ·",
    ]


def test_many_labels_list_their_confusions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "TEXT_LABELS", 1)
    text = report_text(measure(["one", "one", "two"], ["two", "two", "three"]))
    assert text.endswith("said -> recognised\none -> two: 2\ntwo -> (other): 1")
    assert report_text(measure(["one", "two"], ["one", "two"])).endswith("\nno confusions")


def test_draw_confusion(tmp_path: Path) -> None:
    labels = ["$\\frac$", "صفر", "one"]
    vocabulary = Vocabulary.from_texts("classes", labels)
    path = tmp_path / "figures" / "confusion.png"
    draw_confusion(measure(labels, labels, vocabulary=vocabulary), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert path.stat().st_size > 2000
    assert [entry.name for entry in path.parent.iterdir()] == ["confusion.png"]


def test_no_confusions_to_draw(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no confusion matrix"):
        draw_confusion(measure(["one two"], ["one"]), tmp_path / "confusion.png")
    assert not list(tmp_path.iterdir())


def test_matplotlib_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SpeechseqError, match=r"pip install '\.\[train\]' in the clone"):
        draw_confusion(measure(["one"], ["one"]), tmp_path / "confusion.png")
