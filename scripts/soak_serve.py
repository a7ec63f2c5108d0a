"""Try to break the server: hostile uploads, slow senders, many connections, and a long soak.

    python scripts/soak_serve.py [-m MODEL] [--processes 1] [--hostile 500] [--connections 1000]
        [--minutes 30]

A server is started on loopback. First come damaged uploads; then many connections that say nothing,
or little by little, beside a client that wants answers; then clients that ask all the time, every
eighth upload a damaged one, while the server's resident memory is read. Prints what came back.
Exits 4 if a status was 500, an honest request got no text, the server died, or its memory grew by
over a twentieth in the second half of the soak.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench_serve import SAMPLES, Server, request_of, server
from command_line import natural, one_line_errors, parser_of, positive

from speechseq.errors import GateFailed
from speechseq.model_file import DEFAULT_MODEL

SOAK_CLIENTS = 8
PAUSE_SECONDS = 0.25
"""So many clients ask, each waiting so long before it asks again."""

PATIENCE_SECONDS = 60.0
HOSTILE_PATIENCE_SECONDS = 5.0
"""How long an answer is waited for; an upload that promises more than it sends gets none."""

MEMORY_SECONDS = 5.0
"""How often the server's memory is read."""

GROWTH = 1.05

Damage = Callable[[bytes, random.Random], bytes]


