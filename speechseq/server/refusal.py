"""Answers to what cannot be done, in OpenAI's shape; they never name the server's files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse

from speechseq.errors import SpeechseqError

RETRY_SECONDS = 1
"""When to come back to a server that is full: its queue moves many times a second."""

CLIENT_GONE = 499
"""Status, counted and never sent, of a request whose client left before it was answered."""


class Refusal(SpeechseqError):
    """A request is not done; `status` is HTTP's, `code` a word for programs, `param` a field."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None):
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """Return the whole answer; a full server says when to come back."""
        all_headers = dict(headers or {})
        if self.status in (429, 503):
            all_headers["Retry-After"] = str(RETRY_SECONDS)
        if self.status == 401:
            all_headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, all_headers)


def failure(log: logging.Logger, where: str, error: Exception) -> Refusal:
    """Note an error of ours in one line; the client learns that there was one, not which."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    log.error("%s: %s", where, what, exc_info=log.isEnabledFor(logging.DEBUG))
    return Refusal(500, "server: an internal error; its operator can read of it", code="internal")


def json_object(text: str | bytes, wrong: Callable[[str], Refusal]) -> dict[str, Any]:
    """Return the JSON object that a client sent.

    Raises:
        Refusal: `wrong`, of what is wrong with it: it is none, or its texts are not Unicode.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise wrong("not JSON") from None
    if not isinstance(value, dict):
        raise wrong("not an object")
    return value
