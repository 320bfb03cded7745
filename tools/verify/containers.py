"""Checks what `inpaint` preserves of each container and pixel format.

    python -m tools.verify.containers [--write]

FFmpeg's generators (testsrc2 and sine) make a short clip of each kind, and a box in it is filled with one colour. The
samples given to the encoder are compared with the decoder's, and the output with the source. `--write` updates the
table in docs/video.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from torch import Tensor, nn

from fastinpaint.data.video import open_video
from fastinpaint.errors import UserError
from fastinpaint.inference import Encoding, MaskSettings, Settings, files, inpaint
from fastinpaint.inference.movie import MovieWriter
from fastinpaint.inference.pixels import layout_of, samples, what_it_holds, working_format
from fastinpaint.inference.planes import convert
from tools.inspect.page import replace_table

PAGE = Path(__file__).parents[2] / "docs" / "video.md"
BEGIN, END = "<!-- containers: begin -->", "<!-- containers: end -->"
BOX = (24, 16, 22, 18)
FRAMES = 8
HDR, SD, HD = (9, 16, 9), (6, 6, 6), (1, 1, 1)  # primaries, transfer, matrix


class Case(NamedTuple):
    """A kind of file: its encoder and its special properties."""

    suffix: str
    encoder: str
    pix_fmt: str
    sound: str | None = None
    size: tuple[int, int] = (96, 64)
    colours: tuple[int, int, int] | None = None
    full_range: bool = False
    turned: int = 0
    mirrored: bool = False
    uneven: bool = False
    aspect: Fraction | None = None

    @property
    def name(self) -> str:
        special = [f"{self.size[0]}x{self.size[1]}"] if self.size != Case("", "", "").size else []
        special += [{HDR: "BT.2020 PQ", SD: "BT.601", HD: "BT.709"}[self.colours]] if self.colours else []
        special += ["full range"] * self.full_range + [f"turned {self.turned}°"] * bool(self.turned)
        special += ["mirrored"] * self.mirrored + ["uneven times"] * self.uneven
        special += [f"pixels {self.aspect.numerator}:{self.aspect.denominator}"] if self.aspect else []
        return ", ".join([f"{self.encoder} {self.pix_fmt}", *([self.sound] if self.sound else []), *special])


CASES = (
    Case(".mp4", "libx264", "yuv420p", "aac", colours=HD),
    Case(".mp4", "libx264", "yuv420p", "aac", colours=SD, full_range=True),
    Case(".mp4", "libx264", "yuvj420p", "mp3"),
    Case(".mp4", "libx264", "yuv420p", "ac3", turned=90),
    Case(".mp4", "libx264", "yuv420p", "alac", turned=180),
    Case(".mp4", "libx264", "yuv420p", "opus", turned=270),
    Case(".mp4", "libx264", "yuv420p", mirrored=True),
    Case(".mp4", "libx264", "yuv420p", "aac", uneven=True),
    Case(".mp4", "libx264", "yuv420p", "aac", aspect=Fraction(16, 11)),
    Case(".mp4", "libx264", "yuv422p", "aac"),
    Case(".mp4", "libx264", "yuv444p", "aac", size=(97, 65)),
    Case(".mp4", "libx264", "yuv420p10le", "aac"),
    Case(".mp4", "libx264", "yuv422p10le", "aac"),
    Case(".mp4", "libx264", "gray"),
    Case(".mp4", "libx264rgb", "rgb24"),
    Case(".mp4", "libx265", "yuv420p", "aac"),
    Case(".mp4", "libx265", "yuv420p10le", "aac", colours=HDR),
    Case(".mp4", "libx265", "yuv422p10le"),
    Case(".mp4", "libx265", "yuv444p12le"),
    Case(".mp4", "libx265", "gbrp"),
    Case(".mp4", "libsvtav1", "yuv420p", "aac"),
    Case(".mp4", "libsvtav1", "yuv420p10le", "opus", colours=HDR),
    Case(".mp4", "libvpx-vp9", "yuv420p", "opus"),
    Case(".mp4", "mpeg4", "yuv420p", "mp3"),
    Case(".mp4", "mpeg2video", "yuv420p", "mp2"),
    Case(".mov", "libx264", "yuv420p", "pcm_s16le"),
    Case(".mov", "libx265", "yuv420p10le", "pcm_s24le", colours=HDR),
    Case(".mov", "prores_ks", "yuv422p10le", "pcm_s24le", colours=HD),
    Case(".mov", "prores_ks", "yuv444p10le", "pcm_s16be"),
    Case(".mov", "prores_ks", "yuva444p10le"),
    Case(".mov", "mjpeg", "yuvj422p", "pcm_mulaw"),
    Case(".mov", "qtrle", "argb"),
    Case(".mov", "qtrle", "rgb24"),
    Case(".mov", "rawvideo", "uyvy422", "pcm_s16le"),
    Case(".mov", "v210", "yuv422p10le"),
    Case(".mkv", "libx264", "yuv420p", "flac", uneven=True),
    Case(".mkv", "libx264", "yuv420p", "opus", turned=90),
    Case(".mkv", "libx265", "yuv420p12le", "eac3"),
    Case(".mkv", "libsvtav1", "yuv420p10le", "opus"),
    Case(".mkv", "libvpx", "yuv420p", "opus"),
    Case(".mkv", "libvpx-vp9", "yuv444p", "opus"),
    Case(".mkv", "ffv1", "yuv420p", "pcm_s16le", size=(97, 65)),
    Case(".mkv", "ffv1", "yuva444p12le"),
    Case(".mkv", "ffv1", "yuv422p10le", "pcm_s24le"),
    Case(".mkv", "ffv1", "yuv410p"),
    Case(".mkv", "ffv1", "yuv411p"),
    Case(".mkv", "ffv1", "gray16le"),
    Case(".mkv", "ffv1", "gbrp16le"),
    Case(".mkv", "ffv1", "bgra"),
    Case(".mkv", "ffv1", "yuv444p16le"),
    Case(".mkv", "mpeg2video", "yuv422p", "mp2"),
    Case(".mkv", "rawvideo", "yuyv422"),
    Case(".webm", "libvpx", "yuv420p", "opus"),
    Case(".webm", "libvpx-vp9", "yuv420p", "opus", uneven=True),
    Case(".webm", "libvpx-vp9", "yuva420p"),
    Case(".webm", "libvpx-vp9", "yuv440p"),
    Case(".webm", "libsvtav1", "yuv420p10le", "opus", colours=HDR),
    Case(".avi", "libx264", "yuv420p", "mp3"),
    Case(".avi", "mpeg4", "yuv420p", "pcm_s16le"),
    Case(".avi", "mjpeg", "yuvj420p", "pcm_u8"),
    Case(".avi", "huffyuv", "yuv422p"),
    Case(".avi", "ffv1", "yuv444p"),
    Case(".avi", "utvideo", "gbrp"),
    Case(".avi", "rawvideo", "bgr24"),
    Case(".ts", "libx264", "yuv420p", "aac"),
    Case(".ts", "libx265", "yuv420p10le", "ac3", colours=HDR),
    Case(".ts", "mpeg2video", "yuv420p", "mp2"),
    Case(".gif", "gif", "rgb8"),
    Case(".apng", "apng", "rgba"),
    Case(".apng", "apng", "rgb48be"),
    Case(".apng", "apng", "gray"),
)

TICKS = (0, 40, 120, 130, 250, 260, 490, 600)  # uneven times in milliseconds


class OneColour(nn.Module):
    """A network that returns one colour."""

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        return torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1, 1).expand_as(video), None


class Found(NamedTuple):
    """The result of one case; `None` where it does not apply."""

    codec: str
    pix_fmt: str
    given: bool
    psnr: float
    times: bool
    sound: bool | None
    tags: bool
    lossless: str


def examine(case: Case, folder: Path) -> Found:
    """Make the clip, fill the box, and compare.

    Raises:
        UserError: the clip was refused.
    """
    source, out = folder / f"in{case.suffix}", folder / f"out{case.suffix}"
    make(case, source)
    given = _fill(source, out, Encoding())
    before, after = _pictures(source), _pictures(out)
    hole, ring = _hole(source, 0), _hole(source, 8)  # encoders blur the edge of the hole by a block
    same = all(
        _equal_outside(hole, samples(convert(old, form)), new, form)
        for old, (form, new) in zip(before, given, strict=True)
    )
    with av.open(str(out)) as file:
        codec = file.streams.video[0].codec.canonical_name
    lossless = "-"
    if case.suffix != ".gif":
        try:
            _fill(source, folder / f"lossless{case.suffix}", Encoding(lossless=True))
            bits = _worst_psnr(ring, before, _pictures(folder / f"lossless{case.suffix}"))
            lossless = "bit for bit" if bits > 150 else f"{bits:.1f} dB"
        except UserError:
            lossless = "refused"
    return Found(
        codec,
        after[0].format.name,
        same,
        _worst_psnr(ring, before, after),
        _times(before) == _times(after),
        None if case.sound is None else _sound(source) == _sound(out),
        _tags(before[0], source, case.uneven) == _tags(after[0], out, case.uneven),
        lossless,
    )


def make(case: Case, path: Path) -> None:
    """Write a clip of testsrc2, with sine if the case has sound."""
    quality = {"libx264": {"crf": "8"}, "libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "8"}}
    with av.open(str(path), "w") as out:
        base = Fraction(1, 1000) if case.uneven else Fraction(1, 25)
        options: dict[str, str] = quality.get(case.encoder, {})
        stream: Any = out.add_stream(case.encoder, 25, options=options, time_base=base)
        form = "pal8" if case.encoder == "gif" and case.pix_fmt == "pal8" else case.pix_fmt
        stream.width, stream.height, stream.pix_fmt = *case.size, form
        if case.colours:
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace = case.colours
        if case.full_range:
            stream.codec_context.color_range = 2
        if case.aspect:
            stream.codec_context.sample_aspect_ratio = case.aspect
        if case.turned or case.mirrored:
            stream.set_display_rotation(case.turned, hflip=case.mirrored)
        track: Any = out.add_stream(case.sound, 48000, layout="mono") if case.sound else None
        alpha = ":alpha=150" if what_it_holds(case.pix_fmt).alpha else ""
        for index, picture in enumerate(_generated(f"testsrc2=size={case.size[0]}x{case.size[1]}:rate=25{alpha}")):
            drawn = picture.reformat(format=form, dst_colorspace=case.colours[2] if case.colours else None)
            drawn.pts, drawn.time_base = TICKS[index] if case.uneven else index, base
            out.mux(stream.encode(drawn))
        out.mux(stream.encode(None))
        if track is not None:
            resampler = av.AudioResampler(track.format, "mono", 48000, track.codec_context.frame_size or 1024)
            for chunk in _generated("sine=frequency=440:sample_rate=48000", count=16):
                for part in resampler.resample(chunk):
                    out.mux(track.encode(part))
            out.mux(track.encode(None))


def _generated(graph: str, count: int = FRAMES) -> Iterator[Any]:
    """Frames of one of FFmpeg's generators."""
    name, options = graph.split("=", 1)
    made = av.filter.Graph()
    source, sink = made.add(name, options), made.add("abuffersink" if name == "sine" else "buffersink")
    source.link_to(sink)
    made.configure()
    for _ in range(count):
        yield made.pull()


