"""Where calibration data comes from: pictures of a folder, a log, or a running graph."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from perception.errors import UserError
    from perception.messages import Image, Message

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm")
LIVE = ("tcp://", "ipc://")
SOURCE_HELP = "A folder of pictures, a pattern such as 'shots/left*.png', a log, or the endpoint of a running graph."
TOPIC_HELP = "The topic, for a log or a running graph."
LISTED_S = 1.5
"""How long what a graph sends is looked at, to name it."""


@dataclass(frozen=True)
class Picture:
    """A grey picture (H, W) uint8."""

    name: str
    t_ns: int
    grey: NDArray[np.uint8]


def pictures(source: str, topic: str | None = None, *, seconds: float = 30.0, every: int = 1) -> Iterator[Picture]:
    """Yield the pictures of a source, in order.

    Raises:
        UserError: there is no such source, or it has no pictures.
    """
    from perception.errors import UserError

    files = None if source.startswith(LIVE) else picture_files(source)
    if files is not None:
        for file in files[::every]:
            yield _read(file)
        return
    if not source.startswith(LIVE) and not Path(source).exists():
        raise UserError(f"{source}: no such folder, picture or log")
    if topic is None:
        raise UserError(
            f"{source}: no pictures lie there ({', '.join(PICTURES)}); of a log or a running graph say which topic: "
            "--topic CAMERA/image"
        )
    from perception.messages import Image

    count = 0
    for message in messages(source, topic, Image, seconds=seconds):
        if count % every == 0:
            t_ns = message.header.t_sensor_ns
            yield Picture(str(t_ns), t_ns, grey_of(message))
        count += 1
    if not count:
        raise UserError(f"{source}: nothing came on '{topic}'")


def picture_files(source: str) -> list[Path] | None:
    """Return the files of a folder or pattern in counting order; None where the source is something else.

    Raises:
        UserError: a folder or pattern without pictures.
    """
    from perception.errors import UserError

    path = Path(source)
    if any(sign in source for sign in "*?["):
        base = Path(path.anchor) if path.is_absolute() else Path()
        found = [file for file in base.glob(str(path.relative_to(path.anchor))) if file.suffix.lower() in PICTURES]
    elif path.is_dir():
        found = [file for file in path.iterdir() if file.suffix.lower() in PICTURES]
        if not found:
            return None
    elif path.suffix.lower() in PICTURES and path.is_file():
        found = [path]
    else:
        return None
    if not found:
        raise UserError(f"{source}: no picture matches; expected files that end in {', '.join(PICTURES)}")
    return sorted(found, key=counting_order)


def counting_order(path: Path) -> list[Any]:
    """Return a key that puts left2 before left10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def messages(source: str, topic: str, kind: type[Message], *, seconds: float = 30.0) -> Iterator[Any]:
    """Yield the messages of a topic from a log, or for so many seconds from a running graph.

    Raises:
        UserError: the topic is not there, or carries something else.
    """
    for _, message in topics_of(source, {topic: kind}, seconds=seconds):
        yield message


def topics_of(source: str, wanted: Mapping[str, type[Message]], *, seconds: float = 30.0) -> Iterator[tuple[str, Any]]:
    """Yield (topic, message) of some topics from a log, or for so many seconds from a running graph.

    Args:
        source: path of a log, or an endpoint.
        wanted: the kind of each topic.
        seconds: how long to listen to a running graph.

    Raises:
        UserError: a topic is not there, or carries something else.
    """
    from perception.errors import UserError, did_you_mean

    if source.startswith(LIVE):
        yield from _live(source, wanted, seconds)
        return
    from perception.logs.open_log import open_log

    log = open_log(source)
    known = log.topics()
    for topic, kind in wanted.items():
        if topic not in known:
            fitting = [name for name, held in known.items() if held is kind]
            raise UserError(
                f"{source}: no topic '{topic}'; of this kind it has {', '.join(fitting) or 'none'}."
                f"{did_you_mean(topic, fitting)}"
            )
        if known[topic] is not kind:
            raise UserError(f"{source}: '{topic}' carries {known[topic].__name__}, expected {kind.__name__}")
    yield from log.messages(topics=list(wanted))


