"""The restricted unpickler against pickle itself on harmless files, and on files that would run something."""

from __future__ import annotations

import datetime as dt
import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train.data import unpickle
from train.data.errors import DataError

REFERENCE = os.environ.get("AFFECTD_REFERENCE_DATA")
needs_reference = pytest.mark.skipif(REFERENCE is None, reason="AFFECTD_REFERENCE_DATA is not set: no real pickle")
WESAD_LIKE = {
    "signal": {"chest": {"ECG": np.linspace(-1, 1, 3)[:, None], "Temp": np.full((2, 1), 34.1, np.float32)}},
    "label": np.array([0, 1, 7], np.int32),
    "subject": "S2",
}


def python2(value: object, protocol: int = 0) -> bytes:
    """What cPickle of Python 2 writes for dictionaries of text, integers and numpy arrays, in protocol 0 or 2.

    Opcodes as of a real file of that time: text is a byte string, in protocol 0 escaped and quoted.
    """
    return (b"\x80\x02" if protocol == 2 else b"") + _python2(value, protocol) + b"."


def _python2(value: object, protocol: int) -> bytes:
    if isinstance(value, str | bytes):
        raw = value.encode("latin1") if isinstance(value, str) else value
        if protocol == 2:
            short = bytes([ord("U"), len(raw)]) if len(raw) < 256 else b"T" + len(raw).to_bytes(4, "little")
            return short + raw + b"q\x01"
        return b"S" + repr(raw)[1:].encode() + b"\np1\n"
    if isinstance(value, bool | int):
        return b"I%02d\n" % value if isinstance(value, bool) else b"I%d\n" % value
    if isinstance(value, dict):
        items = b"".join(_python2(k, protocol) + _python2(v, protocol) + b"s" for k, v in value.items())
        return b"(d" + items
    assert isinstance(value, np.ndarray)
    code = value.dtype.str[1:]
    dtype = b"cnumpy\ndtype\n(" + _python2(code, protocol) + b"I0\nI1\ntR(I3\n" + _python2("<", protocol)
    shape = b"(" + b"".join(b"I%d\n" % n for n in value.shape) + b"t"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt" + _python2("b", protocol) + b"tR"
        b"(I1\n" + shape + dtype + b"NNNI-1\nI-1\nI0\ntbI00\n" + _python2(value.tobytes(), protocol) + b"tb"
    )


def written(folder: Path, content: bytes) -> Path:
    path = folder / "S2.pkl"
    path.write_bytes(content)
    return path


