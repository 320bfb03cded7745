"""Networks that correct a propagated fill change it where it is in doubt, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastinpaint.models import ModelConfig, TwoDCN, VideoCompletionNet, complete_frames
from fastinpaint.models.weights import load_weights, save_weights, weights_info

CONFIG = ModelConfig(width=0.0625, fill="propagated")
KINDS = (VideoCompletionNet, TwoDCN)


def network(kind: type[VideoCompletionNet] | type[TwoDCN]) -> VideoCompletionNet | TwoDCN:
    torch.manual_seed(0)
    return kind(CONFIG).eval()


def constant(net: nn.Module) -> None:
    """Make a network predict 0.5 everywhere, with a share of sigmoid(0.5) where it has one."""
    last = list(net.layers.values())[-1].conv
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, 0.5)


def completed(model: VideoCompletionNet | TwoDCN, video: Tensor, doubt: Tensor) -> Tensor:
    return complete_frames(model, video, doubt) if isinstance(model, TwoDCN) else model(video, doubt)[0]


def clip() -> tuple[Tensor, Tensor]:
    """A video, and a doubt of 0, between 0 and 1, and 1."""
    doubt = torch.zeros(1, 1, 2, 16, 16)
    doubt[..., 4:12, 4:8], doubt[..., 4:12, 8:12] = 0.25, 1.0
    return torch.rand(1, 3, 2, 16, 16, generator=torch.Generator().manual_seed(1)), doubt


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_full_confidence_stay_bit_by_bit_and_others_change(kind: type) -> None:
    video, doubt = clip()
    known = (doubt == 0).expand_as(video)
    result = completed(network(kind), video, doubt)
    assert torch.equal(result[known], video[known])
    assert ((result - video).abs()[~known] > 0).float().mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_pixels_count_as_much_as_doubt_and_share_say(kind: type) -> None:
    video, doubt = clip()
    model = network(kind)
    constant(model if isinstance(model, TwoDCN) else model.combcn)
    share = torch.tensor(0.5).sigmoid()
    torch.testing.assert_close(completed(model, video, doubt), video + doubt * share * (0.5 - video))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_from_doubtful_pixels_alone(kind: type) -> None:
    video, doubt = clip()
    model = network(kind)
    for place, flows in ((doubt == 0, False), (doubt > 0, True)):
        model.zero_grad(set_to_none=True)
        completed(model, video, doubt)[place.expand_as(video)].sum().backward()
        found = [p.grad.abs().sum().item() for p in model.parameters() if p.grad is not None]
        assert (sum(found) > 0) == flows


def test_3dcns_output_is_mixed_with_the_small_fill() -> None:
    video, doubt = clip()
    model = network(VideoCompletionNet)
    assert isinstance(model, VideoCompletionNet)
    constant(model.threedcn)
    small, small_doubt = torch.nn.functional.avg_pool3d(video, (1, 2, 2)), doubt[..., ::2, ::2]
    torch.testing.assert_close(model(video, doubt)[1], small + small_doubt * (0.5 - small))
    torch.testing.assert_close(model.complete_coarse(video, doubt), small + small_doubt * (0.5 - small))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fill_comes_back_from_a_weights_file_of_half_precision(kind: type, tmp_path: Path) -> None:
    video, doubt = clip()
    model = network(kind)
    before = completed(model, video, doubt)
    save_weights(tmp_path / "w.safetensors", model.half(), {"recipe": "propagated"})
    assert weights_info(tmp_path / "w.safetensors").config == CONFIG
    assert weights_info(tmp_path / "w.safetensors").extra == {"recipe": "propagated"}
    again = load_weights(tmp_path / "w.safetensors")
    assert next(again.parameters()).dtype == torch.float32
    torch.testing.assert_close(completed(again, video, doubt), before, atol=0.05, rtol=0.05)
