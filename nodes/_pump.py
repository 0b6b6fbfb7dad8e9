"""Read a device whose calls block, in a thread of its own, so that silence can be told meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from perception.nodes._live_source import WAIT_S

T = TypeVar("T")


def pumped(
    blocking: Callable[[], Iterator[T]], keep: int, dropped: Callable[[T], None], wait_s: float = WAIT_S
) -> Iterator[T | None]:
    """Yield what `blocking` yields, and None after each `wait_s` of silence.

    Args:
        blocking: opens the device and reads it; called in the thread.
        keep: items that wait; beyond it the oldest goes.
        dropped: is told of each that went.
        wait_s: how long to wait at a time.

    Raises:
        whatever ended `blocking`.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(maxsize=keep + 1)
    stop = threading.Event()

    def put(item: T | _End) -> None:
        while True:
            try:
                return waiting.put_nowait(item)
            except queue.Full:
                oldest = waiting.get()
                if not isinstance(oldest, _End):
                    dropped(oldest)

    def read() -> None:
        error: Exception | None = None
        try:
            for item in blocking():
                if stop.is_set():
                    return
                put(item)
        except Exception as caught:  # noqa: BLE001 - it is raised where the items are taken
            error = caught
        put(_End(error))

    threading.Thread(target=read, name="device", daemon=True).start()
    try:
        while True:
            try:
                item = waiting.get(timeout=wait_s)
            except queue.Empty:
                yield None
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()


class _End:
    """The device gives nothing any more, by this error or by itself."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


__all__ = ["pumped"]
