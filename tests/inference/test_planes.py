"""Untouched samples: what the encoder is given equals what the decoder gave, in every pixel format."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fastinpaint.errors import UserError
from fastinpaint.inference import Encoding, MaskSettings, Settings, inpaint
from fastinpaint.inference.movie import MovieWriter
from fastinpaint.inference.pixels import layout_of, losses, nearest, samples, what_it_holds, working_format
from fastinpaint.inference.planes import convert, paste
from tests.inference.stubs import Paint

SETTINGS = Settings(frames=4, size=16, device="cpu")
EXACT = MaskSettings(grow=0)
BOX = (9, 7, 13, 11)

WRITABLE = (
    "yuv420p yuv422p yuv444p yuv440p yuv411p yuv410p yuvj420p yuvj444p yuva420p yuva444p yuva444p10le "
    "yuva444p12le yuv420p9le yuv420p10le yuv422p10le yuv444p12le yuv420p10be yuv444p16le nv12 nv21 nv16 "
    "nv24 nv20le p010le p012le p016le p210le p410le yuyv422 uyvy422 yvyu422 y210le y212le vuya vuyx "
    "ayuv64le gray gray10le gray16le gray16be ya8 ya16le gbrp gbrp10le gbrp12le gbrp16le gbrap gbrap12le "
    "rgb24 bgr24 rgba bgra argb abgr rgb0 bgr0 0rgb rgb48le rgb48be bgr48le rgba64le rgba64be "
)

CHANGES = (
    "nv12>yuv420p p010le>yuv420p10le uyvy422>yuv422p gbrp10le>gbrap12le rgb24>gbrp bgra>rgba gray>yuv420p "
    "yuv420p9le>yuv420p10le rgb24>rgb48be yuvj420p>yuv420p gray16be>gray16le yuva444p>yuva444p16le y210le>yuv422p10le"
)


def noise(name: str, width: int = 45, height: int = 31, levels: int = 0, matrix: int = 2) -> av.VideoFrame:
    """Every sample at random, in the format's own samples."""
    picture = av.VideoFrame(width, height, name)
    picture.color_range, picture.colorspace = levels, matrix
    layout = layout_of(name)
    for plane in picture.planes:
        np.frombuffer(plane, np.uint8)[:] = 0
    for view in samples(picture).values():
        values = np.random.default_rng(0).integers(0, 1 << layout.depth, view.shape).astype(np.uint16)
        view[...] = (values << layout.shift).astype(view.dtype)
    return picture


def copied(picture: av.VideoFrame) -> dict[str, np.ndarray]:
    return {kind: view.copy() for kind, view in samples(picture).items()}


def drawn(picture: av.VideoFrame) -> np.ndarray:
    x, y, width, height = BOX
    mask = np.zeros((picture.height, picture.width), bool)
    mask[y : y + height, x : x + width] = True
    mask[0, -1] = mask[-1, -1] = True  # a corner where blocks of chroma are cut
    return mask


