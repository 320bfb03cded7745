"""Training a correction of propagated fills: the draws, the recipe, the averaged weights, and going on with a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastinpaint.errors import UserError
from fastinpaint.models import TwoDCN
from fastinpaint.models.weights import load_weights, weights_info
from fastinpaint.training import TrainConfig, train
from fastinpaint.training.averaging import Averaged
from fastinpaint.training.batches import load_steps
from fastinpaint.training.checkpoints import AVERAGED, checkpoints
from fastinpaint.training.config import resumed
from fastinpaint.training.distributed import World
from fastinpaint.training.draws import DrawBatches, PropagatedDraws, augmented, scaled, validation_draws
from fastinpaint.training.losses import gradient_loss
from fastinpaint.training.trainer import rate_factor

ONE = World(0, 1, torch.device("cpu"))
RECIPE = {
    "recipe": "propagated",
    "strategy": "2dcn",
    "batch": 2,
    "warmup": 1,
    "statistics": 2,
    "average": 0.5,
    "view_size": 32,
    "fresh": 0.5,
}
CONFIG = TrainConfig.from_dict(
    {**RECIPE, "steps": 4, "save_every": 1, "validate_every": 2, "keep": 9, "log_every": 1, "model": {"width": 0.0625}}
)


@pytest.fixture(scope="module")
def draws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four draws to train on and one to validate, whose fill is grey inside the hole."""
    root, rng = tmp_path_factory.mktemp("draws"), np.random.default_rng(0)
    index: dict[str, object] = {"seed": 0, "clips": {"a.mkv": "hash"}}
    for split, count in (("train", 4), ("val", 1)):
        (root / split).mkdir()
        for number in range(count):
            draw = np.zeros((4, 48, 48, 7), np.uint8)
            draw[..., :3] = draw[..., 3:6] = rng.integers(40, 216, (1, 48, 48, 3))
            draw[:, 12:36, 12:36, 3:6], draw[:, 12:36, 12:36, 6] = 128, 255
            np.save(root / split / f"{number}.npy", draw)
        index[split] = [{"file": f"{split}/{n}.npy", "holes": "rectangle"} for n in range(count)]
    np.save(root / "frames.npy", rng.integers(0, 256, (3, 40, 56, 3)).astype(np.uint8))
    index["frames of clips"] = [{"file": "frames.npy", "clip": "a.mkv", "share": 1.0}]
    (root / "index.json").write_text(json.dumps(index))
    return root