def _flipped(file: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(file)
    for _ in range(rng.randint(1, 40)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def _header(file: bytes, rng: random.Random) -> bytes:
    """Return the file with its 44 bytes of header flipped here and there."""
    return _flipped(file[:44], rng) + file[44:]


def _lying(file: bytes, rng: random.Random) -> bytes:
    """Return the file with a length in its header that is not so."""
    place = rng.choice([4, 16, 24, 28, 40])
    return file[:place] + rng.choice([b"\0" * 4, b"\xff" * 4, rng.randbytes(4)]) + file[place + 4 :]


DAMAGES: dict[str, Damage] = {
    "bytes flipped": _flipped,
    "header flipped": _header,
    "lying lengths": _lying,
    "cut off": lambda file, rng: file[: rng.randrange(len(file))],
    "noise": lambda file, rng: rng.randbytes(rng.randrange(4000)),
    "noise behind a header": lambda file, rng: file[:44] + rng.randbytes(rng.randrange(40_000)),
    "another format's first bytes": lambda file, rng: (
        rng.choice([b"fLaC", b"OggS", b"ID3\x04", b"FORM", b"caff", b".snd", b"RF64"]) + file[4:]
    ),
    "empty": lambda file, rng: b"",
}
"""Ways to damage a file."""


def _damaged_request(file: bytes, rng: random.Random) -> bytes:
    """Return an upload whose file, or now and then whose own framing, is damaged."""
    request = request_of(DAMAGES[rng.choice(list(DAMAGES))](file, rng))
    return _flipped(request, rng) if rng.random() < 0.2 else request


async def ask(port: int, request: bytes, patience_seconds: float = PATIENCE_SECONDS) -> int:
    """Send a request over a connection of its own; return the status, 0 where none came."""
    try:
        async with asyncio.timeout(patience_seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                answer = await reader.read(65536)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0
    found = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return int(found[1]) if found else 0


def _shown(found: Counter[int]) -> str:
    """Return statuses and how often each came."""
    return ", ".join(
        f"{count} x {status or 'no answer'}" for status, count in sorted(found.items())
    )


def resident_megabytes(pid: int) -> float:
    """Return the resident memory of a process and those it started, as Linux tells it."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    own = int(found[1]) / 1e3 if found else 0.0
    started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(resident_megabytes(int(child)) for child in started)


class Attack:
    """A server under attack, and what came of it."""

    def __init__(self, target: Server, seed: int = 0):
        self.target = target
        self.files = [path.read_bytes() for path in sorted(SAMPLES.glob("*.wav"))]
        self.rng = random.Random(seed)
        self.problems: list[str] = []

    async def honest(self) -> int:
        """Ask for a text; anything else than one is a problem, but a busy server's 503."""
        status = await ask(self.target.port, request_of(self.rng.choice(self.files)))
        if status not in (200, 503):
            self.problems.append(f"an honest request got status {status}")
        return status

    async def damaged(self) -> int:
        """Send a damaged upload; only a 500 is a problem."""
        request = _damaged_request(self.rng.choice(self.files), self.rng)
        status = await ask(self.target.port, request, HOSTILE_PATIENCE_SECONDS)
        if status == 500:
            self.problems.append("a damaged upload got status 500")
        return status

    async def uploads(self, count: int) -> None:
        """Send damaged uploads, a few at a time, then an honest one."""
        found: Counter[int] = Counter()
        for begun in range(0, count, SOAK_CLIENTS):
            some = range(min(SOAK_CLIENTS, count - begun))
            found.update(await asyncio.gather(*(self.damaged() for _ in some)))
        after = await self.honest()
        print(f"{count} damaged uploads: {_shown(found)}; then an honest one: {after}", flush=True)

    async def connections(self, count: int) -> None:
        """Hold connections open, a tenth of them sending bit by bit; ask honestly meanwhile."""
        held = await asyncio.gather(*(self._open() for _ in range(count)))
        writers = [writer for writer in held if writer]
        slow = asyncio.gather(*(self._trickle(writer) for writer in writers[::10]))
        found = Counter([await self.honest() for _ in range(20)])
        slow.cancel()
        for writer in writers:
            writer.close()
        await asyncio.gather(slow, return_exceptions=True)
        after = await self.honest()
        print(
            f"{len(writers)} of {count} connections held, every tenth trickling: honest requests "
            f"{_shown(found)}; after them {after}",
            flush=True,
        )

    async def _open(self) -> asyncio.StreamWriter | None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.target.port)
        except OSError:
            return None
        return writer

    async def _trickle(self, writer: asyncio.StreamWriter) -> None:
        """Send an upload a byte at a time, until the server has had enough."""
        for byte in request_of(self.files[0]):
            writer.write(bytes([byte]))
            try:
                await writer.drain()
            except OSError:
                return
            await asyncio.sleep(0.05)

    async def soak(self, minutes: float) -> None:
        """Ask all the time for so many minutes, and watch the memory."""
        ends = time.monotonic() + 60 * minutes
        found: Counter[int] = Counter()
        megabytes: list[float] = []
        await asyncio.gather(
            self._watch(ends, megabytes),
            *(self._go_on(ends, found) for _ in range(SOAK_CLIENTS)),
        )
        middle = -(-len(megabytes) // 2)
        half, worst = max(megabytes[:middle]), max(megabytes[middle - 1 :])
        print(
            f"{minutes:g} minutes, {SOAK_CLIENTS} clients: {_shown(found)}; "
            f"memory at most {half:.0f} MB in the first half, {worst:.0f} MB in the second"
        )
        if worst > GROWTH * half:
            self.problems.append(f"memory grew from {half:.0f} to {worst:.0f} MB")

    async def _go_on(self, ends: float, found: Counter[int]) -> None:
        number = 0
        while time.monotonic() < ends:
            number += 1
            found[await (self.damaged() if number % 8 == 0 else self.honest())] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _watch(self, ends: float, megabytes: list[float]) -> None:
        while time.monotonic() < ends:
            try:
                megabytes.append(resident_megabytes(self.target.pid))
            except OSError:
                self.problems.append("the server died")
                return
            await asyncio.sleep(MEMORY_SECONDS)


async def attack(target: Server, arguments: argparse.Namespace) -> list[str]:
    """Do all three, and return the problems."""
    under = Attack(target)
    await under.uploads(arguments.hostile)
    await under.connections(arguments.connections)
    await under.soak(arguments.minutes)
    return under.problems


def main() -> int:
    """Attack, and say how it went."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("-m", "--model", default=DEFAULT_MODEL, help="name, file or run folder")
    add("--processes", type=natural, default=1, help="that share the address (default: 1)")
    add("--hostile", type=natural, default=500, help="damaged uploads (default: 500)")
    add("--connections", type=natural, default=1000, help="held open (default: 1000)")
    add("--minutes", type=positive, default=30.0, help="of the soak (default: 30)")
    arguments = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with one_line_errors():
        with server(arguments.model, "--processes", str(arguments.processes)) as target:
            problems = asyncio.run(attack(target, arguments))
        for problem, times in Counter(problems).items():
            print(f"{times} x {problem}")
        if problems:
            raise GateFailed(f"server: {len(problems)} problems; see above")
    return 0


if __name__ == "__main__":
    sys.exit(main())
