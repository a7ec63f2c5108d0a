"""Forms of uploads: read as they were written, or refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import encoded

from speechseq.server.forms import MAX_PARTS, Form, boundary_of, parse_form
from speechseq.server.refusal import Refusal

NAMES = st.text(st.characters(categories=["L", "N", "Pd", "Ps", "Pe"]), max_size=9)
BODY, BOUNDARY = encoded([("file", ("a", b"\r\n--xyz--\r\n"))], {"model": "m"})


@given(st.binary(), st.dictionaries(NAMES, st.text(), max_size=4))
def test_a_form_is_read_as_it_was_written(file: bytes, texts: dict[str, str]) -> None:
    texts.pop("file", None)
    got, form = parse_form(*encoded([("file", ("a", file))], texts))
    assert got == file
    assert form.texts == {name: [text] for name, text in texts.items()}


@given(st.integers(0, len(BODY) - 5), st.binary(max_size=3))
def test_a_damaged_form_is_refused_or_read(cut: int, instead: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_form(BODY[:cut], BOUNDARY)
    assert refusal.value.status == 400
    try:
        parse_form(BODY[:cut] + instead + BODY[cut + len(instead) :], BOUNDARY)
    except Refusal as error:
        assert error.status == 400


def test_a_form_may_have_a_preamble_padding_and_an_epilogue() -> None:
    body = b'before\r\n--b \t\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--after'
    assert parse_form(body, b"b") == (b"x", Form({}))


def test_a_files_name_cannot_pose_as_a_field() -> None:
    trick = '; name=\\"model\\"; name='
    headers = f'Content-Disposition: form-data; filename="{trick}"; name="file"'
    assert parse_form(f"--b\r\n{headers}\r\n\r\n1\r\n--b--".encode(), b"b") == (b"1", Form({}))


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/mixed; boundary=b", "audio/wav"])
def test_what_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(Refusal, match="send multipart/form-data") as refusal:
        boundary_of(kind)
    assert refusal.value.status == 415


@pytest.mark.parametrize(
    "boundary", ["", "; boundary", "; boundary=", f"; boundary={'b' * 71}", "; boundary=ü"]
)
def test_a_form_without_a_usable_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(Refusal, match="no usable boundary"):
        boundary_of(f"multipart/form-data{boundary}")


@pytest.mark.parametrize(
    "filler", [b" ", b"\r\n", b"\r\n--b", b"\r\n--bx", b"\r\n--b\r\nA: b\r\n\r\n"]
)
def test_no_body_is_walked_through_byte_by_byte(filler: bytes) -> None:
    """By the lines that are run, as a clock would depend on the machine."""
    lines = 0

    def count(*_: object) -> Any:
        nonlocal lines
        lines += 1
        assert lines < 100 * MAX_PARTS
        return count

    body = b"--b\r\nA: b\r\n\r\nx\r\n--b" + filler * (10_000_000 // len(filler))
    before = sys.gettrace()
    sys.settrace(count)
    try:
        with pytest.raises(Refusal):
            parse_form(body, b"b")
    finally:
        sys.settrace(before)
    assert lines > 10
