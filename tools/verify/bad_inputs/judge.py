"""Whether a call's outcome is what bad input must lead to."""

from __future__ import annotations

import re

from tools.verify.bad_inputs.calls import DONE, REFUSED, STOPS, Call, Outcome

PROGRESS = re.compile(r"\d+%\|.*\||\b\d+(frame|clip|step|sample|file|it) \[")
NOTES = ("skipped: ", "no sample: ", "fastinpaint inpaint: note: ")
"""How lines begin that `prepare` says of one source among several, and `inpaint` of what comes out otherwise."""

HALF_WRITTEN = re.compile(r"\.(part|partial|tmp|old|removed)(\.\w+)?$")
GONE_CODE = 141
MOST_CHARACTERS = 2000


def faults(call: Call, outcome: Outcome) -> list[str]:
    """What is wrong with the outcome; empty where nothing is."""
    found: list[str] = []
    if outcome.stopped:
        found.append(outcome.stopped)
    if "Traceback (most recent call last)" in outcome.stderr + outcome.stdout:
        found.append(f"traceback: {last_line(outcome.stderr)}")
    if not outcome.stopped and "Traceback" not in outcome.stderr:
        found += _of_code(call, outcome)
    left = [path for path in outcome.changed if HALF_WRITTEN.search(path) and not path.startswith("gone")]
    if left:
        found.append(f"half-written: {', '.join(left[:3])}")
    elif outcome.changed and (call.expects == REFUSED or (outcome.code != 0 and call.expects != STOPS)):
        found.append(f"changed: {', '.join(outcome.changed[:3])}")
    return found


def _of_code(call: Call, outcome: Outcome) -> list[str]:
    if call.stdout == "gone" and outcome.code == GONE_CODE:
        said = sentences(outcome.stderr)
        return [f"a reader that left is no error, yet: {said[0][:100]}"] if said else []
    if outcome.code == 0:
        return ["was not refused"] if call.expects == REFUSED else []
    if call.expects == DONE:
        return [f"a good call ended with {outcome.code}: {last_line(outcome.stderr)}"]
    if outcome.code != 2:
        return [f"exit code {outcome.code}: {last_line(outcome.stderr)}"]
    return _of_sentence(call, outcome) if call.stderr == "file" else []


def _of_sentence(call: Call, outcome: Outcome) -> list[str]:
    lines = sentences(outcome.stderr)
    if len(lines) != 1:
        return [f"{len(lines)} lines on stderr: {' / '.join(line[:80] for line in lines[:3])}"]
    line = lines[0]
    if not line.startswith(f"fastinpaint {call.command}: "):
        return [f"the sentence does not begin with the command: {line[:80]}"]
    if len(line) > MOST_CHARACTERS:
        return [f"the sentence has {len(line)} characters"]
    if not line.rstrip().endswith((".", ")", "...")):
        return [f"the sentence has no full stop: {line[-80:]}"]
    return []


def sentences(stderr: str) -> list[str]:
    """The lines of stderr that are neither progress bars nor `prepare`'s notes on single sources."""
    lines = (line.strip() for line in re.split(r"[\r\n]", stderr))
    return [line for line in lines if line and not PROGRESS.search(line) and not line.startswith(NOTES)]


def last_line(text: str) -> str:
    """The last line that says something, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "nothing on stderr"
