"""`perception calibrate time-offset`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception.cli.calibrate.inputs import grey_of, kind_of, now, topics_of

if TYPE_CHECKING:
    from perception.calibrate.time_offset import Signal
    from perception.messages import Message

AXES = {"x": 0, "y": 1, "z": 2}


def time_offset(
    source: Annotated[str, typer.Argument(help="A log in which the rig turns to and fro, or a running graph.")],
    first: Annotated[str, typer.Argument(help="Topic whose stamps are to be corrected: imu, odometry, image, events.")],
    second: Annotated[str, typer.Argument(help="Topic of the reference.")],
    out: Annotated[Path, typer.Option(help="The calibration file to write.")],
    axis: Annotated[
        str, typer.Option(help="Of angular rates: x, y, z, or size for the length of the vector.")
    ] = "size",
    largest_ms: Annotated[float, typer.Option(min=10, max=5000, help="Offsets up to this are looked for.")] = 500.0,
    seconds: Annotated[float, typer.Option(min=3, help="How long to listen to a running graph.")] = 30.0,
    report: Annotated[Path | None, typer.Option(help="The HTML report; by default beside the file.")] = None,
) -> None:
    """How far two sensors' stamps are apart: perception calibrate time-offset LOG cam/image imu/imu --out offset.yaml.

    Of inertial units and odometry the angular rate is compared, of cameras how far pictures move to the side, of event
    cameras how many events there are.
    """
    from perception.calibrate.calibration_file import extrinsics_file, write_calibration
    from perception.calibrate.report import Report, curve
    from perception.calibrate.time_offset import complaints_of_offset, find_offset
    from perception.errors import UserError
    from perception.geometry.rig_file import CalibrationRecord

    if axis not in (*AXES, "size"):
        raise UserError(f"--axis {axis}: expected x, y, z or size")
    kinds = {topic: kind_of(source, topic) for topic in (first, second)}
    taken: dict[str, list[Any]] = {topic: [] for topic in kinds}
    for topic, message in topics_of(source, kinds, seconds=seconds):
        taken[topic].append(_sample(source, topic, message, axis))
    one, other = (_signal(topic, kinds[topic], taken[topic], axis) for topic in (first, second))
    result = find_offset(one, other, largest_ms)
    complaints = complaints_of_offset(result)
    record = CalibrationRecord(
        method="correlation of motion", date=now(), source=f"{source}: {first}, {second}",
        views=min(len(one.t_ns), len(other.t_ns)),
        residual={"correlation": round(result.correlation, 4)},
        uncertainty={"offset_ms": round(result.deviation_ms, 3)}, complaints=tuple(complaints), content_hash="",
    )  # fmt: skip
    file = extrinsics_file({}, record, {first: round(result.offset_ms, 3)})
    write_calibration(out, file, f"offset_ms of the input '{first}' in a launch file; reference {second}.")
    page = Report("Time offset of two sensors", {
        "offset": f"{result.offset_ms:+.2f} ms, added to the stamps of {first}",
        "uncertainty": f"{result.deviation_ms:.2f} ms", "correlation": f"{result.correlation:.3f}",
        "next best": f"{result.runner_up:.3f}", "date": record.date, "hash": file.record.content_hash,
    }, complaints)  # fmt: skip
    page.section("Correlation by offset")
    page.figure(curve(result.lags_ms, result.curve, result.offset_ms, "ms"), "the peak is the offset")
    page.write(report or out.with_suffix(".html"))
    print(f"{out}: add {result.offset_ms:+.2f} ms to '{first}' (certain to {result.deviation_ms:.2f} ms, correlation "
          f"{result.correlation:.2f})")  # fmt: skip
    for complaint in complaints:
        print(f"  poor: {complaint}")


def _sample(source: str, topic: str, message: Any, axis: str) -> tuple[int, Any]:
    """Return the stamp of a message and what it tells of the motion. Raises UserError for a kind that tells nothing."""
    import numpy as np

    from perception.errors import UserError
    from perception.messages import EventPacket, Image, Imu, Odometry, host

    t_ns = message.header.t_sensor_ns
    if isinstance(message, Imu | Odometry):
        rate = np.array(message.angular_velocity_radps)
        return t_ns, np.linalg.norm(rate) if axis == "size" else rate[AXES[axis]]
    if isinstance(message, Image):
        return t_ns, grey_of(message).mean(axis=0, dtype=np.float64)
    if isinstance(message, EventPacket):
        return t_ns, len(host(message.t_ns))
    kind = type(message).__name__
    raise UserError(f"{source}: '{topic}' carries {kind}; expected Imu, Odometry, Image or EventPacket")


def _signal(topic: str, kind: type[Message], taken: list[tuple[int, Any]], axis: str) -> Signal:
    import numpy as np

    from perception.calibrate.time_offset import Signal, picture_motion
    from perception.messages import EventPacket, Image

    stamps, values = np.array([t_ns for t_ns, _ in taken], np.int64), [value for _, value in taken]
    if kind is Image and len(values) > 1:
        motion = picture_motion(stamps, np.stack(values))
        return Signal(topic, stamps, np.abs(motion) if axis == "size" else motion)
    if kind is EventPacket and len(values) > 1:  # a packet's stamp is its end
        period = np.diff(stamps, prepend=stamps[0] - (stamps[1] - stamps[0]))
        return Signal(topic, stamps - period // 2, np.array(values) / np.maximum(period, 1))
    return Signal(topic, stamps, np.array(values, np.float64))


__all__ = ["time_offset"]
