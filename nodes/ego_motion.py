"""Estimate the vehicle's motion from its speed and its turning, for `ego_motion:`.

in:  speed, an Odometry (of wheels or the vehicle's bus; its speed ahead and its turn rate count, not its pose), or a
     Gnss with an `imu` (its speed over ground, taken as ahead).
     imu, an Imu; its gyro replaces the turn rate of `speed`, its accelerometer holds roll and pitch.
out: odometry, `odom_from_base_link` and velocities, at the stamps of `imu`, else of `speed`.

Without an `imu` the motion is planar. The pose drifts as these sensors do (docs/drivers.md); what is near in time fits
well together, as deskewing and gathering sweeps need. After a pause the pose goes on from where it was and says so.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.errors import ContractError
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform, quaternion_of
from perception.messages import Gnss, Header, Imu, Message, Odometry
from perception.ops.dead_reckoning import DeadReckoning
from perception.runtime.node import Node, NodeConfig, NodeSetup, On, Out

Float = NDArray[np.float64]


class EgoMotionConfig(NodeConfig):
    """Settings of the estimate."""

    rate_hz: Annotated[float, Field(gt=0)] = 100.0
    """At most so many outputs a second; what lies between is integrated all the same."""
    gap_ms: Annotated[float, Field(gt=0)] = 500.0
    """After a longer pause of `imu`, or of `speed` without one, the way in between is not known."""
    speed_age_ms: Annotated[float, Field(gt=0)] = 1500.0
    """An older speed degrades the output."""


class EgoMotion(Node):
    """One vehicle."""

    Config = EgoMotionConfig
    speed = On[Message](keep="all", bound=100)
    imu = On[Imu](keep="all", bound=500, optional=True)
    odometry = Out[Odometry]()

    @classmethod
    def create(cls, config: EgoMotionConfig, setup: NodeSetup) -> Self:
        return cls(config, setup.rig, has_imu=bool(setup.inputs.get("imu")))

    def __init__(self, config: EgoMotionConfig | None = None, rig: Rig | None = None, *, has_imu: bool = False) -> None:
        super().__init__(config or EgoMotionConfig())
        self._rig, self._has_imu = rig, has_imu
        self._mounts: dict[str, Transform] = {}
        self.reset("start")

    def reset(self, reason: str) -> None:
        self._reckoning = DeadReckoning()
        self._last_ns: int | None = None
        self._given_ns: int | None = None
        self._speed_ns: int | None = None

    def on_speed(self, speed: Message) -> Odometry | None:
        t_ns = speed.header.t_sensor_ns
        if isinstance(speed, Odometry):
            self._reckoning.speed(t_ns * 1e-9, speed.velocity_mps[0])
        elif not isinstance(speed, Gnss):
            raise ContractError(f"'speed' of ego_motion is an Odometry or a Gnss, not a {type(speed).__name__}")
        elif not self._has_imu:
            raise ContractError("a Gnss does not tell how the vehicle turns: connect 'imu' of ego_motion, too")
        elif speed.velocity_enu_mps is None:
            raise ContractError("this Gnss tells no velocity, so it is no speed")
        else:
            self._reckoning.speed(t_ns * 1e-9, math.hypot(*speed.velocity_enu_mps[:2]))
        self._speed_ns = t_ns
        if self._has_imu or not isinstance(speed, Odometry):
            return None
        return self._moved_on(speed.header, np.array([0.0, 0.0, speed.angular_velocity_radps[2]]), None)

    def on_imu(self, imu: Imu) -> Odometry | None:
        frame = imu.header.frame_id
        if frame not in self._mounts:
            self._mounts[frame] = Transform.identity() if self._rig is None else self._rig.base_link_from(frame)
        mount = self._mounts[frame]
        turning = mount.rotate(np.array(imu.angular_velocity_radps))
        force = mount.rotate(np.array(imu.acceleration_mps2))
        # What the unit feels because it stands beside the axle, where the vehicle turns: w x (w x r).
        lever = mount.translation_m
        return self._moved_on(imu.header, turning, force - turning * (turning @ lever) + lever * (turning @ turning))

    def _moved_on(self, header: Header, turning: Float, force: Float | None) -> Odometry | None:
        t_ns, reasons = header.t_sensor_ns, list(header.degraded)
        if self._last_ns is not None and t_ns <= self._last_ns:
            return None  # twice, or overtaken on its way
        if self._last_ns is not None and t_ns - self._last_ns > self.config.gap_ms * 1e6:
            reasons.append(f"ego motion: {(t_ns - self._last_ns) / 1e9:.1f} s without a measurement")
            self._reckoning.skip()
        self._reckoning.turn(t_ns * 1e-9, turning, force)
        self._last_ns = t_ns
        if self._speed_ns is None:
            return None  # how fast it moves is not known yet
        if t_ns - self._speed_ns > self.config.speed_age_ms * 1e6:
            reasons.append(f"ego motion: the speed is {(t_ns - self._speed_ns) / 1e9:.1f} s old")
        if self._given_ns is not None and not reasons and t_ns - self._given_ns < 0.99e9 / self.config.rate_hz:
            return None
        self._given_ns = t_ns
        return self._message(header, tuple(reasons))

    def _message(self, header: Header, degraded: tuple[str, ...]) -> Odometry:
        reckoning = self._reckoning
        pose = Transform(reckoning.pose[:3, 3], quaternion_of(reckoning.pose[:3, :3]))
        (x, y, z), (qx, qy, qz, qw) = pose.translation_m.tolist(), pose.rotation_xyzw.tolist()
        wx, wy, wz = reckoning.turning_radps.tolist()
        return Odometry(
            header=Header(frame_id="odom", t_sensor_ns=header.t_sensor_ns, clock=header.clock, degraded=degraded),
            translation_m=(x, y, z), rotation_xyzw=(qx, qy, qz, qw),
            velocity_mps=(reckoning.speed_mps, 0.0, 0.0), angular_velocity_radps=(wx, wy, wz),
        )  # fmt: skip


__all__ = ["EgoMotion", "EgoMotionConfig"]
