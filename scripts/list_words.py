"""List single words of several corpora in one manifest: what to pretrain a word classifier on.

    python scripts/list_words.py --without on off stop -o data/words.jsonl

Clips of Speech Commands, Arabic Speech Commands (its words are other words: `arabic yes`) and
synthetic voices, as far as they are at hand, and AN4's sentences cut into their words where the
bundled `an4` hears them. Validation is that of Speech Commands. `--without` leaves words out that
are to be measured as never heard, `--only` takes no others than these; words of fewer clips than
`--least` are left out, too, and of each word no more than `--most` are trained on.
`--without-speakers` leaves so many of AN4's speakers out, those that `data.validation_speakers`
holds out, so that what is trained on the others can be measured on them.
With `--spelt` the texts are the words' phones, to learn to spell those (data.tokens characters);
words that the file of pronunciations lacks are left out.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from command_line import natural, one_line_errors, parser_of

from speechseq.alignment import align
from speechseq.cli.terminal import add_force, refuse_existing
from speechseq.corpora import CORPORA
from speechseq.errors import DataError
from speechseq.manifest import Utterance, read_utterance, write_manifest
from speechseq.padding import pad
from speechseq.recipe import DataSettings
from speechseq.recogniser import Recogniser, load
from speechseq.splits import first_of_each_text, load_split
from speechseq.training.pronunciations import read_pronunciations

FOREIGN = {"arabic_speech_commands": "arabic "}
"""Corpora whose words are spelt like others but sound otherwise, and what tells them apart."""

REACH_SECONDS = 0.24
"""How far a word may reach beyond its first and last letter's frames: CTC's peaks are narrow."""

BATCH = 16

SECONDS = (0.12, 1.2)
"""Cut words are no shorter and no longer."""


def clips(name: str) -> Iterator[Utterance]:
    """Yield a corpus' clips of single words, under texts that no other word has."""
    corpus = CORPORA[name]
    for utterance in corpus.read(corpus.locate()):
        # Validation is of one corpus; others' stay unheard, for recipes that go on from here.
        if utterance.split == "train" or (utterance.split, name) == (
            "validation",
            "speech_commands",
        ):
            yield replace(utterance, text=FOREIGN.get(name, "") + utterance.text)


def words_of(model: Recogniser, utterances: Sequence[Utterance]) -> Iterator[Utterance]:
    """Yield the words of a batch of sentences, cut half-way between the letters of neighbours."""
    samples = [read_utterance(utterance, model.rate) for utterance in utterances]
    log_probs, sizes = model.network(*pad(samples))
    for row, utterance in enumerate(utterances):
        seconds = len(samples[row]) / model.rate
        try:
            spans = align(log_probs[row, : sizes[row]], model.vocabulary.encode(utterance.text))
        except DataError:
            continue  # too fast for the model's frames
        words, at = [], 0
        for word in utterance.text.split():
            begin, end = (
                frame * model.frame_seconds - model.recipe.features.edge_seconds
                for frame in (spans[at][0], spans[at + len(word) - 1][1])
            )
            words.append((word, begin, end))
            at += len(word) + 1
        for number, (word, first, last) in enumerate(words):
            begin, end = max(first - REACH_SECONDS, 0.0), min(last + REACH_SECONDS, seconds)
            if number:
                begin = max(begin, (words[number - 1][2] + first) / 2)
            if number + 1 < len(words):
                end = min(end, (last + words[number + 1][1]) / 2)
            if SECONDS[0] <= end - begin <= SECONDS[1]:
                offset = round(utterance.offset + begin, 3)
                yield replace(utterance, text=word, offset=offset, duration=round(end - begin, 3))


@dataclass(frozen=True)
class Choice:
    """Which words, and whose: `only` of none takes all, and so does `most` of 0."""

    without: Sequence[str] = ()
    only: Sequence[str] = ()
    least: int = 2
    most: int = 0
    without_speakers: int = 0

    def takes(self, word: str, clips: int) -> bool:
        """Tell whether a word of so many training clips is one of them."""
        wanted = not self.only or word in self.only
        return wanted and word not in self.without and clips >= self.least


def listed(choice: Choice) -> list[Utterance]:
    """List the words of all corpora that are at hand."""
    found: list[Utterance] = []
    for name in ("speech_commands", "arabic_speech_commands", "synthetic_words"):
        try:
            found += clips(name)
        except DataError as error:
            print(f"left out: {error}", file=sys.stderr)
    try:
        holding = DataSettings(
            corpus="an4", validation_speakers=choice.without_speakers, validation_fraction=0
        )
        sentences, model = load_split(holding, "train", seed=0), load("an4")
        for at in range(0, len(sentences), BATCH):
            found += words_of(model, sentences[at : at + BATCH])
    except DataError as error:
        print(f"left out: {error}", file=sys.stderr)
    counts = Counter(u.text for u in found if u.split == "train")
    train = first_of_each_text([u for u in found if u.split == "train"], choice.most, seed=0)
    return [
        replace(u, audio_filepath=os.path.abspath(u.audio_filepath))
        for u in (*train, *(u for u in found if u.split != "train"))
        if choice.takes(u.text, counts[u.text])
    ]


def spelt(words: Sequence[Utterance], pronunciations: Path) -> list[Utterance]:
    """Return the words whose phones a file has, with these for texts."""
    known = read_pronunciations(pronunciations)
    return [replace(u, text=known[u.text]) for u in words if u.text in known]


def main() -> None:
    """Read the command line and write the manifest."""
    parser = parser_of(__doc__)
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--least", type=natural, default=2)
    parser.add_argument("--most", type=natural, default=0)
    parser.add_argument("--without-speakers", type=natural, default=0, metavar="COUNT")
    parser.add_argument("--spelt", type=Path, metavar="FILE", help="of pronunciations")
    parser.add_argument("-o", "--output", type=Path, required=True)
    add_force(parser, "the manifest")
    arguments = parser.parse_args()
    with one_line_errors():
        refuse_existing(arguments.force, arguments.output)
        found = listed(
            Choice(
                without=arguments.without,
                only=arguments.only,
                least=arguments.least,
                most=arguments.most,
                without_speakers=arguments.without_speakers,
            )
        )
        if arguments.spelt:
            found = spelt(found, arguments.spelt)
        write_manifest(arguments.output, found)
    words = len({utterance.text for utterance in found})
    print(f"{arguments.output}: {len(found)} clips, {words} words", file=sys.stderr)


if __name__ == "__main__":
    main()
