"""The Dockerfile and the systemd unit: what they name is there, and what they run runs."""

from __future__ import annotations

import configparser
import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from served import live

from speechseq.cli import build_parser
from speechseq.cli import serve as command
from speechseq.errors import UsageError
from speechseq.server.limits import Limits

ROOT = Path(__file__).parents[1]
SHIP = ROOT / "docs" / "ship"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
TRAINING = ("torch", "torchaudio", "librosa")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined, and what each is given."""
    text = re.sub(r"^#.*\n", "", (SHIP / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line]


def given(name: str) -> list[str]:
    return [what for instruction, what in instructions() if instruction == name]


def listed(name: str) -> list[str]:
    """The words of the one instruction that is a list."""
    (text,) = given(name)
    return [str(word) for word in json.loads(text[text.index("[") :])]


def needs(extra: str) -> list[str]:
    """The packages of an extra, and of those it names."""
    found = []
    for package in EXTRAS[extra]:
        inner = re.fullmatch(r"speechseq\[(\w+)\]", package)
        found += needs(inner[1]) if inner else [package]
    return found


def test_the_image_installs_an_extra_without_pytorch() -> None:
    arguments = dict(argument.split("=") for argument in given("ARG"))
    (install,) = (line for line in given("RUN") if "pip install" in line)
    assert '".[${EXTRA}]"' in install
    assert "--no-cache-dir" in install
    assert arguments["EXTRA"] == "serve"
    for extra in ("serve", "wyoming"):
        assert not [package for package in needs(extra) if package.startswith(TRAINING)]
    least = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"])
    assert least
    assert tuple(map(int, arguments["PYTHON"].split("."))) >= tuple(map(int, least.groups()))


def test_what_is_copied_is_there_and_not_left_out() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    copies = [what.split()[:-1] for what in given("COPY") if "--from" not in what]
    copied = [name for names in copies for name in names]
    assert rules[0] == "*"
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in rules
        assert not [rule for rule in rules[1:] if rule[0] != "!" and fnmatch.fnmatch(name, rule)]
    assert set(PROJECT["license-files"]) | {PROJECT["readme"]} <= set(copied)


def test_the_user_of_the_image_owns_no_file() -> None:
    names = [instruction for instruction, _ in instructions()]
    after = names[names.index("USER") :]
    assert not {"ADD", "COPY", "RUN", "WORKDIR"} & set(after)
    assert not [what for what in given("COPY") if "--chown" in what]


def test_a_container_of_the_page_can_be_stopped_at_any_time() -> None:
    text = (SHIP / "README.md").read_text().replace("\\\n", " ")
    runs = [line.split() for line in text.splitlines() if line.startswith("docker run ")]
    assert len(runs) == 2
    for words in runs:
        assert "--init" in words
        assert Limits().grace_seconds < int(words[words.index("--stop-timeout") + 1])


def test_the_image_serves_others_only_with_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(command.TOKEN_VARIABLE, raising=False)
    (entry,) = listed("ENTRYPOINT")
    assert entry in PROJECT["scripts"]
    parsed = build_parser().parse_args(listed("CMD"))
    assert parsed.command == "serve"
    assert given("EXPOSE") == [str(parsed.port)]
    with pytest.raises(UsageError, match="give a token"):
        command.run(parsed)
    assert given("USER") == ["10001:10001"]


def test_the_health_check_tells_a_server_from_none() -> None:
    words = listed("HEALTHCHECK")
    (port,) = given("EXPOSE")
    assert words[0] == "python"
    assert f"127.0.0.1:{port}/healthz" in words[-1]
    with live() as (_, there):
        check = [sys.executable, *words[1:-1], words[-1].replace(f":{port}/", f":{there}/")]
        assert subprocess.run(check, capture_output=True, timeout=60).returncode == 0
    assert subprocess.run(check, capture_output=True, timeout=60).returncode != 0


# ---- the unit ----

UNIT = SHIP / "speechseq.service"


def service() -> dict[str, str]:
    """The unit's [Service]; of what stands twice, the last."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return dict(unit["Service"])


def test_the_unit_runs_a_command_within_its_limits() -> None:
    unit = service()
    program, *words = shlex.split(unit["ExecStart"].replace("%d", "/run/credentials"))
    assert Path(program).name in PROJECT["scripts"]
    parsed = build_parser().parse_args(words)
    assert str(parsed.token_file) == f"/run/credentials/{unit['LoadCredential'].split(':')[0]}"
    limits = Limits()
    assert parsed.grace_seconds == limits.grace_seconds < int(unit["TimeoutStopSec"])
    assert unit["MemoryMax"] == "1G"
    assert limits.total_bytes < 2**30 / 4
    assert command.is_loopback(parsed.host)
    assert unit["IPAddressAllow"] == "localhost"
    assert "MemoryDenyWriteExecute" not in unit


def analysed(*words: str) -> str:
    """What systemd-analyze says, if it is there."""
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        [program, "--no-pager", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/opt/speechseq/bin/speechseq", sys.executable)
    (tmp_path / UNIT.name).write_text(text)
    assert "Unknown" not in analysed("verify", str(tmp_path / UNIT.name))


def test_the_unit_is_as_closed_as_its_page_says() -> None:
    found = re.search(
        r"exposure level for \S+: (\S+)", analysed("security", "--offline=true", str(UNIT))
    )
    assert found
    assert f"an exposure of {found[1]} (OK)" in (SHIP / "README.md").read_text()
