#!/usr/bin/env bash
# What an image runs. A program (the agent says `bash -c ...`) is run as it is; anything else is a
# command of clearml-deploy, so that `docker run IMAGE run llamacpp --set ...` works.
set -eu

# Also where a base image has a program of that name: desktop packages bring an `open`.
case ${1-} in
    bench | cache | clone | command | demo | docs | export | forms | key | keys | launch | list | local | logs \
        | open | options | register | run | status | stop | token | validate)
        exec clearml-deploy "$@"
        ;;
esac

# Files on PATH only: `type` would also find what bash has built in, such as `export`.
if [[ $# -gt 0 && $1 != -* ]] && type -P -- "$1" >/dev/null; then
    exec "$@"
fi
exec clearml-deploy "$@"
