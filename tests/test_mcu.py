"""The network as C for microcontrollers: what compiles is what the bundle holds, and TFLM says what TFLite says."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_bundle import space_bundle, tiny_bundle, tiny_space

from device.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from quantize import mcu
from quantize.cli import command
from quantize.errors import McuError
from quantize.mcu import HEADER, SOURCE, Mcu, compared, header, operator_name, source, tried

USE = r"""
#include <stdio.h>
#include <stdint.h>
#include "affectd_model.h"
static const char *labels[] = AFFECTD_LABELS;
int main(void) {
  float scales[] = {AFFECTD_ECG_SCALE, AFFECTD_EDA_SCALE, AFFECTD_TEMPERATURE_ECG_EDA, AFFECTD_MIN_PROBABILITY_EDA};
  printf("%d %d %s %d\n", AFFECTD_ARENA_BYTES, AFFECTD_N_LABELS, labels[AFFECTD_N_LABELS - 1], AFFECTD_INPUT_MASK);
  printf("%.9g %.9g %.9g %.9g\n", scales[0], scales[1], scales[2], scales[3]);
  printf("%d\n", (int)((uintptr_t)affectd_model % 16));
  fflush(stdout);
  return fwrite(affectd_model, 1, sizeof affectd_model, stdout) != AFFECTD_MODEL_BYTES;
}
"""


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return read_bundle(DEFAULT_BUNDLE)


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "-std=c99"), ("g++", "-std=c++17")])
def test_what_compiles_is_what_the_bundle_holds(shipped: Bundle, tmp_path: Path, compiler: str, standard: str) -> None:
    done = CliRunner().invoke(command, ["mcu", str(DEFAULT_BUNDLE), "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    arena = int(re.search(r"arena (\d+) bytes", done.stdout)[1])  # type: ignore[index]
    assert 10_000 < arena < 200_000 and "reference kernels" in done.stdout
    (tmp_path / "use.c").write_text(USE)
    language = ["-x", "c++"] if compiler == "g++" else []
    program = tmp_path / "use"
    built = subprocess.run(
        [compiler, standard, "-Wall", "-Wextra", "-Werror", *language, "use.c", SOURCE, "-o", program],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    out = subprocess.run([program], capture_output=True, check=True).stdout.split(b"\n", 3)
    m = shipped.manifest
    order = re.search(r"AFFECTD_INPUT_MASK (\d)", (tmp_path / HEADER).read_text())[1]  # type: ignore[index]
    assert out[0].decode().split(" ") == [str(arena), str(len(m.labels)), m.labels[-1], order]
    told = np.array(out[1].decode().split(), np.float32)
    wanted = [
        m.inputs["ecg"].scale,
        m.inputs["eda"].scale,
        m.temperature["ecg+eda"],
        m.thresholds.min_probability["eda"],
    ]
    np.testing.assert_allclose(told, np.float32(wanted), rtol=1e-6)
    assert (out[2], out[3]) == (b"0", shipped.model)


def test_tflm_says_what_the_reference_kernels_say_with_the_arena_that_is_told(shipped: Bundle) -> None:
    found = tried(shipped)
    assert found.worst_steps <= mcu.MOST_STEPS and found.identical > 0.99
    assert sorted(found.inputs) == ["ecg", "eda", "mask"]
    assert set(found.operators) >= {"Conv2D", "FullyConnected", "Logistic", "StridedSlice"}


def test_both_outputs_of_a_network_with_a_space_are_compared(tmp_path: Path) -> None:
    bundle = with_operators(space_bundle(tmp_path / "space.affect", tiny_space()))
    assert tried(bundle).worst_steps <= mcu.MOST_STEPS


def with_operators(bundle: Bundle) -> Bundle:
    return replace(bundle, report={"model": {"operators": {"CONV_2D": 1}}})


def test_more_than_a_step_of_rounding_is_refused() -> None:
    wanted = np.array([[3, -7], [100, 0], [5, 5]])
    assert compared("x", wanted.copy(), wanted) == (0, 1.0)
    assert compared("x", np.add(wanted, [[1, 0], [0, -1], [0, 0]]), wanted) == (1, 4 / 6)
    with pytest.raises(McuError, match="x: an output differs by 2 steps from TFLite's reference kernels"):
        compared("x", np.add(wanted, [[0, 0], [-2, 0], [0, 0]]), wanted)


def test_an_arena_that_is_too_small_ends_the_child_and_not_us(shipped: Bundle) -> None:
    with pytest.raises(McuError, match="does not run it with 4096 bytes"):
        tried(shipped, first=4096)


def test_a_float_network_is_refused(tmp_path: Path) -> None:
    bundle = with_operators(tiny_bundle(tmp_path / "tiny.affect"))
    output = msgspec.structs.replace(bundle.manifest.output, dtype="float32")
    with pytest.raises(McuError, match="is a float network"):
        tried(replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, output=output)))


def test_operators_are_named_as_the_resolver_does() -> None:
    names = ("CONV_2D", "FULLY_CONNECTED", "STRIDED_SLICE", "BATCH_MATMUL", "SOFTMAX", "ADD")
    assert [operator_name(n) for n in names] == [
        "Conv2D", "FullyConnected", "StridedSlice", "BatchMatMul", "Softmax", "Add",
    ]  # fmt: skip


def test_names_that_c_cannot_hold_do_not_break_it(shipped: Bundle) -> None:
    manifest = msgspec.structs.replace(shipped.manifest, labels=('a "b"', "c\\"), task="x */ y")
    text = header(replace(shipped, manifest=manifest), Mcu(1024, 0, 1.0, ("Add",), ("mask", "ecg", "eda")))
    assert text.count("*/") == text.count("/*") and '"a \\"b\\"", "c\\\\"' in text
    assert source(shipped).count("0x") == len(shipped.model)
