#!/usr/bin/env bash
# Ends the demo: its PostgreSQL, its Kafka, and everything they wrote.
set -euo pipefail
. "$(dirname "$0")/common.sh"
if [ -e "$scratch" ]; then
  stop_demo
  echo "The demo is stopped and $scratch is gone."
else
  echo "No demo is running."
fi
