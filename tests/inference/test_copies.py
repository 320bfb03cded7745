"""Stretches without a hole are copied packet for packet, where what comes out decodes to what it should."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import av
import numpy as np
import pytest

from fastinpaint.inference import Encoding, MaskSettings, Settings, inpaint, parse_box
from fastinpaint.inference.copies import Copier
from fastinpaint.inference.groups import find_groups
from tests.inference.movies import smooth_video, traits
from tests.inference.stubs import Paint

SETTINGS = Settings(frames=8, size=16, device="cpu")
FRAMES, GROUP = 40, 8
MOVING = [parse_box("8,8,20,16@0.68"), parse_box("20,16,20,16@0.8")]
"""A box in frames 17 to 20, which are in the third group of five."""
MATRIX = (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
UNEVEN = [512 * t + 37 * (t % 4) for t in range(FRAMES)]


class Kind(NamedTuple):
    """A file by how it is made; `gop` options where the codec has other pictures than key pictures."""

    suffix: str
    encoder: str
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] = MappingProxyType({})
    pts: list[int] | None = None

    def __str__(self) -> str:
        return f"{self.suffix[1:]} {self.encoder}{' uneven' * bool(self.pts)} {' '.join(self.options.values())}"


X264 = {"g": str(GROUP), "sc_threshold": "0"}
X265 = {"x265-params": f"log-level=none:keyint={GROUP}:min-keyint={GROUP}:scenecut=0:open-gop=0"}
AV1 = {"g": str(GROUP), "preset": "12"}
COPIED = [
    Kind(".mp4", "libx264", options=X264),
    Kind(".mp4", "libx264", options={**X264, "bf": "0"}),
    Kind(".mp4", "libx264", options={**X264, "b-pyramid": "none", "bf": "2"}),
    Kind(".mp4", "libx264", options={**X264, "profile": "baseline"}),
    Kind(".mp4", "libx264", options={**X264, "profile": "main"}),
    Kind(".mp4", "libx264", options=X264, pts=UNEVEN),
    Kind(".mp4", "libx264", "yuv420p10le", options=X264),
    Kind(".mov", "libx264", "yuv444p", options=X264),
    Kind(".mkv", "libx264", options=X264),
    Kind(".ts", "libx264", options=X264),
    Kind(".mkv", "libx265", options=X265),
    Kind(".ts", "libx265", "yuv420p10le", options=X265),
    Kind(".webm", "libvpx-vp9", options={"g": str(GROUP), "cpu-used": "8"}),
    Kind(".mkv", "libvpx", options={"g": str(GROUP), "auto-alt-ref": "0"}),
    Kind(".mkv", "libsvtav1", options=AV1),
    Kind(".mp4", "libsvtav1", "yuv420p10le", options=AV1),
    Kind(".avi", "mjpeg", "yuvj420p"),
    Kind(".mov", "prores_ks", "yuv422p10le", options={"profile": "lt"}),
    Kind(".mkv", "ffv1", options={"g": str(GROUP)}),
    Kind(".avi", "huffyuv", "yuv422p"),
]


def write_groups(path: Path, kind: Kind, sound: bool = True, described: bool = False) -> Path:
    """Forty frames in groups of eight, with sound where the container has a plain kind of it."""
    time_base = Fraction(1, 25) if path.suffix == ".avi" else Fraction(1, 12800)
    ticks = [t * round(Fraction(1, 25) / time_base) for t in range(FRAMES)] if kind.pts is None else kind.pts
    with av.open(str(path), "w") as out:
        stream = out.add_stream(kind.encoder, 25, options=dict(kind.options), time_base=time_base)
        stream.width, stream.height, stream.pix_fmt = 64, 48, kind.pix_fmt
        stream.codec_context.color_range = 2 if "yuvj" in kind.pix_fmt else 1
        if described:
            stream.set_display_matrix(MATRIX)
            stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
            stream.codec_context.color_primaries, stream.codec_context.color_trc = 9, 16
            stream.codec_context.colorspace = 9
            stream.metadata["language"] = "fra"
        track = None
        if sound:
            track = out.add_stream("libopus" if path.suffix == ".webm" else "mp2", 48000, layout="mono")
        for tick, rgb in zip(ticks, smooth_video(FRAMES), strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=kind.pix_fmt)
            frame.pts, frame.time_base = tick, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if track is not None:
            wave = (np.sin(np.arange(72000) * 0.05) * 9000).astype(np.int16)[None]
            for part in np.split(wave, 60, 1):
                chunk = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                chunk.sample_rate = 48000
                for each in av.AudioResampler(track.format, "mono", 48000, track.codec_context.frame_size).resample(
                    chunk
                ):
                    each.pts = None
                    out.mux(track.encode(each))
            out.mux(track.encode(None))
    return path


def packets(path: Path) -> list[tuple[Fraction, bytes, bool]]:
    """Time, data and whether it is a key picture, of each picture as presented."""
    with av.open(str(path)) as file:
        found = [(p.pts * p.time_base, bytes(p), p.is_keyframe) for p in file.demux(video=0) if p.size]
    return sorted(found)


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(video=0)]


def run(source: Path, name: str, model=None, **options) -> tuple[Path, list[str], int]:
    out, notes = source.with_name(name), []
    options.setdefault("boxes", MOVING)
    options.setdefault("masks", MaskSettings(grow=0))
    done = inpaint(model or Paint(), source, out, settings=SETTINGS, notify=notes.append, **options)
    return out, notes, done.copied


@pytest.mark.parametrize("kind", COPIED, ids=str)
def test_groups_without_a_hole_are_copied_byte_for_byte(tmp_path, kind):
    source = write_groups(tmp_path / f"in{kind.suffix}", kind)
    out, notes, copied = run(source, f"out{kind.suffix}")
    before, after = packets(source), packets(out)
    inside = [n for n, (_, _, key) in enumerate(before) if key]
    first, last = max(n for n in inside if n <= 17), min(n for n in [*inside, FRAMES] if n > 20)
    assert copied == FRAMES - (last - first), notes
    assert any(f"{copied} of {FRAMES} frames are in stretches without a hole and are copied" in note for note in notes)
    assert [time for time, _, _ in after] == [time for time, _, _ in before]
    for number in [*range(first), *range(last, FRAMES)]:
        again = kind.encoder == "libx265" and kind.suffix == ".mkv" and number == last  # has the source's sets again
        assert after[number][1].endswith(before[number][1][4:]) if again else after[number] == before[number]
    old, new = decoded(source), decoded(out)
    assert len(old) == len(new) == FRAMES
    for number in range(FRAMES):
        if not first <= number < last:
            assert (old[number] == new[number]).all()
        assert np.abs(old[number] - new[number])[:, 44:].max() <= 12
    assert all(np.abs(new[n][20:22, 24:26] - (255, 0, 128)).max() < 40 for n in range(17, 21)), "filled"
    assert traits(out).sound == traits(source).sound
    assert [name.name for name in tmp_path.iterdir() if name.name.startswith(".")] == []


@pytest.mark.parametrize(
    "kind",
    [
        Kind(".mkv", "libx264", options={**X264, "x264-params": "open-gop=1", "bf": "2"}),
        Kind(".mkv", "libx265", options={"x265-params": X265["x265-params"].replace("open-gop=0", "open-gop=1")}),
        Kind(".mp4", "libx264", options={"g": "400"}),
    ],
    ids=["open groups", "open groups of HEVC", "one group"],
)
def test_groups_that_need_each_other_are_encoded(tmp_path, kind):
    source = write_groups(tmp_path / f"in{kind.suffix}", kind)
    out, notes, copied = run(source, f"out{kind.suffix}", encoding=Encoding(smart_copy=True))
    assert copied == 0
    assert notes == ["all frames are encoded: no group of pictures that stands for itself is without a hole."]
    assert len(decoded(out)) == FRAMES


def test_hev1_files_take_copies(tmp_path):
    path = remuxed(tmp_path, "hev1")
    out, _, copied = run(path, "out.mp4")
    assert copied == FRAMES - GROUP
    with av.open(str(out)) as file:
        assert file.streams.video[0].codec_context.codec_tag == "hev1"
    same = [(a == b).all() for a, b in zip(decoded(path), decoded(out), strict=True)]
    assert same == [not 16 <= n < 24 for n in range(FRAMES)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_what_describes_the_pictures_is_kept_beside_copies(tmp_path, suffix):
    source = write_groups(tmp_path / f"in{suffix}", Kind(suffix, "libx264", options=X264), described=True)
    out, _, copied = run(source, f"out{suffix}", boxes=[parse_box("4,4,8,8@0.68"), parse_box("20,20,8,8@0.8")])
    assert copied == FRAMES - GROUP
    told = []
    for path in (source, out):
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            pictures = [next(file.decode(stream)), *list(file.decode(stream))[18:20]]
            colours = [(p.color_primaries, p.color_trc, p.colorspace, p.color_range, p.rotation) for p in pictures]
            shape = stream.sample_aspect_ratio, stream.average_rate, stream.time_base
            told.append((colours, shape, stream.language, stream.codec_context.codec_tag))
    assert told[0][0] == [(9, 16, 9, 1, told[0][0][0][4])] * 3
    assert abs(told[0][0][0][4]) == 90
    assert told[1] == told[0]


def test_copying_can_be_turned_off(tmp_path):
    source = write_groups(tmp_path / "in.mp4", COPIED[0])
    _, notes, copied = run(source, "out.mp4", encoding=Encoding(smart_copy=False))
    assert (notes, copied) == ([], 0)


def remuxed(tmp_path: Path, tag: str) -> Path:
    """HEVC in MP4 under a tag."""
    path = tmp_path / "in.mp4"
    matroska = write_groups(tmp_path / "in.mkv", Kind(".mkv", "libx265", options=X265))
    with av.open(str(matroska)) as file, av.open(str(path), "w") as out:
        target = out.add_stream_from_template(file.streams.video[0], opaque=True)
        target.codec_context.codec_tag = tag
        for packet in file.demux(video=0):
            if packet.size:
                packet.stream = target
                out.mux(packet)
    return path


def test_hvc1_files_are_encoded_since_apples_players_read_its_header_alone(tmp_path):
    path = remuxed(tmp_path, "hvc1")
    _, notes, copied = run(path, "out.mp4", encoding=Encoding(smart_copy=True))
    assert copied == 0
    assert notes == ["all frames are encoded: hvc1 has its parameter sets in the header alone."]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("source", [".mp4", ".mkv", ".ts"])
def test_copies_go_into_other_containers(tmp_path, source, suffix):
    source = write_groups(tmp_path / f"in{source}", COPIED[0])
    out, _, copied = run(source, f"out{suffix}")
    assert copied == FRAMES - GROUP
    old, new = decoded(source), decoded(out)
    assert [(a == b).all() for a, b in zip(old, new, strict=True)] == [not 16 <= n < 24 for n in range(FRAMES)]


def test_avi_files_get_one_frame_rate(tmp_path):
    kind = Kind(".mkv", "ffv1", options={"g": str(GROUP)})
    source = write_groups(tmp_path / "in.mkv", kind, sound=False)
    out, _, copied = run(source, "out.avi")
    assert copied == FRAMES - GROUP
    with av.open(str(out)) as file:
        assert file.streams.video[0].average_rate == 25
        assert [frame.pts * frame.time_base for frame in file.decode(video=0)] == [
            Fraction(t, 25) for t in range(FRAMES)
        ]


def test_lossless_output_copies_where_decoders_follow(tmp_path):
    kinds = [Kind(".mkv", "libx264", options={**X264, "qp": "0"}), Kind(".mkv", "libx265", options=X265), COPIED[12]]
    for kind in kinds:
        source = write_groups(tmp_path / f"in{kind.suffix}", kind)
        options = {"encoding": Encoding(lossless=True), "overwrite": True}
        out, _, copied = run(source, f"out{kind.suffix}", **options)
        assert copied == FRAMES - GROUP
        same = [(a == b).all() for a, b in zip(decoded(source), decoded(out), strict=True)]
        assert same == [not 17 <= n <= 20 for n in range(FRAMES)]
    lossy = write_groups(tmp_path / "lossy.mp4", COPIED[0])
    _, notes, copied = run(lossy, "out.mp4", encoding=Encoding(lossless=True, smart_copy=True))
    assert copied == 0
    assert notes == ["all frames are encoded: decoders do not change between lossless and other H.264 within a stream."]


def test_masks_without_a_hole_in_some_groups_copy_them(tmp_path):
    import cv2

    source = write_groups(tmp_path / "in.mp4", COPIED[0])
    (tmp_path / "masks").mkdir()
    for number in range(FRAMES):
        mask = np.zeros((48, 64), np.uint8)
        mask[8:24, 8:28] = 255 * (number >= 30)
        cv2.imwrite(str(tmp_path / "masks" / f"{number:03d}.png"), mask)
    _, _, copied = run(source, "out.mp4", boxes=[], mask=tmp_path / "masks")
    assert copied == 24


def test_copies_that_do_not_decode_as_they_should_are_noticed_and_all_is_encoded(tmp_path, monkeypatch):
    source = write_groups(tmp_path / "in.mp4", COPIED[0])
    true = Copier._copied

    def damaged(self):
        packet = true(self)
        if self._decoded != 30:
            return packet
        other = av.Packet(bytes(packet)[:-8] + bytes(8))
        other.pts, other.dts, other.time_base, other.duration = (
            packet.pts,
            packet.dts,
            packet.time_base,
            packet.duration,
        )
        return other

    monkeypatch.setattr(Copier, "_copied", damaged)
    out, notes, copied = run(source, "out.mp4")
    assert copied == 0
    assert "so the frames are filled again and all are encoded" in notes[-1]
    assert len(decoded(out)) == FRAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_groups_are_found_where_nothing_before_is_needed(tmp_path):
    closed = find_groups(str(write_groups(tmp_path / "closed.mp4", COPIED[0])))
    assert closed is not None
    assert list(closed.starts) == list(range(0, FRAMES, GROUP))
    assert closed.delay == 2
    holes = np.zeros(FRAMES, bool)
    holes[[7, 39]] = True
    assert list(np.flatnonzero(closed.unchanged(holes))) == list(range(8, 32))
