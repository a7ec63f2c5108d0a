"""Shards: written whole, read with suspicion, and streamed: everything once, and again the same."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded import CLIPS, clip, content, heard, made_recipe, same, stream

from speechseq.audio import read_audio
from speechseq.corpora.shards import index_path, read_index
from speechseq.errors import DataError
from speechseq.recipe import Recipe
from speechseq.tokens import Vocabulary
from speechseq.training import buffer as buffer_module
from speechseq.training import stream as stream_module
from speechseq.training.data import Share
from speechseq.training.sharding import Limit, write_shards
from speechseq.training.stream import StreamData


@settings(deadline=None, max_examples=60)
@given(
    which=st.integers(0, 1),
    buffer=st.integers(1, 50),
    batch=st.integers(3, 9),
    ranks=st.integers(1, 3),
    pieces=st.integers(1, 3),
    joined=st.integers(1, 4),
    epoch=st.integers(0, 2),
)
def test_an_epoch_holds_every_utterance_once(
    folders: list[Path],
    which: int,
    buffer: int,
    batch: int,
    ranks: int,
    pieces: int,
    joined: int,
    epoch: int,
) -> None:
    made = made_recipe(buffer, training={"batch": batch}, augment={"join": joined})
    data = stream(folders[which], made, ranks)
    shares = [list(data.batches(epoch, 0, Share(r, ranks, pieces))) for r in range(ranks)]
    assert {len(share) for share in shares} == {data.steps_of(epoch)}, "known beforehand"
    assert {len(step) for share in shares for step in share} == {pieces}
    found = heard([piece for share in shares for step in share for piece in step])
    assert found == Counter(f"w{number}" for number in range(CLIPS))
    for steps in zip(*shares, strict=True):
        places = [row for step in steps for piece in step if piece.weight for row in piece.rows]
        assert len(set(places)) == len(places) <= batch
        assert not places or max(places) < batch
    assert data.steps(3) == sum(map(data.steps_of, range(3)))


CHANCE = {"join": 2, "gain_db": 6, "speeds": [0.9, 1.0, 1.1], "shift_seconds": 0.02}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("rank", [0, 1])
def test_resuming_at_any_step_goes_on_as_before(folders: list[Path], which: int, rank: int) -> None:
    data = stream(folders[which], made_recipe(7, augment=CHANCE), 2)
    whole = list(data.batches(1, 0, Share(rank, 2, 2)))
    for first in range(len(whole) + 1):
        rest = list(stream(folders[which], data.recipe, 2).batches(1, first, Share(rank, 2, 2)))
        assert len(rest) == len(whole) - first
        assert all(same(one, other) for one, other in zip(rest, whole[first:], strict=True))


def test_orders_follow_from_seed_and_epoch(folders: list[Path]) -> None:
    def order(recipe: Recipe, epoch: int) -> list[str]:
        steps = stream(folders[0], recipe).batches(epoch, 0, Share())
        return [u.text for (batch,) in steps for u in batch.utterances]

    made = made_recipe()
    assert order(made, 0) == order(made, 0)
    assert order(made, 0) != order(made, 1)
    assert order(made, 0) != order(dataclasses.replace(made, seed=1), 0)


def test_resuming_reads_no_audio_that_was_heard(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_samples: list[str] = []

    def counted(audio: bytes, rate: int) -> np.ndarray:
        read_samples.append("")
        return read_audio(audio, rate)

    monkeypatch.setattr(buffer_module, "read_audio", counted)
    data = stream(folders[0], made_recipe(4))
    steps = data.steps_of(0)
    assert len(list(data.batches(0, steps - 1, Share()))) == 1
    assert len(read_samples) == CLIPS % 4


def test_only_the_buffer_and_the_next_are_held(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = [0]

    def counted(audio: bytes, rate: int) -> np.ndarray:
        taken[0] += 1
        return read_audio(audio, rate)

    monkeypatch.setattr(buffer_module, "read_audio", counted)
    data = stream(folders[1], made_recipe(5))
    given_out = 0
    for (batch,) in data.batches(0, 0, Share()):
        given_out += len(batch.utterances)
        assert taken[0] <= given_out + 2 * 5
    assert given_out == CLIPS


def test_batches_hold_clips_of_like_length_in_random_order(folders: list[Path]) -> None:
    (batches,) = [b.batches for b in stream(folders[0], made_recipe(100)).buffers(0, 0, 0)]
    data = next(stream(folders[0], made_recipe(100)).buffers(0, 0, 0)).data
    sizes = [[int(data.log_mels.lengths[p]) for e in batch for p in e] for batch in batches]
    assert np.mean([max(size) - min(size) for size in sizes]) < 3
    means = [np.mean(size) for size in sizes]
    assert means != sorted(means)


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 32))
def test_joined_sizes_hold_all(utterances: int, join: int) -> None:
    sizes = buffer_module.joined_sizes(utterances, join)
    assert sum(sizes) == utterances and all(1 <= size <= join for size in sizes)
    if utterances > 20 * join * join:
        assert Counter(sizes)[1] - Counter(sizes)[join] in (0, 1, 2)


def test_joined_labels_have_their_space(folders: list[Path]) -> None:
    tree = made_recipe().to_dict()["data"] | {"tokens": "characters"}
    made = made_recipe(augment={"join": 3}, data=tree)
    data = stream(folders[0], made)
    assert " " in data.vocabulary.tokens
    for (batch,) in data.batches(0, 0, Share()):
        text = data.vocabulary.decode(batch.labels.tolist())
        for utterance in batch.utterances:
            assert utterance.text in text


def test_the_largest_batch_is_as_large_as_any(folders: list[Path]) -> None:
    for join in (1, 4):
        data = stream(folders[0], made_recipe(100, augment={"join": join, "speeds": [0.8, 1]}))
        largest = data.largest()
        steps = [batch for (batch,) in data.batches(0, 0, Share())]
        assert largest.log_mels.shape[0] == 4
        sizes = [b.log_mels.shape[0] * b.log_mels.shape[1] for b in steps]
        assert largest.log_mels.shape[0] * largest.log_mels.shape[1] >= np.median(sizes)
        assert largest.utterances[0].key.startswith("train-")
        assert join > 1 or largest.log_mels.shape[1] >= max(b.log_mels.shape[1] for b in steps)


# ---- what cannot be used ----


def test_what_cannot_be_learnt_is_named_once_and_counted(tmp_path: Path) -> None:
    clips = [clip(tmp_path / "clips", number) for number in range(60)]
    clips[3] = dataclasses.replace(clips[3], text="w1 " * 90)
    for number in range(10, 40):
        clips[number] = dataclasses.replace(clips[number], text="")
    write_shards(clips, tmp_path / "train-%d.tar", limit=Limit(utterances=9))
    notes: list[str] = []
    data = stream(tmp_path, made_recipe(), note=notes.append)
    for epoch in range(2):
        pieces = [piece for step in data.batches(epoch, 0, Share()) for piece in step]
        assert len(pieces) == data.steps_of(epoch)
        assert heard(pieces) == Counter(f"w{n}" for n in (0, 1, 2, *range(4, 10), *range(40, 60)))
    named = [note for note in notes if note.startswith("dropped")]
    assert len(named) == 20 == len({note.partition(": ")[0] for note in named})
    assert all("which needs" in note and ".wav: " in note for note in named)
    said = [f"epoch {n}: 31 of 60 utterances dropped" for n in (1, 2)]
    assert [note for note in notes if note.startswith("epoch")] == said


def test_what_other_processes_drop_is_said_by_the_first(tmp_path: Path) -> None:
    clips = [clip(tmp_path / "clips", number) for number in range(8)]
    clips[1:] = [dataclasses.replace(clip, text="") for clip in clips[1:]]
    write_shards(clips, tmp_path / "train-%d.tar", limit=Limit(utterances=1))
    parts: list[Any] = []

    def gather(values: Sequence[Any]) -> list[Any]:
        parts.extend(values)
        return list(parts)

    notes: list[str] = []
    for rank, note in ((1, lambda text: None), (0, notes.append)):
        data = stream(tmp_path, made_recipe(), 2, gather=gather, note=note)
        list(data.batches(0, 0, Share(rank, 2)))
    assert all(part.count >= 3 for part in parts)
    assert len([note for note in notes if note.startswith("dropped")]) == 7
    assert notes[-1] == "epoch 1: 7 of 8 utterances dropped"


def test_a_text_of_other_tokens_is_dropped(folders: list[Path]) -> None:
    index = read_index(index_path(folders[0], "train"))
    words = Vocabulary.from_texts("words", [f"w{n}" for n in range(CLIPS - 1)])
    notes: list[str] = []
    data = StreamData(index, words, [], made_recipe(), note=notes.append)
    assert sum(heard([p for step in data.batches(0, 0, Share()) for p in step]).values()) == 40
    assert any("cannot be spelt" in note for note in notes)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    clips = [dataclasses.replace(clip(tmp_path / "c", n), text="x " * 90) for n in range(3)]
    write_shards(clips, tmp_path / "train-%d.tar", limit=Limit())
    with pytest.raises(DataError, match=r"no utterance of the first 3 can be used: .*which needs"):
        stream(tmp_path, made_recipe()).opening()


def test_who_stops_does_not_wait_for_the_next_buffer(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []

    def slow(audio: bytes, rate: int) -> np.ndarray:
        taken.append(time.monotonic())
        if len(taken) > 5:
            time.sleep(0.1)
        return read_audio(audio, rate)

    monkeypatch.setattr(buffer_module, "read_audio", slow)
    monkeypatch.setattr(buffer_module, "CHUNK", 4)
    steps = stream(folders[0], made_recipe(5)).batches(0, 0, Share())
    next(steps)
    steps.close()
    assert len(taken) <= 5 + 2, "the fifth and, of the next buffer, what was under way"


def test_ahead_passes_errors_on() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise DataError("a: b; c")

    over = Event()
    found = stream_module._ahead(items(), over)
    assert next(found) == 1
    with pytest.raises(DataError, match="a: b; c"):
        next(found)
    assert over.is_set()


def test_features_do_not_hang_on_their_neighbours(folders: list[Path]) -> None:
    """Log-mels of clips padded together are those of each clip alone."""
    data = stream(folders[0], made_recipe(100))
    together = next(data.buffers(0, 0, 0)).data
    log_mel = buffer_module.LogMel(data.recipe.features)
    for number, utterance in enumerate(together.utterances):
        sample = content(data.index)[Path(utterance.audio_filepath).name]
        samples = torch.from_numpy(read_audio(sample.audio, 8000)).unsqueeze(0)
        alone, _ = log_mel(samples, torch.tensor([samples.shape[1]]))
        torch.testing.assert_close(
            torch.from_numpy(together.log_mels.clip(number)), alone[0], rtol=1e-4, atol=1e-4
        )
