"""A recogniser on a list of utterances: how often it is right, how sure that is, how fast."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechseq.errors import AudioError, DataError
from speechseq.manifest import Utterance, read_utterance
from speechseq.metrics import (
    ONE,
    ClassScore,
    accuracy,
    character_errors,
    confusion,
    interval,
    per_class,
    resampled,
    total_rate,
    word_errors,
)
from speechseq.padding import by_length
from speechseq.pictures import new_figure, save_png
from speechseq.recogniser import BATCH_SECONDS, CLIPS_SECONDS, Recogniser
from speechseq.recognition import Recognition
from speechseq.sound_files import name_of
from speechseq.tokens import Vocabulary

MOST_LABELS = 64
"""Up to so many different references are shown as classes, with their confusions."""

TEXT_LABELS = 16
"""Up to so many labels the confusion matrix is printed whole."""


@dataclass(frozen=True)
class Score:
    """A rate with its 95 % interval, and what that resamples (`metrics.resampled`)."""

    value: float
    low: float
    high: float
    resampled: str

    def percent(self, digits: int = 2) -> str:
        """Return the rate in percent, its interval in brackets."""
        value, low, high = (
            f"{100 * rate:.{digits}f}" for rate in (self.value, self.low, self.high)
        )
        return f"{value} % ({low}–{high})"


@dataclass(frozen=True)
class Item:
    """One utterance, as it was and was recognised; `offset` is where it begins in its file (s)."""

    file: str
    offset: float
    speaker: str
    reference: str
    hypothesis: str
    confidence: float


@dataclass(frozen=True)
class Report:
    """Everything measured. `wer` and `cer` are None for classes, `confusion` where labels are many.

    `task` is the kind of the vocabulary. Rates are shares of 1. The real-time factor is computing
    time (network and decoding) over audio time.
    """

    task: str
    utterances: int
    speakers: int
    accuracy: Score
    wer: Score | None
    cer: Score | None
    classes: tuple[ClassScore, ...]
    labels: tuple[str, ...]
    confusion: np.ndarray | None
    audio_seconds: float
    compute_seconds: float
    failed: tuple[str, ...]
    items: tuple[Item, ...]

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing for a second of audio."""
        return self.compute_seconds / max(self.audio_seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole report as plain JSON values."""
        values = asdict(self)
        values["confusion"] = None if self.confusion is None else self.confusion.tolist()
        return {**values, "real_time_factor": self.real_time_factor}


def evaluate(
    recogniser: Recogniser,
    utterances: Sequence[Utterance],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Recognise every utterance and score the texts; references are normalised as in training.

    An utterance whose audio cannot be read is named in `failed` and not scored.

    Raises:
        DataError: there is nothing to score, or a reference is no text.
    """
    references = [_reference(recogniser.vocabulary, utterance) for utterance in utterances]
    failed: dict[int, str] = {}
    found: dict[int, Recognition] = {}
    spent = 0.0
    for clips in _read(utterances, recogniser.rate, failed):
        sizes = {number: len(clip) for number, clip in clips.items()}
        for batch in by_length(sizes, round(BATCH_SECONDS * recogniser.rate)):
            start = time.perf_counter()
            found |= zip(batch, _recognised(recogniser, [clips[n] for n in batch]), strict=True)
            spent += time.perf_counter() - start
            if progress:
                progress(len(found) + len(failed), len(utterances))
    if not found:
        first = f" ({failed[min(failed)]})" if failed else ""
        raise DataError(
            f"evaluate: none of {len(utterances)} utterances could be read{first}; "
            f"check where the audio is"
        )
    items = [_item(utterances[n], references[n], found[n]) for n in sorted(found)]
    seconds = sum(one.duration for one in found.values())
    messages = [failed[number] for number in sorted(failed)]
    return _report(recogniser.vocabulary, items, messages, seconds, spent)


def _read(
    utterances: Sequence[Utterance], rate: int, failed: dict[int, str]
) -> Iterator[dict[int, np.ndarray]]:
    """Yield clips by their numbers, those of like length together, as many as are held at once.

    What cannot be read goes into `failed`.
    """
    clips: dict[int, np.ndarray] = {}
    held = 0
    for number in sorted(range(len(utterances)), key=lambda n: -utterances[n].duration):
        try:
            clips[number] = read_utterance(utterances[number], rate)
            held += len(clips[number])
        except AudioError as error:
            failed[number] = str(error)
        if held > CLIPS_SECONDS * rate:
            yield clips
            clips, held = {}, 0
    yield clips


def _recognised(recogniser: Recogniser, clips: Sequence[np.ndarray]) -> list[Recognition]:
    """Recognise a batch; a clip alone may be so long that it is heard in windows."""
    if len(clips) == 1:
        return [recogniser.transcribe(clips[0])]
    return recogniser.transcribe_batch(clips)


def _reference(vocabulary: Vocabulary, utterance: Utterance) -> str:
    try:
        return vocabulary.normalise(utterance.text)
    except DataError as error:
        raise DataError(f"{name_of(utterance.audio_filepath)}: {error}") from None


def _item(utterance: Utterance, reference: str, recognition: Recognition) -> Item:
    return Item(
        utterance.audio_filepath,
        utterance.offset,
        utterance.speaker,
        reference,
        recognition.text,
        recognition.confidence,
    )


def _report(
    vocabulary: Vocabulary,
    items: Sequence[Item],
    failed: Sequence[str],
    seconds: float,
    spent: float,
) -> Report:
    sequences = vocabulary.is_sequence
    references = [item.reference for item in items]
    hypotheses = [item.hypothesis for item in items]
    speakers = [item.speaker for item in items]
    wrong = [float(r != h) for r, h in zip(references, hypotheses, strict=True)]
    ones = [1.0] * len(wrong)
    low, high = interval(wrong, ones, speakers)
    right = accuracy(references, hypotheses)
    labels = tuple(sorted(set(references)))
    few = len(labels) <= MOST_LABELS and (not sequences or all(" " not in x for x in labels))
    return Report(
        task=vocabulary.kind,
        utterances=len(items),
        speakers=len({item.speaker for item in items if item.speaker}),
        accuracy=Score(right, 1 - high, 1 - low, resampled(wrong, ones, speakers)),
        wer=_rate(word_errors, references, hypotheses, speakers) if sequences else None,
        cer=_rate(character_errors, references, hypotheses, speakers) if sequences else None,
        classes=tuple(per_class(references, hypotheses)) if few else (),
        labels=labels if few else (),
        confusion=confusion(references, hypotheses, labels) if few else None,
        audio_seconds=seconds,
        compute_seconds=spent,
        failed=tuple(failed),
        items=tuple(items),
    )


def _rate(
    count: Callable[..., list[Any]],
    references: Sequence[str],
    hypotheses: Sequence[str],
    speakers: Sequence[str],
) -> Score:
    counts = count(references, hypotheses)
    sample = [c.errors for c in counts], [c.total for c in counts], speakers
    return Score(total_rate(counts), *interval(*sample), resampled(*sample))


def report_text(report: Report) -> str:
    """Return a report as lines for a terminal."""
    lines = [
        f"{report.utterances} utterances, {report.audio_seconds / 60:.1f} min, "
        f"{report.speakers or 'unknown'} speakers",
        _score_line("accuracy", report.accuracy),
    ]
    for name, score in (("WER", report.wer), ("CER", report.cer)):
        if score:
            lines.append(_score_line(name, score))
    lines.append(f"real-time factor {report.real_time_factor:.4f}")
    lines += [f"failed: {message}" for message in report.failed]
    if report.classes:
        lines += ["", *_class_lines(report.classes)]
    if report.confusion is not None:
        lines += ["", *_confusion_lines(report.confusion, report.labels)]
    return "\n".join(lines)


def _score_line(name: str, score: Score) -> str:
    value = f"{name} {100 * score.value:.2f} %  "
    if not score.resampled and score.value:
        return f"{value}(the references hold nothing to be missed)"
    if score.resampled == ONE:
        return f"{value}(one utterance says nothing of others: no interval)"
    exact = score.resampled in ("", "nothing")
    over = "exact, utterances" if exact else f"over {score.resampled}"
    return f"{value}(95 % interval {100 * score.low:.2f}–{100 * score.high:.2f}, {over})"


def _class_lines(classes: Sequence[ClassScore]) -> list[str]:
    width = max(len("class"), *(len(score.label) for score in classes))
    return [
        f"{'class':<{width}}  {'n':>5}  recall  precision",
        *(
            f"{c.label:<{width}}  {c.support:>5}  {100 * c.recall:6.1f}  {100 * c.precision:9.1f}"
            for c in classes
        ),
    ]


def _confusion_lines(counts: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Print the matrix where it is small, else the most frequent confusions."""
    columns = [*labels, "(other)"]
    if len(labels) > TEXT_LABELS:
        return _frequent_confusions(counts, labels, columns)
    width = max(5, *(len(name) for name in columns))
    # Names are cut, but not so short that two of them look alike.
    cut = next(n for n in range(7, width + 8) if len({x[:n] for x in columns}) == len({*columns}))
    head = " " * width + "".join(f" {name[:cut]:>{cut}}" for name in columns)
    rows = (
        f"{label:<{width}}" + "".join(f" {count or '·':>{cut}}" for count in row)
        for label, row in zip(labels, counts.tolist(), strict=True)
    )
    return ["said (rows), recognised (columns)", head, *rows]


def _frequent_confusions(
    counts: np.ndarray, labels: Sequence[str], columns: Sequence[str]
) -> list[str]:
    wrong = Counter(
        {
            (label, column): int(counts[row, number])
            for row, label in enumerate(labels)
            for number, column in enumerate(columns)
            if label != column and counts[row, number]
        }
    )
    if not wrong:
        return ["no confusions"]
    return [
        "most frequent confusions: said -> recognised",
        *(f"{said} -> {heard}: {count}" for (said, heard), count in wrong.most_common(12)),
    ]


def draw_confusion(report: Report, path: str | Path) -> None:
    """Draw the confusion matrix, as shares of each row, into a PNG file.

    Raises:
        DataError: the references are not classes, so there is no matrix.
        SpeechseqError: matplotlib is not installed.
    """
    if report.confusion is None:
        raise DataError(f"{path}: no confusion matrix, the references are not a few single labels")
    size = 2.5 + 0.28 * len(report.labels)
    figure = new_figure(path, size + 1, size)
    axes = figure.add_subplot()
    shares = report.confusion / report.confusion.sum(axis=1, keepdims=True)
    plain: dict[str, Any] = {"parse_math": False}  # a label may hold a $
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(
        range(len(report.labels) + 1), [*report.labels, "(other)"], **plain, rotation=90
    )
    axes.set_yticks(range(len(report.labels)), report.labels, **plain)
    axes.set_xlabel("recognised")
    axes.set_ylabel("said")
    axes.set_title(f"accuracy {100 * report.accuracy.value:.2f} %")
    figure.colorbar(image, label="share of the row")
    save_png(figure, path)
