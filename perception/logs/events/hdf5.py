"""Events in HDF5 files, read in slices: the layouts of DSEC, M3ED, and other groups with t, x, y and p.

    DSEC   /events/{t, x, y, p}, /t_offset (microseconds, added to t), /ms_to_idx; Blosc/Zstd
    M3ED   /prophesee/{left, right}/{t int64, x and y uint16, p int8, ms_map_idx uint64, calib/resolution}; LZF, in
           blocks of 40,000 rows; t in microseconds since the recording's start
    MVSEC  /davis/{left, right}/events, four columns
    other  any group with datasets that are named as the columns of a table, /events/{ts, xs, ys, ps} for example, and
           any dataset of records with such fields

Times are microseconds unless a name or fractions say otherwise. The index by milliseconds lets a reading begin late:
its entry k is the first event at or after k milliseconds of t, in both data sets; M3ED's ends one before the last whole
millisecond. A file whose end is missing cannot be opened by the library, and is refused; a damaged block is skipped and
counted.

Sources, the code that reads and writes the published files: uzh-rpg/DSEC, scripts/utils/eventslicer.py;
daniilidis-group/m3ed, build_system/bag_processing/rosbag2hdf5.py and event_loading_by_ms.py. No published file was at
hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError, NotInstalledError
from perception.logs.events.tables import Table, columns_by_name, guess_columns, ns_per_unit, to_ns

MAGIC = b"\x89HDF\r\n\x1a\n"
BLOCK_ROWS = 1 << 18
DAMAGED = "event in a block that cannot be read"
_INDEX = ("ms_to_idx", "ms_map_idx")
_DSEC_SIZE, _M3ED_SIZE = (480, 640), (720, 1280)


def open_hdf5(path: Path) -> Any:
    """Open a file with the compressions that event data sets use.

    Raises:
        NotInstalledError: h5py or hdf5plugin is missing.
        LogError: no whole HDF5 file.
    """
    try:
        import h5py
        import hdf5plugin  # noqa: F401 - registers Blosc and Zstd
    except ImportError as error:
        raise NotInstalledError(
            f"{path}: HDF5 recordings need {error.name}: pip install 'perception-runtime[events]'"
        ) from None
    try:
        return h5py.File(path, "r")
    except Exception as error:  # noqa: BLE001 - the library raises errors of many kinds on damage
        raise LogError(f"{path}: not a whole HDF5 file: {error}") from None


class Hdf5Events(Table):
    """One group of events."""

    def __init__(self, path: Path, group: str, columns: Mapping[str, str], name: str) -> None:
        super().__init__()
        self.name, self._path, self._group, self._columns = name, path, group, dict(columns)
        with open_hdf5(path) as file, damage_named(path):
            found = file[group]
            lengths = {len(found[dataset]) for dataset in self._columns.values()}
            if len(lengths) != 1:
                raise LogError(f"{path}: columns of {group} with {sorted(lengths)} rows; expected one entry per event")
            (self._rows,) = lengths
            for dataset in self._columns.values():
                check_holds_what_it_claims(found[dataset], path)
            offset = _scalar(file, found, "t_offset")
            self.told_size = self._size_in(found, offset is not None)
            first = self._read(found, 0, min(self._rows, BLOCK_ROWS))
            self._unit, why = ns_per_unit(self._columns["t"], first["t"] if first else np.zeros(0))
            self.offset_ns = round((offset or 0) * self._unit)
            self.notes.append(f"{group}: {why}" + (f", from {offset} on" if offset else ""))

    @property
    def unit(self) -> int:
        return self._unit

    def _size_in(self, group: Any, dsec: bool) -> tuple[int, int] | None:
        if "calib/resolution" in group:
            width, height = (int(value) for value in np.asarray(group["calib/resolution"]).ravel()[:2])
            return height, width
        return _M3ED_SIZE if self.name == "m3ed" else _DSEC_SIZE if dsec else None

    def blocks(self, from_ns: int | None = None) -> Iterator[Mapping[str, NDArray[Any]]]:
        begin = 0 if from_ns is None else self._first_row(from_ns)
        with open_hdf5(self._path) as file:
            group = file[self._group]
            for first in range(begin, self._rows, BLOCK_ROWS):
                block = self._read(group, first, min(self._rows, first + BLOCK_ROWS))
                if block is not None:
                    yield block

    def _read(self, group: Any, begin: int, end: int) -> Mapping[str, NDArray[Any]] | None:
        try:
            return {key: np.asarray(group[dataset][begin:end]) for key, dataset in self._columns.items()}
        except (OSError, RuntimeError, ValueError, MemoryError):
            self.skipped[DAMAGED] += end - begin
            return None

    def _first_row(self, from_ns: int) -> int:
        """Return a row at or before an instant, by the index of milliseconds."""
        with open_hdf5(self._path) as file:
            group = file[self._group]
            index = next((place[name] for name in _INDEX for place in (file, group) if name in place), None)
            millisecond = (from_ns - self.offset_ns) // 1_000_000
            if index is None or not len(index) or millisecond <= 0:
                return 0
            row = min(max(int(index[min(millisecond, len(index) - 1)]), 0), self._rows)
            before = group[self._columns["t"]][max(0, row - 1) : row]
            lies = len(before) and int(to_ns(before, self._unit)[0]) + self.offset_ns >= from_ns
            return 0 if lies else row


class Hdf5Rows(Table):
    """One dataset of events: records with fields, or four columns."""

    name = "hdf5"

    def __init__(self, path: Path, dataset: str) -> None:
        super().__init__()
        self._path, self._dataset = path, dataset
        with open_hdf5(path) as file, damage_named(path):
            found = file[dataset]
            check_holds_what_it_claims(found, path)
            self._rows = len(found)
            try:
                first = np.asarray(found[: min(self._rows, BLOCK_ROWS)])
            except OSError as error:
                hint = "; Metavision's ECF compression has no Python package: convert it with metavision_file_to_raw"
                raise LogError(f"{path}: {dataset} cannot be read: {error}{hint}") from None
        names = columns_by_name(list(first.dtype.names)) if first.dtype.names else None
        order = guess_columns(first) if names is None else ()
        by_place: dict[str, Any] = {key: place for place, key in enumerate(order)}
        self._fields: dict[str, Any] = by_place if names is None else dict(names)
        self._unit, why = ns_per_unit(str(self._fields["t"]), self._columns(first)["t"])
        self.notes.append(f"{dataset}: {why}" + (f"; columns taken as {', '.join(order)}" if order else ""))

    @property
    def unit(self) -> int:
        return self._unit

    def _columns(self, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {key: rows[place] if isinstance(place, str) else rows[:, place] for key, place in self._fields.items()}

    def blocks(self, from_ns: int | None = None) -> Iterator[Mapping[str, NDArray[Any]]]:
        del from_ns
        with open_hdf5(self._path) as file:
            for first in range(0, self._rows, BLOCK_ROWS):
                end = min(self._rows, first + BLOCK_ROWS)
                try:
                    rows = np.asarray(file[self._dataset][first:end])
                except (OSError, RuntimeError, ValueError, MemoryError):
                    self.skipped[DAMAGED] += end - first
                    continue
                yield self._columns(rows)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever the library raises on a damaged file into one clear error."""
    try:
        yield
    except LogError:
        raise
    except Exception as error:
        raise LogError(f"{path}: a damaged HDF5 file: {error}") from error


