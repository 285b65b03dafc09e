#!/usr/bin/env bash
# Pin every requirement file anew, to the newest versions that pyproject.toml allows, with the hashes of all platforms.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

resolve() { uv pip compile --quiet --no-config --universal --no-header --no-annotate "$@"; }

# One resolution of everything first: the files below share one environment, so they have to agree on versions.
resolve pyproject.toml --all-extras --group test --group check --group fuzz --group docs --output-file "$scratch/all.txt"

pin_alone() {
    local file=requirements/$1
    shift
    resolve --generate-hashes --output-file "$scratch/pinned.txt" "$@"
    { echo "# Written by requirements/pin.sh from pyproject.toml; edit that instead."; cat "$scratch/pinned.txt"; } >"$file"
    rm "$scratch/pinned.txt"
    echo "$file: $(grep -c == "$file") packages"
}
pin() { pin_alone "$@" pyproject.toml --constraint "$scratch/all.txt"; }

pin runtime.txt
pin demo.txt --extra cli --group build
pin test.txt --all-extras --group test
pin fuzz.txt --all-extras --group fuzz
pin docs.txt --all-extras --group docs
pin check.txt --all-extras --group check
pin release.txt --group release
pin_alone peers.txt --group peers  # in an environment of their own
