"""Which encoder writes a source's pictures, in which pixel format and with which options."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import av
from av.error import FFmpegError

from fastinpaint.errors import UserError
from fastinpaint.inference.pixels import layout_of, losses, nearest, weight, what_it_holds, working_format

MUXERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
    ".gif": "gif",
    ".apng": "apng",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"), "image2"),
}
"""FFmpeg's muxer by the output's suffix."""

STILLS = frozenset(suffix for suffix, muxer in MUXERS.items() if muxer == "image2")
PICTURES = STILLS | {".gif", ".apng"}
"""Outputs of pictures alone. Nobody expects sound in them."""

FAMILIES = {
    "h264": ("libx264", "libx264rgb"),
    "hevc": ("libx265",),
    "av1": ("libsvtav1",),
    "vp9": ("libvpx-vp9",),
    "vp8": ("libvpx",),
    "prores": ("prores_ks",),
    **{
        name: (name,)
        for name in [
            "ffv1",
            "mjpeg",
            "mpeg2video",
            "mpeg4",
            "huffyuv",
            "ffvhuff",
            "utvideo",
            "magicyuv",
            "qtrle",
            "png",
            "apng",
            "v210",
            "rawvideo",
        ]
    },
}
"""Encoders by the source's codec."""

FALLBACKS = {
    "mp4": ("libx264", "libx264rgb", "libx265"),
    "mov": ("libx264", "libx264rgb", "libx265", "prores_ks", "qtrle", "ffv1"),
    "matroska": ("libx264", "libx264rgb", "libx265", "ffv1"),
    "webm": ("libvpx-vp9", "libsvtav1"),
    "avi": ("libx264", "libx264rgb", "ffv1"),
    "mpegts": ("libx264", "libx264rgb", "libx265"),
}
"""Encoders by the muxer, for a source whose own codec cannot be written there."""

PICTURE_ENCODERS = {
    **{".gif": "gif", ".apng": "apng", ".png": "png", ".webp": "libwebp"},
    **{".jpg": "mjpeg", ".jpeg": "mjpeg", ".tif": "tiff", ".tiff": "tiff"},
}

TRANSPORTED = frozenset({"h264", "hevc", "mpeg2video", "mpeg4"})
"""Codecs that players find in a transport stream; FFmpeg puts others there as private data."""

LOSSLESS: dict[str, dict[str, str]] = {
    "libx264": {"qp": "0"},
    "libx264rgb": {"qp": "0"},
    "libx265": {"x265-params": "log-level=none:lossless=1"},
    "libvpx-vp9": {"lossless": "1"},
    "libwebp": {"lossless": "1"},
    **{
        name: {}
        for name in [
            "ffv1",
            "huffyuv",
            "ffvhuff",
            "utvideo",
            "magicyuv",
            "qtrle",
            "png",
            "apng",
            "v210",
            "rawvideo",
            "tiff",
        ]
    },
}
"""Options that make an encoder lossless, for those that can be."""

FIXED_QUALITY = {
    **{name: {"flags": "+qscale", "global_quality": "118", "qmin": "1"} for name in ("mjpeg", "mpeg2video", "mpeg4")},
    "prores_ks": {"flags": "+qscale", "global_quality": "236"},
    "libwebp": {"quality": "100"},
}


SHALLOW = "the 12 bits of ProRes 4444 are written as 10, which is all that the encoder here has."


@dataclass(frozen=True)
class Encoding:
    """How the output is encoded.

    Args:
        crf: constant rate factor in H.264's units, 0 (best) to 51; other codecs get a value of
            like quality. At the default small clips of noise keep 42 dB.
        lossless: samples come back bit for bit.
        pix_fmt: a pixel format of FFmpeg's to store in place of the source's.
        drop_unsupported: go on without what the output cannot hold.
        encode_audio: encode audio that the output cannot hold again, as AAC, Opus, FLAC or MP3.
        smart_copy: copy groups of pictures without a hole packet for packet; None: where it is safe, without a word
            where it is not.
        image_format: "png" or "tiff" (16 bits), for a folder of frames.

    Raises:
        UserError: a value out of its range.
    """

    crf: int = 14
    lossless: bool = False
    pix_fmt: str | None = None
    drop_unsupported: bool = False
    encode_audio: bool = False
    smart_copy: bool | None = None
    image_format: str = "png"

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise UserError(f"crf must be from 0 to 51, got {self.crf}.")
        if self.image_format not in ("png", "tiff"):
            raise UserError(f"image format must be png or tiff, got {self.image_format!r}.")
        if self.pix_fmt is not None:
            try:
                what_it_holds(self.pix_fmt)
            except ValueError:
                raise UserError(f"pix_fmt must be a pixel format such as yuv420p, got {self.pix_fmt!r}.") from None


class Plan(NamedTuple):
    """An encoder, its pixel format and options, what is lost, and notes for the user."""

    encoder: str
    pix_fmt: str
    options: dict[str, str]
    lost: list[str]
    notes: list[str]


