"""Errors that the user can fix."""

from __future__ import annotations

MOST_CHARACTERS = 1200


class UserError(ValueError):
    """Bad input: one sentence that names the problem, what was expected and what came.

    The command line prints it as one line and exits with status 2. Python callers see a ``ValueError``.
    """


def one_line(text: str) -> str:
    """Turn a text into one line that any terminal can show.

    Control characters, line breaks and non-UTF-8 bytes (from file names) are escaped as in Python. The middle of a
    long text is cut out.
    """
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS // 2]} ... {text[-MOST_CHARACTERS // 2 :]}"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shown(value: object, most: int = 60) -> str:
    """The repr of an unexpected value, shortened for an error message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits; very deep nesting
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
