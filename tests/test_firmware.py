"""firmware_bridge/firmware/open_eda.h, compiled and run, against the Python codec of the same profile.

A driver (tests/data/firmware_driver.c) calls the header; it answers one line of text with one line of text.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import firmware_bridge
from firmware_bridge.codecs import open_eda
from firmware_bridge.codecs.open_eda import (
    MAX_SAMPLES,
    OPEN_VALUE,
    SATURATED_VALUE,
    Command,
    Data,
    Info,
    Op,
    Response,
    Result,
    Status,
    max_samples,
)
from firmware_bridge.errors import DecodeError

PACKAGE = Path(firmware_bridge.__file__).parent
FIRMWARE = PACKAGE / "firmware"
EXAMPLES = FIRMWARE / "examples"
HEADER = FIRMWARE / "open_eda.h"
DRIVER = Path(__file__).parent / "data" / "firmware_driver.c"
STUBS = Path(__file__).parent / "data" / "firmware_stubs"

SPECIFICATION = (PACKAGE / "PROTOCOL.md").read_text(encoding="utf-8")
WORKED = re.findall(r"```example\n(.+)\n(.+)\n```", SPECIFICATION)
MESSAGES = {message.__name__: message for message in (Info, Data, Status, Command, Response)}

STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]
SANITIZERS = ["-fsanitize=undefined,address", "-fno-sanitize-recover=all", "-g"]
RATES_MHZ = (8_000, 4_000, 2_000)
"""Of the driver's sensor."""
E_ARGUMENT, E_SPACE, E_STATE = "error -1", "error -2", "error -3"

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
positive = st.integers(1, 2**32 - 1)
int32 = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([OPEN_VALUE, SATURATED_VALUE, -1, 0])
# Most arbitrary bytes are no command: many are given a right first byte, and many a right length.
written = st.one_of(
    st.binary(max_size=8),
    st.builds(lambda op, tail: bytes([op]) + tail, st.sampled_from(Op), st.binary(max_size=6)),
    st.sampled_from([bytes(Command(Op.START)), bytes(Command(Op.STOP))]),
    st.builds(lambda rate: bytes(Command(Op.SET_RATE, rate)), st.sampled_from(RATES_MHZ) | u32),
)


def _compile(compiler: str, *arguments: str | Path) -> None:
    if shutil.which(compiler) is None:
        pytest.fail(f"no {compiler}: the C encoder for makers is checked with it (Debian: apt install gcc g++)")
    done = subprocess.run([compiler, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def _sanitizers(folder: Path) -> list[str]:
    """The compiler's sanitizers, where they are installed and the system lets them run."""
    source, program = folder / "nothing.c", folder / "nothing"
    source.write_text("int main(void) { return 0; }\n", encoding="utf-8")
    built = subprocess.run(["gcc", *SANITIZERS, source, "-o", program], capture_output=True, check=False)
    if built.returncode != 0 or subprocess.run([program], capture_output=True, check=False).returncode != 0:
        return []
    return SANITIZERS


@dataclass(frozen=True)
class Firmware:
    """The running driver."""

    process: subprocess.Popen[str]
    errors: Path

    def ask(self, *words: object) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer.endswith("\n"), f"the driver died of {words}: {self.errors.read_text()}"
        return answer.strip()

    def encoded(self, *words: object) -> bytes:
        return bytes.fromhex(self.ask(*words))


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firmware]:
    folder = tmp_path_factory.mktemp("firmware")
    program, errors = folder / "driver", folder / "stderr"
    include = f"-I{FIRMWARE}"
    if shutil.which("gcc") is not None:
        _compile("gcc", "-std=c99", *STRICT, *_sanitizers(folder), include, DRIVER, "-o", program)
    else:
        _compile("gcc")
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, bufsize=1
        ) as process,
    ):
        yield Firmware(process, errors)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=10) == 0, errors.read_text()  # the leak check runs at the end
    assert errors.read_text() == ""


# -- it compiles


