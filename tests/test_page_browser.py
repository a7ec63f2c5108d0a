"""The page in headless Chromium: uploads, drops, a microphone, with a server and without."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from browsed import (
    HERE,
    MODELS,
    THERE,
    chromium,
    give,
    needs_chromium,
    needs_runtime,
    opened,
    page_server,
    status,
)

from speechseq.audio import read_audio, write_wav
from speechseq.corpora import CORPORA
from speechseq.model_file import read_model
from speechseq.recogniser import load
from speechseq.server.site import write_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

pytestmark = needs_chromium

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
SAMPLE = SAMPLES / "seven_zero_eight.wav"
PLACES = [pytest.param(HERE, marks=needs_runtime), THERE]


# ---- a sound comes in ----


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", MODELS)
def test_an_upload_is_recognised_as_python_does(
    page: Page, tmp_path: Path, model: str, place: str
) -> None:
    """The file has the model's own rate: of resamplers no two agree to the last bit."""
    recogniser = load(model)
    file = tmp_path / "clip.wav"
    write_wav(file, read_audio(SAMPLE, recogniser.rate), recogniser.rate)
    page.select_option("#model", model)
    expected = recogniser.transcribe(file)
    assert give(page, file, place) == expected.text
    rows = [row.inner_text().split("\t") for row in page.locator("#words tr").all()]
    assert [row[0] for row in rows] == [word.text for word in expected.words]
    shown = np.array([[float(value) for value in row[1:]] for row in rows])
    times = [(word.start, word.end, word.confidence) for word in expected.words]
    np.testing.assert_allclose(shown, times, atol=0.006)


@needs_runtime
def test_the_bundled_samples_are_recognised_at_any_rate(page: Page) -> None:
    digits = load("digits")
    for file in sorted(SAMPLES.glob("*.wav"))[:6]:
        assert give(page, file, HERE) == digits.transcribe(file).text != ""


def test_a_file_is_dropped(page: Page) -> None:
    page.select_option("#place", THERE)
    page.evaluate(
        """bytes => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "dropped.wav"));
          const drop = document.getElementById("drop");
          for (const type of ["dragover", "drop"]) {
            drop.dispatchEvent(new DragEvent(type, { bubbles: true, dataTransfer: transfer }));
          }
        }""",
        list(SAMPLE.read_bytes()),
    )
    assert "1.27 s" in status(page, "dropped.wav: 1.27")
    assert page.inner_text("#text") == "seven zero eight"


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_microphone_is_recognised(
    playwright: Playwright, address: str, tmp_path: Path, place: str
) -> None:
    file = tmp_path / "spoken.wav"
    spoken = read_audio(SAMPLE, 48000)
    quiet = np.zeros(48000, np.float32)
    write_wav(file, np.concatenate([quiet, spoken, *[quiet] * 8]), 48000)
    flags = (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={file}%noloop",
    )
    with chromium(playwright, *flags) as browser, opened(browser, address) as page:
        status(page, "Ready.")
        page.select_option("#place", place)
        page.click("#record")
        assert "Recording" in status(page, "Recording")
        page.wait_for_function("() => parseFloat(document.getElementById('clock').textContent) > 3")
        assert page.inner_text("#record") == "Stop and recognise"
        page.click("#record")
        assert "recognised in" in status(page, f"ms {place}")
        assert page.inner_text("#text") == "seven zero eight"
        assert page.inner_text("#record") == "Record"
        assert page.inner_text("#clock") == ""


def test_a_microphone_may_be_refused(page: Page) -> None:
    """Headless Chromium has none. Who pressed the button with a key can press it again."""
    page.focus("#record")
    page.keyboard.press("Space")
    assert "allow it, or choose a file" in status(page, "microphone: cannot be opened")
    assert page.inner_text("#record") == "Record"
    assert page.evaluate("() => document.activeElement.id") == "record"
    assert give(page, SAMPLE, THERE) == "seven zero eight"


def test_a_microphone_that_fails_is_let_go(playwright: Playwright, address: str) -> None:
    """One that goes away ends the recording; one that cannot be listened to is closed."""
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    remember = """() => {
      const media = navigator.mediaDevices, open = media.getUserMedia.bind(media);
      media.getUserMedia = async (...asked) => (window.heard = await open(...asked));
    }"""
    with chromium(playwright, *flags) as browser, opened(browser, address) as page:
        status(page, "Ready.")
        page.evaluate(remember)
        page.click("#record")
        page.wait_for_function("() => parseFloat(document.getElementById('clock').textContent) > 0")
        page.evaluate("() => window.heard.getTracks()[0].dispatchEvent(new Event('ended'))")
        assert status(page, " ms ").startswith("recording: ")
        assert page.inner_text("#record") == "Record" and page.inner_text("#clock") == ""
        page.evaluate(
            "() => { AudioWorklet.prototype.addModule = () => Promise.reject(Error('none')); }"
        )
        page.click("#record")
        status(page, "microphone: none")
        states = "() => window.heard.getTracks().map((track) => track.readyState)"
        assert page.evaluate(states) == ["ended"]
        assert page.inner_text("#record") == "Record"


