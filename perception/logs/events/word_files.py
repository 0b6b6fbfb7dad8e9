"""Recognise files of words by their first bytes: Prophesee RAW and DAT, AEDAT-1 and -2, Event Stream, N-MNIST."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.logs.events.address_words import Dat, Dat1, DatTriggers, Davis, Dvs128, Dvs128Short, Nmnist
from perception.logs.events.decoder import Decoder
from perception.logs.events.event_stream import AtisStream, EventStream
from perception.logs.events.prophesee_words import Evt2, Evt3, Evt21, Evt21Legacy
from perception.logs.events.reader import LARGEST, WordReader

VGA, HD = (480, 640), (720, 1280)
_GENERATIONS = {
    "gen31": VGA, "gen3": VGA, "gen41": HD, "gen42": HD, "gen4": HD, "imx636": HD, "imx637": HD, "imx646": HD,
    "genx320": (320, 320),
}  # fmt: skip
_SYSTEMS: dict[int, tuple[str, tuple[int, int]]] = {
    **dict.fromkeys((0x15, 0x17, 0x19, 0x1C, 0x1D, 0x21, 0x22, 0x23, 0x29), ("2", VGA)),
    **dict.fromkeys((0x1A, 0x1F, 0x27), ("2", HD)),
    0x28: ("3", VGA),
    **dict.fromkeys((0x1E, 0x2E, 0x30, 0x31, 0x32), ("3", HD)),
}
"""Encoding and size by `system_ID`, for RAW files that tell neither (openeb, psee_raw_file_header.cpp)."""
_DAT_EVENTS, _DAT_TRIGGERS, _DAT_SIZE = (0, 12), 14, (1 << 14, 1 << 14)
LEAST_NMNIST_ROWS = 10
"""Fewer rows could be anything: the first letters of another format's signature, for example."""
_TEXT = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\r?\n?")


