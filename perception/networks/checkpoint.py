"""Read published checkpoints without running anything that is in them.

A checkpoint is a pickle, and a pickle is a program. `torch.load(weights_only=True)` reads those that hold tensors and
plain containers. What it refuses (files of Lightning and mmcv hold objects of their own classes) is read here: tensors
become descriptions of where their numbers lie in the archive, objects of unknown classes become inert placeholders, and
nothing that the file names is imported or called. A file that asks for something out of the standard library that no
checkpoint needs, such as `os.system`, is refused as a whole.
"""

from __future__ import annotations

import _compat_pickle
import collections
import io
import math
import pickle
import pickletools
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception.errors import WeightsError

_WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "net")
"""Keys under which training code files its weights."""

_HARMLESS = {
    "argparse", "array", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "functools", "ipaddress",
    "numbers", "pathlib", "types", "typing", "uuid", "_codecs",
}  # fmt: skip
"""Modules of the standard library whose objects checkpoints do hold; they become placeholders as well."""
_HARMLESS_BUILTINS = {
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
    "slice", "str", "tuple",
}  # fmt: skip

_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _STORAGES.values()}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's weights: name -> tensor, taken out of the wrapper that training code put around them.

    Raises:
        WeightsError: no checkpoint, damaged, holding no weights, or asking for what no checkpoint needs.
    """
    content = _loaded(path)
    state = _state_in(content)
    if state is None:
        raise WeightsError(f"{path}: no weights in this file; expected names with tensors, bare or under {_WRAPPERS}")
    if isinstance(next(iter(state.values())), _StoredTensor):
        return _from_archive(path, state)
    return dict(state)


def _loaded(path: Path) -> object:
    _refuse_bombs(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TypedStorage, which old files hold
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception:  # noqa: BLE001 (it refuses with several types; the reader below decides what the file is)
        return _described(path)


def _refuse_bombs(path: Path) -> None:
    """Refuse archives that unpack to more than they are, before anything is unpacked: torch stores, it never packs.

    Raises:
        WeightsError: an entry is compressed, or lies in the archive more often than once.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = path.stat().st_size
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # what is damaged is told apart below
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed or sum(entry.file_size for entry in entries) > size:
        what = f"'{packed[0].filename}' is compressed" if packed else "its entries overlap"
        raise WeightsError(f"{path}: refused: {what}, which torch never writes: it would unpack to more than it is")


