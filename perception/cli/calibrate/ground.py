"""`perception calibrate ground`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception.cli.calibrate.inputs import messages, now


def ground(
    source: Annotated[str, typer.Argument(help="A log, or the endpoint of a running graph.")],
    topic: Annotated[str, typer.Option(help="The topic of the sweeps.")],
    out: Annotated[Path, typer.Option(help="The calibration file to write.")],
    place: Annotated[str, typer.Option(help="x,y,yaw of the sensor in base_link, metres and degrees.")] = "0,0,0",
    sweeps: Annotated[int, typer.Option(min=1, help="How many sweeps are looked at.")] = 40,
    seconds: Annotated[float, typer.Option(min=1, help="How long to listen to a running graph.")] = 10.0,
    report: Annotated[Path | None, typer.Option(help="The HTML report; by default beside the file.")] = None,
) -> None:
    """Height, roll and pitch of a LiDAR: perception calibrate ground drive.mcap --topic lidar/points --out lidar.yaml.

    Stand or drive slowly on a flat, open place. x, y and yaw are not told by the ground: give them with --place.
    """
    import numpy as np

    from perception.calibrate.calibration_file import extrinsics_file, write_calibration
    from perception.calibrate.ground import calibrate_ground, complaints_of_ground
    from perception.calibrate.report import Report, curve
    from perception.errors import UserError
    from perception.geometry.rig_file import CalibrationRecord
    from perception.messages import PointCloud, host

    try:
        x, y, yaw = (float(word) for word in place.split(","))
    except ValueError:
        raise UserError(f"--place {place}: expected x,y,yaw such as 1.2,0,0") from None
    found = messages(source, topic, PointCloud, seconds=seconds)
    clouds = [host(message.xyz_m).astype(np.float64) for message in found]
    step = max(1, len(clouds) // sweeps)
    result = calibrate_ground(clouds[::step][:sweeps], np.radians(yaw), x, y)
    complaints = complaints_of_ground(result)
    record = CalibrationRecord(
        method="plane through the ground of sweeps", date=now(), source=f"{source} {topic}", views=len(result.planes),
        residual={"rms_m": round(result.rms_m, 4)}, coverage={"ground": round(result.share, 3)},
        uncertainty={"height_m": round(result.height_std_m, 4), "tilt_rad": round(result.tilt_std_rad, 5)},
        complaints=tuple(complaints), content_hash="",
    )  # fmt: skip
    name = topic.partition("/")[0]
    file = extrinsics_file({f"base_link_from_{name}": result.base_link_from_lidar}, record)
    write_calibration(out, file, "Height, roll and pitch by perception calibrate ground; x, y and yaw as given.")
    roll, pitch = np.degrees(result.roll_rad), np.degrees(result.pitch_rad)
    page = Report("Ground plane of a LiDAR", {
        "height": f"{result.height_m:.3f} m", "roll": f"{roll:.3f} degrees", "pitch": f"{pitch:.3f} degrees",
        "residual": f"{result.rms_m * 100:.2f} cm rms", "ground": f"{result.share:.0%} of the near points",
        "sweeps": str(len(result.planes)), "date": record.date, "hash": file.record.content_hash,
    }, complaints)  # fmt: skip
    page.section("From sweep to sweep")
    number = np.arange(len(result.planes)).astype(np.float64)
    page.figure(curve(number, result.planes[:, 3], None, ""), "height, metres, by sweep")
    page.write(report or out.with_suffix(".html"))
    print(f"{out}: {name} is {result.height_m:.3f} m above the ground, roll {roll:+.2f}, pitch {pitch:+.2f} degrees")
    for complaint in complaints:
        print(f"  poor: {complaint}")


__all__ = ["ground"]
