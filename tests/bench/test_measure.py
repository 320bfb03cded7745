"""The measuring code: timings, kept bytes, the search for the largest size, rows, and the layers' multiply-adds."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from pathlib import Path

import pytest
import torch

from fastinpaint.bench import rows
from fastinpaint.bench.budget import Search
from fastinpaint.bench.contenders import Workload, build, disagreement
from fastinpaint.bench.layers import layer_cases, taps_on_map
from fastinpaint.bench.machine import rates
from fastinpaint.bench.measure import Timing, allocated_bytes, kept_bytes, time_in_turn, time_pairwise, turn_order
from fastinpaint.errors import UserError
from fastinpaint.ops import buffer_pool


def test_percentiles_and_noise():
    assert Timing.of([1.0, 2.0, 3.0]).p50 == 2
    assert Timing.of([1.0, 2.0, 3.0]).noisy
    assert not Timing.of([1.0, 1.01, 1.02]).noisy


def test_contenders_take_turns():
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "ab"}
    timings = time_in_turn(contenders, torch.device("cpu"), seconds=0.0, least=2)
    assert "".join(calls) == "ab" + "abba"  # one warm-up each
    assert timings["a"].runs == 2


def test_no_contender_always_follows_the_same_one():
    assert sorted(turn_order(3, turn) for turn in range(6)) == [list(p) for p in itertools.permutations(range(3))]


def test_times_of_a_turn_are_kept_together():
    clock = itertools.count()
    first, second = time_pairwise([lambda: None, lambda: None], least=4, seconds=0.0, clock=lambda: float(next(clock)))
    assert first == second == [1.0] * 4


def test_kept_bytes_count_each_storage_once_and_no_parameter():
    x, weight = torch.randn(10, requires_grad=True), torch.randn(10, requires_grad=True)

    def forward() -> torch.Tensor:
        y = x.exp()  # keeps its result
        return (y * y * weight).sum()  # keeps y again, y * y, and the parameter

    assert kept_bytes(forward, [weight]) == 2 * 40


def test_kept_bytes_lets_what_it_counted_go():
    # exp saves its own result; saving it with its history would keep the node alive
    x, nodes = torch.ones(10, requires_grad=True), weakref.WeakSet()

    def forward() -> torch.Tensor:
        def hook(*gradients: object) -> None:
            """Lives as long as the node that it is attached to."""

        y = x.exp()
        y.grad_fn.register_hook(hook)
        nodes.add(hook)
        return y

    assert kept_bytes(forward, []) == 40
    gc.collect()
    assert not nodes


@pytest.mark.parametrize("limit", [0, 1, 15, 16, 17, 100, 1000])
@pytest.mark.parametrize("growth", [float, lambda n: float(n * n)], ids=["linear", "square"])
def test_the_largest_that_fits(limit, growth):
    """For any behaviour of memory, the answer and the next size have been run."""
    for unit in (1, 16):
        search = Search(lambda n: 3.0 + n**1.3, 3.0 + limit**1.3, growth, unit, most=512)
        expected = min(limit, 512) // unit * unit
        assert search.run((unit, 4 * unit)) == expected
        assert expected == 0 or search.tried[expected] <= search.budget
        assert expected + unit > 512 or search.tried[expected + unit] > search.budget


def test_a_straight_line_needs_few_runs():
    search = Search(lambda n: 1e9 + 4e7 * n if n < 90 else math.inf, 4e9)
    assert search.run((8, 16)) == 75
    assert len(search.tried) <= 5


def test_memory_that_runs_out_is_not_taken_for_a_line():
    search = Search(lambda n: 1e9 if n < 37 else math.inf, 4e9)
    assert search.run((8, 16)) == 36


def test_rows_are_read_as_written(tmp_path: Path):
    file = tmp_path / "new" / "rows.jsonl"
    rows.append(file, [{"a": 1}])
    rows.append(file, [{"a": 2}])
    assert rows.read([file]) == [{"a": 1}, {"a": 2}]
    file.write_text("nonsense\n")
    with pytest.raises(UserError, match=r"rows\.jsonl:1"):
        rows.read([file])


def test_layers_are_all_there_with_the_work_of_the_design():
    cases = layer_cases(Workload())
    assert len(cases) == 12 + 17 + 2
    assert sum(case.macs() for case in cases) == pytest.approx(446e9, rel=0.01)


@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize(
    "axis",
    [(9, 3, 1, 1, 1, 0), (8, 4, 2, 1, 1, 0), (7, 5, 2, 2, 1, 1), (4, 3, 1, 16, 16, 0), (6, 3, 3, 0, 2, 2)],
    ids=str,
)
def test_taps_on_the_map_are_what_a_convolution_of_ones_adds_up(axis, transposed):
    size, kernel, stride, padding, dilation, extra = axis
    x, weight = torch.ones(1, 1, size), torch.ones(1, 1, kernel)
    if transposed:
        y = torch.conv_transpose1d(x, weight, None, stride, padding, extra, 1, dilation)
    else:
        y = torch.conv1d(x, weight, None, stride, padding, dilation)
    assert taps_on_map(*axis, transposed) == int(y.sum())


def test_needed_work_is_all_work_but_what_falls_on_padding():
    needed = {case.name: case.needed_macs() / case.macs() for case in layer_cases(Workload(frames=4))}
    assert all(0 < share <= 1 for share in needed.values())
    assert needed["CombCN 17"] > 0.95  # 128 pixels wide, and little beyond their edge
    assert min(needed.values()) < 0.7  # four frames, and taps as far apart


def test_a_time_is_set_beside_the_ceilings_by_the_slower_of_both():
    ceiling = {"copy_gbs": 10.0, "matmul_tflops": 0.1}
    by_work, by_bytes = (rates(2.0, flops, 10**10, ceiling) for flops in (15 * 10**10, 10**10))
    assert (by_work["floor_seconds"], by_work["percent_of_floor"], by_work["gflops"]) == (1.5, 75.0, 75.0)
    assert (by_bytes["floor_seconds"], by_bytes["percent_of_floor"], by_bytes["gbs"]) == (1.0, 50.0, 5.0)
    assert rates(2.0, 10**10, 0, ceiling)["gbs"] is None


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match="eager checkpointed"):
        build("eagre", Workload())
    with pytest.raises(UserError, match="bfloat16"):
        _ = Workload(dtype="int8").torch_dtype


def test_wrong_gradients_are_seen():
    workload = Workload(frames=1, size=16, width=0.05)
    reference, same, other = build("eager", workload), build("eager checkpointed", workload), build("eager", workload)
    with torch.no_grad():
        next(other.model.parameters()).mul_(1.5)
    assert disagreement(same, reference) < 1e-3
    assert disagreement(other, reference) > 1e-2


def test_allocations_are_counted_at_their_most():
    def work() -> None:
        first, second = torch.empty(1000), torch.empty(2000)
        del first, second
        torch.empty(500).add_(1)

    assert allocated_bytes(work, torch.device("cpu")) == 4 * 3000


def test_maps_in_kept_memory_count_as_allocations():
    def work() -> None:
        buffer_pool.empty((1, 64, 64, 128), torch.float32, torch.channels_last).fill_(1)

    work()  # its memory is kept
    assert allocated_bytes(work, torch.device("cpu")) == 4 * 64 * 64 * 128
