"""speechseq evaluate: a model to scores."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from speechseq.cli.terminal import (
    Bar,
    add_decoder,
    add_device,
    add_force,
    check_png,
    note,
    open_recogniser,
    refuse_existing,
)
from speechseq.errors import SomeInputsFailed, SpeechseqError, UsageError, choose, installing

if TYPE_CHECKING:
    from speechseq.manifest import Utterance
    from speechseq.recipe import DataSettings
    from speechseq.recogniser import Recogniser

HELP = "a model to scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="bundled name, model file or run folder")
    parser.add_argument("--split", help="split to score on (default: test)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--corpus", help="corpus (default: the one the model was trained on)")
    where.add_argument("--manifest", type=Path, help="JSON lines to score instead of a corpus")
    parser.add_argument("--root", default="", help="place of the corpus")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write everything here")
    parser.add_argument("--png", type=Path, help="draw the confusion matrix here")
    add_force(parser, "both")
    add_decoder(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    from speechseq.evaluation import draw_confusion, evaluate, report_text
    from speechseq.files import atomic_write

    recogniser = open_recogniser(
        arguments.model, arguments.device, arguments.decoder, arguments.least_confidence
    )
    utterances = _evaluated(arguments, recogniser)
    _warn(recogniser, utterances)
    bar = Bar()
    report = evaluate(recogniser, utterances, progress=lambda done, of: bar("evaluate", done, of))
    print(report_text(report))
    if arguments.output:
        with atomic_write(arguments.output) as file:
            text = json.dumps(report.to_dict(), ensure_ascii=False, indent=1)
            file.write(text.encode(errors="backslashreplace"))
    if arguments.png:
        draw_confusion(report, arguments.png)
    if report.failed:
        raise SomeInputsFailed(f"{len(report.failed)} of {len(utterances)} could not be read")


def _evaluated(arguments: argparse.Namespace, recogniser: Recogniser) -> list[Utterance]:
    from speechseq.corpora import CORPORA
    from speechseq.manifest import of_split, read_split
    from speechseq.splits import load_split

    settings, seed = recogniser.recipe.data, recogniser.recipe.seed
    if arguments.manifest:
        found = read_split(arguments.manifest, arguments.split or "", usual="test")
        _mind_training(arguments, settings, seed, str(arguments.manifest), found)
        return found
    corpus = CORPORA[arguments.corpus or settings.corpus]
    root = arguments.root or _root_of_run(Path(arguments.model), corpus.name)
    own = corpus.name == settings.corpus  # and not by --corpus and --root other data of that kind
    if own and (corpus.splits or not (arguments.corpus and arguments.root)):
        settings = dataclasses.replace(settings, root=root)
        split = arguments.split or "test"
        found = load_split(settings, split, seed)
        # Its own splits training has parted itself.
        if split not in ("train", settings.train_split, "validation", settings.validation_split):
            _mind_training(arguments, settings, seed, split, found)
        return found
    # Other data than the model was trained on: nothing of its splits was held out for training.
    options = {name: getattr(settings, name) for name in corpus.options}
    if corpus.splits:
        return corpus.utterances(arguments.split or "test", root=root, **options)
    found = of_split(
        corpus.read(corpus.locate(root), **options), arguments.split or "", "test", where=root
    )
    _mind_training(arguments, settings, seed, root, found)
    return found


def _mind_training(
    arguments: argparse.Namespace,
    settings: DataSettings,
    seed: int,
    where: str,
    utterances: Sequence[Utterance],
) -> None:
    """Note what one's own data share with those of one's own that were learnt from, if here.

    Nobody but their owner parted them; a public corpus' splits are apart, and long to list again.
    """
    from speechseq.corpora import CORPORA
    from speechseq.manifest import shared_audio, shared_speakers
    from speechseq.splits import load_split

    if CORPORA[settings.corpus].splits:
        return
    root = settings.root or _root_of_run(Path(arguments.model), settings.corpus)
    settings = dataclasses.replace(settings, root=root)
    try:
        learnt = load_split(settings, "train", seed)
    except SpeechseqError:
        return
    counts = {
        "clips": len(shared_audio(utterances, learnt)),
        "speakers": len(shared_speakers(utterances, learnt)),
    }
    if shared := " and ".join(f"{count} {what}" for what, count in counts.items() if count):
        note(f"mind: training heard {shared} of {where}, too; new ones may be recognised worse")


def _root_of_run(run: Path, corpus: str) -> str:
    """Return where a run folder's own data lies; a model file does not say."""
    from speechseq.model_file import RUN_RECIPE
    from speechseq.recipe_file import read_recipe

    if not (run / RUN_RECIPE).is_file():
        return ""
    data = read_recipe(run / RUN_RECIPE).data
    return data.root if data.corpus == corpus else ""


def _check(arguments: argparse.Namespace) -> None:
    """Check what can be checked before anything is opened."""
    from speechseq.corpora import CORPORA

    if arguments.png:
        check_png(arguments.png)
        if arguments.output and arguments.output.resolve() == arguments.png.resolve():
            raise UsageError(f"{arguments.png}: for both --png and --output; name another file")
    refuse_existing(arguments.force, arguments.output, arguments.png)
    if arguments.corpus:
        choose(CORPORA, arguments.corpus, "corpus")
    if arguments.manifest and arguments.root:
        raise UsageError("evaluate: --root is for a corpus; a manifest names its files itself")
    if arguments.png and find_spec("matplotlib") is None:
        raise SpeechseqError(f"--png: needs matplotlib; {installing('train')}")


def _warn(recogniser: Recogniser, utterances: Sequence[Utterance]) -> None:
    """Note references that this model has no tokens for; they will count as wrong."""
    foreign = [u.text for u in utterances if not _can_spell(recogniser, u.text)]
    if foreign:
        note(f"{len(foreign)} references cannot be spelt by this model, {foreign[0]!r} first")


def _can_spell(recogniser: Recogniser, text: str) -> bool:
    try:
        recogniser.vocabulary.encode(text)
    except SpeechseqError:
        return False
    return True
