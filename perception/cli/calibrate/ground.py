"""stub."""


def ground() -> None:
    """Stub."""
