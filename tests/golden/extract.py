"""Make the small cases of this folder from the full parity cases: python tests/golden/extract.py

Only cases with synthetic input are taken, and of each only what decides: the required outputs, thinned out where they
are large, and what the adapters read. Needs PERCEPTION_DATA.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.networks.parity.judge import required_outputs

CASES = {
    "ddrnet/ddrnet_23_slim_oddgrid_b2": ["in_x"],
    "p2at/p2at_s_camvid11": ["in_image"],
    "estf/estf_short_clip_128": [],
    "dsvt/nusc_b": [],
    "flatformer/b": [],
    "deepinteraction/lidar_encoder": [],
    "egoposeformer/heatmap_mono_b2": ["in_heatmap_gt"],
}
"""Case -> inputs that the network does not need."""
KEPT_NOTES = (
    "model", "case", "variant", "upstream", "config", "params", "keep", "keep_values", "keep_note", "overrides",
    "strip_prefix", "inputs", "outputs", "subsample", "float32_noise", "stage",
)  # fmt: skip
LARGE = 20_000  # numbers in an output, beyond which it is thinned out


def extract(source: Path, target: Path, left_out: list[str]) -> None:
    """Write one small case."""
    notes = json.loads(source.read_text())
    with np.load(source.with_suffix(".npz")) as stored:
        arrays = {name: stored[name] for name in stored.files}
    needed = required_outputs(notes["model"].split("_")[0], [name for name in arrays if name.startswith("out_")])
    slices = {name: text for name, text in (notes.get("subsample") or {}).items() if name in needed}
    small: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if name in needed and name not in slices and array.size > LARGE and array.ndim == 4 and name != "out_pred":
            slices[name] = "[:, :, ::4, ::4]"
            small[name] = array[:, :, ::4, ::4]
        elif name in needed or (not name.startswith("out_") and name not in left_out):
            small[name] = array
    kept = {key: notes[key] for key in KEPT_NOTES if key in notes} | {"subsample": slices}
    kept["made_by"] = f"tests/golden/extract.py from the case {source.stem}, whose input is synthetic"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(kept) + "\n")
    np.savez_compressed(target.with_suffix(".npz"), allow_pickle=False, **small)


if __name__ == "__main__":
    golden = Path(os.environ["PERCEPTION_DATA"]) / "golden"
    for case, inputs in CASES.items():
        extract(golden / f"{case}.json", Path(__file__).parent / f"{case}.json", inputs)
