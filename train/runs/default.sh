#!/usr/bin/env bash
# The shipped bundle, start to end: data -> windows -> evaluation -> network -> int8 bundle -> demo subject.
# About 35 minutes on two cores. Needs Stress-Predict below AFFECTD_REFERENCE_DATA (or its folder as $1).
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1
data=${1:-${AFFECTD_REFERENCE_DATA:?names no folder with the reference recordings}/stress_predict}
out=${2:-runs-out}

echo "1/5 windows through the device's pipeline";  affectd-train prepare --data "$data" --out "$out"
echo "2/5 leave-one-subject-out, both modes";      affectd-train loso --data "$data" --out "$out"
echo "3/5 the shipped network";                    affectd-train fit --data "$data" --out "$out"
echo "4/5 int8 bundle";                            mkdir -p device/bundles
affectd-quantize "$out/acc.pt" --calibration "$out/windows.npz" --results results/stress_predict_loso.json \
  -o device/bundles/default.affect
echo "5/5 the demo's held-out subject";            affectd-train demo-data --data "$data"