@pytest.mark.parametrize("optimised", ["-O0", "-O3"])
def test_the_header_is_strict_c99_by_itself(optimised: str, tmp_path: Path) -> None:
    source = tmp_path / "alone.c"
    source.write_text('#include "open_eda.h"\n#include "open_eda.h"\nint main(void) { return 0; }\n', encoding="utf-8")
    _compile("gcc", "-std=c99", optimised, *STRICT, f"-I{FIRMWARE}", source, "-o", tmp_path / "alone")


@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_the_header_is_strict_cplusplus(standard: str) -> None:
    _compile("g++", "-x", "c++", f"-std={standard}", *STRICT, "-fsyntax-only", HEADER)


def test_the_header_needs_no_libc() -> None:
    text = HEADER.read_text(encoding="utf-8")
    assert set(re.findall(r"#include (.+)", text)) == {"<stdbool.h>", "<stddef.h>", "<stdint.h>"}
    _compile("gcc", "-std=c99", "-ffreestanding", *STRICT, "-fsyntax-only", "-x", "c", HEADER)
    assert "SPDX-License-Identifier: Apache-2.0" in text


# -- the examples of PROTOCOL.md


def _in_c(c: Firmware, message: Info | Data | Status | Command | Response) -> bytes:
    match message:
        case Info(boot_id, rate_mhz, clock_hz):
            return c.encoded("info", rate_mhz, clock_hz, boot_id, 15)
        case Data(seq, ticks, samples):
            return c.encoded("data", seq, ticks, *samples)
        case Status(off, saturated, overrun):
            return c.encoded("status", int(off), int(saturated), int(overrun))
        case Response(op, status):
            return c.encoded("response", op, status, 3)
        case Command(op, rate_mhz):  # which a sensor reads: what it read, written again
            status, read_op, read_rate = map(int, c.ask("parse", bytes(message).hex()).split())
            assert status == Result.OK
            return bytes(Command(Op(read_op), read_rate if read_op == Op.SET_RATE else None))


@pytest.mark.parametrize(("data", "text"), WORKED)
def test_examples_of_the_specification(c: Firmware, data: str, text: str) -> None:
    message = MESSAGES[text.partition("(")[0]].from_bytes(bytes.fromhex(data))
    assert repr(message) == text
    assert _in_c(c, message).hex(" ") == data


def test_uuids(c: Firmware) -> None:
    words = c.ask("uuids").split()
    uuids = ["SERVICE", "INFO", "DATA", "STATUS", "CONTROL"]
    assert words[::2] == [getattr(open_eda, f"{name}_UUID") for name in uuids]
    assert [bytes.fromhex(word)[::-1] for word in words[1::2]] == [UUID(text).bytes for text in words[::2]]


def test_numbers_of_the_header() -> None:
    numbers = dict(
        re.findall(r"^#define OPEN_EDA_(\w+) (?:0x)?\(?(\w+?)u?\)?(?:\s|$)", HEADER.read_text(), re.MULTILINE)
    )
    assert int(numbers["VERSION"]) == open_eda.VERSION
    assert int(numbers["MAX_SAMPLES"]) == MAX_SAMPLES
    assert int(numbers["DEFAULT_RATE_MHZ"]) == open_eda.DEFAULT_RATE_MHZ
    assert int(numbers["DEFAULT_CLOCK_HZ"]) == open_eda.DEFAULT_CLOCK_HZ
    results = ["DONE", "UNKNOWN_COMMAND", "INVALID_PARAMETER", "NOT_NOW"]
    assert [int(numbers[name]) for name in results] == list(Result)
    assert [int(numbers[f"OP_{op.name}"], 16) for op in Op] == list(Op)


# -- C encodes, Python decodes


@given(info=st.builds(Info, boot_id=u32, rate_mhz=positive, clock_hz=positive))
def test_info(c: Firmware, info: Info) -> None:
    assert Info.from_bytes(_in_c(c, info)) == info


