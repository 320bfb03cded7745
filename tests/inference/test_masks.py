from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from fastinpaint.data.orientation import Orientation
from fastinpaint.errors import UserError
from fastinpaint.inference.masks import Masks


def video(width: int = 64, height: int = 48, rotation: int = 0) -> SimpleNamespace:
    """As much of a reader as masks need."""
    orientation = {0: (), 90: (True, False, True), 180: (False, True, True), -90: (True, True, False)}[rotation]
    return SimpleNamespace(width=width, height=height, orientation=Orientation(*orientation))


def drawn(height: int = 48, width: int = 64, box: tuple[int, int, int, int] = (5, 20, 10, 30)) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return mask


def save(path, mask: np.ndarray) -> str:
    cv2.imwrite(str(path), mask.astype(np.uint8) * 255)
    return str(path)


def test_one_image_serves_every_frame(tmp_path):
    with Masks(video(), save(tmp_path / "m.png", drawn())) as masks:
        assert masks.length_hint is None
        for _ in range(5):
            assert (next(masks) == drawn()).all()


def test_a_folder_gives_one_mask_a_frame_in_natural_order(tmp_path):
    for index in range(11):
        save(tmp_path / f"{index}.png", drawn(box=(index, index + 3, 0, 5)))
    with Masks(video(), tmp_path) as masks:
        assert masks.length_hint == 11
        assert [int(mask.argmax(0)[0]) for mask in masks] == list(range(11))


def test_a_video_of_masks_survives_its_compression(clip):
    sequence = np.zeros((6, 48, 64, 3), np.uint8)
    for t in range(6):
        sequence[t, 8 : 8 + 4 * t + 4, 16:40] = 255
    with Masks(video(), clip("m.mp4", video=sequence)) as masks:
        assert (np.stack(list(masks)) == (sequence[..., 0] > 0)).all()


@pytest.mark.parametrize(("value", "hole"), [(127, False), (128, True), (255, True)])
def test_half_white_is_the_threshold(tmp_path, value, hole):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[0, 0] = 255
    picture[10, 10, 2] = value  # one channel is enough: coloured masks are masks
    cv2.imwrite(str(tmp_path / "m.png"), picture)
    assert next(Masks(video(), tmp_path / "m.png"))[10, 10] == hole


def test_boxes_are_drawn_together():
    mask = next(Masks(video(), boxes=[(10, 5, 20, 15), (60, 40, 4, 8)]))
    assert (mask == (drawn() | drawn(box=(40, 48, 60, 64)))).all()


@pytest.mark.parametrize("box", [(60, 0, 5, 5), (0, 44, 5, 5), (-1, 0, 5, 5), (0, 0, 0, 5)])
def test_a_box_outside_the_frame_is_refused(box):
    with pytest.raises(UserError, match=r"box .*must lie inside the video's 64x48 pixels"):
        Masks(video(), boxes=[box])


def test_invert_swaps_the_colours(tmp_path):
    path = save(tmp_path / "m.png", ~drawn())
    assert (next(Masks(video(), path, invert=True)) == drawn()).all()
    assert (next(Masks(video(), boxes=[(10, 5, 20, 15)], invert=True)) == ~drawn()).all()


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_masks_and_boxes_are_given_as_the_video_is_shown(tmp_path, rotation):
    turn = rotation // 90 % 4
    shown = np.rot90(drawn(), turn)
    path = save(tmp_path / "m.png", shown)
    assert (next(Masks(video(rotation=rotation), path)) == drawn()).all()
    y, x = np.argwhere(shown).min(0)
    box = (int(x), int(y), 20, 15) if turn % 2 == 0 else (int(x), int(y), 15, 20)
    assert (next(Masks(video(rotation=rotation), boxes=[box])) == drawn()).all()


def test_a_mask_as_stored_is_told_by_its_size(tmp_path):
    assert (next(Masks(video(rotation=90), save(tmp_path / "m.png", drawn()))) == drawn()).all()


def test_another_size_is_refused_unless_resized(tmp_path):
    path = save(tmp_path / "m.png", drawn(24, 32, (4, 12, 8, 16)))
    with pytest.raises(UserError, match=r"must have the video's size, 64x48, and has 32x24; --mask-resize"):
        Masks(video(), path)
    resized = next(Masks(video(), path, resize=True))
    assert (resized == drawn(box=(8, 24, 16, 32))).all()


@pytest.mark.parametrize(("invert", "colour"), [(False, "white"), (True, "black")])
def test_a_mask_without_a_hole_is_refused(tmp_path, invert, colour):
    path = save(tmp_path / "m.png", np.full((48, 64), invert))
    with pytest.raises(UserError, match=rf"m\.png: the mask must have a {colour} pixel"):
        Masks(video(), path, invert=invert)


@pytest.mark.parametrize(("both", "came"), [(True, "both"), (False, "neither")])
def test_a_mask_or_a_box_is_needed_and_not_both(tmp_path, both, came):
    with pytest.raises(UserError, match=f"a mask or a box is needed, and not both; got {came}"):
        Masks(video(), save(tmp_path / "m.png", drawn()) if both else None, [(0, 0, 5, 5)] if both else [])
