"""What nodes compile, they compile before the first message: a graph does not stand still once it runs."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from numba.core.registry import CPUDispatcher

import perception.ops
import perception.tracking
from perception.benchmarks.outputs import Scene, World, a_fuser, a_tracker
from perception.messages import TrackedObjects
from perception.messages.codec import encode


def compiled() -> dict[str, int]:
    """Return for how many types of arguments each compiled function of the tracker and the fuser is ready."""
    found = {}
    for package in (perception.ops, perception.tracking):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, CPUDispatcher):
                    found[f"{module.name}.{name}"] = len(value.signatures)
    return found


def test_fuser_and_tracker_compile_nothing_once_messages_come() -> None:
    fuser, tracker, world, scene = a_fuser(), a_tracker(), World(20), Scene(2000)
    ready = compiled()
    for step in range(14):  # as long as it takes until objects have a history
        outputs = dict(fuser.on_scene(scene.sweep(step), scene.masks(step), world.seen(step)))
        encode(tracker.on_fused(cast("TrackedObjects", outputs["objects"])))
        encode(outputs["painted"])
        tracker.on_detections(world.seen(step))
    assert {name: count for name, count in compiled().items() if count != ready[name]} == {}