def test_info_that_cannot_be_read_is_not_made(c: Firmware) -> None:
    assert c.ask("info", 0, 1000, 7, 15) == c.ask("info", 8000, 0, 7, 15) == E_ARGUMENT
    assert c.ask("info", 8000, 1000, 7, 14) == c.ask("info", 8000, 1000, 7, 0) == E_SPACE


@given(data=st.builds(Data, u16, u32, st.lists(int32, min_size=1, max_size=MAX_SAMPLES).map(tuple)))
def test_data(c: Firmware, data: Data) -> None:
    sent = _in_c(c, data)
    assert sent == bytes(data)
    assert Data.from_bytes(sent) == data


def test_the_largest_packet_fits_its_memory(c: Firmware) -> None:
    """Arbitrary lists seldom are this long, and the sanitizer sees a buffer that is too short only here."""
    data = Data(1, 2**32 - 1, tuple(range(-1, MAX_SAMPLES - 1)))
    assert _in_c(c, data) == bytes(data)
    c.ask("packet", 0)
    c.ask("limit", MAX_SAMPLES)
    assert [c.ask("add", 0, 0) for _ in range(MAX_SAMPLES + 1)] == ["0"] * (MAX_SAMPLES - 1) + ["1", "-3"]


@given(st.booleans(), st.booleans(), st.booleans())
def test_status(c: Firmware, off: bool, saturated: bool, overrun: bool) -> None:
    status = Status(off, saturated, overrun)
    assert Status.from_bytes(_in_c(c, status)) == status


@given(response=st.builds(Response, u8, u8))
def test_response(c: Firmware, response: Response) -> None:
    assert Response.from_bytes(_in_c(c, response)) == response


def test_a_response_needs_its_space(c: Firmware) -> None:
    assert c.ask("response", 1, 0, 2) == E_SPACE


# -- packets in the making


def _packets(c: Firmware, samples: list[tuple[int, int]]) -> list[Data]:
    """Add samples, take each packet that is full, and what is left."""
    taken = [c.ask("take") for ticks, value in samples if c.ask("add", ticks, value) == "1"]
    return [Data.from_bytes(bytes.fromhex(packet)) for packet in [*taken, c.ask("take")] if packet]


@settings(max_examples=50)
@given(
    seq=u16,
    limit=st.integers(1, MAX_SAMPLES),
    start=u32,
    values=st.lists(int32, max_size=140),
)
def test_a_stream_of_packets_loses_nothing(c: Firmware, seq: int, limit: int, start: int, values: list[int]) -> None:
    c.ask("packet", seq)
    assert c.ask("limit", limit) == "0"
    samples = [((start + 125 * i) % 2**32, value) for i, value in enumerate(values)]
    assert _packets(c, samples) == [
        Data((seq + i) % 2**16, samples[first][0], tuple(values[first : first + limit]))
        for i, first in enumerate(range(0, len(values), limit))
    ]


def test_a_packet_that_is_not_sent_counts_and_an_empty_one_does_not(c: Firmware) -> None:
    c.ask("packet", 0xFFFF)
    assert c.ask("take") == ""
    c.ask("add", 1, 10)
    c.ask("take")  # and never sent
    c.ask("add", 2, 20)
    assert c.ask("take") == c.ask("data", 0, 2, 20)
    c.ask("add", 3, 30)
    c.ask("clear")  # the stream was stopped
    c.ask("add", 4, 40)
    assert c.ask("take") == c.ask("data", 1, 4, 40)


@pytest.mark.parametrize("seq", [0, 0xFE, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF])
def test_seq_has_all_of_its_sixteen_bits(c: Firmware, seq: int) -> None:
    c.ask("packet", seq)
    c.ask("limit", 1)
    assert [packet.seq for packet in _packets(c, [(0, 0), (1, 1)])] == [seq, (seq + 1) % 2**16]


def test_a_full_packet_takes_no_more_and_four_is_its_default(c: Firmware) -> None:
    c.ask("packet", 9)
    assert [c.ask("add", tick, tick) for tick in range(5)] == ["0", "0", "0", "1", "-3"]
    assert c.ask("take") == c.ask("data", 9, 0, 0, 1, 2, 3)