def _fill(source: Path, out: Path, encoding: Encoding) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Fill the box; returns the format and samples of each picture given to the encoder."""
    seen = []

    class Watched(MovieWriter):
        def _filled(self, picture: Any, rgb: np.ndarray, mask: np.ndarray) -> Any:
            filled = super()._filled(picture, rgb, mask)
            seen.append((filled.format.name, {kind: view.copy() for kind, view in samples(filled).items()}))
            return filled

    settings = Settings(frames=4, size=16, device="cpu")
    original, files.MovieWriter = files.MovieWriter, Watched  # type: ignore[misc]
    try:
        exact = MaskSettings(grow=0)
        inpaint(
            OneColour(),
            source,
            out,
            boxes=[BOX],
            masks=exact,
            settings=settings,
            encoding=encoding,
            notify=_ignore_note,
        )
    finally:
        files.MovieWriter = original  # type: ignore[misc]
    return seen


def _ignore_note(note: str) -> None:
    """Ignore notes."""


def _pictures(path: Path) -> list[Any]:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        if stream.metadata.get("alpha_mode") == "1":
            decoder: Any = av.CodecContext.create("libvpx-vp9", "r")
            return [picture for packet in file.demux(video=0) for picture in decoder.decode(packet)]
        return list(file.decode(video=0))


def _hole(source: Path, ring: int) -> np.ndarray:
    """bool [H, W]: the box and a ring around it, in the source's stored orientation."""
    with open_video(source) as reader:
        shown = reader.orientation.shown(np.zeros((reader.height, reader.width), bool)).copy()
        x, y, width, height = BOX
        shown[y - ring : y + height + ring, x - ring : x + width + ring] = True
        return reader.orientation.stored(shown)


