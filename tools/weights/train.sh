#!/usr/bin/env bash
# Makes the weights of the correction network from clips: draws, three trainings, export. Give it again to go on after a stop.
#
#   tools/weights/train.sh CLIPS WORK      # WORK: a folder outside the repository with room for 5 GB
#
# On one quiet core about half an hour each for the draws and the trainings (estimated from the time of a step). The first
# training learns from draws alone. The second begins with its weights, and three quarters of its views are fresh. The third
# begins with those at twice the width. The result depends on the clips and the seed alone. docs/results/correction.json
# holds the clips' hashes, and the options and the curve of the shipped weights' third training.
set -euo pipefail
clips=$1 work=$2
cd "$(dirname "$0")/../.."
mkdir -p "$work"
python -m tools.weights.draws "$clips" "$work/draws"
train() {  # NAME STEPS OPTION...
    local run=$work/$1 steps=$2 resume=()
    shift 2
    [ ! -d "$run" ] || resume=(--resume)
    python -m fastinpaint train "$work/draws" --out "$run" --recipe propagated --steps "$steps" \
        --log-every 100 --save-every 500 "$@" "${resume[@]}"
}
train first 16000 --validate-every 500
train second 15000 --validate-every 1000 --start "$work/first/last.safetensors" --fresh 0.75 --average 0.999
[ -f "$work/wide.safetensors" ] || python -m tools.weights.widen "$work/second/last.safetensors" "$work/wide.safetensors"
train run 6500 --validate-every 1000 --start "$work/wide.safetensors" --fresh 0.75 --average 0.999 --width 0.5
python -m tools.weights.export "$work/run" "$work/draws" fastinpaint/inference/correction.safetensors docs/results/correction.json
