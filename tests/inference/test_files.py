"""Files in, files out: what is written, what is refused, and that nothing half-written is left."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fastinpaint.data.video import open_video
from fastinpaint.errors import UserError
from fastinpaint.inference import Encoding, MaskSettings, Settings, inpaint
from tests.inference.movies import write_movie
from tests.inference.stubs import Fail, Paint

SETTINGS = Settings(frames=4, size=16, device="cpu")
EXACT = MaskSettings(grow=0)
BOX = (8, 8, 20, 16)


def run(model, source: Path, out: Path, **options) -> None:
    options.setdefault("boxes", None if "mask" in options else [BOX])
    options.setdefault("masks", EXACT)
    inpaint(model, source, out, settings=SETTINGS, **{k: v for k, v in options.items() if v is not None})


def decoded(path: Path) -> np.ndarray:
    with open_video(path) as reader:
        return np.stack([frame.rgb for frame in reader])


def write_masks(folder: Path, count: int, hole: bool = True) -> Path:
    folder.mkdir()
    mask = np.zeros((48, 64), np.uint8)
    if hole:
        mask[8:24, 8:28] = 255
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:03d}.png"), mask)
    return folder


@pytest.mark.parametrize("name", ["in.mp4", "in.gif", "in"])
def test_png_frames_equal_the_source_bit_for_bit_outside_the_mask(clip, tmp_path, name):
    source = clip(name, frames=7)
    run(Paint(), source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{index:06d}.png" for index in range(7)]
    expected = decoded(source)
    expected[:, 8:24, 8:28] = (255, 0, 128)
    assert (decoded(tmp_path / "out") == expected).all()


def test_what_was_written_is_returned(clip, tmp_path):
    done = inpaint(Paint(), clip("in.mp4", frames=7), tmp_path / "out", boxes=[BOX], settings=SETTINGS, masks=EXACT)
    assert done == (tmp_path / "out", 7, 64, 48, 0)


@pytest.mark.parametrize("out", ["out.mp4", "out"])
@pytest.mark.parametrize("kind", ["folder", "video"])
@pytest.mark.parametrize("count", [3, 11])
def test_too_few_masks_are_an_error_that_names_both_counts(clip, tmp_path, out, kind, count):
    source = clip("in.mp4", frames=12)
    mask = write_masks(tmp_path / "masks", count)
    if kind == "video":
        mask = clip("masks.mp4", video=decoded(mask))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=rf"there are {count} masks for the 12 frames of .*in\.mp4"):
        run(Paint(), source, tmp_path / out, mask=mask)
    assert sorted(tmp_path.iterdir()) == before


def test_too_few_masks_are_found_before_the_work_where_the_files_tell(clip, tmp_path):
    model = Paint()
    with pytest.raises(UserError, match="11 masks for the 12 frames"):
        run(model, clip("in.mp4", frames=12), tmp_path / "out", mask=write_masks(tmp_path / "masks", 11))
    assert not model.seen


def test_too_few_masks_are_found_where_no_file_tells(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("fastinpaint.inference.files._check_lengths", lambda *_: None)
    before = [clip("in.mp4", frames=12), write_masks(tmp_path / "masks", 9)]
    with pytest.raises(UserError, match="9 masks for the 12 frames"):
        run(Paint(), before[0], tmp_path / "out", mask=before[1])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("out", ["out.mp4", "out"])
@pytest.mark.parametrize("known", [True, False], ids=["known before", "found at the end"])
def test_more_masks_than_frames_are_an_error_that_says_what_to_do(clip, tmp_path, monkeypatch, out, known):
    if not known:
        monkeypatch.setattr("fastinpaint.inference.files._check_lengths", lambda *_: None)
    source, masks = clip("in.mp4", frames=5), write_masks(tmp_path / "masks", 7)
    expected = (
        "there are 7 masks for the 5 frames of .*; --mask-start 0 leaves out the last 2, --mask-start -2 the first"
    )
    with pytest.raises(UserError, match=expected):
        run(Paint(), source, tmp_path / out, mask=masks)
    assert sorted(tmp_path.iterdir()) == [source, masks]
    run(Paint(), source, tmp_path / out, mask=masks, masks=MaskSettings(grow=0, start=0))
    assert len(decoded(tmp_path / out)) == 5


def test_masks_at_another_rate_are_an_error_that_names_both(clip, tmp_path):
    source = clip("in.mp4", frames=5)
    masks = clip("masks.mp4", video=np.full((10, 48, 64, 3), 255, np.uint8), rate=20)
    expected = r"10 masks for the 5 frames of .*in\.mp4 \(20 against 10 a second\); --mask-step 2 uses one in 2"
    with pytest.raises(UserError, match=expected):
        run(Paint(), source, tmp_path / "out", mask=masks)
    with pytest.raises(UserError, match=r"5 masks for the 10 frames of .*; --mask-hold 2 shows each for 2 frames"):
        run(Paint(), masks, tmp_path / "out", mask=source)


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_masks_that_are_all_black_are_an_error(clip, tmp_path, out):
    source, mask = clip("in.mp4", frames=12), write_masks(tmp_path / "masks", 12, hole=False)
    with pytest.raises(UserError, match="masks: the mask must have a white pixel"):
        run(Paint(), source, tmp_path / out, mask=mask)
    assert sorted(tmp_path.iterdir()) == [source, mask]


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv", "out"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("planned")], ids=["interrupt", "error"])
@pytest.mark.parametrize("after", [0, 2])
def test_an_error_leaves_nothing(clip, tmp_path, out, error, after):
    source = clip("in.mp4", frames=12, audio="first")
    with pytest.raises(type(error)):
        run(Fail(error, after), source, tmp_path / out)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_ctrl_c_leaves_nothing(clip, tmp_path, out):
    class Interrupted(Paint):
        def forward(self, video, mask):
            if self.seen:
                signal.raise_signal(signal.SIGINT)
            return super().forward(video, mask)

    source = clip("in.mp4", frames=12)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(Interrupted(), source, tmp_path / out)
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_a_source_that_breaks_off_leaves_nothing(clip, tmp_path, out):
    source = write_movie(tmp_path / "in.mkv", np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8))
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    model = Paint()
    with pytest.raises(UserError, match=r"in\.mkv: (cut short|damaged)"):
        run(model, source, tmp_path / out)
    assert model.seen, "it was read and worked on up to there"
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_a_failed_run_keeps_the_output_that_was_there(clip, tmp_path, out):
    source = clip("in.mp4", frames=12)
    run(Paint(), source, tmp_path / out)
    before = decoded(tmp_path / out)
    with pytest.raises(RuntimeError):
        run(Fail(RuntimeError("planned"), 1), source, tmp_path / out, overwrite=True)
    assert (decoded(tmp_path / out) == before).all()
    with pytest.raises(UserError, match="exists already; --overwrite replaces it"):
        run(Paint(), source, tmp_path / out)
    run(Paint(0.0, 1.0, 0.0), source, tmp_path / out, overwrite=True)
    assert np.abs(decoded(tmp_path / out)[:, 12:20, 12:24].astype(int) - (0, 255, 0)).max() < 20
    assert sorted(tmp_path.iterdir()) == sorted([source, tmp_path / out])


def test_a_folder_with_other_things_is_not_overwritten(clip, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear")
    with pytest.raises(UserError, match=r"only a folder of frames .*diary\.txt"):
        run(Paint(), clip("in.mp4"), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "diary.txt").read_text() == "dear"


def test_the_output_may_not_be_an_input(clip, tmp_path):
    source = clip("in.mp4")
    before = source.read_bytes()
    link = tmp_path / "link.mp4"
    link.symlink_to(source)
    for out in (source, link):
        with pytest.raises(UserError, match="the output must not be the input"):
            run(Paint(), source, out, overwrite=True)
    masks = write_masks(tmp_path / "masks", 12)
    with pytest.raises(UserError, match="the output must not be the input"):
        run(Paint(), source, masks, mask=masks, overwrite=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("out.wmv", r"must be a \.mp4, .*\.mkv, .* file or a folder"),
        ("nowhere/out.mp4", "there is no folder .*nowhere to write to"),
    ],
)
def test_outputs_that_cannot_be_are_refused(clip, tmp_path, out, message):
    with pytest.raises(UserError, match=message):
        run(Paint(), clip("in.mp4"), tmp_path / out)


def test_a_crf_that_cannot_be_is_refused(clip, tmp_path):
    with pytest.raises(UserError, match="crf must be from 0 to 51, got 52"):
        run(Paint(), clip("in.mp4"), tmp_path / "out.mp4", encoding=Encoding(crf=52))


@pytest.fixture
def small_files():
    """No file can grow beyond 6,000 bytes, as on a disk that is nearly full."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv", "out"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(clip, tmp_path, request, out):
    noise = np.random.default_rng(0).integers(0, 256, (24, 48, 64, 3), np.uint8)
    source = clip("in.mp4", video=noise)
    request.getfixturevalue("small_files")
    with pytest.raises(UserError, match=r"out.*: cannot be written: File too large") as caught:
        run(Paint(), source, tmp_path / out, encoding=Encoding(lossless=True))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


PEAK = """
import sys
from pathlib import Path
from fastinpaint.inference import Settings, inpaint, pipeline
from tests.inference.stubs import Paint
pipeline.MOST = 8  # so that the queues are full after a few frames
source, *outputs = sys.argv[1:]
for out in outputs:
    inpaint(Paint(), source, out, boxes=[(8, 8, 20, 16)], settings=Settings(frames=8, size=16, device="cpu"))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
HELD = 160 * 120 * 5.5
"""Bytes of a frame as RGB, as the decoder's picture, and of its mask."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_does_not_grow_with_length(clip, tmp_path):
    peaks, lengths = [], (256, 768)
    for frames in lengths:
        video = np.random.default_rng(0).integers(0, 256, (1, 120, 160, 3), np.uint8).repeat(frames, 0)
        source = clip(f"{frames}.mp4", video=video, audio="first")
        command = [sys.executable, "-c", PEAK, source, tmp_path / f"{frames}_out.mp4", tmp_path / f"{frames}_out"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert len(list((tmp_path / f"{frames}_out").iterdir())) == frames
        peaks.append(1024 * int(done.stdout))
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] - peaks[0] < 0.4 * HELD * (lengths[1] - lengths[0]), peaks
