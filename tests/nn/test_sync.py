"""SyncBatchNorm: two processes with half a batch each do what one does with the whole."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastinpaint


def network(norm: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 3, 3), norm(3), nn.ReLU()
    return nn.Sequential(*layers).double()


def batch() -> torch.Tensor:
    return torch.randn(5, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 3 + 1


def work(rank: int, port: int, folder: str) -> None:
    """One process: rank 0 has two samples, rank 1 three, so that counts differ."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    x = (batch()[:2] if rank == 0 else batch()[2:]).requires_grad_()
    net = fastinpaint.accelerate(network(nn.SyncBatchNorm))  # DistributedDataParallel takes it on a GPU only
    y = net(x)
    (y**3).sum().backward()
    found = {"y": y.detach(), "dx": x.grad, "grads": [p.grad for p in net.parameters()], "buffers": list(net.buffers())}
    for name, wrap in (("alone", lambda net: net), ("ddp", DistributedDataParallel)):
        net = wrap(fastinpaint.accelerate(network(nn.BatchNorm2d)))
        (net(x.detach()) ** 3).sum().backward()
        found[name] = [p.grad for p in net.parameters()]
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # all is on disk; gloo's threads have been seen to abort the end of an interpreter


def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]

    net, x = network(nn.BatchNorm2d), batch().requires_grad_()
    y = net(x)
    (y**3).sum().backward()
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([p["y"] for p in parts]), y.detach(), **close)
    torch.testing.assert_close(torch.cat([p["dx"] for p in parts]), x.grad, **close)
    for mine, others, expected in zip(parts[0]["grads"], parts[1]["grads"], net.parameters(), strict=True):
        torch.testing.assert_close(mine + others, expected.grad, **close)
    for ddp, mine, others in zip(parts[0]["ddp"], parts[0]["alone"], parts[1]["alone"], strict=True):
        torch.testing.assert_close(ddp, (mine + others) / 2, **close)
    for part in parts:
        for ours, expected in zip(part["buffers"], net.buffers(), strict=True):
            torch.testing.assert_close(ours, expected, **close)


def test_alone_it_is_batch_norm() -> None:
    net, fast = network(nn.BatchNorm2d), fastinpaint.accelerate(network(nn.SyncBatchNorm))
    x = batch()
    torch.testing.assert_close(fast(x), net(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(copy.deepcopy(fast).eval()(x), net.eval()(x), rtol=1e-12, atol=1e-12)
