#!/usr/bin/env bash
# One training run as a Slurm job: a Ray cluster over the job's nodes, the run, and everything ended with it.
#
#   sbatch --nodes=2 --gpus-per-node=8 deploy/slurm.sh configs/strive_qwen2_5_vl_7b.yaml run.dir=/shared/runs data.train=/shared/train.jsonl \
#     data.eval=null rollout.engines=8 learner.ranks=8
#
# Submit it from the repository root, on a file system that every node shares, with .venv made from deploy/requirements-gpu.txt. Keys come from the
# environment of sbatch (--export=ALL, the default). A job that Slurm requeues goes on from the run's last whole checkpoint.
#
#   RLVID_PORT           port of Ray's head, when 6379 is taken on that node
#   NCCL_SOCKET_IFNAME   the nodes' interface to each other, where NCCL and gloo choose a wrong one (GLOO_SOCKET_IFNAME: the same for the learner on CPUs)
#SBATCH --job-name=rlvid
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=rlvid-%j.log
set -euo pipefail

[ $# -ge 1 ] || {
  echo "usage: sbatch [--nodes=N ...] deploy/slurm.sh CONFIG [key=value ...]" >&2
  exit 2
}
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"
[ -x .venv/bin/rlvid ] || {
  echo "$PWD/.venv is missing: install deploy/requirements-gpu.txt there first" >&2
  exit 2
}
export PATH="$PWD/.venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0
# Nodes of other users are on the same network: only this job's processes may join its Ray.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=${RLVID_PORT:-6379}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{ print $1 }')
export RAY_ADDRESS="$address:$port"
cpus=${SLURM_CPUS_ON_NODE:?}
gpus=${SLURM_GPUS_ON_NODE:-0}

# The steps belong to this job: whatever way it ends, Slurm ends them. No dashboard: it would start jobs for anybody on the network.
started=()
trap 'kill "${started[@]}" 2>/dev/null || true' EXIT

echo "rlvid: Ray's head on $head ($RAY_ADDRESS), ${#nodes[@]} nodes with $gpus GPUs each"
# --mem=0: all of the node's memory, where a site gives a few GB unasked. --cpu-bind=none: all of its cores, where a task is bound to one.
srun --nodes=1 --ntasks=1 --overlap --mem=0 --cpu-bind=none --nodelist="$head" \
  ray start --head --block --node-ip-address="$address" --port="$port" --num-cpus="$cpus" --num-gpus="$gpus" --include-dashboard=false &
started+=($!)

for _ in $(seq 60); do
  ray status >/dev/null 2>&1 && break
  kill -0 "${started[0]}" 2>/dev/null || break
  sleep 2
done
ray status >/dev/null || {
  echo "rlvid: Ray's head did not start on $head; is port $port free there? (RLVID_PORT sets another)" >&2
  exit 1
}

if [ "${#nodes[@]}" -gt 1 ]; then
  others=$(
    IFS=,
    echo "${nodes[*]:1}"
  )
  srun --nodes=$((${#nodes[@]} - 1)) --ntasks-per-node=1 --overlap --mem=0 --cpu-bind=none --nodelist="$others" \
    ray start --block --address="$RAY_ADDRESS" --num-cpus="$cpus" --num-gpus="$gpus" &
  started+=($!)
fi

rlvid train "$@"
