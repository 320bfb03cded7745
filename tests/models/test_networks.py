"""Behaviour of the networks: any size, no leak, the parts of the joined network, the configuration."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastinpaint import UserError
from fastinpaint.models import (
    CombCN,
    ModelConfig,
    ThreeDCN,
    TwoDCN,
    VideoCompletionNet,
    coarse_input,
    complete_frames,
)
from fastinpaint.models.layers import deconvolution3d
from fastinpaint.models.preprocess import composite
from fastinpaint.models.table import THREEDCN

NARROW = 0.125
OPTIONS = [
    {},
    {"r": 1},
    {"r": 4},
    {"time_stride": 2},
    {"preset": "chang2019"},
    {"skips": "add"},
    {"guidance": "before"},
    {"deconv_time": 3},
    {"composite_guidance": False},
]


def holed(samples: int, frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(frames * 100 + height)
    video = torch.rand(samples, 3, frames, height, width, generator=generator)
    mask = (torch.rand(samples, 1, frames, height, width, generator=generator) > 0.6).float()
    return video, mask


def net(**options: object) -> VideoCompletionNet:
    torch.manual_seed(0)
    model = VideoCompletionNet(ModelConfig(width=NARROW, **options)).eval()
    model.mean_pixel.copy_(torch.tensor([0.2, 0.4, 0.6]))
    return model


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 16, 16), (3, 13, 22), (2, 1, 3)], ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_any_size_goes_through_every_variant(options: dict, size: tuple[int, int, int]) -> None:
    model = net(**options)
    video, mask = holed(2, *size)
    completed, coarse = model(video, mask)
    frames, height, width = size
    r = model.config.r
    assert completed.shape == (2, 3, frames, height, width)
    assert coarse.shape == (2, 3, frames, -(-height // r), -(-width // r))
    assert completed.isfinite().all()


@torch.no_grad()
def test_odd_sizes_are_padded_by_their_edges_and_cropped() -> None:
    torch.manual_seed(0)
    config = ModelConfig(width=NARROW, time_stride=2)
    video, frames, guidance = torch.rand(1, 4, 3, 5, 6), torch.rand(1, 4, 5, 6), torch.rand(1, 3, 3, 3)
    threedcn, comb = ThreeDCN(config).eval(), CombCN(config).eval()
    padded = F.pad(video, (0, 2, 0, 3, 0, 1), mode="replicate")
    torch.testing.assert_close(threedcn(video), threedcn(padded)[:, :, :3, :5, :6])
    padded, guide = F.pad(frames, (0, 2, 0, 3), mode="replicate"), F.pad(guidance, (0, 1, 0, 1), mode="replicate")
    torch.testing.assert_close(comb(frames, guidance), comb(padded, guide)[:, :, :5, :6])


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"preset": "chang2019"}, {"r": 4, "composite_guidance": False}], ids=str)
def test_hole_pixels_never_reach_the_networks(options: dict) -> None:
    model = net(**options)
    twodcn = TwoDCN(model.config).eval()
    video, mask = holed(1, 2, 9, 10)
    hole = mask.expand_as(video) > 0
    results = []
    for content in (0.0, 1e6, float("nan"), float("inf")):
        changed = torch.where(hole, torch.tensor(content), video)
        results.append([*model(changed, mask), complete_frames(twodcn, changed, mask)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
            assert a.isfinite().all()


@torch.no_grad()
def test_every_known_pixel_and_the_mean_pixel_count() -> None:
    model = net()
    video, mask = holed(1, 2, 8, 8)
    before = model(video, mask)[0]
    t, y, x = torch.nonzero(mask[0, 0] == 0)[0].tolist()
    video[0, 0, t, y, x] += 0.5
    changed = model(video, mask)[0]
    assert not torch.equal(before, changed)
    model.mean_pixel += 0.1
    assert not torch.equal(changed, model(video, mask)[0])
    fills_zero = net(preset="chang2019")
    before = fills_zero(video, mask)[0]
    fills_zero.mean_pixel += 0.1
    assert torch.equal(before, fills_zero(video, mask)[0])


@torch.no_grad()
@pytest.mark.parametrize("composited", [True, False])
def test_the_joined_network_is_its_two_parts(composited: bool) -> None:
    model = net(composite_guidance=composited)
    video, mask = holed(2, 3, 8, 12)
    completed, coarse = model(video, mask)
    low = coarse_input(model, video, mask)
    torch.testing.assert_close(coarse, model.threedcn(low))
    assert torch.equal(coarse, model.complete_coarse(video, mask))
    guidance = composite(coarse, low[:, :3], low[:, 3:]) if composited else coarse
    fill = model.mean_pixel.view(1, 3, 1, 1)
    for n in range(2):
        for t in range(3):
            frame, hole = video[n : n + 1, :, t], mask[n : n + 1, :, t]
            alone = model.combcn(torch.cat([frame * (1 - hole) + fill * hole, hole], 1), guidance[n : n + 1, :, t])
            torch.testing.assert_close(completed[n : n + 1, :, t], alone)


@torch.no_grad()
def test_bfloat16_weights_and_autocast_stay_near_float32() -> None:
    model = net()
    video, mask = holed(1, 3, 9, 10)
    expected = model(video, mask)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(video, mask)
    narrow = model.bfloat16()(video.bfloat16(), mask.bfloat16())
    for results in (mixed, narrow):
        for result, right in zip(results, expected, strict=True):
            assert result.dtype == torch.bfloat16
            assert (result.float() - right).abs().max() < 0.02 * right.abs().max()  # 0.005 is seen


@torch.no_grad()
def test_mask_of_any_dtype() -> None:
    model = net()
    video, mask = holed(1, 2, 8, 8)
    expected = model(video, mask)[0]
    assert torch.equal(model(video, mask.bool())[0], expected)
    assert torch.equal(model(video, mask.byte())[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5])
def test_deconvolution_in_time_is_the_full_one_cropped_like_tensorflows_same(taps: int) -> None:
    x = torch.rand(1, 2, 6, 3, 3)
    layer = torch.nn.Sequential(*(part for _, part in deconvolution3d(THREEDCN[8], 2, 3, taps, 1, bias=False)))
    weight = layer[-1].weight
    full = F.conv_transpose3d(x, weight, stride=(1, 2, 2), padding=(0, 1, 1))
    start = (taps - 1) // 2
    torch.testing.assert_close(layer(x), full[:, :, start : start + 6])
    doubled = torch.nn.Sequential(*(part for _, part in deconvolution3d(THREEDCN[8], 2, 3, taps, 2, bias=False)))
    assert doubled(x).shape == (1, 3, 12, 6, 6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loss_of_combcn_reaches_every_parameter_of_both(options: dict) -> None:
    model = net(**options).double().train()
    video, mask = (x.double() for x in holed(1, 4, 16, 16))
    model(video, mask)[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ThreeDCN(ModelConfig(width=NARROW))(torch.zeros(1, 3, 2, 8, 8)), ("ThreeDCN", "[N, 4, T, h, w]")),
        (lambda: TwoDCN(ModelConfig(width=NARROW))(torch.zeros(4, 8, 8)), ("TwoDCN", "[B, 4, H, W]")),
        (
            lambda: CombCN(ModelConfig(width=NARROW))(torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8)),
            ("CombCN", "guidance", "(1, 3, 4, 4)", "(1, 3, 8, 8)"),
        ),
        (lambda: net()(torch.zeros(1, 3, 2, 8, 8), torch.zeros(1, 1, 3, 8, 8)), ("mask", "(1, 1, 2, 8, 8)")),
    ],
    ids=["3dcn", "2dcn", "combcn", "joined"],
)
def test_wrong_shapes_are_named(call, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="got") as caught:
        call()
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"r": 3}, ("r must be one of 1, 2, 4", "got 3")),
        ({"r": 2.0}, ("r must be one of", "got 2.0")),
        ({"skips": "cat"}, ("concat, add", "'cat'")),
        ({"guidance": "none"}, ("after, before", "'none'")),
        ({"preset": "chang"}, ("paper, chang2019", "'chang'")),
        ({"time_stride": 3}, ("time_stride", "1, 2", "3")),
        ({"deconv_time": 0}, ("deconv_time", "0")),
        ({"width": 0}, ("width", "above 0", "0")),
        ({"width": float("nan")}, ("width", "nan")),
        ({"width": "wide"}, ("width", "'wide'")),
        ({"composite_guidance": "yes"}, ("composite_guidance", "'yes'")),
        ({"preset": "chang2019", "guidance": "before"}, ("chang2019", "guidance")),
        ({"depth": 3}, ("unknown option 'depth'", "known: width, r,")),
    ],
    ids=str,
)
def test_config_names_what_is_wrong(values: dict, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        ModelConfig.from_dict(values)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_config_round_trip() -> None:
    config = ModelConfig(width=0.25, r=4, skips="add", guidance="before", composite_guidance=False)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert ModelConfig.from_dict({}) == ModelConfig()
