"""speechseq data: corpora listed, downloaded, prepared, counted, composed and sharded."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechseq.cli.terminal import Bar, need_training
from speechseq.errors import (
    DataError,
    SomeInputsFailed,
    SpeechseqError,
    UsageError,
    choose,
    nearest,
)

if TYPE_CHECKING:
    from speechseq.files import Archive
    from speechseq.manifest import Corpus, Utterance

RATIOS_DB = (-100, 100)
"""Decibels of speech over noise: beyond them one of the two is gone from 16-bit samples."""

HELP = "corpora: list, download, prepare, stats, compose, shard"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="the corpora, their splits and where they are")
    for name, text in (
        ("download", "fetch a public corpus"),
        ("prepare", "write one manifest a split"),
        ("stats", "count what a corpus or a manifest holds"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument(
            "corpus", help="a corpus of 'data list'" + " or a manifest" * (name == "stats")
        )
        if name == "download":
            action.add_argument(
                "--root",
                type=Path,
                help="folder of corpora (default: $SPEECHSEQ_CORPORA, else data/corpora)",
            )
            action.add_argument("--part", action="append", help="only this archive, e.g. dev-clean")
            continue
        action.add_argument("--root", default="", help="place of the corpus")
        action.add_argument("--words", default="", help="speech_commands: words, comma between")
        action.add_argument("--unknown", action="store_true", help="other words as _unknown_")
        action.add_argument(
            "--silence", action="store_true", help="stretches of noise as _silence_"
        )
        action.add_argument("--held-out-speaker", default="", help="fsdd: test on this one")
        if name == "prepare":
            action.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    _add_compose(
        actions.add_parser("compose", help="string single words together, in noise or not")
    )
    _add_shard(actions.add_parser("shard", help="write tar shards to stream a split from"))


def _add_compose(action: argparse.ArgumentParser) -> None:
    action.description = (
        "Compose strings of a manifest's utterances, each string of one speaker: wav files and "
        "their manifest strings.jsonl, to evaluate on. The same seed gives the same strings."
    )
    action.add_argument("manifest", type=Path, help="JSON lines; see data prepare")
    action.add_argument("--split", default="", help="which, where the manifest has several")
    action.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    action.add_argument("--strings", type=int, default=300, help="how many (default: 300)")
    action.add_argument("--shortest", type=int, default=1, help="utterances in one (default: 1)")
    action.add_argument("--longest", type=int, default=10, help="utterances in one (default: 10)")
    action.add_argument("--rate", type=int, default=16000, help="of the files (default: 16000)")
    action.add_argument("--noise", type=Path, metavar="DIR", help="recordings to mix in")
    action.add_argument("--snr", type=float, metavar="DB", help="speech over noise, in decibels")
    action.add_argument("--seed", type=int, default=0, help="of all chance (default: 0)")


def _add_shard(action: argparse.ArgumentParser) -> None:
    action.description = (
        "Write a manifest's utterances, in shuffled order, as tar shards in the WebDataset layout "
        "and, beside them, their index. Train with data.corpus=shards and data.root=FOLDER."
    )
    action.add_argument("manifest", type=Path, help="JSON lines; see data prepare")
    action.add_argument("--split", default="", help="which, where the manifest has several")
    action.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PATTERN", help="FOLDER/train-%%06d.tar"
    )
    size = action.add_mutually_exclusive_group()
    size.add_argument("--shard-megabytes", type=int, help="of a shard at most (default: 256)")
    size.add_argument("--shard-utterances", type=int, help="of a shard, whatever their size")
    action.add_argument("--seed", type=int, default=0, help="of the order (default: 0)")


def run(arguments: argparse.Namespace) -> None:
    ACTIONS[arguments.action](arguments)


def _list(_: argparse.Namespace) -> None:
    from speechseq.corpora import CORPORA

    for name, corpus in CORPORA.items():
        splits = " ".join(corpus.splits) or "your own"
        place = ""
        if corpus.folder:
            try:
                place = str(corpus.locate())
            except SpeechseqError:
                place = "not here"
        print(f"{name}\t{corpus.title}\t{splits}\t{corpus.licence}\t{place}")


def _download(arguments: argparse.Namespace) -> None:
    from speechseq.archives import fetch
    from speechseq.corpora import CORPORA

    corpus = choose(CORPORA, arguments.corpus, "corpus")
    if corpus.made_by:
        raise UsageError(f"{corpus.name}: is made, not downloaded; run '{corpus.made_by}'")
    if not corpus.archives:
        raise UsageError(f"{corpus.name}: is your own data; there is nothing to download")
    bar = Bar()
    place = fetch(
        _chosen(corpus.archives, arguments.part or []),
        arguments.root or _parent_of(corpus),
        corpus.folder,
        progress=lambda done, total: bar(f"{corpus.name} MB", done >> 20, total >> 20),
    )
    print(place)


def _parent_of(corpus: Corpus) -> Path:
    """Return the folder of corpora that holds it, else the first that it may be written to."""
    from speechseq.manifest import CORPORA_VARIABLE, DEFAULT_CORPORA

    try:
        return corpus.locate().parent
    except DataError:
        named = Path(os.environ.get(CORPORA_VARIABLE) or DEFAULT_CORPORA)
        # A folder that many share may be there to read alone.
        return DEFAULT_CORPORA if named.exists() and not os.access(named, os.W_OK) else named


def _chosen(archives: Sequence[Archive], parts: Sequence[str]) -> Sequence[Archive]:
    """Return the archives named by their files' beginnings; all, where none is named."""
    named = {archive.file_name.partition(".")[0]: archive for archive in archives}
    for part in parts:
        if part not in named:
            raise UsageError(f"--part: no archive {part!r}{nearest(part, named)}")
    return [named[part] for part in parts] or archives


