"""Characteristics and services that several virtual sensors have.

Knows nothing of streams. bumble guards neither notifications nor their subscription by encryption; these do.
"""

from __future__ import annotations

from collections.abc import Callable

from bumble.att import ATT_Error, ErrorCode
from bumble.device import Connection
from bumble.gatt import (
    GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR,
    Characteristic,
    CharacteristicValue,
    Descriptor,
    Service,
)

from firmware_bridge.virtual.board import Board

Properties = Characteristic.Properties
Permissions = Characteristic.Permissions

BATTERY_PERCENT = 87
"""What every virtual sensor's battery says."""


def characteristic(
    board: Board,
    uuid: str,
    properties: Properties,
    *,
    read: Callable[[], bytes] | None = None,
    write: Callable[[bytes], None] | None = None,
    secure: bool = False,
) -> Characteristic[bytes]:
    """A characteristic; ``secure``: value and subscription need an encrypted link."""
    permissions = Permissions(0)
    if read is not None:
        permissions |= Permissions.READABLE | (Permissions.READ_REQUIRES_ENCRYPTION if secure else Permissions(0))
    if write is not None:
        permissions |= Permissions.WRITEABLE | (Permissions.WRITE_REQUIRES_ENCRYPTION if secure else Permissions(0))
    value = CharacteristicValue(
        read=_no_read if read is None else lambda _connection: read(),
        write=_no_write if write is None else lambda _connection, data: write(bytes(data)),
    )
    made: Characteristic[bytes] = Characteristic(uuid, properties, permissions, value)
    if secure and properties & (Properties.NOTIFY | Properties.INDICATE):
        made.descriptors = [_secure_subscription(board, made)]
    return made


def _no_read(_connection: Connection) -> bytes:
    raise ATT_Error(ErrorCode.READ_NOT_PERMITTED)


def _no_write(_connection: Connection, _data: bytes) -> None:
    raise ATT_Error(ErrorCode.WRITE_NOT_PERMITTED)


def _secure_subscription(board: Board, of: Characteristic[bytes]) -> Descriptor:
    """The descriptor a host writes to subscribe, for encrypted links only."""
    permissions = Permissions.READABLE | Permissions.WRITEABLE | Permissions.WRITE_REQUIRES_ENCRYPTION
    value = board.device.gatt_server.make_descriptor_value(of)
    return Descriptor(GATT_CLIENT_CHARACTERISTIC_CONFIGURATION_DESCRIPTOR, permissions, value)


def battery(board: Board) -> Service:
    """Battery Service (0x180F)."""
    level = characteristic(board, "2A19", Properties.READ | Properties.NOTIFY, read=lambda: bytes([BATTERY_PERCENT]))
    return Service("180F", [level])


def device_information(board: Board, maker: str, model: str) -> Service:
    """Device Information Service (0x180A): maker, model, serial, firmware."""
    texts = {"2A29": maker, "2A24": model, "2A25": board.spec.serial, "2A26": "virtual"}
    return Service("180A", [_text(board, uuid, text) for uuid, text in texts.items()])


def _text(board: Board, uuid: str, text: str) -> Characteristic[bytes]:
    return characteristic(board, uuid, Properties.READ, read=text.encode)
