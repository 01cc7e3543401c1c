"""The selective MATLAB reader against scipy's reader of the whole file, on files scipy wrote and on broken ones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from train.data import _matlab
from train.data.errors import DataError

NUMBERS = st.sampled_from(["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8"])


def cells(*values: object) -> np.ndarray:
    """A 1 x n cell."""
    row = np.empty((1, len(values)), object)
    row[0, :] = values
    return row


def nested() -> dict[str, object]:
    """What DREAMER.mat is like, in small, with something before and after."""
    people = [
        {"Age": "22", "ECG": {"stimuli": cells(np.ones((4, 2)) * k, np.arange(6.0).reshape(3, 2))}, "Score": [[k]]}
        for k in range(3)
    ]
    return {"before": np.arange(12.0).reshape(3, 4), "D": {"Data": cells(*people), "rate": 256.0}, "after": "end"}


@pytest.mark.parametrize("compressed", [False, True])
def test_chosen_places_are_what_scipy_reads_there(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "x.mat"
    savemat(path, nested(), do_compression=compressed)
    whole = loadmat(path)
    person = whole["D"]["Data"][0, 0][0, 1]
    wanted = [
        ("before",),
        ("after",),
        ("D", "rate"),
        ("D", "Data", _matlab.COUNT),
        ("D", "Data", 1, "ECG", "stimuli"),
        ("D", "Data", 1, "Age"),
        ("D", "nothing"),
    ]
    found = _matlab.find(path, wanted)
    assert set(wanted) - set(found) == {("D", "nothing")}
    assert np.array_equal(found[("before",)], whole["before"])
    assert (found[("after",)], found[("D", "Data", 1, "Age")]) == ("end", "22")
    assert found[("D", "rate")].item() == 256
    assert found[("D", "Data", _matlab.COUNT)] == 3
    for mine, theirs in zip(
        found[("D", "Data", 1, "ECG", "stimuli")], person["ECG"][0, 0]["stimuli"][0, 0].ravel(), strict=True
    ):
        assert np.array_equal(mine, theirs)


def test_a_whole_struct_and_an_array_of_structs(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    many = np.array([[(1.0, "a"), (2.0, "bc")]], dtype=[("x", "O"), ("t", "O")])
    savemat(path, {"one": {"x": 1.0, "empty": np.empty((0, 0))}, "many": many, "text": np.array(["ab", "cd"])})
    found = _matlab.find(path, [("one",), ("many",), ("many", 1, "t"), ("text",)])
    assert found[("one",)]["x"].item() == 1 and found[("one",)]["empty"].size == 0
    assert [(e["x"].item(), e["t"]) for e in found[("many",)]] == [(1, "a"), (2, "bc")]
    assert found[("many", 1, "t")] == "bc"
    assert found[("text",)] == "ab\ncd"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=NUMBERS, rows=st.integers(0, 5), columns=st.integers(0, 4), compressed=st.booleans(), seed=st.integers(0, 99)
)
def test_every_kind_of_number_and_shape(
    tmp_path: Path, dtype: str, rows: int, columns: int, compressed: bool, seed: int
) -> None:
    data = np.random.default_rng(seed).integers(0, 100, (rows, columns)).astype(dtype)
    savemat(tmp_path / "x.mat", {"skip": np.ones(7), "x": data}, do_compression=compressed)
    mine = _matlab.find(tmp_path / "x.mat", [("x",)])[("x",)]
    theirs = loadmat(tmp_path / "x.mat")["x"]
    assert mine.dtype == theirs.dtype and mine.size == theirs.size
    assert np.array_equal(mine.ravel(), theirs.ravel())


def test_big_endian_and_doubles_stored_small(tmp_path: Path) -> None:
    """As MATLAB on other machines writes, and as it packs whole doubles into bytes."""
    name, shape, flags = b"x\0\0\0", (1, 3), 6
    for order, mark in (("<", b"IM"), (">", b"MI")):
        ints = lambda *n, o=order: np.array(n, f"{o}i4").tobytes()  # noqa: E731
        small = ints(1 | 1 << 16) if order == "<" else ints(1 << 16 | 1)
        body = ints(6, 8, flags, 0) + ints(5, 8, *shape) + small + name + ints(2 | 3 << 16) + bytes([1, 2, 3, 0])
        version = np.array([0x0100], f"{order}u2").tobytes()
        (tmp_path / "x.mat").write_bytes(
            b"MATLAB 5.0 MAT-file".ljust(124) + version + mark + ints(14, len(body)) + body
        )
        assert _matlab.find(tmp_path / "x.mat", [("x",)])[("x",)].tolist() == [[1, 2, 3]]
        assert loadmat(tmp_path / "x.mat")["x"].tolist() == [[1, 2, 3]]


def test_reading_stops_when_all_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    savemat(path, nested(), do_compression=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert ("before",) in _matlab.find(path, [("before",)])
    with pytest.raises(DataError, match=r"byte \d+: the file is cut or broken here"):
        _matlab.find(path, [("after",)])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), compressed=st.booleans())
def test_a_broken_file_gives_a_data_error_or_values_never_a_crash(
    tmp_path: Path, data: st.DataObject, compressed: bool
) -> None:
    path = tmp_path / "x.mat"
    savemat(path, nested(), do_compression=compressed)
    whole = bytearray(path.read_bytes())
    for _ in range(3):
        whole[data.draw(st.integers(128, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(100, len(whole)))])
    try:
        _matlab.find(path, [("before",), ("D",), ("after",), ("none",)])
    except DataError as error:
        assert str(path) in str(error)


def test_a_matrix_without_its_flags_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    path.write_bytes(head + struct.pack("<4I", 14, 8, 6, 0))
    with pytest.raises(DataError, match="byte 144: the file is cut or broken here"):
        _matlab.find(path, [("x",)])


def test_other_kinds_of_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    with pytest.raises(DataError, match="cannot be read"):
        _matlab.find(path, [("x",)])
    for content, reason in ((b"MATLAB 7.3 MAT-file".ljust(128), "-v7"), (b"hello", "not a MATLAB 5"), (b"", "not a M")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            _matlab.find(path, [("x",)])
