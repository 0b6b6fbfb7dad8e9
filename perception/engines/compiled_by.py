"""Let somebody else compile the parts of a node that is being made: to build, to count, to watch shapes.

with compiled_by(function):
    node = make_node(spec, graph)  # its `compile_parts` is `function`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from perception.engines.choose import EngineSettings
    from perception.engines.engine import Engine
    from perception.networks.part import Part

CompileParts: TypeAlias = "Callable[[Mapping[str, Part], EngineSettings], dict[str, Engine]]"

_current: ContextVar[CompileParts | None] = ContextVar("compiled_by", default=None)


@contextmanager
def compiled_by(function: CompileParts) -> Iterator[None]:
    """Have `choose.compile_parts` and `compile_part` call `function` with the parts and the settings of the node."""
    token = _current.set(function)
    try:
        yield
    finally:
        _current.reset(token)


def is_compiled_by_another() -> bool:
    """Whether there is such a function."""
    return _current.get() is not None


def by_another(parts: Mapping[str, Part], settings: EngineSettings) -> dict[str, Engine] | None:
    """Return what the function makes of the parts, None without one; it may itself call what it stands in for."""
    function = _current.get()
    if function is None:
        return None
    token = _current.set(None)
    try:
        return function(parts, settings)
    finally:
        _current.reset(token)
