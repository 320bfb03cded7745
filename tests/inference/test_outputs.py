"""The kinds of output: stills, folders, GIF and APNG; HDR's side data; sources that are refused."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fastinpaint.data.container import ROUNDED
from fastinpaint.errors import UserError
from fastinpaint.inference import Encoding, MaskSettings, Settings, inpaint
from fastinpaint.inference.pixels import samples
from tests.inference.movies import pixels, smooth_video
from tests.inference.stubs import Paint

SETTINGS = Settings(frames=4, size=16, device="cpu")
EXACT = MaskSettings(grow=0)
BOX = (8, 8, 20, 16)
IMAGES = {
    "gray.png": (np.uint8, 0),
    "gray16.png": (np.uint16, 0),
    "rgb.png": (np.uint8, 3),
    "rgb16.png": (np.uint16, 3),
    "rgba.png": (np.uint8, 4),
    "rgba16.png": (np.uint16, 4),
    "rgb.tiff": (np.uint8, 3),
    "rgb16.tiff": (np.uint16, 3),
    "rgb.webp": (np.uint8, 3),
    "rgb.bmp": (np.uint8, 3),
}


def run(source: Path, name: str, **options) -> Path:
    out = source.with_name(name)
    options.setdefault("notify", lambda _: None)
    inpaint(Paint(), source, out, boxes=[BOX], settings=SETTINGS, masks=EXACT, **options)
    return out


def outside(image: np.ndarray) -> np.ndarray:
    kept = np.ones(image.shape[:2], bool)
    kept[8:24, 8:28] = False
    return image[kept]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("out", ["out.png", "out.tiff"])
def test_a_still_keeps_depth_grey_transparency_and_every_sample(tmp_path, name, out):
    dtype, channels = IMAGES[name]
    shape = (48, 64, channels) if channels else (48, 64)
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    source = tmp_path / name
    cv2.imwrite(str(source), image, [cv2.IMWRITE_WEBP_QUALITY, 101] if name.endswith("webp") else [])
    after = cv2.imread(str(run(source, out)), cv2.IMREAD_UNCHANGED)
    assert (after.shape, after.dtype) == (image.shape, image.dtype)
    assert np.array_equal(outside(after), outside(image))
    assert not np.array_equal(after, image)
    if channels == 4:
        assert np.array_equal(after[..., 3], image[..., 3])
    if channels:
        top = np.iinfo(dtype).max
        assert np.array_equal(after[10, 10, :3], np.rint(np.array([128, 0, 255]) / 255 * top).astype(dtype))


def test_a_jpeg_keeps_its_planes_to_the_encoder_and_42_db(tmp_path):
    image = np.clip(np.random.default_rng(0).normal(128, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
    source = tmp_path / "in.jpg"
    cv2.imwrite(str(source), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    before, after = cv2.imread(str(source)), cv2.imread(str(run(source, "out.jpg")))
    error = (before.astype(float) - after)[:, 32:]  # away from the hole, whose chroma reaches into its neighbours
    assert 10 * np.log10(255**2 / np.square(error).mean()) > 42


def test_a_jpeg_of_an_opaque_png_with_an_alpha_channel(tmp_path):
    image = np.full((48, 64, 4), 200, np.uint8)
    image[..., 3] = 255
    cv2.imwrite(str(tmp_path / "in.png"), image)
    assert cv2.imread(str(run(tmp_path / "in.png", "out.jpg"))).shape == (48, 64, 3)
    image[0, 0, 3] = 0
    cv2.imwrite(str(tmp_path / "in.png"), image)
    with pytest.raises(UserError, match=r"\.jpg files cannot hold .*\(rgba\) without losing transparency"):
        run(tmp_path / "in.png", "other.jpg")


def test_a_still_holds_one_frame(clip, tmp_path):
    with pytest.raises(UserError, match=r"\.png holds one image, and .*in\.mp4 has more frames"):
        run(clip("in.mp4", frames=3), "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def write_deep(
    path: Path, form: str = "yuv420p10le", encoder: str = "libx265", params: str = "", tags=(9, 16, 9)
) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(encoder, 25, options={"x265-params": f"log-level=none:lossless=1{params}"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, form
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = tags
        context.color_range = 1
        for t in range(4):
            picture = av.VideoFrame(64, 48, form)
            for kind, view in samples(picture).items():
                view[...] = np.arange(view.size).reshape(view.shape) % 800 + 64 + t + (kind == "u")
            picture.pts, picture.time_base = t, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("image_format", ["png", "tiff"])
def test_a_folder_of_frames_has_sixteen_bits_for_a_deep_source(tmp_path, image_format):
    source = write_deep(tmp_path / "in.mp4")
    out = run(source, "frames", encoding=Encoding(image_format=image_format))
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"{t:06d}.{image_format}" for t in range(4)]
    with av.open(str(source)) as file:
        for name, picture in zip(names, file.decode(video=0), strict=True):
            image = cv2.imread(str(out / name), cv2.IMREAD_UNCHANGED)[..., ::-1]
            assert image.dtype == np.uint16
            expected = picture.reformat(format="rgb48le", interpolation=ROUNDED).to_ndarray()
            assert np.abs(outside(image.astype(int) - expected)).max() == 0
            assert len(np.unique(image[:, 40:])) > 256
            assert image[10, 10].tolist() == [65535, 0, 128 * 257]


MASTERING = ":master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov", "out.ts"])
def test_hdr10_keeps_its_tags_and_side_data(tmp_path, name):
    source = write_deep(tmp_path / "in.mp4", params=MASTERING)
    told = []
    for path in (source, run(source, name)):
        with av.open(str(path)) as file:
            picture = next(file.decode(video=0))
            sides = {side.type.name: bytes(side) for side in picture.side_data}
            assert {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"} <= set(sides)
            light = fractions(sides["MASTERING_DISPLAY_METADATA"])
            tags = (picture.color_primaries, picture.color_trc, picture.colorspace, picture.color_range)
            told.append((picture.format.name, tags, light, sides["CONTENT_LIGHT_LEVEL"][:8]))
    assert told[0][1] == (9, 16, 9, 1)
    assert told[1] == told[0]


def fractions(data: bytes) -> list[float]:
    numbers = np.frombuffer(data[:80], np.int32).reshape(-1, 2)
    return (numbers[:, 0] / numbers[:, 1]).round(6).tolist()


def test_hdr10_goes_on_to_av1_and_h264(tmp_path):
    source = write_deep(tmp_path / "in.mp4", params=MASTERING)
    with av.open(str(run(source, "out.webm"))) as file:
        picture = next(file.decode(video=0))
        sides = {side.type.name: bytes(side) for side in picture.side_data}
        assert file.streams.video[0].codec.canonical_name == "av1"
        assert fractions(sides["MASTERING_DISPLAY_METADATA"])[:8] == pytest.approx(
            [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329], abs=1e-4
        )


BOXES = struct.pack(
    ">I4s8H2I", 32, b"mdcv", 13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50
) + struct.pack(">I4s2H", 12, b"clli", 1000, 400)
"""Content light level and mastering display, as MP4 has them."""
MAX_CLL, MAX_FALL, DISPLAY = b"\x55\xbc\x82\x03\xe8", b"\x55\xbd\x82\x01\x90", b"\x55\xd0\xc6"
COLOUR = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 1000, 0.005)
LIGHT = (
    MAX_CLL
    + MAX_FALL
    + DISPLAY
    + b"".join(bytes([0x55, 0xD1 + number, 0x84]) + struct.pack(">f", value) for number, value in enumerate(COLOUR))
)
"""The same as Matroska has them."""


def nested(data: bytes, names: list[bytes], added: bytes) -> bytes:
    """Matroska with something added at the end of an element, whose parents are named; sizes get eight bytes."""
    place = 0
    while True:
        start = place + 9 - data[place].bit_length()
        name, width = data[place:start], 9 - data[start].bit_length()
        body = start + width
        size = int.from_bytes(data[start:body], "big") & ((1 << 7 * width) - 1)
        end = len(data) if size == (1 << 7 * width) - 1 else body + size  # all ones: to the end
        if name == names[0]:
            break
        place = end
    inner = nested(data[body:end], names[1:], added) if len(names) > 1 else data[body:end] + added
    return data[:start] + (len(inner) | 1 << 56).to_bytes(8, "big") + inner + data[end:]


def boxed(data: bytes, names: list[bytes], added: bytes) -> bytes:
    """MP4 with something added at the end of a box, whose parents are named."""
    start = data.index(names[0]) - 4
    size = int.from_bytes(data[start : start + 4], "big")
    body = data[start + 8 : start + size]
    inner = boxed(body, names[1:], added) if len(names) > 1 else body + added
    return data[:start] + (8 + len(inner)).to_bytes(4, "big") + names[0] + inner + data[start + size :]


def write_light(path: Path, encoder: str, form: str) -> Path:
    """A file whose container alone has HDR10's side data."""
    file, matroska = io.BytesIO(), path.suffix == ".mkv"
    kind = {"format": "matroska", "options": {"live": "1"}} if matroska else {"format": path.suffix[1:]}
    with av.open(file, "w", **kind) as out:
        stream = out.add_stream(encoder, 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, form
        stream.codec_context.color_primaries, stream.codec_context.color_trc = 9, 16
        for t in range(6):
            grey = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8), format="rgb24")
            picture = grey.reformat(format=form)
            picture.pts, picture.time_base = t, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    if matroska:
        path.write_bytes(
            nested(file.getvalue(), [b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0", b"\x55\xb0"], LIGHT)
        )
    else:
        entry = {"libvpx-vp9": b"vp09", "prores_ks": b"apch"}[encoder]
        parents = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", entry]
        path.write_bytes(boxed(file.getvalue(), parents, BOXES))
    return path


@pytest.mark.parametrize(
    ("encoder", "form", "source", "outputs"),
    [
        ("libvpx-vp9", "yuv420p", "in.mp4", ["out.webm", "out.mkv", "out.mp4"]),
        ("prores_ks", "yuv422p10le", "in.mov", ["out.mov", "out.mkv"]),
        ("ffv1", "yuv420p10le", "in.mkv", ["out.mkv"]),
    ],
    ids=["VP9", "ProRes", "FFV1"],
)
def test_hdr10s_side_data_stay_in_the_container_where_encoders_have_no_place(tmp_path, encoder, form, source, outputs):
    source = write_light(tmp_path / source, encoder, form)
    told = []
    for path in (source, *(run(source, name) for name in outputs)):
        with av.open(str(path)) as file:
            pictures, rate = list(file.decode(video=0)), file.streams.video[0].average_rate
        sides = {side.type.name: bytes(side) for side in pictures[-1].side_data}
        light = fractions(sides["MASTERING_DISPLAY_METADATA"])
        told.append((light, sides["CONTENT_LIGHT_LEVEL"][:8], pictures[0].format.name, len(pictures), rate))
    assert told[0][0] == [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000]
    assert told[0][1] == struct.pack("=2I", 1000, 400)
    assert told[1:] == [told[0]] * len(outputs)


def test_hlg_keeps_its_tags(tmp_path):
    source = write_deep(tmp_path / "in.mkv", tags=(9, 18, 9))
    with av.open(str(run(source, "out.mkv"))) as file:
        picture = next(file.decode(video=0))
        assert (picture.color_primaries, picture.color_trc, picture.colorspace) == (9, 18, 9)


@pytest.mark.parametrize("name", ["out.gif", "out.apng"])
def test_pictures_of_few_colours_come_back_the_same(clip, name):
    """A GIF of up to 256 colours a frame, to a GIF and an APNG."""
    source = clip("in.gif", frames=5)
    before, after = pixels(source), pixels(run(source, name))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(outside(old), outside(new))
        assert np.abs(new[10:20, 10:20].astype(int) - (255, 0, 128)).max() <= 3


def test_an_interlaced_source_is_refused_in_one_sentence(tmp_path):
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", 25, options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
        stream.width, stream.height = 64, 64
        for t, rgb in enumerate(smooth_video(4, 64, 64)):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = t, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"in\.mkv: frame 0 is interlaced, .*; deinterlace the video first\."):
        run(source, "out.mkv")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mkv"]


def test_a_wanted_pixel_format_is_stored(clip, tmp_path):
    out = run(clip("in.gif", frames=3), "out.mp4", encoding=Encoding(pix_fmt="yuv420p"))
    with av.open(str(out)) as file:
        assert next(file.decode(video=0)).format.name == "yuv420p"
    with pytest.raises(UserError, match="pix_fmt must be a pixel format such as yuv420p, got 'yuv42'"):
        Encoding(pix_fmt="yuv42")


def test_transparency_that_begins_late_is_refused_where_it_cannot_be_held(tmp_path):
    source = tmp_path / "in.apng"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("apng", 10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba"
        for t in range(3):
            image = np.full((48, 64, 4), 255, np.uint8)
            image[..., 3] = 255 if t < 2 else 90
            picture = av.VideoFrame.from_ndarray(image, format="rgba")
            picture.pts, picture.time_base = t, Fraction(1, 10)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"transparency begins after its first frame.*--pix-fmt bgra"):
        run(source, "out.mp4")
    run(source, "dropped.mp4", encoding=Encoding(drop_unsupported=True))
    with av.open(str(run(source, "kept.mkv", encoding=Encoding(pix_fmt="bgra")))) as file:
        last = list(file.decode(video=0))[-1]
        assert (samples(last)["a"] == 90).all()
