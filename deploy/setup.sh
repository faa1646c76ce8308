#!/usr/bin/env bash
# Makes .venv at the repository root with everything rlvid needs on a CPU machine; repairs one that an interrupted run left behind; does nothing when
# it is up to date. Called by quickstart.sh and test.sh; safe to call by hand at any time.
#
#   RLVID_PYTHON       the Python to build on, 3.11 or newer (default: the first of python3.11, 3.12, 3.13 and python3 that is)
#   RLVID_TORCH_INDEX  where PyTorch's CPU wheels are, if pip's own configuration does not say: the address of PyTorch's CPU wheel index
#                      (pytorch.org names it on its installation page), or a folder of wheels
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
requirements=deploy/requirements-cpu.txt
python=.venv/bin/python
stamp=.venv/rlvid-stamp
log=.venv/setup.log
need_gib=6 # .venv takes 3.4 GiB; as much again passes through pip's temporary files and cache

say() { printf 'setup: %s\n' "$*"; }
stop() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

watcher=
trap '[ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true' EXIT

# Two of these at once would write into the same environment. The lock is on this file itself and goes with the process.
exec 9<"deploy/setup.sh"
if command -v flock >/dev/null && ! flock -n 9; then
  say "another setup is at work in this folder: waiting for it"
  flock 9
fi

good_python() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }

find_python() {
  local candidate
  if [ -n "${RLVID_PYTHON:-}" ]; then
    good_python "$RLVID_PYTHON" || stop "RLVID_PYTHON=$RLVID_PYTHON is not a Python from 3.11 to 3.14"
    echo "$RLVID_PYTHON"
    return
  fi
  # 3.11 first: it is the one the pinned set is tested with.
  for candidate in python3.11 python3.12 python3.13 python3; do
    if command -v "$candidate" >/dev/null && good_python "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  stop "no Python from 3.11 to 3.14 found: install one, or name it with RLVID_PYTHON=/path/to/python3.11"
}

fingerprint() {
  {
    "$python" -c 'import sys; print(sys.version)'
    cat "$requirements" pyproject.toml rlvid/torchvision_guard.py
    pwd # the editable install points here
  } | sha256sum | cut -d' ' -f1
}

if [ -x "$python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then
  say ".venv is up to date"
  exit 0
fi

SECONDS=0
say "3 GiB of packages: one to five minutes, most of them for fetching and unpacking; what pip says is in $log"
[ "$(uname -s)" = Linux ] || stop "vLLM's CPU build is for Linux: use a Linux machine or container"

make_environment() {
  local base
  base=$(find_python)
  "$base" -c 'import venv, ensurepip' 2>/dev/null || stop "$base has no venv module: install it (on Debian and Ubuntu: the python3-venv package)"
  say "making .venv with $("$base" --version)"
  "$base" -m venv --clear .venv
}

free_gib=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1048576))
if ! { [ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1; }; then
  [ "$free_gib" -ge "$need_gib" ] || stop "$free_gib GiB of disk are free here and the environment needs $need_gib: make room"
  make_environment
elif [ "$free_gib" -lt 1 ]; then
  stop "less than 1 GiB of disk is free here: make room"
fi

# pip takes a package that an interrupted run unpacked halfway for installed. Forget every package whose files are not all there, so that pip
# installs it again.
"$python" - <<'PY'
import csv, pathlib, shutil, sysconfig

site = pathlib.Path(sysconfig.get_paths()["purelib"])


def torn(info, name, size):
    """Missing or cut short. Byte code is rewritten at will, and a package's own metadata may give its sizes wrongly."""
    path = site / name
    if name.endswith(".pyc"):
        return False
    return not path.is_file() or (size and not name.startswith(info.name) and path.stat().st_size != int(size))


for info in site.glob("*.dist-info"):
    record = info / "RECORD"
    rows = list(csv.reader(record.open(newline=""))) if record.is_file() else []
    if not rows or any(torn(info, name, size) for name, _, size in rows):
        print(f"setup: {info.name.removesuffix('.dist-info')} is not whole and is installed again")
        shutil.rmtree(info)
PY

# pip shows nothing of its own here: it fetches all packages, then unpacks them. A few are most of the size, so size tells what is left, not number.
total=$(grep -c '^[^#]*==' "$requirements")
whole_mib=3500
watch_packages() {
  local have fetched before=0 began=0 left
  while sleep 10 >/dev/null 2>&1; do # a sleep that outlives an interrupted run must not hold its output open
    have=$(du -sm .venv 2>/dev/null | cut -f1)
    if ! grep -q '^Installing collected packages' "$log" 2>/dev/null; then
      fetched=$(grep -cE '^(Collecting|Processing) ' "$log" 2>/dev/null || true)
      say "  fetching, package ${fetched:-0} after ${SECONDS} s"
      before=$have began=$SECONDS
    elif [ "$have" -gt "$before" ]; then
      left=$(((whole_mib - have) * (SECONDS - began) / (have - before)))
      say "  unpacking, $have of about $whole_mib MiB after ${SECONDS} s, about $((left > 0 ? left : 0)) s left"
    fi
  done
}
watch_packages 9<&- &
watcher=$!

run_pip() {
  "$python" -m pip --disable-pip-version-check --no-input install --no-deps --progress-bar off "$@" >"$log" 2>&1
}

pip_trouble() { grep '^ERROR' "$log" | tail -n 1 >&2 || tail -n 5 "$log" >&2; }

where=()
if [ -d "${RLVID_TORCH_INDEX:-}" ]; then
  where=(--find-links "$RLVID_TORCH_INDEX")
elif [ -n "${RLVID_TORCH_INDEX:-}" ]; then
  where=(--extra-index-url "$RLVID_TORCH_INDEX")
fi

# `+cpu` is asked for by name: a plain pin would let pip fetch a build for CUDA, with gigabytes of libraries that this machine cannot use.
torch=$(grep '^torch==' "$requirements")
say "PyTorch, CPU build ($torch)"
if ! run_pip ${where[@]+"${where[@]}"} "$torch+cpu"; then
  pip_trouble
  stop "pip cannot find the CPU build $torch+cpu: set RLVID_TORCH_INDEX to PyTorch's CPU wheel index (pytorch.org names it) or to a folder that holds the wheel"
fi
run_pip ${where[@]+"${where[@]}"} "$(grep '^torchvision==' "$requirements")" || { pip_trouble; stop "torchvision cannot be installed, see $log"; }

say "$total pinned packages from $requirements"
run_pip -r "$requirements" || { pip_trouble; stop "a pinned package cannot be installed, see $log; run this again to go on where it stopped"; }

say "rlvid itself"
# The build backend is among the pins, so nothing is fetched for this.
run_pip --no-build-isolation -e . || { pip_trouble; stop "rlvid cannot be installed, see $log"; }
"$python" -m rlvid.torchvision_guard

"$python" -c 'import torch, torchvision' 2>>"$log" || stop "torch and torchvision do not import together, see the end of $log"
command -v g++ >/dev/null || say "note: no g++ here; nothing needs it by default, DeepSpeed's optional compiled operators would"

fingerprint >"$stamp"
say "done in ${SECONDS} s"
