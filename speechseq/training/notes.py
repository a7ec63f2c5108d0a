"""How training tells what it does, to whoever started it."""

from __future__ import annotations

from collections.abc import Callable

Note = Callable[[str], None]
"""Takes a line of text."""

Show = Callable[[str, int, int], None]
"""Takes what is done, how much of it already, and of how much."""
