from __future__ import annotations

import subprocess
import sys
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.errors import DecodeError, FirmwareBridgeError
from firmware_bridge.packet import Packet
from firmware_bridge.protocols import PROTOCOLS, UnknownProtocolError, codec, decode

WORKED = {
    "polar-pmd-ecg": (
        "00 00 00 c9 1b 76 61 0c 0a 00 02 80 ff d2 04 00",
        Packet(724_060_800_000_000_000, (-32766, 1234)),
    ),
    "open-eda": (
        "01 04 01 02 87 d6 12 00 03 14 00 00 04 14 00 00 06 14 00 00 05 14 00 00",
        Packet(1_234_567, (5123, 5124, 5126, 5125), seq=513),
    ),
}


def test_the_table_holds_every_streaming_codec() -> None:
    assert dict(PROTOCOLS) == {"polar-pmd-ecg": polar_pmd, "open-eda": open_eda}
    assert set(WORKED) == set(PROTOCOLS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_worked_notifications_decode_by_name(name: str) -> None:
    data, packet = WORKED[name]
    assert decode(name, bytes.fromhex(data)) == packet


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_codec_is_complete(name: str) -> None:
    entry = codec(name)
    uuids = [entry.SERVICE_UUID, entry.DATA_UUID, entry.CONTROL_UUID]
    assert len(set(uuids)) == 3
    # lower case and full length: bleak's own spelling, so that they compare as text
    assert [str(UUID(uuid)) for uuid in (*uuids, entry.INFO_UUID)] == [*uuids, entry.INFO_UUID]
    assert entry.START != entry.STOP
    info = entry.STREAM_INFO
    assert (info.modality, info.units) in {("ecg", "mV"), ("eda", "uS")}
    assert info.value_range[0] < 0 < info.value_range[1]
    assert len(info.ch_names) == 1


@given(st.sampled_from(sorted(PROTOCOLS)), st.binary(max_size=80))
def test_arbitrary_notifications_raise_only_decode_error(name: str, data: bytes) -> None:
    try:
        packet = decode(name, data)
    except DecodeError as error:
        assert error.protocol == name
    else:
        assert packet.values


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(
        UnknownProtocolError, match="unknown protocol 'heart-beat': expected one of polar-pmd-ecg, open-eda"
    ):
        decode("heart-beat", b"")
    assert issubclass(UnknownProtocolError, FirmwareBridgeError)


def test_the_codecs_load_the_standard_library_alone() -> None:
    script = (
        "import sys; import firmware_bridge.protocols, firmware_bridge.codecs.heart_rate;"
        "names = {name.partition('.')[0] for name in sys.modules};"
        "print(sorted(names & {'numpy', 'msgspec', 'bleak', 'asyncio', 'click', 'rich', 'logging', 'socket'}))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
