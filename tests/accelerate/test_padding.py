"""Zero padding merges into a following convolution. All other readers get written zeros."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fastinpaint
from fastinpaint.nn.padded import Padded
from tests.accelerate.nets import assert_same_step
from tests.accelerate.test_memory import kept_bytes
from tests.ops.common import BACKENDS

FRAME = (0, 0, 0, 0, 1, 0)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Padded]:
    """Collects every padded activation that is written out."""
    found: list[Padded] = []
    right = Padded._computed
    monkeypatch.setattr(Padded, "_computed", lambda self: (found.append(self), right(self))[1])
    return found


def net(pad: nn.Module, conv: nn.Module, dims: int) -> nn.Sequential:
    """A convolution, batch norm and ReLU before the padding, batch norm and a convolution after the next one."""
    torch.manual_seed(0)
    make, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    before = make(2, 4, 3, padding=1), norm(4), nn.ReLU()
    return nn.Sequential(*before, pad, conv, norm(conv.out_channels), nn.ReLU(), make(conv.out_channels, 2, 1)).double()


def image(dims: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 2, *(5, 6, 4)[-dims:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


FOLDED = {
    "a frame in front, transposed": (nn.ZeroPad3d(FRAME), nn.ConvTranspose3d(4, 3, 4, (1, 2, 2), (2, 1, 1)), 3),
    "both ends of all axes": (nn.ZeroPad2d(2), nn.Conv2d(4, 3, 3, 2), 2),
    "beside the convolution's own": (nn.ZeroPad3d((1, 1, 0, 0, 2, 2)), nn.Conv3d(4, 3, (5, 1, 3), padding="same"), 3),
    "of a frame's axes": (nn.ZeroPad2d((1, 1, 2, 2)), nn.Conv3d(4, 3, (1, 5, 3)), 3),
    "constant zero": (nn.ConstantPad2d((1, 1, 1, 1), 0.0), nn.Conv2d(4, 6, 3, groups=2), 2),
    "constant zero of a video": (nn.ConstantPad3d(1, 0), nn.Conv3d(4, 3, 3, dilation=(1, 2, 1)), 3),
    "behind, stride 2": (nn.ZeroPad2d((1, 0, 1, 1)), nn.ConvTranspose2d(4, 3, 4, 2, 3, output_padding=1), 2),
    "nothing": (nn.ZeroPad2d(0), nn.Conv2d(4, 3, 3), 2),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FOLDED)
def test_zeros_that_a_convolution_takes_are_not_written(name: str, backend: str, written: list[Padded]) -> None:
    plain = net(*FOLDED[name])
    fast = fastinpaint.accelerate(copy.deepcopy(plain), backend)
    assert fast.fastinpaint_report.left == {}
    assert "3" in fast.fastinpaint_report.swapped
    for batch in (1, 2):
        assert_same_step(fast, plain, image(FOLDED[name][2], batch))
    plain.eval(), fast.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(image(FOLDED[name][2])), plain(image(FOLDED[name][2])), rtol=1e-10, atol=1e-10)
    assert not written


WRITTEN = {
    "one end of a convolution": (nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 3, 3, 2), "ends of an axis alike"),
    "before what is reached": (nn.ZeroPad2d(1), nn.ConvTranspose2d(4, 3, 4, 2, 1), "would begin 1 rows before"),
    "behind what is reached": (nn.ZeroPad2d((0, 0, 0, 1)), nn.ConvTranspose2d(4, 3, 3), "would end 1 rows behind"),
    "ones": (nn.ConstantPad2d(1, 1.0), nn.Conv2d(4, 3, 3), "value is 1.0"),
    "cut off": (nn.ZeroPad2d((-1, 0, 1, 1)), nn.Conv2d(4, 3, 3), "cuts off"),
    "no convolution": (nn.ZeroPad2d(1), nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 3, 1)), None),
    "another padding mode": (
        nn.ZeroPad2d(1),
        nn.Conv2d(4, 3, 3, padding_mode="circular", padding=1),
        "is left: padding_",
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_other_padding_is_torchs_and_the_report_says_why(name: str) -> None:
    pad, conv, sentence = WRITTEN[name]
    conv.out_channels = 3  # type: ignore[assignment]
    plain = net(pad, conv, 2)
    fast = fastinpaint.accelerate(copy.deepcopy(plain))
    assert sentence is None or sentence in fast.fastinpaint_report.left["3"]
    assert_same_step(fast, plain, image(2))


def test_a_pooling_behind_it_is_named() -> None:
    fast = fastinpaint.accelerate(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ZeroPad2d(1), nn.MaxPool2d(2)))
    reason = "only a convolution takes zeros for padding of its own, and MaxPool2d follows."
    assert fast.fastinpaint_report.left == {"1": reason}


class Reads(nn.Module):
    """Padding whose result is read as `read` says."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.pad, self.conv, self.other = nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(4, 3, 3), nn.Conv2d(4, 3, 3, padding=1)
        self.same, self.up, self.norm = nn.ZeroPad2d(1), nn.ConvTranspose2d(4, 3, 4, 1, 3), nn.BatchNorm2d(4)
        self.read = getattr(self, f"read_{read.replace(' ', '_')}")

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.stem(x))

    def read_two_convolutions(self, a):
        a = self.same(a)
        return self.conv(a).sum() + self.other(a).square()

    def read_one_that_cannot(self, a):
        a = self.pad(a)
        return self.conv(a).sum() + self.up(a)

    def read_slices(self, a):
        a = self.same(a)
        return self.conv(a)[..., 1:] * a[:, :3, 1:-1, 2:-1]

    def read_batch_norm(self, a):
        return self.norm(self.same(a))

    def read_concatenation(self, a):
        return self.other(torch.cat([self.same(a)[:, :2], self.same(a)[:, 2:]], 1))

    def read_changes_in_place(self, a):
        a = self.same(a)
        a[:, 0] += 2
        return self.conv(a.relu_())

    def read_change_of_what_was_padded(self, a):
        a = self.norm(a)
        b = self.same(a)
        a.relu_()
        return self.conv(b) + self.other(a)

    def read_functional(self, a):
        b = F.pad(F.pad(a, (1, 1, 1, 1)), [0, 1])
        return self.conv(F.pad(a, (1, 1, 1, 1))) + self.conv(b)[..., 1:] + self.conv(F.pad(a, (1, 1, 1, 1), value=2.0))

    def read_padding_of_other_modes(self, a):
        return self.conv(F.pad(a, (1, 1, 1, 1), mode="reflect")) + F.pad(a, (0, 0, 0, 0, 0, -1))

    def read_addition(self, a):
        return self.same(a) + F.relu(self.same(a)) + self.up(self.pad(a)).mean()

    def read_tensors(self, a):
        a = F.leaky_relu(a)
        return self.conv(self.same(a)) + self.conv(self.same(a.detach()))


