"""``affectd-pair``: the tool of firmware_bridge with the pipeline's own judges of rate, quality and heart rate.

It knows nothing of radios or of the command line. Scipy is loaded with the first sensor that is judged, not before.
"""

from __future__ import annotations

from firmware_bridge.packet import StreamInfo
from firmware_bridge.pair import cli
from firmware_bridge.pair.assess import Assessor
from firmware_bridge.pair.outside import Outside


def assess(info: StreamInfo) -> Assessor:
    """A fresh judge of one stream."""
    from device.assess import PipelineAssessor

    return PipelineAssessor(info)


def main() -> None:
    """Console entry point of affectd-pair."""
    cli.main(outside=Outside(assess))
