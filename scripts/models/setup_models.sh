#!/usr/bin/env bash
# Download the weights of a model: scripts/models/setup_models.sh {qwen2vl,qwen3vl,openpi,groot} [--size 7B] [--output_dir DIR]
# The disk is checked before, a broken download goes on where it stopped, and what is there is not fetched again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=.venv/bin/python
[[ -x $python ]] || python=python3
exec "$python" scripts/models/download_models.py "$@"
