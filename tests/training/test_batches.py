"""The data of a step depends only on (seed, step)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastinpaint.errors import UserError
from fastinpaint.training import TrainConfig
from fastinpaint.training.batches import TrainBatches, load_steps, to_float, validation_batches
from fastinpaint.training.distributed import World

CPU = torch.device("cpu")
ONE = World(0, 1, CPU)


def which(videos: torch.Tensor) -> list[int]:
    """The samples' numbers, from their left or right edge."""
    return [int(video.min()) // 40 for video in videos.flatten(0, 1)]


def test_every_epoch_shows_every_sample_once_in_its_own_order(samples: list[np.ndarray]) -> None:
    batches = TrainBatches(samples, TrainConfig(batch=2), ONE)
    seen = [number for step in range(10) for number in which(batches[step][0])]
    epochs = [seen[first : first + 5] for first in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_the_same_seed_and_step_give_the_same_bits_and_others_do_not(samples: list[np.ndarray]) -> None:
    config = TrainConfig(batch=2, flip=True, holes="strokes")
    videos, masks = TrainBatches(samples, config, ONE)[3]
    again = TrainBatches(samples, config, ONE)[3]
    assert torch.equal(videos, again[0])
    assert torch.equal(masks, again[1])
    others = [TrainBatches(samples, config, ONE)[4], TrainBatches(samples, TrainConfig(batch=2, seed=1), ONE)[3]]
    assert not any(torch.equal(masks, other) for _, other in others)
    assert not torch.equal(masks[0, 0], masks[0, 1])


def test_workers_do_not_change_the_order(samples: list[np.ndarray]) -> None:
    batches = TrainBatches(samples, TrainConfig(batch=2, flip=True), ONE)
    here = list(load_steps(batches, range(3, 9), workers=0, pin=False))
    loaded = list(load_steps(batches, range(3, 9), workers=2, pin=False))
    assert len(here) == len(loaded) == 6
    for (videos, masks), (other_videos, other_masks) in zip(here, loaded, strict=True):
        assert torch.equal(videos, other_videos)
        assert torch.equal(masks, other_masks)


def test_ranks_and_parts_share_what_one_process_has(samples: list[np.ndarray]) -> None:
    config = TrainConfig(batch=4, flip=True)
    whole = TrainBatches(samples, config, ONE)[2]
    ranks = [TrainBatches(samples, config, World(rank, 2, CPU))[2] for rank in range(2)]
    parts = TrainBatches(samples, TrainConfig(batch=4, flip=True, accumulate=2), ONE)[2]
    for i in range(2):
        assert torch.equal(torch.cat([rank[i] for rank in ranks], 1), whole[i])
        assert torch.equal(parts[i].flatten(0, 1), whole[i].flatten(0, 1))
    assert parts[0].shape == (2, 2, 2, 12, 16, 3)


def test_a_batch_that_cannot_be_shared_is_an_error(samples: list[np.ndarray]) -> None:
    with pytest.raises(UserError, match=r"3 videos .* 2 processes"):
        TrainBatches(samples, TrainConfig(batch=3), World(0, 2, CPU))


def test_half_of_the_videos_are_mirrored_if_asked(samples: list[np.ndarray]) -> None:
    def mirrored(flip: bool) -> list[bool]:
        batches = TrainBatches(samples, TrainConfig(batch=5, flip=flip), ONE)
        videos = torch.cat([batches[step][0][0] for step in range(20)])
        return (videos[:, 0, 0, 0, 0] > videos[:, 0, 0, -1, 0]).tolist()

    assert not any(mirrored(False))
    assert 30 <= sum(mirrored(True)) <= 70


def test_validation_has_the_same_holes_each_time_and_is_shared_out(samples: list[np.ndarray]) -> None:
    config = TrainConfig()
    first, second = (list(validation_batches(samples, config, ONE)) for _ in range(2))
    assert len(first) == 5
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    ranks = [list(validation_batches(samples, config, World(rank, 2, CPU))) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [3, 2]
    assert torch.equal(ranks[1][0][1], first[1][1])
    assert len(list(validation_batches(samples, TrainConfig(validation_samples=2), ONE))) == 2


def test_pixels_as_floats() -> None:
    videos = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    masks = torch.randint(0, 2, (2, 3, 4, 5), dtype=torch.uint8)
    video, mask = to_float(videos, masks, CPU)
    assert video.shape == (2, 3, 3, 4, 5)
    assert mask.shape == (2, 1, 3, 4, 5)
    assert torch.equal((video * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1), videos)
    assert (video.dtype, mask.dtype, video.is_contiguous()) == (torch.float32, torch.float32, True)
