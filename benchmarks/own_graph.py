"""The product's own runtime, with all of its features on: python -m perception.benchmarks.own_graph FOLDER [IDLE]."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from perception.benchmarks.payload import END, Collector, Plan, due, filled, number_of, relay
from perception.messages import Header, Image, Message, host
from perception.runtime.graph import Edge, Graph, NodeSpec
from perception.runtime.launcher import run_graph
from perception.runtime.node import Bound, Node, NodeConfig, NodeSetup, On, Out, Source

HERE = "perception.benchmarks.own_graph"
TOPICS = ("bench/0", "bench/1", "bench/2")


class BenchConfig(NodeConfig):
    """Where the plan is."""

    folder: Path
    slow_ms: float = 0.0


class Sending(Source):
    """The plan's payloads, as pictures of one row of bytes."""

    Config = BenchConfig

    @classmethod
    def topics(cls, config: BenchConfig, setup: NodeSetup) -> Mapping[str, type[Message]]:
        return {TOPICS[0]: Image}

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        time.sleep(1.0)
        for size, number in due(Plan.read(self.config.folder)):
            data = filled(self.empty(TOPICS[0], (size,), np.uint8), number)
            header = Header(frame_id="bench", t_sensor_ns=time.time_ns())
            yield TOPICS[0], Image(header=header, encoding="jpeg", height_px=1, width_px=1, data=data)
        time.sleep(1.0)


class Relaying(Node):
    """A fresh payload of each."""

    Config = BenchConfig
    data = On[Image](keep="all", bound=10)
    out = Out[Image]()

    def on_data(self, data: Image) -> Image:
        if self.config.slow_ms:
            time.sleep(self.config.slow_ms / 1000)
        array = host(data.data)
        made = self.empty("out", array.shape, np.uint8)
        if number_of(array) == END:
            made[:] = array
        else:
            relay(array, made)
        return Image(header=data.header, encoding="jpeg", height_px=1, width_px=1, data=made)


class Collecting(Node):
    """The sink."""

    Config = BenchConfig
    data = On[Image](keep="all", bound=10)
    out = Out[Image]()

    def __init__(self, config: BenchConfig) -> None:
        super().__init__(config)
        self._collector = Collector(config.folder)

    def on_data(self, data: Image) -> None:
        self._collector.take(host(data.data))


class Silent(Sending):
    """A source that has nothing to say."""

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        time.sleep(1e6)
        yield from ()


def hops(folder: Path) -> Graph:
    """Return source -> relay -> relay -> sink, a process each."""
    plan = Plan.read(folder)
    keep = "latest" if plan.slow_ms else "all"
    specs = [_spec("source", "Sending", folder, {TOPICS[0]: TOPICS[0]}, source=True)]
    for number, slow_ms in ((1, 0.0), (2, plan.slow_ms)):
        edge = Edge(TOPICS[number - 1], "data", Image, keep=keep, bound=10)  # type: ignore[arg-type]
        specs.append(
            _spec(f"relay{number}", "Relaying", folder, {"out": TOPICS[number]}, edges=(edge,), slow_ms=slow_ms)
        )
    sink = Edge(TOPICS[2], "data", Image, keep="all", bound=10)
    specs.append(_spec("sink", "Collecting", folder, {"out": "bench/none"}, edges=(sink,)))
    return _graph(folder, specs, dict.fromkeys((*TOPICS, "bench/none"), Image))


def idle(folder: Path, processes: int, nodes: int = 10) -> Graph:
    """Return a graph of ten nodes in which nothing happens."""
    specs = [_spec("source", "Silent", folder, {"idle/0": "idle/0"}, source=True, process="p0")]
    for number in range(1, nodes):
        edge = Edge(f"idle/{number - 1}", "data", Image)
        process = f"p{number * processes // nodes}"
        specs.append(_spec(f"n{number}", "Relaying", folder, {"out": f"idle/{number}"}, edges=(edge,), process=process))
    return _graph(folder, specs, {f"idle/{number}": Image for number in range(nodes)})


def _spec(
    name: str,
    cls: str,
    folder: Path,
    outputs: dict[str, str],
    *,
    edges: tuple[Edge, ...] = (),
    source: bool = False,
    process: str = "",
    slow_ms: float = 0.0,
) -> NodeSpec:
    return NodeSpec(
        name=name, target=f"{HERE}:{cls}", config=BenchConfig(folder=folder, slow_ms=slow_ms), process=process or name,
        edges=edges, outputs=outputs, is_source=source,
    )  # fmt: skip


def _graph(folder: Path, specs: list[NodeSpec], types: dict[str, type[Message]]) -> Graph:
    return Graph(
        name=f"bench_{folder.name}", nodes=tuple(specs), outputs=(), sensors=(), message_types=types,
        endpoint=f"ipc://{folder}/results.ipc",
    )  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) == 2:
        run_graph(hops(folder))
        return
    stop = threading.Event()

    def told(line: str) -> None:
        if line == "running":
            (folder / "running").touch()

    def stop_at_end_of_input() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    run_graph(idle(folder, int(sys.argv[2])), stop=stop, on_line=told)


if __name__ == "__main__":
    main()
