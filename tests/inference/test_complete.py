import numpy as np
import pytest
import torch

from fastinpaint.errors import UserError
from fastinpaint.inference import Settings, complete, complete_stream
from fastinpaint.models import ModelConfig, TwoDCN, VideoCompletionNet
from tests.inference.stubs import Count, FillMean, Paint

SMALL = Settings(frames=4, size=16, device="cpu")


def clip(frames: int = 6, height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def box_mask(shape: tuple[int, ...], y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[..., y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize("kind", [VideoCompletionNet, TwoDCN])
@pytest.mark.parametrize("settings", [SMALL, Settings(frames=4, full_frame=True, device="cpu")], ids=["window", "full"])
def test_known_pixels_stay_bit_for_bit_and_holes_do_not(kind, settings):
    torch.manual_seed(0)
    model = kind(ModelConfig(width=1 / 32))
    video = clip(height=39, width=53)
    mask = np.random.default_rng(1).random(video.shape[:3]) < 0.02
    out = complete(model, video, mask, settings)
    assert out.dtype == np.uint8
    assert (out[~mask] == video[~mask]).all()
    assert (out[mask] != video[mask]).mean() > 0.9


@pytest.mark.parametrize("full", [False, True], ids=["window", "full"])
def test_what_the_hole_holds_has_no_influence(full):
    video = clip()
    mask = box_mask(
        video.shape[:3], 11, 30, 13, 38
    )  # scaled down by 2.4, so hole pixels share small pixels with others
    settings = Settings(frames=4, size=16, full_frame=full, device="cpu")
    other = video.copy()
    other[mask] = 255 - other[mask]
    for model in (FillMean(), VideoCompletionNet(ModelConfig(width=1 / 32))):
        first, second = (complete(model, each, mask, settings) for each in (video, other))
        assert (first == second).all()


def test_the_hole_takes_the_networks_colour_and_one_mask_serves_all_frames():
    video = clip()
    mask = box_mask((40, 56), 5, 20, 10, 30)
    out = complete(Paint(1.0, 0.0, 0.5), video, mask, SMALL)
    assert (out[:, mask] == (255, 0, 128)).all()
    assert (out[:, ~mask] == video[:, ~mask]).all()


def test_colours_outside_the_range_are_clamped():
    out = complete(Paint(1.7, -0.3, 0.0), clip(), box_mask((40, 56), 5, 20, 10, 30), SMALL)
    assert (out[:, 10, 20] == (255, 0, 0)).all()


def test_the_network_sees_the_window_at_its_own_size_and_every_hole_in_it():
    model = Paint()
    video = clip(frames=4, height=100, width=200)
    mask = box_mask((100, 200), 40, 60, 80, 100) | box_mask((100, 200), 40, 44, 108, 112)
    complete(model, video, mask, SMALL)
    shapes = [tuple(seen.shape) for seen, _ in model.seen]
    assert shapes[0] == (1, 3, 4, 16, 16)
    _, hole = model.seen[0]
    assert hole.unique().tolist() == [0.0, 1.0]
    assert hole[0, 0, 0, :, 15].any(), "the edge of the second hole lies in the first one's window and must be marked"


def test_a_window_is_laid_round_the_holes_of_its_own_frames_only():
    model = Paint()
    video = clip(frames=8, height=100, width=200)
    mask = np.zeros(video.shape[:3], bool)
    mask[:4, 10:18, 10:18] = True
    mask[4:, 80:88, 180:188] = True
    complete(model, video, mask, Settings(frames=4, overlap=0, size=16, device="cpu"))
    assert [tuple(seen.shape) for seen, _ in model.seen] == [(1, 3, 4, 16, 16)] * 2
    assert all(hole.sum() == 4 * 64 for _, hole in model.seen)


def test_frames_without_a_hole_are_not_shown_to_the_network():
    model = Paint()
    video = clip(frames=12)
    mask = np.zeros(video.shape[:3], bool)
    mask[9, 5:10, 5:10] = True
    out = complete(model, video, mask, Settings(frames=4, overlap=0, size=16, device="cpu"))
    assert len(model.seen) == 1
    assert (out[9, 7, 7] == (255, 0, 128)).all()


def test_overlapping_windows_fade_into_each_other():
    mask = box_mask((40, 56), 5, 20, 10, 30)
    out = complete(Count(), clip(frames=8), mask, Settings(frames=5, overlap=2, size=16, device="cpu"))
    first, second = 26, 51
    thirds = [round((2 * first + second) / 3), round((first + 2 * second) / 3)]
    assert out[:, 10, 20, 0].tolist() == [first] * 3 + thirds + [second] * 3


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 9])
def test_any_number_of_frames_comes_out(frames):
    video = clip(frames=frames)
    mask = box_mask((40, 56), 5, 20, 10, 30)
    out = complete(Paint(), video, mask, SMALL)
    assert (out[:, mask] == (255, 0, 128)).all()
    assert (out[:, ~mask] == video[:, ~mask]).all()


def test_a_stream_yields_before_its_source_ends():
    taken = []

    def pairs():
        for index, frame in enumerate(clip(frames=40)):
            taken.append(index)
            yield frame, box_mask((40, 56), 5, 20, 10, 30)

    stream = complete_stream(Paint(), pairs(), SMALL)
    next(stream)
    assert len(taken) <= 8


def test_feather_fades_from_the_source_at_the_edge_to_the_completion():
    video = np.full((2, 40, 56, 3), 100, np.uint8)
    mask = box_mask((40, 56), 10, 30, 10, 30)
    settings = Settings(frames=4, size=16, feather=3, device="cpu")
    row = complete(Paint(1.0, 1.0, 1.0), video, mask, settings)[0, 20, :, 0].tolist()
    assert row[9:15] == [100, 139, 178, 216, 255, 255]
    assert row[25:31] == [255, 255, 216, 178, 139, 100]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_autocast_stays_near_full_precision(dtype):
    torch.manual_seed(0)
    model = VideoCompletionNet(ModelConfig(width=1 / 16))
    video, mask = clip(frames=4, height=16, width=16), box_mask((16, 16), 4, 10, 4, 10)
    full = complete(model, video, mask, SMALL)
    half = complete(model, video, mask, Settings(frames=4, size=16, device="cpu", dtype=dtype))
    assert np.abs(full.astype(int) - half).max() <= 3
    assert (full[:, mask].std(0) > 0).any()


def test_arguments_that_do_not_fit_are_named():
    video, mask = clip(), box_mask((40, 56), 5, 20, 10, 30)
    with pytest.raises(TypeError, match="video must be uint8 and mask bool, got float64 and bool"):
        complete(Paint(), video / 255, mask)
    with pytest.raises(ValueError, match=r"video must be \[T, H, W, 3\]"):
        complete(Paint(), video[0], mask)
    with pytest.raises(ValueError, match=r"mask must be .* got \(40, 55\)"):
        complete(Paint(), video, mask[:, 1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames must be a whole number from 1 to 4096, got 0"),
        ({"size": 2}, "size must be a whole number from 8 to 8192, got 2"),
        ({"feather": -1}, "feather must be a whole number from 0 to 8192, got -1"),
        ({"frames": 8, "overlap": 8}, "overlap must be from 0 to frames - 1 = 7, got 8"),
        ({"dtype": "int4"}, "dtype must be one of fp32, bf16, fp16, got 'int4'"),
        ({"device": "toaster"}, "device 'toaster' cannot be used here"),
        ({"device": "meta"}, "device 'meta' cannot be used here"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Settings(**options)
