"""Parity cases of the segmentation networks in the forms that a user may bring: other sizes, images only, no heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.networks.parity.case import read_case
from perception.networks.parity.verify import verify_case

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {"ddrnet": "ddrnet_23_slim_oddgrid_b2", "p2at": "p2at_s_camvid11"}
HEADS = ("seghead_extra.", "aux_seg_head1.", "aux_seg_head2.")


def changed(network: str, folder: Path, arrays: dict[str, Any], without_heads: bool = False) -> Path:
    notes = json.loads((GOLDEN / network / f"{CASES[network]}.json").read_text())
    if without_heads:
        notes["params"] = [entry for entry in notes["params"] if not any(head in entry[0] for head in HEADS)]
    (folder / "case.json").write_text(json.dumps(notes))
    np.savez(folder / "case.npz", **arrays)
    return folder / "case.json"


@pytest.mark.parametrize("network", CASES)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (40, 24), (16, 104)])
def test_inputs_alone_give_outputs_of_their_size(network: str, height: int, width: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, height, width)).astype(np.float32)
    verdict, outputs = verify_case(read_case(changed(network, tmp_path, {"in_x": x})))
    assert verdict.passed is None
    assert outputs["out_pred"].shape == (2, height, width)


@pytest.mark.parametrize("network", CASES)
def test_a_deployed_checkpoint_without_training_heads_runs(network: str, tmp_path: Path) -> None:
    case = changed(network, tmp_path, {"in_x": np.zeros((1, 3, 16, 16), np.float32)}, without_heads=True)
    assert verify_case(read_case(case))[0].passed is None


def test_pictures_are_normalised_as_the_published_loaders_do(golden_folder: Path, tmp_path: Path) -> None:
    for name in ("p2at_m_oddsize_b2", "p2at_s_cityscapes19"):  # RGB for CamVid, BGR for Cityscapes
        notes = (golden_folder / "p2at" / f"{name}.json").read_text()
        with np.load(golden_folder / "p2at" / f"{name}.npz") as stored:
            arrays = {key: stored[key] for key in stored.files if key != "in_x"}
        (tmp_path / f"{name}.json").write_text(notes)
        np.savez(tmp_path / f"{name}.npz", **arrays)
        assert verify_case(read_case(tmp_path / f"{name}.json"))[0].passed
