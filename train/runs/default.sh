#!/usr/bin/env bash
# The shipped bundle: data -> windows -> network (cold start, without the demo's subject) -> int8 bundle -> demo subject.
# Some minutes on two cores. The card's figures come from results/loso.json, which train/runs/all.sh writes.
# Needs Stress-Predict below AFFECTD_REFERENCE_DATA (or its folder as $1).
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1
data=${1:-${AFFECTD_REFERENCE_DATA:?names no folder with the reference recordings}/stress_predict}
out=${2:-runs-out}

echo "1/3 the network"
affectd-train fit --config train/runs/emobed-stress-predict.toml --system emobed --without S21 --data "$data" --out "$out"
echo "2/3 int8 bundle"
mkdir -p device/bundles
affectd-quantize "$out/emobed.pt" --recipe int8 --calibration "$out/windows.npz" --results results/loso.json \
  -o device/bundles/default.affect
echo "3/3 the demo's held-out subject"
affectd-train demo-data --data "$data"
