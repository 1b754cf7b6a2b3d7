#!/usr/bin/env bash
# Tells the instance of this container to finish its requests and end, and waits until it is gone.
# For a pod's preStop hook: the agent's shell is process 1 there, and a SIGTERM for the pod ends at it.
#
# Usage: drain.sh [PROC]    PROC: the folder of the processes to look at, /proc if left out
set -u
proc=${1:-/proc}

# `python -m apps.<app>` under an agent, `clearml-deploy run <app>` without one.
instance=' (-m apps\.|[^ ]*/clearml-deploy run )(llamacpp|vllm|legacy_model) '

declare -A parent_of
for folder in "$proc"/[0-9]*; do
    # Arguments end with NUL each. A process may end while it is looked at.
    arguments=" $(tr '\0' ' ' 2>/dev/null <"$folder/cmdline")" 2>/dev/null || continue
    if [[ $arguments =~ $instance ]]; then
        parent_of[${folder##*/}]=$(awk '/^PPid:/ {print $2}' "$folder/status" 2>/dev/null)
    fi
done

# The SDK's reporter is a fork of the instance, with the same arguments: the first of each line counts.
# One signal only: a second one would end the instance at once.
told=()
for pid in "${!parent_of[@]}"; do
    if [[ -z ${parent_of[${parent_of[$pid]:-none}]:-} ]] && kill -TERM "$pid" 2>/dev/null; then
        told+=("$pid")
    fi
done

for pid in "${told[@]}"; do
    while [[ -d $proc/$pid ]] && ! grep -q '^State:[[:space:]]*Z' "$proc/$pid/status" 2>/dev/null; do
        sleep 0.5
    done
done
