"""The error a person at the command line can mend."""

from __future__ import annotations

MOST_CHARACTERS = 1200


class UserError(ValueError):
    """Bad input: one sentence that names what was wrong, what was expected and what came.

    The command line prints it as one line and exits with status 2; a caller in Python sees a ``ValueError``.
    """


def one_line(text: str) -> str:
    """The text as one line that any terminal can show.

    Control characters, line breaks and bytes that are not UTF-8 (from file names) are escaped as Python writes them;
    the middle of a long text is left out.
    """
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS // 2]} ... {text[-MOST_CHARACTERS // 2 :]}"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shown(value: object, most: int = 60) -> str:
    """A value that came where another was expected, short enough for a sentence."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of more than 4,300 digits; something very deep
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
