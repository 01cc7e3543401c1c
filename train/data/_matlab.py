"""Reader of chosen variables and fields of a MATLAB 5 to 7 file, in one pass that skips all else.

Knows nothing of any data set. scipy reads a variable as a whole, and DREAMER.mat is one variable of about 2 GB; this
reader inflates it in pieces and keeps only what was asked for, so that memory holds one person at a time.

Format: The MathWorks, "MAT-File Format", level 5. Read are numbers, text, cells and structs; objects are passed over.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from train.data.errors import DataError

Step = str | int
Where = tuple[Step, ...]
"""A place inside the file: variable name, then field names (str) and element numbers (int, column-major, from 0)."""
COUNT = "#"
"""As last step of a Where: the number of elements there instead of their values."""

REMEDY = "get the file again from the data set; this one is cut or of another kind"
PIECE = 1 << 16
MAX_DEPTH = 32

MATRIX, COMPRESSED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""numpy type of each storage type; MATLAB stores whole doubles as the smallest integer that holds them."""
TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHAR = 1, 2, 4
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""numpy type of each numeric class of arrays."""


class _Done(Exception):  # noqa: N818 - a signal, not an error
    """All that was asked for has been read."""


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Inflated:
    """Plain bytes of a compressed element of ``size`` bytes, forward only, never more than PIECE at a time inside."""

    def __init__(self, source: _Source, size: int) -> None:
        self._source, self._left = source, size
        self._inflate = zlib.decompressobj()
        self._tail = b""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while True:
            out = self._inflate.decompress(self._tail, min(size, PIECE))
            self._tail = self._inflate.unconsumed_tail
            if out or self._inflate.eof:
                return out
            if not self._tail:
                self._tail = self._source.read(min(PIECE, self._left))
                self._left -= len(self._tail)
                if not self._tail:
                    return b""


class _Element:
    """The next ``size`` bytes of a source."""

    def __init__(self, source: _Source, size: int, order: str) -> None:
        self._source, self.left, self.order = source, size, order

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, or EOFError."""
        if size > self.left:
            raise EOFError
        parts = []
        while size:
            part = self._source.read(min(size, PIECE))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
            self.left -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> None:
        """Pass over ``size`` bytes."""
        while size:
            size -= len(self.read(min(size, PIECE)))

    def tag(self) -> tuple[int, int]:
        """(type, size) of the next element that is not packed into its tag."""
        kind, size = struct.unpack(self.order + "2I", self.read(8))
        return kind, size

    def data(self) -> tuple[int, bytes]:
        """(type, bytes) of the next data element, with its padding passed over."""
        start = self.read(8)
        kind, size = struct.unpack(self.order + "2I", start)
        if kind >> 16:
            return kind & 0xFFFF, start[4 : 4 + (kind >> 16)]
        data = self.read(size)
        self.skip(min(-size % 8, self.left))
        return kind, data

    def ints(self) -> list[int]:
        """The next data element as whole numbers."""
        kind, data = self.data()
        return [int(n) for n in np.frombuffer(data, self.order + STORED[kind])]


def find(path: Path, wanted: Collection[Where]) -> dict[Where, object]:
    """Values at the wanted places that the file has; reading stops as soon as all are there.

    A value is an array (n_rows, n_cols, ...), a str, a list (cells, or elements of a struct array) or a dict (a struct
    of one element). Raises DataError where the file is missing, cut, broken or of MATLAB 7.3.
    """
    found: dict[Where, object] = {}
    try:
        with path.open("rb") as file:
            try:
                _walk(file, _order(path, file), frozenset(wanted), found)
            except _Done:
                pass
            except (EOFError, zlib.error, struct.error, ValueError, LookupError, OverflowError, RecursionError):
                raise DataError(str(path), f"byte {file.tell()}", "the file is cut or broken here", REMEDY) from None
    except OSError as error:
        raise DataError(str(path), "file", f"cannot be read ({error.strerror})", REMEDY) from None
    return found


def _order(path: Path, file: BinaryIO) -> str:
    """Byte order told by the 128 bytes of header."""
    head = file.read(128)
    if head.startswith(b"MATLAB 7.3"):
        remedy = "load it in MATLAB and save it with -v7"
        raise DataError(str(path), "header", "is a MATLAB 7.3 (HDF5) file, published is version 5 to 7", remedy)
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None:
        raise DataError(str(path), "header", "is not a MATLAB 5 file", REMEDY)
    return order


