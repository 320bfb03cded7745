"""Crops: the place and the resizing of the square, and drawn faces found by the real cascade."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fastinpaint.data.crops import BoxCrop, Crop, FaceCrop, Square, agreed_face, resize, square_around
from fastinpaint.errors import UserError


def draw_face(rgb: np.ndarray, x: float, y: float, half: float) -> None:
    """A frontal face with hair, eyes, brows, nose and mouth, `half` its half width, into the frame."""

    def ellipse(dx: float, dy: float, width: float, height: float, colour: tuple[int, int, int]) -> None:
        centre = round(x + dx * half), round(y + dy * half)
        axes = max(1, round(width * half)), max(1, round(height * half))
        cv2.ellipse(rgb, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)

    ellipse(0, -0.1, 1.1, 1.45, (60, 45, 40))
    ellipse(0, 0.05, 0.95, 1.3, (205, 170, 150))
    for side in (-1, 1):
        ellipse(0.42 * side, -0.18, 0.3, 0.16, (150, 115, 100))
        ellipse(0.42 * side, -0.36, 0.3, 0.06, (70, 50, 45))
        ellipse(0.42 * side, -0.15, 0.2, 0.09, (235, 230, 225))
        ellipse(0.42 * side, -0.15, 0.09, 0.09, (40, 30, 30))
        ellipse(0.13 * side, 0.38, 0.06, 0.04, (110, 80, 75))
    ellipse(0, 0.15, 0.1, 0.3, (225, 195, 175))
    ellipse(0, 0.72, 0.36, 0.1, (150, 80, 80))


def scene(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(60, 160, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def face_video(places: list[tuple[float, float]], half: float = 36) -> np.ndarray:
    video = np.stack([scene() for _ in places])
    for frame, (x, y) in zip(video, places, strict=True):
        draw_face(frame, x, y, half)
    return video


def crop_all(crop: Crop, video: np.ndarray) -> tuple[Square, np.ndarray] | None:
    crop.start()
    return crop.cut([crop.see(frame) for frame in video])


@pytest.mark.parametrize(
    ("height", "width", "square"),
    [(480, 640, Square(80, 0, 480)), (640, 480, Square(0, 80, 480)), (50, 50, Square(0, 0, 50))],
    ids=["caltech", "portrait", "square"],
)
def test_center_is_the_largest_square_in_the_middle(height: int, width: int, square: Square) -> None:
    assert Crop(128, 1).square(height, width) == square


def test_center_sample_holds_those_pixels() -> None:
    video = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), np.uint8)
    square, sample = crop_all(Crop(8, 1), video) or pytest.fail("no sample")
    assert square == (2, 0, 8)
    assert np.array_equal(sample, video[:, :, 2:10])


def test_shrinking_averages_areas() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 12, 3), np.uint8)
    means = pixels.reshape(4, 3, 4, 3, 3).astype(float).mean((1, 3))
    assert np.abs(resize(pixels, Square(0, 0, 12), 4) - means).max() <= 0.5 + 1e-6


def test_growing_keeps_a_ramp_smooth() -> None:
    ramp = np.repeat(np.arange(0, 160, 20, dtype=np.uint8)[None, :, None], 8, 0).repeat(3, 2)
    grown = resize(ramp, Square(0, 0, 8), 32)[16, 4:-4, 0].astype(int)
    assert grown.shape == (24,)
    assert set(np.diff(grown)) <= {3, 4, 5, 6, 7}  # nearest would give 0 and 20


def test_box() -> None:
    video = np.random.default_rng(2).integers(0, 256, (2, 20, 30, 3), np.uint8)
    square, sample = crop_all(BoxCrop(6, 1, Square(4, 5, 6)), video) or pytest.fail("no sample")
    assert square == (4, 5, 6)
    assert np.array_equal(sample, video[:, 5:11, 4:10])


@pytest.mark.parametrize("box", [Square(-1, 0, 5), Square(0, -1, 5), Square(26, 0, 5), Square(0, 16, 5)])
def test_box_outside_the_frame(box: Square) -> None:
    with pytest.raises(UserError, match=r"the box .* must lie in the frame, which is 30x20\.$"):
        BoxCrop(6, 1, box).see(np.zeros((20, 30, 3), np.uint8))


def test_too_small_a_square() -> None:
    with pytest.raises(UserError, match=r"at least 21 pixels wide; it has 20\.$"):
        Crop(64, 21).see(np.zeros((20, 30, 3), np.uint8))


def test_one_square_holds_the_face_in_every_frame() -> None:
    places = [(120 + 1.5 * t, 115 + np.sin(t)) for t in range(16)]
    square, sample = crop_all(FaceCrop(64, 16), face_video(places)) or pytest.fail("no face")
    assert sample.shape == (16, 64, 64, 3)
    for x, y in places:
        assert square.x < x - 30
        assert x + 30 < square.x + square.side
        assert square.y < y - 40
        assert y + 30 < square.y + square.side
    assert square.side < 200


def test_the_square_is_smooth_over_time() -> None:
    """Overlapping samples of a still face get nearly the same square."""
    rng = np.random.default_rng(0)
    crop = FaceCrop(64, 16)
    video = face_video([(150, 120)] * 24).astype(int) + rng.integers(-6, 7, (24, 240, 320, 3))
    crop.start()
    seen = [crop.see(frame) for frame in np.clip(video, 0, 255).astype(np.uint8)]
    squares = [(crop.cut(seen[i : i + 8]) or pytest.fail("no face"))[0] for i in range(0, 17, 4)]
    assert np.ptp(np.array(squares), axis=0).max() <= 6


def test_no_face_no_sample() -> None:
    assert crop_all(FaceCrop(64, 16), np.stack([scene(seed=s) for s in range(8)])) is None


def test_a_face_that_leaves_early_gives_no_sample() -> None:
    video = face_video([(150, 120)] * 16)
    video[4:] = scene()
    assert crop_all(FaceCrop(64, 16), video) is None


def test_small_faces_are_left_out() -> None:
    video = face_video([(150, 120)] * 8)
    assert crop_all(FaceCrop(64, 100), video) is not None
    assert crop_all(FaceCrop(64, 240), video) is None


def test_agreement_ignores_single_errors_and_prefers_the_larger_face() -> None:
    looks = [np.array([[100 + t, 80, 40], [200, 90, 60 + t]], float) for t in range(5)]
    looks[2] = np.concatenate([looks[2], [[20, 20, 90]]])  # seen once only
    face = agreed_face(looks)
    assert face is not None
    assert face.tolist() == [200, 90, 62]


def test_agreement_needs_half_of_the_looks() -> None:
    one, none = np.array([[100, 80, 40]], float), np.empty((0, 3))
    assert agreed_face([one, none] * 3) is not None
    assert agreed_face([one, none, none] * 3) is None
    assert agreed_face([one, none, one, none]) is None  # two looks may err alike
    assert agreed_face([one, one]) is not None
    assert agreed_face([none, none]) is None


def test_the_square_stays_in_the_frame() -> None:
    assert square_around(np.array([10, 10, 40]), 100, 200) == (0, 0, 60)
    assert square_around(np.array([195, 95, 40]), 100, 200) == (140, 40, 60)
    assert square_around(np.array([100, 50, 90]), 100, 200) == (50, 0, 100)


def test_opencv_without_cascades_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.data, "haarcascades", "nowhere/")
    with pytest.raises(UserError, match=r"--crop face needs OpenCV 4, .*pip install"):
        FaceCrop(64, 16)