def _refuse_hostile_sizes(data: bytes) -> None:
    """Walk through a pickle's steps without doing them, and refuse those that reserve memory for nothing.

    Raises:
        ValueError: a memo index or a length that the file cannot mean.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(argument)) > len(data):
            raise ValueError(f"a memo entry number {argument} in {len(data)} bytes")


def _state_in(content: object) -> dict[str, Any] | None:
    """Return the first table of names and tensors: `content` itself, or what lies under a usual key."""
    if not isinstance(content, Mapping):
        return None
    state = {key: value for key, value in content.items() if isinstance(key, str) and _is_tensor(value)}
    if state:
        return state
    inner = (_state_in(content[key]) for key in _WRAPPERS if key in content)
    return next((found for found in inner if found is not None), None)


def _is_tensor(value: object) -> bool:
    return isinstance(value, (Tensor, _StoredTensor))


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    numel: int


@dataclass(frozen=True)
class _StoredTensor:
    """Where the numbers of a tensor lie."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Placeholder:
    """Stands for an object of a class that is not imported; takes everything and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __call__(self, *args: object, **kwargs: object) -> _Placeholder:
        return _Placeholder()

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...

    def add(self, value: object) -> None: ...


class _RefusedError(Exception):
    """The file names something that no checkpoint needs."""


class _Reader(pickle.Unpickler):
    """Knows tensors and ordered dictionaries; everything else is a placeholder or refused."""

    def find_class(self, module: str, name: str) -> Any:
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))  # names of Python 2, which
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)  # pickles of protocol 2 still use
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _stored_tensor,
            ("torch._utils", "_rebuild_tensor_v3"): _stored_tensor_of_dtype,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch", "Size"): tuple,
        }
        if (module, name) in known:
            return known[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        root = module.partition(".")[0]
        harmless = name in _HARMLESS_BUILTINS if root == "builtins" else root in _HARMLESS
        if root in sys.stdlib_module_names and not harmless:
            raise _RefusedError(f"{module}.{name}")
        return _Placeholder

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, numel = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a stored object of kind {kind!r}")
        return _Storage(dtype, str(key), int(numel))


def _stored_tensor(storage: _Storage, offset: int, size: Any, stride: Any, *rest: object) -> _StoredTensor:
    return _StoredTensor(storage, storage.dtype, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _stored_tensor_of_dtype(storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> _StoredTensor:
    dtype = rest[2]  # after requires_grad and the hooks
    return _StoredTensor(storage, dtype, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _parameter(data: object, *rest: object) -> object:
    return data


def _described(path: Path) -> object:
    """Unpickle a checkpoint in torch's archive format into descriptions and placeholders."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = archive.read(_member(archive, "data.pkl"))
        _refuse_hostile_sizes(data)
        return _Reader(io.BytesIO(data)).load()
    except _RefusedError as error:
        raise WeightsError(
            f"{path}: refused: it asks to use {error}, which no checkpoint needs; nothing of it was run"
        ) from error
    except zipfile.BadZipFile as error:
        raise WeightsError(
            f"{path}: not a checkpoint in torch's archive format, and not readable as plain tensors ({error}); files "
            "written before torch 1.6 with objects in them have to be saved anew as a state_dict"
        ) from error
    except Exception as error:  # a damaged pickle raises anything
        raise WeightsError(f"{path}: a damaged checkpoint ({type(error).__name__}: {error})") from error


def _from_archive(path: Path, state: Mapping[str, _StoredTensor]) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            if "byteorder" in {name.rpartition("/")[2] for name in archive.namelist()}:
                with archive.open(_member(archive, "byteorder")) as file:
                    if file.read(16) != b"little":
                        raise WeightsError(f"{path}: written on a big-endian machine, which is not supported")
            return {name: _tensor(archive, stored) for name, stored in state.items()}
    except (zipfile.BadZipFile, OSError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: a damaged checkpoint ({error})") from error


def _tensor(archive: zipfile.ZipFile, stored: _StoredTensor) -> Tensor:
    item = torch.empty((), dtype=stored.dtype).element_size()
    wanted = stored.storage.numel * torch.empty((), dtype=stored.storage.dtype).element_size()
    info = archive.getinfo(_member(archive, f"data/{stored.storage.key}"))
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != wanted:
        raise ValueError(f"storage {stored.storage.key} has {info.file_size} bytes, expected {wanted} uncompressed")
    last = stored.offset + sum((size - 1) * stride for size, stride in zip(stored.size, stored.stride, strict=True))
    empty = 0 in stored.size
    if min((stored.offset, *stored.size, *stored.stride), default=0) < 0 or (not empty and (last + 1) * item > wanted):
        raise ValueError(f"a tensor of shape {stored.size} reaches outside its storage of {wanted} bytes")
    if math.prod(stored.size) * item > wanted:
        raise ValueError(f"a tensor of shape {stored.size} out of a storage of {wanted} bytes")
    if empty:
        return torch.empty(stored.size, dtype=stored.dtype)
    flat = torch.frombuffer(bytearray(archive.read(info)), dtype=stored.dtype)
    return flat.as_strided(stored.size, stored.stride, stored.offset).clone()


def _member(archive: zipfile.ZipFile, ending: str) -> str:
    """Return the archive's own name of an entry, which lies below one folder of any name."""
    for name in archive.namelist():
        if name.partition("/")[2] == ending:
            return name
    raise ValueError(f"the archive has no entry '{ending}'")
