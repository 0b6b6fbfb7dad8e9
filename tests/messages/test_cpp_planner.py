"""The planner in C++, built with ZeroMQ's and MessagePack's libraries alone, reads what a graph publishes."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from perception.messages import FusedObject, GraphState, Header, ObjectClass, TrackedObjects
from perception.messages.codec import encode
from perception.runtime.publisher import Publisher

SOURCE = Path(__file__).parents[2] / "examples" / "planner.cpp"


@pytest.fixture
def planner(tmp_path: Path) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    headers = "#include <msgpack.hpp>\n#include <zmq.hpp>\n"
    options = [compiler, "-std=c++17", "-DMSGPACK_NO_BOOST"]
    if subprocess.run([*options, "-fsyntax-only", "-x", "c++", "-"], input=headers.encode(), capture_output=True,
                      check=False).returncode:  # fmt: skip
        pytest.skip("no msgpack-cxx and cppzmq; apt install libmsgpack-cxx-dev cppzmq-dev")
    made = tmp_path / "planner"
    subprocess.run([*options, "-Wall", "-Werror", str(SOURCE), "-lzmq", "-o", str(made)], check=True)
    return made


def test_the_cpp_planner_reads_objects_and_the_state(planner: Path, tmp_path: Path) -> None:
    publisher = Publisher(f"ipc://{tmp_path}/cpp.ipc")
    car = FusedObject(
        id=(1 << 62) + 5, existence_probability=0.9, classes=(ObjectClass("car", 1.0),), center_m=(12.5, -3.0, 0.8),
        rotation_xyzw=(0.0, 0.0, 0.0, 1.0), size_lwh_m=(4.0, 1.8, 1.5), velocity_mps=(7.5, 0, 0), has_velocity=True,
        covariance_pose=(0.25, *(0,) * 20),
    )  # fmt: skip
    objects = TrackedObjects(header=Header(frame_id="base_link", t_sensor_ns=1_000), objects=(car,))
    state = GraphState(
        header=Header(frame_id="", t_sensor_ns=1_000), state="degraded", reasons=("r",), sensors={}, nodes={}
    )
    reading = threading.Event()

    def publish() -> None:
        while not reading.is_set():
            publisher.publish("state", encode(state).to_bytes())
            publisher.publish("objects", encode(objects).to_bytes())
            time.sleep(0.02)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        done = subprocess.run(
            [str(planner), publisher.endpoint, "3"], capture_output=True, text=True, timeout=30, check=True
        )
    finally:
        reading.set()
        thread.join()
        publisher.close()
    assert f"{(1 << 62) + 5} car exists with 0.9 at 12.5 -3 m, 7.5 m/s ahead, variance of x 0.25 m2" in done.stdout
    assert "graph is degraded" in done.stdout
    assert not done.stderr
