"""The report of measurements, the comparison of two runs, and the command that checks a GPU."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import compare, gpu_check, gpu_plan, pictures, report
from fastinpaint.bench import rows
from fastinpaint.bench.contenders import CONTENDERS

MACHINE = {"device": "a processor, 2 threads", "versions": {"torch": "2"}, "commit": "abc", "date": "2026-01-01"}
TIMED = {"p20": 1.0, "p50": 1.0, "p80": 1.0, "runs": 8, "noisy": False, "gflops": 9.0, "gbs": 3.0, "kept_bytes": 2**20}
WORKLOAD = {"frames": 32, "size": 128, "batch": 1, "dtype": "float32"}
CEILINGS = {"copy_gbs": 20.0, "matmul_tflops": 0.3}


def step(contender: str, seconds: float, **more) -> dict:
    return MACHINE | TIMED | {"case": "step", "contender": contender, "p50": seconds, "workload": WORKLOAD} | more


def made(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    return report.main()


def test_a_report_shows_what_its_rows_hold(tmp_path: Path, monkeypatch):
    found = [step("eager", 2.0), step("fastinpaint", 1.0, noisy=True, peak_bytes=3 * 2**30)]
    found += [step(name, t / 4, workload=WORKLOAD | {"frames": 8}) for name, t in (("eager", 2), ("fastinpaint", 1))]
    found += [
        MACHINE | TIMED | {"case": f"3DCN 1 {which}", "contender": name, "kind": "layer", "intensity": 30.0}
        | {"ceilings": CEILINGS}
        for which in ("forward", "backward") for name in ("eager", "fastinpaint")
    ]  # fmt: skip
    found += [
        MACHINE | {"case": "norm_relu", "contender": "cudnn graph", "kind": "op", "not_measured": "no <GPU>"},
        MACHINE | {"case": "largest frames", "contender": "fastinpaint", "value": 68, "budget_gb": 4.0}
        | {"workload": WORKLOAD},
        MACHINE | {"case": "convergence", "contender": "fastinpaint", "steps": 20, "every": 10}
        | {"curves": {"reference": [[90.0, 80.0]], "fused": [[90.0, 80.0]]}},
        MACHINE | {"device": "another, 1 threads", "date": "2025"} | {"case": "on another", "contender": "eager"},
    ]  # fmt: skip
    rows.append(tmp_path / "rows.jsonl", found)
    assert made(monkeypatch, tmp_path / "rows.jsonl", "--out", tmp_path / "out") == 0
    page = (tmp_path / "out" / "index.html").read_text()
    for text in ("PyTorch", "noisy", "no &lt;GPU&gt;", "step, F=32, 128x128", "3DCN 1 backward", "3072.0"):
        assert text in page
    assert "on another" not in page
    drawn = {picture.stem for picture in (tmp_path / "out").glob("*.png")}
    assert drawn == {"step_time", "step_kept", "step_peak", "frames_time", "roofline", "layers", "largest_frames",
                        "convergence", "history"}  # fmt: skip
    assert page.count("data:image/png;base64,") == len(drawn)


def test_a_picture_of_budgets_shows_one_budget_and_says_its_sizes(tmp_path: Path, monkeypatch):
    of_four = {"budget_gb": 4.0, "workload": WORKLOAD}
    of_one = {"budget_gb": 1.0, "workload": WORKLOAD | {"frames": 4, "size": 64}, "date": "2026-01-02"}
    names = ("eager", "fastinpaint")
    found = [MACHINE | {"case": "largest size", "contender": name, "value": 96} | of_four for name in names]
    found += [MACHINE | {"case": "largest size", "contender": "fastinpaint", "value": 48} | of_one]
    drawn: list[tuple[dict[str, float], str]] = []
    monkeypatch.setattr(pictures, "draw_bars", lambda values, title, *_, **__: drawn.append((values, title)))
    assert len(pictures.newest(found)) == 3
    pictures.draw_budgets(pictures.newest(found), tmp_path)
    pictures.draw_budgets(found[:2], tmp_path)
    assert drawn == [
        ({"fastinpaint": 48.0}, "The largest H = W that trains in 1 GB, 4 frames"),
        ({"eager": 96.0, "fastinpaint": 96.0}, "The largest H = W that trains in 4 GB, 32 frames"),
    ]


def test_a_report_of_no_rows_says_so(tmp_path: Path, monkeypatch, capsys):
    assert made(monkeypatch, tmp_path / "none.jsonl", "--out", tmp_path) == 2
    assert "make bench" in capsys.readouterr().err
    (tmp_path / "s.json").write_text(json.dumps([{"part": "p", "name": "n", "seconds": 1, "status": "ok", "last": ""}]))
    assert made(monkeypatch, tmp_path / "none.jsonl", "--out", tmp_path, "--check", tmp_path / "s.json") == 0
    assert "gpu-check" in (tmp_path / "index.html").read_text()


def test_medians_that_do_not_repeat_are_named_and_marked(tmp_path: Path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    rows.append(first, [step("eager", 1.0), step("fastinpaint", 1.0)])
    rows.append(second, [step("eager", 1.04), step("fastinpaint", 1.06)])
    assert compare.main([str(first), str(second), "--mark"]) == 0
    printed = capsys.readouterr().out
    assert "+6.0 %" in printed
    assert "2 cases in both, 1 with" in printed
    assert [row["noisy"] for row in rows.read([first, second])] == [False, True, False, True]
    assert rows.read([first])[0]["repeat_p50"] == 1.04


def shell(text: str, limit: int = 20, least: int = 1, name: str = "n") -> gpu_plan.Step:
    return gpu_plan.Step("tests", name, [sys.executable, "-c", text], limit, least, 1)


def test_steps_end_in_time_and_are_all_in_the_summary(tmp_path: Path):
    check = gpu_check.Check(tmp_path, seconds=60)
    slow = shell("import time; print('begun', flush=True); time.sleep(50)", limit=2, name="slow")
    check.run([shell("print('fine')", name="good"), shell("raise SystemExit(4)", name="bad"), slow], reserve=0)
    check.run([shell("print('never')", least=5, name="late")], reserve=58)
    summary = {step["name"]: step for step in json.loads((tmp_path / "summary.json").read_text())}
    assert summary["good"]["status"] == "ok"
    assert summary["good"]["last"] == "fine"
    assert summary["bad"]["status"] == "failed with status 4"
    assert summary["slow"]["status"].startswith("stopped after")
    assert summary["late"]["status"].startswith("skipped")
    assert not (tmp_path / "tests-late.log").exists()


def test_a_part_run_alone_leaves_the_others_in_the_summary(tmp_path: Path):
    for part, name in (("tests", "first"), ("bench", "second"), ("tests", "third")):
        check = gpu_check.Check(tmp_path, seconds=60, keep=lambda found, part=part: found != part)
        step = shell("print('fine')", name=name)
        step.part = part
        check.run([step], reserve=0)
    found = [(step["part"], step["name"]) for step in json.loads((tmp_path / "summary.json").read_text())]
    assert found == [("bench", "second"), ("tests", "third")]


def test_what_is_stopped_keeps_what_it_found(tmp_path: Path):
    """SIGTERM while the first step runs ends it, and the summary records that."""
    text = """
