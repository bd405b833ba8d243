#!/usr/bin/env bash
# One machine, all its accelerators. Exit code 75: stopped by SIGTERM with a checkpoint, run it again.
#     launch/single.sh --config=configs/resnet18.py:cifar10 --workdir=runs/cifar10
set -eu
PYTHONPATH="$(cd "$(dirname "$0")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
exec python -m iecl_jax.main "$@"
