"""Masks as people have them: images, folders, videos, labels, transparency, boxes that move."""

from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from fastinpaint.data.orientation import Orientation
from fastinpaint.errors import UserError
from fastinpaint.inference import HoleBox, MaskSettings, parse_box
from fastinpaint.inference.masks import Masks

AS_STORED = Orientation()
EIGHT = [Orientation(bool(n & 1), bool(n & 2), bool(n & 4)) for n in range(8)]


def video(width: int = 64, height: int = 48, orientation: Orientation = AS_STORED, frames: int = 12):
    """As much of a reader as masks need."""
    return SimpleNamespace(
        width=width, height=height, orientation=orientation, rate=Fraction(25), name="in.mp4", length_hint=frames
    )


def masks(of, path=None, boxes=(), notify=None, **settings) -> Masks:
    """Not widened unless asked, and without notes unless they are collected."""

    def unexpected(note: str) -> None:
        raise AssertionError(note)

    settings.setdefault("grow", 0)
    return Masks(of, path, boxes, MaskSettings(**settings), notify or unexpected)


def first(*arguments, **settings) -> np.ndarray:
    with masks(*arguments, **settings) as made:
        return made.take(0.0)


def drawn(height: int = 48, width: int = 64, box: tuple[int, int, int, int] = (5, 20, 10, 30)) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return mask


def save(path, mask: np.ndarray) -> str:
    cv2.imwrite(str(path), mask.astype(np.uint8) * 255 if mask.dtype == bool else mask)
    return str(path)


def save_palette(path, indices: np.ndarray, colours: list[tuple[int, int, int]]) -> str:
    """A PNG with a palette, as DAVIS has its labels."""
    picture = av.VideoFrame(indices.shape[1], indices.shape[0], "pal8")
    plane = np.frombuffer(picture.planes[0], np.uint8).reshape(-1, picture.planes[0].line_size)
    plane[: indices.shape[0], : indices.shape[1]] = indices
    entries = np.zeros((256, 4), np.uint8)
    entries[:, 3] = 255
    entries[: len(colours), :3] = np.array(colours)[:, ::-1]
    np.frombuffer(picture.planes[1], np.uint8)[:] = entries.ravel()
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = indices.shape[1], indices.shape[0], "pal8"
    encoder.time_base, picture.pts = Fraction(1, 25), 0
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(picture), *encoder.encode(None)]))
    return str(path)


def folder(path, numbers, height: int = 48, width: int = 64):
    """Masks whose hole begins in the row of their number."""
    path.mkdir()
    for number in numbers:
        save(path / f"{number:04d}.png", drawn(height, width, (number % 40, number % 40 + 3, 0, 5)))
    return path


def rows(made: Masks, frames: int) -> list[int | None]:
    """For each frame the first row of its hole; -1 where it has none, None where there is no mask."""
    taken = [made.take(t / 25) for t in range(frames)]
    return [None if mask is None else int(mask.argmax(0)[0]) if mask.any() else -1 for mask in taken]


def test_one_image_serves_every_frame(tmp_path):
    with masks(video(), save(tmp_path / "m.png", drawn())) as made:
        assert made.length_hint is None
        for _ in range(5):
            assert (made.take(0.0) == drawn()).all()
        assert made.more() == 0


def test_a_folder_gives_one_mask_a_frame_in_natural_order(tmp_path):
    for index in range(11):
        save(tmp_path / f"{index}.png", drawn(box=(index, index + 3, 0, 5)))
    with masks(video(), tmp_path) as made:
        assert made.length_hint == 11
        assert rows(made, 12) == [*range(11), None]


def test_a_video_of_masks_survives_its_compression(clip):
    sequence = np.zeros((6, 48, 64, 3), np.uint8)
    for t in range(6):
        sequence[t, 8 : 8 + 4 * t + 4, 16:40] = 255
    with masks(video(), clip("m.mp4", video=sequence)) as made:
        assert (np.stack([made.take(0.0) for _ in range(6)]) == (sequence[..., 0] > 0)).all()