def _walk(file: BinaryIO, order: str, wanted: frozenset[Where], found: dict[Where, object]) -> None:
    """Go through the file's variables."""
    while head := file.read(8):
        kind, size = struct.unpack(order + "2I", head)
        start = file.tell()
        if kind == COMPRESSED:
            inner = _Element(_Inflated(file, size), 8, order)
            kind, length = inner.tag()
            inner.left = length
        else:
            inner = _Element(file, size, order)
        if kind == MATRIX:
            _Reader(wanted, found).value(inner, (), False)
        file.seek(start + size)


class _Reader:
    """Goes down into one variable towards the wanted places."""

    def __init__(self, wanted: frozenset[Where], found: dict[Where, object]) -> None:
        self._wanted, self._found = wanted, found
        self._ways = {place[:depth] for place in wanted for depth in range(len(place) + 1)}

    def value(self, at: _Element, where: Where, keep: bool) -> object:
        """Value of the array at ``where``; None where neither it nor anything in it is wanted."""
        if len(where) > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if at.left == 0:
            self._note((*where, COUNT), 0)
            return self._note(where, np.empty((0, 0)))
        flags, shape = at.ints()[0], tuple(at.ints())
        if min(shape, default=0) < 0:
            raise ValueError("negative size")
        name = at.data()[1].decode("latin-1")
        where = where or (name,)
        if not keep and where not in self._ways:
            at.skip(at.left)
            return None
        self._note((*where, COUNT), math.prod(shape))
        value = self._content(at, flags & 0xFF, shape, where, keep or where in self._wanted)
        at.skip(at.left)
        return self._note(where, value)

    def _note(self, place: Where, answer: object) -> object:
        """Keep the answer if it was asked for."""
        if place in self._wanted:
            self._found[place] = answer
            if len(self._found) == len(self._wanted):
                raise _Done
        return answer

    def _content(self, at: _Element, kind: int, shape: tuple[int, ...], where: Where, keep: bool) -> object:
        """What follows the name of an array."""
        if kind == CELL:
            return [self._child(at, (*where, index), keep) for index in range(math.prod(shape))]
        if kind == STRUCT:
            return self._struct(at, shape, where, keep)
        if kind == CHAR:
            return _text(*at.data(), shape, at.order)
        if kind not in CLASSES:
            return None
        stored, data = at.data()
        numbers = np.frombuffer(data, at.order + STORED[stored]).astype(CLASSES[kind])
        return numbers.reshape(shape, order="F")

    def _struct(self, at: _Element, shape: tuple[int, ...], where: Where, keep: bool) -> object:
        """A dict for one element, else a list of dicts."""
        width = at.ints()[0]
        packed = at.data()[1]
        if width < 1:
            raise ValueError("field names of no length")
        names = [packed[k : k + width].split(b"\0")[0].decode("latin-1") for k in range(0, len(packed), width)]
        count = math.prod(shape)
        places = [where] if count == 1 else ((*where, index) for index in range(count if names else 0))
        elements = [{name: self._child(at, (*place, name), keep) for name in names} for place in places]
        return elements[0] if count == 1 else elements

    def _child(self, at: _Element, where: Where, keep: bool) -> object:
        """An array inside a cell or a field."""
        kind, size = at.tag()
        if kind != MATRIX:
            raise ValueError("no array where one belongs")
        child = _Element(at, size, at.order)
        if not keep and where not in self._ways:
            child.skip(size)
            return None
        return self.value(child, where, keep)


def _text(kind: int, data: bytes, shape: tuple[int, ...], order: str) -> str:
    """Text, its rows joined by line ends."""
    if kind in TEXTS:
        text = data.decode(TEXTS[kind] + ("" if kind == 16 else "-le" if order == "<" else "-be"))
    else:
        text = "".join(map(chr, np.frombuffer(data, order + STORED[kind])))
    if math.prod(shape) != len(text):
        raise ValueError("text of another length than its array")
    rows = shape[0] if shape else 0
    return text if rows <= 1 else "\n".join(text[row::rows] for row in range(rows))
