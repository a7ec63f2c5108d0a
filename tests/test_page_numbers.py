"""What the page computes in headless Chromium: decoders, words and features are Python's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from browsed import needs_chromium, random_log_probs

from speechseq.audio import read_audio
from speechseq.decoding import DECODERS, Hypothesis, decoder_for
from speechseq.model_file import read_model
from speechseq.recipe_checks import recipe_from_dict
from speechseq.recogniser import Recogniser
from speechseq.server.site import describe, log_mel_of
from speechseq.tokens import BLANK_TOKEN, UNKNOWN, Vocabulary
from speechseq.training.features import LogMel

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = needs_chromium

SAMPLE = Path(__file__).parents[1] / "data" / "samples" / "seven_zero_eight.wav"

LEXICON = Vocabulary(
    "characters", (BLANK_TOKEN, " ", "a", "b", "e"), ("a", "bee", "abba", "ebb", "beaa")
)
UNSPACED = Vocabulary("characters", (BLANK_TOKEN, "a", "b"), ("aa", "aba", "b"))
DECODE = """async ([decoder, vocabulary, rows]) => {
  const { DECODERS } = await import("./page/decoding.js");
  const values = new Float32Array(rows.flat());
  const logProbs = { values, frames: rows.length, tokens: rows[0].length };
  return DECODERS[decoder](vocabulary)(logProbs);
}"""


def test_decoders_are_the_same(page: Page) -> None:
    names = page.evaluate("import('./page/decoding.js').then((m) => Object.keys(m.DECODERS))")
    assert sorted(names) == sorted(DECODERS)


@pytest.mark.parametrize(
    ("decoder", "vocabulary"),
    [("greedy", LEXICON), ("lexicon", LEXICON), ("lexicon", UNSPACED)],
    ids=["greedy", "lexicon", "without a space"],
)
def test_decoders_are_pythons(page: Page, decoder: str, vocabulary: Vocabulary) -> None:
    decode = decoder_for(vocabulary, decoder)
    for seed in range(60):
        log_probs = random_log_probs(1 + seed % 25, len(vocabulary), seed)
        if seed % 7 == 0:
            log_probs = np.round(log_probs)  # so that paths are equally good
        expected = decode(log_probs)
        given = [decoder, vocabulary.to_dict(), log_probs.tolist()]
        found = page.evaluate(DECODE, given)
        assert (
            Hypothesis(
                tuple(found["tokens"]),
                tuple(found["starts"]),
                tuple(found["ends"]),
                pytest.approx(found["confidences"]),  # type: ignore[arg-type]
                pytest.approx(found["confidence"]),  # type: ignore[arg-type]
            )
            == expected
        )


RECOGNISE = """async ([model, rows, seconds]) => {
  const { recogniserOf } = await import("./page/recogniser.js");
  const values = new Float32Array(rows.flat());
  const logProbs = { values, frames: rows.length, tokens: rows[0].length };
  const found = recogniserOf(model)(logProbs, seconds);
  const words = found.words.map((word) => [word.text, word.start, word.end, word.confidence]);
  return [found.text, found.confidence, words];
}"""
CLASSES = Vocabulary("classes", ("no", "yes", UNKNOWN))
WORDS = Vocabulary("words", (BLANK_TOKEN, "left", "right", "stop"))


@pytest.mark.parametrize("vocabulary", [LEXICON, WORDS, CLASSES], ids=lambda v: v.kind)
def test_words_are_pythons_however_sure_they_must_be(page: Page, vocabulary: Vocabulary) -> None:
    sequence = vocabulary.is_sequence
    # Frames of 0.1 s, two of them between letters at most.
    features = {"rate": 8000, "edge_seconds": 0.1, "hop_seconds": 0.1, "window_seconds": 0.1}
    told: dict[str, dict[str, object]] = {"features": features}
    told["data"] = {"tokens": vocabulary.kind}
    if not sequence:
        told["model"] = {"head": "classify"}
    for seed in range(40):
        log_probs = random_log_probs(20 if sequence else 1, len(vocabulary), seed)
        network = lambda *_, given=log_probs: (given[None], np.array([len(given)]))  # noqa: E731
        recogniser = Recogniser(network, vocabulary, recipe_from_dict(told, "test"))
        recogniser = recogniser.decoding_with(least_confidence=[0.0, 0.5, 0.9][seed % 3])
        (expected,) = recogniser.transcribe_batch([np.zeros(16000, np.float32)])
        given = [describe(recogniser), log_probs.tolist(), 2.0]
        text, confidence, words = page.evaluate(RECOGNISE, given)
        assert text == expected.text
        assert confidence == pytest.approx(expected.confidence)
        assert [word[0] for word in words] == [word.text for word in expected.words]
        numbers = [[w.start, w.end, w.confidence] for w in expected.words]
        assert [word[1:] for word in words] == [pytest.approx(row) for row in numbers]


LOG_MELS = """async ([samples, settings]) => {
  const { logMels } = await import("./page/log_mels.js");
  const { values, frames, mels } = logMels(new Float32Array(samples), settings);
  return [Array.from(values), frames, mels];
}"""


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("name", ["digits", "an4"])
def test_log_mels_are_those_of_the_features(page: Page, name: str, scale: str) -> None:
    features = dataclasses.replace(read_model(name).recipe.features, mel_scale=scale)
    samples = read_audio(SAMPLE, features.rate)
    given = [samples.tolist(), log_mel_of(features)]
    values, frames, mels = page.evaluate(LOG_MELS, given)
    expected = LogMel(features).log_mels(
        torch.from_numpy(samples)[None], torch.tensor([len(samples)])
    )[0][0]
    assert (frames, mels) == expected.shape
    np.testing.assert_allclose(np.reshape(values, expected.shape), expected, atol=2e-3)
