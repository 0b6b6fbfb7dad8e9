"""Lockstep with neural nodes: equal bytes with one and two threads, in one process and in many."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from perception.cli.main import main
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.messages import Detections3D, Header, Image, PointCloud, SegmentationMask, host
from perception.messages.codec import encode
from perception.runtime.launch_file.files import CALIBRATION
from perception.runtime.recorded_files import calibration_files

MS = 1_000_000


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive of two sweeps and two pictures of noise: every path through a network is taken, nothing is saturated."""
    path = tmp_path_factory.mktemp("noise") / "noise.mcap"
    rig = {file.name: file.read_bytes() for file in (CALIBRATION / "simulated_car").glob("*.yaml")}
    random = np.random.default_rng(0)
    with McapWriter(path, calibration_files(rig)) as writer:
        for k in range(2):
            t_ns = 1_700_000_000_000 * MS + 100 * MS * k
            xyz = random.uniform((-30, -30, -1.8), (30, 30, 1), (2000, 3)).astype(np.float32)
            sweep = PointCloud(
                header=Header(frame_id="lidar", t_sensor_ns=t_ns, seq=k), xyz_m=xyz,
                intensity=random.random(len(xyz), dtype=np.float32),
            )  # fmt: skip
            picture = Image(
                header=Header(frame_id="cam_front_optical", t_sensor_ns=t_ns + 20 * MS, seq=k), encoding="rgb8",
                height_px=240, width_px=320, data=random.integers(0, 256, (240, 320, 3), np.uint8),
            )  # fmt: skip
            for topic, message in (("lidar/points", sweep), ("cam_front/image", picture)):
                writer.write(topic, encode(message).to_bytes(), message.header.t_sensor_ns)
    return path


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return int(ended.value.code or 0)


def test_two_networks_give_equal_bytes_with_one_and_two_threads_inline_and_on_processes(
    noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings = [f"endpoint=ipc://{tmp_path}/out.ipc", f"name=equal_{os.getpid()}"]
    # torch needs no engine to be built, and rounds by its number of threads
    settings += [f"nodes.{node}.settings.engine=torch" for node in ("segmenter", "detector")]
    settings.append("nodes.detector.settings.score_min=0")
    settings += [f"nodes.{node}.process=log" for node in ("fuser", "tracker", "ground")]  # two processes are many
    runs = []
    for runner, threads in product(("inline", "ray"), (1, 2)):
        runs.append(tmp_path / f"{runner}_{threads}.mcap")
        sets = [*settings, *(f"nodes.{node}.threads={threads}" for node in ("segmenter", "detector"))]
        arguments: list[str | Path] = [
            "--replay",
            noise,
            "--mode",
            "lockstep",
            "--runner",
            runner,
            "--record",
            runs[-1],
            "--plain",
        ]
        assert run("launch", "replay.yaml", *arguments, *(part for text in sets for part in ("--set", text))) == 0
    messages = [message for _, message in open_log(runs[0]).messages()]
    assert sum(isinstance(message, SegmentationMask) for message in messages) == 2
    boxes = [message for message in messages if isinstance(message, Detections3D)]
    assert len(boxes) == 2
    assert all(len(host(message.score)) > 0 for message in boxes)
    capsys.readouterr()
    for other in runs[1:]:
        assert run("log", "compare", runs[0], other) == 0, capsys.readouterr().out
