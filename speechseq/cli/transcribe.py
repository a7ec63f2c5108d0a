"""speechseq transcribe: audio to text."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechseq.cli.terminal import add_decoder, add_device, note, open_recogniser
from speechseq.errors import SomeInputsFailed, SpeechseqError, UsageError, choose

HELP = "audio to text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE", help="audio file, folder, glob, or -")
    parser.add_argument("-m", "--model", help="bundled name, model file or run (default: digits)")
    parser.add_argument("-f", "--format", default="txt", help="txt or json (default: txt)")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="write one file an input")
    parser.add_argument("--force", action="store_true", help="write over files in DIR")
    add_decoder(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    from speechseq.outputs import WRITERS

    write = choose(WRITERS, arguments.format, "format")
    inputs = list(_find_inputs(arguments.inputs))
    targets = _targets(inputs, arguments)
    recogniser = open_recogniser(arguments.model, arguments.device, arguments.decoder)
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
            print(f"{name.encode(errors='backslashreplace').decode()}\t{text}", flush=True)
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
    from speechseq.audio import SUFFIXES

    if name == "-" or (os.path.lexists(name) and not os.path.isdir(name)):
        return [name]
    if os.path.isdir(name):
        found = (path for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES)
        paths = [path for path in found if not path.is_dir()]
        if not paths:
            raise UsageError(f"{name}: no audio in this folder; give one with {SUFFIXES[0]}, …")
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
