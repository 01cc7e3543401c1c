"""Asserts on the object that `affectd demo --fast --json` prints last: read from standard input."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

KEYS = {"windows", "predictions", "abstentions", "modalities", "realtime_factor", "bundle_sha256"}
BUNDLE = Path(__file__).parent.parent / "device" / "bundles" / "default.affect"

result = json.load(sys.stdin)
assert set(result) == KEYS, sorted(result)
assert result["predictions"] > 500, result
assert result["windows"] == result["predictions"] + sum(result["abstentions"].values()), result
assert sum(result["modalities"].values()) == result["predictions"], result
assert result["modalities"]["ecg+eda"] > 0, result
assert result["modalities"]["ecg"] > 0, "the wrist sensor's loss must leave predictions from ECG alone"
assert result["abstentions"].get("warming_up", 0) > 0, result
assert result["realtime_factor"] > 1, result
assert result["bundle_sha256"] == hashlib.sha256(BUNDLE.read_bytes()).hexdigest(), result
print("demo: as it should be")
