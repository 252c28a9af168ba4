#!/usr/bin/env bash
# Builds the extension and installs it into PostgreSQL (as root, or through sudo).   build.sh [make variables...]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
pg_config=$(pg_config_path)
# One build at a time in this tree.
exec 8<"$root/Makefile"
flock 8
# A surrounding make would hand down its flags, its job server and PGXS's own idea of variables.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
make --no-print-directory -s -C "$root" -j"$(nproc)" PG_CONFIG="$pg_config" "$@" all
as_root make --no-print-directory -s -C "$root" PG_CONFIG="$pg_config" "$@" install >/dev/null