def plan(source_codec: str, source_format: str, size: tuple[int, int], suffix: str, encoding: Encoding) -> Plan:
    """The encoder that loses nothing of the source's samples, of its own family if there is one.

    Args:
        source_codec: FFmpeg's name of the source's codec.
        source_format: its pixel format.
        size: width and height.
        suffix: the output's, a key of `MUXERS`.
        encoding: what is asked for.

    Raises:
        UserError: nothing that the output can hold encodes this source; or not losslessly, where that is asked for.
    """
    wanted = working_format(encoding.pix_fmt or source_format)
    best: Plan | None = None
    for encoder in _candidates(source_codec, suffix):
        if encoding.lossless and encoder not in LOSSLESS:
            continue
        form = nearest(wanted, formats_of(encoder, MUXERS[suffix]) or [wanted])
        lost = _lost(wanted, form, suffix)
        shallow = encoder == "prores_ks" and source_codec == "prores" and lost == ["12 bits a sample"]
        lost = [] if shallow else lost
        if best is not None and sum(map(weight, lost)) >= sum(map(weight, best.lost)):
            continue
        options = {**_options(encoder, form, encoding), **_extras(encoder, form, suffix)}
        if _opens(encoder, form, options, size, suffix):
            notes = _notes(source_codec, encoder, form, suffix)
            best = Plan(encoder, form, options, lost, notes + [SHALLOW] * shallow)
            if not lost:
                break
    if best is None or (encoding.lossless and best.lost and not encoding.drop_unsupported):
        how = "without loss " if encoding.lossless else ""
        raise UserError(
            f"{suffix} files cannot hold the source's {source_format} pictures of {size[0]}x{size[1]} {how}"
            "with an encoder that is here; write a .mkv file."
        )
    return best


def formats_of(encoder: str, muxer: str) -> list[str]:
    """The pixel formats that an encoder takes and that this package can write; empty if it takes any."""
    if encoder == "gif":
        return ["pal8"]
    names = [form.name for form in av.Codec(encoder, "w").video_formats or []]
    if encoder == "mjpeg":
        names = [name for name in names if "yuvj" in name]
    if encoder == "libx265" or (encoder in ("libvpx", "libvpx-vp9") and muxer not in ("matroska", "webm")):
        names = [name for name in names if not what_it_holds(name).alpha]
    return [name for name in names if layout_of(name) is not None and (encoder, name) != ("libvpx-vp9", "gbrap")]


def _lost(source: str, form: str, suffix: str) -> list[str]:
    """The losses worth a note. What is true of every file of that kind, such as RGB in PNG, is left out."""
    if suffix == ".gif":
        return []
    lost = losses(source, form)
    return [what for what in lost if "as such" not in what and "chroma" not in what] if suffix in PICTURES else lost


def _candidates(source_codec: str, suffix: str) -> Iterator[str]:
    if suffix in PICTURES:
        yield PICTURE_ENCODERS[suffix]
        return
    muxer = MUXERS[suffix]
    own = FAMILIES.get(source_codec, ())
    if muxer == "mpegts" and source_codec not in TRANSPORTED:
        own = ()
    yield from dict.fromkeys((*own, *FALLBACKS[muxer]))


def _options(encoder: str, form: str, encoding: Encoding) -> dict[str, str]:
    """Options for quality. A ceiling on the quantizer holds it in short clips, where rate control cannot adapt."""
    if encoding.lossless:
        return LOSSLESS[encoder]
    crf, deeper = encoding.crf, 6 * (what_it_holds(form).depth - 8)
    if encoder == "libwebp" and what_it_holds(form).rgb:
        return LOSSLESS[encoder]
    if encoder in ("libx264", "libx264rgb"):
        return {"crf": str(crf), "qmax": str(min(51, crf + 2) + deeper)}
    if encoder == "libx265":
        return {"crf": str(max(0, crf - 2)), "x265-params": f"log-level=none:qpmax={max(1, crf)}"}
    if encoder == "libsvtav1":
        return {"crf": str(max(1, round(crf * 0.6))), "preset": "6"}  # 8 leaves errors of 6 levels in flat areas
    if encoder == "libvpx-vp9":
        return {"crf": str(crf // 2), "b": "0", "qmax": str(crf * 3 // 4), "cpu-used": "4", "row-mt": "1"}
    if encoder == "libvpx":
        return {"crf": str(max(4, crf // 3)), "b": "100M", "qmin": "0", "qmax": str(max(4, crf // 3)), "cpu-used": "4"}
    return FIXED_QUALITY.get(encoder, {})


def _extras(encoder: str, form: str, suffix: str) -> dict[str, str]:
    if encoder == "prores_ks":
        return {"profile": "hq" if what_it_holds(form).block == (2, 1) else "4444"}
    if suffix == ".avi" and encoder in ("libx264", "libx264rgb"):
        return {"bf": "0"}  # AVI stores one time a frame, so frames must be in order
    return {}


def _notes(source_codec: str, encoder: str, form: str, suffix: str) -> list[str]:
    notes = []
    codec = av.Codec(encoder, "w").canonical_name
    if suffix == ".gif":
        notes.append("a GIF holds 256 colours a frame.")
    elif suffix not in PICTURES and source_codec in FAMILIES and encoder not in FAMILIES[source_codec]:
        notes.append(
            f"the source is {source_codec}, which cannot be written here to {suffix} files; the output is {codec}."
        )
    if what_it_holds(form).rgb and codec in ("h264", "hevc", "vp9") and suffix in MUXERS:
        notes.append("the frames are RGB and stay so, which some players cannot show; --pix-fmt yuv420p is for them.")
    return notes


def _opens(encoder: str, form: str, options: dict[str, str], size: tuple[int, int], suffix: str) -> bool:
    """Whether the encoder and the muxer take such pictures, by trying."""
    muxer = MUXERS[suffix]
    if suffix in PICTURES:
        return True

    def add(output: av.container.OutputContainer) -> None:
        stream = cast(Any, output.add_stream(encoder, 25, options=dict(options)))
        stream.width, stream.height, stream.pix_fmt = *size, form

    return can_hold(muxer, add)


def can_hold(muxer: str, add: Callable[[av.container.OutputContainer], object]) -> bool:
    """Whether a muxer writes a header after `add` has added its streams."""
    try:
        with av.open(io.BytesIO(), "w", muxer) as output:
            add(output)
            output.start_encoding()
    except (FFmpegError, ValueError, TypeError):
        return False
    return True
