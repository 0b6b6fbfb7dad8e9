"""stub."""


def time_offset() -> None:
    """Stub."""
