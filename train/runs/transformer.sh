#!/usr/bin/env bash
# The ECG Transformer, from records to a bundle: corpus -> encoder (train/weights) -> network of Stress-Predict's rest against
# task, cold start -> int8 bundle. Some three quarters of an hour on two cores, most of it pre-training.
# Needs QTDB, tpcp's MIT-BIH, NeuroKit2's ECG (qtdb, mitbih_tpcp, neurokit) and Stress-Predict (stress_predict) below
# AFFECTD_REFERENCE_DATA.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1
data=${AFFECTD_REFERENCE_DATA:?names no folder with the reference recordings}
out=${1:-runs-out}

echo "1/4 the corpus"
affectd-train corpus "$data/qtdb" "$data/mitbih_tpcp" "$data/neurokit" --licence "qtdb=ODC-By 1.0" --workers 2 --out "$out/corpus"
echo "2/4 the encoder"
affectd-train pretrain "$out/corpus" --config train/runs/pretrain/cpu.toml --out "$out/encoder"
mkdir -p train/weights
cp "$out/encoder/encoder.pt" train/weights/ecg-encoder.pt
cp "$out/encoder/encoder.md" train/weights/ecg-encoder.md
echo "3/4 the network"
affectd-train fit --config train/runs/transformer-stress-predict.toml --system transformer-pretrained \
  --data "$data/stress_predict" --out "$out"
echo "4/4 int8 bundle"
affectd-quantize "$out/transformer-pretrained.pt" --recipe int8 --calibration "$out/windows.npz" --results results/loso.json \
  -o device/bundles/ecg-transformer.affect
