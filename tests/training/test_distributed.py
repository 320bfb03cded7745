"""Several processes as one: batch statistics over the whole batch, by two gloo processes on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from fastinpaint.errors import UserError
from fastinpaint.training.distributed import SyncBatchNorm, join_world, synchronise_batch_norm

RANKS = 2


def run_ranks(work: Callable[[int, Path], None], tmp_path: Path) -> None:
    """``work(rank, folder)`` in two fresh processes that form a gloo group."""
    mp.spawn(_rank, (work, tmp_path), RANKS)


def _rank(rank: int, work: Callable[[int, Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    work(rank, folder)
    dist.destroy_process_group()


def small_net(norm: type[nn.Module], conv: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(3)
    layers = [
        conv(3, 5, 3, padding=1),
        norm(5),
        nn.ReLU(),
        conv(5, 4, 3, padding=1, bias=False),
        norm(4, momentum=None),
    ]
    return nn.Sequential(*layers).double()


def whole_batch(dims: int) -> Tensor:
    """Four samples; the second half is far from the first, so that local statistics would be far off."""
    x = torch.randn(4, 3, *[6] * dims, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[2:] = x[2:] * 3 + 100
    return x


NETS = {2: (nn.BatchNorm2d, nn.Conv2d), 3: (nn.BatchNorm3d, nn.Conv3d)}


def loss_of(y: Tensor) -> Tensor:
    return (y * torch.linspace(-1, 2, y[0].numel(), dtype=y.dtype).view(y[0].shape)).square().mean()


def _train_on_a_half(rank: int, folder: Path) -> None:
    result = {}
    for dims, (norm, conv) in NETS.items():
        net = small_net(norm, conv)
        synchronise_batch_norm(net)
        x = whole_batch(dims)[rank * 2 : rank * 2 + 2].requires_grad_()
        loss = loss_of(net(x))
        loss.backward()
        for tensor in [loss.detach(), *(parameter.grad for parameter in net.parameters())]:
            dist.all_reduce(tensor)
            tensor /= RANKS
        result[dims] = {
            "loss": loss.detach(),
            "dx": x.grad / RANKS,
            **{name: parameter.grad for name, parameter in net.named_parameters()},
            **dict(net.named_buffers()),
            "eval": net.eval()(whole_batch(dims)).detach(),
        }
    torch.save(result, folder / f"rank{rank}.pt")


def test_two_processes_see_the_statistics_of_the_whole_batch(tmp_path: Path) -> None:
    run_ranks(_train_on_a_half, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]
    for dims, (norm, conv) in NETS.items():
        net, x = small_net(norm, conv), whole_batch(dims).requires_grad_()
        loss = loss_of(net(x))
        loss.backward()
        expected = {
            "loss": loss.detach(),
            **{name: parameter.grad for name, parameter in net.named_parameters()},
            **dict(net.named_buffers()),
            "eval": net.eval()(whole_batch(dims)).detach(),
        }
        for rank in ranks:
            torch.testing.assert_close({name: rank[dims][name] for name in expected}, expected)
        torch.testing.assert_close(torch.cat([rank[dims]["dx"] for rank in ranks]), x.grad)


def test_replaced_layers_keep_their_tensors_and_names() -> None:
    net = small_net(*NETS[2])
    before, names = list(net.parameters()), list(net.state_dict())
    net[1].eval()
    synchronise_batch_norm(net)
    assert [type(layer) for layer in net[1::3]] == [SyncBatchNorm, SyncBatchNorm]
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))
    assert list(net.state_dict()) == names
    assert (net[1].training, net[4].training, net[4].momentum) == (False, True, None)
    layer = copy.deepcopy(net[1])
    assert layer.load_state_dict(net[1].state_dict()).missing_keys == []


def test_one_process_without_torchrun_needs_no_group() -> None:
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert not dist.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(UserError, match="no CUDA device"), join_world("cuda"):
        pass