@pytest.mark.parametrize(("value", "hole"), [(127, False), (128, True), (255, True)])
def test_half_white_is_the_threshold(tmp_path, value, hole):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[0, 0] = 255
    picture[10, 10, 2] = value  # one channel is enough: coloured masks are masks
    assert first(video(), save(tmp_path / "m.png", picture))[10, 10] == hole


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_of_zero_and_one_are_labels_with_a_note(tmp_path, dtype):
    notes = []
    path = save(tmp_path / "m.png", drawn().astype(dtype))
    assert (first(video(), path, notify=notes.append) == drawn()).all()
    assert notes == [f"{path}: the mask holds a few dark values, and is taken for labels: all but 0 are hole. "
                     "--label picks one."]  # fmt: skip


def test_a_palette_with_dark_colours_is_labels_and_one_can_be_picked(tmp_path):
    indices = np.zeros((48, 64), np.uint8)
    indices[5:10, 5:10], indices[20:30, 20:30] = 1, 8
    colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    path = save_palette(tmp_path / "m.png", indices, [*colours, (128, 128, 128), (64, 0, 0)])
    notes = []
    assert (first(video(), path, notify=notes.append) == (indices > 0)).all()
    assert "taken for labels" in notes[0]
    assert (first(video(), path, label=8) == (indices == 8)).all()
    assert (first(video(), path, label=1) == (indices == 1)).all()


def test_a_label_of_a_grey_image_of_sixteen_bits(tmp_path):
    values = np.zeros((48, 64), np.uint16)
    values[3:9, 3:9], values[20:30, 20:30] = 7, 1000
    path = save(tmp_path / "m.png", values)
    assert (first(video(), path, label=1000) == (values == 1000)).all()
    assert (first(video(), path, label=7) == (values == 7)).all()


def test_a_label_of_a_coloured_image_is_refused(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[3:9, 3:9] = 1, 2, 3
    with pytest.raises(UserError, match="--label takes the index of a palette or a grey value"):
        first(video(), save(tmp_path / "m.png", picture), label=1)


def test_dark_noise_is_no_label_where_compression_or_many_values_explain_it(tmp_path):
    noise = np.random.default_rng(0).integers(0, 4, (48, 64), np.uint8)
    noise[5:20, 10:30] = 255
    assert (first(video(), save(tmp_path / "white.png", noise)) == drawn()).all()
    noise[5:20, 10:30] = 3
    with pytest.raises(UserError, match="it is black throughout"):
        first(video(), save(tmp_path / "m.jpg", noise))
    many = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % 100
    with pytest.raises(UserError, match="it is black throughout"):
        first(video(), save(tmp_path / "many.png", many.astype(np.uint8)))


@pytest.mark.parametrize("colour", [0, 255])
def test_a_mask_in_the_transparency_is_taken_with_a_note(tmp_path, colour):
    picture = np.full((48, 64, 4), colour, np.uint8)
    picture[..., 3] = drawn() * 255
    path = save(tmp_path / "m.png", picture)
    notes = []
    assert (first(video(), path, notify=notes.append) == drawn()).all()
    assert "the mask is taken from its transparency: opaque is hole" in notes[0]
    assert (first(video(), path, channel="alpha") == drawn()).all()
    picture[..., 3] = 255
    picture[:24, :, :3] = 255 - colour
    assert first(video(), save(tmp_path / "opaque.png", picture)).mean() == 0.5, (
        "the same alpha throughout says nothing"
    )


def test_a_channel_can_be_picked(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[5:20, 10:30, 0] = 255  # OpenCV's first channel is blue
    picture[30:40, 10:30, 1] = 255
    path = save(tmp_path / "m.png", picture)
    assert (first(video(), path, channel="blue") == drawn()).all()
    assert (first(video(), path, channel="green") == drawn(box=(30, 40, 10, 30))).all()
    with pytest.raises(UserError, match="--mask-channel alpha needs pictures with transparency"):
        first(video(), path, channel="alpha")


def test_masks_and_boxes_are_a_union(tmp_path):
    path = save(tmp_path / "m.png", drawn(box=(40, 48, 60, 64)))
    mask = first(video(), path, [(10, 5, 20, 15)])
    assert (mask == (drawn() | drawn(box=(40, 48, 60, 64)))).all()
    black = save(tmp_path / "black.png", np.zeros((48, 64), bool))
    assert (first(video(), black, [(10, 5, 20, 15)]) == drawn()).all()


def test_boxes_are_drawn_together():
    mask = first(video(), None, [(10, 5, 20, 15), (60, 40, 4, 8)])
    assert (mask == (drawn() | drawn(box=(40, 48, 60, 64)))).all()


def test_a_box_over_the_edge_is_cut_with_a_note():
    notes = []
    mask = first(video(), None, [(50, -10, 30, 20)], notify=notes.append)
    assert (mask == drawn(box=(0, 10, 50, 64))).all()
    assert notes == ["box 50,-10,30,20 reaches beyond the video's 64x48 pixels and is cut there."]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((64, 0, 5, 5), "must lie inside the video's 64x48 pixels, at least in part"),
        ((0, 48, 5, 5), "must lie inside"),
        ((-9, 0, 9, 5), "must lie inside"),
        ((0, 0, 0, 5), "must be wider and higher than 0"),
        ((0, 0, 5, -5), "must be wider and higher than 0"),
    ],
)
def test_a_box_outside_the_frame_is_refused(box, message):
    with pytest.raises(UserError, match=rf"box .*{message}"):
        masks(video(), None, [box])


