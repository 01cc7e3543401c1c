#!/usr/bin/env bash
# Every result, start to end: windows -> folds -> int8 folds -> results/loso.json, docs/RESULTS.md, the report's page.
# Hours on two cores; interrupt it at will and run it again: it goes on where it was. With MINUTES=110 each evaluation
# begins no fold after that long, so that the whole comes in pieces.
# Needs WESAD's wrist folders (wesad_e4) and Stress-Predict (stress_predict) below AFFECTD_REFERENCE_DATA.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1
: "${AFFECTD_REFERENCE_DATA:?names no folder with the reference recordings}"
out=${1:-runs-out}

for name in wesad-binary wesad-3class stress-predict emobed-wesad-binary emobed-stress-predict \
  transformer-wesad-binary transformer-stress-predict fusion-wesad-binary fusion-stress-predict; do
  affectd-train loso --config "train/runs/$name.toml" --out "$out" ${MINUTES:+--minutes "$MINUTES"}
  affectd-quantize-folds --config "train/runs/$name.toml" --out "$out"
done
affectd-train report "$out" --records results/loso.json --markdown docs/RESULTS.md -o "$out/report.html"
affectd-train report results/loso.json --pages docs/models
