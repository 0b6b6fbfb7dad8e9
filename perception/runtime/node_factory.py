"""Find a node's class by its name in a launch file, and make the node."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path

from perception.errors import GraphError, LaunchFileError, PerceptionError
from perception.runtime.graph import Graph, NodeSpec
from perception.runtime.node import Node, NodeSetup


@cache
def node_class(target: str) -> type[Node]:
    """Return the class of "package.module:Class" or "/path/file.py:Class".

    Raises:
        LaunchFileError: there is no such module, file or class, it cannot be imported, or it is no node.
    """
    place, _, name = target.rpartition(":")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        raise LaunchFileError(f"node '{target}' cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Node)):
        raise LaunchFileError(f"node '{target}': {place} has no class '{name}' that is a perception Node")
    return found


def _module_of_file(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    name = f"perception_user_{path.stem}_{abs(hash(str(path.resolve()))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def setup_of(spec: NodeSpec, graph: Graph) -> NodeSetup:
    """Return what the runtime hands to a node."""
    inputs: dict[str, tuple[str, ...]] = {}
    for edge in spec.edges:
        name = edge.input.rpartition(".")[2]
        inputs[name] = (*inputs.get(name, ()), edge.topic)
    lockstep = graph.mode == "lockstep"
    return NodeSetup(
        name=spec.name, rig=graph.rig, inputs=inputs, search_folders=graph.search_folders, lockstep=lockstep,
        # Libraries share a convolution's work out by the number of threads, and round otherwise for each number.
        threads=1 if lockstep else spec.threads,
    )  # fmt: skip


def make_node(spec: NodeSpec, graph: Graph) -> Node:
    """Make one node of a checked graph and warm it up.

    Raises:
        PerceptionError: the node says what it lacks.
        GraphError: it failed in another way.
    """
    try:
        node = node_class(spec.target).create(spec.config, setup_of(spec, graph))
        if graph.rig is not None:
            node.rig = graph.rig
        node.warm_up()
    except PerceptionError as error:
        raise type(error)(f"node '{spec.name}': {error}") from error
    except Exception as error:
        raise GraphError(f"node '{spec.name}' cannot be made: {type(error).__name__}: {error}") from error
    return node


__all__ = ["make_node", "node_class", "setup_of"]
