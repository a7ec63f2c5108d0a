"""The page: who gets what of it over HTTP, its folder, and that its parts fit together."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import Call
from served import HERE, LEFT_RIGHT, RATE, serving
from starlette.testclient import TestClient

from speechseq.errors import DataError, SpeechseqError, UsageError
from speechseq.long_audio import LONG_SECONDS
from speechseq.model_file import find_model, read_model
from speechseq.recogniser import load
from speechseq.server import site
from speechseq.server.app import build_app
from speechseq.server.limits import Limits
from speechseq.server.site import INDEX, MODEL_TYPE, PAGE, POLICY, page_files, write_site

ROOT = Path(__file__).parents[1]
OWN = {place: path for place, path in page_files().items() if not place.startswith("vendor/")}
LOG_PROBS = "/v1/log_probs"
HALF_SECOND = np.zeros(RATE // 2, "<f4")


def client_of(token: str | None = None, **limits: Any) -> TestClient:
    """A client of an application with a model of no file, and one that may be taken away."""
    models = {"a": LEFT_RIGHT, "digits": load("digits")}
    files = {"digits": find_model("digits")}
    return TestClient(
        build_app(models, Limits(**limits), token=token, model_files=files), headers=HERE
    )


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of() as made:
        yield made


# ---- what is served ----


def test_the_page_and_its_files_are_served(client: TestClient) -> None:
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.text == (PAGE / INDEX).read_text()
    for place, path in OWN.items():
        answer = client.get(f"/page/{place}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"] == site.MEDIA_TYPES[path.suffix]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith(POLICY)


def test_what_the_browser_has_is_not_sent_again(client: TestClient) -> None:
    for path in ("/", "/page/page.js", "/models/digits.onnx"):
        first = client.get(path)
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/no.js", "/page/%2e%2e/site.py", "/page/..%2fsite.py", "/page//etc/passwd"],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_models_are_given_away_by_name(client: TestClient, tmp_path: Path) -> None:
    assert client.get("/models/digits.onnx").content == find_model("digits").read_bytes()
    odd = tmp_path / "mine.bin"
    odd.write_bytes(b"model")
    app = build_app({"mine": LEFT_RIGHT}, Limits(), token=None, model_files={"mine": odd})
    found = TestClient(app, headers=HERE).get("/models/mine.onnx")
    assert found.content == b"model" and found.headers["content-type"] == MODEL_TYPE
    for name in ("a", "..%2fdigits", "commands-en"):
        error = client.get(f"/models/{name}.onnx").json()["error"]
        assert error["code"] in ("model_not_found", "not_found")


def test_a_model_file_that_is_another_by_now_is_not_given_away(tmp_path: Path) -> None:
    file = tmp_path / "mine.onnx"
    file.write_bytes(b"model")
    app = build_app({"mine": LEFT_RIGHT}, Limits(), token=None, model_files={"mine": file})
    client = TestClient(app, headers=HERE)
    assert client.get("/models/mine.onnx").content == b"model"
    file.write_bytes(b"another")
    answer = client.get("/models/mine.onnx")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_changed")
    file.unlink()
    assert client.get("/models/mine.onnx").status_code == 409


def test_a_token_is_asked_for_all_but_the_page() -> None:
    with client_of(token="word") as client:  # noqa: S106
        for path in ("/", *(f"/page/{place}" for place in OWN)):
            assert client.get(path).status_code == 200
        right = {"Authorization": "Bearer word"}
        for path in ("/models.json", "/models/digits.onnx", "/pages", "/page"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=right).status_code in (200, 404)
        assert client.post(LOG_PROBS, content=HALF_SECOND.tobytes()).status_code == 401


def test_the_page_is_told_of_the_models(client: TestClient) -> None:
    told = client.get("/models.json").json()
    assert told["server"] is True
    assert told["most_seconds"] == LONG_SECONDS
    plain, digits = told["models"]
    assert (plain["name"], plain["file"]) == ("a", None)
    assert (digits["name"], digits["file"]) == ("digits", "models/digits.onnx")
    assert digits["vocabulary"] == load("digits").vocabulary.to_dict()
    assert (digits["decoder"], digits["rate"], digits["frame_seconds"]) == ("lexicon", 8000, 0.02)
    assert digits["log_mel"]["edge_samples"] == 800


def test_the_page_is_told_how_long_a_recording_may_be() -> None:
    with serving(audio_seconds=10) as client:
        assert client.get("/models.json").json()["most_seconds"] == 10


def test_names_of_models_are_quoted() -> None:
    assert site.file_of("50 % of ä?") == "models/50%20%25%20of%20%C3%A4%3F.onnx"


# ---- log-probabilities ----


def test_log_probs_are_the_networks(client: TestClient) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 3000).astype(np.float32)
    for name in ("a", "digits"):
        recogniser = {"a": LEFT_RIGHT, "digits": load("digits")}[name]
        answer = client.post(LOG_PROBS, params={"model": name}, content=samples.tobytes())
        assert answer.status_code == 200
        found = np.frombuffer(answer.content, "<f4").reshape(-1, len(recogniser.vocabulary))
        expected, _ = recogniser.network(samples[None], np.array([len(samples)]))
        np.testing.assert_array_equal(found, expected[0])
    assert "speechseq_held_bytes 0.0" in client.get("/metrics").text


def test_samples_are_clipped_as_files_are(client: TestClient) -> None:
    loud, full = (
        client.post(LOG_PROBS, params={"model": "digits"}, content=(level * tone).tobytes())
        for tone in [np.resize(np.array([1, -1], np.float32), 4000)]
        for level in (np.float32(7), np.float32(1))
    )
    assert loud.content == full.content


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        (b"", 400, "0 bytes"),
        (b"12345", 400, "5 bytes"),
        (np.array([0, np.nan], "<f4").tobytes(), 400, "NaN"),
        (np.zeros(RATE + 1, "<f4").tobytes(), 413, "longer than 1 s"),
        (bytes(100_004), 413, "larger than 0.1 MB"),
    ],
)
def test_what_are_no_samples_is_refused(body: bytes, status: int, what: str) -> None:
    with client_of(audio_seconds=1.0, body_mb=0.1) as client:
        for content in (body, iter([body])):  # with a length, and without
            answer = client.post(LOG_PROBS, content=content)
            assert answer.status_code == status
            assert what in answer.json()["error"]["message"]
        assert client.post(LOG_PROBS, content=HALF_SECOND.tobytes()).status_code == 200


def test_log_probs_of_no_model(client: TestClient) -> None:
    answer = client.post(LOG_PROBS, params={"model": "b"}, content=HALF_SECOND.tobytes())
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_a_long_recording_is_not_heard_as_a_whole(client: TestClient) -> None:
    body = np.zeros(round(LONG_SECONDS * RATE) + 1, "<f4").tobytes()
    answer = client.post(LOG_PROBS, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "audio_too_long")


def test_a_network_that_takes_too_long_is_given_up() -> None:
    with client_of(answer_seconds=1e-9) as client:
        answer = client.post(LOG_PROBS, content=HALF_SECOND.tobytes())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# ---- how its parts fit together ----


def test_the_page_names_no_other_place() -> None:
    for path in OWN.values():
        assert not re.search(r"(?:https?:)?//\w[\w-]*\.\w", path.read_text()), path


def test_the_page_says_the_policy_itself() -> None:
    assert (
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in OWN[INDEX].read_text()
    )


def test_what_a_file_names_is_there() -> None:
    text = {place: path.read_text() for place, path in OWN.items()}
    ids = re.findall(r'\bid="([\w-]+)"', text[INDEX])
    assert len(set(ids)) == len(ids)
    named = re.findall(r'(?:\bfor|labelledby)="([\w-]+)"', text[INDEX])
    named += re.findall(r'part\("([\w-]+)"\)', text["page.js"])
    assert set(named) <= set(ids)
    assert set(re.findall(r'(?:src|href)="page/([^"]+)"', text[INDEX])) <= set(OWN)
    for place in OWN:
        for other in re.findall(r'from "\./([^"]+)"|new URL\("([^"]+)"', text[place]):
            assert "".join(other) in OWN
    runtime = re.search(r'RUNTIME = "\./vendor/([^"]+)"', text["network.js"])
    assert runtime
    assert runtime[1] == site.RUNTIME[0]


def luminance(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.2."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = np.array([int(digits[n : n + 2], 16) for n in (0, 2, 4)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_apart(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", OWN["style.css"].read_text(), flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]+);", blocks[scheme]))
    for text, behind, least in (
        ("ink", "paper", 7.0),
        ("quiet", "paper", 4.5),
        ("wrong", "paper", 4.5),
        ("on-accent", "accent", 4.5),
        ("ink", "wash", 4.5),
        ("accent", "paper", 3.0),
        ("line", "paper", 3.0),
    ):
        dark, bright = sorted(luminance(colours[name]) for name in (text, behind))
        assert (bright + 0.05) / (dark + 0.05) >= least, (text, behind)


# ---- the folder that needs no server ----


@pytest.fixture
def vendored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it seem that onnxruntime-web is here."""
    monkeypatch.setattr(site, "has_runtime", lambda: True)


