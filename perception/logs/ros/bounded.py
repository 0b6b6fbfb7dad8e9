"""A bound on what compressed bags may unfold to: rosbags itself has none, and a few kilobytes could fill the memory.

rosbags keeps its decompressors in tables of its modules; they are replaced by ones that stop. A bag that is compressed
as a file is unpacked to the disk, so its size is counted before.
"""

from __future__ import annotations

import bz2
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import zstandard

from perception.errors import LogError

MAX_BYTES = 1 << 30
"""Of one chunk, and of one message that is compressed on its own."""
_PIECE = 1 << 20


def bound_decompressors() -> None:
    """Let rosbags refuse what unfolds to more than `MAX_BYTES`."""
    from rosbags.rosbag1 import reader as first
    from rosbags.rosbag2 import reader as second
    from rosbags.rosbag2 import storage_mcap

    first.decompressors.update({"bz2": unpacked_bz2, "lz4": unpacked_lz4})
    storage_mcap.DECOMPRESSORS.update({"lz4": _sized(unpacked_lz4), "zstd": _sized(unpacked_zstd)})
    second.zstd = _Zstd(second.zstd)


class _Zstd:
    """The module of Zstandard as rosbags uses it, with a bound."""

    def __init__(self, module: Any) -> None:
        self._module = module.module if isinstance(module, _Zstd) else module

    @property
    def module(self) -> Any:
        return self._module

    def __getattr__(self, name: str) -> Any:
        return unpacked_zstd if name == "decompress" else getattr(self._module, name)


def _sized(decompress: Callable[[bytes], bytes]) -> Callable[[bytes, int], bytes]:
    return lambda data, size: decompress(data)


def unpacked_bz2(data: bytes) -> bytes:
    """Unpack a chunk. Raises LogError where it is larger than any."""
    return _checked(bz2.BZ2Decompressor().decompress(data, MAX_BYTES + 1))


def unpacked_lz4(data: bytes) -> bytes:
    """Unpack a chunk. Raises LogError where it is larger than any."""
    return _checked(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=MAX_BYTES + 1))


def unpacked_zstd(data: bytes) -> bytes:
    """Unpack a chunk or message, piece by piece. Raises LogError where it is larger than any."""
    reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    pieces: list[bytes] = []
    total = 0
    while piece := reader.read(_PIECE):
        pieces.append(piece)
        total += len(piece)
        if total > MAX_BYTES:
            break
    return _checked(b"".join(pieces))


def _checked(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise LogError(f"a chunk unfolds to more than {MAX_BYTES >> 20} MiB")
    return data


def check_fits_the_disk(bag: Path) -> None:
    """Refuse a bag that is compressed as a file where half of the disk's free space does not hold it.

    Raises:
        LogError: it is larger.
    """
    room = shutil.disk_usage(tempfile.gettempdir()).free // 2
    for file in sorted(bag.glob("*.zstd")) if bag.is_dir() else ():
        try:
            with file.open("rb") as stream:
                reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
                while piece := reader.read(_PIECE):
                    room -= len(piece)
                    if room < 0:
                        raise LogError(f"{file}: unpacked, it does not fit on the disk of {tempfile.gettempdir()}")
        except (OSError, zstandard.ZstdError) as error:
            raise LogError(f"{file}: not a whole compressed bag: {error}") from None


__all__ = ["MAX_BYTES", "bound_decompressors", "check_fits_the_disk", "unpacked_bz2", "unpacked_lz4", "unpacked_zstd"]
