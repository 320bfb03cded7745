"""Everything in a file but the holes comes back: sound, subtitles, chapters, fonts, covers, tags, times."""

import io
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fastinpaint.data.video import open_video
from fastinpaint.errors import UserError
from fastinpaint.inference import Encoding, MaskSettings, Settings, inpaint
from fastinpaint.inference.pixels import samples
from tests.inference.movies import smooth_video, traits
from tests.inference.stubs import Paint

SETTINGS = Settings(frames=4, size=16, device="cpu")
EXACT = MaskSettings(grow=0)
BOX = (8, 8, 20, 16)
FONT = bytes(range(256)) * 4
CHAPTERS = [
    {"id": 1, "start": 0, "end": 240, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
    {"id": 2, "start": 240, "end": 480, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
]
MATRIX = (0, -65536, 0, -65536, 0, 0, 0, 0, 1 << 30)  # turned and mirrored


def write_rich(path: Path, sound: str = "aac", subtitles: str | None = "srt", extras: bool = True) -> Path:
    """Twelve pictures, two languages of sound, subtitles, and with `extras` chapters, a font, a cover and tags."""
    matroska = path.suffix in (".mkv", ".webm")
    video = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
    with av.open(str(path), "w", container_options={} if matroska else {"movflags": "use_metadata_tags"}) as out:
        pictures = out.add_stream(video, 25, options={"crf": "10"})
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pictures.codec_context.sample_aspect_ratio = Fraction(4, 3)
        pictures.set_display_matrix(MATRIX)
        pictures.metadata["title"] = "the pictures"
        tracks = [out.add_stream(sound, 48000, layout="mono") for _ in range(2)]
        for track, language in zip(tracks, ("deu", "fra"), strict=True):
            track.metadata["language"] = language
        tracks[1].disposition = av.stream.Disposition.comment
        text = None
        if subtitles:
            text = out.add_stream_from_template(subtitle_template(subtitles))
            text.metadata["language"] = "eng"
            text.disposition = av.stream.Disposition.forced
        if extras:
            out.set_chapters(CHAPTERS)
            out.metadata.update({"title": "A clip", "artist": "someone", "shot_by": "a camera"})
            if path.suffix == ".mkv":
                out.add_attachment("font.ttf", "font/ttf", FONT)
        out.start_encoding()
        for t, rgb in enumerate(smooth_video()):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = t, Fraction(1, 25)
            out.mux(pictures.encode(picture))
        out.mux(pictures.encode(None))
        for number, track in enumerate(tracks):
            wave = (np.sin(np.arange(24000) * (0.05 + 0.02 * number)) * 9000).astype(np.int16)[None]
            for part in np.split(wave, 24, 1):
                chunk = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                chunk.sample_rate = 48000
                for each in av.AudioResampler(track.format, "mono", 48000).resample(chunk):
                    each.pts = None
                    out.mux(track.encode(each))
            out.mux(track.encode(None))
        if text is not None:
            for start in (0, 200):
                packet = av.Packet(b"Hello there" if subtitles != "mov_text" else b"\0\x0bHello there")
                packet.stream, packet.time_base = text, Fraction(1, 1000)
                packet.pts = packet.dts = start
                packet.duration = 150
                out.mux(packet)
    return path


def subtitle_template(kind: str):
    """A stream of subtitles to copy the parameters of: PyAV has no encoder of its own for them."""
    line = (
        "1\n00:00:00,000 --> 00:00:00,100\nHello\n\n"
        if kind == "srt"
        else "WEBVTT\n\n00:00.000 --> 00:00.100\nHello\n\n"
    )
    return av.open(io.BytesIO(line.encode()), format=kind).streams.subtitles[0]


def contents(path: Path) -> dict:
    """What a file holds beside pictures: for each stream its codec, tags and packets; chapters, attachments, tags."""
    with av.open(str(path)) as file:
        streams = [s for s in file.streams if s.type in ("audio", "subtitle")]
        packets = {s.index: [] for s in streams}
        for packet in file.demux(streams) if streams else ():
            if packet.size:
                packets[packet.stream.index].append((packet.pts * packet.time_base, bytes(packet)))
        described = [
            (s.type, s.codec_context.name, s.language, int(s.disposition) & ~1, packets[s.index]) for s in streams
        ]
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in file.chapters()]
        attachments = [(s.name, s.mimetype, bytes(s.data)) for s in file.streams if s.type == "attachment"]
        main = file.streams.video[0]
        return {
            "streams": described,
            "chapters": chapters,
            "attachments": attachments,
            "tags": {k: v for k, v in file.metadata.items() if k.lower() in ("title", "artist", "shot_by")},
            "aspect": main.sample_aspect_ratio,
            "title": main.metadata.get("title"),
        }


def run(source: Path, name: str, **options) -> Path:
    out = source.with_name(name)
    options.setdefault("notify", lambda _: None)
    inpaint(Paint(), source, out, boxes=[BOX], settings=SETTINGS, masks=EXACT, **options)
    return out


def test_matroska_comes_back_whole(tmp_path):
    source = write_rich(tmp_path / "in.mkv")
    before, after = contents(source), contents(run(source, "out.mkv"))
    assert len(before["streams"]) == 3
    assert all(len(stream[4]) > 1 for stream in before["streams"])
    assert before["attachments"] == [("font.ttf", "font/ttf", FONT)]
    assert len(before["chapters"]) == 2
    assert len(before["tags"]) == 3
    assert after == before


def test_quicktime_comes_back_whole(tmp_path):
    source = write_rich(tmp_path / "in.mov", subtitles=None)
    before, after = contents(source), contents(run(source, "out.mov"))
    assert len(before["chapters"]) == 2
    assert before["tags"]["shot_by"] == "a camera"
    assert after == before


def test_webm_comes_back_whole(tmp_path):
    source = write_rich(tmp_path / "in.webm", sound="libopus", subtitles="webvtt")
    before, after = contents(source), contents(run(source, "out.webm"))
    assert [stream[1] for stream in before["streams"]] == ["opus", "opus", "webvtt"]
    assert after == before


def test_a_turned_and_mirrored_source_keeps_its_matrix_and_takes_its_box_as_shown(tmp_path):
    source = write_rich(tmp_path / "in.mov", subtitles=None, extras=False)
    out = source.with_name("out.mov")
    inpaint(
        Paint(), source, out, boxes=[(3, 5, 10, 20)], settings=SETTINGS, masks=EXACT, encoding=Encoding(lossless=True)
    )  # shown, the picture is 48 x 64
    luma = []
    for path in (source, out):
        with open_video(path, keep_pictures=True) as reader:
            assert reader.display_matrix == MATRIX
            assert (reader.width, reader.height) == (64, 48)
            luma.append(reader.orientation.shown(samples(next(reader).picture)["y"].copy()))
    rows, columns = np.nonzero(luma[0] != luma[1])
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (5, 25, 3, 13)


def test_what_the_container_cannot_hold_is_named_and_dropped_where_asked(tmp_path):
    source = write_rich(tmp_path / "in.mkv", sound="pcm_u8")
    listed = r"audio \(pcm_u8\), audio \(pcm_u8\), subtitles \(subrip\), attachment \(font\.ttf\)"
    with pytest.raises(UserError, match=rf"\.mp4 files cannot hold the source's {listed}.*\.mkv.*--drop-unsupported"):
        run(source, "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
    notes = []
    after = contents(run(source, "out.mp4", encoding=Encoding(drop_unsupported=True), notify=notes.append))
    assert notes[0].startswith("left out, since .mp4 files cannot hold it: audio (pcm_u8)")
    assert after["streams"] == []
    assert [chapter[2] for chapter in after["chapters"]] == [{"title": "One"}, {"title": "Two"}]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cover_stays_a_cover(tmp_path, suffix):
    art = cv2.imencode(".png", np.full((20, 30, 3), 77, np.uint8))[1].tobytes()
    source = write_with_cover(tmp_path / f"in{suffix}", art)
    for out in (run(source, "out.mp4"), run(source, "out.mkv")):
        with av.open(str(out)) as file:
            covers = [s for s in file.streams.video if s.disposition & av.stream.Disposition.attached_pic]
            assert len(covers) == 1
            assert next(bytes(p) for p in file.demux(covers[0]) if p.size) == art
            assert len(file.streams.video) == 2


def write_with_cover(path: Path, art: bytes) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", 25)
        stream.width, stream.height = 64, 48
        cover = None
        if path.suffix == ".mkv":
            out.add_attachment("cover.png", "image/png", art)
        else:
            cover = out.add_mux_stream("png", width=30, height=20)
            cover.disposition = av.stream.Disposition.attached_pic
        out.start_encoding()
        for t, rgb in enumerate(smooth_video(5)):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture.pts, picture.time_base = t, Fraction(1, 25)
            out.mux(stream.encode(picture.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
        if cover is not None:
            packet = av.Packet(art)
            packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 25)
            out.mux(packet)
    return path


def test_a_time_code_track_is_written_again(tmp_path):
    source = tmp_path / "in.mov"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", 25)
        stream.width, stream.height = 64, 48
        stream.metadata["timecode"] = "01:02:03:04"
        for t, rgb in enumerate(smooth_video(5)):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = t, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    for path in (source, run(source, "out.mov")):
        with av.open(str(path)) as file:
            assert [s.type for s in file.streams] == ["video", "data"]
            assert file.streams[1].metadata["timecode"] == "01:02:03:04"


def write_transport(path: Path, starts: list[int], each: int = 15, sound: bool = True) -> Path:
    """A .ts file of runs of pictures and sound, each run beginning at its tick of 90 kHz."""
    parts = []
    for start in starts:
        part = io.BytesIO()
        with av.open(part, "w", "mpegts", container_options={"mpegts_copyts": "1"}) as out:
            stream = out.add_stream("libx264", 25, options={"bf": "0"}, time_base=Fraction(1, 90000))
            stream.width, stream.height = 64, 48
            track = out.add_stream("mp2", 48000, layout="mono") if sound else None
            for t, rgb in enumerate(smooth_video(each)):
                picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
                picture.pts, picture.time_base = start + 3600 * t, Fraction(1, 90000)
                out.mux(stream.encode(picture))
                if track is not None:
                    chunk = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), format="s16", layout="mono")
                    chunk.sample_rate, chunk.time_base = 48000, Fraction(1, 48000)
                    chunk.pts = (start + 3600 * t) * 48000 // 90000
                    out.mux(track.encode(chunk))
            out.mux(stream.encode(None))
            if track is not None:
                out.mux(track.encode(None))
        parts.append(part.getvalue())
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(
    "starts",
    [[2**33 - 3600 * 7], [90000, 90000], [90000 * 5000, 90000], [90000, 90000 * 40000]],
    ids=["wraps", "again", "back", "forward"],
)
@pytest.mark.parametrize("name", ["out.mp4", "out.ts", "out.mkv"])
def test_clocks_that_wrap_or_jump_go_on_steadily(tmp_path, starts, name):
    source = write_transport(tmp_path / "in.ts", starts)
    out = run(source, name)
    after = traits(out)
    count = 15 * len(starts)
    times = [pts * after.time_base for pts in after.pts]
    assert len(times) == count
    steps = np.diff([float(time) for time in times])
    assert np.abs(steps - 0.04).max() < 0.0015, "40 ms, to the millisecond where .mkv rounds"
    heard = [float(time) for time, _ in after.sound[0]]
    assert heard[-1] - heard[0] == pytest.approx(float(times[-1] - times[0]), abs=0.1)
    assert abs(heard[0] - float(times[0])) < 0.1


def test_a_transport_stream_keeps_its_times(tmp_path):
    source = write_transport(tmp_path / "in.ts", [126000])
    before, after = traits(source), traits(run(source, "out.ts"))
    assert after.pts == before.pts
    assert after.sound == before.sound


UNEVEN = [0, 70, 100, 330, 370, 800, 810, 1500]


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4", ".mov", ".gif", ".apng"])
def test_uneven_times_come_back_exactly(tmp_path, suffix):
    """In hundredths of a second, which all of these formats hold."""
    source = tmp_path / f"in{suffix}"
    codec = {".gif": "gif", ".apng": "apng", ".webm": "libvpx-vp9"}.get(suffix, "libx264")
    form = {".gif": "rgb8", ".apng": "rgb24"}.get(suffix, "yuv420p")
    with av.open(str(source), "w") as out:
        stream = out.add_stream(codec, 25, time_base=Fraction(1, 100 if suffix == ".gif" else 1000))
        stream.width, stream.height, stream.pix_fmt = 64, 48, form
        for tick, rgb in zip(UNEVEN, smooth_video(len(UNEVEN)), strict=True):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=form)
            picture.pts, picture.time_base = tick, Fraction(1, 1000)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    before, after = traits(source), traits(run(source, f"out{suffix}"))
    times = [(np.array(t.pts) - t.pts[0]) * float(t.time_base) for t in (before, after)]
    assert np.allclose(times[0], np.array(UNEVEN) / 1000)
    assert np.allclose(times[1], times[0])


