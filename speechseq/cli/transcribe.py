"""speechseq transcribe: audio to text."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechseq.cli.many_files import Opening, cores, source_of, transcribe_files
from speechseq.cli.pipe import STDIN
from speechseq.cli.terminal import Bar, add_decoder, add_device, note
from speechseq.errors import SomeInputsFailed, SpeechseqError, UsageError, choose

if TYPE_CHECKING:
    from speechseq.cli.many_files import Answer

HELP = "audio to text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="audio file, folder, glob, or -")
    parser.add_argument("-m", "--model", help="bundled name, model file or run (default: digits)")
    parser.add_argument("-f", "--format", default="txt", help="txt, json, srt, vtt (default: txt)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="write one file an input")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--force", action="store_true", help="write over files in DIR")
    there.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out inputs whose files are in DIR: go on where it was stopped",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes for many files (default: one a core)"
    )
    parser.add_argument(
        "--skip-silence",
        action="store_true",
        help="in audio of over a minute, leave out stretches with nothing but steady noise",
    )
    add_decoder(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    from speechseq.outputs import DOCUMENTS, WRITERS

    write = choose(WRITERS, arguments.format, "format")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError(f"--jobs: {arguments.jobs} processes; give 1 or more")
    if arguments.skip_existing and not arguments.output:
        raise UsageError("--skip-existing: looks into a folder; name it with -o DIR")
    inputs = list(_find_inputs(arguments.inputs))
    targets = _targets(inputs, arguments)
    if arguments.skip_existing:
        inputs = _left(inputs, targets)
    if not inputs:
        return
    many = len(inputs) > 1
    if many and arguments.format in DOCUMENTS and not targets:
        raise UsageError(
            f"--format {arguments.format}: one file's is one document; write them with -o DIR"
        )
    bar = Bar()
    failed = 0
    for number, (name, answer) in enumerate(_answers(inputs, arguments), 1):
        try:
            if isinstance(answer, SpeechseqError):
                raise answer
            text = write(name, answer)
            shown = _named(name, text) if many and arguments.format == "txt" else text
            _put(text, targets[name], arguments.force) if targets else print(shown, flush=True)
        except SpeechseqError as error:
            failed += 1
            bar.note(f"speechseq: {error}")
        if many and (targets or not sys.stdout.isatty()):
            bar("transcribe", number, len(inputs))
    if failed:
        raise SomeInputsFailed(f"{failed} of {len(inputs)} inputs failed; they are named above")


def _named(name: str, text: str) -> str:
    from speechseq.sound_files import name_of

    return f"{name_of(name)}\t{text}"


def _put(text: str, target: Path, overwrite: bool) -> None:
    from speechseq.files import atomic_write

    with atomic_write(target, overwrite=overwrite) as file:
        file.write(f"{text}\n".encode())


def _answers(inputs: Sequence[str], arguments: argparse.Namespace) -> Iterator[tuple[str, Answer]]:
    """Yield each input with its recognition or error, in order; of one alone, raise the error."""
    opening = Opening(
        model=arguments.model,
        device=arguments.device,
        decoder=arguments.decoder,
        least_confidence=arguments.least_confidence,
        skip_silence=arguments.skip_silence,
    )
    recogniser = opening()
    if len(inputs) > 1:
        jobs = arguments.jobs or cores(arguments.device)
        yield from transcribe_files(inputs, recogniser, opening, jobs)
        return
    with _SecondsBar(inputs[0]) as bar:
        answer = recogniser.transcribe(
            source_of(inputs[0]), skip_silence=arguments.skip_silence, progress=bar
        )
    yield inputs[0], answer


class _SecondsBar:
    """Draws how many seconds of a long input are done, once it is told of any."""

    def __init__(self, name: str):
        self._name = name
        self._bar = Bar()
        self._done = 0
        self._of: int | None = None

    def __enter__(self) -> _SecondsBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._of is None:
            return
        if kind is None:
            whole = self._of or self._done
            self._draw(whole, whole)
        elif sys.stderr.isatty():
            print(file=sys.stderr)  # what went wrong is told on a line of its own

    def __call__(self, seconds: float) -> None:
        if self._of is None:
            self._of = self._length()
        self._done = int(seconds)
        # The last second is left to the end: a header's length may be an estimate.
        self._draw(min(self._done, self._of - 1) if self._of else self._done, self._of)

    def _length(self) -> int:
        """Return the seconds that the header promises; 0 where it does not."""
        from speechseq.audio import duration_seconds

        try:
            return int(duration_seconds(self._name))
        except SpeechseqError:
            return 0

    def _draw(self, done: int, of: int) -> None:
        from speechseq.sound_files import name_of

        self._bar(f"{name_of(self._name)}, seconds", done, of)


def _find_inputs(names: Sequence[str]) -> Iterator[str]:
    """Yield each input file once: files as they are, folders searched, patterns expanded."""
    seen = set()
    for name in names:
        for found in _expand(name):
            plain = os.path.normpath(found)
            if plain not in seen:
                seen.add(plain)
                yield found


def _expand(name: str) -> list[str]:
    if name == STDIN or os.path.lexists(name):
        if found := _files(name):
            return found
        raise UsageError(
            f"{name}: no audio in this folder; give one that holds wav, flac, ogg or mp3"
        )
    if not glob.has_magic(name):
        return [name]
    matches = [
        found for match in sorted(glob.glob(name, recursive=True)) for found in _files(match)
    ]
    if not matches:
        raise UsageError(f"{name}: matches no file; check the pattern")
    return matches


def _files(name: str) -> list[str]:
    """Return a file as it is, or the audio files in a folder."""
    from speechseq.sound_files import SUFFIXES

    if not os.path.isdir(name):
        return [name]

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for place, folders, files in os.walk(name, onerror=refuse):
        folders[:] = (folder for folder in folders if folder[0] != ".")
        found += [
            str(Path(place, file))
            for file in files
            if file[0] != "." and Path(file).suffix.lower() in SUFFIXES
        ]
    return sorted(found)


def _targets(inputs: Sequence[str], arguments: argparse.Namespace) -> dict[str, Path]:
    """Name the output file of each input; two inputs may not share one, nor one be there."""
    if not arguments.output:
        return {}
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UsageError(f"-o {arguments.output}: is no folder; name one, or a new one")
    targets: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for name in inputs:
        stem = "stdin" if name == STDIN else Path(name).stem
        target = arguments.output / f"{stem}.{arguments.format}"
        if target in owners:
            raise UsageError(
                f"{target}: both {owners[target]} and {name} would be written there; "
                f"transcribe them into two folders"
            )
        if target.exists() and not (arguments.force or arguments.skip_existing):
            raise UsageError(
                f"{target}: is there already; --force writes over it, --skip-existing leaves it out"
            )
        owners[target] = name
        targets[name] = target
    return targets


def _left(inputs: Sequence[str], targets: Mapping[str, Path]) -> list[str]:
    """Return the inputs whose files are not there yet, and say how many are."""
    left = [name for name in inputs if not targets[name].exists()]
    note(f"{len(inputs) - len(left)} of {len(inputs)} are there already")
    return left