def _read_corpus(arguments: argparse.Namespace) -> list[Utterance]:
    from speechseq.corpora import CORPORA
    from speechseq.recipe import DataSettings
    from speechseq.splits import corpus_options

    corpus = choose(CORPORA, arguments.corpus, "corpus")
    settings = DataSettings(
        words=tuple(filter(None, arguments.words.split(","))),
        unknown=arguments.unknown,
        silence=arguments.silence,
        held_out_speaker=arguments.held_out_speaker,
    )
    return corpus.read(corpus.locate(arguments.root), **corpus_options(corpus, settings))


def _by_split(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    splits: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        splits.setdefault(utterance.split or "all", []).append(utterance)
    return splits


def _prepare(arguments: argparse.Namespace) -> None:
    from speechseq.manifest import write_manifest

    splits = _by_split(_read_corpus(arguments))
    paths = {split: arguments.output / f"{split}.jsonl" for split in splits}
    for split, path in paths.items():
        if not re.fullmatch(r"\w[\w.-]*", split):
            raise DataError(f"split {split!r}: cannot be a file's name; rename it in the data")
        if path.exists():
            raise UsageError(f"{path}: is there already; name another folder with -o")
    for split, utterances in splits.items():
        absolute = [
            dataclasses.replace(
                u, audio_filepath=u.audio_filepath and os.path.abspath(u.audio_filepath)
            )
            for u in utterances
        ]
        write_manifest(paths[split], absolute)
        print(f"{paths[split]}\t{len(utterances)}")


def _compose(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.shortest <= arguments.longest or arguments.strings < 1:
        raise UsageError("compose: --strings, --shortest and --longest are 1 or more, and rise")
    from speechseq.recipe_checks import BOUNDS

    if arguments.seed < 0:
        raise UsageError(f"--seed {arguments.seed}: a number of 0 or more goes here")
    for flag, (low, high) in {"rate": BOUNDS["features.rate"], "snr": RATIOS_DB}.items():
        value = getattr(arguments, flag)
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{flag} {value}: a number from {low} to {high} goes here")
    if (arguments.noise is None) != (arguments.snr is None):
        raise UsageError("compose: --noise and --snr go together; give both or neither")
    from speechseq.audio import read_audio
    from speechseq.compose import Composition, compose, write_strings
    from speechseq.corpora.clips import clips_in, require
    from speechseq.manifest import read_split

    utterances = read_split(arguments.manifest, arguments.split)
    noises = []
    if arguments.noise:
        noises = [read_audio(path, arguments.rate) for path in clips_in(arguments.noise).values()]
        require(noises, arguments.noise, "recordings")
    settings = Composition(
        strings=arguments.strings,
        shortest=arguments.shortest,
        longest=arguments.longest,
        snr_db=arguments.snr,
        seed=arguments.seed,
    )
    strings = compose(utterances, arguments.rate, settings, noises)
    print(write_strings(strings, arguments.output, arguments.rate))


def _shard(arguments: argparse.Namespace) -> None:
    for flag in ("shard_megabytes", "shard_utterances", "seed"):
        value, least = getattr(arguments, flag), int(flag != "seed")
        if value is not None and value < least:
            name = flag.replace("_", "-")
            raise UsageError(f"--{name} {value}: a number of {least} or more goes here")
    from speechseq.manifest import read_split

    utterances = read_split(arguments.manifest, arguments.split)
    need_training()
    from speechseq.training.sharding import MEGABYTES, Limit, write_shards

    bar = Bar()
    index, shards = write_shards(
        utterances,
        arguments.output,
        limit=Limit(
            (arguments.shard_megabytes or MEGABYTES) * 1_000_000, arguments.shard_utterances or 0
        ),
        seed=arguments.seed,
        note=bar.note,
        show=bar,
    )
    written = sum(shard.utterances for shard in shards)
    print(f"{index}\t{len(shards)} shards\t{written} utterances")
    if written < len(utterances):
        raise SomeInputsFailed(
            f"{arguments.manifest}: {len(utterances) - written} of {len(utterances)} utterances "
            f"could not be read; the others are written"
        )


def _stats(arguments: argparse.Namespace) -> None:
    from speechseq.corpora.clips import measured
    from speechseq.manifest import read_manifest, shared_audio, shared_speakers, statistics
    from speechseq.run_table import printable

    own = Path(arguments.corpus)
    if not own.is_file() and (own.suffix or len(own.parts) > 1):
        raise UsageError(f"{own}: no such manifest; check the name")
    splits = _by_split(measured(read_manifest(own)) if own.is_file() else _read_corpus(arguments))
    for split, utterances in splits.items():
        found = statistics(utterances)
        texts = ", ".join(f"{printable(text)} {count}" for text, count in found.texts[:8])
        more = ", …" if len(found.texts) > 8 else ""
        print(
            f"{printable(split)}: {found.utterances} utterances, {found.hours:.2f} h, "
            f"{found.speakers or 'unknown'} speakers, {found.shortest:.2f}–{found.longest:.2f} s, "
            f"{found.words} words, {len(found.texts)} texts ({texts}{more})"
        )
    names = list(splits)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            speakers = len(shared_speakers(splits[one], splits[other]))
            clips = len(shared_audio(splits[one], splits[other]))
            pair = printable(f"{one} and {other}")
            print(f"{pair} share {speakers} speakers and {clips} stretches of audio")


ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "list": _list,
    "download": _download,
    "prepare": _prepare,
    "compose": _compose,
    "shard": _shard,
    "stats": _stats,
}
