import json
import re

import numpy as np
import pytest

from fastinpaint.cli import main
from fastinpaint.data.video import open_video
from fastinpaint.demo.compare import save_comparison
from fastinpaint.demo.run import HELD_OUT_SEED, DemoSize, run_demo
from fastinpaint.demo.scene import INK, scribbled_scene
from fastinpaint.errors import UserError

TINY = DemoSize(
    clips=6,
    clip_frames=4,
    frames=2,
    size=16,
    width=1 / 32,
    pretrain_steps=2,
    steps=2,
    held_out_frames=5,
    held_out_size=32,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    run_demo(out, size=TINY)
    return out


def test_everything_the_page_shows_is_there(folder):
    page = (folder / "index.html").read_text()
    shown = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert "Mean error inside the hole, 0 to 255, the best first: " in page
    assert {
        "completed.mp4",
        "filled.mp4",
        "compare.mp4",
        "input.mp4",
        "sheet.png",
        "errors.png",
        "frames.png",
        "curves.png",
        "evaluation.json",
    } <= set(shown)
    assert all((folder / name).exists() and not name.startswith(("/", "http")) for name in shown)
    assert "$" not in page


@pytest.mark.parametrize("ours_is_best", [True, False])
def test_the_page_says_where_ours_is_not_the_best(tmp_path, ours_is_best):
    truth, clip, mask = scribbled_scene(3, 4, 64, 32)
    fills = {"Telea": clip, "propagation": truth} if ours_is_best else {"Telea": truth, "propagation": clip}
    said = save_comparison(tmp_path, clip, mask, fills, truth)
    assert ("Propagation is not the best here." in said) != ours_is_best
    assert said.index("propagation" if ours_is_best else "Telea") < said.index(
        "Telea" if ours_is_best else "propagation"
    )


def test_the_table_of_the_page_is_what_was_measured(folder):
    measured = json.loads((folder / "evaluation.json").read_text())
    page, table = (folder / "index.html").read_text(), (folder / "table.txt").read_text()
    for name in ("3DCN", "2DCN", "CombCN"):
        figure = f"{measured['means'][name]['hole_l1']:.2f}"
        assert f"<td>{name}</td><td>{figure}</td>" in page
        assert re.search(rf"^{name} +{figure} ", table, re.MULTILINE)
    fills = [name for name in measured["means"] if not name.startswith("3DCN (") and name != "source"]
    best = min(fills, key=lambda name: measured["means"][name]["hole_l1"])
    assert f"<tr class=best><td>{best}</td>" in page


def test_the_clip_is_completed_where_the_scribble_was_and_nowhere_else(folder):
    clips = {}
    for name in ("input", "completed"):
        with open_video(folder / f"{name}.mp4") as reader:
            clips[name] = np.stack([frame.rgb for frame in reader]).astype(int)
    _, _, mask = scribbled_scene(HELD_OUT_SEED, 5, 32, 16)
    assert clips["input"].shape == clips["completed"].shape == (5, 32, 32, 3)
    difference = np.abs(clips["input"] - clips["completed"]).mean(3)
    assert difference[mask].mean() > 20
    assert difference[~mask].mean() < 8


def test_the_scene_is_the_truth_but_for_the_ink():
    truth, clip, mask = scribbled_scene(3, 4, 64, 32)
    assert (clip[~mask] == truth[~mask]).all()
    inked = (clip != truth).any(3)
    assert inked.any()
    assert (clip[inked] == INK).all()


def test_an_earlier_demo_is_replaced_and_nothing_else(folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "diary.txt").write_text("dear")
    with pytest.raises(UserError, match="must be a new folder, or one that an earlier demo left"):
        run_demo(other, size=TINY)
    again = tmp_path / "again"
    again.mkdir()
    (again / "index.html").write_text("old")
    monkeypatch.setattr("fastinpaint.demo.run.train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_demo(again, size=TINY)
    assert [path.name for path in again.iterdir()] == ["index.html"], "an interrupted demo leaves the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "other"]


def test_the_command_says_where_the_page_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fastinpaint.cli.demo.run_demo", lambda out, backend: run_demo(out, backend, TINY))
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "CombCN" in said
    assert f"Open {tmp_path / 'out' / 'index.html'}" in said
    assert main(["demo", "--out", str(tmp_path / "out"), "--backend", "abacus"]) == 2
    assert "invalid choice: 'abacus'" in capsys.readouterr().err
