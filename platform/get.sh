#!/bin/sh
# Get Prometheus and Alertmanager without root: platform/get.sh
# What is on the PATH is left alone. The rest is unpacked from Debian's packages into out/programs/, where the course's services
# look too. apt compares each package with the digest in Debian's index, and the index with Debian's signature.
# `make clean` takes all of it away again.
set -eu
cd "$(dirname "$0")/.."
into=$PWD/out/programs

wanted=
for name in prometheus prometheus-alertmanager; do
    found=$(PATH="$into/usr/bin:$PATH" command -v "$name" || { [ "$name" = prometheus ] || command -v alertmanager; } || true)
    if [ -n "$found" ]; then echo "$name: $found"; else wanted="$wanted $name"; fi
done
[ -n "$wanted" ] || exit 0

for tool in apt-get dpkg-deb; do
    command -v $tool >/dev/null || {
        echo "There is no $tool here, so this is no Debian or Ubuntu. Get$wanted from https://prometheus.io/download/," >&2
        echo "compare the digest that stands there, and put the programs into $into/usr/bin or on the PATH." >&2
        exit 1
    }
done

apt=$into/apt # an apt of its own, beside the system's: it reads the system's sources and keys, and writes nothing outside
mkdir -p "$apt/lists/partial" "$apt/archives/partial"
set -- -qq -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt" -o Dir::Cache::Archives="$apt/archives" -o APT::Sandbox::User="$(id -un)"
apt-get "$@" update
for name in $wanted; do
    (cd "$apt/archives" && rm -f "$name"_*.deb && apt-get "$@" download "$name" && dpkg-deb -x "$name"_*.deb "$into" && sha256sum "$name"_*.deb)
    [ -x "$into/usr/bin/$name" ] || { echo "the package $name has no program of that name" >&2; exit 1; }
    echo "$name: $into/usr/bin/$name"
done
rm -rf "$apt"