@pytest.mark.parametrize("samples", [0, 127, 255])
def test_limits_that_no_packet_has(c: Firmware, samples: int) -> None:
    c.ask("packet", 0)
    assert c.ask("limit", samples) == E_ARGUMENT.removeprefix("error ")


def test_a_limit_waits_for_the_next_packet(c: Firmware) -> None:
    c.ask("packet", 0)
    c.ask("add", 0, 0)
    assert c.ask("limit", 1) == E_STATE.removeprefix("error ")
    c.ask("take")
    assert c.ask("limit", 1) == "0"
    assert c.ask("add", 0, 0) == "1"


def test_largest_packet_at_every_mtu(c: Firmware) -> None:
    for mtu in [*range(530), 2**16 - 1]:
        assert int(c.ask("mtu", mtu)) == max_samples(mtu)


# -- values


@given(ohm=positive)
def test_conductance_of_a_resistance(c: Firmware, ohm: int) -> None:
    assert int(c.ask("ohm", ohm, 0, 0)) == (2 * 10**9 + ohm) // (2 * ohm)  # rounded half up


@pytest.mark.parametrize(
    ("ohm", "value"),
    [
        (10_000, 100_000),  # 100 uS
        (195_198, 5123),
        (10_000_000, 100),  # 0.1 uS
        (0, SATURATED_VALUE),
        (5_000, SATURATED_VALUE),
        (5_001, 199_960),
        (49_999_999, 20),
        (50_000_000, OPEN_VALUE),
        (2**32 - 1, OPEN_VALUE),
    ],
)
def test_the_ends_of_a_sensors_range(c: Firmware, ohm: int, value: int) -> None:
    assert int(c.ask("ohm", ohm, 5_000, 50_000_000)) == value


def test_zero_ohm_is_saturated_for_any_sensor(c: Firmware) -> None:
    assert int(c.ask("ohm", 0, 0, 0)) == SATURATED_VALUE


@pytest.mark.parametrize(
    ("value", "status"),
    [(OPEN_VALUE, Status(electrode_off=True)), (SATURATED_VALUE, Status(saturated=True)), (0, Status())],
)
def test_status_that_a_value_speaks_for(c: Firmware, value: int, status: Status) -> None:
    assert Status.from_bytes(c.encoded("value", value)) == status


# -- Control: C reads what Python writes


def _verdict(data: bytes) -> tuple[int, int, int]:
    """Status, op and rate of a write, by the Python codec."""
    op = data[0] if data else 0
    try:
        command = Command.from_bytes(data)
    except DecodeError:
        return (Result.INVALID_PARAMETER if op in tuple(Op) else Result.UNKNOWN_COMMAND), op, 0
    return Result.OK, op, command.rate_mhz or 0


@settings(max_examples=400)
@given(data=written)
def test_writes_are_read_as_the_codec_reads_them(c: Firmware, data: bytes) -> None:
    assert tuple(map(int, c.ask("parse", data.hex()).split())) == _verdict(data)


@dataclass
class Model:
    """PROTOCOL.md's rules of Control, once more."""

    streaming: bool = False
    rate_mhz: int = RATES_MHZ[0]

    def write(self, data: bytes) -> str:
        status, op, rate_mhz = _verdict(data)
        if status == Result.OK:
            status = self._do(Op(op), rate_mhz)
        return f"{bytes(Response(op, status)).hex()} {self.streaming:d} {self.rate_mhz}"

    def _do(self, op: Op, rate_mhz: int) -> Result:
        if op is not Op.SET_RATE:
            self.streaming = op is Op.START
        elif self.streaming:
            return Result.INVALID_STATE
        elif rate_mhz not in RATES_MHZ:
            return Result.INVALID_PARAMETER
        else:
            self.rate_mhz = rate_mhz
        return Result.OK


