"""The command line: what the user typed is checked first, then what is heavy is imported.

The only module that prints or exits. Results go to stdout, progress and notes to stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechseq import __version__
from speechseq.errors import SomeInputsFailed, SpeechseqError, UsageError, choose

if TYPE_CHECKING:
    from speechseq.manifest import Utterance
    from speechseq.recogniser import Recogniser

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".aiff", ".au")
"""What a folder given to `transcribe` is searched for."""

DEVICES = ("auto", "cpu", "cuda", "mps")
INTERRUPTED = 130


def note(text: str) -> None:
    """Print a note to stderr."""
    print(text, file=sys.stderr, flush=True)


class Bar:
    """A progress line on stderr, drawn only on a terminal, at most ten times a second."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._terminal = sys.stderr.isatty()

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if self._terminal and (now - self._shown > 0.1 or done == of):
            self._shown = now
            filled = 30 * done // max(of, 1)
            bar = "█" * filled + "░" * (30 - filled)
            end = "\n" if done == of else ""
            print(f"\r\x1b[K{what} {bar} {done}/{of}", end=end, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print a note without leaving half a bar before it."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr)
        note(text)


# ---- transcribe ----


def _add_transcribe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="audio file, folder, glob, or -")
    parser.add_argument("-m", "--model", help="bundled name, model file or run (default: digits)")
    parser.add_argument("-f", "--format", default="txt", help="txt or json (default: txt)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="write one file an input")
    parser.add_argument("--force", action="store_true", help="write over files in DIR")
    _add_device(parser)


def _transcribe(arguments: argparse.Namespace) -> None:
    from speechseq.outputs import WRITERS

    write = choose(WRITERS, arguments.format, "format")
    inputs = list(_find_inputs(arguments.inputs))
    targets = _targets(inputs, arguments)
    recogniser = _open(arguments.model, arguments.device)
    failed = []
    for name in inputs:
        try:
            source = sys.stdin.buffer.read() if name == "-" else name
            recognition = recogniser.transcribe(source)
        except SpeechseqError as error:
            if len(inputs) == 1:
                raise
            failed.append(name)
            note(f"speechseq: {error}")
            continue
        text = write(name, recognition)
        if targets:
            from speechseq.files import atomic_write

            with atomic_write(targets[name], overwrite=arguments.force) as file:
                file.write(f"{text}\n".encode())
        elif arguments.format == "txt" and len(inputs) > 1:
            print(f"{name}\t{text}", flush=True)
        else:
            print(text, flush=True)
    if failed:
        raise SomeInputsFailed(
            f"{len(failed)} of {len(inputs)} inputs failed; they are named above"
        )


def _find_inputs(names: Sequence[str]) -> Iterator[str]:
    """Yield each input file once: files as they are, folders searched, patterns expanded."""
    seen = set()
    for name in names:
        for found in _expand(name):
            if found not in seen:
                seen.add(found)
                yield found


def _expand(name: str) -> list[str]:
    if name == "-" or (os.path.lexists(name) and not os.path.isdir(name)):
        return [name]
    if os.path.isdir(name):
        paths = [path for path in Path(name).rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES]
        if not paths:
            raise UsageError(
                f"{name}: no audio in this folder; give one with {AUDIO_SUFFIXES[0]}, …"
            )
        return sorted(map(str, paths))
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
    if not matches:
        raise UsageError(f"{name}: matches no file; check the pattern")
    return matches


def _targets(inputs: Sequence[str], arguments: argparse.Namespace) -> dict[str, Path]:
    """Name the output file of each input; two inputs may not share one, nor one be there."""
    if not arguments.output:
        return {}
    targets: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for name in inputs:
        stem = "stdin" if name == "-" else Path(name).stem
        target = arguments.output / f"{stem}.{arguments.format}"
        if target in owners:
            raise UsageError(
                f"{target}: both {owners[target]} and {name} would be written there; "
                f"transcribe them into two folders"
            )
        if target.exists() and not arguments.force:
            raise UsageError(f"{target}: is there already; --force writes over it")
        owners[target] = name
        targets[name] = target
    return targets


def _open(model: str | None, device: str) -> Recogniser:
    """Open a model on a device: with onnxruntime, or a run folder with PyTorch."""
    from speechseq.model_file import DEFAULT_MODEL, find_model, provider
    from speechseq.recogniser import load

    name = model or DEFAULT_MODEL
    try:
        provider(device)
    except SpeechseqError as error:
        if not Path(name, "weights.safetensors").is_file():
            find_model(name)
            raise UsageError(f"{error}, or give a run folder, which PyTorch can run") from None
        _need_training()
        from speechseq.training.run_folder import load_run

        return load_run(Path(name), device)
    return load(name, device=device)


# ---- evaluate ----


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="bundled name, model file or run folder")
    parser.add_argument("--split", help="split of the corpus (default: test)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--corpus", help="corpus (default: the one the model was trained on)")
    where.add_argument("--manifest", type=Path, help="JSON lines to score instead of a corpus")
    parser.add_argument("--root", default="", help="place of the corpus")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write everything here")
    parser.add_argument("--png", type=Path, help="draw the confusion matrix here")
    _add_device(parser)