import sys
from benchmarks import gpu_check, gpu_plan
steps = [gpu_plan.Step("build", "long", [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(99)"],
                       99, 1, 1)]
gpu_check.plan = lambda out: [steps]
sys.argv = ["gpu-check", "--anyway", "--out", sys.argv[1]]
sys.exit(gpu_check.main())
"""
    process = subprocess.Popen([sys.executable, "-c", text, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    while not (log := tmp_path / "build-long.log").exists() or "1" not in log.read_text():
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "stopped by SIGTERM" in printed
    assert json.loads((tmp_path / "summary.json").read_text())[0]["status"] == "stopped with the whole"


def test_layers_are_drawn_in_the_order_of_the_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def layer(case: str, contender: str) -> dict:
        return step(contender, 1.0, case=case, kind="layer", ceilings=CEILINGS, intensity=1.0)

    cases = ("guidance 14 forward", "CombCN 2 backward", "3DCN 12 forward", "CombCN 2 forward", "3DCN 2 forward")
    drawn: list[list[str]] = []
    monkeypatch.setattr(pictures, "draw_layers", lambda times, title, path: drawn.append(list(times)))
    found = [layer(case, contender) for case in cases for contender in ("eager", "fastinpaint")]
    pictures.draw_all_layers(found, tmp_path)
    assert drawn == [["3DCN 2", "3DCN 12", "CombCN 2", "guidance 14"]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: it would be put to work")
def test_without_a_gpu_nothing_runs_and_that_is_said(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == gpu_check.NO_DEVICE
    assert "nothing was run on a GPU.\n0 passed, 0 failed" in done.stdout
    assert not (tmp_path / "out").exists()


def test_the_plan_leaves_time_to_what_matters_more(tmp_path: Path):
    groups = gpu_plan.plan(tmp_path)
    assert {step.part for group in groups for step in group} == set(gpu_plan.PARTS)
    of = {group[0].name: reserve for group, reserve in gpu_check.reserves(groups)}
    assert of["report"] == 0
    assert of["build"] == 0  # the build is most important: without it there is nothing to report
    assert of["max-autotune"] == 15  # the report: the sanitizers have run
    names = [(step.part, step.name) for group in groups for step in group]
    assert len(set(names)) == len(names)
    # the most important steps have time for their whole limits, including the build and all pauses
    assert sum(group[0].limit for group in groups if group[0].rank <= 4) < 560
    assert all(step.limit >= step.least for group in groups for step in group)


class Within(dict):
    """Maps every word to whether it is part of a name, as pytest's -k evaluates it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __missing__(self, word: str) -> bool:
        return word in self.name


def test_every_contender_has_one_step_and_ours_comes_first(tmp_path: Path):
    steps = [step for group in gpu_plan.plan(tmp_path) for step in group if "benchmarks" in step.command]
    steps = [step for step in steps if step.part == "bench" and "--frames" not in step.command]
    words = {step.name: step.command[step.command.index("-k") + 1] for step in steps}
    of = {
        contender: [
            step for step, given in words.items() if eval(given, {}, Within(f"test_training_step[{contender}]"))
        ]
        for contender in CONTENDERS
    }
    assert all(len(found) == 1 for found in of.values()), of
    assert of["fastinpaint"] == of["fastinpaint cuda"] == of["eager channels-last"] == [steps[0].name]


def test_what_is_measured_among_others_chooses_no_kernel_that_is_timed(tmp_path: Path):
    cache = {(step.part, step.environment["FASTINPAINT_CACHE"]) for group in gpu_plan.plan(tmp_path) for step in group}
    timed = {folder for part, folder in cache if part in ("bench", "tune")}
    assert timed == {str(tmp_path / "chosen")}
    assert timed.isdisjoint(folder for part, folder in cache if part not in ("bench", "tune"))