def test_avi_counts_frames_and_says_where_it_cannot(tmp_path):
    source = write_rich(tmp_path / "in.mkv", sound="mp2", subtitles=None, extras=False)
    out = run(source, "out.avi")
    assert len(traits(out).pts) == 12
    assert [len(track) for track in traits(out).sound] == [len(track) for track in traits(source).sound]
    uneven = tmp_path / "uneven.mkv"
    with av.open(str(uneven), "w") as file:
        stream = file.add_stream("libx264", 25, time_base=Fraction(1, 1000))
        stream.width, stream.height = 64, 48
        for tick, rgb in zip(UNEVEN, smooth_video(len(UNEVEN)), strict=True):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = tick, Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"\.avi files .* hold one frame rate.*write a \.mkv file"):
        run(uneven, "uneven.avi")


def test_captions_inside_the_pictures_are_kept(tmp_path):
    """CEA-608 as broadcast carries it, one packet of bytes a picture."""
    source = tmp_path / "in.ts"
    plain = write_transport(tmp_path / "plain.ts", [90000], sound=False)
    with av.open(str(plain)) as file, av.open(str(source), "w") as out:
        stream = out.add_stream_from_template(file.streams.video[0])
        for t, packet in enumerate(p for p in file.demux(video=0) if p.size):
            payload = b"\xb5\0\x31GA94\3" + bytes([0x41, 0xFF, 0xFC, 0x94, 0x20 + t, 0xFF])
            message = b"\0\0\0\1\6\4" + bytes([len(payload)]) + payload + b"\x80"
            data = bytes(packet)  # it begins with a delimiter of six bytes
            changed = av.Packet(data[:6] + message + data[6:])
            changed.stream, changed.time_base = stream, packet.time_base
            changed.pts, changed.dts = packet.pts, packet.dts
            out.mux(changed)

    def captions(path):
        with av.open(str(path)) as file:
            return [
                [bytes(side) for side in picture.side_data if side.type.name == "A53_CC"]
                for picture in file.decode(video=0)
            ]

    before = captions(source)
    assert all(len(each) == 1 for each in before)
    assert captions(run(source, "out.ts")) == before
    assert captions(run(source, "out.mp4")) == before


