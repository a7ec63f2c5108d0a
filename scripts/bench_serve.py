"""Measure the server: throughput and latency of 1, 8 and 32 clients, against one after the other.

    python scripts/bench_serve.py [-m MODEL] [--clients 1 8 32] [--processes 2] [--seconds 3]
        [--rounds 2]

Up to three servers are started on loopback, and the clips of data/samples are sent to them: each
client sends its next one, over the same connection, as soon as it has an answer. One client is one
request after the other. One server batches nothing; one is several processes, if the system can
spread connections over them (Linux). Rows take turns, so that another load of the machine falls on
all of them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from command_line import natural, one_line_errors, parser_of, positive

from speechseq.audio import duration_seconds
from speechseq.errors import SpeechseqError
from speechseq.model_file import DEFAULT_MODEL

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
BOUNDARY = "speechseq-bench"
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Clip:
    """A request that sends one file, and how long the file is, in seconds."""

    request: bytes
    seconds: float


@dataclass
class Outcome:
    """What one row saw, over all its rounds: latencies and seconds of audio, one a request."""

    latencies: list[float] = field(default_factory=list)
    audio: list[float] = field(default_factory=list)
    failed: int = 0
    wall: float = 0.0

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.wall


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, and its process' number."""

    port: int
    pid: int


def read_clips() -> list[Clip]:
    """Return the samples as requests."""
    paths = sorted(SAMPLES.glob("*.wav"))
    return [Clip(request_of(path.read_bytes()), duration_seconds(path)) for path in paths]


def request_of(file: bytes) -> bytes:
    """Return the request that uploads a file."""
    head = 'Content-Disposition: form-data; name="file"; filename="clip.wav"'
    body = f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + file + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = (
        "POST /v1/audio/transcriptions HTTP/1.1",
        "Host: localhost",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*headers, "", ""]).encode() + body


@contextmanager
def server(model: str, *flags: str) -> Iterator[Server]:
    """Run a server while the context lasts.

    Raises:
        SpeechseqError: it did not start.
    """
    command = [sys.executable, "-m", "speechseq", "serve", "-m", model, "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline() if process.stderr else ""
            found = re.search(r":(\d+)\s*$", line)
            if not found:
                raise SpeechseqError(f"server: did not start ({line.strip()}); try it by hand")
            yield Server(int(found[1]), process.pid)
        finally:
            process.terminate()


async def load(port: int, clients: int, seconds: float, clips: Sequence[Clip]) -> Outcome:
    """Let clients ask for so many seconds; what is under way then is waited for."""
    outcome = Outcome()
    began = time.perf_counter()
    ends = began + seconds
    await asyncio.gather(
        *(_client(port, number, ends, clips, outcome) for number in range(clients))
    )
    outcome.wall = time.perf_counter() - began
    return outcome


async def _client(
    port: int, number: int, ends: float, clips: Sequence[Clip], outcome: Outcome
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    order = itertools.islice(itertools.cycle(clips), number % len(clips), None)
    while (began := time.perf_counter()) < ends:
        clip = next(order)
        writer.write(clip.request)
        if await _is_text(reader):
            outcome.latencies.append(time.perf_counter() - began)
            outcome.audio.append(clip.seconds)
        else:
            outcome.failed += 1
    writer.close()
    await writer.wait_closed()


async def _is_text(reader: asyncio.StreamReader) -> bool:
    """Read one answer; whether it is a recognition."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"(?i)^content-length: (\d+)", head, re.MULTILINE)
    body = await reader.readexactly(int(length[1]) if length else 0)
    return " 200 " in head.split("\r\n", 1)[0] and "text" in json.loads(body)


def measure(arguments: argparse.Namespace) -> dict[str, Outcome]:
    """Return the outcome of each row, its rounds added up."""
    clips = read_clips()
    several, counts = arguments.processes, arguments.clients
    kinds: dict[str, tuple[list[str], list[int]]] = {
        " clients": ([], counts),
        " unbatched": (["--batch", "1"], [max(counts)]),
    }
    if several > 1:
        kinds[f", {several} processes"] = ["--processes", str(several)], counts
    rows = [(count, kind) for kind, (_, counts) in kinds.items() for count in counts]
    outcomes = {f"{count}{kind}": Outcome() for count, kind in rows}
    with ExitStack() as stack:
        ports = {
            kind: stack.enter_context(server(arguments.model, *flags)).port
            for kind, (flags, _) in kinds.items()
        }
        for port in ports.values():
            asyncio.run(load(port, several, 0.3, clips))
        for _ in range(arguments.rounds):
            for count, kind in rows:
                found = asyncio.run(load(ports[kind], count, arguments.seconds, clips))
                _add(outcomes[f"{count}{kind}"], found)
    return outcomes


def _add(whole: Outcome, found: Outcome) -> None:
    whole.latencies += found.latencies
    whole.audio += found.audio
    whole.failed += found.failed
    whole.wall += found.wall


def table(outcomes: dict[str, Outcome]) -> Iterator[str]:
    """Yield one row a way of asking; the last column is against the first row's rate."""
    names = "".join(f"{f'p{percent}':>9}" for percent in PERCENTILES)
    yield f"{'':16}{'answers':>9}{'failed':>8}{'per s':>9}{'audio s/s':>11}{names} ms{'times':>8}"
    first = next(iter(outcomes.values()))
    for name, outcome in outcomes.items():
        if not outcome.latencies:
            raise SpeechseqError(f"{name}: no request was answered; try the server by hand")
        spread = np.percentile(1000 * np.array(outcome.latencies), PERCENTILES)
        shown = "".join(f"{value:>9.1f}" for value in spread)
        yield (
            f"{name:16}{len(outcome.latencies):>9}{outcome.failed:>8}{outcome.rate:>9.1f}"
            f"{sum(outcome.audio) / outcome.wall:>11.1f}{shown}   {outcome.rate / first.rate:>8.2f}"
        )


def main() -> None:
    """Measure, and print the table."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("-m", "--model", default=DEFAULT_MODEL, help="name, file or run folder")
    add("--clients", type=natural, nargs="+", default=[1, 8, 32], help="at once (default: 1 8 32)")
    several = 2 if sys.platform == "linux" else 1
    add("--processes", type=natural, default=several, help="of the third (default: 2; Linux)")
    add("--seconds", type=positive, default=3.0, help="of each row and round (default: 3)")
    add("--rounds", type=natural, default=2, help="over all rows (default: 2)")
    arguments = parser.parse_args()
    if arguments.seconds > 600:
        parser.error("--seconds: up to 600 goes here")
    with one_line_errors():
        print("\n".join(table(measure(arguments))))


if __name__ == "__main__":
    main()
