#!/usr/bin/env bash
# From a clone to a trained tiny model on a CPU: environment, data and warm start, then reinforcement learning with the real Ray, vLLM and DeepSpeed.
# Arguments are configuration overrides: deploy/quickstart.sh run.steps=20. Run it again to go on where it stopped.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash deploy/setup.sh
export PATH="$PWD/.venv/bin:$PATH" # DeepSpeed looks for ninja here

rlvid data quickstart --out .quickstart/qwen2_5_vl
rlvid train configs/quickstart.yaml "$@"

folder=$(python -c 'import sys; from rlvid.config import load; print(load("configs/quickstart.yaml", sys.argv[1:]).folder)' "$@")
cat <<TEXT

The run is in $folder:
  metrics.jsonl  one row a step      rollouts/  every answer with its reward and advantage
  export/        the trained model   wandb/     the same metrics for wandb
TEXT
