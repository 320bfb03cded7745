"""What inpainting a video file must leave as it was."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fastinpaint.data.video import open_video
from fastinpaint.errors import UserError
from fastinpaint.inference import Encoding, MaskSettings, Settings, inpaint
from tests.inference.movies import pixels, smooth_video, traits, write_movie
from tests.inference.stubs import Paint

SETTINGS = Settings(frames=4, size=16, device="cpu")
EXACT = MaskSettings(grow=0)
BOX = (8, 8, 20, 16)
UNEVEN = [0, 300, 700, 710, 1500, 2600, 2601, 5000, 5512, 6000, 8000, 9999]


def outside() -> np.ndarray:
    mask = np.ones((48, 64), bool)
    mask[6:26, 6:30] = False  # a ring round the box too, where 4:2:0 and the encoder smear its edge
    return mask


def run(source: Path, name: str = "out.mp4", **options) -> Path:
    out = source.with_name(name)
    inpaint(Paint(), source, out, boxes=[BOX], settings=SETTINGS, masks=EXACT, **options)
    return out


@pytest.mark.parametrize("pts", [None, UNEVEN, [tick + 77777 for tick in UNEVEN]], ids=["even", "uneven", "late start"])
@pytest.mark.parametrize("sound_first", [False, True], ids=["video first", "audio first"])
def test_times_and_every_audio_stream_are_kept(tmp_path, pts, sound_first):
    source = write_movie(tmp_path / "in.mp4", smooth_video(), pts=pts, sound=2, sound_first=sound_first)
    before, after = traits(source), traits(run(source))
    assert len(before.pts) == 12
    assert pts is None or before.pts == pts
    assert after.pts == before.pts
    assert after.time_base == before.time_base == Fraction(1, 12800)
    assert len(after.sound) == 2
    assert all(len(track) > 1 for track in after.sound)
    assert after.sound == before.sound


def test_greys_come_back_no_darker(tmp_path):
    ramp = np.arange(0, 256, 4, np.uint8).repeat(48).reshape(64, 48).T[None, ..., None].repeat(3, 3).repeat(2, 0)
    lossless = tmp_path / "in.mkv"
    with av.open(str(lossless), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for frame in ramp:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    with open_video(run(lossless, encoding=Encoding(crf=1))) as reader:
        read = np.stack([frame.rgb for frame in reader])
    difference = read[:, outside()].astype(float) - ramp[:, outside()]
    assert abs(difference.mean()) < 0.1  # measured 0.02; rounding down, 0.5 darker


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 63), (45, 51)])
def test_size_is_kept_odd_or_even(tmp_path, size):
    source = write_movie(tmp_path / "in.mp4", smooth_video(5, *size))
    out = run(source)
    assert traits(out).size == size[::-1]
    assert pixels(out).shape == (5, *size, 3)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_is_kept(clip, rotation):
    source = clip("in.mp4", frames=5, height=48, width=64, rotation=rotation)
    out = source.with_name("out.mp4")
    inpaint(Paint(), source, out, boxes=[(0, 0, 10, 20)], settings=SETTINGS, masks=EXACT)
    assert abs(traits(source).rotation) == abs(rotation)
    assert traits(out).rotation == traits(source).rotation
    assert traits(out).size == (64, 48)


@pytest.mark.parametrize("matrix", [None, (1, 1), (6, 1), (5, 2), (9, 1)], ids=str)
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_pixels_outside_the_hole_and_the_meaning_of_colours_are_kept(tmp_path, matrix, name):
    source = write_movie(tmp_path / "in.mp4", smooth_video(), matrix=matrix)
    out = run(source, name, encoding=Encoding(crf=4))
    difference = pixels(out).astype(int) - pixels(source)
    assert np.abs(difference[:, outside()]).mean() < 1.6
    assert np.abs(difference[:, outside()].mean((0, 1))).max() < 1.5
    assert traits(out).colours == traits(source).colours
    inside = pixels(out)[:, 12:20, 12:24].astype(int)
    assert np.abs(inside - (255, 0, 128)).mean() < 6


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov"])
def test_lossless_is_bit_for_bit(tmp_path, name):
    source = write_movie(tmp_path / "in.mp4", smooth_video(5, 45, 51), sound=1)
    out = run(source, name, encoding=Encoding(lossless=True))
    difference = np.abs(pixels(out).astype(int) - pixels(source))
    difference[:, 8:24, 8:28] = 0
    assert not difference.any()
    inside = pixels(out)[:, 8:24, 8:28].astype(int)
    assert np.abs(inside - (255, 0, 128)).max() <= 3, "as near as 8 bits of YUV can be"
    assert len(traits(out).sound) == 1


def test_a_matroska_source_keeps_its_milliseconds(tmp_path):
    source = write_movie(tmp_path / "in.mkv", smooth_video(), sound=1, pts=[10 * t * t for t in range(12)])
    before, after = traits(source), traits(run(source))
    assert after.time_base == before.time_base == Fraction(1, 1000)
    assert after.pts == before.pts


def test_matroska_output_rounds_times_to_milliseconds(tmp_path):
    source = write_movie(tmp_path / "in.mp4", smooth_video(), pts=UNEVEN, sound=1)
    out = run(source, "out.mkv")
    assert traits(out).pts == [round(tick * 1000 / 12800) for tick in traits(source).pts]
    assert traits(out).sound == traits(source).sound, "the sound's times are whole milliseconds here"


def test_a_gif_becomes_a_video_of_the_same_times(clip):
    source = clip("in.gif", frames=6)
    before, after = traits(source), traits(run(source))
    assert after.pts == before.pts
    assert after.time_base == before.time_base


def test_a_folder_becomes_a_video(clip):
    source = clip("in", frames=6)
    after = traits(run(source))
    assert after.pts == list(range(6))
    assert after.time_base == Fraction(1, 25)


def test_audio_that_the_format_cannot_hold_is_refused_and_matroska_named(tmp_path):
    source = write_movie(tmp_path / "in.avi", smooth_video(5), sound=1, codec="pcm_u8")
    with pytest.raises(UserError, match=r"\.mp4 files cannot hold the source's audio \(pcm_u8\).*\.mkv"):
        run(source)
    assert [path.name for path in tmp_path.iterdir()] == ["in.avi"]
    assert traits(run(source, "out.mkv")).sound


def test_smaller_crf_is_closer(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    source = write_movie(tmp_path / "in.mp4", noise)
    errors = [
        np.abs(pixels(run(source, f"{crf}.mp4", encoding=Encoding(crf=crf))).astype(int) - pixels(source)).mean()
        for crf in (4, 40)
    ]
    assert errors[0] < errors[1] / 2
