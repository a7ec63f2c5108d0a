"""speechseq: train a small speech recogniser, know how good it is, and ship it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechseq.errors import SpeechseqError
    from speechseq.recogniser import Recogniser, load
    from speechseq.recognition import Recognition

# onnxruntime counts uses and reports them to its maker, unless it is told so before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Recogniser", "Recognition", "SpeechseqError", "__version__", "load"]

_HOMES = {
    "load": "speechseq.recogniser",
    "Recogniser": "speechseq.recogniser",
    "Recognition": "speechseq.recognition",
    "SpeechseqError": "speechseq.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'speechseq' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
