"""A model file's network, run by onnxruntime: on wholes, and from where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from speechseq.errors import ModelError
from speechseq.model_file import END_FRAME, FIRST_FRAME, INPUTS, OUTPUTS, ModelFile
from speechseq.padding import pad
from speechseq.recognition import Network
from speechseq.stream_frames import HearOn, State


def onnx_network(model: ModelFile) -> Network:
    """Return the network of a model file, run by onnxruntime."""

    def run(samples: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs, frames = _run(model, OUTPUTS, (samples, lengths))
        return log_probs, frames

    return run


def onnx_hear_on(model: ModelFile) -> HearOn | None:
    """Return what runs a model file's network from where it was; None if it carries no state."""
    if not model.states:
        return None
    outputs = (OUTPUTS[0], *model.states.values())

    def run(
        samples: np.ndarray, first: int, end: int, state: State
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        frames = {FIRST_FRAME: np.array([first]), END_FRAME: np.array([end])}
        log_probs, *ends = _run(model, outputs, pad([samples]), {**frames, **state})
        return log_probs[0], dict(zip(model.states, ends, strict=True))

    return run


def _run(
    model: ModelFile,
    outputs: Sequence[str],
    values: tuple[np.ndarray, np.ndarray],
    more: Mapping[str, np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Return outputs of a model file's graph for samples and lengths, and what else it takes."""
    feeds = {**dict(zip(INPUTS, values, strict=True)), **(more or {})}
    try:
        return model.session.run(list(outputs), feeds)
    except Exception as error:  # onnxruntime's exceptions share no public class
        reason = str(error).split("\n")[0][:200]
        raise ModelError(f"{model.path}: cannot be run ({reason}); export it again") from None
