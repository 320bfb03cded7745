"""`prepare`: complete runs on small generated clips."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fastinpaint.cli import main
from fastinpaint.data import prepare as room
from fastinpaint.data.dataset import VideoSamples
from fastinpaint.data.prepare import PrepareConfig, prepare
from fastinpaint.data.store import ClipWriter
from fastinpaint.data.synthetic import synthetic_clip
from fastinpaint.errors import UserError
from tests.data.test_crops import face_video

Clip = Callable[..., Path]

SMALL = PrepareConfig(frames=4, size=16)


def samples_of(data: Path, split: str) -> np.ndarray:
    return np.stack(list(VideoSamples(data, split)))


def everything(data: Path) -> dict[str, bytes]:
    return {str(p.relative_to(data)): p.read_bytes() for p in sorted(data.rglob("*")) if p.is_file()}


@pytest.fixture
def clips(clip: Clip, tmp_path: Path) -> Path:
    """Six clips of 8 to 13 frames, in files of three kinds."""
    for i in range(6):
        name = f"clips/{['a.mp4', 'b.mkv', 'c.gif', 'frames', 'e.mp4', 'f.mp4'][i]}"
        clip(name, video=synthetic_clip(i, 8 + i, 48))
    return tmp_path / "clips"


def test_samples_are_the_frames_of_the_clip(clip: Clip, tmp_path: Path) -> None:
    video = synthetic_clip(0, 11, 48)
    config = PrepareConfig(frames=4, size=48)
    summary = prepare(
        config, [clip("one", video=video), clip("two", video=synthetic_clip(1, 5, 48))], tmp_path / "data"
    )
    assert (summary.clips, summary.train, summary.val) == (2, 2, 1)
    assert np.array_equal(samples_of(tmp_path / "data", "train"), np.stack([video[0:4], video[4:8]]))
    assert np.array_equal(samples_of(tmp_path / "data", "val"), synthetic_clip(1, 5, 48)[None, :4])


def test_mean_pixel_is_that_of_the_training_split(clips: Path, tmp_path: Path) -> None:
    prepare(SMALL, [clips], tmp_path / "data")
    train = VideoSamples(tmp_path / "data", "train")
    assert train.mean_pixel == pytest.approx(tuple(np.stack(list(train)).reshape(-1, 3).mean(0) / 255), abs=1e-12)
    assert train.mean_pixel != pytest.approx(tuple(samples_of(tmp_path / "data", "val").reshape(-1, 3).mean(0) / 255))


def test_every_kind_of_source_and_the_index(clips: Path, tmp_path: Path) -> None:
    summary = prepare(SMALL, [clips], tmp_path / "data")
    index = json.loads((tmp_path / "data" / "index.json").read_text())
    assert [Path(clip["name"]).name for clip in index["clips"]] == [
        "a.mp4",
        "b.mkv",
        "c.gif",
        "e.mp4",
        "f.mp4",
        "frames",
    ]
    assert [clip["samples"] for clip in index["clips"]] == [2, 2, 2, 3, 3, 2]
    assert summary.train + summary.val == 14
    assert summary.val == 2
    assert (index["frames"], index["size"], index["crop"], index["stride"]) == (4, 16, "center", 4)


def test_stride(clip: Clip, tmp_path: Path) -> None:
    config = PrepareConfig(frames=4, size=48, stride=3)
    prepare(config, [clip("one", video=synthetic_clip(0, 11, 48))], tmp_path / "data")
    index = json.loads((tmp_path / "data" / "index.json").read_text())
    assert index["clips"][0]["starts"] == [0, 3, 6]


def test_no_sample_crosses_a_cut(clip: Clip, tmp_path: Path) -> None:
    video = np.concatenate([synthetic_clip(i, n, 48) for i, n in enumerate([6, 3, 9])])
    summary = prepare(PrepareConfig(frames=4, size=48), [clip("cut", video=video)], tmp_path / "data")
    index = json.loads((tmp_path / "data" / "index.json").read_text())
    assert index["clips"][0]["starts"] == [0, 9, 13]
    assert index["clips"][0]["scenes"] == 3
    assert summary.train + summary.val == 3


def test_rotated_video_is_upright(clip: Clip, tmp_path: Path) -> None:
    video = synthetic_clip(0, 4, 48)
    plain, turned = clip("plain.mp4", video=video), clip("turned.mp4", video=video, rotation=90)
    for name, path in (("a", plain), ("b", turned)):
        prepare(PrepareConfig(frames=4, size=48), [path], tmp_path / name)
    a, b = (samples_of(tmp_path / name, "train")[0] for name in "ab")
    assert np.array_equal(np.rot90(a, axes=(1, 2)), b)


def test_box_and_face_crops(clip: Clip, tmp_path: Path) -> None:
    video = face_video([(200, 110)] * 4)
    folder = clip("people", video=video)
    prepare(PrepareConfig(frames=4, size=32, crop="box", box=(150, 60, 32, 32)), [folder], tmp_path / "box")
    assert np.array_equal(samples_of(tmp_path / "box", "train")[0], video[:, 60:92, 150:182])
    prepare(PrepareConfig(frames=4, size=32, crop="face"), [folder], tmp_path / "face")
    x, y, side = json.loads((tmp_path / "face" / "index.json").read_text())["clips"][0]["squares"][0]
    assert abs(x + side / 2 - 200) < 12
    assert abs(y + side / 2 - 110) < 25


def test_bad_and_short_files_are_named_skipped_and_counted(
    clips: Path, clip: Clip, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (clips / "broken.mp4").write_bytes(b"not a film")
    clip("clips/short.gif", frames=3)
    cut = clip("clips/cut.gif", video=synthetic_clip(9, 20, 48))
    cut.write_bytes(cut.read_bytes()[:-3000])
    assert main(["prepare", str(clips), "--out", str(tmp_path / "data"), "--frames", "4", "--size", "16"]) == 0
    out, err = capfd.readouterr()
    summary = "6 clips gave 14 samples: 12 to train, 2 to validate; 1 clip gave none; 2 files could not be read."
    assert out == f"{tmp_path / 'data'}: {summary}\n"
    assert f"skipped: {clips / 'broken.mp4'}: not a video" in err
    assert f"skipped: {cut}: cut short: " in err
    assert f"no sample: {clips / 'short.gif'}: its longest scene has 3 frames, a sample needs 4." in err
    assert "Traceback" not in err


def test_no_face_is_told(clip: Clip, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^nothing to train on in 1 source: 0 files .*, 1 gave no sample\.$"):
        prepare(PrepareConfig(frames=4, size=16, crop="face"), [clip("a.mp4")], tmp_path / "data")
    assert "no face of 8 pixels or more stays in view." in capfd.readouterr().err


def test_box_outside_one_clip_names_it(clip: Clip, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = PrepareConfig(frames=4, size=16, crop="box", box=(0, 0, 40, 40))
    small, large = clip("small.mp4", height=32), clip("large.mp4")
    assert prepare(config, [small, large], tmp_path / "data").bad == [
        f"{small}: the box 0,0,40,40 must lie in the frame, which is 64x32."
    ]


def test_the_same_command_again_reads_no_clip(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(SMALL, [clips], tmp_path / "data")
    before = everything(tmp_path / "data")
    monkeypatch.setattr(room, "open_video", lambda path: pytest.fail(f"{path} was opened"))
    prepare(SMALL, [clips], tmp_path / "data")
    assert everything(tmp_path / "data") == before


def test_a_changed_clip_is_cut_again(clip: Clip, clips: Path, tmp_path: Path) -> None:
    prepare(SMALL, [clips], tmp_path / "data")
    clip("clips/a.mp4", video=synthetic_clip(50, 16, 48))
    summary = prepare(SMALL, [clips], tmp_path / "data")
    assert summary.train + summary.val == 16  # four samples of that clip in place of two
    fresh = tmp_path / "fresh"
    prepare(SMALL, [clips], fresh)
    assert everything(fresh) == everything(tmp_path / "data")


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["ctrl-c", "full disk"]
)
def test_stopped_leaves_no_half_file_and_continues(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    data, fresh = tmp_path / "data", tmp_path / "fresh"
    write, calls = ClipWriter.append, [0]

    def append(self: object, sample: np.ndarray) -> None:
        calls[0] += 1
        if calls[0] == 6:
            raise stop
        write(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(ClipWriter, "append", append)
        with pytest.raises((KeyboardInterrupt, UserError)) as caught:
            prepare(SMALL, [clips], data)
    if isinstance(stop, OSError):
        assert str(caught.value).endswith("cannot be read or written: No space left on device.")
    assert len(list((data / "clips").glob("*.npy"))) == 2
    assert not list(data.rglob("*.part"))
    with pytest.raises(UserError, match="preparing was not finished; give the same"):
        VideoSamples(data)
    prepare(SMALL, [clips], data)
    prepare(SMALL, [clips], fresh)
    assert everything(data) == everything(fresh)


def test_killed_and_continued(clips: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a clip: the partial array is removed, finished clips are kept."""
    data, fresh = tmp_path / "data", tmp_path / "fresh"
    slow = (
        "import sys, time; from fastinpaint.data.store import ClipWriter; from fastinpaint.data.prepare import *\n"
        "append = ClipWriter.append\n"
        "def wait(self, sample): append(self, sample); self.file.flush(); time.sleep(0.15)\n"
        "ClipWriter.append = wait; prepare(PrepareConfig(frames=4, size=16), [sys.argv[1]], sys.argv[2])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, str(clips), str(data)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        os.kill(process.pid, signal.SIGSTOP)  # so that nothing changes between the check and the kill
        if len(list(data.glob("clips/*.json"))) >= 2 and list(data.glob("clips/.*.part")):
            break
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(data.glob("clips/*.part"))
    assert not (data / "index.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in data.glob("clips/*.npy")}
    prepare(SMALL, [clips], data)
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items())
    prepare(SMALL, [clips], fresh)
    assert everything(data) == everything(fresh)


def test_other_settings_need_another_folder(clips: Path, tmp_path: Path) -> None:
    prepare(SMALL, [clips], tmp_path / "data")
    with pytest.raises(UserError, match=r"holds samples with size 16, these would have 20; choose another --out"):
        prepare(PrepareConfig(frames=4, size=20), [clips], tmp_path / "data")


def test_foreign_folder_is_left_alone(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(UserError, match=r"must be a new or empty folder, or one written by"):
        prepare(SMALL, [clips], tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_the_seed_draws_the_split_and_keeps_the_samples(clips: Path, tmp_path: Path) -> None:
    splits = set()
    for seed in range(8):
        prepare(PrepareConfig(frames=4, size=16, seed=seed), [clips], tmp_path / "data")
        splits.add(str(json.loads((tmp_path / "data" / "index.json").read_text())["val"]))
    assert len(splits) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "0"], r"--frames: must be a whole number from 1 to 4096, got '0'"),
        (["--stride", "-2"], r"--stride: must be a whole number from 1 to 1e6, got '-2'"),
        (["--crop", "head"], r"--crop must be one of center, box, face; got 'head'\."),
        (["--crop", "box"], r"--crop box and --box x,y,w,h go together"),
        (["--box", "1,2,3,3"], r"--crop box and --box x,y,w,h go together; got --crop center"),
        (["--crop", "box", "--box", "1,2,3"], r"--box: must be four whole numbers x,y,w,h in pixels, got '1,2,3'"),
        (["--crop", "box", "--box", "0,0,30,20"], r"--box must be a square, as the samples are; got 30x20\."),
    ],
)
def test_bad_options(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["prepare", str(clips), "--out", str(tmp_path / "data"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err)
    assert not (tmp_path / "data").exists()


def test_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no video, GIF or folder of frames found in .*empty\.$"):
        prepare(SMALL, [tmp_path / "empty"], tmp_path / "data")
    assert not (tmp_path / "data").exists()