@given(writes=st.lists(written | st.none(), max_size=12))
def test_any_sequence_of_writes_and_disconnections(c: Firmware, writes: list[bytes | None]) -> None:
    assert c.ask("boot", 7) == "0"
    model = Model()
    for data in writes:
        if data is None:
            model.streaming = False
            assert c.ask("disconnected") == f"0 {model.rate_mhz}"
        else:
            assert c.ask("write", data.hex()) == model.write(data)


@pytest.mark.parametrize(
    ("writes", "answer", "streaming", "rate_mhz"),
    [
        (["01"], "f00100", 1, 8000),
        (["01", "01"], "f00100", 1, 8000),
        (["02"], "f00200", 0, 8000),
        (["03a00f0000"], "f00300", 0, 4000),
        (["01", "03a00f0000"], "f00303", 1, 8000),
        (["01", "0300000000"], "f00303", 1, 8000),
        (["01", "02", "03a00f0000"], "f00300", 0, 4000),
        (["0300000000"], "f00302", 0, 8000),
        (["030fa00000"], "f00302", 0, 8000),
        (["03a00f00"], "f00302", 0, 8000),
        (["0100"], "f00102", 0, 8000),
        (["01", "0200"], "f00202", 1, 8000),
        (["04"], "f00401", 0, 8000),
        (["00"], "f00001", 0, 8000),
        ([""], "f00001", 0, 8000),
    ],
)
def test_answers_of_the_specification(
    c: Firmware, writes: list[str], answer: str, streaming: int, rate_mhz: int
) -> None:
    c.ask("boot", 7)
    answers = [c.ask("write", data) for data in writes]
    assert answers[-1] == f"{answer} {streaming} {rate_mhz}"


def test_misuse_is_an_error_and_no_crash(c: Firmware) -> None:
    *errors, status = map(int, c.ask("misuse").split())
    assert errors == [-1] * 15
    assert status == Result.UNKNOWN_COMMAND


# -- the sketches, against stubs of the platforms' headers


def _zephyr() -> None:
    include = [f"-I{STUBS / 'zephyr'}", f"-I{FIRMWARE}"]
    # Zephyr prescribes the parameters of callbacks, used or not.
    strict = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    _compile("gcc", "-std=gnu11", *strict, "-fsyntax-only", *include, EXAMPLES / "zephyr/src/main.c")


def _arduino() -> None:
    include = [f"-I{STUBS / 'arduino'}", f"-I{FIRMWARE}", "-include", "Arduino.h"]
    sketch = EXAMPLES / "arduino_esp32/arduino_esp32.ino"
    _compile("g++", "-std=gnu++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *include, "-x", "c++", sketch)


@pytest.mark.parametrize("check", [_zephyr, _arduino])
def test_sketches_compile_against_stubs(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("name", ["DATA", "STATUS", "CONTROL"])
def test_sketches_ask_for_encryption_where_the_specification_does(name: str) -> None:
    arduino = (EXAMPLES / "arduino_esp32/arduino_esp32.ino").read_text(encoding="utf-8")
    zephyr = (EXAMPLES / "zephyr/src/main.c").read_text(encoding="utf-8")
    created = re.search(rf"OPEN_EDA_{name}_UUID,(.*?);", arduino, re.DOTALL)
    declared = re.search(rf"OPEN_EDA_{name}_UUID_LE\)(.*?BT_GATT_CCC\(.*?)\)", zephyr, re.DOTALL)
    assert created is not None
    assert declared is not None
    assert re.search("READ_ENC|WRITE_ENC", created[1])
    value, _, subscription = declared[1].partition("BT_GATT_CCC")
    assert re.search("PERM_(READ|WRITE)_ENCRYPT", value)
    assert "PERM_WRITE_ENCRYPT" in subscription


def test_the_readme_names_files_that_exist() -> None:
    readme = (FIRMWARE / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert linked
    assert [link for link in linked if not (FIRMWARE / link).exists()] == []
    sources = {path.relative_to(FIRMWARE).as_posix() for path in EXAMPLES.rglob("*") if path.is_file()}
    assert sources <= set(linked)