@pytest.mark.parametrize("name", WRITABLE.split())
def test_only_samples_that_the_hole_touches_are_written(name):
    picture = noise(name)
    mask, before, layout = drawn(picture), copied(picture), layout_of(name)
    rgb = np.full((picture.height, picture.width, 3), (250, 30, 90), np.uint8)
    paste(picture, rgb, mask)
    touched = np.zeros((-(-picture.height // layout.block_height), -(-picture.width // layout.block_width)), bool)
    for y, x in np.argwhere(mask):
        touched[y // layout.block_height, x // layout.block_width] = True
    for kind, after in samples(picture).items():
        where = {"a": np.zeros_like(mask), "u": touched, "v": touched}.get(kind, mask)
        assert np.array_equal(after[~where], before[kind][~where]), kind
        if kind != "a":
            assert (after[where] != before[kind][where]).mean() > 0.9, kind


@pytest.mark.parametrize(("levels", "name"), [(1, "yuv444p"), (2, "yuv444p"), (0, "yuvj444p"), (1, "yuv444p12le")])
@pytest.mark.parametrize("matrix", [1, 2, 6, 7, 9])
def test_colours_are_written_by_the_matrix_and_range_of_the_source(levels, name, matrix):
    """The inverse is swscale's, which reads the same tags."""
    picture = noise(name, levels=levels, matrix=matrix)
    rgb = np.random.default_rng(1).integers(0, 256, (picture.height, picture.width, 3), np.uint8)
    paste(picture, rgb, np.ones(rgb.shape[:2], bool))
    back = picture.to_ndarray(format="rgb24", interpolation="BILINEAR")
    assert np.abs(back.astype(int) - rgb).max() <= 4  # measured 3; by another matrix, tens


def test_a_block_of_chroma_that_the_hole_cuts_is_the_mean_of_old_and_new():
    picture = noise("yuv420p", 4, 4, levels=2)
    before = copied(picture)
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    paste(picture, np.full((4, 4, 3), 255, np.uint8), mask)
    after = samples(picture)
    assert after["y"][0, 0] == 255
    for kind in "uv":
        assert after[kind][0, 0] == round((3 * int(before[kind][0, 0]) + 127.5) / 4)
        assert np.array_equal(after[kind].ravel()[1:], before[kind].ravel()[1:])


@pytest.mark.parametrize("pair", CHANGES.split())
def test_a_change_of_format_loses_nothing(pair):
    """swscale's own way is off by one level and more between depths, and wrong from gbrp10 to gbrap10."""
    source, target = pair.split(">")
    assert losses(source, target) == []
    picture = noise(source)
    other = convert(picture, target)
    have, want = layout_of(source), layout_of(target)
    for kind, view in samples(picture).items():
        back = samples(other)[kind] >> (want.shift + want.depth - have.depth)
        assert np.array_equal(back, view >> have.shift), kind


@pytest.mark.parametrize("name", ["pal8", "monow", "rgb8", "rgb555le", "x2rgb10le", "xv30le", "uyyvyy411", "gbrpf32le"])
def test_formats_without_whole_bytes_have_a_stand_in(name):
    stand_in = working_format(name)
    assert layout_of(name) is None
    assert layout_of(stand_in) is not None
    assert what_it_holds(stand_in).alpha >= what_it_holds(name).alpha
    with pytest.raises(ValueError, match=f"must have whole bytes a sample, got {name}"):
        samples(av.VideoFrame(16, 16, name))


def test_the_nearest_format_keeps_what_counts_most():
    assert nearest("yuv422p10le", ["yuv420p", "yuv422p", "yuv420p10le", "yuv444p12le"]) == "yuv444p12le"
    assert nearest("bgra", ["yuv420p", "rgb24", "rgba"]) == "rgba"
    assert nearest("gray", ["yuv444p", "yuv420p", "gray10le"]) == "gray10le"
    assert losses("yuva444p10le", "yuv420p") == ["transparency", "full chroma", "10 bits a sample"]


CODECS = [
    ("libx264", "yuv420p", ".mp4"),
    ("libx264", "yuv422p10le", ".mkv"),
    ("libx264rgb", "bgr0", ".mp4"),
    ("libx265", "yuv420p10le", ".mp4"),
    ("libx265", "gbrp", ".mkv"),
    ("libsvtav1", "yuv420p10le", ".mp4"),
    ("libvpx-vp9", "yuva420p", ".webm"),
    ("libvpx", "yuv420p", ".webm"),
    ("prores_ks", "yuva444p10le", ".mov"),
    ("prores_ks", "yuv422p10le", ".mov"),
    ("ffv1", "gray16le", ".mkv"),
    ("ffv1", "bgra", ".mkv"),
    ("mjpeg", "yuvj422p", ".avi"),
    ("mpeg2video", "yuv422p", ".ts"),
    ("mpeg4", "yuv420p", ".mp4"),
    ("huffyuv", "yuv422p", ".avi"),
    ("rawvideo", "uyvy422", ".mov"),
    ("qtrle", "argb", ".mov"),
]


def write_noise(path: Path, encoder: str, name: str, frames: int = 3, size: tuple[int, int] = (64, 48)) -> Path:
    """A clip of noise, encoded well."""
    options = {"ffv1": {}, "libvpx-vp9": {"lossless": "1"}, "mpeg4": {"qmin": "1", "qmax": "1"}}.get(encoder, {})
    with av.open(str(path), "w") as out:
        stream = out.add_stream(encoder, 25, options={"x265-params": "log-level=none"} | options)
        stream.width, stream.height, stream.pix_fmt = *size, name
        if "yuv" in name:
            stream.codec_context.colorspace, stream.codec_context.color_range = 1, 2 if "yuvj" in name else 1
        for t in range(frames):
            picture = noise(name, *size, levels=2 if "yuvj" in name else 1, matrix=1)
            picture.pts, picture.time_base = t, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


def given_to_the_encoder(source: Path, out: Path, monkeypatch, **options) -> list[tuple[str, dict]]:
    """Runs, and notes the samples of every picture as they come to the encoder."""
    seen = []

    class Spy(MovieWriter):
        def _filled(self, *arguments):
            picture = super()._filled(*arguments)
            seen.append((picture.format.name, copied(picture)))
            return picture

    monkeypatch.setattr("fastinpaint.inference.files.MovieWriter", Spy)
    inpaint(Paint(), source, out, boxes=[BOX], settings=SETTINGS, masks=EXACT, notify=lambda _: None, **options)
    return seen


@pytest.mark.parametrize(("encoder", "name", "suffix"), CODECS, ids=[f"{c[0]}-{c[1]}" for c in CODECS])
def test_the_encoder_is_given_the_decoders_samples_and_the_source_keeps_its_codec(
    tmp_path, monkeypatch, encoder, name, suffix
):
    source = write_noise(tmp_path / f"in{suffix}", encoder, name)
    out = tmp_path / f"out{suffix}"
    given = given_to_the_encoder(source, out, monkeypatch)
    decoder = "libvpx-vp9" if name == "yuva420p" else None
    decoded = pictures(source, decoder)
    assert len(given) == len(decoded) == 3
    for (form, got), picture in zip(given, decoded, strict=True):
        expected = copied(convert(picture, form))
        for kind in expected:
            high, wide = (layout_of(form).block_height, layout_of(form).block_width) if kind in "uv" else (1, 1)
            outside = np.ones(expected[kind].shape, bool)
            x, y, width, height = BOX
            if kind != "a":
                outside[y // high : -(-(y + height) // high), x // wide : -(-(x + width) // wide)] = False
            assert np.array_equal(got[kind][outside], expected[kind][outside]), kind
            assert kind == "a" or not np.array_equal(got[kind], expected[kind])
    written = pictures(out, decoder)
    with av.open(str(source)) as before, av.open(str(out)) as after:
        assert after.streams.video[0].codec.canonical_name == before.streams.video[0].codec.canonical_name
    assert what_it_holds(written[0].format.name) == what_it_holds(decoded[0].format.name)
    assert written[0].colorspace == decoded[0].colorspace
    assert written[0].color_range == decoded[0].color_range
    assert worst_psnr(written, decoded) >= 42


def pictures(path: Path, decoder: str | None = None) -> list[av.VideoFrame]:
    with av.open(str(path)) as file:
        if decoder is None:
            return list(file.decode(video=0))
        context = av.CodecContext.create(decoder, "r")
        return [picture for packet in file.demux(video=0) for picture in context.decode(packet)]


def worst_psnr(written: list[av.VideoFrame], decoded: list[av.VideoFrame]) -> float:
    """The worst over frames and kinds of samples, in dB, outside the box and a ring around it."""
    worst = np.inf
    for after, before in zip(written, decoded, strict=True):
        form = working_format(before.format.name)
        layout = layout_of(form)
        have, want = samples(convert(before, form)), samples(convert(after, form))
        for kind in have:
            high, wide = (layout.block_height, layout.block_width) if kind in "uv" else (1, 1)
            outside = np.ones(have[kind].shape, bool)
            outside[: 32 // high, : 40 // wide] = False
            error = (have[kind].astype(float) - want[kind])[outside] / (1 << layout.shift)
            worst = min(worst, 10 * np.log10(((1 << layout.depth) - 1) ** 2 / max(1e-9, np.square(error).mean())))
    return worst


@pytest.mark.parametrize(
    ("encoder", "name", "suffix"),
    [case for case in CODECS if case[0] not in ("mjpeg", "mpeg2video", "mpeg4", "prores_ks", "libvpx", "libsvtav1")]
    + [("prores_ks", "yuv422p10le", ".mov"), ("prores_ks", "yuva444p10le", ".mkv"), ("mpeg2video", "yuv422p", ".ts")],
)
def test_lossless_is_bit_for_bit_in_every_format(tmp_path, encoder, name, suffix):
    source = write_noise(tmp_path / f"in{suffix}", encoder, name)
    out = tmp_path / f"out{suffix}"
    options = {"settings": SETTINGS, "masks": EXACT, "notify": lambda _: None}
    inpaint(Paint(), source, out, boxes=[BOX], encoding=Encoding(lossless=True), **options)
    decoder = "libvpx-vp9" if name == "yuva420p" else None
    assert worst_psnr(pictures(out, decoder), pictures(source, decoder)) > 120


def test_what_an_output_cannot_hold_is_refused_and_dropped_where_asked(tmp_path):
    source = write_noise(tmp_path / "in.mov", "prores_ks", "yuva444p10le")
    options = {"boxes": [BOX], "settings": SETTINGS, "masks": EXACT}
    with pytest.raises(
        UserError, match=r"\.mp4 files cannot hold .*\(yuva444p12le\) without losing transparency; .*mkv"
    ):
        inpaint(Paint(), source, tmp_path / "out.mp4", **options)
    with pytest.raises(UserError, match=r"\.webm files cannot hold .* without loss .*; write a \.mkv file"):
        inpaint(Paint(), source, tmp_path / "out.webm", encoding=Encoding(lossless=True), **options)
    notes = []
    encoding = Encoding(drop_unsupported=True)
    inpaint(Paint(), source, tmp_path / "out.mp4", encoding=encoding, notify=notes.append, **options)
    assert "left out, since .mp4 files cannot hold it: transparency." in notes
    assert any("the source is prores" in note for note in notes)
    assert pictures(tmp_path / "out.mp4")[0].format.name == "yuv444p12le"
