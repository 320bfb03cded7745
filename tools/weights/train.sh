#!/usr/bin/env bash
# Makes the weights of the correction network from clips: draws, training, export. Give it again to go on after a stop.
#
#   tools/weights/train.sh CLIPS WORK      # WORK: a folder outside the repository with room for 4 GB
#
# About half an hour of one core for the draws and as long for the training. The result depends on the clips and the seed
# alone; docs/results/correction.json holds the clips' hashes, the options and the curve of the shipped weights.
set -euo pipefail
clips=$1 work=$2
cd "$(dirname "$0")/../.."
mkdir -p "$work"
python -m tools.weights.draws "$clips" "$work/draws"
resume=()
[ ! -d "$work/run" ] || resume=(--resume)
python -m fastinpaint train "$work/draws" --out "$work/run" --recipe propagated --steps 16000 \
    --validate-every 500 --log-every 100 --save-every 500 "${resume[@]}"
python -m tools.weights.export "$work/run" "$work/draws" fastinpaint/inference/correction.safetensors docs/results/correction.json
