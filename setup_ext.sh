#!/usr/bin/env bash
# Make .venv and install RoboRenForce with the named packages, editable and at the tested versions.
# Idempotent: what is installed already, from unchanged files, is not touched. Needs neither root nor a display.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'TEXT'
usage: ./setup_ext.sh [--extras a,b] [--list] [package ...]

Makes .venv (with uv, or with venv and pip where uv can't be had) and installs the core and the named packages.

  package        folders below source/ or source/tasks/; RRF_gym if none is named, `core` for the core alone
  --extras a,b   optional dependencies, of the core or of a named package, for example --extras export,envpool
  --list         show packages and their extras, and stop

PYTHON=/path/to/python3.12 ./setup_ext.sh chooses the interpreter for a new .venv.
TEXT
}

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# The interpreter that .venv is made from: $PYTHON if it is set, else the first one of 3.11 or newer.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    candidate=${PYTHON:-python3}
    fail "Python 3.11 or newer is needed, $candidate is $("$candidate" -V 2>/dev/null || echo 'not there'):" \
        "install it and name it, as in PYTHON=/usr/bin/python3.12 ./setup_ext.sh"
}

# Turns packages and extras into requirement lines `source/RoboRenForce[export]`; prints one sentence if one is unknown.
read -r -d '' RESOLVE <<'PY' || true
import pathlib, sys, tomllib

root = pathlib.Path("source")
folders = {path.parent.name: path.parent for path in [*root.glob("*/pyproject.toml"), *root.glob("tasks/*/pyproject.toml")]}
extras = {
    name: tomllib.loads((folder / "pyproject.toml").read_text())["project"].get("optional-dependencies", {})
    for name, folder in folders.items()
}
if sys.argv[1] == "--list":
    for name in sorted(folders):
        print(f"  {name}: {', '.join(sorted(extras[name])) or 'no extras'}")
    sys.exit()
wanted = [extra for extra in sys.argv[1].split(",") if extra]
names = ["RoboRenForce", *(name for name in sys.argv[2:] if name not in ("core", "RoboRenForce"))]
for name in names:
    if name not in folders:
        sys.exit(f"setup: there is no package {name!r}: name one of {', '.join(sorted(folders))}")
for extra in wanted:
    if not any(extra in extras[name] for name in names):
        known = sorted({extra for name in names for extra in extras[name]})
        sys.exit(f"setup: none of {', '.join(names)} has the extra {extra!r}: choose from {', '.join(known)}")
for name in dict.fromkeys(names):
    chosen = [extra for extra in wanted if extra in extras[name]]
    print(f"./{folders[name]}" + (f"[{','.join(chosen)}]" if chosen else ""))
PY

make_venv() {
    if [ -x .venv/bin/python ] && .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        return
    fi
    local python
    python=$(find_python)
    if [ -e .venv ]; then
        say ".venv has no working Python 3.11 or newer, making it anew"
        rm -rf .venv
    fi
    say "making .venv with $("$python" -V); PyTorch is a large download, so this can take some minutes"
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --seed --python "$python" .venv
    else
        "$python" -m venv .venv || fail "$python has no venv module: install python3-venv, or uv"
        .venv/bin/python -m pip install --quiet uv >/dev/null 2>&1 || say "uv can't be had, pip does its work more slowly"
    fi
}

# The installer, uv if there is one. Its output goes to the log, which is shown if it fails.
install() {
    local log=.venv/setup.log installer
    if command -v uv >/dev/null 2>&1; then
        installer=(uv pip install --python .venv/bin/python)
    elif [ -x .venv/bin/uv ]; then
        installer=(.venv/bin/uv pip install --python .venv/bin/python)
    else
        installer=(.venv/bin/python -m pip install)
    fi
    "${installer[@]}" --constraint constraints.txt "$@" >"$log" 2>&1 || {
        tail -n 25 "$log" >&2
        fail "the installation failed; the whole output is in $log"
    }
}

main() {
    local extras="" packages=() python
    while [ $# -gt 0 ]; do
        case "$1" in
            -h | --help) usage; exit 0 ;;
            --list) python=$(find_python); "$python" -c "$RESOLVE" --list; exit 0 ;;
            --extras) [ $# -gt 1 ] || fail "--extras needs a list, as in --extras export,test"; extras="$2"; shift 2 ;;
            --extras=*) extras="${1#--extras=}"; shift ;;
            -*) usage >&2; fail "unknown option $1" ;;
            *) packages+=("$1"); shift ;;
        esac
    done
    [ ${#packages[@]} -gt 0 ] || packages=(RRF_gym)

    local requirements requirement
    python=$(find_python)
    requirements=$("$python" -c "$RESOLVE" "$extras" "${packages[@]}")
    make_venv

    # What was asked for, and every file that the answer depends on, name the stamp.
    local stamp arguments=()
    stamp=$( (echo "$requirements"; .venv/bin/python -V; cat setup_ext.sh constraints.txt source/*/pyproject.toml source/tasks/*/pyproject.toml) |
        .venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')
    if [ -e ".venv/.setup/$stamp" ]; then
        say "nothing to do, .venv is up to date"
        return
    fi
    for requirement in $requirements; do
        arguments+=(--editable "$requirement")
        say "installing ${requirement#./}"
    done
    local started=$SECONDS
    install "${arguments[@]}"
    mkdir -p .venv/.setup && touch ".venv/.setup/$stamp"
    say "done in $((SECONDS - started)) s; use it with: source .venv/bin/activate"
}

main "$@"
