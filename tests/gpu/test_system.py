"""The whole system on a GPU, by every backend: gradients, same bits twice, CUDA graphs, two streams."""

from __future__ import annotations

import pytest
import torch

from fastinpaint import accelerate
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.testing.rule import relative_error
from tests.gpu.conftest import why_not

pytestmark = pytest.mark.gpu
BACKENDS = ("cuda", "triton", "library")
WIDTH, FRAMES, SIZE = 0.125, 4, 32


def model_and_batch(backend: str | None, dtype: torch.dtype = torch.float32):
    """A narrow system on the GPU, accelerated unless backend is None, with one batch."""
    torch.manual_seed(0)
    model = VideoCompletionNet(ModelConfig(width=WIDTH)).to("cuda", dtype)
    video = torch.rand(1, 3, FRAMES, SIZE, SIZE).to("cuda", dtype)
    mask = torch.zeros(1, 1, FRAMES, SIZE, SIZE, device="cuda", dtype=dtype)
    hole = slice(SIZE // 4, -SIZE // 4)
    mask[..., hole, hole] = 1
    return (model if backend is None else accelerate(model, backend=backend)), video, mask


def gradients(model, video, mask) -> list[torch.Tensor]:
    """Of the mean square of both outputs, for every parameter."""
    model.zero_grad(set_to_none=True)
    completed, coarse = model(video, mask)
    (completed.float().square().mean() + coarse.float().square().mean()).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.fixture(autouse=True)
def exact_and_repeatable(monkeypatch):
    """Disable tf32 for torch's and this library's convolutions, and make cuDNN deterministic."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(reason)
    return request.param


def test_gradients_are_as_near_to_float64_as_plain_pytorch(backend):
    exact = gradients(*model_and_batch(None, torch.float64))
    stock = relative_error(gradients(*model_and_batch(None)), exact)
    assert relative_error(gradients(*model_and_batch(backend)), exact) <= 2 * stock + 1e-7


def test_two_runs_give_the_same_bits(backend):
    first, second = (gradients(*model_and_batch(backend)) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_a_training_step_in_a_cuda_graph(backend):
    model, video, mask = model_and_batch(backend)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = gradients(model, video, mask)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    model.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        completed, coarse = model(video, mask)
        (completed.square().mean() + coarse.square().mean()).backward()
    for parameter in model.parameters():
        parameter.grad.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert relative_error([p.grad for p in model.parameters()], expected) < 1e-6


def test_two_streams_do_not_disturb_each_other(backend):
    models = [model_and_batch(backend) for _ in range(2)]
    expected = gradients(*models[0])
    torch.cuda.synchronize()
    streams, found = [torch.cuda.Stream() for _ in models], []
    for stream, given in zip(streams, models, strict=True):
        with torch.cuda.stream(stream):
            found.append(gradients(*given))
    torch.cuda.synchronize()
    assert all(relative_error(f, expected) < 1e-6 for f in found)