@pytest.mark.parametrize(
    ("name", "codec"), [("out.mp4", "aac"), ("out.webm", "opus"), ("out.ts", "aac"), ("out.avi", "mp3float")]
)
def test_sound_is_encoded_again_only_where_asked(tmp_path, name, codec):
    held = "pcm_u8" if name == "out.mp4" else "pcm_s32be"
    source = write_rich(tmp_path / "in.mov", sound=held, subtitles=None, extras=False)
    with pytest.raises(UserError, match=rf"audio \({held}\).*encode the audio by --encode-audio, or go on without"):
        run(source, name)
    out = run(source, name, encoding=Encoding(encode_audio=True))
    with av.open(str(out)) as file:
        assert [s.codec_context.name for s in file.streams.audio] == [codec] * 2
        if name == "out.mp4":
            assert file.streams.audio[1].language == "fra"  # QuickTime has no code for "deu", the first one's
        heard = np.concatenate([f.to_ndarray().ravel() for f in file.decode(audio=0)])
    assert len(heard) == pytest.approx(24000, abs=3000)
    tone = np.abs(np.fft.rfft(heard.astype(float)[2000:22000])).argmax() / 20000
    assert tone == pytest.approx(0.05 / (2 * np.pi), abs=1e-4), "the same tone"


def test_the_kinds_of_pictures_are_the_encoders_choice(tmp_path):
    """A source of key frames alone does not force as many on the output, where they cost bytes."""
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", 25, options={"g": "1"})
        stream.width, stream.height = 64, 48
        for t, rgb in enumerate(smooth_video(12)):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = t, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    with av.open(str(run(source, "out.mp4"))) as file:
        assert [packet.is_keyframe for packet in file.demux(video=0) if packet.size].count(True) == 1
