#!/bin/sh
# Fetch ONNX Runtime's C API headers (API 21, release 1.21) into a directory, without root and without touching the
# system, and print the directory that holds onnxruntime_c_api.h.
#
#   scripts/ort_headers.sh DEST
#
# Sources, in order: the official release archive; Debian trixie's libonnxruntime-dev, from the mirror that this
# machine's own apt is set up for, with apt's state, cache and sources kept under DEST.
# What was fetched is kept: a second call prints the path at once. On failure: one sentence with the remedy, status 1.
set -eu

version=1.21.0
timeout=${EDGECONV_DOWNLOAD_TIMEOUT:-8}
remedy="install ONNX Runtime's development files (Debian 13 or Ubuntu 25.04: libonnxruntime-dev), or unpack an \
onnxruntime-linux release archive and set ONNXRUNTIME_ROOT to it"

[ $# -eq 1 ] || { echo "usage: $0 DEST" >&2; exit 2; }
mkdir -p "$1"
dest=$(cd "$1" && pwd)
include=$dest/include

# Keep only the headers, and move them into place last: an interrupted run leaves nothing that looks complete.
install_headers() {
  header=$(find "$1" -name onnxruntime_c_api.h | head -n 1)
  [ -n "$header" ] || return 1
  rm -rf "$include.partial" "$include"
  mkdir "$include.partial"
  cp "$(dirname "$header")"/*.h "$include.partial/"
  mv "$include.partial" "$include"
}

from_release() {
  case $(uname -s)-$(uname -m) in
    Linux-x86_64) platform=linux-x64 ;;
    Linux-aarch64) platform=linux-aarch64 ;;
    *) return 1 ;;
  esac
  name=onnxruntime-$platform-$version
  url=https://github.com/microsoft/onnxruntime/releases/download/v$version/$name.tgz
  archive=$work/release.tgz
  if command -v curl >/dev/null 2>&1; then
    curl --fail --silent --location --connect-timeout "$timeout" --max-time 300 --output "$archive" "$url" || return 1
  elif command -v wget >/dev/null 2>&1; then
    wget --quiet --tries=1 --timeout="$timeout" --output-document="$archive" "$url" || return 1
  else
    return 1
  fi
  mkdir "$work/release"
  tar -xzf "$archive" -C "$work/release" "$name/include" || return 1
  install_headers "$work/release"
}

from_debian() {
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 && [ -r "$keyring" ] || return 1
  apt=$work/apt
  mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/etc/sources.list.d" "$work/package"
  : > "$apt/state/status"
  # Read after the system's configuration (a proxy set there stays in force); hooks of the system must not run.
  cat > "$apt/apt.conf" <<CONF
Dir::State "$apt/state";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/etc/sources.list.d";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
APT::Sandbox::User "$(id -un)";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "$timeout";
Acquire::https::Timeout "$timeout";
CONF
  for mirror in $(apt-get indextargets --format '$(SITE)' 'ORIGIN: Debian' 2>/dev/null | sort -u); do
    cat > "$apt/etc/sources.list.d/trixie.sources" <<SOURCE
Types: deb
URIs: $mirror
Suites: trixie
Components: main
Signed-By: $keyring
SOURCE
    if apt-get -c "$apt/apt.conf" -qq update >"$work/log" 2>&1 &&
       (cd "$work/package" && apt-get -c "$apt/apt.conf" -qq download libonnxruntime-dev >>"$work/log" 2>&1); then
      dpkg-deb -x "$work"/package/libonnxruntime-dev_*.deb "$work/debian" && install_headers "$work/debian" && return 0
    fi
  done
  return 1
}

if [ ! -f "$include/onnxruntime_c_api.h" ]; then
  work=$dest/fetch.$$
  trap 'rm -rf "$work" "$include.partial"' EXIT
  trap 'exit 130' HUP INT TERM
  mkdir "$work"
  if ! from_release && ! from_debian; then
    echo "ONNX Runtime's C API headers were not found and could not be downloaded: $remedy." >&2
    exit 1
  fi
fi
echo "$include"