def check_holds_what_it_claims(dataset: Any, path: Path) -> None:
    """Refuse a length that no storage stands behind: it would be read as zeros without end.

    Raises:
        LogError: the dataset claims more rows than are stored.
    """
    if dataset.chunks:
        stored = dataset.id.get_num_chunks() * dataset.chunks[0]
    else:
        stored = dataset.id.get_storage_size() // dataset.dtype.itemsize
    if len(dataset) > stored:
        raise LogError(f"{path}: {dataset.name} claims {len(dataset)} rows and stores {stored}; the file is damaged")


def _scalar(file: Any, group: Any, name: str) -> int | None:
    for place in (file, group):
        if name in place:
            return int(np.asarray(place[name]).ravel()[0])
    return None


def hdf5_readers(path: Path) -> dict[str, Table]:
    """Return the readers of a file by camera.

    Raises:
        NotInstalledError, LogError: as `open_hdf5`, or the file holds no events in a known layout.
    """
    groups: dict[str, dict[str, str]] = {}
    tables: list[str] = []
    with open_hdf5(path) as file, damage_named(path):

        def visit(name: str, item: Any) -> None:
            if hasattr(item, "keys"):
                datasets = [key for key in item if hasattr(item[key], "shape") and len(item[key].shape) == 1]
                columns = columns_by_name(datasets)
                if columns is not None:
                    groups[name] = columns
            elif _is_table(name, item):
                tables.append(name)

        visit("/", file)
        file.visititems(visit)
    if not groups and not tables:
        raise LogError(f"{path}: HDF5 without events; expected a group with datasets t, x, y and p, as in DSEC")
    places = sorted((*groups, *tables))
    readers: dict[str, Table] = {}
    for place in places:
        sensor = "event_camera" if len(places) == 1 else f"event_camera_{_side(place)}"
        if place in groups:
            name = "m3ed" if place.startswith("prophesee/") else "dsec" if place == "events" else "hdf5"
            readers[sensor] = Hdf5Events(path, place, groups[place], name)
        else:
            readers[sensor] = Hdf5Rows(path, place)
    return readers


def _is_table(name: str, dataset: Any) -> bool:
    if dataset.dtype.names:
        return len(dataset.shape) == 1 and columns_by_name(list(dataset.dtype.names)) is not None
    return len(dataset.shape) == 2 and dataset.shape[1] == 4 and name.rpartition("/")[2] == "events"


def _side(place: str) -> str:
    """Return the word that tells a camera from the others: left of davis/left/events and of prophesee/left."""
    words = [word for word in place.split("/") if word != "events"]
    return words[-1] if words else place


__all__ = ["MAGIC", "Hdf5Events", "Hdf5Rows", "hdf5_readers", "open_hdf5"]
