"""Whole evaluations on samples whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fastinpaint import UserError
from fastinpaint.data.holes import make_holes
from fastinpaint.data.synthetic import synthetic_clip
from fastinpaint.metrics import (
    border_error,
    evaluate,
    hole_l1,
    psnr,
    save_report,
    ssim,
    telea,
    temporal_error,
    warping_error,
)
from fastinpaint.metrics.networks import complete, truth_at
from fastinpaint.models import ModelConfig, TwoDCN, VideoCompletionNet
from fastinpaint.models.preprocess import downsample_video
from fastinpaint.propagation import Adaptation, propagate
from fastinpaint.training.losses import threedcn_loss

SAMPLES = [synthetic_clip(seed, frames=4, size=24) for seed in range(3)]


def networks(**options: object) -> tuple[VideoCompletionNet, TwoDCN]:
    torch.manual_seed(0)
    config = ModelConfig(width=0.0625, **options)
    return VideoCompletionNet(config).eval(), TwoDCN(config).eval()


def constant(model: VideoCompletionNet, coarse: float, completed: float) -> VideoCompletionNet:
    """The network with its last layers made to give the same value everywhere."""
    for part, value in ((model.threedcn, coarse), (model.combcn, completed)):
        last = list(part.layers.values())[-1].conv
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, value)
    return model


def mask_of(index: int, holes: str, seed: int = 0) -> np.ndarray:
    return make_holes(holes, 4, 24, 24, np.random.default_rng([seed, index])) > 0


@pytest.mark.parametrize("holes", ["rectangle", "rectangles", "strokes"])
def test_every_row_is_the_measure_of_that_methods_result(holes: str) -> None:
    completion, twodcn = networks()
    constant(completion, 0.25, 0.5)
    found = evaluate({"a": completion, "b": twodcn}, SAMPLES, holes, progress=False)
    assert list(found.means) == [
        "3DCN (12x12)", "3DCN", "2DCN", "CombCN", "Telea", "Navier-Stokes", "temporal median",
        "nearest in time", "propagation", "source",
    ]  # fmt: skip
    for index, video in enumerate(SAMPLES):
        mask = mask_of(index, holes)
        grey = np.where(mask[..., None], 127.5, video)
        expected = [hole_l1(grey, video, mask), psnr(grey, video), ssim(grey, video), temporal_error(grey, video, mask)]
        expected += [warping_error(grey, video, mask), border_error(grey, video, mask)]
        assert list(found.per_sample["CombCN"][index]) == pytest.approx(expected, rel=1e-5)
        dark = np.where(mask[..., None], 63.75, video)
        assert found.per_sample["3DCN"][index].hole_l1 == pytest.approx(hole_l1(dark, video, mask), rel=1e-5)
        rival = telea(video, mask)
        assert found.per_sample["Telea"][index].hole_l1 == pytest.approx(hole_l1(rival, video, mask))
        own = found.per_sample["source"][index]
        assert (own.hole_l1, own.border_error) == (0, 0)
        assert own.warping_error == warping_error(video, video, mask)
        carried = propagate(np.where(mask[..., None], 0, video).astype(np.uint8), mask).video
        assert found.per_sample["propagation"][index].hole_l1 == pytest.approx(hole_l1(carried, video, mask))
    for name, scores in found.per_sample.items():
        columns = [None if None in column else np.mean(column) for column in zip(*scores, strict=True)]
        assert [value is None for value in found.means[name]] == [column is None for column in columns]
        assert [v for v in found.means[name] if v is not None] == pytest.approx([c for c in columns if c is not None])


def test_the_adapted_fill_has_a_row_where_it_is_asked_for() -> None:
    found = evaluate({}, SAMPLES[:1], "rectangle", rivals=False, adapt=2, progress=False)
    assert list(found.means) == ["propagation, adapted"]
    mask = mask_of(0, "rectangle")
    blank = np.where(mask[..., None], 0, SAMPLES[0]).astype(np.uint8)
    filled = propagate(blank, mask, Adaptation(2)).video
    assert found.means["propagation, adapted"].hole_l1 == pytest.approx(hole_l1(filled, SAMPLES[0], mask))


@pytest.mark.parametrize("r", [2, 4])
def test_the_small_3dcn_row_is_255_times_eq_1(r: int) -> None:
    completion, _ = networks(r=r)
    found = evaluate({"a": completion}, SAMPLES[:1], "rectangles", rivals=False, progress=False)
    video = torch.from_numpy(SAMPLES[0]).permute(3, 0, 1, 2)[None] / 255
    mask = torch.from_numpy(mask_of(0, "rectangles"))[None, None].float()
    with torch.no_grad():
        loss = threedcn_loss(completion.complete_coarse(video, mask).clamp(0, 1), video, mask, r)
    size = 24 // r
    assert found.means[f"3DCN ({size}x{size})"].hole_l1 == pytest.approx(255 * loss.item(), rel=1e-5)


def test_results_are_composited_and_know_nothing_of_the_holes() -> None:
    video, mask = SAMPLES[0], mask_of(0, "strokes")
    for model in networks():
        results = complete(model, video, mask)
        spoilt = complete(model, np.where(mask[..., None], 255 - video, video), mask)
        for name, result in results.items():
            assert np.array_equal(result, spoilt[name]), name
            truth, holes = truth_at(result.shape[1:3], video, mask)
            known = ~holes if result.shape == video.shape else np.zeros_like(holes)
            assert np.abs(result[known] - truth[known]).max(initial=0) < 1e-4, name
            assert result.min() >= 0
            assert result.max() <= 255


def test_enlarged_3dcn_lies_over_the_pixels_it_came_from() -> None:
    """A video that 3DCN returns as it came, small, comes back in place: up-sampling undoes area down-sampling."""
    completion, _ = networks()
    ramp = np.empty((2, 24, 22, 3), np.uint8)
    ramp[:] = np.arange(22)[:, None] * 10
    small = downsample_video(torch.from_numpy(ramp).permute(3, 0, 1, 2)[None] / 255, 2)
    completion.threedcn.forward = lambda x: small  # type: ignore[method-assign]
    result = complete(completion, ramp, np.ones((2, 24, 22), bool))["3DCN"]
    assert np.abs(result - ramp)[:, :, 1:-1].max() < 1e-3


def test_rivals_are_given_blank_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(
        "fastinpaint.metrics.evaluation.BASELINES", {"spy": lambda video, mask: given.append(video) or video}
    )
    evaluate({}, SAMPLES[:1], "strokes", progress=False)
    mask = mask_of(0, "strokes")
    assert not given[0][mask].any()
    assert np.array_equal(given[0][~mask], SAMPLES[0][~mask])


def test_limit_spreads_and_seeds_belong_to_samples() -> None:
    _, twodcn = networks()
    whole = evaluate({"b": twodcn}, SAMPLES, "rectangle", progress=False, rivals=False)
    two = evaluate({"b": twodcn}, SAMPLES, "rectangle", limit=2, progress=False, rivals=False)
    assert two.per_sample["2DCN"] == whole.per_sample["2DCN"][::2]
    assert evaluate({"b": twodcn}, SAMPLES, "rectangle", limit=9, progress=False, rivals=False).samples == 3
    other = evaluate({"b": twodcn}, SAMPLES, "rectangle", seed=1, progress=False, rivals=False)
    assert other.per_sample["2DCN"] != whole.per_sample["2DCN"]


def test_two_models_of_a_kind_are_told_apart() -> None:
    first, _ = networks(r=1)
    second, _ = networks(r=4)
    found = evaluate({"v0": first, "v1": second}, SAMPLES[:1], "rectangle", rivals=False, progress=False)
    assert list(found.means) == ["3DCN v0", "3DCN (6x6) v1", "3DCN v1", "CombCN v0", "CombCN v1"]
    assert found.means["3DCN (6x6) v1"].ssim is None


def test_table_and_json() -> None:
    completion, _ = networks()
    found = evaluate({"a": completion}, SAMPLES, "rectangle", progress=False)
    lines = found.table().splitlines()
    assert lines[0] == "3 samples of 4 frames, 24x24, holes: rectangle"
    assert lines[1].split() == (
        ["method", "hole", "L1", "PSNR", "dB", "SSIM", "temporal", "L1", "warping", "L1", "border", "L1"]
    )
    row = next(line for line in lines if line.startswith("CombCN"))
    scores = found.means["CombCN"]
    expected = [f"{scores.hole_l1:.2f}", f"{scores.psnr:.2f}", f"{scores.ssim:.4f}", f"{scores.temporal_error:.2f}"]
    expected += [f"{scores.warping_error:.2f}", f"{scores.border_error:.2f}"]
    assert row.split()[1:] == expected
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert facts["means"]["CombCN"] == scores._asdict()
    assert facts["per_sample"]["Telea"][2]["psnr"] == found.per_sample["Telea"][2].psnr


def test_one_frame_has_no_temporal_error() -> None:
    _, twodcn = networks()
    found = evaluate({"b": twodcn}, [SAMPLES[0][:1]], "rectangle", rivals=False, progress=False)
    assert found.means["2DCN"].temporal_error is None
    assert found.table().splitlines()[2].split()[-3:-1] == ["-", "-"]


def test_report_on_disk(tmp_path: Path) -> None:
    completion, twodcn = networks()
    found = evaluate({"a": completion, "b": twodcn}, SAMPLES, "strokes", examples=2, progress=False)
    written = save_report(found, tmp_path / "deep" / "out", {"data": "D"})
    assert sorted(p.name for p in (tmp_path / "deep" / "out").iterdir()) == sorted(p.name for p in written)
    assert [p.name for p in written] == ["evaluation.json", "frames.png", "differences.png"]
    assert json.loads(written[0].read_text())["data"] == "D"
    frames, differences = (cv2.imread(str(path)) for path in written[1:])
    # Five columns; two rows a sample, three where differences are shown.
    assert frames.shape[1] == differences.shape[1] > 5 * 200
    assert differences.shape[0] / frames.shape[0] == pytest.approx(6 / 4, rel=0.1)
    one = evaluate({"b": twodcn}, [SAMPLES[0][:1]], "strokes", rivals=False, progress=False)
    assert [p.name for p in save_report(one, tmp_path / "one")] == ["evaluation.json", "frames.png"]


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    completion, twodcn = networks()
    with pytest.raises(UserError, match="no samples"):
        evaluate({"b": twodcn}, [], "rectangle")
    with pytest.raises(UserError, match="at least 1 sample, got 0"):
        evaluate({"b": twodcn}, SAMPLES, "rectangle", limit=0)
    with pytest.raises(UserError, match=r"rectangle, rectangles, strokes.*'blobs'"):
        evaluate({"b": twodcn}, SAMPLES, "blobs", progress=False)
    spoilt = constant(completion, float("nan"), 0.5)
    with pytest.raises(UserError, match=r"3DCN.*not finite on sample 0"):
        evaluate({"a": spoilt}, SAMPLES, "rectangle", progress=False)
    (tmp_path / "file").touch()
    found = evaluate({"b": twodcn}, SAMPLES[:1], "rectangle", rivals=False, progress=False)
    with pytest.raises(UserError, match="cannot write"):
        save_report(found, tmp_path / "file" / "out")


def test_a_further_method_is_a_row_and_sees_no_hole_pixel() -> None:
    def grey(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
        assert (video[mask] == 0).all()
        return np.where(mask[..., None], 100, video)

    found = evaluate({}, SAMPLES[:1], "rectangle", rivals=False, progress=False, methods={"grey": grey})
    mask = mask_of(0, "rectangle")
    expected = hole_l1(np.where(mask[..., None], 100, SAMPLES[0]), SAMPLES[0], mask)
    assert found.means["grey"].hole_l1 == pytest.approx(expected)
