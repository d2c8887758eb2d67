#!/bin/sh
# Get TensorRT's C++ headers into a directory, for builds and tests on machines without TensorRT, and print the
# directory that holds NvInferRuntime.h:
#
#   scripts/tensorrt_headers.sh [DEST]        DEST is build/tensorrt by default
#   TENSORRT_ROOT=$(scripts/tensorrt_headers.sh) pip install --editable .
#
# They are NVIDIA's headers of TensorRT 10.14 (Apache 2.0) as the wheel kernel-lens carries them: 0.2 MB. A machine that
# has TensorRT has its own headers (JetPack: libnvinfer-headers-dev), and those are the ones to build with.
# Environment: PYTHON (python3), the one whose pip is used.
# What was fetched is kept: a second call prints the path at once. On failure: one sentence with the remedy, status 1,
# and nothing half-made.
set -eu

python=${PYTHON:-python3}
dest=${1:-build/tensorrt}
wheel=kernel-lens==2.0.1
remedy="install TensorRT's headers (libnvinfer-headers-dev from NVIDIA's packages), or set TENSORRT_ROOT to an unpacked TensorRT"

fail() {
    echo "tensorrt_headers: $1" >&2
    exit 1
}

if [ $# -gt 1 ]; then
    echo "usage: $0 [DEST]" >&2
    exit 2
fi
mkdir -p "$dest" || fail "cannot create $dest. Choose another directory."
dest=$(cd "$dest" && pwd)
include=$dest/include

if [ "$(cat "$include/wheel" 2>/dev/null)" != "$wheel" ]; then
    work=$(mktemp -d "$dest/.make.XXXXXX") || fail "cannot write to $dest. Choose another directory."
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' HUP TERM
    [ ! -e "$include" ] || [ -f "$include/wheel" ] ||
        fail "$include was not made by this script. Choose another directory."
    "$python" -m pip --version >/dev/null 2>&1 ||
        fail "$python has no pip. Install it (apt-get install python3-pip), or set PYTHON to an interpreter that has it."
    "$python" -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --no-compile \
        --only-binary :all: --target "$work/wheel" "$wheel" >"$work/log" 2>&1 ||
        fail "pip could not fetch $wheel. Check the network and pip's index, or $remedy."
    headers=$work/wheel/kernel_lens/include/tensorrt
    grep -qs '^#define TRT_MAJOR_ENTERPRISE 10$' "$headers/NvInferVersion.h" ||
        fail "$wheel holds no headers of TensorRT 10. Please $remedy."
    # Not NVIDIA's, and of no use to a plugin.
    rm -f "$headers/NvInferPlugin.h"
    mkdir -p "$headers/licenses"
    cp "$work"/wheel/*.dist-info/licenses/* "$headers/licenses/"
    echo "$wheel" >"$headers/wheel"
    rm -rf "$include"
    mv "$headers" "$include"
fi
echo "$include"
