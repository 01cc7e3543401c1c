from __future__ import annotations

import subprocess
import sys
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codec import Options
from firmware_bridge.codecs.nervous import frame
from firmware_bridge.errors import DecodeError, FirmwareBridgeError
from firmware_bridge.packet import Packet
from firmware_bridge.protocols import PROTOCOLS, UnknownProtocolError, codec

WORKED = {
    "polar-pmd-ecg": (
        "00 00 00 c9 1b 76 61 0c 0a 00 02 80 ff d2 04 00",
        Packet(724_060_800_000_000_000, (-32766, 1234)),
    ),
    "open-eda": (
        "01 04 01 02 87 d6 12 00 03 14 00 00 04 14 00 00 06 14 00 00 05 14 00 00",
        Packet(1_234_567, (5123, 5124, 5126, 5125), seq=513),
    ),
    "movesense-ecg": (
        "02 63 a9 21 00 00" + 4 * " 0c 1f 88 1e 05 1e 8e 1d",
        Packet(8617, (7948, 7816, 7685, 7566) * 4),
    ),
    "movesense-ecg-raw": (
        "02 63 a9 21 00 00" + 4 * " 63 51 00 00 08 50 00 00 b3 4e 00 00 79 4d 00 00",
        Packet(8617, (20835, 20488, 20147, 19833) * 4),
    ),
    "nuanic-eda": (
        "07 00 27 08 1b 1b a0 01 00 00 90 d0 03 00",
        Packet(1_787_161_151_527, (4_000_000,), boot=7),
    ),
    "nervous-eda": (
        "04 0a 0a 0d 05 50 43 48 15 10 60 6a c6 12 0a 08 bf d4 97 d4 06 10 98 95 20 00",
        Packet(1_787_161_151_527_000, (4_985_997,)),
    ),
    "nervous-ecg": (
        frame(bytes.fromhex("0a 04 01 00 fe ff 10 01 1a 06 08 01 10 a0 c2 1e")).hex(),
        Packet(1_500_000, (1, -2)),
    ),
    "shimmer3r-gsr": ("00 40 e2 01 c4 89", Packet(123_456, (2_663_004,))),
    "bitalino-eda": ("00 08 51", Packet(5, (12_500_000,))),
}


def test_every_streaming_codec_has_a_worked_notification() -> None:
    assert set(WORKED) == set(PROTOCOLS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_worked_notifications_decode_by_name(name: str) -> None:
    data, packet = WORKED[name]
    assert codec(name).decoder().push(bytes.fromhex(data)) == [packet]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_codec_is_complete(name: str) -> None:
    entry = codec(name)
    uuids = [entry.service_uuid, entry.data_uuid, *entry.advertised]
    # lower case and full length: bleak's own spelling, so that they compare as text
    assert [str(UUID(uuid)) for uuid in uuids] == uuids
    assert entry.device.isprintable() and entry.evidence.source
    assert entry.stall_s <= entry.first_s
    assert entry.start(Options())
    info = entry.stream_info
    assert info.protocol == name
    assert (info.modality, info.units) in {("ecg", "mV"), ("eda", "uS")}
    assert info.value_range[0] <= 0 < info.value_range[1]
    assert len(info.ch_names) == 1


@given(st.sampled_from(sorted(PROTOCOLS)), st.lists(st.binary(max_size=80), max_size=5))
def test_arbitrary_notifications_raise_only_decode_error(name: str, notifications: list[bytes]) -> None:
    decoder = codec(name).decoder()
    for data in notifications:
        try:
            packets = decoder.push(data)
        except DecodeError as error:
            assert error.protocol == name
            packets = list(error.packets)
        assert all(packet.values for packet in packets)


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(UnknownProtocolError, match="unknown protocol 'heart-beat': expected one of polar-pmd-ecg, "):
        codec("heart-beat")
    assert issubclass(UnknownProtocolError, FirmwareBridgeError)


def test_the_codecs_load_the_standard_library_alone() -> None:
    script = (
        "import sys; import firmware_bridge.protocols, firmware_bridge.codecs.heart_rate;"
        "names = {name.partition('.')[0] for name in sys.modules};"
        "print(sorted(names & {'numpy', 'msgspec', 'bleak', 'asyncio', 'click', 'rich', 'logging', 'socket'}))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
