"""What imports cost and bring along, in fresh interpreters; and that everything says what it is."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import speechseq

PACKAGE = Path(speechseq.__file__).parent
HEAVY = (
    "torch",
    "torchaudio",
    "librosa",
    "scipy",
    "matplotlib",
    "onnx",
    "safetensors",
    "tensorboard",
)
BUDGET_SECONDS = 1.0


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))
RUNTIME = [
    module_name(path)
    for path in FILES
    if "training" not in path.parts and path.name != "__main__.py"
]


def fresh(code: str) -> dict[str, Any]:
    """Run code in a fresh interpreter and return the JSON it prints."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert not done.stderr
    return json.loads(done.stdout)


IMPORT = """
import json, sys, time
from importlib import import_module
began = time.process_time()
for name in {names!r}:
    import_module(name)
seconds = time.process_time() - began
print(json.dumps({{"seconds": seconds, "modules": sorted(sys.modules)}}))
"""


def test_the_runtime_is_light_and_quick() -> None:
    """In seconds of this process alone, best of three, as a machine may be busy."""
    assert len(RUNTIME) > 20
    found = [fresh(IMPORT.format(names=RUNTIME)) for _ in range(3)]
    loaded = set(found[0]["modules"])
    assert set(RUNTIME) <= loaded
    assert not loaded & set(HEAVY)
    assert not any(name.startswith("speechseq.training") for name in loaded)
    assert min(one["seconds"] for one in found) < BUDGET_SECONDS


def test_importing_the_package_costs_nothing() -> None:
    loaded = set(fresh(IMPORT.format(names=["speechseq"]))["modules"])
    own = {name for name in loaded if name.startswith("speechseq")}
    assert own == {"speechseq"}
    assert not loaded & {"numpy", "onnxruntime", "soundfile", "yaml", *HEAVY}


def test_onnxruntime_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts uses in a file under the home folder, from another thread, unless told before."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    fresh("import json, speechseq; speechseq.load('digits'); print(json.dumps({}))")
    assert not list(tmp_path.iterdir())


def test_the_command_line_answers_usage_without_the_network() -> None:
    loaded = set(fresh(IMPORT.format(names=["speechseq.cli"]))["modules"])
    assert not loaded & {"numpy", "onnxruntime", "soundfile", *HEAVY}


@pytest.mark.parametrize(
    "words",
    [
        ["transcribe", "x", "--jobs", "0"],
        ["transcribe", "nothere*"],
        ["evaluate", "digits", "--png", "a.jpg"],
        ["forecast", "a", "-o", "a.jpg"],
        ["plot", "a", "-o", "a.jpg"],
    ],
    ids=lambda words: words[0],
)
def test_wrong_flags_are_answered_without_the_network(words: list[str]) -> None:
    code = f"""
import contextlib, io, json, sys
from speechseq.cli import main
with contextlib.redirect_stderr(io.StringIO()):
    code = main({words})
print(json.dumps({{"code": code, "modules": sorted(sys.modules)}}))
"""
    found = fresh(code)
    assert found["code"] == 2
    assert not set(found["modules"]) & {"onnxruntime", *HEAVY}


def test_public_names_resolve() -> None:
    code = """
import json, speechseq
print(json.dumps({name: str(getattr(speechseq, name)) for name in speechseq.__all__}))
"""
    found = fresh(code)
    assert set(found) == {"Recogniser", "Recognition", "SpeechseqError", "__version__", "load"}
    assert found["Recogniser"] == "<class 'speechseq.recogniser.Recogniser'>"
    assert found["load"].startswith("<function load")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        speechseq.nothing  # noqa: B018


def undocumented(tree: ast.Module, where: str) -> list[str]:
    """Name every public module, class, function and method without a docstring."""
    found = [] if ast.get_docstring(tree) else [where]
    nodes: list[tuple[ast.AST, str]] = [(tree, where)]
    while nodes:
        parent, name = nodes.pop()
        for node in ast.iter_child_nodes(parent):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") or node.name in UNDERSTOOD:
                continue
            if not ast.get_docstring(node):
                found.append(f"{name}.{node.name}")
            if isinstance(node, ast.ClassDef):
                nodes.append((node, f"{name}.{node.name}"))
    return found


UNDERSTOOD = ("forward", "write")
"""Methods whose class says what they do: PyTorch's forward, and the same as nodes of a graph."""


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_public_name_has_a_docstring(path: Path) -> None:
    missing = undocumented(ast.parse(path.read_text()), module_name(path))
    # Commands say what they are in HELP and their module; their two functions are their interface.
    if "cli" in path.parts:
        missing = [m for m in missing if not m.endswith((".add_arguments", ".run"))]
    assert missing == []


def test_the_search_for_docstrings_finds_what_lacks_one() -> None:
    code = "class A:\n  def b(self): pass\n  def _c(self): pass\ndef d():\n  'd'\n"
    assert undocumented(ast.parse(code), "m") == ["m", "m.A", "m.A.b"]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    if "cli" not in path.parts:
        assert not calls & {"print", "sys.exit", "exit", "quit", "input"}
