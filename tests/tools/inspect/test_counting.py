"""What the launch code plans for the paper's layers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastinpaint.ops.dispatch import native_cuda
from tools.inspect import counting, counting_rest, sass
from tools.inspect.page import table_of
from tools.inspect.paper_layers import paper_layers
from tools.verify import emulated


@pytest.fixture(scope="module")
def counts() -> Iterator[list[counting.Count]]:
    with emulated.installed():
        yield [count for layer in paper_layers() for count in counting.counts(layer)]


def test_every_pass_fills_a_machine(counts: list[counting.Count]) -> None:
    assert not [count for count in counts if count.blocks * count.groups < 64]


@pytest.mark.parametrize("limit", [227, 163, 99])  # KiB: Hopper and Blackwell, A100, all others
def test_every_pass_fits_shared_memory(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_cuda, "shared_limit", lambda like: limit << 10)
    with emulated.installed():
        counts = [count for layer in paper_layers() for count in counting.counts(layer)]
    assert not [count for count in counts if count.shared > limit << 10]
    assert any(count.groups == 2 for count in counts)


def test_two_groups_of_threads_share_a_multiprocessor_of_hopper(counts: list[counting.Count]) -> None:
    system = 1 << 10  # that every block takes beside its own
    assert not [count for count in counts if 2 // count.groups * (count.shared + system) > 228 << 10]


def test_patches_that_weigh_more_than_the_weights_have_wide_tiles(counts: list[counting.Count]) -> None:
    """A gradient of two maps and a dilation of 8: one block per multiprocessor, each of 128 columns."""
    found = {(count.layer, count.name): (count.columns, count.blocks) for count in counts}
    assert found["3dcn.7", "dgrad"] == found["3dcn.9", "dgrad"] == (128, 128)
    assert found["3dcn.7", "forward"] == found["3dcn.6", "dgrad"] == (64, 256)


def test_a_block_of_wgrad_serves_a_whole_plane_of_taps(counts: list[counting.Count]) -> None:
    asked = {count.layer: count.loads for count in counts if count.name == "wgrad"}
    for layer in ("combcn.11", "combcn.12", "combcn.14"):
        assert asked[layer] < 0.8e9  # 2.1e9 with blocks of one kernel row
    assert sum(asked.values()) < 17e9  # 26.1e9


def test_the_partials_of_wgrad_stay_few() -> None:
    with emulated.installed():
        moved = {line.kernel: line.moved for line in counting_rest.lines()}
    assert moved["reduce_kernel"] < 270e6  # 398e6 with a partial for every 128 threads


def test_no_pass_asks_for_less_than_it_must(counts: list[counting.Count]) -> None:
    assert not [count for count in counts if count.loads < count.least * 0.9]


def test_live_taps_are_counted() -> None:
    layers = {layer.name: layer for layer in paper_layers()}
    dilated = layers["combcn.10"]  # dilation 16 on 32 x 32: each axis has 32 + 2 * 16 live reads of 3 * 32
    whole = 2 * dilated.samples * 32 * 32 * 9 * dilated.channels * dilated.out_channels
    out = (dilated.samples, dilated.out_channels, 32, 32)
    assert counting.live_operations(dilated, out) == whole * 64 * 64 // (96 * 96)


def test_the_page_counts_every_kernel() -> None:
    page = counting.PAGE.read_text()
    counted = page[page.index(counting.BEGIN) : page.index(counting_rest.END)]
    rows = sass.PAGE.read_text().splitlines()
    compiled = {row.split("|")[1].split("<")[0].strip() for row in rows if "| sm_90a |" in row}
    compiled -= {"depthwise_kernel", "depthwise_wgrad_kernel", "reduce_groups_kernel"}  # of no layer of the paper's
    assert "gather_kernel" in compiled
    assert not [kernel for kernel in compiled if f"`{kernel}`" not in counted]


@pytest.mark.parametrize("module", [counting, counting_rest], ids=lambda module: module.__name__.rsplit(".")[-1])
def test_the_page_holds_what_is_counted(module) -> None:
    with emulated.installed():
        assert table_of(counting.PAGE, module.BEGIN, module.END) == module.table(), "write it again"
