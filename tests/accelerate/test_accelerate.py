"""`accelerate` computes what the plain model computes, on our models and on others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.acceleration.root import own_class
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.testing.compare import FACTOR, error
from tests.accelerate.nets import NETS, Foreign, Shared, assert_same_step, tensors
from tests.ops.common import BACKENDS

CONFIGS = {
    "paper": {},
    "addition": {"skips": "add"},
    "guidance before": {"guidance": "before"},
    "chang2019": {"preset": "chang2019"},
    "V-1": {"r": 4},
    "V-2": {"time_stride": 2},
}


def video() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, 3, 4, 32, 32, generator=generator, dtype=torch.float64)
    return rgb, (torch.rand(1, 1, 4, 32, 32, generator=generator) > 0.7).double()


@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("name", CONFIGS)
def test_our_models(name: str, memory: str) -> None:
    torch.manual_seed(0)
    net = VideoCompletionNet(ModelConfig(width=1 / 8, **CONFIGS[name])).double()
    assert_same_step(fastinpaint.accelerate(copy.deepcopy(net), memory=memory), net, *video())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("name", NETS)
def test_other_peoples_models(name: str, memory: str, backend: str) -> None:
    torch.manual_seed(0)
    make, shape = NETS[name]
    net, x = make().double(), torch.randn(*shape, dtype=torch.float64)
    fast = fastinpaint.accelerate(copy.deepcopy(net), backend, memory)
    assert_same_step(fast, net, x)
    net.eval(), fast.eval()
    with torch.no_grad():
        for ours, expected in zip(tensors(fast(x)), tensors(net(x)), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert_same_step(fast, net, x)


def test_evaluation_of_our_model() -> None:
    torch.manual_seed(0)
    net = VideoCompletionNet(ModelConfig(width=1 / 8)).double()
    net(*video())
    fast = fastinpaint.accelerate(copy.deepcopy(net).eval())
    with torch.no_grad():
        for ours, expected in zip(fast(*video()), net.eval()(*video()), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounding_of_our_model_is_no_worse_than_torchs(dtype: torch.dtype, backend: str) -> None:
    """After 29 layers the error of a single gradient varies by luck; that of all together does not."""
    torch.manual_seed(1)
    net = VideoCompletionNet(ModelConfig(width=1 / 8)).to(dtype)
    video_and_mask = [tensor.to(dtype) for tensor in video()]

    def run(net: nn.Module, *inputs: Tensor) -> list[Tensor]:
        results = net(*inputs)
        sum(result.square().mean() for result in results).backward()
        return [torch.cat([t.detach().double().flatten() for t in results]), gradients(net)]

    exact = run(copy.deepcopy(net).double(), *(tensor.double() for tensor in video_and_mask))
    stock = run(copy.deepcopy(net), *video_and_mask)
    ours = run(fastinpaint.accelerate(net, backend), *video_and_mask)
    for mine, theirs, right in zip(ours, stock, exact, strict=True):
        assert error(mine, right).rms <= FACTOR * error(theirs, right).rms  # measured 1.3 times at most


def gradients(net: nn.Module) -> Tensor:
    """All gradients as one vector in float64."""
    return torch.cat([p.grad.double().flatten() for p in net.parameters()])


def test_evaluation_folds_batch_norm_into_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastinpaint.ops.conv_block import cpu

    monkeypatch.setattr(cpu, "LEAST_PLAIN", 0)  # small maps are left to torch's own layers
    seen: list[bool] = []
    right = cpu.fwd

    def watched(sources, weight, bias, *rest):
        seen.append(sources[0].mean is None and bias is not None)
        return right(sources, weight, bias, *rest)

    monkeypatch.setattr(cpu, "fwd", watched)
    layers = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    net = fastinpaint.accelerate(nn.Sequential(*layers)).eval()
    with torch.no_grad():
        net(torch.randn(1, 1, 8, 8))
    assert seen == [True, True]


def test_modules_parameters_and_optimiser_keep_their_identity() -> None:
    net = Shared()
    modules, parameters, keys = list(net.modules()), list(net.parameters()), list(net.state_dict())
    optimiser = torch.optim.Adam(net.parameters())
    step = lambda: (sum(t.square().sum() for t in net(torch.randn(2, 1, 6, 6))).backward(), optimiser.step())  # noqa: E731
    step()
    fastinpaint.accelerate(net)
    step()
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert list(net.state_dict()) == keys
    assert isinstance(net.enter, nn.Conv2d)
    assert all(float(state["step"]) == 2 for state in optimiser.state.values())


def test_checkpoints_go_both_ways() -> None:
    plain, fast = Shared(), fastinpaint.accelerate(Shared())
    fast.load_state_dict(plain.state_dict())
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(plain(x)[0], fast(x)[0])


def test_report_names_what_was_left_and_why() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    net = Foreign()
    net.own = Own(1, 1, 1)
    net.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1))
    net.even = nn.Conv2d(1, 1, 2, padding="same")
    report = fastinpaint.accelerate(net).fastinpaint_report
    assert report.swapped == [
        "stem.0",
        "stem.1",
        "stem.2",
        "bn",
        "group.0",
        "group.1",
        "group.2",
        "gate",
        "fc",
        "normed",
    ]
    assert report.left == {
        "conv": "padding_mode is 'reflect'; only 'zeros' is fused.",
        "own": "Own is a subclass of Conv2d, and may compute something else.",
        "even": "padding='same' pads the two ends of an axis differently here.",
    }
    assert str(report).startswith("10 layers swapped, 3 cannot be fused.\n  conv: padding_mode")


def test_restore_of_layers_parametrized_afterwards() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    plain = copy.deepcopy(net)
    fastinpaint.accelerate(net)
    for each in (plain, net):
        nn.utils.parametrizations.weight_norm(each[0])
        nn.utils.parametrize.register_parametrization(each[1], "bias", nn.Softplus())
    fastinpaint.restore(net)
    assert [type(m).__name__ for m in net] == ["ParametrizedConv2d", "ParametrizedBatchNorm2d"]
    assert [type(m).__bases__ for m in net] == [(nn.Conv2d,), (nn.BatchNorm2d,)]
    assert not any("fastinpaint" in name for m in net for name in vars(m))
    assert_same_step(net, plain, torch.randn(2, 2, 6, 5))
    for module, name in ((net[0], "weight"), (net[1], "bias")):
        nn.utils.parametrize.remove_parametrizations(module, name)
    assert [type(m) for m in net] == [nn.Conv2d, nn.BatchNorm2d]


def test_restore_takes_everything_back() -> None:
    net = Foreign()
    before = [(type(m), set(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    fastinpaint.restore(fastinpaint.accelerate(net, memory="low"))
    after = [(type(m), set(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    assert after == before


def test_again_with_other_options() -> None:
    net = fastinpaint.accelerate(fastinpaint.accelerate(Shared()), backend="reference", memory="low")
    assert net.enter._fastinpaint[:2] == ("reference", "low")
    assert own_class(type(net)) is Shared


def test_wrong_options_leave_the_model_alone() -> None:
    net = Shared()
    with pytest.raises(
        ValueError, match="memory must be one of default, low, least, a share above 0 or bytes as '512MB', got 'tiny'"
    ):
        fastinpaint.accelerate(net, memory="tiny")
    with pytest.raises(ValueError, match="backend must be one of auto, reference"):
        fastinpaint.accelerate(net, backend="fast")
    assert type(net.enter) is nn.Conv2d


def test_a_backend_that_cannot_run_raises_with_the_reason() -> None:
    net = fastinpaint.accelerate(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), backend="triton")
    with pytest.raises(NotImplementedError, match="backend 'triton' cannot run this: "):
        net(torch.randn(1, 1, 4, 4))
