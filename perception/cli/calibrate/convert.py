"""stub."""


def convert() -> None:
    """Stub."""
