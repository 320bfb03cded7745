"""Videos with the traits that careless tools lose, and what can be read back of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np


def smooth_video(frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """Colour ramps that drift; they survive 4:2:0 nearly unchanged. uint8 [T, H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    planes = [[60 + 2 * x + t, 200 - 2 * y + t, 40 + x + y + 2 * t] for t in range(frames)]
    return np.clip(np.array(planes), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def write_movie(
    path: Path,
    video: np.ndarray,
    *,
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    sound: int = 0,
    sound_first: bool = False,
    codec: str = "aac",
    matrix: tuple[int, int] | None = None,
) -> Path:
    """H.264 with B-frames at exactly `pts`, `sound` audio streams, and colours of a (matrix, range) of H.273."""
    ticks = [512 * t for t in range(len(video))] if pts is None else pts
    scales = {"video_track_timescale": str(time_base.denominator), "movie_timescale": str(time_base.denominator)}
    with av.open(str(path), "w", container_options=scales if path.suffix == ".mp4" else {}) as out:
        tracks = [out.add_stream(codec, rate=8000, layout="mono") for _ in range(sound)] if sound_first else []
        stream = out.add_stream("libx264", rate=25, options={"crf": "1"}, time_base=time_base)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p" if video.shape[1] % 2 == 0 == video.shape[2] % 2 else "yuv444p"
        if matrix is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = matrix
        tracks = tracks or [out.add_stream(codec, rate=8000, layout="mono") for _ in range(sound)]
        for tick, rgb in zip(ticks, video, strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            colours = {} if matrix is None else {"dst_colorspace": matrix[0], "dst_color_range": matrix[1]}
            frame = frame.reformat(format=stream.pix_fmt, **colours)
            frame.pts, frame.time_base = tick, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        for number, track in enumerate(tracks):
            _beep(out, track, number, float(ticks[-1] * time_base))
    return path


def _beep(out: av.container.OutputContainer, track: av.AudioStream, number: int, seconds: float) -> None:
    wave = np.sin(np.arange(int(8000 * seconds) + 1024) * (0.2 + 0.1 * number)).astype(np.float32)[None]
    if track.codec_context.format.name == "u8":
        chunk = av.AudioFrame.from_ndarray((wave * 99 + 128).astype(np.uint8), format="u8", layout="mono")
    else:
        chunk = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
    chunk.sample_rate, chunk.pts = 8000, 0
    out.mux(track.encode(chunk))
    out.mux(track.encode())


class Traits(NamedTuple):
    """What must survive."""

    pts: list[int]
    time_base: Fraction
    size: tuple[int, int]
    rotation: int
    colours: tuple[int, int]
    sound: list[list[tuple[Fraction, bytes]]]


def traits(path: Path) -> Traits:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = list(file.decode(stream))
        first, time_base = frames[0], stream.time_base
    sound = []
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(file.streams.audio) if packet.size] if file.streams.audio else []
        for track in file.streams.audio:
            own = [packet for packet in packets if packet.stream.index == track.index]
            sound.append([(packet.pts * packet.time_base, bytes(packet)) for packet in own])
    return Traits(
        [frame.pts for frame in frames],
        time_base,
        (first.width, first.height),
        first.rotation,
        (int(first.colorspace), int(first.color_range)),
        sound,
    )


def pixels(path: Path) -> np.ndarray:
    """uint8 [T, H, W, 3], decoded with no part of this project."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