@pytest.fixture(scope="module")
def unbroken(draws: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(CONFIG, draws, out)
    return out


def test_views_of_a_draw_differ_from_its_truth_inside_holes_alone(draws: Path) -> None:
    draw, rng = PropagatedDraws(draws, "train", 2, 32)[0], np.random.default_rng(3)
    views = [augmented(draw, 2, 32, rng) for _ in range(20)]
    for view in views:
        truth, fill, hole = view[..., :3], view[..., 3:6], view[..., 6] > 0
        assert view.shape == (2, 32, 32, 7)
        assert ((hole.mean((1, 2)) > 0.1) & (hole.mean((1, 2)) < 0.7)).all()
        assert np.array_equal(truth[~hole], fill[~hole])
        assert not np.array_equal(truth[hole], fill[hole])
    assert len({view.tobytes() for view in views}) == 20


def test_a_step_depends_on_seed_and_number_alone(draws: Path) -> None:
    batches = DrawBatches(PropagatedDraws(draws, "train", 1, 32), CONFIG, ONE)
    (videos, doubts), (again, _) = batches[3], next(iter(load_steps(batches, range(3, 4), 0, False)))
    assert torch.equal(videos, again)
    assert not torch.equal(videos, batches[4][0])
    assert videos.shape[-1] == 6
    assert doubts.shape == videos.shape[:-1]


def test_validation_sees_draws_unchanged(draws: Path) -> None:
    samples = PropagatedDraws(draws, "val", 1, 32)
    ((videos, doubts),) = validation_draws(samples, CONFIG, ONE)
    view = scaled(samples[0][:1], 32)
    assert np.array_equal(videos[0].numpy(), view[..., :6])
    assert np.array_equal(doubts[0].numpy(), view[..., 6])


@pytest.mark.parametrize("side", [33, 43, 48, 64, 100])
def test_scaling_keeps_the_doubt_of_a_pixel_that_is_in_doubt_in_part(side: int) -> None:
    draw = np.zeros((1, side, side, 7), np.uint8)
    draw[:, : side // 2, :, 6] = 255
    small = scaled(draw, 32)[0, ..., 6]
    assert (small[:15] == 255).all()
    assert (small[17:] == 0).all()
    draw[..., 6] = 0
    draw[0, side // 2, side // 2, 6] = 1
    assert scaled(draw, 32)[..., 6].max() == 1


def test_the_weights_tell_the_recipe_and_are_the_average(unbroken: Path) -> None:
    info = weights_info(unbroken / "last.safetensors")
    assert (info.extra["recipe"], info.config.fill, info.kind) == ("propagated", "propagated", "twodcn")
    raw, kept = (
        load_weights(checkpoints(unbroken / "checkpoints")[-1] / name) for name in ("weights.safetensors", AVERAGED)
    )
    assert torch.equal(
        kept.layers["3"].conv.weight, load_weights(unbroken / "last.safetensors").layers["3"].conv.weight
    )
    assert not torch.equal(raw.layers["3"].conv.weight, kept.layers["3"].conv.weight)


def test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one(draws: Path, tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.yaml", "log.jsonl"):
        (out / name).write_bytes((unbroken / name).read_bytes())
    second = out / "checkpoints" / "step-00000002"
    second.mkdir(parents=True)
    for file in (unbroken / "checkpoints" / second.name).iterdir():
        (second / file.name).write_bytes(file.read_bytes())
    train(CONFIG, draws, out, resume=True)
    for name in (
        "checkpoints/step-00000004/weights.safetensors",
        "checkpoints/step-00000004/optimizer.safetensors",
        "last.safetensors",
    ):
        one, other = load_file(out / name), load_file(unbroken / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_other_draws_are_not_what_the_run_was_begun_with(draws: Path, tmp_path: Path, unbroken: Path) -> None:
    other = tmp_path / "draws"
    other.mkdir()
    for name in ("train", "val", "frames.npy"):
        (other / name).symlink_to(draws / name)
    index = json.loads((draws / "index.json").read_text())
    (other / "index.json").write_text(json.dumps({**index, "clips": {"a.mkv": "another hash"}}))
    with pytest.raises(UserError, match="not the data set"):
        train(CONFIG, other, unbroken, resume=True)


def test_the_average_is_exponential_and_its_statistics_are_of_the_data() -> None:
    torch.manual_seed(0)
    model = TwoDCN(CONFIG.model)
    averaged, weight = Averaged(model, 0.75), model.layers["1"].conv.weight
    values = []
    for step in range(3):
        with torch.no_grad():
            weight.fill_(float(step))
        averaged.update(model)
        values.append(averaged.model.layers["1"].conv.weight[0, 0, 0, 0].item())
    assert values == pytest.approx([0.0, 0.25, 0.25 * 0.75 + 0.5])
    videos = [torch.rand(1, 3, 2, 16, 16), torch.rand(1, 3, 2, 16, 16)]
    averaged.estimate_statistics((video, torch.ones_like(video[:, :1])) for video in videos)
    convolved = [
        averaged.model.layers["1"].conv(
            torch.cat([video, torch.ones_like(video[:, :1])], 1).transpose(1, 2).flatten(0, 1)
        )
        for video in videos
    ]
    mean = torch.stack([x.mean((0, 2, 3)) for x in convolved]).mean(0)
    torch.testing.assert_close(averaged.model.layers["1"].norm.running_mean, mean)


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainConfig(strategy="t2", steps=110, warmup=10, schedule="cosine")
    assert [rate_factor(config, step) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert rate_factor(config, 60) == pytest.approx(0.5)
    assert rate_factor(config, 110) == pytest.approx(0)
    assert {rate_factor(TrainConfig(), step) for step in (0, 5, 10**5)} == {1.0}


def test_the_end_of_a_cosine_cannot_be_moved() -> None:
    config = TrainConfig(strategy="t2", steps=10, schedule="cosine")
    with pytest.raises(UserError, match="steps cannot change"):
        resumed(config, TrainConfig(strategy="t2", steps=20, schedule="cosine"), 5)


def test_a_recipe_gives_defaults_that_other_options_go_over() -> None:
    config = TrainConfig.from_dict({"recipe": "propagated", "batch": "6", "model": {"width": "0.5"}})
    assert (config.model.fill, config.model.width, config.batch, config.augment) == ("propagated", 0.5, 6, True)
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert TrainConfig.from_dict({"recipe": "paper"}) == TrainConfig()
    with pytest.raises(UserError, match=r"recipe: unknown value .*paper, propagated"):
        TrainConfig.from_dict({"recipe": "mine"})


def test_the_gradient_loss_is_the_mean_over_pairs_with_a_hole() -> None:
    target = torch.zeros(1, 3, 1, 2, 3)
    mask = torch.zeros(1, 1, 1, 2, 3)
    mask[..., 0, 1] = 1
    output = target.clone()
    output[..., 0, 1] = 0.5  # three neighbours
    assert gradient_loss(output, target, mask).item() == pytest.approx(0.5)
    assert gradient_loss(output + 1, target, mask).item() == pytest.approx(0.5)
    assert math.isfinite(gradient_loss(output, target, torch.zeros_like(mask)).item())


@pytest.mark.parametrize("index", ["{}", '{"seed": 0, "clips": {}, "train": [], "val": []}', "no json"])
def test_an_index_that_is_none_is_one_sentence(tmp_path: Path, index: str) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(UserError, match="draw"):
        PropagatedDraws(tmp_path, "train", 1, 32)
