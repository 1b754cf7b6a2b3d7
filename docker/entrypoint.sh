#!/usr/bin/env bash
# What an image runs. A program (the agent says `bash -c ...`) is run as it is; anything else is a
# command of clearml-deploy, so that `docker run IMAGE run llamacpp --set ...` works.
set -eu

# Files on PATH only: `type` would also find what bash has built in, such as `export`.
if [[ $# -gt 0 && $1 != -* ]] && type -P -- "$1" >/dev/null; then
    exec "$@"
fi
exec clearml-deploy "$@"