def _samples_in_hole(hole: np.ndarray, kind: str, shape: tuple[int, ...], form: str) -> np.ndarray:
    """The samples of a component that belong to pixels of the hole."""
    layout = layout_of(form)
    assert layout is not None  # encoders only get such formats
    high, wide = (layout.block_height, layout.block_width) if kind in "uv" else (1, 1)
    touched = np.zeros(shape, bool)
    rows, columns = np.nonzero(hole)
    touched[rows // high, columns // wide] = True
    return touched


def _equal_outside(hole: np.ndarray, before: dict[str, np.ndarray], given: dict[str, np.ndarray], form: str) -> bool:
    """Whether samples outside the hole, and all of alpha, are equal."""
    for kind, old in before.items():
        free = _samples_in_hole(hole, kind, old.shape, form) if kind != "a" else np.zeros(old.shape, bool)
        if not np.array_equal(old[~free], given[kind][~free]):
            return False
    return True


def _worst_psnr(hole: np.ndarray, before: list[Any], after: list[Any]) -> float:
    """The lowest PSNR in dB over frames and components outside the hole; 200 without any error."""
    worst = 200.0
    for old, new in zip(before, after, strict=True):
        form = working_format(old.format.name)
        layout = layout_of(form)
        assert layout is not None  # a working format has one
        have, want = samples(convert(old, form)), samples(convert(new, form))
        top = (1 << layout.depth) - 1
        for kind, view in have.items():
            kept = ~_samples_in_hole(hole, kind, view.shape, form)
            error = (view.astype(float) - want[kind])[kept] / (1 << layout.shift)
            worst = min(worst, 10 * np.log10(top**2 / max(np.square(error).mean(), top**2 * 1e-20)))
    return worst


def _times(pictures: list[Any]) -> list[Fraction]:
    times = [picture.pts * picture.time_base for picture in pictures]
    return [time - times[0] for time in times]


def _sound(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as file:
        return [(p.pts * p.time_base, bytes(p)) for p in file.demux(audio=0) if p.size and p.pts is not None]


def _tags(picture: Any, path: Path, uneven: bool) -> tuple[object, ...]:
    """Colour tags, orientation, pixel aspect ratio, and the frame rate if constant."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        told = (stream.sample_aspect_ratio or 1, None if uneven else stream.average_rate)
    colours = (picture.color_primaries, picture.color_trc, picture.colorspace, picture.color_range)
    return (*colours, picture.rotation, picture.width, picture.height, *told)


def row(case: Case, found: Found | str) -> str:
    """One row of the table."""
    start = f"| {case.suffix} | {case.name} "
    if isinstance(found, str):
        return f"{start}| {found} | | | | | | |"
    told = {True: "same", False: "**differ**", None: "-"}
    psnr = "bit for bit" if found.psnr > 150 else f"{found.psnr:.1f} dB"
    given = told[found.given]
    cells = [f"{found.codec} {found.pix_fmt}", given, psnr, told[found.times], told[found.sound], told[found.tags]]
    return f"{start}| {' | '.join([*cells, found.lossless])} |"


HEAD = (
    "| file | source | becomes | samples to the encoder | outside the hole | times | sound | tags | --lossless |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/video.md")
    write = parser.parse_args(arguments).write
    rows = [HEAD]
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found: Found | str = examine(case, Path(folder))
            except Exception as error:  # a failure becomes a row too
                found = f"**{type(error).__name__}: {str(error)[:160]}**"
        rows.append(row(case, found))
        print(rows[-1], flush=True)
    if write:
        replace_table(PAGE, BEGIN, END, "\n".join(rows))


if __name__ == "__main__":
    main()
