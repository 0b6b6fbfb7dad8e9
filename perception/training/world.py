"""Training data: what the sensors of simulated worlds say, with exact truth, drawn once and kept on disk.

Imports `perception.simulation`, a neighbour, since the synthetic world is where the bundled weights learn.

Whose seeds: worlds with seeds of `TRAINING_SEEDS` are for training, those of `VALIDATION_SEEDS` for the metrics that a
training reports, and none of either for anything else. All smaller seeds are for drives that users simulate and score.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from perception.errors import UserError, did_you_mean
from perception.geometry.rig import Rig, load_rig
from perception.networks.address import user_cache
from perception.networks.whole_file import write_whole
from perception.simulation.motion import Motion
from perception.simulation.weather import WEATHERS
from perception.simulation.world import World

Sample: TypeAlias = dict[str, NDArray[Any]]
"""Arrays by name: what sensors said at one instant, or over one clip, and its truth."""
Draw: TypeAlias = Callable[[Rig, int], Iterable[Sample]]
"""(rig, seed) -> the samples of that world, always as many; a function of a module, since its text is hashed."""

FIRST_TRAINING_SEED = 1_000_000
TRAINING_SEEDS = range(FIRST_TRAINING_SEED, 2_000_000_000)
VALIDATION_SEEDS = range(900_000, FIRST_TRAINING_SEED)

PACKAGE = Path(__file__).parents[1]


def training_seed(recipe_seed: int, number: int) -> int:
    """Return the seed of training world `number` (0 to 999 999) of a recipe: recipes share no world."""
    return FIRST_TRAINING_SEED * (1 + recipe_seed) + number


def world_of(seed: int, action: str | None = None) -> World:
    """Return the world of a seed: weather and speed are drawn from it too, since those of drives differ."""
    random = np.random.default_rng((seed, 41))
    weather = list(WEATHERS)[int(random.integers(len(WEATHERS)))]
    return World(seed, weather, Motion(speed_mps=float(random.uniform(3.0, 14.0))), action=action)


def world_rig(name: str) -> Rig:
    """Return the rig whose sensors are simulated: a shipped one by name, or a folder.

    Raises:
        UserError: there is none.
    """
    shipped = PACKAGE / "share" / "calibration"
    for folder in (Path(name), shipped / name):
        if (folder / "rig.yaml").is_file():
            return load_rig(folder)
    known = sorted(path.parent.name for path in shipped.glob("*/rig.yaml"))
    raise UserError(
        f"--world {name}: neither a folder with a rig.yaml nor a shipped rig; shipped: {', '.join(known)}."
        f"{did_you_mean(name, known)}"
    )


def world_version(rig: Rig) -> str:
    """Return what identifies the worlds: a digest of the simulation's code and of the rig."""
    digest = hashlib.sha256(rig.content_hash.encode())
    for path in sorted((PACKAGE / "simulation").glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class Samples:
    """The samples of many worlds: each world is drawn once, then read from `<cache>/worlds/<version>/<name>/`.

    Args:
        rig: whose sensors are simulated.
        name: of the sensor, or of what is drawn; part of the folder's name.
        draw: what one world gives.
        cache: another cache folder than the user's.
    """

    def __init__(self, rig: Rig, name: str, draw: Draw, cache: Path | None = None) -> None:
        self.rig, self.draw = rig, draw
        text = hashlib.sha256(inspect.getsource(draw).encode()).hexdigest()[:8]
        self.folder = (cache or user_cache()) / "worlds" / world_version(rig) / f"{name}-{text}"

    def sample(self, seed: int, index: int) -> Sample:
        """Return sample `index` of the world of `seed`; it is drawn if nobody did before."""
        path = self.folder / f"{seed}.safetensors"
        if (found := _read(path, index)) is None:
            self._draw(path, seed)
            found = _read(path, index)
        if found is None:
            raise UserError(f"{path}: the world has no sample {index}")
        return found

    def _draw(self, path: Path, seed: int) -> None:
        tensors = {
            f"{index}.{key}": np.ascontiguousarray(value)
            for index, sample in enumerate(self.draw(self.rig, seed))
            for key, value in sample.items()
        }
        try:
            write_whole(path, to_safetensors(tensors))
        except OSError as error:
            raise UserError(f"{path}: cannot keep the drawn world ({error.strerror})") from error


def _read(path: Path, index: int) -> Sample | None:
    try:
        with safe_open(path, framework="np") as stored:
            prefix = f"{index}."
            return {
                name.removeprefix(prefix): stored.get_tensor(name)
                for name in stored.keys()  # noqa: SIM118 (not a mapping)
                if name.startswith(prefix)
            } or None
    except (OSError, SafetensorError):
        return None


__all__ = [
    "TRAINING_SEEDS",
    "VALIDATION_SEEDS",
    "Draw",
    "Sample",
    "Samples",
    "training_seed",
    "world_of",
    "world_rig",
    "world_version",
]