def _evaluate(arguments: argparse.Namespace) -> None:
    from speechseq.evaluation import draw_confusion, evaluate, report_text
    from speechseq.files import atomic_write

    recogniser = _open(arguments.model, arguments.device)
    utterances = _evaluated(arguments, recogniser)
    bar = Bar()
    report = evaluate(recogniser, utterances, progress=lambda done, of: bar("evaluate", done, of))
    print(report_text(report))
    if arguments.output:
        with atomic_write(arguments.output) as file:
            file.write(json.dumps(report.to_dict(), ensure_ascii=False, indent=1).encode())
    if arguments.png:
        draw_confusion(report, arguments.png)
    if report.failed:
        raise SomeInputsFailed(f"{len(report.failed)} of {len(utterances)} could not be read")


def _evaluated(arguments: argparse.Namespace, recogniser: Recogniser) -> list[Utterance]:
    from speechseq.manifest import read_manifest
    from speechseq.recipe import DataSettings
    from speechseq.splits import load_split

    if arguments.manifest:
        utterances = read_manifest(arguments.manifest)
        chosen = [u for u in utterances if arguments.split in (None, u.split)]
        if not chosen:
            raise UsageError(f"{arguments.manifest}: no utterance of split {arguments.split!r}")
        return chosen
    settings = recogniser.recipe.data
    if arguments.corpus and arguments.corpus != settings.corpus:
        settings = DataSettings(corpus=arguments.corpus)
    settings = dataclasses.replace(settings, root=arguments.root)
    return load_split(settings, arguments.split or settings.test_split, recogniser.recipe.seed)


# ---- train, export ----


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="RECIPE.yaml [key=value …]", help="e.g. training.epochs=5"
    )
    parser.add_argument("-o", "--output", type=Path, help="run folder (default: runs/NAME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a stopped run")
    _add_device(parser)


def _train(arguments: argparse.Namespace) -> None:
    from speechseq.recipe import Recipe, read_recipe

    if bool(arguments.words) == bool(arguments.resume):
        raise UsageError("train: give a recipe, or --resume RUN, and not both; see train --help")
    recipe = Recipe() if arguments.resume else read_recipe(arguments.words[0], arguments.words[1:])
    run = arguments.resume or arguments.output or Path("runs") / recipe.name
    _need_training()
    from speechseq.training.loop import train

    bar = Bar()
    model = train(
        recipe,
        run,
        device=arguments.device,
        resume=arguments.resume is not None,
        note=bar.note,
        show=bar,
    )
    print(model)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of a training")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL.onnx")
    parser.add_argument("--int8", action="store_true", help="quantise, and measure what it costs")
    parser.add_argument("--card", type=Path, help="YAML of what the model's card should say")
    parser.add_argument("--manifest", type=Path, help="compare on these, not on validation")
    parser.add_argument("--root", default="", help="place of the corpus")


def _export(arguments: argparse.Namespace) -> None:
    _need_training()
    from speechseq.training.export import export

    export(
        arguments.run,
        arguments.output,
        int8=arguments.int8,
        card=arguments.card,
        utterances=_compared(arguments),
        note=note,
    )
    print(arguments.output)


def _compared(arguments: argparse.Namespace) -> list[Utterance]:
    """List what an export is compared on: a manifest, or the validation split if it is here."""
    from speechseq.manifest import read_manifest
    from speechseq.splits import load_split
    from speechseq.training.run_folder import read_run

    if arguments.manifest:
        return read_manifest(arguments.manifest)
    recipe, _ = read_run(arguments.run)
    settings = dataclasses.replace(recipe.data, root=arguments.root or recipe.data.root)
    try:
        return load_split(settings, "validation", recipe.seed)
    except SpeechseqError as error:
        note(f"comparing on noise alone: {error}")
        return []


def _need_training() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "torchaudio", "onnx") if find_spec(name) is None]
    if missing:
        raise SpeechseqError(f"{missing[0]}: not installed; pip install 'speechseq[train]'")


# ---- data ----


def _add_data(parser: argparse.ArgumentParser) -> None:
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
                "--root", type=Path, help="folder of corpora (default: data/corpora)"
            )
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


def _data(arguments: argparse.Namespace) -> None:
    DATA_ACTIONS[arguments.action](arguments)


def _data_list(_: argparse.Namespace) -> None:
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