@pytest.mark.usefixtures("vendored")
def test_a_folder_holds_page_and_models(call: Call, tmp_path: Path) -> None:
    folder, model = tmp_path / "site", tmp_path / "my model.onnx"
    model.write_bytes(find_model("digits").read_bytes())
    code, out, err = call("page", model, "commands-en", "-o", folder)
    assert (code, out) == (0, f"{folder}\n")
    assert "python -m http.server" in err
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there >= {"index.html", "models.json", "models/my model.onnx", "page/page.js"}
    assert "page/index.html" not in there
    assert (folder / "models" / "my model.onnx").read_bytes() == model.read_bytes()
    told = json.loads((folder / "models.json").read_text())
    assert (told["server"], told["runtime"]) == (False, True)
    assert [each["file"] for each in told["models"]] == [
        "models/my%20model.onnx",
        "models/commands-en.onnx",
    ]
    assert str(tmp_path) not in (folder / "models.json").read_text()


@pytest.mark.usefixtures("vendored")
def test_a_folder_is_written_over_if_told_to(call: Call, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    code, _, err = call("page", "-o", tmp_path)
    assert (code, "--force" in err) == (2, True)
    with pytest.raises(DataError, match="already there"):
        write_site(tmp_path, {"digits": read_model("digits")})
    assert (tmp_path / "index.html").read_text() == "mine"
    assert call("page", "-o", tmp_path, "--force")[0] == 0
    assert (tmp_path / "index.html").read_text() == (PAGE / INDEX).read_text()


@pytest.mark.usefixtures("vendored")
def test_models_of_one_name_are_refused(call: Call, tmp_path: Path) -> None:
    code, _, err = call("page", "digits", find_model("digits"), "-o", tmp_path / "site")
    assert (code, "a second model called 'digits'" in err) == (UsageError.exit_code, True)
    assert call("page", "no-such-model", "-o", tmp_path / "site")[0] == 1
    assert not (tmp_path / "site").exists()


def test_without_onnxruntime_web_there_is_one_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = {**OWN, f"vendor/{site.RUNTIME[0]}": tmp_path}
    monkeypatch.setattr(site, "page_files", lambda: half)
    assert not site.has_runtime()
    code, out, err = call("page", "-o", tmp_path / "site")
    assert (code, out) == (1, "")
    assert "run scripts/vendor_onnxruntime_web.py" in err
    with client_of() as client:
        assert client.get("/models.json").json()["runtime"] is False


# ---- bringing onnxruntime-web ----


@pytest.fixture(scope="module")
def vendoring() -> ModuleType:
    """The script, as a module."""
    path = ROOT / "scripts" / "vendor_onnxruntime_web.py"
    spec = importlib.util.spec_from_file_location("vendoring", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        spec.loader.exec_module(module)
    return module


def package(path: Path, names: tuple[str, ...]) -> Path:
    """A package as npm packs it, whose files hold their names."""
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    return path


def fake_npm(folder: Path, script: str) -> str:
    """A program called npm; the folder it is found in."""
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    return str(folder)


def test_what_the_page_needs_is_taken_out(vendoring: ModuleType, tmp_path: Path) -> None:
    archive = package(tmp_path / "p.tgz", (*site.RUNTIME, "ort.all.js"))
    vendoring.vendor(archive, tmp_path / "vendor", tmp_path)
    there = {path.name: path.read_text() for path in (tmp_path / "vendor").iterdir()}
    assert there == {name: name for name in site.RUNTIME}


def test_another_archive_is_refused(
    vendoring: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = package(tmp_path / "p.tgz", site.RUNTIME)
    with pytest.raises(DataError, match="do not use it"):
        vendoring.verify(archive)
    right = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    monkeypatch.setattr(vendoring, "SHA512", right)
    vendoring.verify(archive)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a script")
def test_npm_is_asked_and_its_refusal_told(
    vendoring: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing = "import sys, pathlib\npathlib.Path(sys.argv[-1], 'p.tgz').write_text(sys.argv[2])"
    monkeypatch.setenv("PATH", fake_npm(tmp_path, packing))
    assert vendoring.pack(tmp_path).read_text() == vendoring.PACKAGE
    (tmp_path / "p.tgz").unlink()
    fake_npm(tmp_path, "import sys\nsys.exit('no\\nsuch package')")
    with pytest.raises(SpeechseqError, match=r"cannot fetch .* \(no such package\)"):
        vendoring.pack(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SpeechseqError, match="npm: not found"):
        vendoring.pack(tmp_path)


def test_onnxruntime_web_is_not_committed() -> None:
    """It is as large as all else together."""
    ignored = subprocess.run(
        ["git", "check-ignore", "-q", "speechseq/server/page/vendor/x.wasm"],  # noqa: S607
        cwd=ROOT,
        check=False,
    )
    assert ignored.returncode in (0, 128)  # 128: no repository
