"""Events as tables: `.npy` and `.npz` arrays, and text with a line per event; read in blocks.

Columns are found by their names; where there are none, by what they hold: times rise, polarities have two values. Times
are seconds where they have fractions and microseconds otherwise, unless a name says so (`t_ns`, `ts_us`, `t_s`); what
was assumed is said in the notes.
"""

from __future__ import annotations

import re
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.logs.events.decoder import CUT_OFF, OUTSIDE, Decoded
from perception.logs.events.reader import EventReader
from perception.logs.events.time_order import TimeOrder
from perception.ops.events import Events

BLOCK_ROWS = 1 << 18
MAX_TEXT_LINE = 4096
NO_EVENT = "line that is no event"
IMPOSSIBLE = "row whose numbers cannot be an event"
_NAMES = {
    "t": re.compile(r"t|ts|time|times|timestamps?|t_?(?:ns|us|ms|s|sec)|(?:ts|time|timestamps?)_?(?:ns|us|ms|s|sec)"),
    "x": re.compile(r"xs?|col(?:umn)?s?|x_?(?:px|coord\w*|pos\w*)?"),
    "y": re.compile(r"ys?|rows?|y_?(?:px|coord\w*|pos\w*)?"),
    "p": re.compile(r"p|ps|pol|pols|polarity|polarities|on|sign"),
}
_UNITS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": 1_000_000_000, "sec": 1_000_000_000}
_NUMBER = re.compile(r"[ \t]*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?[ \t]*", re.ASCII)
Block = Mapping[str, NDArray[Any]]


def columns_by_name(names: list[str]) -> dict[str, str] | None:
    """Return the given name by t, x, y and p; None where one of them is missing or there twice."""
    found: dict[str, str] = {}
    for key, pattern in _NAMES.items():
        matching = [name for name in names if pattern.fullmatch(name.strip().lower())]
        if len(matching) != 1:
            return None
        found[key] = matching[0]
    return found


def ns_per_unit(name: str, times: NDArray[Any]) -> tuple[int, str]:
    """Return nanoseconds in one unit of a time column, and why."""
    unit = re.search(r"(?:^|[a-z_])(ns|us|ms|sec)$|_(s)$", name.strip().lower())
    if unit:
        word = unit.group(1) or unit.group(2)
        return _UNITS[word], f"times in {word}, as the column's name says"
    if np.issubdtype(times.dtype, np.floating) and bool((times % 1 != 0).any()):
        return _UNITS["s"], "times taken as seconds, since they have fractions"
    return _UNITS["us"], "times taken as microseconds, since they are whole numbers"


def guess_columns(rows: NDArray[Any]) -> tuple[str, ...]:
    """Return which of four columns is which: (t, x, y, p) or (x, y, p, t), by times that rise and two polarities."""
    for order in (("t", "x", "y", "p"), ("x", "y", "p", "t"), ("x", "y", "t", "p")):
        t, p = rows[:, order.index("t")], rows[:, order.index("p")]
        if (np.diff(t) >= 0).all() and len(np.unique(p)) <= 2 and np.isin(p, (-1, 0, 1)).all():
            return order
    return ("t", "x", "y", "p")


