"""The fastest kinds of the table in docs/video.md still give the table's results."""

import pytest

from tools.inspect.page import table_of
from tools.verify.containers import BEGIN, CASES, END, PAGE, examine, row

SLOW = ("libx265", "libsvtav1", "libvpx", "libvpx-vp9")


@pytest.mark.parametrize("case", [case for case in CASES if case.encoder not in SLOW], ids=lambda c: c.suffix + c.name)
def test_a_kind_of_file_comes_back_as_the_table_says(tmp_path, case):
    found = examine(case, tmp_path)
    assert found.given
    assert found.times
    assert found.sound in (True, None)
    assert found.tags
    assert found.psnr >= 42
    assert found.lossless in ("bit for bit", "refused", "-")
    told = table_of(PAGE, BEGIN, END)
    cells = row(case, found).split("|")
    same = [line.split("|") for line in told.splitlines() if line.startswith("|".join(cells[:3]) + "|")]
    assert len(same) == 1
    assert [*same[0][3:5], *same[0][6:]] == [*cells[3:5], *cells[6:]], (
        "all but the PSNR, which encoders' versions change"
    )


def test_the_table_has_sixty_kinds_and_nothing_differs():
    lines = table_of(PAGE, BEGIN, END).splitlines()[2:]
    assert len(lines) == len(CASES) >= 60
    assert not any("**" in line for line in lines)
