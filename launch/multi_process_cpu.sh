#!/usr/bin/env bash
# One run by several CPU processes of this machine, connected as those of a cluster are: to try things out.
#     PROCESSES=2 DEVICES=2 launch/multi_process_cpu.sh --config=configs/resnet18.py:cifar10,smoke
# DEVICES is the number of devices of each process. SIGTERM goes to all of them. If one fails, the others
# get a minute to end by themselves. The exit code is that of the first one to end with another than 0.
set -u
PYTHONPATH="$(cd "$(dirname "$0")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
processes=${PROCESSES:-2}
port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])') || exit 1
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-2}"

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null' TERM INT
trap 'kill -KILL "${pids[@]}" 2>/dev/null' EXIT
for ((i = 0; i < processes; i++)); do
    python -m iecl_jax.main "$@" \
        --coordinator_address="localhost:$port" --num_processes="$processes" --process_id="$i" &
    pids+=($!)
    echo "process $i of $processes: pid $!" >&2
done

code=0
deadline=
while ((${#pids[@]})); do
    running=()
    for pid in "${pids[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then
            running+=("$pid")
        else
            wait "$pid"
            ended=$?
            echo "pid $pid ended with code $ended" >&2
            if ((ended && !code)); then
                code=$ended
                deadline=$((SECONDS + 60))
            fi
        fi
    done
    pids=("${running[@]+"${running[@]}"}")
    if [[ $deadline ]] && ((SECONDS > deadline && ${#pids[@]})); then
        kill -KILL "${pids[@]}" 2>/dev/null
    fi
    sleep 0.2
done
exit "$code"
