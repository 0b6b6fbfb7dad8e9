"""The version of this package; a file of its own so that lower layers can name it."""

from __future__ import annotations

__version__ = "0.1.0"
