"""What `perception engine build` and `bench` work on: one network, or the nodes of a launch file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perception.engines.choose import EngineSettings
    from perception.engines.coverage import Coverage
    from perception.engines.engine import Engine
    from perception.networks.part import Part
    from perception.runtime.graph import Graph, NodeSpec

Say = Callable[[str], None]


@dataclass
class Built:
    """A network whose parts were built."""

    name: str
    """The node of the launch file, or the network."""
    network: str
    engines: dict[str, Engine] = field(default_factory=dict)
    coverage: Coverage | None = None
    around: tuple[str, ...] = ()
    """What stays in Python."""

    def as_json(self) -> dict[str, object]:
        shares = {} if self.coverage is None else {
            "mac_share": self.coverage.macs.share, "macs": self.coverage.macs.total,
            "time_share": self.coverage.time_share, "time_ms": self.coverage.total_s * 1e3,
        }  # fmt: skip
        engines = {name: engine.name for name, engine in self.engines.items()}
        return {"name": self.name, "network": self.network, "engines": engines, "outside": list(self.around), **shares}

    def lines(self) -> list[str]:
        lines = [f"{self.name}.{name}: {engine.name}" for name, engine in self.engines.items()]
        if self.coverage is not None:
            lines.append(
                f"{self.name}: {self.coverage.macs.share:.1%} of {self.coverage.macs.total / 1e9:.2f} G multiply-adds "
                f"and {self.coverage.time_share:.1%} of {self.coverage.total_s * 1e3:.1f} ms inside exported parts"
            )
        if self.around:
            lines.append(f"{self.name}: outside, in Python: {'; '.join(self.around)}")
        return lines


def is_launch_file(target: str) -> bool:
    """Whether `target` names a launch file, and not weights, a card or a network."""
    return ":" not in target and target.endswith((".yaml", ".yml"))


def weights_address(target: str) -> str:
    """Return the weights that `target` means: an address as it is, a card or a network with filled weights."""
    from perception.networks.card import shipped_cards
    from perception.networks.load import NETWORKS

    if ":" in target or target.endswith(".safetensors"):
        return target
    if target in NETWORKS:
        return f"filled:{target}_compact"
    if target in shipped_cards():
        return f"filled:{target}"
    from perception.errors import UserError, did_you_mean

    known = [*NETWORKS, *shipped_cards()]
    raise UserError(
        f"'{target}' is no network, model card, weights address or launch file (.yaml); networks: "
        f"{', '.join(NETWORKS)}.{did_you_mean(target, known)}"
    )


def build_network(target: str, settings: EngineSettings, say: Say, *, fastest: bool = False) -> Built:
    """Build every part of a network, and run the whole of it once; `fastest` measures what "auto" shall take.

    Raises:
        PerceptionError: there is no such network, or a part cannot be built.
    """
    from torch import nn

    from perception.engines.bench import find_fastest
    from perception.engines.choose import compile_parts
    from perception.engines.coverage import coverage_of
    from perception.engines.engine import axis_names, run_on
    from perception.engines.whole_runs import AROUND, whole_run
    from perception.errors import EngineError
    from perception.networks.load import load_network

    loaded = load_network(weights_address(target), nn.Module)
    network: Any = loaded.network
    if not hasattr(network, "parts"):
        raise EngineError(f"{type(network).__name__} lists no exportable parts")
    if loaded.untrained:
        say(f"{loaded.card.name}: filled weights, which have learned nothing: good for speed, not for sight")
    parts: Mapping[str, Part] = network.parts()
    forget_log(parts)
    for part in parts.values() if fastest else ():
        find_fastest(part, settings, say=say)
    size = (256, 512)
    if {"height", "width"} <= set().union(*(axis_names(part) for part in parts.values())):
        size = (settings.axes.get("height", size[0]), settings.axes.get("width", size[1]))
    built = Built(loaded.card.name, loaded.card.network, compile_parts(parts, settings, say=say))
    one = settings.axes.get("batch", 1) == 1  # the whole is run on one sample
    timed = run_on(built.engines) if one else None
    built.coverage = coverage_of(parts, whole_run(loaded.card.network, network, size), timed)
    built.around = AROUND.get(loaded.card.network, ())
    return built


def build_launch(
    file: str, override: Mapping[str, Any], say: Say, log: Path | None = None, *, fastest: bool = False
) -> list[Built]:
    """Build the engines of all nodes of a launch file, with the settings that it gives them.

    Args:
        file: the launch file.
        override: engine and precision in place of the file's.
        say: is told the progress.
        log: take the sizes of free axes, and samples, from this log.
        fastest: measure what "auto" shall take.

    Raises:
        PerceptionError: the launch file is not sound, or an engine cannot be built.
    """
    from perception.cli.graph_of import graph_of

    graph = graph_of(Path(file), log)
    nodes = [spec for spec in graph.nodes if "engine" in type(spec.config).model_fields and not spec.is_source]
    if log is not None:
        _watch_shapes(graph, nodes, log, say)
    keep = log is not None
    return [_build_node(spec, graph, override, say, keep_shapes=keep, fastest=fastest) for spec in nodes]


def _build_node(
    spec: NodeSpec, graph: Graph, override: Mapping[str, Any], say: Say, *, keep_shapes: bool, fastest: bool
) -> Built:
    from torch.utils.flop_counter import FlopCounterMode

    from perception.engines.bench import find_fastest
    from perception.engines.choose import compile_part
    from perception.engines.compiled_by import compiled_by
    from perception.engines.coverage import CountedEngine, Coverage, MultiplyAdds
    from perception.engines.torch_engine import TorchEngine
    from perception.engines.whole_runs import AROUND
    from perception.runtime.node_factory import make_node

    built = Built(spec.name, "")
    counted: list[CountedEngine] = []
    counter = FlopCounterMode(display=False)

    def build(parts: Mapping[str, Part], settings: EngineSettings) -> dict[str, Engine]:
        if not keep_shapes:
            forget_log(parts)
        made: dict[str, Engine] = {}
        for name, part in parts.items():
            if fastest:
                find_fastest(part, replace(settings, **override), say=say)
            engine = compile_part(part, replace(settings, **override), say=say)
            counted.append(CountedEngine(engine))
            built.engines[name] = made[name] = counted[-1]
        return made

    def count(parts: Mapping[str, Part], settings: EngineSettings) -> dict[str, Engine]:
        counted.extend(CountedEngine(TorchEngine(part), counter) for part in parts.values())
        return dict(zip(parts, counted[-len(parts) :], strict=True))

    with compiled_by(build):
        node = make_node(spec, graph)
    for engine in counted:
        engine.elapsed_s = 0.0
    start_s = time.perf_counter()
    node.warm_up()
    total_s = time.perf_counter() - start_s
    inside_s = sum(engine.elapsed_s for engine in counted)
    counted.clear()
    with compiled_by(count), counter:
        make_node(spec, graph)
    macs = MultiplyAdds(sum(engine.flops for engine in counted) // 2, counter.get_total_flops() // 2)
    built.coverage = Coverage(macs, inside_s, total_s)
    built.network = getattr(getattr(node, "card", None), "network", "")
    built.around = AROUND.get(built.network, ())
    return built


def _watch_shapes(graph: Graph, nodes: list[NodeSpec], log: Path, say: Say) -> None:
    """Replay the log through the graph, in lockstep, and keep the sizes that its engines met, and some inputs."""
    from perception.engines.cache import EngineCache
    from perception.engines.choose import compile_part
    from perception.engines.compiled_by import compiled_by
    from perception.engines.log_samples import SampleKeeper, store_samples
    from perception.engines.log_shapes import ShapeWatch, store_limits
    from perception.runtime.inline_runner import run_inline
    from perception.runtime.node_factory import make_node

    watches: list[tuple[ShapeWatch, SampleKeeper]] = []

    def watch(parts: Mapping[str, Part], settings: EngineSettings) -> dict[str, Engine]:
        forget_log(parts)
        made: dict[str, Engine] = {}
        for name, part in parts.items():
            keeper = SampleKeeper()
            made[name] = shapes = ShapeWatch(compile_part(part, settings, say=say), part, keeper.show)
            watches.append((shapes, keeper))
        return made

    with compiled_by(watch):
        made = {spec.name: make_node(spec, graph) for spec in nodes}
    for shapes, keeper in watches:
        shapes.sizes.clear()  # those of the warm-up are made up
        keeper.forget()
    say(f"replaying {log} to see the shapes that it brings")
    run_inline(replace(graph, mode="lockstep"), nodes=made)
    cache = EngineCache()
    for shapes, keeper in watches:
        limits = shapes.limits()
        store_limits(cache.folder, shapes.part, limits, str(log))
        store_samples(cache.folder, shapes.part, keeper)
        for axis in limits.values():
            say(f"{shapes.part.name}: {axis.name} up to {axis.maximum}, mostly {axis.typical}")


def forget_log(parts: Mapping[str, Part]) -> None:
    """Go back to the limits that the network states, and to made-up samples."""
    from perception.engines.cache import EngineCache
    from perception.engines.log_samples import store_samples
    from perception.engines.log_shapes import store_limits

    folder = EngineCache().folder
    for part in parts.values():
        store_limits(folder, part, {}, "")
        store_samples(folder, part, None)