READS = [name.removeprefix("read_").replace("_", " ") for name in vars(Reads) if name.startswith("read_")]


@pytest.mark.parametrize("read", READS)
def test_whatever_reads_it(read: str) -> None:
    torch.manual_seed(0)
    plain = Reads(read).double()
    fast = fastinpaint.accelerate(copy.deepcopy(plain))
    fast.read = getattr(fast, f"read_{read.replace(' ', '_')}")  # of the copy, not of its original
    assert_same_step(fast, plain, image(2))


class Checkpointed(nn.Module):
    """A separate block for the checkpoint; otherwise its children would return plain tensors."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)


def test_checkpointed(written: list[Padded]) -> None:
    plain = Checkpointed(net(*FOLDED["a frame in front, transposed"]))
    fast = fastinpaint.accelerate(copy.deepcopy(plain))
    assert_same_step(fast, plain, image(3).requires_grad_())
    assert not written


@pytest.mark.parametrize("name", ["a frame in front, transposed", "both ends of all axes"])
def test_backward_keeps_no_padded_map(name: str) -> None:
    pad, conv, dims = FOLDED[name]
    x = image(dims)
    fast = fastinpaint.accelerate(net(pad, conv, dims))
    with_pad = kept_bytes(fast, lambda: fast(x).sum())
    torch_keeps = kept_bytes(fastinpaint.restore(fast), lambda: fast(x).sum())
    a = fast[:3](x).nbytes
    y = fast[:5](x).nbytes
    vectors = 10 * 8 * 8 * 4
    assert with_pad <= x.nbytes + a + y + vectors < torch_keeps


def test_a_hook_sees_zeros_that_were_written() -> None:
    plain = net(nn.ZeroPad2d(1), nn.Conv2d(4, 3, 3), 2)
    fast, seen = fastinpaint.accelerate(copy.deepcopy(plain)), []
    fast[3].register_forward_hook(lambda module, args, result: seen.append((args[0], result)))
    assert_same_step(fast, plain, image(2))
    (before, after), *_ = seen
    assert type(before) is type(after) is Tensor
    assert torch.equal(after, F.pad(before, (1, 1, 1, 1)))


def test_the_gradient_of_a_padded_activation_may_be_watched() -> None:
    grads = []
    for accelerated in (False, True):
        torch.manual_seed(0)
        module = Reads("slices").double()
        if accelerated:
            fastinpaint.accelerate(module)

        def read(a, module=module):
            a = module.same(a)
            a.retain_grad()
            module.kept = [a]
            return module.conv(a)

        module.read = read
        module(image(2)).square().sum().backward()
        grads.append(module.kept[0].grad)
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


def test_made_without_gradients_it_gives_none() -> None:
    fast = fastinpaint.accelerate(Reads("slices").double())

    def read(a):
        with torch.no_grad():
            a = fast.same(a)
        return fast.conv(a)

    fast.read = read
    fast(image(2)).square().sum().backward()
    assert fast.stem[0].weight.grad is None
    assert fast.conv.weight.grad is not None


def test_keys_copies_and_restoring() -> None:
    plain = net(nn.ZeroPad3d(FRAME), nn.ConvTranspose3d(4, 3, 4, (1, 2, 2), (2, 1, 1)), 3)
    fast = fastinpaint.accelerate(copy.deepcopy(plain))
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert_same_step(copy.deepcopy(fast), copy.deepcopy(plain), image(3))
    assert [type(m) for m in fastinpaint.restore(fast)] == [type(m) for m in plain]
    assert_same_step(fast, plain, image(3))


def test_compiled_whole_and_exported() -> None:
    layers = nn.Conv3d(2, 3, 1), nn.ReLU(), nn.ZeroPad3d(FRAME), nn.ConvTranspose3d(3, 1, 4, (1, 2, 2), (2, 1, 1))
    fast, x = fastinpaint.accelerate(nn.Sequential(*layers).double()), image(3)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    parameters = list(fast.parameters())
    ours, theirs = (torch.autograd.grad(run(x).square().sum(), parameters) for run in (compiled, fast))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    fast.eval()
    torch.testing.assert_close(torch.export.export(fast, (x,)).module()(x), fast(x), rtol=1e-10, atol=1e-10)


def test_a_negative_output_padding_of_a_module_is_torchs_error() -> None:
    fast = fastinpaint.accelerate(nn.Sequential(nn.ConvTranspose2d(2, 2, 3, output_padding=-1)))
    with pytest.raises(RuntimeError, match="negative output_padding"):
        fast(torch.rand(1, 2, 4, 4))