def same(a: object, b: object) -> bool:
    """Equal values of equal types, arrays bit for bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        WESAD_LIKE,
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=">i2").reshape(3, 2),
        np.zeros((0, 3)),
        np.array(5.0),
        np.array(["left", "x"]),
        np.array([b"ab", b"c"]),
        np.array([True, False]),
        np.float32(3.5),
        np.int64(-2),
        np.bool_(True),
        {1: {2, 3}, "a": frozenset([1]), "c": 1j, "b": b"\xff\0", "none": None, "t": (1, 2.5, True, 10**30, [b""])},
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_harmless_values_read_as_pickle_reads_them(tmp_path: Path, value: object, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    assert same(unpickle.load(written(tmp_path, content)), pickle.loads(content))


@pytest.mark.parametrize("protocol", [0, 2])
def test_python_2_files_read_as_pickle_reads_them(tmp_path: Path, protocol: int) -> None:
    content = python2(WESAD_LIKE, protocol)
    assert same(pickle.loads(content, encoding="latin1"), WESAD_LIKE)
    assert same(unpickle.load(written(tmp_path, content)), WESAD_LIKE)


def test_numpy_1_and_numpy_2_name_their_core_differently(tmp_path: Path) -> None:
    array = np.arange(4.0)
    for protocol in (2, 5):
        content = pickle.dumps(array, protocol)
        new = content.replace(b"numpy.core", b"numpy._core")
        assert new != content or b"numpy._core" in content
        if protocol == 5:  # lengths precede names there
            new = content.replace(b"\x8c\x12numpy.core", b"\x8c\x13numpy._core")
            new = new.replace(len(content[11:-1]).to_bytes(8, "little"), len(new[11:-1]).to_bytes(8, "little"))
        assert same(unpickle.load(written(tmp_path, new)), array)


@needs_reference
def test_the_real_wesad_file() -> None:
    assert REFERENCE is not None
    path = Path(REFERENCE, "wesad_s16_53s", "S16_git.pkl")
    with path.open("rb") as file:
        expected = pickle.load(file, encoding="latin1")  # a file looked at opcode by opcode: arrays and text only
    assert same(unpickle.load(path), expected)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (eval, ("open('{marker}', 'w')",), "builtin"),
        (os.system, ("touch {marker}",), "system"),
        (subprocess.check_output, (["touch", "{marker}"],), "check_output"),
        (getattr, ("", "join"), "getattr"),
        (np.load, ("{marker}",), "numpy"),
        (OrderedDict, (), "collections.OrderedDict"),
        (dt.date, (2017, 5, 22), "datetime.date"),
        (Path, ("x",), "pathlib"),
    ],
)
def test_whatever_else_a_pickle_calls_is_refused_by_name(
    tmp_path: Path, function: object, args: tuple[object, ...], name: str, protocol: int
) -> None:
    marker = tmp_path / "ran"
    told = [arg.format(marker=marker) if isinstance(arg, str) else arg for arg in args]
    content = pickle.dumps({"signal": Calls(function, *told)}, protocol)
    with pytest.raises(DataError, match=name) as error:
        unpickle.load(written(tmp_path, content))
    assert "could run a program" in error.value.remedy
    assert error.value.path.endswith("S2.pkl")
    assert not marker.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
F8 = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"cbuiltins\neval\n.", "builtins.eval"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"cnumpy\ndtype.__init__\n.", r"numpy.dtype.__init__"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.", "numpy.ndarray.dump"),
        (b"(S'touch'\nios\nsystem\n.", "os.system"),
        # numpy's own constructor makes an array of object pointers out of bytes.
        (b"cnumpy\nndarray\n((I1\ntS'O'\nS'AAAAAAAA'\ntR.", "numpy.ndarray"),
        (b"cnumpy\nndarray\n(d(dS'x'\nI1\nst\x86b.", "is cut or broken|numpy.ndarray|_not_called"),
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "O8"),
        (b"cnumpy\ndtype\n((lI1\ntR.", "dtype"),
        # A state of a dtype can give fields beyond its size.
        (F8 + b"(I3\nS'|'\nN(S'a'\nt(dS'a'\n(" + F8 + b"I999\ntsI8\nI1\nI0\ntb.", "records"),
        (ARRAY + b"(I1\n(I1\nt" + F8 + b"I00\n(lI1\natb.", "array of objects"),
        (ARRAY + b"(I1\n(I9\nt" + F8 + b"I00\nS'12345678'\ntb.", "from 8 bytes"),
        (ARRAY + b"(I1\n(I-1\nI-1\nt" + F8 + b"I00\nS'12345678'\ntb.", "from 8 bytes"),
        (ARRAY + b"(I1\n(S'x'\nt" + F8 + b"I00\nS'12345678'\ntb.", "from 8 bytes"),
        (b"cnumpy.core.multiarray\nscalar\n(" + F8 + b"S'123'\ntR.", "scalar"),
        (b"cnumpy.core.numeric\n_frombuffer\n(S'12345678'\nS'O'\n(I1\ntS'C'\ntR.", "array of objects"),
        # Codecs are looked up by import, and bytes(n) and bytearray(n) take the memory they are told.
        (b"c_codecs\nencode\n(Vx\nVidna\ntR.", "latin1"),
        (b"c__builtin__\nbytearray\n(I99999999999\ntR.", "latin1"),
        (b"c__builtin__\nbytes\n(I99999999999\ntR.", "latin1"),
        # Attributes of what is admitted stay as they are.
        (b"c__builtin__\nset\n(dS'add'\nI1\nsb.", "is cut or broken"),
        (b"cnumpy\ndtype\n(N(dS'_call'\nc__builtin__\nint\nstb.", "state"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", None),  # a memo of 64 GB, were it a table
        (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"123.", "is cut or broken"),  # 1 TB of array data
        (b"P1\n.", "is cut or broken"),
        (b"\x82\x01.", "is cut or broken"),
        (b"\x80\x09.", "protocol"),
        (b"(" * 100_000 + b"t" * 100_000 + b"0.", "is cut or broken"),
        (b"no pickle at all\n", "is cut or broken"),
        (b"", "is cut or broken"),
    ],
)
def test_crafted_opcodes(tmp_path: Path, content: bytes, reason: str | None) -> None:
    path = written(tmp_path, content)
    if reason is None:
        assert unpickle.load(path) is None
        return
    with pytest.raises(DataError, match=reason) as error:
        unpickle.load(path)
    assert error.value.place
    assert error.value.remedy


def test_a_dtype_may_not_nest_without_end_in_the_message(tmp_path: Path) -> None:
    nested = b"(" * 3000 + b"t" * 3000
    with pytest.raises(DataError):
        unpickle.load(written(tmp_path, b"cnumpy\ndtype\n(" + nested + b"tR."))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_every_truncated_pickle_is_named(tmp_path: Path, protocol: int) -> None:
    content = python2(WESAD_LIKE, protocol) if protocol < 5 else pickle.dumps(WESAD_LIKE, protocol)
    for size in range(len(content)):
        with pytest.raises(DataError, match="is cut or broken" if content[size - 1 : size] != b"." else None) as error:
            unpickle.load(written(tmp_path, content[:size]))
        assert str(size) in error.value.place or content[size - 1 : size] == b"."


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255), protocol=st.sampled_from([0, 2, 4, 5]))
def test_a_changed_byte_gives_a_value_or_a_data_error(tmp_path: Path, at: int, byte: int, protocol: int) -> None:
    content = bytearray(pickle.dumps(WESAD_LIKE, protocol))
    content[at % len(content)] = byte
    try:
        unpickle.load(written(tmp_path, bytes(content)))
    except DataError as error:
        assert error.reason


def test_a_file_that_is_too_large_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "S2.pkl"
    with pytest.raises(DataError, match="cannot be read"):
        unpickle.load(path)
    with path.open("wb") as file:
        file.truncate(unpickle.MAX_BYTES + 1)  # sparse: takes no room
    with pytest.raises(DataError, match="more than 4"):
        unpickle.load(path)
