import importlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from fastinpaint.cli import main
from fastinpaint.data.video import open_video
from fastinpaint.inference import Settings, inpaint
from fastinpaint.models import ModelConfig, TwoDCN, VideoCompletionNet
from fastinpaint.models.weights import save_weights
from fastinpaint.propagation import propagate


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    save_weights(folder / "w.safetensors", VideoCompletionNet(ModelConfig(width=1 / 32)), {"frames": 4, "size": 16})
    return str(folder / "w.safetensors")


def refused(capsys, *arguments) -> str:
    """Runs, and returns the one line of the refusal."""
    assert main(["inpaint", *map(str, arguments)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("fastinpaint inpaint: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def frames(path) -> np.ndarray:
    with open_video(path) as reader:
        return np.stack([frame.rgb for frame in reader])


def test_it_fills_the_hole_and_says_so(clip, tmp_path, capsys, weights):
    source = clip("in.mp4", frames=6)
    assert (
        main(["inpaint", str(source), "--box", "8,8,20,16", "--grow", "0", "-o", str(tmp_path / "out"), "-w", weights])
        == 0
    )
    out, error = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'out'}: 6 frames of 64x48 in ")
    assert error == ""
    changed = (frames(tmp_path / "out") != frames(source)).any(3)
    assert changed[:, 8:24, 8:28].mean() > 0.9
    changed[:, 8:24, 8:28] = False
    assert not changed.any()


def test_a_box_may_begin_outside_the_frame(clip, tmp_path, capsys, weights):
    source = clip("in.mp4", frames=3)
    options = ["--box", "-12,-8,32,24", "--grow", "0", "-o", str(tmp_path / "out"), "-w", weights]
    assert main(["inpaint", str(source), *options]) == 0
    assert "box -12,-8,32,24 reaches beyond the video's 64x48 pixels and is cut there" in capsys.readouterr().err
    changed = (frames(tmp_path / "out") != frames(source)).any(3)
    assert changed[:, :16, :20].mean() > 0.9
    changed[:, :16, :20] = False
    assert not changed.any()


def test_without_weights_other_frames_fill_the_hole(clip, tmp_path, capsys):
    source = clip("in.mp4", frames=6)
    hole = ["--box", "8,8,20,16", "--grow", "0", "--feather", "2"]
    assert main(["inpaint", str(source), *hole, "-o", str(tmp_path / "out")]) == 0
    out, error = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'out'}: 6 frames of 64x48 in ")
    assert error == ""
    changed = (frames(tmp_path / "out") != frames(source)).any(3)
    assert changed[:, 8:24, 8:28].mean() > 0.5
    changed[:, 8:24, 8:28] = False
    assert not changed.any()


def test_without_weights_the_packages_network_corrects_what_no_frame_shows(clip, tmp_path, monkeypatch):
    module = importlib.import_module("fastinpaint.inference.complete")  # the package has a function of that name
    monkeypatch.setattr(module, "strength_of", lambda correct, window: 1.0)
    source = clip("in.mp4", frames=6)
    base = ["inpaint", str(source), "--box", "8,8,20,16", "--grow", "0", "--quiet", "-o"]
    assert main([*base, str(tmp_path / "corrected")]) == 0
    assert main([*base, str(tmp_path / "plain"), "--no-network"]) == 0
    mask = np.zeros((6, 48, 64), bool)
    mask[:, 8:24, 8:28] = True
    plain = frames(tmp_path / "plain")
    assert np.array_equal(plain, propagate(frames(source), mask).video)
    changed = (frames(tmp_path / "corrected") != plain).any(3)
    assert changed[mask].mean() > 0.5
    assert not changed[~mask].any()


def test_the_window_and_the_frames_are_those_of_the_training(clip, tmp_path, weights, monkeypatch):
    seen = []

    def note(*files, settings, **options):
        seen.append(settings)
        return inpaint(*files, settings=settings, **options)

    monkeypatch.setattr("fastinpaint.cli.inpaint.inpaint", note)
    base = ["inpaint", str(clip("in.mp4", frames=6)), "--box", "8,8,20,16", "-w", weights, "--quiet", "-o"]
    assert main([*base, str(tmp_path / "a")]) == 0
    assert main([*base, str(tmp_path / "b"), "--size", "24", "--frames", "3", "--overlap", "1", "--bf16"]) == 0
    assert seen == [Settings(frames=4, size=16), Settings(frames=3, overlap=1, size=24, dtype="bf16")]


def test_every_option_together(clip, tmp_path, capsys, weights):
    source, mask = clip("in.mp4", frames=6), np.full((24, 32), 255, np.uint8)
    mask[4:12, 4:14] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    options = "--mask-invert --mask-resize --grow 0 --feather 2 --full-frame --frames 3 --overlap 1 --lossless"
    arguments = [str(source), "-m", str(tmp_path / "mask.png"), "-o", str(tmp_path / "out.mkv"), "-w", weights]
    for device in ("auto", "cpu"):
        assert main(["inpaint", *arguments, *options.split(), "--overwrite", "--quiet", "--device", device]) == 0
    assert capsys.readouterr() == ("", "")
    changed = (frames(tmp_path / "out.mkv") != frames(source)).any(3)
    assert changed[:, 12:20, 14:22].all()
    changed[:, 8:24, 8:28] = False
    assert not changed.any()


def test_the_image_network_works_too(clip, tmp_path, capsys):
    save_weights(tmp_path / "w2.safetensors", TwoDCN(ModelConfig(width=1 / 32)))
    arguments = [
        clip("in.mp4", frames=3),
        "--box",
        "8,8,20,16",
        "-o",
        tmp_path / "out",
        "-w",
        tmp_path / "w2.safetensors",
    ]
    assert main(["inpaint", *map(str, arguments)]) == 0
    assert len(frames(tmp_path / "out")) == 3


def test_as_a_program(clip, tmp_path, weights):
    command = [sys.executable, "-m", "fastinpaint", "inpaint", clip("in.mp4", frames=3), "--box", "8,8,20,16"]
    options = ["-w", weights, "-o", tmp_path / "out.mp4"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(frames(tmp_path / "out.mp4")) == 3


def test_bad_videos_masks_and_weights_are_named(clip, tmp_path, capsys, weights):
    video, out = clip("in.mp4", frames=6), tmp_path / "out.mp4"
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("no weights")
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((48, 64), np.uint8))
    cv2.imwrite(str(tmp_path / "small.png"), np.full((24, 32), 255, np.uint8))
    good = ["--box", "8,8,20,16", "-o", out, "-w", weights]
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    assert "missing.mp4: no such file" in refused(capsys, tmp_path / "missing.mp4", *good)
    assert "empty.mp4: not a video" in refused(capsys, tmp_path / "empty.mp4", *good)
    assert "cut.mp4" in refused(capsys, cut, *good)
    tail = ["-o", out, "-w", weights]
    assert "black.png: the mask must have a white pixel" in refused(capsys, video, "-m", tmp_path / "black.png", *tail)
    assert "video's size, 64x48, and has 32x24" in refused(capsys, video, "-m", tmp_path / "small.png", *tail)
    assert "missing.png: no such file" in refused(capsys, video, "-m", tmp_path / "missing.png", *tail)
    assert "a mask or a box is needed" in refused(capsys, video, *tail)
    box = ["--box", "8,8,20,16", "-o", out, "-w"]
    assert "none.safetensors: no such weights" in refused(capsys, video, *box, tmp_path / "none.safetensors")
    assert "text.safetensors: not a readable" in refused(capsys, video, *box, tmp_path / "text.safetensors")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "abacus"], "invalid choice: 'abacus'"),
        (["--backend", "triton", "--device", "cpu"], "backend 'triton' cannot run this"),
        (["--device", "toaster"], "device 'toaster' cannot be used here"),
        (["--frames", "0"], "--frames: must be a whole number from 1 to 4096, got '0'"),
        (["--overlap", "4"], "overlap must be from 0 to frames - 1 = 3, got 4"),
        (["--crf", "99"], "--crf: must be a whole number from 0 to 51, got '99'"),
        (["--box", "1,2,3"], "must be x,y,width,height in pixels or per cent, got '1,2,3'"),
        (["--mask-hold", "x"], "must be a number of frames or auto, got 'x'"),
        (["--mask-channel", "x"], "invalid choice: 'x'"),
        (["--label", "-1"], "--label: must be a whole number from 0 to 65535, got '-1'"),
        (["--grow", "-1"], "--grow: must be a whole number from 0 to 1000, got '-1'"),
        (["--pix-fmt", "x"], "pix_fmt must be a pixel format such as yuv420p, got 'x'"),
        (["--fp16", "--bf16"], "not allowed with argument"),
        (["--adapt", "5"], "--adapt: it adapts the fill that needs no weights"),
        (["--adapt", "-1"], "--adapt: must be a whole number from 0 to 86400, got '-1'"),
        (["--quality", "best"], "invalid choice: 'best'"),
        (["--sharpen"], "unrecognized arguments: --sharpen"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_option_values_that_cannot_be_are_refused(clip, tmp_path, capsys, weights, options, message):
    error = refused(
        capsys, clip("in.mp4", frames=3), "--box", "8,8,20,16", "-o", tmp_path / "out", "-w", weights, *options
    )
    assert message in error
    assert not (tmp_path / "out").exists()


def test_options_for_masks_and_boxes_reach_the_file(clip, tmp_path, capsys, weights):
    """A box that moves, in per cent, beside masks of which each is for two frames; notes come on stderr."""
    source = clip("in.mkv", frames=6)
    (tmp_path / "masks").mkdir()
    for number in range(3):
        mask = np.zeros((48, 64), np.uint8)
        mask[4 : 8 + 4 * number, 4:8] = 1
        cv2.imwrite(str(tmp_path / "masks" / f"{number}.png"), mask)
    options = ["-m", str(tmp_path / "masks"), "--mask-hold", "2", "--grow", "0", "--lossless", "--quiet", "-w", weights]
    boxes = ["--box", "50%,50%,25%,25%@0", "--box", "32,12,16,12@0.5"]
    assert main(["inpaint", str(source), *options, *boxes, "-o", str(tmp_path / "out.mkv")]) == 0
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("fastinpaint inpaint: ")
    assert "taken for labels" in error
    changed = (frames(tmp_path / "out.mkv") != frames(source)).any(3)
    for t, top in enumerate((24, 22, 19, 17, 14, 12)):
        expected = np.zeros((48, 64), bool)
        expected[4 : 8 + 4 * (t // 2), 4:8] = expected[top : top + 12, 32:48] = True
        assert changed[t][expected].mean() > 0.9
        assert not changed[t][~expected].any()


def test_adapt_and_quality_say_what_came_of_it(clip, tmp_path, capsys, monkeypatch):
    source = str(clip("in.mp4", frames=4))
    arguments = ["inpaint", source, "--box", "8,8,20,16", "--quiet", "--overwrite", "-o", str(tmp_path / "out.mkv")]
    assert main(arguments) == 0
    assert "adapt:" not in capsys.readouterr().err
    for options in (["--adapt", "2"], ["--quality", "high"]):
        monkeypatch.setattr("fastinpaint.cli.inpaint.ADAPT_SECONDS", 2)
        assert main([*arguments, *options]) == 0
        said = capsys.readouterr().err
        assert said.startswith("fastinpaint inpaint: note: adapt: the error on held-out known pixels went from"), said
    assert main([*arguments, "--quality", "high", "--adapt", "0"]) == 0
    assert "adapt:" not in capsys.readouterr().err