class Table(EventReader):
    """What the three share: blocks of columns become events that are sound, ordered and inside the sensor."""

    name = "table"
    told_size: tuple[int, int] | None = None
    offset_ns = 0
    """Added to all times."""

    @abstractmethod
    def blocks(self, from_ns: int | None = None) -> Iterator[Block]:
        """Yield columns t, x, y and p of the next rows; those before `from_ns` may be left out."""

    @property
    @abstractmethod
    def unit(self) -> int:
        """Nanoseconds in one unit of time."""

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns; where the file does not tell, what its events need, by reading it once."""
        if self.told_size is not None:
            return self.told_size
        height = width = 1
        for block in self.blocks():
            sound = _possible(block)
            if sound.any():
                width = max(width, int(block["x"][sound].max()) + 1)
                height = max(height, int(block["y"][sound].max()) + 1)
        self.notes.append(f"the file does not tell the size of the sensor; its events need {width} x {height}")
        return height, width

    def pieces(self, from_ns: int | None = None) -> Iterator[Decoded]:
        height, width = self.size
        self.skipped.clear()
        order = TimeOrder()
        for block in self.blocks(from_ns):
            sound = _possible(block)
            self._count(IMPOSSIBLE, ~sound)
            t = to_ns(block["t"][sound], self.unit) + self.offset_ns
            x, y, p = (block[name][sound] for name in "xyp")
            inside = (x < width) & (y < height)
            self._count(OUTSIDE, ~inside)
            yield Decoded(order.feed(Events.of(t[inside], x[inside], y[inside], p[inside])))
        yield Decoded(order.finish())
        self.skipped.update(order.skipped)

    def _count(self, reason: str, which: NDArray[np.bool_]) -> None:
        if which.any():
            self.skipped[reason] += int(which.sum())


def _possible(block: Block) -> NDArray[np.bool_]:
    """Return where numbers are finite, and coordinates are those of a pixel."""
    sound = np.ones(len(block["t"]), bool)
    for name, top in (("t", 9.2e18), ("x", 0xFFFF), ("y", 0xFFFF), ("p", 255)):
        values = block[name]
        if values.dtype.kind not in "iufb":
            raise LogError(f"a column of events has the type {values.dtype}; expected numbers")
        low = -top if name in "tp" else 0
        sound &= (values >= low) & (values <= top)  # false for what is not a number
    return sound


def to_ns(values: NDArray[Any], unit: int) -> NDArray[np.int64]:
    """Convert times to nanoseconds, floats by rounding in extended precision."""
    if np.issubdtype(values.dtype, np.floating):
        return np.rint(values.astype(np.longdouble) * unit).astype(np.int64)
    return values.astype(np.int64) * unit


class ArrayFile(Table):
    """One array, a `.npy` file or a member of an archive: rows of a record type, or four columns."""

    name = "npy"

    def __init__(self, path: Path, member: str | None = None) -> None:
        super().__init__()
        self._path, self._member = path, member
        first = next(self._raw(), None)
        if first is None or not len(first):
            raise LogError(f"{path}: an array without events")
        if first.dtype.names:
            found = columns_by_name(list(first.dtype.names))
            if found is None:
                raise LogError(f"{path}: columns {', '.join(first.dtype.names)}; expected t, x, y and p")
            self._fields: dict[str, Any] = found
        else:
            order = guess_columns(first)
            self._fields = {key: order.index(key) for key in "txyp"}
            self.notes.append(f"columns without names, taken as {', '.join(order)}")
        self._unit, why = ns_per_unit(str(self._fields["t"]), self._column(first, "t"))
        self.notes.append(why)

    @property
    def unit(self) -> int:
        return self._unit

    def blocks(self, from_ns: int | None = None) -> Iterator[Block]:
        del from_ns
        for rows in self._raw():
            yield {name: self._column(rows, name) for name in "txyp"}

    def _column(self, rows: NDArray[Any], name: str) -> NDArray[Any]:
        place = self._fields[name]
        column: NDArray[Any] = rows[place] if isinstance(place, str) else rows[:, place]
        return column

    def _raw(self) -> Iterator[NDArray[Any]]:
        with self._opened() as file:
            array = ArrayStream(file, str(self._path))
            if array.columns not in (0, 4) or (array.columns == 0 and not array.dtype.names):
                raise LogError(f"{self._path}: an array of {array.shape}; expected rows with t, x, y and p")
            yield from array.rows()
            if array.missing:
                self.skipped[CUT_OFF] += array.missing

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self._member is None:
            with self._path.open("rb") as file:
                yield file
            return
        with archive_of(self._path) as archive, archive.open(self._member) as member:
            yield member


class ArrayArchive(Table):
    """A `.npz` archive with arrays t, x, y and p of one length."""

    name = "npz"

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        super().__init__()
        self._path, self._names = path, dict(columns)
        self._unit, why = ns_per_unit(columns["t"], next(self.blocks(), {"t": np.zeros(0)})["t"])
        self.notes.append(why)

    @property
    def unit(self) -> int:
        return self._unit

    def blocks(self, from_ns: int | None = None) -> Iterator[Block]:
        del from_ns
        with archive_of(self._path) as archive:
            files = {key: archive.open(f"{name}.npy") for key, name in self._names.items()}
            streams = {key: ArrayStream(file, f"{self._path}:{key}") for key, file in files.items()}
            lengths = {stream.shape for stream in streams.values()}
            if len(lengths) != 1 or any(stream.columns for stream in streams.values()):
                raise LogError(f"{self._path}: arrays of {sorted(lengths)}; expected four of one length")
            for columns in zip(*(stream.rows() for stream in streams.values()), strict=False):
                rows = min(map(len, columns))
                yield {key: column[:rows] for key, column in zip(streams, columns, strict=True)}


@contextmanager
def archive_of(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; what its library raises on damage becomes one clear error.

    Raises:
        LogError: it is no whole archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except LogError:
        raise
    except Exception as error:  # the library raises errors of many kinds on damage
        raise LogError(f"{path}: not a whole archive: {error}") from error


def archive_reader(path: Path) -> Table:
    """Return the reader of a `.npz` archive: four arrays by name, or its only array, or the one named events.

    Raises:
        LogError: it holds neither.
    """
    with archive_of(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    columns = columns_by_name(names)
    if columns is not None:
        return ArrayArchive(path, columns)
    whole = names if len(names) == 1 else [name for name in names if name.lower() in ("events", "event_data")]
    if len(whole) != 1:
        raise LogError(f"{path}: arrays {', '.join(names) or 'none'}; expected t, x, y and p, or one of events")
    return ArrayFile(path, f"{whole[0]}.npy")


class ArrayStream:
    """The rows of one array in numpy's file format, read in blocks.

    Raises:
        LogError: no such file, or one that holds Python objects.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file = file
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = read(file)
        except Exception as error:  # noqa: BLE001 - numpy parses the header as Python, with errors of many kinds
            raise LogError(f"{where}: not an array of numpy: {error}") from None
        if self.dtype.hasobject or len(self.shape) > 2 or (fortran and len(self.shape) == 2):
            raise LogError(f"{where}: an array of {self.dtype}, shape {self.shape}; expected rows of numbers")
        self.columns = self.shape[1] if len(self.shape) == 2 else 0
        self.missing = 0

    def rows(self) -> Iterator[NDArray[Any]]:
        """Yield arrays of at most `BLOCK_ROWS` rows; `missing` bytes tell what the file lacks or has too many."""
        row_bytes = self.dtype.itemsize * max(1, self.columns)
        left = self.shape[0] if self.shape else 0
        while left:
            data = self._file.read(min(left, BLOCK_ROWS) * row_bytes)
            whole = len(data) // row_bytes
            if whole:
                block = np.frombuffer(data[: whole * row_bytes], self.dtype)
                yield block.reshape(-1, self.columns) if self.columns else block
            if whole < min(left, BLOCK_ROWS):
                self.missing = left * row_bytes - len(data)
                return
            left -= whole


