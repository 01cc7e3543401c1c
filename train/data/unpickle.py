"""Restricted unpickler: numpy arrays, numpy scalars and plain Python values; all else that a pickle names is refused.

Knows nothing of what the values mean.

A pickle is a program: it names functions and calls them. Here it may name what ADMITTED lists and nothing else, and
those are no numpy functions but stand-ins that check their arguments: numpy's own take a dtype with any offsets, or a
buffer as an array of object pointers, and trust them. Arrays of objects and of records are refused with the rest.
The unpickler is the standard library's own in Python: the one in C takes from the file how large a table to make, so
that a broken byte can ask for 64 GB. Here memory stays within a few times the file's size.
Reads pickles of Python 2 and 3, protocols 0 to 5, numpy 1 and 2.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from train.data.errors import DataError
from train.errors import one_line

MAX_BYTES = 4 << 30
"""A pickle of WESAD has 1 GB: more is none of a data set's."""
REMEDY = "get the file again from the data set"
MALICE = "the file is none of the data set's and could run a program: do not open it by other means"

_CODE = re.compile(r"(?:[biufcSU]\d{1,9}|\?)")
"""Dtypes of numbers and text, without byte order."""


class _RefusedError(Exception):
    """The pickle asks for something that is not admitted."""


class _Stub:
    """A callable that stands for a global; a pickle's BUILD opcode cannot change it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *args: object) -> object:
        return self._call(*args)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError(f"a state for {self._call.__name__}")


class _DType:
    """A dtype of numbers or text; its state may give a byte order and nothing else."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, *_: object) -> None:
        if isinstance(code, bytes):
            code = code.decode("latin1")
        if not isinstance(code, str) or not _CODE.fullmatch(code.lstrip("<>|=")):
            raise _RefusedError(f"dtype {code!r:.40}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, "<" | ">" | "|" | "=" as order, None, None, None, *_):
                self.dtype = self.dtype.newbyteorder(order) if order != "|" else self.dtype
            case _:
                raise _RefusedError("a dtype of records")


class _Array(np.ndarray[Any, Any]):
    """An array that is filled as ndarray is, after a check of shape, dtype and size."""

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, tuple(shape), _DType(dtype=dtype), bool() | int() as fortran, bytes() | str() as raw):
                data = raw.encode("latin1") if isinstance(raw, str) else raw
                _check_size(data, shape, dtype)
                super().__setstate__((1, shape, dtype, bool(fortran), data))
            case _:
                raise _RefusedError("an array of objects")


def load(path: Path) -> object:
    """The value a pickle holds; arrays in it are ndarrays (of a subclass: ``np.asarray`` gives the plain one).

    Text of Python 2 is read as latin1. Raises DataError with the name of the global where one is not admitted, and
    where the file is cut, larger than MAX_BYTES, or no pickle.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size > MAX_BYTES:
                raise DataError(str(path), "file", f"has {size / 2**30:.1f} GB, more than {MAX_BYTES >> 30}", REMEDY)
            file.seek(max(size - 1, 0))
            if file.read() != pickle.STOP:
                raise DataError(str(path), f"byte {size}", "is cut or broken (does not end as a pickle does)", REMEDY)
            file.seek(0)
            return _load(path, file, size)
    except OSError as error:
        raise DataError(str(path), "file", f"cannot be read ({error.strerror})", REMEDY) from None


def _load(path: Path, file: IO[bytes], size: int) -> object:
    """The value in an open file of ``size`` bytes."""
    try:
        return _Unpickler(file, encoding="latin1").load()
    except _RefusedError as refused:
        raise DataError(str(path), "pickle", f"asks for {refused}, which is not admitted", MALICE) from None
    except _BROKEN as error:
        detail = one_line(error)[:80] or "its end comes too early"
        raise DataError(str(path), f"byte {file.tell()} of {size}", f"is cut or broken ({detail})", REMEDY) from None


_BROKEN = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What broken opcodes make the unpickler, or the stand-ins, raise."""


_StandardUnpickler: Any = pickle._Unpickler


class _Unpickler(_StandardUnpickler):
    """Finds only what is admitted."""

    def find_class(self, module: str, name: str) -> object:
        """The stand-in for a global. Raises _RefusedError for any other."""
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def load_bytearray8(self) -> None:
        """Protocol 5's array data, as bytes that are read and not as room that is made before."""
        (length,) = struct.unpack("<Q", self.read(8))
        data = self.read(length)
        if len(data) < length:
            raise EOFError
        self.append(data)

    dispatch = _StandardUnpickler.dispatch | {pickle.BYTEARRAY8[0]: load_bytearray8}


def _check_size(raw: bytes, shape: tuple[object, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an array with more or fewer bytes than its shape and dtype need."""
    lengths = [length for length in shape if isinstance(length, int) and length >= 0]
    if len(lengths) != len(shape) or len(raw) != math.prod(lengths) * dtype.itemsize:
        raise _RefusedError(f"an array of shape {shape!r:.40} and {dtype} from {len(raw)} bytes")


def _empty_array(*_: object) -> _Array:
    """``_reconstruct``: what its arguments say is said again, and checked, in the state that follows."""
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _array(raw: object, dtype: object, shape: object, order: object) -> object:
    """``_frombuffer``: an array out of protocol 5."""
    match raw, dtype, shape, order:
        case bytes(), _DType(dtype=known), tuple(), "C" | "F":
            _check_size(raw, shape, known)
            return np.frombuffer(raw, known).reshape(shape, order=order).view(_Array)
    raise _RefusedError("an array of objects")


def _scalar(dtype: object, raw: object = b"") -> object:
    """``scalar``: one number or text."""
    match dtype, raw:
        case _DType(dtype=known), bytes() | str():
            data = raw.encode("latin1") if isinstance(raw, str) else raw
            if len(data) == known.itemsize > 0:
                return np.frombuffer(data, known)[0]
    raise _RefusedError("a scalar that is no number or text")


def _bytes(*args: object) -> bytes:
    """``_codecs.encode``, ``bytes`` and ``bytearray`` as pickles use them: nothing, latin1 text, or bytes again."""
    match args:
        case ():
            return b""
        case (bytes() as raw,):
            return raw
        case (str() as text, "latin1" | "latin-1"):
            return text.encode("latin1")
    raise _RefusedError("bytes of something else than latin1 text")


def _not_called(*_: object) -> None:
    """``numpy.ndarray``: pickles give it to ``_reconstruct`` and never call it."""
    raise _RefusedError("a call of numpy.ndarray")


def _admitted() -> Mapping[tuple[str, str], object]:
    """(module, name) -> what a pickle gets for it."""
    found: dict[tuple[str, str], object] = {("_codecs", "encode"): _Stub(_bytes)}
    found |= {("numpy", "ndarray"): _Stub(_not_called), ("numpy", "dtype"): _Stub(_DType)}
    for core in ("numpy.core", "numpy._core"):
        found |= {(f"{core}.multiarray", "_reconstruct"): _Stub(_empty_array)}
        found |= {(f"{core}.multiarray", "scalar"): _Stub(_scalar), (f"{core}.numeric", "_frombuffer"): _Stub(_array)}
    for builtins in ("builtins", "__builtin__"):
        found |= {(builtins, name): _Stub(_bytes) for name in ("bytes", "bytearray")}
        plain = (bool, complex, dict, float, frozenset, int, list, set, str, tuple)
        found |= {(builtins, kind.__name__): kind for kind in plain}
    return found


ADMITTED = _admitted()
"""All that a pickle may name."""
