#!/usr/bin/env bash
# Serves FFR's teacher as an OpenAI-compatible endpoint beside a training job:
#   deploy/teacher/serve.sh [MODEL] [further arguments of vllm serve]
#
# Environment: TEACHER_GPUS (default 4, tensor parallel), TEACHER_HOST (0.0.0.0), TEACHER_PORT (8000), TEACHER_MAX_MODEL_LEN (32768),
# TEACHER_MAX_IMAGES (24, at least teacher.max_frames), TEACHER_TOOL_PARSER (hermes, Qwen's), TEACHER_API_KEY (none: everybody who reaches the port may ask).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -d .venv ] && export PATH="$PWD/.venv/bin:$PATH"

model="${1:-Qwen/Qwen2.5-VL-72B-Instruct}"
[ "$#" -gt 0 ] && shift

export VLLM_NO_USAGE_STATS=1
export VLLM_USE_FLASHINFER_SAMPLER="${VLLM_USE_FLASHINFER_SAMPLER:-0}" # it is compiled by an nvcc that the wheels do not bring
if [ -n "${TEACHER_API_KEY:-}" ]; then
    export VLLM_API_KEY="$TEACHER_API_KEY" # not as an argument: those can be read in the process list
fi

# Compact JSON: between two fields a model may otherwise write blanks until its tokens are used up.
# The module rather than the `vllm` command, which does not start beside vLLM's CPU build.
exec python -m vllm.entrypoints.openai.api_server \
    --model "$model" \
    --served-model-name teacher \
    --host "${TEACHER_HOST:-0.0.0.0}" \
    --port "${TEACHER_PORT:-8000}" \
    --tensor-parallel-size "${TEACHER_GPUS:-4}" \
    --max-model-len "${TEACHER_MAX_MODEL_LEN:-32768}" \
    --limit-mm-per-prompt "{\"image\": ${TEACHER_MAX_IMAGES:-24}, \"video\": 0}" \
    --enable-auto-tool-choice \
    --tool-call-parser "${TEACHER_TOOL_PARSER:-hermes}" \
    --structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}' \
    "$@"
