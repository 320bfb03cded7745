"""Distributed training with two gloo processes on the CPU: batch statistics over the whole batch."""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.training import TrainConfig, train
from fastinpaint.training.backend import accelerate_model
from fastinpaint.training.distributed import SyncBatchNorm, join_world, synchronise_batch_norm
from fastinpaint.training.logs import read_log
from fastinpaint.training.phases import Phase, PhaseLoss, phases_of

RANKS = 2


@pytest.fixture(scope="module")
def two_ranks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two fresh processes of a gloo group left: rank0.pt, rank1.pt and the run "two"."""
    folder = tmp_path_factory.mktemp("two_ranks")
    (folder / "data").symlink_to(data)
    mp.spawn(_rank, (folder,), RANKS)
    return folder


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=300))
    share = slice(rank, rank + 1)
    result = {
        "layers": layers_on_a_half(rank),
        "plain": gradients_of_phases(share),
        "fused": gradients_of_phases(share, "auto"),
    }
    torch.save(result, folder / f"rank{rank}.pt")
    train(dataclasses.replace(CONFIG, steps=1), folder / "data", folder / "two")
    train(CONFIG, folder / "data", folder / "two", resume=True)
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # all is on disk; gloo's threads have been seen to abort the end of an interpreter, once in 16 runs


def results(folder: Path, key: str) -> list[dict[Any, dict[str, Tensor]]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True)[key] for rank in range(RANKS)]


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


def layers_on_a_half(rank: int) -> dict[int, dict[str, Tensor]]:
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
    return result


def test_two_processes_see_the_statistics_of_the_whole_batch(two_ranks: Path) -> None:
    ranks = results(two_ranks, "layers")
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


CONFIG = TrainConfig(
    model=ModelConfig(width=1 / 16), pretrain_steps=3, steps=4, batch=2, validate_every=2, save_every=3, log_every=1
)


def gradients(net: VideoCompletionNet, phase: Phase, video: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The total loss and its gradients, the processes' mean."""
    loss = PhaseLoss(net, phase, alpha=0.5).train()
    net.zero_grad()
    shared = DistributedDataParallel(loss) if dist.is_initialized() else loss
    total = shared(video, mask)["total"]
    total.backward()
    total = total.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
        total /= RANKS
    grads = {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}
    return {"loss": total, **grads}


def gradients_of_phases(share: slice, backend: str = "reference") -> dict[str, dict[str, Tensor]]:
    """Of pre-training, joint training and T-1, one after the other on the same float64 net."""
    torch.manual_seed(0)
    net = VideoCompletionNet(CONFIG.model).double()
    accelerate_model(net, backend, shared=dist.is_initialized())
    random = torch.Generator().manual_seed(1)
    video = torch.rand(2, 3, 3, 16, 16, dtype=torch.float64, generator=random)
    mask = torch.zeros(2, 1, 3, 16, 16, dtype=torch.float64)
    mask[0, :, :, 4:9, 2:12] = 1
    mask[1, :, :, 1:3, 8:11] = 1
    phases = [*phases_of(CONFIG), phases_of(dataclasses.replace(CONFIG, strategy="t1"))[1]]
    return {phase.name: gradients(net, phase, video[share], mask[share]) for phase in phases}


def test_gradients_of_every_phase_are_those_of_the_whole_batch(two_ranks: Path) -> None:
    expected = gradients_of_phases(slice(None))
    trained = {phase: {name.split(".")[0] for name in grads} - {"loss"} for phase, grads in expected.items()}
    assert trained == {"pretrain": {"threedcn"}, "joint": {"threedcn", "combcn"}, "fixed": {"combcn"}}
    for rank in [*results(two_ranks, "plain"), *results(two_ranks, "fused")]:
        torch.testing.assert_close(rank, expected)


def test_two_processes_train_as_one(two_ranks: Path, data: Path, tmp_path: Path) -> None:
    train(CONFIG, data, tmp_path / "one")
    logs = [read_log(run / "log.jsonl") for run in (tmp_path / "one", two_ranks / "two")]
    assert [(line["event"], line["step"]) for line in logs[0]] == [(line["event"], line["step"]) for line in logs[1]]
    for one, two in zip(*logs, strict=True):
        for name in {"3dcn", "combcn", "total"} & one.keys():
            assert two[name] == pytest.approx(one[name], rel=1e-3), (one["event"], one["step"], name)
    assert (two_ranks / "two" / "best.safetensors").exists()


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
