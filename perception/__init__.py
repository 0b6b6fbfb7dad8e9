"""Streaming perception for vehicles and edge boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perception.version import __version__

if TYPE_CHECKING:
    from perception.runtime.subscriber import subscribe

__all__ = ["__version__", "subscribe"]


def __getattr__(name: str) -> Any:
    """Load `subscribe` when it is first asked for, so that `import perception` needs no zmq."""
    if name == "subscribe":
        from perception.runtime.subscriber import subscribe

        return subscribe
    raise AttributeError(f"module 'perception' has no attribute '{name}'")