class TextFile(Table):
    """Lines of four numbers, separated by commas, semicolons or white space; # and % begin comments."""

    name = "text"

    def __init__(self, path: Path, order: tuple[str, ...], names: str, time_name: str, separator: str | None) -> None:
        super().__init__()
        self._path, self._order, self._separator = path, order, separator
        self._names = names.strip()
        """The line that names the columns; empty where there is none."""
        first = next(self.blocks(), None)
        if first is None:
            raise LogError(f"{path}: a table without events")
        self.skipped.clear()
        self._unit, why = ns_per_unit(time_name, first["t"])
        self.notes.append(why)

    @property
    def unit(self) -> int:
        return self._unit

    def blocks(self, from_ns: int | None = None) -> Iterator[Block]:
        del from_ns
        kinds = np.dtype([(name, np.longdouble if name == "t" else np.float64) for name in self._order])
        names = self._names.encode()
        with self._path.open("rb") as file:
            while lines := file.readlines(1 << 22):
                if names:
                    names, lines = b"", [line for line in lines if line.strip() != names]
                yield from self._parsed(lines, kinds)

    def _parsed(self, lines: list[bytes], kinds: np.dtype[Any]) -> Iterator[Block]:
        text = [line.decode("ascii", "replace") for line in lines if line.strip() and line[:1] not in b"#%"]
        if self._separator is not None:
            text = [line.replace(" ", "").replace("\t", "") for line in text]
        try:
            rows = np.loadtxt(text, kinds, delimiter=self._separator, ndmin=1) if text else np.empty(0, kinds)
        except ValueError:
            sound = [line for line in text if numbers(line, self._separator) is not None]
            self.skipped[NO_EVENT] += len(text) - len(sound)
            rows = np.loadtxt(sound, kinds, delimiter=self._separator, ndmin=1) if sound else np.empty(0, kinds)
        if len(rows):
            yield {name: rows[name] for name in "txyp"}


def numbers(line: str, separator: str | None) -> list[float] | None:
    """Return the four numbers of a line, None where they are not four."""
    words = line.strip(" \t\r\n").split(separator)
    if len(words) != 4 or any(_NUMBER.fullmatch(word) is None for word in words):
        return None
    return [float(word) for word in words]


def table_reader(head: bytes, path: Path) -> Table | None:
    """Return a reader of a table by its first bytes, None where it is none."""
    if head.startswith(b"\x93NUMPY"):
        return ArrayFile(path)
    if head.startswith(b"PK\x03\x04"):
        return archive_reader(path)
    return _text(head, path)


def _text(head: bytes, path: Path) -> TextFile | None:
    try:
        text = head.decode("ascii")
    except UnicodeDecodeError:
        return None
    whole = text.splitlines()[:-1] if len(head) >= 1 << 16 else text.splitlines()
    lines = [line for line in whole if line.strip()]
    data = [line for line in lines if line.lstrip()[:1] not in "#%"]
    if not data or max(map(len, data)) > MAX_TEXT_LINE:
        return None
    separator = next((mark for mark in (",", ";") if mark in data[0]), None)
    names = data[0].split(separator)
    by_name = columns_by_name(names) if numbers(data[0], separator) is None else None
    rows = [found for line in data if (found := numbers(line, separator)) is not None]
    if not rows or len(rows) < 0.9 * (len(data) - 1):
        return None
    if by_name is not None and len(names) == 4:
        keys = {given: key for key, given in by_name.items()}
        reader = TextFile(path, tuple(keys[name] for name in names), data[0], by_name["t"], separator)
    else:
        order = guess_columns(np.array(rows))
        reader = TextFile(path, order, "", "t", separator)
        reader.notes.append(f"columns without names, taken as {', '.join(order)}")
    geometry = re.search(r"^[#%]\s*geometry[:= ]+(\d+)[x,](\d+)", text, re.MULTILINE | re.IGNORECASE)
    if geometry:
        reader.told_size = int(geometry.group(2)), int(geometry.group(1))
    return reader


__all__ = ["ArrayArchive", "ArrayFile", "ArrayStream", "Table", "TextFile", "table_reader", "to_ns"]