def test_a_box_in_per_cent():
    mask = first(video(200, 100), None, [parse_box("10%,20%,50%,30%")])
    assert (mask == drawn(100, 200, (20, 50, 20, 120))).all()
    assert (first(video(200, 100), None, [parse_box("20,20%,100,30%")]) == mask).all()


def test_a_box_moves_linearly_between_its_key_frames_and_is_gone_outside_them():
    keys = [parse_box("0,0,10,10@1"), parse_box("40,20,20,10@3"), parse_box("40,20,20,10@3.5")]
    with masks(video(), None, [*reversed(keys), (60, 40, 4, 8)]) as made:
        fixed = drawn(box=(40, 48, 60, 64))
        places = {0.96: None, 1.0: (0, 10, 0, 10), 2.0: (10, 20, 20, 35), 3.0: (20, 30, 40, 60), 3.5: (20, 30, 40, 60)}
        for seconds, place in {**places, 3.52: None}.items():
            expected = fixed if place is None else fixed | drawn(box=place)
            assert (made.take(seconds) == expected).all(), seconds


@pytest.mark.parametrize(
    ("boxes", "message"),
    [(["0,0,5,5@1"], "a moving box, which needs at least two"), (["0,0,5,5@1", "1,1,5,5@1"], "two are at 1 s")],
)
def test_key_frames_that_make_no_path_are_refused(boxes, message):
    with pytest.raises(UserError, match=message):
        masks(video(), None, [parse_box(box) for box in boxes])


@pytest.mark.parametrize(
    "text", ["1,2,3", "1,2,3,x", "1,2,3,4@", "1,2,3,4@x", "nan,0,5,5", "1,2,3,4@inf", "1e308%,0,1,1", ""]
)
def test_text_that_is_no_box_is_refused(text):
    with pytest.raises(UserError, match="box must"):
        parse_box(text)


def test_a_box_is_said_as_it_was_given():
    assert str(parse_box("1,2.5%,3,4@5.5")) == "1,2.5%,3,4@5.5"
    assert isinstance(parse_box("1,2,3,4"), HoleBox)


def test_a_hole_grows_by_a_disc(tmp_path):
    point = np.zeros((48, 64), bool)
    point[20, 30] = True
    grown = first(video(), save(tmp_path / "m.png", point), grow=4)
    y, x = np.nonzero(grown)
    assert (y.min(), y.max(), x.min(), x.max()) == (16, 24, 26, 34)
    assert not grown[16, 26]
    assert MaskSettings().grow == 4


def test_a_frame_that_is_nearly_all_hole_is_warned_of_once():
    notes = []
    with masks(video(), None, [(0, 0, 64, 47)], notify=notes.append) as made:
        for _ in range(3):
            made.take(0.0)
    assert notes == ["the boxes: the hole is 98 % of frame 0; --mask-invert is for masks whose holes are black."]