def kind_of(source: str, topic: str, *, seconds: float = 5.0) -> type[Message]:
    """Return what a topic of a log or of a running graph carries.

    Raises:
        UserError: there is no such topic.
    """
    from perception.errors import UserError, did_you_mean

    if source.startswith(LIVE):
        from perception.runtime.subscriber import subscribe

        with subscribe(source, [topic]) as subscription:
            received = subscription.receive(seconds)
        if received is None:
            raise _silent(source, [topic], seconds)
        return type(received.message)
    from perception.logs.open_log import open_log

    known = open_log(source).topics()
    if topic not in known:
        raise UserError(f"{source}: no topic '{topic}'; it has {', '.join(known)}.{did_you_mean(topic, known)}")
    return known[topic]


def odometry_of(source: str) -> str | None:
    """Return a log's Odometry topic, one that is no truth if there are several; None of a running graph."""
    from perception.logs.open_log import open_log
    from perception.messages import Odometry

    if source.startswith(LIVE):
        return None
    known = [topic for topic, kind in open_log(source).topics().items() if kind is Odometry]
    return min(known, key=lambda topic: (topic.startswith("truth/"), topic), default=None)


def _live(endpoint: str, wanted: Mapping[str, type[Message]], seconds: float) -> Iterator[tuple[str, Any]]:
    from perception.errors import UserError
    from perception.runtime.subscriber import subscribe

    end_s = time.monotonic() + seconds
    missing = set(wanted)
    with subscribe(endpoint, list(wanted), keep="all") as subscription:
        while (left_s := end_s - time.monotonic()) > 0 and (received := subscription.receive(left_s)) is not None:
            topic, message = received.topic, received.message
            if not isinstance(message, wanted[topic]):
                raise UserError(
                    f"{endpoint}: '{topic}' carries {type(message).__name__}, expected {wanted[topic].__name__}"
                )
            missing.discard(topic)
            yield topic, message
    if missing:
        raise _silent(endpoint, sorted(missing), seconds)


def _silent(endpoint: str, topics: Sequence[str], seconds: float) -> UserError:
    """Return an error that names what the graph does send; it sends the last of each topic to whoever comes late."""
    from perception.errors import UserError, did_you_mean
    from perception.runtime.run_lock import is_it_running
    from perception.runtime.subscriber import subscribe

    sent: set[str] = set()
    end_s = time.monotonic() + LISTED_S
    with subscribe(endpoint, []) as subscription:
        while (left_s := end_s - time.monotonic()) > 0 and (received := subscription.receive(left_s)) is not None:
            sent.add(received.topic)
    known = f"it sends {', '.join(sorted(sent))}; a sensor's topic must be among `outputs:`." if sent else (
        f"nor anything else; {is_it_running(endpoint)}"
    )  # fmt: skip
    names = ", ".join(f"'{topic}'" for topic in topics)
    return UserError(f"{endpoint}: nothing came on {names} in {seconds:g} s, {known}{did_you_mean(topics[0], sent)}")


def _read(file: Path) -> Picture:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from perception.errors import UserError

    try:
        with Image.open(file) as picture:
            grey = np.array(picture.convert("L"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UserError(f"{file}: not a whole picture: {error}") from None
    digits = re.fullmatch(r"\d{15,19}", file.stem)  # EuRoC and others name files by nanoseconds
    return Picture(file.name, int(digits.group()) if digits else 0, grey)


def grey_of(message: Image) -> NDArray[np.uint8]:
    """Return a picture's grey values (H, W). Raises ShapeError for bytes that are no picture."""
    import numpy as np

    from perception.nodes._pictures import rgb_of

    return np.asarray(np.rint(rgb_of(message) @ np.array([0.299, 0.587, 0.114])), np.uint8)


def now() -> str:
    """Return the date for a record."""
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")


__all__ = [
    "SOURCE_HELP", "TOPIC_HELP", "Picture", "grey_of", "kind_of", "messages", "now", "odometry_of", "picture_files",
    "pictures", "topics_of",
]  # fmt: skip
