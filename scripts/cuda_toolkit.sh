#!/bin/sh
# Get a CUDA compiler without root and without a GPU: nvcc, its headers and the static CUDA runtime, from NVIDIA's own
# wheels, into a directory, which is printed:
#
#   scripts/cuda_toolkit.sh [DEST [aarch64]]        DEST is build/cuda by default
#   CUDA_HOME=$(scripts/cuda_toolkit.sh) pip install --editable .
#
#   DEST/bin/nvcc, DEST/include, DEST/lib           as in an installed toolkit; DEST/dist-info has the licences
#   DEST/targets/sbsa-linux/lib                     with aarch64: the runtime of 64-bit Arm, for a cross build
#
# About 105 MB are fetched and 210 MB kept. Environment: PYTHON (python3), the one whose pip is used.
# What was fetched is kept: a second call prints the directory at once. On failure: one sentence with the remedy,
# status 1, and nothing half-made.
set -eu

python=${PYTHON:-python3}
dest=${1:-build/cuda}
target=${2:-}
runtime=nvidia-cuda-runtime==13.0.96
# Without nvvm nvcc has no optimiser, without crt no headers of its own, without cccl no <nv/target> for <cuda_fp16.h>.
wheels="nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 $runtime"

fail() {
    echo "cuda_toolkit: $1" >&2
    exit 1
}

# Install wheels below a directory; pip shows its progress where somebody looks.
fetch() {
    directory=$1
    shift
    set -- -m pip install --disable-pip-version-check --root-user-action ignore --no-deps --no-compile --no-cache-dir \
        --only-binary :all: --target "$directory" "$@"
    if [ -t 2 ]; then
        "$python" "$@" >&2
    else
        "$python" "$@" --quiet >"$work/log" 2>&1
    fi
}

if [ $# -gt 2 ] || [ "${target:-aarch64}" != aarch64 ]; then
    echo "usage: $0 [DEST [aarch64]]" >&2
    exit 2
fi
"$python" -m pip --version >/dev/null 2>&1 ||
    fail "$python has no pip. Install it (apt-get install python3-pip), or set PYTHON to an interpreter that has it."
mkdir -p "$dest" || fail "cannot create $dest. Choose another directory."
dest=$(cd "$dest" && pwd)
[ -f "$dest/wheels" ] || [ -z "$(ls -A "$dest")" ] ||
    fail "$dest is not empty and was not made by this script. Choose another directory."
work=$(mktemp -d "$dest.make.XXXXXX") || fail "cannot write beside $dest. Choose another directory."
trap 'rm -rf "$work"; rmdir "$dest" 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

if [ "$(cat "$dest/wheels" 2>/dev/null)" != "$wheels" ]; then
    # shellcheck disable=SC2086
    fetch "$work/wheels" $wheels ||
        fail "pip could not fetch $wheels. Check the network and pip's index, or install CUDA 12.6 or later and set CUDA_HOME."
    made=$work/made
    mv "$work/wheels/nvidia/cu13" "$made" 2>/dev/null && [ -f "$made/nvvm/bin/cicc" ] ||
        fail "the wheels hold no toolkit where it was expected. Install CUDA 12.6 or later and set CUDA_HOME."
    mkdir "$made/dist-info"
    mv "$work"/wheels/*.dist-info "$made/dist-info/"
    # A third of it, for compilers in other programs; nvcc has its own.
    rm -rf "$made"/lib/libnvvm.so* "$made/.metadata"
    chmod +x "$made"/bin/* "$made"/nvvm/bin/*
    ln -s lib "$made/lib64"
    # nvcc looks here once there is a folder for any target.
    case $(uname -m) in aarch64) host=sbsa-linux ;; *) host=x86_64-linux ;; esac
    mkdir -p "$made/targets/$host"
    ln -s ../../include ../../lib "$made/targets/$host/"
    "$made/bin/nvcc" --version >/dev/null 2>&1 ||
        fail "the nvcc that was fetched does not run on this machine. Install CUDA 12.6 or later and set CUDA_HOME."
    echo "$wheels" >"$made/wheels"
    rm -rf "$dest"
    mv "$made" "$dest"
fi

cross=$dest/targets/sbsa-linux/lib
if [ -n "$target" ] && [ ! -f "$cross/libcudart_static.a" ]; then
    fetch "$work/cross" --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64 "$runtime" ||
        fail "pip could not fetch $runtime for aarch64. Check the network and pip's index."
    [ -f "$work/cross/nvidia/cu13/lib/libcudart_static.a" ] ||
        fail "the wheel of $runtime for aarch64 holds no libcudart_static.a. Take it from an installed toolkit."
    mkdir -p "$(dirname "$cross")"
    ln -sfn ../../include "$dest/targets/sbsa-linux/include"
    rm -rf "$cross"
    mv "$work/cross/nvidia/cu13/lib" "$cross"
fi
echo "$dest"