def _data_download(arguments: argparse.Namespace) -> None:
    from speechseq.corpora import CORPORA
    from speechseq.files import fetch
    from speechseq.manifest import DEFAULT_CORPORA

    corpus = choose(CORPORA, arguments.corpus, "corpus")
    if not corpus.archives:
        raise UsageError(f"{corpus.name}: is your own data; there is nothing to download")
    bar = Bar()
    parent = arguments.root or DEFAULT_CORPORA
    place = fetch(
        corpus.archives,
        parent,
        corpus.folder,
        progress=lambda done, total: bar(f"{corpus.name} MB", done >> 20, total >> 20),
    )
    print(place)


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


def _data_prepare(arguments: argparse.Namespace) -> None:
    from speechseq.manifest import write_manifest

    for split, utterances in _by_split(_read_corpus(arguments)).items():
        path = arguments.output / f"{split}.jsonl"
        if path.exists():
            raise UsageError(f"{path}: is there already; name another folder with -o")
        absolute = [
            dataclasses.replace(
                u, audio_filepath=u.audio_filepath and os.path.abspath(u.audio_filepath)
            )
            for u in utterances
        ]
        write_manifest(path, absolute)
        print(f"{path}\t{len(utterances)}")


def _data_stats(arguments: argparse.Namespace) -> None:
    from speechseq.manifest import read_manifest, shared_audio, shared_speakers, statistics

    own = Path(arguments.corpus)
    splits = _by_split(read_manifest(own) if own.is_file() else _read_corpus(arguments))
    for split, utterances in splits.items():
        found = statistics(utterances)
        texts = ", ".join(f"{text} {count}" for text, count in found.texts[:8])
        more = ", …" if len(found.texts) > 8 else ""
        print(
            f"{split}: {found.utterances} utterances, {found.hours:.2f} h, "
            f"{found.speakers or 'unknown'} speakers, {found.shortest:.2f}–{found.longest:.2f} s, "
            f"{found.words} words, {len(found.texts)} texts ({texts}{more})"
        )
    names = list(splits)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            speakers = len(shared_speakers(splits[one], splits[other]))
            clips = len(shared_audio(splits[one], splits[other]))
            print(f"{one} and {other} share {speakers} speakers and {clips} stretches of audio")


DATA_ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "list": _data_list,
    "download": _data_download,
    "prepare": _data_prepare,
    "stats": _data_stats,
}


# ---- models ----


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="print this model's card")


def _models(arguments: argparse.Namespace) -> None:
    from speechseq.model_file import bundled_names, read_model

    if arguments.model:
        print(json.dumps(dict(read_model(arguments.model).card), ensure_ascii=False, indent=1))
        return
    for name in bundled_names():
        model = read_model(name)
        size = model.path.stat().st_size / 1e6
        corpus, licence = model.card.get("corpus", ""), model.card.get("licence", "")
        print(f"{name}\t{size:.1f} MB\t{corpus}\t{licence}")


# ---- the table, and running it ----


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default: auto")


COMMANDS: dict[
    str,
    tuple[
        str,
        Callable[[argparse.ArgumentParser], None],
        Callable[[argparse.Namespace], None],
    ],
] = {
    "transcribe": ("audio to text", _add_transcribe, _transcribe),
    "train": ("a recipe to a model", _add_train, _train),
    "evaluate": ("a model to scores", _add_evaluate, _evaluate),
    "export": ("a run to one ONNX file", _add_export, _export),
    "data": ("list, download, prepare and count corpora", _add_data, _data),
    "models": ("list the bundled models, or print a card", _add_models, _models),
}


class _Parser(argparse.ArgumentParser):
    """argparse, with its usage errors in one line."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command in `COMMANDS`."""
    parser = _Parser(
        prog="speechseq", description="Train, measure and ship a small speech recogniser."
    )
    parser.add_argument("--version", action="version", version=f"speechseq {__version__}")
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )
    for name, (text, add_arguments, _) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=text, description=text, parents=[common]))
    return parser


def _take_left_over(parsed: argparse.Namespace, left: Sequence[str]) -> None:
    """Let overrides stand behind flags, too; argparse leaves those over."""
    if any(word.startswith("-") for word in left) or (left and "words" not in parsed):
        raise UsageError(f"unknown argument {left[0]}; see speechseq {parsed.command} --help")
    if left:
        parsed.words += left


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parsed, left = build_parser().parse_known_args(typed)
        _take_left_over(parsed, left)
        COMMANDS[parsed.command][2](parsed)
    except SystemExit as error:  # argparse, after --help and --version
        return int(error.code or 0)
    except KeyboardInterrupt:
        note("speechseq: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "--debug" in typed:
            raise
        if isinstance(error, SpeechseqError):
            note(f"speechseq: {error}")
            return error.exit_code
        note(f"speechseq: {type(error).__name__}: {error}; run with --debug and report it")
        return 1
    return 0


def run() -> None:
    """Run the command that was typed and exit."""
    sys.exit(main())