def test_a_recording_whose_audio_never_ran_tells_what_may_lack(
    playwright: Playwright, address: str
) -> None:
    """As in Firefox on a machine with a microphone and no loudspeakers."""
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    never = """() => {
      const Running = AudioContext;
      window.AudioContext = class extends Running {
        constructor() { super(); this.suspend(); }
      };
    }"""
    with chromium(playwright, *flags) as browser, opened(browser, address) as page:
        status(page, "Ready.")
        page.evaluate(never)
        page.click("#record")
        status(page, "Recording")
        page.click("#record")
        assert "connect loudspeakers" in status(page, "recording: holds no sound; ")
        assert page.inner_text("#record") == "Record"


def test_a_reloaded_page_names_no_file(page: Page) -> None:
    """Firefox would keep the name of a file that the new page has not heard."""
    assert page.get_attribute("#file", "autocomplete") == "off"


def test_a_file_may_be_chosen_again(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "again.wav"
    for samples, text in ((SAMPLE.read_bytes(), "seven zero eight"), (b"", "")):
        file.write_bytes(samples)
        with page.expect_file_chooser() as chooser:
            page.click("#file")
        chooser.value.set_files(file)
        assert status(page, " ms " if text else "empty; give an audio").startswith("again.wav: ")
        assert page.text_content("#text") == text


def test_what_cannot_be_recognised_is_told(page: Page, tmp_path: Path) -> None:
    bad, long = tmp_path / "bad.wav", tmp_path / "long.wav"
    bad.write_bytes(b"no audio at all")
    write_wav(long, np.zeros(61 * 8000, np.float32), 8000)
    for file, what in ((bad, "not audio that this browser reads"), (long, "longer than 60 s")):
        assert give(page, SAMPLE, THERE) == "seven zero eight"
        page.set_input_files("#file", file)
        assert status(page, what).startswith(f"{file.name}: ")
        assert page.is_hidden("#answer") and page.text_content("#text") == ""
        assert "wrong" in (page.get_attribute("#status", "class") or "")
    small = tmp_path / "small.flac"  # 0.3 MB; decoded, it would be 700 MB
    soundfile.write(small, np.zeros((1800 * 48000, 1), np.int16), 48000)
    page.evaluate("() => { OfflineAudioContext.prototype.decodeAudioData = () => never; }")
    page.set_input_files("#file", small)
    assert status(page, "longer than 60 s").startswith("small.flac: ")
    page.reload()
    quiet = tmp_path / "quiet.wav"
    write_wav(quiet, np.zeros(8000, np.float32), 8000)
    assert give(page, quiet, THERE) == "No words were recognised."
    assert page.locator("#words tr").count() == 0
    assert "wrong" not in (page.get_attribute("#status", "class") or "")


def test_the_page_asks_for_a_token(browser: Browser) -> None:
    with page_server(token="word") as address:  # noqa: S106
        page = browser.new_page()
        page.goto(address)
        assert "no token" in status(page, "Authorization")
        assert page.is_visible("#token")
        assert page.is_disabled("#file")
        # A header cannot hold the second one; the field stays all the same.
        for token, told in (
            ("wrong", "Authorization"),
            ("wo\u2011rd", "token: holds a letter that no header can hold"),
            ("word", "Ready."),
        ):
            assert page.is_visible("#token")
            page.wait_for_function("document.activeElement.id === 'token'")
            page.fill("#token", token)
            page.press("#token", "Enter")
            status(page, told)
        assert not page.is_visible("#token")
        assert give(page, SAMPLE, THERE) == "seven zero eight"
        page.close()


def test_a_sound_that_needed_a_token_is_heard_once_it_is_there(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    """The one token of a server that was started anew; the sound is not asked for again."""
    page = browser.new_page()
    page.goto(address)
    status(page, "Ready.")
    give(page, SAMPLE, THERE)
    refused = {"status": 401, "json": {"error": {"message": "Authorization: no token"}}}
    page.route("**/log_probs*", lambda route: route.fulfill(**refused), times=1)
    again = tmp_path / "again.wav"
    again.write_bytes(SAMPLE.read_bytes())
    page.set_input_files("#file", again)
    status(page, "again.wav: Authorization")
    assert page.text_content("#text") == ""
    page.wait_for_function("document.activeElement.id === 'token'")
    page.fill("#token", "word")
    page.press("#token", "Enter")
    status(page, "again.wav: 1.27 s")
    assert page.inner_text("#text") == "seven zero eight"
    page.close()


@needs_runtime
def test_a_network_is_fetched_once_and_again_after_a_failure(
    browser: Browser, address: str
) -> None:
    fetched: list[str] = []
    page = browser.new_page()
    page.on("request", lambda asked: fetched.append(asked.url))
    page.goto(address)
    status(page, "Ready.")
    page.select_option("#place", HERE)
    page.route("**/*.mjs", lambda route: route.abort(), times=1)
    page.set_input_files("#file", SAMPLE)
    assert "try again" in status(page, "onnxruntime-web: ")
    fetched.clear()
    for file in (SAMPLES / "six.wav", SAMPLES / "two.wav", SAMPLE):
        page.set_input_files("#file", file)
    status(page, f"{SAMPLE.name}: 1.27 s")
    assert page.inner_text("#text") == "seven zero eight"
    assert sum(url.endswith("/digits.onnx") for url in fetched) == 1
    page.close()


def test_a_server_that_is_gone_is_told(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.route("**/models.json", lambda route: route.abort())
    page.goto(address)
    assert "cannot be reached; see that it runs" in status(page, "the server")
    page.close()


# ---- it can be used by everybody ----


def test_nothing_is_wider_than_a_phone(page: Page) -> None:
    for model in MODELS:
        page.select_option("#model", model)
        give(page, SAMPLE, THERE)
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_everything_has_a_name(page: Page) -> None:
    give(page, SAMPLE, THERE)
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            role, name = (node.get(key, {}).get("value", "") for key in ("role", "name"))
            named.setdefault(role, []).append(name.strip())
    assert named["combobox"] == ["Model", "Recognise"]
    assert [name.split(":")[0] for name in named["button"]] == ["Record", "or choose a file"]
    assert len(named["image"]) == len(named["figure"]) == 3
    assert all(name for role in ("image", "region", "table", "heading") for name in named[role])
    word = load("digits").transcribe(SAMPLE).words[0]
    times = f"{word.text} from {word.start:.2f} to {word.end:.2f}"
    assert any(times in name for name in named["image"])
    live = page.evaluate(
        "[...document.querySelectorAll('[aria-live], [role=status]')].map(e => e.id)"
    )
    assert live == ["status", "text"]


def test_the_keyboard_reaches_everything_in_order(page: Page) -> None:
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "3px"
    assert reached == ["model", "place", "record", "file"]


def test_nothing_moves_for_those_who_want_that(page: Page) -> None:
    name = "() => getComputedStyle(document.getElementById('record')).animationName"
    page.evaluate("document.getElementById('record').setAttribute('data-on', '')")
    assert page.evaluate(name) == "breathe"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(name) == "none"


# ---- without a server ----


@pytest.fixture(scope="module")
def folder_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's folder, served as nothing but files."""
    folder = tmp_path_factory.mktemp("site") / "page"
    write_site(folder, {"digits": read_model("digits")})
    command = [sys.executable, "-u", "-m", "http.server", "-b", "127.0.0.1", "-d", str(folder), "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout
        port = re.search(r"port (\d+)", server.stdout.readline())
        assert port
        yield f"http://127.0.0.1:{port[1]}/"
        server.terminate()


@needs_runtime
def test_the_folder_recognises_by_itself(browser: Browser, folder_address: str) -> None:
    with opened(browser, folder_address) as page:
        status(page, "Ready.")
        assert page.locator("#place option").all_inner_texts() == [HERE]
        assert give(page, SAMPLE, HERE) == "seven zero eight"


@needs_runtime
@pytest.mark.corpus
def test_real_digits_are_the_same_without_a_server(
    browser: Browser, folder_address: str, real_corpora: Path
) -> None:
    del real_corpora  # the corpus is looked for there
    recogniser = load("digits")
    clips = [Path(u.audio_filepath) for u in CORPORA["fsdd"].utterances("test")[::15]]
    assert len(clips) == 20
    with opened(browser, folder_address) as page:
        status(page, "Ready.")
        for clip in clips:
            assert give(page, clip, HERE) == recogniser.transcribe(clip).text
