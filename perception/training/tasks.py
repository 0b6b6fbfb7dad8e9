"""Which networks can be trained: network -> its recipe and its task, imported when it is asked for."""

from __future__ import annotations

import importlib

from perception.errors import UserError, did_you_mean
from perception.training.loop import MakeTask
from perception.training.recipe import Recipe

TASKS = {
    "egoposeformer": "perception.training.egoposeformer:EGOPOSEFORMER_RECIPE:egoposeformer_task",
    "estf": "perception.training.estf:ESTF_RECIPE:estf_task",
    "ddrnet": "perception.training.segmentation:DDRNET_RECIPE:ddrnet_task",
    "p2at": "perception.training.segmentation:P2AT_RECIPE:p2at_task",
    "dsvt": "perception.training.lidar_detectors:DSVT_RECIPE:lidar_task",
    "flatformer": "perception.training.lidar_detectors:FLATFORMER_RECIPE:lidar_task",
    "deepinteraction": "perception.training.fusion_detector:DEEPINTERACTION_RECIPE:fusion_task",
}
"""Network -> "module:recipe:function", the function a `MakeTask`."""


def training_of(network: str) -> tuple[Recipe, MakeTask]:
    """Return the recipe of the bundled weights of a network, and what makes its task.

    Raises:
        UserError: there is no such training.
    """
    if network not in TASKS:
        raise UserError(f"no training of '{network}'; there are {', '.join(TASKS)}.{did_you_mean(network, TASKS)}")
    module_name, recipe_name, function_name = TASKS[network].split(":")
    module = importlib.import_module(module_name)
    recipe, make = getattr(module, recipe_name), getattr(module, function_name)
    assert isinstance(recipe, Recipe)
    return recipe, make


__all__ = ["TASKS", "training_of"]
