"""Skips and guidance are wired as in Fig. 2, found by changing one map and watching the inputs of other layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastinpaint.models import CombCN, ModelConfig, ThreeDCN, TwoDCN
from tests.models.probes import fed_by

NARROW = 0.125


@torch.no_grad()
@pytest.mark.parametrize("skips", ["concat", "add"])
def test_threedcn_skips(skips: str) -> None:
    model, x = ThreeDCN(ModelConfig(width=NARROW, skips=skips)), torch.rand(1, 4, 2, 8, 8)
    expected = {n: {n + 1} for n in range(1, 12)} | {4: {5, 9}, 3: {4, 10}, 2: {3, 11}}
    for number, targets in expected.items():
        source = model.layers[str(number)][-1]
        assert fed_by(model.layers, source, lambda: model(x)).keys() == {str(n) for n in targets}, number


@torch.no_grad()
@pytest.mark.parametrize("guided", [True, False], ids=["combcn", "2dcn"])
@pytest.mark.parametrize("skips", ["concat", "add"])
def test_combcn_skips(guided: bool, skips: str) -> None:
    config = ModelConfig(width=NARROW, skips=skips)
    x, guidance = torch.rand(1, 4, 8, 8), torch.rand(1, 3, 4, 4)
    model: nn.Module = CombCN(config) if guided else TwoDCN(config)
    for number in range(1, 17):
        targets = {number + 1, 17 - number} if number <= 7 else {number + 1}
        source = model.layers[str(number)][-1]
        found = fed_by(model.layers, source, lambda: model(x, guidance) if guided else model(x))
        assert found.keys() == {str(n) for n in targets}, number


@torch.no_grad()
@pytest.mark.parametrize(("r", "places"), [(1, (1, 16)), (2, (2, 14)), (4, (4, 12))])
def test_guidance_is_added_at_the_first_and_the_last_map_of_its_size(r: int, places: tuple[int, int]) -> None:
    model = CombCN(ModelConfig(width=NARROW, r=r))
    x, guidance = torch.rand(1, 4, 8, 8), torch.rand(1, 3, 8 // r, 8 // r)
    assert model.guidance.keys() == {str(n) for n in places}
    for place in places:
        conv = model.guidance[str(place)]
        assert conv.kernel_size == (3, 3)
        assert conv.bias is not None
        found = fed_by(model.layers, conv, lambda: model(x, guidance))
        # Only the next layer, and only the channels of the map itself: no skip carries the guidance.
        assert found.keys() == {str(place + 1)}
        mine = model.layers[str(place)].conv.out_channels
        channels = found[str(place + 1)]
        assert channels[:mine].all()
        assert not channels[mine:].any()


@torch.no_grad()
def test_guidance_before_is_added_to_the_raw_convolutions() -> None:
    model = CombCN(ModelConfig(width=NARROW, guidance="before"))
    x, guidance = torch.rand(1, 4, 8, 8), torch.rand(1, 3, 4, 4)
    raw, normed, added = {}, {}, {}
    for place in ("2", "14"):
        model.layers[place].conv.register_forward_hook(lambda _, __, out, n=place: raw.__setitem__(n, out))
        model.layers[place].norm.register_forward_pre_hook(lambda _, args, n=place: normed.__setitem__(n, args[0]))
        model.guidance[place].register_forward_hook(lambda _, __, out, n=place: added.__setitem__(n, out))
    model(x, guidance)
    assert raw.keys() == {"2", "14"}
    assert all(conv.bias is None for conv in model.guidance.values())
    for place in raw:
        torch.testing.assert_close(normed[place], raw[place] + added[place], rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(("r", "places"), [(2, (3, 15)), (4, (5, 13))])
def test_chang2019_concatenates_the_guiding_frames(r: int, places: tuple[int, int]) -> None:
    model, paper = (CombCN(ModelConfig(width=NARROW, r=r, preset=preset)) for preset in ("chang2019", "paper"))
    inputs = {}
    for name, layer in model.layers.items():
        layer.conv.register_forward_pre_hook(lambda _, args, n=name: inputs.__setitem__(n, args[0]))
    guidance = torch.rand(1, 3, 8 // r, 8 // r)
    model(torch.rand(1, 4, 8, 8), guidance)
    for number in range(1, 18):
        extra = inputs[str(number)].shape[1] - paper.layers[str(number)].conv.in_channels
        assert extra == (3 if number in places else 0), number
    for number in places:
        x = inputs[str(number)]
        assert any(torch.equal(x[:, c : c + 3], guidance) for c in range(x.shape[1] - 2))


@pytest.mark.parametrize(
    ("preset", "order"),
    [("paper", ["Conv", "BatchNorm", "ReLU"]), ("chang2019", ["Conv", "ReLU", "BatchNorm"])],
)
def test_order_of_a_layer_and_the_bare_last_one(preset: str, order: list[str]) -> None:
    config = ModelConfig(width=NARROW, preset=preset)
    for model in (ThreeDCN(config), CombCN(config)):
        *hidden, last = model.layers.values()
        for layer in hidden:
            names = [type(part).__name__ for part in layer if not isinstance(part, nn.ZeroPad3d)]
            assert [name.startswith(start) for name, start in zip(names, order, strict=True)] == [True] * 3
            # A bias that batch norm takes away again would be a parameter without an effect.
            assert (layer.conv.bias is None) == (preset == "paper")
        assert len(last) == 1
        assert last.conv.bias is not None
