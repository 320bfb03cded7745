"""`open_video`: every kind of source, and every kind of bad file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fastinpaint.data.container import ROUNDED, side_data
from fastinpaint.data.reader import DamagedVideo
from fastinpaint.data.video import open_video, upright
from fastinpaint.errors import UserError
from tests.conftest import moving_square

Clip = Callable[..., Path]


def frames_of(path: Path) -> np.ndarray:
    with open_video(path) as reader:
        return np.stack([frame.rgb for frame in reader])


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("clip.mp4", {}, 6),
        ("clip.mkv", {"audio": "last"}, 6),
        ("clip.mp4", {"audio": "first"}, 6),
        ("clip.gif", {}, 90),  # dithered to a palette of 3, 3 and 2 bits
        ("frames", {}, 0),
    ],
    ids=["mp4", "mkv-audio-last", "mp4-audio-first", "gif", "folder"],
)
def test_frames_and_header(clip: Clip, name: str, options: dict, tolerance: int) -> None:
    path = clip(name, frames=12, **options)
    with open_video(path) as reader:
        assert (reader.width, reader.height, reader.rotation) == (64, 48, 0)
        assert reader.length_hint == pytest.approx(12, abs=1)  # Matroska states seconds, sound included
        assert reader.rate == (25 if name == "frames" else 10)
        frames = list(reader)
    got = np.stack([frame.rgb for frame in frames]).astype(int)
    assert got.shape == (12, 48, 64, 3)
    assert np.abs(got - moving_square(12, 48, 64)).max() <= tolerance
    step = 1 / reader.rate
    times = [frame.pts * frame.time_base for frame in frames]
    assert [time - times[0] for time in times] == [t * step for t in range(12)]


@pytest.mark.parametrize("matrix", [1, 6], ids=["BT.709", "BT.601"])
def test_colours_are_those_of_the_standard_to_half_a_level(tmp_path: Path, matrix: int) -> None:
    """Frames with all luma values and one chroma each, stored losslessly and read back."""
    chromas = [(128, 128), (124, 131), (131, 120)]
    with av.open(str(tmp_path / "in.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 220, 16, "yuv420p"
        stream.codec_context.colorspace = matrix
        for u, v in chromas:
            planes = [np.tile(np.arange(16, 236), 16), np.full(110 * 8, u), np.full(110 * 8, v)]
            picture = np.concatenate(planes).astype(np.uint8).reshape(24, 220)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        out.mux(stream.encode(None))
    red, blue = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    y = np.arange(220) / 219
    for (u, v), rgb in zip(chromas, frames_of(tmp_path / "in.mkv"), strict=True):
        r, b = y + 2 * (1 - red) * (v - 128) / 224, y + 2 * (1 - blue) * (u - 128) / 224
        exact = 255 * np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1).clip(0, 1)
        assert np.abs(rgb - exact).max() <= 0.6  # of the greys 0.49; by swscale's default 0.99


def test_audio_first_really_is_stream_zero(clip: Clip) -> None:
    with av.open(str(clip("clip.mp4", audio="first"))) as container:
        assert [stream.type for stream in container.streams] == ["audio", "video"]


def test_uneven_timestamps_are_kept(clip: Clip) -> None:
    stored = [0, 1, 2, 7, 8, 20]
    path = clip("clip.mp4", frames=6, pts=stored)
    with open_video(path) as reader:
        assert [frame.pts * frame.time_base for frame in reader] == [Fraction(p, 10) for p in stored]


def test_missing_timestamps_are_filled_in(clip: Clip, tmp_path: Path) -> None:
    raw = tmp_path / "raw.h264"
    with av.open(str(clip("clip.mp4"))) as source, av.open(str(raw), "w", format="h264") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with open_video(raw) as reader:
        stamps = [frame.pts for frame in reader]
    assert len(stamps) == 12
    assert len({b - a for a, b in itertools.pairwise(stamps)}) == 1
    assert stamps[1] > stamps[0]


def test_repeated_timestamps_are_made_to_rise(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "repeated.mkv"
    with av.open(str(clip("clip.mp4", frames=6))) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for t, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = [0, 100, 100, 100, 300, 400][t]
            out.mux(packet)
    with open_video(path) as reader:
        assert [frame.pts for frame in reader] == [0, 100, 101, 102, 300, 400]


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_told_and_upright_applies_it(clip: Clip, rotation: int) -> None:
    video = moving_square(3, 48, 64)
    with open_video(clip("turned.mp4", video=video, rotation=rotation)) as reader:
        assert abs(reader.rotation) == 180 if rotation == 180 else reader.rotation == rotation
        assert reader.display_matrix is not None
        assert len(reader.display_matrix) == 9
        assert (reader.width, reader.height) == (64, 48)
        stored = next(reader).rgb
    shown = upright(stored, reader.rotation)
    assert shown.shape == ((48, 64, 3) if rotation == 180 else (64, 48, 3))
    corner = {90: (-1, 0), -90: (0, -1), 180: (-1, -1)}[rotation]  # where the stored top left pixel is shown
    assert np.array_equal(shown[corner], stored[0, 0])
    assert not np.array_equal(shown[corner], stored[0, -1])


def test_natural_order_and_other_files_left_aside(clip: Clip) -> None:
    folder = clip("frames", frames=12)
    (folder / "notes.txt").write_text("not a frame")
    (folder / ".hidden.png").write_bytes(b"")
    assert np.array_equal(frames_of(folder), moving_square(12, 48, 64))


def test_one_image_is_a_video_of_one_frame(clip: Clip) -> None:
    folder = clip("frames", frames=2)
    assert np.array_equal(frames_of(folder / "frame1.png"), moving_square(2, 48, 64)[1:])


def test_closed_reader_gives_nothing_more(clip: Clip) -> None:
    for name in ("clip.mp4", "frames"):
        with open_video(clip(name)) as unread:
            pass
        assert list(unread) == []
        with open_video(clip("again" + name)) as reader:
            next(reader)
        assert list(reader) == []


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.mp4: no such file or folder\.$"):
        open_video(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("content", [b"", b"This is a letter, not a film.\n" * 50], ids=["empty", "text"])
def test_not_a_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.mp4: not a video that can be read: [a-z].*\.$"):
        open_video(path)


def test_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with pytest.raises(UserError, match=r"sound\.mp4: a video stream is needed; this file holds audio\.$"):
        open_video(path)


def test_stream_without_frames(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "hollow.mkv"
    with av.open(str(clip("clip.mp4"))) as source, av.open(str(path), "w") as out:
        out.add_stream_from_template(source.streams.video[0])
        out.start_encoding()
    with pytest.raises(UserError, match=r"hollow\.mkv: not a video that can be read: end of file\.$"):
        open_video(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif"])
def test_truncated_gives_what_there_is_and_then_tells(clip: Clip, suffix: str) -> None:
    path = clip(f"long{suffix}", frames=30, video=np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8))
    if suffix == ".mp4":
        path = _index_first(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    came = []
    with open_video(path) as reader, pytest.raises(DamagedVideo) as caught:
        came.extend(reader)
    got = len(came)
    assert 5 < got < 30
    assert caught.value.frames_read == got
    assert str(caught.value).startswith(f"{path}: ")
    assert f"{got} frames could be read" in str(caught.value)


def _index_first(path: Path) -> Path:
    moved = path.with_name("moved.mp4")
    with av.open(str(path)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return moved


def test_truncated_between_two_frames(clip: Clip) -> None:
    """All data that is read is valid; only the file's index shows that frames are missing."""
    path = _index_first(clip("clip.mp4", frames=30))
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0)][18]
    os.truncate(path, place)
    with open_video(path) as reader, pytest.raises(DamagedVideo, match=r"cut short: 18 frames .* read of 30\.$"):
        list(reader)


