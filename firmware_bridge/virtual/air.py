"""The air between virtual controllers: bumble's in-process link, with what a kernel's Bluetooth stack needs mended.

Knows nothing of sensors. bumble 0.0.236.
"""

from __future__ import annotations

import asyncio
import logging

from bumble.controller import Controller
from bumble.core import PhysicalTransport
from bumble.hci import (
    Address,
    HCI_ErrorCode,
    HCI_LE_Connection_Complete_Event,
    HCI_LE_Create_Connection_Cancel_Command,
    HCI_Reset_Command,
    HCI_StatusReturnParameters,
    LeFeatureMask,
    Role,
)
from bumble.link import LocalLink
from bumble.ll import TerminateInd

logging.getLogger("bumble").addHandler(logging.NullHandler())
"""Where no one asks for logs, bumble's warnings of links that were dropped on purpose stay off stderr."""

ACL_BYTES = 251
"""Largest link-layer payload with data length extension: an H10's frame travels in one HCI packet, not in nine."""
MASKED = LeFeatureMask.LL_PRIVACY | LeFeatureMask.LE_EXTENDED_ADVERTISING
"""With these, bumble answers LE_Create_Connection with an event the kernel does not wait for (bumble #841): links then
cannot be dropped. Without, plain legacy advertising and connecting remain, as on any 4.x radio."""


class Air(LocalLink):
    """LocalLink labels LE data with the sender's random address, also where the link was made with its public one (as
    Linux does); this one labels it with the address of the link."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def send_acl_data(
        self,
        sender_controller: Controller,
        destination_address: Address,
        transport: PhysicalTransport,
        data: bytes,
    ) -> None:
        """One ACL payload to the other end."""
        link = sender_controller.le_connections.get(destination_address)
        receiver = self.find_le_controller(destination_address)
        if link is not None and receiver is not None:
            asyncio.get_running_loop().call_soon(receiver.on_link_acl_data, link.self_address, transport, data)


class AirController(Controller):
    """A controller of a 4.x radio. Its HCI reset drops its links, and a connecting that is cancelled ends, which
    bumble's own leave undone: after the first sensor out of reach it would never connect again."""

    def __init__(self, name: str, air: Air, **arguments: object) -> None:
        super().__init__(name, link=air, **arguments)  # type: ignore[arg-type]
        self.le_features &= ~MASKED
        self.le_acl_data_packet_length = ACL_BYTES

    def on_hci_reset_command(self, command: HCI_Reset_Command) -> HCI_StatusReturnParameters:
        """Nobody hears of it on this side; the other side sees its link time out."""
        for link in self.le_connections.values():
            link.send_ll_control_pdu(TerminateInd(HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR))
        self.le_connections.clear()
        self.pending_le_connection = None
        self.le_scan_enable = False
        self.le_legacy_advertiser.stop()
        return super().on_hci_reset_command(command)

    def on_hci_le_create_connection_cancel_command(
        self, _command: HCI_LE_Create_Connection_Cancel_Command
    ) -> HCI_StatusReturnParameters:
        """The host hears of a link that failed (Core 5.4, Vol 4, Part E, 7.8.13), after its command's completion."""
        pending, self.pending_le_connection = self.pending_le_connection, None
        if pending is None:
            return HCI_StatusReturnParameters(HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        asyncio.get_running_loop().call_soon(self.send_hci_packet, _failed(pending.peer_address))
        return HCI_StatusReturnParameters(HCI_ErrorCode.SUCCESS)


def _failed(peer: Address) -> HCI_LE_Connection_Complete_Event:
    return HCI_LE_Connection_Complete_Event(
        status=HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
        connection_handle=0,
        role=Role.CENTRAL,
        peer_address_type=peer.address_type,
        peer_address=peer,
        connection_interval=0,
        peripheral_latency=0,
        supervision_timeout=0,
        central_clock_accuracy=0,
    )
