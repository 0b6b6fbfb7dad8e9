"""stub."""


def event() -> None:
    """Stub."""
