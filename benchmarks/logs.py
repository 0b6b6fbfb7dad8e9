"""`perception bench logs`: reading a recording beside the mcap library alone, and lockstep's own cost per message.

The recording is made up: six cameras (JPEG of 200 kB, 10 Hz) and a LiDAR (120,000 points, 10 Hz) for some seconds. It
is read from the page cache: what counts is the processor. Freed memory stays with the process, as in every process of a
graph, for the mcap library, too; our reader unfolds and checks the next chunks on other cores.

The overhead is that of a chain of three nodes that pass small messages on, less what their methods take by themselves:
inline in one process, and with a process each, where it is the time from one message to the next at the end of the
chain.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mcap.reader import make_reader

from perception.logs.mcap_log import McapLog
from perception.logs.mcap_writer import McapWriter
from perception.messages import Header, Image, Message, PointCloud
from perception.messages.codec import encode
from perception.runtime.allocator import keep_freed_memory
from perception.runtime.graph import Edge, Graph, NodeSpec
from perception.runtime.inline_runner import run_inline
from perception.runtime.node import Bound, Node, NodeConfig, NodeSetup, On, Out, Source

CAMERAS, JPEG_BYTES, POINTS, RATE_HZ = 6, 200_000, 120_000, 10
HERE = "perception.benchmarks.logs"
TOPICS = ("chain/0", "chain/1", "chain/2", "chain/3")


@dataclass(frozen=True)
class Reading:
    """Megabytes a second of one way to read; `ratio` to the mcap library alone."""

    what: str
    megabytes_per_s: float
    ratio: float

    def line(self) -> str:
        """Return the row for people."""
        return f"{self.what:<44} {self.megabytes_per_s:8.0f} MB/s  {self.ratio:5.2f} of mcap alone"


def reading(seconds: float, repeats: int) -> list[Reading]:
    """Read a made-up drive in all ways, taking turns."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="perception-bench-") as folder:
        path = Path(folder) / "drive.mcap"
        size = _write_drive(path, seconds)
        ways: Mapping[str, Callable[[Path], int]] = {
            "the mcap library alone, bytes": _with_mcap,
            "the mcap library alone, checksums too": lambda p: _with_mcap(p, checksums=True),
            "records, as bytes": lambda p: sum(len(data) for _, data, _ in McapLog(p).records()),
            "messages, decoded, in the order of stamps": lambda p: sum(1 for _ in McapLog(p).messages()),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, read in ways.items():
                started = time.perf_counter()
                read(path)
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    alone = medians["the mcap library alone, bytes"]
    return [Reading(name, size / 1e6 / taken, alone / taken) for name, taken in medians.items()]


def _with_mcap(path: Path, *, checksums: bool = False) -> int:
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=checksums)
        return sum(len(message.data) for _, _, message in reader.iter_messages(log_time_order=False))


def _write_drive(path: Path, seconds: float) -> int:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, JPEG_BYTES, dtype=np.uint8)
    points = random.normal(0, 20, (POINTS, 3)).astype(np.float32)
    intensity = random.random(POINTS, dtype=np.float32)
    total = 0
    with McapWriter(path) as writer:
        for k in range(round(seconds * RATE_HZ)):
            t_ns = 1_700_000_000_000_000_000 + k * 1_000_000_000 // RATE_HZ
            items: list[tuple[str, Message]] = [
                (f"cam_{c}/image", Image(header=Header(frame_id=f"cam_{c}_optical", t_sensor_ns=t_ns + c, seq=k),
                                         encoding="jpeg", height_px=900, width_px=1600, data=picture))
                for c in range(CAMERAS)
            ]  # fmt: skip
            header = Header(frame_id="lidar", t_sensor_ns=t_ns + CAMERAS, seq=k)
            items.append(("lidar/points", PointCloud(header=header, xyz_m=points, intensity=intensity)))
            for topic, message in items:
                record = encode(message).to_bytes()
                total += len(record)
                writer.write(topic, record, message.header.t_sensor_ns)
    return total


class _Config(NodeConfig):
    count: int = 0


class Counting(Source):
    """So many small messages."""

    Config = _Config
    paced = True

    @classmethod
    def topics(cls, config: _Config, setup: NodeSetup) -> Mapping[str, type[Message]]:
        return {TOPICS[0]: Image}

    def __init__(self, config: _Config) -> None:
        super().__init__(config)
        self.count = config.count

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        data = np.zeros(64, np.uint8)
        for k in range(self.count):
            header = Header(frame_id="x", t_sensor_ns=1_000_000_000 + k * 1_000_000, seq=k)
            yield TOPICS[0], Image(header=header, encoding="jpeg", height_px=1, width_px=1, data=data)


class Passing(Node):
    """Gives on what it gets."""

    Config = _Config
    data = On[Image](keep="all")
    out = Out[Image]()

    def on_data(self, data: Image) -> Image:
        return Image(header=data.header, encoding="jpeg", height_px=1, width_px=1, data=data.data)


class Timing(Passing):
    """Says in its status when its first and its last call were, nanoseconds."""

    def __init__(self, config: _Config) -> None:
        super().__init__(config)
        self.first_ns = 0

    def on_data(self, data: Image) -> Image:
        now_ns = time.monotonic_ns()
        self.first_ns = self.first_ns or now_ns
        self.notes = (str(self.first_ns), str(now_ns))
        return super().on_data(data)


def lockstep_overhead_us(messages: int, repeats: int) -> float:
    """Return microseconds for each message that a node takes, on the inline runner, the nodes' own work left out."""
    per_message = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run_inline(_chain(messages))
        taken = time.perf_counter() - started
        own = sum(status.latency_p50_ms for status in result.statuses) / 1000 * messages
        per_message.append((taken - own) / (3 * messages) * 1e6)
    return statistics.median(per_message)


def lockstep_on_processes_us(messages: int, repeats: int) -> float:
    """Return microseconds from one message to the next at the end of the chain, each node in a process of its own."""
    from perception.runtime.launcher import run_graph

    per_message = []
    with tempfile.TemporaryDirectory(prefix="perception-bench-") as folder:
        for _ in range(repeats):
            chain = _chain(messages, f"ipc://{folder}/chain.ipc", processes=True)
            last = run_graph(chain, runner="ray").statuses["hop2"]
            first_ns, last_ns = map(int, last.notes)
            per_message.append((last_ns - first_ns) / (messages - 1) / 1e3 - last.latency_p50_ms * 1e3)
    return statistics.median(per_message)


def _chain(messages: int, endpoint: str = "", *, processes: bool = False) -> Graph:
    source = NodeSpec(
        name="source", target=f"{HERE}:Counting", config=_Config(count=messages), process="source",
        outputs={TOPICS[0]: TOPICS[0]}, is_source=True,
    )  # fmt: skip
    hops = [
        NodeSpec(
            name=f"hop{k}", target=f"{HERE}:{'Timing' if k == 2 else 'Passing'}", config=_Config(),
            process=f"hop{k}" if processes else "source",
            edges=(Edge(input="data", topic=TOPICS[k], message_type=Image, keep="all", bound=10),),
            outputs={"out": TOPICS[k + 1]},
        )
        for k in range(3)
    ]  # fmt: skip
    return Graph(
        name="chain", nodes=(source, *hops), outputs=(), sensors=(), message_types=dict.fromkeys(TOPICS, Image),
        endpoint=endpoint, mode="lockstep",
    )  # fmt: skip


__all__ = ["Reading", "lockstep_on_processes_us", "lockstep_overhead_us", "reading"]
