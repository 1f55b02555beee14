#!/bin/sh
# Write the digests of the images that others have made into platform/images.env: make pin-images
# What a tag names changes with time; what a digest names does not. The file changes when a registry has answered for all of them.
set -eu
cd "$(dirname "$0")"
docker=${1:-docker}
trap 'rm -f images.env.part' EXIT

fail() {
    echo "$1: platform/images.env stays as it is" >&2
    exit 1
}

command -v "$docker" >/dev/null || fail "There is no $docker here, and it asks the registry"
while IFS='=' read -r name image; do
    tag=${image%@*}
    "$docker" pull --quiet "$tag" >/dev/null </dev/null || fail "$tag cannot be pulled from its registry"
    digest=$("$docker" image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$tag" | sed -n "s|^${tag%:*}@||p")
    [ -n "$digest" ] || fail "Docker knows no digest of $tag"
    echo "$name=$tag@$digest"
done <images.env >images.env.part
mv images.env.part images.env
cat images.env
