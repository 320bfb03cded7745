"""Decoding, filling and encoding run at the same time, within bounds, and end together however one of them ends."""

import threading
import time

import numpy as np
import pytest

from fastinpaint.inference import MaskSettings, Settings, inpaint
from fastinpaint.inference.movie import MovieWriter
from fastinpaint.inference.pipeline import MOST, ahead, behind, depth
from tests.inference.stubs import Paint

WAIT = 20


def others() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fastinpaint")]


def test_items_come_in_order_from_another_thread_and_no_further_ahead_than_allowed():
    made, names = [], set()

    def source():
        for number in range(50):
            made.append(number)
            names.add(threading.current_thread().name)
            yield number

    taken = []
    with ahead(source(), 3) as items:
        for number in items:
            time.sleep(0.001)
            taken.append(number)
            assert len(made) <= len(taken) + 4  # three wait, and the next one is held
    assert taken == list(range(50))
    assert names == {"fastinpaint decoder"}
    assert others() == []


def test_the_source_goes_on_while_an_item_is_worked_on():
    second = threading.Event()

    def source():
        yield 1
        second.set()
        yield 2

    with ahead(source(), 2) as items:
        assert next(items) == 1
        assert second.wait(WAIT), "the second item is made before it is asked for"


def test_the_sink_works_while_the_next_item_is_made():
    first, go = threading.Event(), threading.Event()
    taken = []

    def sink(item):
        first.set()
        assert go.wait(WAIT)
        taken.append(item)

    with behind(sink, 2) as write:
        write(1)
        assert first.wait(WAIT)
        write(2)
        assert taken == []
        go.set()
    assert taken == [1, 2]
    assert others() == []


@pytest.mark.parametrize("error", [ValueError("planted"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_error_of_the_source_comes_after_its_items(error):
    def source():
        yield 1
        raise error

    taken = []
    with pytest.raises(type(error)), ahead(source(), 4) as items:
        taken.extend(map(abs, items))
    assert others() == []
    assert taken == [1]


def test_an_error_of_the_sink_is_raised_where_items_are_handed_over():
    def sink(item):
        raise OSError("planted")

    written = []
    with pytest.raises(OSError, match="planted"), behind(sink, 2) as write:
        written.extend(map(write, range(1000)))
    assert len(written) < 1000
    assert others() == []
    with pytest.raises(OSError, match="planted"), behind(sink, 2) as write:
        write(0)


@pytest.mark.parametrize("error", [ValueError("planted"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_error_between_them_ends_both(error):
    def endless():
        while True:
            yield 0

    slow = threading.Event()

    def fill():
        with ahead(endless(), 2) as items, behind(lambda item: slow.wait(0.01), 2) as write:
            for number, item in enumerate(items):
                write(item)
                if number == 5:
                    raise error

    with pytest.raises(type(error)):
        fill()
    assert others() == []


def test_frames_that_wait_are_bounded_by_their_size():
    assert depth(48, 64) == MOST
    assert depth(720, 1280) * 1280 * 720 <= 32_000_000
    assert depth(10_000, 10_000) == 2


def test_a_video_is_decoded_filled_and_encoded_by_three_threads(clip, tmp_path, monkeypatch):
    names = {"encode": set(), "fill": set()}
    true = MovieWriter.write

    def write(self, *args):
        names["encode"].add(threading.current_thread().name)
        return true(self, *args)

    class Noting(Paint):
        def forward(self, video, mask):
            names["fill"].add(threading.current_thread().name)
            return super().forward(video, mask)

    monkeypatch.setattr(MovieWriter, "write", write)
    settings = Settings(frames=4, size=16, device="cpu")
    inpaint(Noting(), clip("in.mp4", frames=12), tmp_path / "out.mp4", boxes=[(8, 8, 20, 16)], settings=settings)
    assert names == {"encode": {"fastinpaint encoder"}, "fill": {threading.main_thread().name}}


@pytest.mark.parametrize("after", [0, 5])
def test_an_encoder_that_fails_leaves_nothing(clip, tmp_path, monkeypatch, after):
    true, calls = MovieWriter.write, []

    def write(self, *args):
        calls.append(args)
        if len(calls) > after:
            raise RuntimeError("planted")
        return true(self, *args)

    monkeypatch.setattr(MovieWriter, "write", write)
    source = clip("in.mp4", video=np.zeros((40, 48, 64, 3), np.uint8))
    settings = Settings(frames=4, size=16, device="cpu")
    with pytest.raises(RuntimeError, match="planted"):
        inpaint(
            Paint(), source, tmp_path / "out.mp4", boxes=[(8, 8, 20, 16)], masks=MaskSettings(grow=0), settings=settings
        )
    assert list(tmp_path.iterdir()) == [source]
    assert others() == []
