#!/bin/sh
# Make what runs 64-bit Arm programs with ONNX Runtime on another machine, and print its directory:
#
#   scripts/aarch64_env.sh [DEST]        DEST is build/aarch64 by default
#
#   DEST/lib/libonnxruntime.so.1         from the aarch64 wheel of the release that is installed here
#   DEST/sysroot                         for QEMU_LD_PREFIX: the cross compiler's libraries, and an Arm /proc/cpuinfo,
#                                        because ONNX Runtime crashes on one of another architecture
#
# Run a program: QEMU_LD_PREFIX=DEST/sysroot LD_LIBRARY_PATH=… qemu-aarch64-static -cpu cortex-a57 PROGRAM
# Environment: PYTHON (python3), the one whose onnxruntime decides the release; ONNXRUNTIME_VERSION overrides it.
# What is there already is kept. On failure: one sentence with the remedy, status 1, and nothing half-made.
set -eu

python=${PYTHON:-python3}
dest=${1:-build/aarch64}
packages="g++-aarch64-linux-gnu qemu-user-static"

fail() {
    echo "aarch64_env: $1" >&2
    exit 1
}

command -v aarch64-linux-gnu-g++ >/dev/null ||
    fail "aarch64-linux-gnu-g++ is not installed. Install it (apt-get install $packages)."
command -v qemu-aarch64-static >/dev/null ||
    fail "qemu-aarch64-static is not installed. Install it (apt-get install $packages)."
libc=$(aarch64-linux-gnu-g++ -print-file-name=libc.so.6)
[ -f "$libc" ] || fail "the cross compiler has no C library. Install it anew (apt-get install $packages)."
version=${ONNXRUNTIME_VERSION:-$("$python" -c 'from importlib.metadata import version; print(version("onnxruntime"))' 2>/dev/null)} ||
    fail "$python has no onnxruntime. Set PYTHON to an interpreter that has it, or ONNXRUNTIME_VERSION."

mkdir -p "$dest" || fail "cannot create $dest. Choose another directory."
dest=$(cd "$dest" && pwd)
work=$(mktemp -d "$dest/.make.XXXXXX") || fail "cannot write to $dest. Choose another directory."
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

if [ "$(cat "$dest/lib/version" 2>/dev/null)" != "$version" ]; then
    platforms=
    for glibc in 2_28 2_27 2_17; do platforms="$platforms --platform manylinux_${glibc}_aarch64"; done
    # shellcheck disable=SC2086
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: $platforms \
        --platform manylinux2014_aarch64 --dest "$work" "onnxruntime==$version" >"$work/log" 2>&1 ||
        fail "pip could not download onnxruntime $version for aarch64. Check the network and pip's index, or choose another release by ONNXRUNTIME_VERSION."
    "$python" -m zipfile -e "$work"/onnxruntime-*.whl "$work/wheel" ||
        fail "the wheel of onnxruntime $version does not unpack. Try again."
    mkdir "$work/lib"
    mv "$work/wheel/onnxruntime/capi/libonnxruntime.so.$version" "$work/lib/libonnxruntime.so.1" 2>/dev/null ||
        fail "the wheel of onnxruntime $version holds no libonnxruntime.so. Choose another release by ONNXRUNTIME_VERSION."
    echo "$version" >"$work/lib/version"
    rm -rf "$dest/lib"
    mv "$work/lib" "$dest/lib"
fi

if [ ! -f "$dest/sysroot/proc/cpuinfo" ]; then
    mkdir -p "$work/sysroot/proc"
    ln -s "$(cd "$(dirname "$libc")" && pwd -P)" "$work/sysroot/lib"
    # An Arm Cortex-A57, which has no dot product. What the CPU really has, programs learn from the kernel's HWCAP.
    for processor in 0 1; do
        cat <<CPU
processor	: $processor
BogoMIPS	: 62.50
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x1
CPU part	: 0xd07
CPU revision	: 0

CPU
    done >"$work/sysroot/proc/cpuinfo"
    rm -rf "$dest/sysroot"
    mv "$work/sysroot" "$dest/sysroot"
fi
echo "$dest"
