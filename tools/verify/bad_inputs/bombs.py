"""Small files that ask for much: pictures and videos of absurd sizes, headers that promise gigabytes."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.verify.bad_inputs import material
from tools.verify.bad_inputs.bases import Bases
from tools.verify.bad_inputs.calls import REFUSED, SURVIVES, Call, Setup
from tools.verify.bad_inputs.yaml_files import written


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bool = True) -> bytes:
    """A black PNG of one bit a pixel, small by compression; without its pixels, only its header."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    packer, parts = zlib.compressobj(9), []
    if pixels:
        rows = bytes((1 + (width + 7) // 8) * 100)
        parts = [packer.compress(rows) for _ in range(height // 100)]
    body = _chunk(b"IDAT", b"".join(parts) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + header + body + _chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    """A header alone."""
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def tiff(width: int, height: int) -> bytes:
    """One strip of RGB that is not there."""
    shape = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 2)]
    tags = [*shape, (273, 4, 8), (277, 3, 3), (278, 4, height), (279, 4, 100)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + bytes(400)


def jpeg(good: bytes, width: int, height: int) -> bytes:
    """A good JPEG whose frame header states another size."""
    place = good.index(b"\xff\xc0") + 5
    return good[:place] + struct.pack(">HH", height, width) + good[place + 4 :]


def gif(width: int, height: int) -> bytes:
    """A screen of that size with one frame as large."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"


def y4m(width: int, height: int, rate: str = "25:1") -> bytes:
    """A header and one frame without pixels."""
    return f"YUV4MPEG2 W{width} H{height} F{rate} Ip A1:1 C420\nFRAME\n".encode() + bytes(1000)


def calls(bases: Bases) -> Iterator[Call]:
    """All of them, as a source, as a mask and among the sources of `prepare`."""

    def photo() -> bytes:
        return (bases.material / "picture.jpg").read_bytes()

    pictures = {
        "50000.png": lambda: png(50_000, 50_000),
        "30000.png": lambda: png(30_000, 30_000),
        "header.png": lambda: png(2**31 - 1, 2**31 - 1, pixels=False),
        "thin.png": lambda: png(1_000_000, 100),
        "header.bmp": lambda: bmp(30_000, 30_000),
        "negative.bmp": lambda: bmp(-5, -2_000_000_000),
        "header.tiff": lambda: tiff(30_000, 30_000),
        "huge.tiff": lambda: tiff(2**31, 2**31),
        "header.jpg": lambda: jpeg(photo(), 65_500, 65_500),
        "large.jpg": lambda: jpeg(photo(), 30_000, 30_000),
        "header.ppm": lambda: b"P6 30000 30000 255\n" + bytes(1000),
        "digits.ppm": lambda: b"P6 " + b"9" * 5000 + b" 1 255\n",
        "zero.png": lambda: png(0, 0, pixels=False),
        "canvas.webp": lambda: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6,
    }  # fmt: skip
    for name, make in pictures.items():
        yield from _of_picture(bases, name, _kept(make))
    videos = {
        "screen.gif": lambda: gif(65_535, 65_535),
        "large.gif": lambda: gif(20_000, 20_000),
        "large.y4m": lambda: y4m(30_000, 30_000),
        "huge.y4m": lambda: y4m(2**31 - 1, 2**31 - 1),
        "rate.y4m": lambda: y4m(64, 64, "1000000000:1"),
        "still.y4m": lambda: y4m(64, 64, "0:0"),
        "frames.mp4": lambda: _renamed_sizes((bases.material / material.CLIP).read_bytes()),
        "long.mkv": lambda: _long_matroska((bases.material / material.MATROSKA).read_bytes()),
    }
    for name, make in videos.items():
        setup = _kept(make)
        expects = SURVIVES if name in ("rate.y4m", "still.y4m", "frames.mp4", "long.mkv") else REFUSED
        yield Call("video: absurd size", "inpaint", bases.argv("inpaint", source=name), expects, setup(name))
        yield Call("video: absurd size", "prepare", bases.argv("prepare", source=name), expects, setup(name))
        yield Call("video: absurd size", "evaluate", bases.argv("evaluate", video=name), expects, setup(name))
    year = _kept(lambda: _long_matroska((bases.material / material.MATROSKA).read_bytes(), 3e10))
    argv = (*bases.argv("evaluate", video="year.mkv"), "--frames", "1000000000", "--size", "4096")
    yield Call("memory: sizes that cannot fit", "evaluate", argv, REFUSED, year("year.mkv"))
    crowd = bases.at(material.CROWD)
    for place in ("source", "mask"):
        yield Call("folder of 100,000 files", "inpaint", bases.argv("inpaint", **{place: crowd}))
    yield Call("folder of 100,000 files", "prepare", bases.argv("prepare", source=crowd))
    yield Call("folder of 100,000 files", "evaluate", bases.argv("evaluate", video=crowd))
    yield from _weights(bases)
    yield from _indices(bases)


def _kept(make: Callable[[], bytes]) -> Callable[[str], Setup]:
    """Makes the bytes when they are first needed."""
    made: list[bytes] = []

    def named(name: str) -> Setup:
        def setup(folder: Path) -> None:
            if not made:
                made.append(make())
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(made[0])

        return setup

    return named


def _of_picture(bases: Bases, name: str, setup: Callable[[str], Setup]) -> Iterator[Call]:
    yield Call("picture: absurd size", "inpaint", bases.argv("inpaint", source=name), REFUSED, setup(name))
    yield Call("picture: absurd size", "inpaint", bases.argv("inpaint", mask=name), REFUSED, setup(name))
    second = f"clip/2{Path(name).suffix}"

    def two(folder: Path) -> None:
        (folder / "clip").mkdir()
        shutil.copyfile(bases.material / "picture.png", folder / "clip/1.png")
        setup(second)(folder)

    yield Call("picture: absurd size", "prepare", bases.argv("prepare", source="clip"), REFUSED, two)


def _renamed_sizes(data: bytes) -> bytes:
    """An MP4 whose tables state two thousand million samples."""
    place = data.index(b"stsz") + 12
    return data[:place] + struct.pack(">I", 2_000_000_000) + data[place + 4 :]


def _long_matroska(data: bytes, milliseconds: float = 1e30) -> bytes:
    """A Matroska file that states that length."""
    place = data.index(b"\x44\x89\x88") + 3
    return data[:place] + struct.pack(">d", milliseconds) + data[place + 8 :]


def _weights(bases: Bases) -> Iterator[Call]:
    """Weights whose metadata ask for much, or are of the wrong kind."""
    good = bases.material / material.WEIGHTS
    config = {"width": 0.0625}
    changes: list[dict[str, Any]] = [
        {"config": {"width": 1e9}}, {"config": {"width": 60}}, {"config": {"width": "1"}}, {"config": [1]},
        {"config": {"deconv_time": 10**12}}, {"config": {"deconv_time": 4000}}, {"config": {"r": 1e400}},
        {"config": "[" * 100_000}, {"config": "not JSON"}, {"config": {"width": 0.0625, "depth": 3}},
        {"config": {"width": 10**400}}, {"kind": "painting"}, {"kind": "twodcn"}, {"kind": None},
        {"config": config, "extra": [1, 2]}, {"config": config, "extra": "5"},
        {"config": config, "extra": "[" * 100_000},
        {"config": config, "extra": {"frames": "many"}}, {"config": config, "extra": {"frames": -4}},
        {"config": config, "extra": {"frames": 10**30}}, {"config": config, "extra": {"size": 1e300}},
        {"config": config, "extra": {"size": None}}, {"config": config, "extra": {"frames": True}},
        {"config": config, "extra": {"frames": [4]}},
    ]  # fmt: skip
    for change in changes:
        needs_extra = "extra" in change and isinstance(change["extra"], dict)
        setup = _with_metadata(good, change)
        yield Call("weights: metadata", "inpaint", bases.argv("inpaint", weights="bad.safetensors"), REFUSED, setup)
        expects = SURVIVES if needs_extra else REFUSED
        yield Call("weights: metadata", "evaluate", bases.argv("evaluate", weights="bad.safetensors"), expects, setup)
    for length in (0, 1, 2**20, 2**40, 2**63, 2**64 - 1):
        content = struct.pack("<Q", length) + b'{"a": 1}' * 10
        argv = bases.argv("inpaint", weights="bad.safetensors")
        yield Call("weights: absurd header", "inpaint", argv, REFUSED, written(content, "bad.safetensors"))


def _with_metadata(good: Path, change: dict[str, Any]) -> Setup:
    def setup(folder: Path) -> None:
        data = good.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        for name, value in change.items():
            header["__metadata__"][name] = value if isinstance(value, str) else json.dumps(value)
            if value is None:
                del header["__metadata__"][name]
        text = json.dumps(header).encode()
        (folder / "bad.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return setup


def _indices(bases: Bases) -> Iterator[Call]:
    """Data sets whose index asks for much, or is of the wrong kind."""
    changes: list[dict[str, Any]] = [
        {"train": [[0, 0, 10**12]]}, {"train": [[0, 0, 10**30]]}, {"train": [[0, -5, 6]]}, {"train": [[99, 0, 1]]},
        {"train": [[-1, 0, 1]]}, {"train": [[0, 10**9, 1]]}, {"train": [[0, 0, -1]]}, {"train": 5}, {"train": [[0]]},
        {"train": []}, {"val": []}, {"clips": []}, {"clips": [{}]}, {"clips": [{"file": "/dev/zero", "samples": 1}]},
        {"clips": [{"file": "../../../../etc/passwd", "samples": 1}]}, {"clips": [{"file": 5, "samples": 1}]},
        {"frames": 10**12}, {"frames": 0}, {"frames": -4}, {"frames": "4"}, {"frames": None}, {"size": 1e300},
        {"size": 10**9}, {"mean_pixel": ["a", 1, 2]}, {"mean_pixel": [float("nan")] * 3}, {"mean_pixel": [1e300] * 3},
        {"mean_pixel": [1]}, {"version": 2}, {"version": "new"}, {"version": 10**400}, {"format": "other"},
    ]  # fmt: skip
    for change in changes:

        def setup(folder: Path, change: dict[str, Any] = change) -> None:
            shutil.copytree(bases.material / material.DATA, folder / "data")
            path = folder / "data/index.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

        kind = "data set: of a newer version" if "version" in change else "data set: index"
        fine = set(change) & {"val"} or change == {"frames": "4"}
        yield Call(kind, "train", bases.argv("train", data="data"), SURVIVES if fine else REFUSED, setup)
        fine = set(change) & {"train"} or change == {"frames": "4"}
        yield Call(kind, "evaluate", bases.argv("evaluate", data="data"), SURVIVES if fine else REFUSED, setup)
