"""stub."""


def camera_lidar() -> None:
    """Stub."""
