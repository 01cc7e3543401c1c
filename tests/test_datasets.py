"""The registry of data sets: each entry keeps the contract, folders are told apart, and a wrong folder is explained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_e4 import write_folder
from test_stress_predict import write_set

from train.data import datasets
from train.data.errors import DataError

REFERENCE = os.environ.get("AFFECTD_REFERENCE_DATA")
needs_reference = pytest.mark.skipif(REFERENCE is None, reason="AFFECTD_REFERENCE_DATA is not set: no real data sets")


@pytest.mark.parametrize("name", datasets.names())
def test_every_entry_says_what_it_is(name: str, tmp_path: Path) -> None:
    entry = datasets.get(name)
    assert entry.name == name
    assert all(
        (entry.title, entry.layout, entry.licence, entry.url.startswith("http") or entry.url.startswith("docs/"))
    )
    assert entry.recognise(tmp_path) is False
    assert entry.recognise(tmp_path / "nowhere") is False


@pytest.mark.parametrize("name", [name for name in datasets.names() if name not in ("stress-predict", "e4")])
def test_a_reader_bears_the_name_it_is_known_by(name: str) -> None:
    assert name == sys.modules[datasets.get(name).load.__module__].NAME


@pytest.mark.parametrize("name", datasets.names())
def test_every_entry_refuses_a_folder_without_subjects(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        datasets.get(name).subjects(tmp_path)
    assert str(tmp_path) in str(caught.value) and caught.value.remedy


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"swell: data set: is not known; known are wesad, stress-predict, "):
        datasets.get("swell")


def test_stress_predict_is_not_taken_for_loose_e4_folders(tmp_path: Path) -> None:
    entry = datasets.find(write_set(tmp_path))
    assert (entry.name, entry.subjects(tmp_path)) == ("stress-predict", ["S02"])
    (recording,) = entry.load(tmp_path, "S02")
    assert recording.dataset == entry.name
    assert datasets.needs_surrogate_ecg(recording)


def test_e4_folders_of_a_person_are_its_sessions(tmp_path: Path) -> None:
    for folder in ("P10/day 2", "P10/day 10", "P2"):
        write_folder(tmp_path / folder)
    (tmp_path / "notes").mkdir()
    entry = datasets.find(tmp_path)
    assert (entry.name, entry.subjects(tmp_path)) == ("e4", ["P2", "P10"])
    assert [rec.session for rec in entry.load(tmp_path, "P10")] == ["day 2", "day 10"]
    assert {rec.subject for rec in entry.load(tmp_path, "P10")} == {"P10"}
    with pytest.raises(DataError, match="P3: folder: holds no E4 folder"):
        entry.load(tmp_path, "P3")


def test_one_e4_folder_alone_is_a_subject(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "A00123")
    entry = datasets.find(root)
    assert (entry.name, entry.subjects(root)) == ("e4", ["A00123"])
    assert len(entry.load(root, "A00123")) == 1


def test_a_named_data_set_is_believed(tmp_path: Path) -> None:
    write_folder(tmp_path / "P2")
    assert datasets.find(tmp_path, "wesad").name == "wesad"


def test_an_unknown_folder_is_told_with_all_layouts(tmp_path: Path) -> None:
    for name in ("a1.bin", "a10.bin", "a2.bin", ".hidden", "b", "c", "d", "e"):
        (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        datasets.find(tmp_path)
    text = str(caught.value)
    assert f"{tmp_path}: folder: follows no layout that affectd-train knows; it holds a1.bin, a2.bin, a10.bin" in text
    assert "and 1 more" in text and ".hidden" not in text
    assert all(f"{name}: " in text for name in datasets.names())


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it holds nothing"):
        datasets.find(tmp_path)


@pytest.mark.parametrize("given_path", ["a", "set/Processed_data"])
def test_one_level_off_names_the_path_that_was_meant(tmp_path: Path, given_path: str) -> None:
    root = write_set(tmp_path / "a" / "b" / "set") if given_path == "a" else write_set(tmp_path / "set")
    with pytest.raises(DataError) as caught:
        datasets.find(tmp_path / given_path)
    assert caught.value.remedy == f"{root} is Stress-Predict (Iqbal et al. 2022): give that path"


def test_e4_folders_inside_a_published_set_are_not_read_without_its_labels(tmp_path: Path) -> None:
    inside = write_set(tmp_path / "set") / "Raw_data"
    with pytest.raises(DataError, match="could be read as e4, but a published set is near") as caught:
        datasets.find(inside)
    assert caught.value.remedy.endswith("set is Stress-Predict (Iqbal et al. 2022): give that path, or --dataset e4")
    assert datasets.find(inside, "e4").subjects(inside) == ["S01", "S02"]


def test_a_file_and_a_missing_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "x.mat").touch()
    with pytest.raises(DataError, match=r"x\.mat: folder: is a file; give the data set's top folder"):
        datasets.find(tmp_path / "x.mat")
    with pytest.raises(DataError, match="y: folder: does not exist"):
        datasets.find(tmp_path / "y", "wesad")


@given(st.lists(st.integers(0, 10**6), max_size=8))
def test_natural_order_is_the_numbers_order(numbers: list[int]) -> None:
    assert sorted((f"S{k}.pkl" for k in numbers), key=datasets.natural) == [f"S{k}.pkl" for k in sorted(numbers)]


@given(st.lists(st.text(max_size=6), max_size=6))
def test_natural_order_takes_any_name(names: list[str]) -> None:
    assert sorted(sorted(names, key=datasets.natural)) == sorted(names)


@pytest.mark.parametrize("module", ["train.data.datasets", "train.data.command"])
def test_the_registry_loads_no_reader(module: str) -> None:
    code = f"import {module}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"wfdb", "h5py", "edfio", "torch", "openpyxl", "matplotlib", "pandas", "scipy"}.isdisjoint(loaded)


@needs_reference
@pytest.mark.parametrize(
    ("folder", "name", "subjects"),
    [
        ("wesad_e4", "wesad", 15),
        ("stress_predict", "stress-predict", 34),
        ("mitbih_tpcp", "mitbih-tpcp", 12),
        ("neurokit", "neurokit", 7),
        ("qtdb", "wfdb", None),
    ],
)
def test_real_folders_are_recognised(folder: str, name: str, subjects: int | None) -> None:
    root = Path(str(REFERENCE), folder)
    entry = datasets.find(root)
    assert entry.name == name
    assert subjects is None or len(entry.subjects(root)) == subjects
