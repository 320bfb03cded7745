"""Decoding, filling and encoding at the same time: bounded queues between three threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

PIXELS = 32_000_000
"""Pixels of the frames that wait between two threads at most."""
MOST = 64
"""Frames that wait between two threads at most."""
WAKE = 0.5
"""Seconds after which a thread that waits looks again, so that Ctrl-C reaches it on every system."""


def depth(height: int, width: int) -> int:
    """Frames of that size that may wait between two threads."""
    return max(2, min(MOST, PIXELS // (height * width)))


class Stopped(Exception):
    """The other end of a queue has left."""


class Channel(Generic[T]):
    """A bounded queue from one thread to another. Either end can leave; an error at one end is raised at the other.

    Args:
        most: items that wait at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._left = False
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Add an item once there is room.

        Raises:
            Stopped: the receiver has left.
        """
        with self._changed:
            self._wait(lambda: self._left or len(self._items) < self._most)
            if self._left:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more items come; the error, if any, is raised at the receiver after the items that came before it."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def leave(self) -> None:
        """The receiver takes no more items."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._wait(lambda: self._items or self._ended or self._left)
                if not self._items:
                    if self._error is not None and not self._left:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # which the consumer may have dropped already

    def _wait(self, ready: Callable[[], object]) -> None:
        while not ready():
            self._changed.wait(WAKE)


@contextmanager
def ahead(source: Iterable[T], most: int, name: str = "decoder") -> Iterator[Iterator[T]]:
    """The items of `source`, made by another thread up to `most` ahead; at the end of the block the thread has ended.

    An error of `source` is raised where its item would have come.
    """
    channel: Channel[T] = Channel(most)

    def work() -> None:
        try:
            for item in source:
                channel.put(item)
        except Stopped:
            channel.end()
        except BaseException as error:  # carried over to the thread that receives
            channel.end(error)
        else:
            channel.end()

    with _running(work, name, channel.leave):
        yield iter(channel)


@contextmanager
def behind(sink: Callable[[T], None], most: int) -> Iterator[Callable[[T], None]]:
    """A function that hands items to `sink` in another thread, up to `most` ahead of it.

    Where the block ends well, all items have been taken. Where it ends in an error, those that wait are dropped. An
    error of `sink` is raised at the next item or at the end of the block.
    """
    channel: Channel[T] = Channel(most)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for item in channel:
                sink(item)
        except BaseException as error:  # carried over to the thread that hands over
            errors.append(error)
            channel.leave()

    def hand_over(item: T) -> None:
        try:
            channel.put(item)
        except Stopped:
            raise errors[0] from None

    with _running(work, "encoder", channel.leave) as thread:
        yield hand_over
        channel.end()
        while thread.is_alive():
            thread.join(WAKE)
        if errors:
            raise errors[0]


@contextmanager
def _running(work: Callable[[], None], name: str, stop: Callable[[], None]) -> Iterator[threading.Thread]:
    """A thread that is stopped and has ended when the block ends, however it ends."""
    thread = threading.Thread(target=work, name=f"fastinpaint {name}", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop()
        thread.join()