def test_invert_swaps_the_colours(tmp_path):
    path = save(tmp_path / "m.png", ~drawn())
    assert (first(video(), path, invert=True) == drawn()).all()
    assert (first(video(), None, [(10, 5, 20, 15)], invert=True) == ~drawn()).all()


@pytest.mark.parametrize("orientation", EIGHT, ids=str)
def test_masks_and_boxes_are_given_as_the_video_is_shown(tmp_path, orientation):
    shown = orientation.shown(drawn())
    assert (orientation.stored(shown) == drawn()).all()
    path = save(tmp_path / "m.png", shown)
    assert (first(video(orientation=orientation), path) == drawn()).all()
    y, x = (int(place) for place in np.argwhere(shown).min(0))
    box = (x, y, 15, 20) if orientation.swapped else (x, y, 20, 15)
    assert (first(video(orientation=orientation), None, [box]) == drawn()).all()


def test_a_mask_as_stored_is_told_by_its_size(tmp_path):
    turned = video(orientation=Orientation(True, False, True))
    assert (first(turned, save(tmp_path / "m.png", drawn())) == drawn()).all()


def test_another_size_is_refused_unless_resized(tmp_path):
    path = save(tmp_path / "m.png", drawn(24, 32, (4, 12, 8, 16)))
    with pytest.raises(UserError, match=r"must have the video's size, 64x48, and has 32x24; --mask-resize"):
        masks(video(), path)
    assert (first(video(), path, resize=True) == drawn(box=(8, 24, 16, 32))).all()


@pytest.mark.parametrize(("invert", "colour"), [(False, "white"), (True, "black")])
def test_a_mask_without_a_hole_is_refused(tmp_path, invert, colour):
    path = save(tmp_path / "m.png", np.full((48, 64), invert))
    with pytest.raises(UserError, match=rf"m\.png: the mask must have a {colour} pixel"):
        masks(video(), path, invert=invert)


def test_a_mask_or_a_box_is_needed():
    with pytest.raises(UserError, match="a mask or a box is needed; got neither"):
        masks(video())


def test_a_gap_in_the_numbers_is_refused_with_what_to_do(tmp_path):
    gap = folder(tmp_path / "gap", [0, 1, 2, 5, 6])
    with pytest.raises(
        UserError, match=r"numbers of the 5 masks jump from 2 to 5; add the missing.*--mask-hold auto.*hold 1"
    ):
        masks(video(), gap)
    with masks(video(), gap, hold=1) as made:
        assert rows(made, 6) == [0, 1, 2, 5, 6, None]
    with masks(video(), gap, hold=0) as made:
        assert made.length_hint == 7
        assert rows(made, 8) == [0, 1, 2, 2, 2, 5, 6, None]


def test_masks_of_every_fifth_frame_are_held(tmp_path):
    fifth = folder(tmp_path / "fifth", [0, 5, 10])
    with pytest.raises(UserError, match="jump from 0 to 5; --mask-hold 5 shows each for 5 frames"):
        masks(video(), fifth)
    for hold in (5, 0):
        with masks(video(), fifth, hold=hold) as made:
            assert made.length_hint == 15
            assert rows(made, 15) == [0] * 5 + [5] * 5 + [10] * 5


def test_start_step_and_hold_say_which_frame_a_mask_is_for(tmp_path):
    ten = folder(tmp_path / "ten", range(10))
    for settings, expected in {
        (("step", 2),): [0, 2, 4, 6, 8, None],
        (("hold", 2),): [0, 0, 1, 1, 2, 2],
        (("start", 2),): [-1, -1, 0, 1, 2, 3],
        (("start", -8),): [8, 9, -1, -1, -1, -1],
        (("start", 1), ("step", 5), ("hold", 2)): [-1, 0, 0, 5, 5, -1],
    }.items():
        with masks(video(), ten, **dict(settings)) as made:
            assert rows(made, 6) == expected, settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grow": -1}, "mask grow must be from 0 to 1000, got -1"),
        ({"step": 0}, "mask step must be from 1"),
        ({"hold": -1}, "mask hold must be from 0"),
        ({"label": 70000}, "mask label must be from 0 to 65535, got 70000"),
        ({"channel": "luma"}, "mask channel must be one of auto, colour, red, green, blue, alpha, got 'luma'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        MaskSettings(**settings)