def test_truncated_before_the_index_cannot_be_opened(clip: Clip) -> None:
    path = clip("clip.mp4")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"clip\.mp4: not one frame can be decoded; the file is empty or damaged\.$"):
        open_video(path)


def test_broken_data_in_the_middle(clip: Clip) -> None:
    path = clip("clip.mp4", frames=30)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    middle = len(data) // 2
    assert middle > start
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    with open_video(path) as reader, pytest.raises(DamagedVideo, match=r"damaged|cut short") as caught:
        list(reader)
    assert caught.value.frames_read < 30


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a folder of frames must hold images \(\.bmp .*\); this one holds none\.$"):
        open_video(tmp_path)


def test_folder_with_frames_of_two_sizes(clip: Clip) -> None:
    folder = clip("frames", frames=4)
    clip("other", frames=1, height=20, width=30).joinpath("frame0.png").replace(folder / "frame2.png")
    with open_video(folder) as reader, pytest.raises(UserError, match=r"frame2\.png: .* 64x48 .* this one is 30x20\.$"):
        list(reader)


def test_broken_image(clip: Clip) -> None:
    folder = clip("frames", frames=3)
    (folder / "frame1.png").write_bytes(b"no picture")
    with open_video(folder) as reader, pytest.raises(UserError, match=r"frame1\.png: not an image"):
        list(reader)


def test_side_data_of_a_kind_that_pyav_lacks_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))  # FFmpeg reports its resolution as EXIF
    with av.open(str(path)) as file:
        picture = next(file.decode(video=0))
        assert side_data(picture) == {}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_with_its_own_picture_too(tmp_path: Path, orientation: int) -> None:
    """EXIF turns an image as OpenCV reads it; the decoder's picture must be the same way up."""
    data = cv2.imencode(".jpg", moving_square(1, 48, 48)[0], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    entry = b"\x01\x12\0\3\0\0\0\1" + bytes([0, orientation, 0, 0])
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + entry + bytes(4)
    (tmp_path / "in.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    plain = frames_of(tmp_path / "in.jpg")[0]
    with open_video(tmp_path / "in.jpg", keep_pictures=True) as reader:
        frame = next(reader)
    assert np.abs(frame.rgb.astype(int) - plain).max() <= 6  # two decoders; turned otherwise, about 190
    assert np.array_equal(frame.picture.to_ndarray(format="rgb24", interpolation=ROUNDED), frame.rgb)