def word_reader(head: bytes, path: Path) -> WordReader | None:
    """Return a reader of a file by its first bytes, None where it is no file of words.

    Raises:
        LogError: it is one, of a version or kind that is not known.
    """
    if head.startswith(b"Event Stream"):
        return _event_stream(head, path)
    if head.startswith((b"#!AER-DAT1.0", b"#!AER-DAT2.0")):
        return _aedat(head, path)
    if head.startswith(b"#!AER-DAT") and not head.startswith(b"#!AER-DAT4"):
        raise LogError(f"{path}: {head[2:12].decode('latin-1')}; expected AEDAT 1.0, 2.0 or 4.0")
    if head.startswith(b"% "):
        return _prophesee(head, path)
    if _looks_like_nmnist(head):
        rows = np.frombuffer(head[: len(head) // 5 * 5], np.uint8).reshape(-1, 5)
        small = rows[:, 0].max() < 34 and rows[rows[:, 1] != 240, 1].max(initial=0) < 34
        size = (34, 34) if small else (180, 240)
        reader = WordReader("nmnist", path, 0, Nmnist, size)
        reader.notes.append(f"recognised by its first events; the size {size[1]} x {size[0]} is the data set's")
        return reader
    return None


def _event_stream(head: bytes, path: Path) -> WordReader:
    if len(head) < 20:
        raise LogError(f"{path}: an Event Stream of {len(head)} bytes; its header alone has 20")
    version, kind = head[12:15], head[15]
    if version[0] != 2:
        raise LogError(f"{path}: Event Stream of version {'.'.join(map(str, version))}; expected 2.x.x")
    kinds: dict[int, type[Decoder]] = {1: EventStream, 2: AtisStream}
    if kind not in kinds:
        raise LogError(f"{path}: Event Stream of type {kind}; expected 1 (dvs) or 2 (atis)")
    width, height = np.frombuffer(head[16:20], "<u2").tolist()
    return WordReader("event_stream", path, 20, kinds[kind], (height, width))


def _aedat(head: bytes, path: Path) -> WordReader:
    offset, comments = _comments(path)
    if head.startswith(b"#!AER-DAT1"):
        return WordReader("aedat1", path, offset, Dvs128Short, (128, 128))
    chip = re.search(rb"^#\s*AEChip:\s*(\S+)", comments, re.MULTILINE)
    name = (chip.group(1) if chip else comments).decode("latin-1").lower()
    if "davis346" in name or "davis640" in name or "davis" in name or "sbret" in name:
        size = (260, 346) if "346" in name else (480, 640) if "640" in name else (180, 240)
        return WordReader("aedat2", path, offset, Davis, size)
    if "dvs128" in name or "tmpdiff128" in name:
        return WordReader("aedat2", path, offset, Dvs128, (128, 128))
    with path.open("rb") as file:
        file.seek(offset)
        addresses = np.frombuffer(file.read(1 << 16)[: 1 << 16] or b"", np.uint8)
    addresses = addresses[: len(addresses) // 8 * 8].view(">u4")[::2]
    small = len(addresses) > 0 and bool((addresses < 1 << 16).all())
    reader = WordReader("aedat2", path, offset, *((Dvs128, (128, 128)) if small else (Davis, (180, 240))))
    reader.notes.append(f"the file does not name its camera; by its addresses a {'DVS128' if small else 'DAVIS240'}")
    return reader


def _comments(path: Path) -> tuple[int, bytes]:
    """Return where the lines that begin with # end, and the first of them; they may be hundreds of kilobytes."""
    first = b""
    with path.open("rb") as file:
        offset = 0
        for line in file:
            # An address may begin with the byte of #: a line of the header is text.
            if not line.startswith(b"#") or not line.endswith(b"\n") or _TEXT.fullmatch(line) is None:
                break
            offset += len(line)
            first += line if len(first) < 1 << 16 else b""
            if line.lower().startswith(b"#end of ascii header"):
                break
    return offset, first


def _prophesee(head: bytes, path: Path) -> WordReader:
    offset = _header_end(head)
    text = head[:offset].decode("latin-1")
    system = re.search(r"^% *system_ID (\d+)", text, re.MULTILINE)
    known = _SYSTEMS.get(int(system.group(1))) if system else None
    size = _size_of(text) or (known[1] if known else None)
    version = re.search(r"^% *(?:evt|format) +(?:EVT)?([0-9.]+)", text, re.MULTILINE | re.IGNORECASE)
    number = version.group(1).replace(".0", "").replace(".", "") if version else ""
    if not version:
        if re.search(r"^% *(?:evt|format)\b", text, re.MULTILINE | re.IGNORECASE):
            raise LogError(f"{path}: {_line(text, 'evt|format')}; expected EVT2, EVT2.1 or EVT3")
        if "system_ID" not in text:
            return _dat(head, offset, text, path, size)
        number = known[0] if known else ""
    body = head[offset:]
    decoders: dict[str, type[Decoder]] = {"2": Evt2, "21": _evt21_kind(text, body), "3": Evt3}
    if number not in decoders:
        what = version.group(0) if version else "no encoding, and a system_ID that is not known"
        raise LogError(f"{path}: {what}; expected EVT2, EVT2.1 or EVT3")
    reader = WordReader(f"prophesee_evt{number}", path, offset, decoders[number], size or (LARGEST, LARGEST))
    if not version:
        reader.notes.append(f"the file does not tell its encoding; that of its system_ID is taken, EVT{number}")
    if size is None:
        reader.notes.append(f"the file does not tell the size of the sensor; {reader.size} is taken")
    return reader


def _dat(head: bytes, offset: int, text: str, path: Path, size: tuple[int, int] | None) -> WordReader:
    if offset + 2 > len(head):
        raise LogError(f"{path}: ends before its first event")
    kind, event_bytes = head[offset], head[offset + 1]
    if event_bytes != 8 or kind not in (*_DAT_EVENTS, _DAT_TRIGGERS):
        raise LogError(
            f"{path}: neither the encoding of a RAW file, nor a DAT file of events (types 0 and 12) or triggers (14), "
            f"8 bytes each: type {kind} of {event_bytes} bytes"
        )
    version = re.search(r"^% *Version (\d+)", text, re.MULTILINE | re.IGNORECASE)
    old = version is not None and int(version.group(1)) < 2
    decoder: type[Decoder] = DatTriggers if kind == _DAT_TRIGGERS else Dat1 if old else Dat
    reader = WordReader("prophesee_dat", path, offset + 2, decoder, size or ((240, 304) if old else _DAT_SIZE))
    if size is None:
        reader.notes.append(f"the file does not tell the size of the sensor; {reader.size} is taken")
    return reader


def _header_end(head: bytes) -> int:
    """Return where the lines that begin with "% " end; in RAW files the last one is "% end"."""
    offset = 0
    while head[offset : offset + 2] in (b"% ", b"%\n", b"%\r"):
        end = head.find(b"\n", offset)
        if end < 0:
            return len(head)
        line, offset = head[offset : end + 1], end + 1
        if line.split() == [b"%", b"end"]:
            break
    return offset


def _size_of(text: str) -> tuple[int, int] | None:
    """Return rows and columns that a Prophesee header tells."""
    geometry = re.search(r"geometry[: ]+(\d+)x(\d+)", text, re.IGNORECASE)
    if geometry:
        return int(geometry.group(2)), int(geometry.group(1))
    width = re.search(r"width[= ]+(\d+)", text, re.IGNORECASE)
    height = re.search(r"height[= ]+(\d+)", text, re.IGNORECASE)
    if width and height:
        return int(height.group(1)), int(width.group(1))
    for name, size in _GENERATIONS.items():
        if re.search(rf"{name}(?!\d)", text, re.IGNORECASE):
            return size
    return None


def _evt21_kind(text: str, body: bytes) -> type[Decoder]:
    """Tell the two orders of EVT2.1's halves apart: by the header, or by which half holds types of words."""
    told = re.search(r"endianness[= ]+(\w+)", text, re.IGNORECASE)
    if told:
        return Evt21Legacy if told.group(1).lower() == "legacy" else Evt21
    halves = np.frombuffer(body[: len(body) // 8 * 8], "<u4").reshape(-1, 2)
    return Evt21Legacy if _time_words(halves[:, 0]) > _time_words(halves[:, 1]) else Evt21


def _time_words(upper: NDArray[np.uint32]) -> int:
    """Count pairs of time words in a row that follow each other closely."""
    high = (upper[upper >> 28 == 0x8] & 0xFFFFFFF).astype(np.int64)
    step = np.diff(high)
    return int(((step >= 0) & (step <= 64)).sum())


def _line(text: str, names: str) -> str:
    found = re.search(rf"^% *(?:{names})\b.*$", text, re.MULTILINE | re.IGNORECASE)
    return found.group(0).strip() if found else ""


def _looks_like_nmnist(head: bytes) -> bool:
    """Columns and rows of a small sensor, and times that rise: no other file of five-byte rows looks like this."""
    rows = np.frombuffer(head[: len(head) // 5 * 5], np.uint8).reshape(-1, 5)
    if len(rows) < LEAST_NMNIST_ROWS or (rows[:, 0] >= 240).any() or ((rows[:, 1] >= 180) & (rows[:, 1] != 240)).any():
        return False
    t = (rows[:, 2].astype(np.int64) & 0x7F) << 16 | rows[:, 3].astype(np.int64) << 8 | rows[:, 4]
    step = np.diff(t)
    return bool(((step >= 0) & (step < 1 << 20)).mean() > 0.98) and bool(t.max() > t.min())


__all__ = ["word_reader"]
