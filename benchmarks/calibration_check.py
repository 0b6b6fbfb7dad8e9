"""What `perception calibrate check` finds and misses, on simulated drives that it was not made with.

python -m perception.benchmarks.calibration_check --seeds 101 102 103

Every sensor of the rig that the check watches is bumped, one axis at a time: by a degree, or by five centimetres, in
the rig that is checked, the drive being what it is. A bump is found where its sensor is named, in doubt where it is
named as one of those that may have moved, told where the check says that this recording does not show that axis, and
missed otherwise. What else is named is a false alarm.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import perception
from perception.calibrate.bump.estimate import BUMP, displaced
from perception.calibrate.bump.findings import AXES, Finding
from perception.calibrate.bump.recording import Recording, recording_of
from perception.calibrate.bump.rig_check import RigCheck
from perception.cli.calibrate.inputs import grey_of
from perception.geometry.frames import FrameTree
from perception.geometry.rig import Rig, load_rig
from perception.simulation.drive import Drive
from perception.simulation.motion import Motion

RIG = Path(perception.__file__).parent / "share" / "calibration" / "simulated_car"
LIDAR, EGO = "lidar", "ego"
CAMERAS = ("cam_front", "cam_rear", "cam_left", "cam_right")
OUTCOMES = ("found", "in doubt", "told", "missed")


def driven(rig: Rig, seed: int, weather: str, seconds: float, speed_mps: float) -> Recording:
    """Return what the check looks at of a simulated drive."""
    drive = Drive(rig, seed, 0, Motion(speed_mps=speed_mps), weather=weather, sensors=(LIDAR, EGO, *CAMERAS),
                  with_truth=False)  # fmt: skip
    return recording_of(drive.messages(seconds), LIDAR, EGO, CAMERAS, grey_of)


def bumped(rig: Rig, sensor: str, axis: int, sign: int) -> Rig:
    """Return a rig in which a sensor is not where it says: it was turned or displaced along an axis of `base_link`."""
    frame = rig.sensor(sensor).frame
    parent = rig.base_link_from(rig.frames.parents[frame])
    place = displaced(rig.base_link_from(frame), sign * BUMP * np.eye(6)[axis])
    return replace(
        rig, frames=FrameTree(rig.frames.parents, {**rig.frames.transforms, frame: parent.inverse() @ place})
    )


class Tally:
    """Counts of outcomes, and lines about what went wrong."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.alarms = self.rigs = 0

    def unchanged(self, drive: str, findings: Sequence[Finding]) -> None:
        """Count a rig that is as it says."""
        self.rigs += 1
        self.false_alarms(f"{drive}, nothing bumped", [finding for finding in findings if finding.state == "moved"])

    def bump(self, drive: str, sensor: str, axis: int, sign: int, findings: Sequence[Finding]) -> None:
        """Count a rig of which one sensor was bumped."""
        self.rigs += 1
        own = next(finding for finding in findings if finding.sensor == sensor)
        others = [finding for finding in findings if finding.state == "moved" and finding.sensor != sensor]
        doubted = [finding for finding in others if sensor in finding.rivals]
        seen = "found" if own.state == "moved" else "in doubt" if doubted else ""
        outcome = seen or ("told" if AXES[axis] in own.blind else "missed")
        self.counts[sensor, AXES[axis], outcome] += 1
        what = f"{drive}, {sensor} {'-+'[sign > 0]}{AXES[axis]}"
        print(f"  {outcome}: {what}{f': {own.text()}' if outcome == 'missed' else ''}", flush=True)
        self.false_alarms(what, [other for other in others if other not in doubted])

    def false_alarms(self, what: str, findings: Sequence[Finding]) -> None:
        """Count and print what is named without reason."""
        self.alarms += len(findings)
        for finding in findings:
            print(f"  false alarm: {what}: {finding.text()}", flush=True)

    def print(self) -> None:
        """Print the table."""
        sensors = list(dict.fromkeys(sensor for sensor, _, _ in self.counts))
        print(
            f"\nfound / in doubt with another / told that it is not observable / missed\n{'':<12}"
            + "".join(f"{axis:>12}" for axis in AXES)
        )
        for sensor in sensors:
            cells = ["/".join(str(self.counts[sensor, axis, outcome]) for outcome in OUTCOMES) for axis in AXES]
            print(f"{sensor:<12}" + "".join(f"{cell:>12}" for cell in cells))
        sums = [sum(n for (_, _, of), n in self.counts.items() if of == outcome) for outcome in OUTCOMES]
        print(f"\n{sums[0]} found, {sums[1]} in doubt, {sums[2]} told, {sums[3]} missed; {self.alarms} false alarms "
              f"in {self.rigs} checks")  # fmt: skip


def main(
    seeds: Sequence[int], weathers: Sequence[str], sensors: Sequence[str], seconds: float, speed_mps: float
) -> None:
    """Print outcomes as they come, and the table.

    A drive is simulated once: a bumped sensor is a changed calibration. What does not depend on the bump (the points of
    an unchanged LiDAR, its outlines, smoothed pictures, the other cameras) is worked out once, too.
    """
    rig, tally = load_rig(RIG), Tally()
    for weather in weathers:
        for seed in seeds:
            start_s, drive = time.perf_counter(), f"{weather} {seed}"
            check = RigCheck(driven(rig, seed, weather, seconds, speed_mps))
            print(f"{drive} ({time.perf_counter() - start_s:.0f} s to drive)", flush=True)
            unchanged = check.findings(rig)
            for finding in unchanged:
                print(f"  {finding.text()}")
            tally.unchanged(drive, unchanged)
            for number, sensor in enumerate(sensors):
                for axis in range(len(AXES)):
                    sign = 1 if (seed + number + axis) % 2 else -1
                    tally.bump(drive, sensor, axis, sign, check.findings(bumped(rig, sensor, axis, sign)))
            print(f"  {time.perf_counter() - start_s:.0f} s", flush=True)
    tally.print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--weathers", nargs="+", default=["day", "dusk", "rain"])
    parser.add_argument("--sensors", nargs="+", default=[*CAMERAS, LIDAR], choices=[*CAMERAS, LIDAR], help="to bump")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--speed", type=float, default=8.0, help="m/s")
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.weathers, arguments.sensors, arguments.seconds, arguments.speed)
