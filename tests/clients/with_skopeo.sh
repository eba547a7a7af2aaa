#!/usr/bin/env bash
# Real clients against the registries of two daemons: an image that is pushed to alpha is pulled from bravo, byte for byte, while
# no other registry is there, also by several at once, and from bravo alone when alpha is gone. Ends with 0 only if all holds.
#
#   tests/clients/with_skopeo.sh      # after: cargo build --workspace; wants skopeo
#
# A docker-archive in a folder of alpha's is pulled from bravo by a pattern.
#
# PEAT_BLOB_BIN_DIR names the directory of the programs.
set -euo pipefail
PATH="$(realpath "${PEAT_BLOB_BIN_DIR:-target/debug}"):$PATH"
work=$(mktemp -d)
daemons=()
finish() {
  [ ${#daemons[@]} -eq 0 ] || kill "${daemons[@]}" 2>/dev/null || true
  wait
  rm -rf "$work"
}
trap finish EXIT
say() { printf -- '- %s\n' "$*"; }
fail() { echo "with_skopeo: $*" >&2; exit 1; }

# An image of three layers, made by hand: an OCI layout is files and their hashes.
layout=$work/layout
mkdir -p "$layout/blobs/sha256"
put() { # put FILE: moves it into the layout, prints its digest and size
  local digest; digest=$(sha256sum "$1" | cut -d' ' -f1)
  local size; size=$(stat -c %s "$1")
  mv "$1" "$layout/blobs/sha256/$digest"
  printf '"digest":"sha256:%s","size":%s' "$digest" "$size"
}
layers='' diffs=''
for n in 1 2 3; do
  mkdir -p "$work/rootfs/$n"
  head -c $((n * 2500000)) /dev/urandom > "$work/rootfs/$n/data"
  tar --sort=name --mtime=@0 --owner=0 --group=0 -C "$work/rootfs" -cf "$work/layer.tar" "$n"
  diffs+="${diffs:+,}\"sha256:$(sha256sum "$work/layer.tar" | cut -d' ' -f1)\""
  gzip -n "$work/layer.tar"
  layers+="${layers:+,}{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",$(put "$work/layer.tar.gz")}"
done
printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%s]},"config":{"Cmd":["/1/data"]}}' "$diffs" > "$work/config"
config="{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",$(put "$work/config")}"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' "$config" "$layers" > "$work/manifest"
root=$(put "$work/manifest")
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"org.opencontainers.image.ref.name":"1"}}]}' "$root" > "$layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' > "$layout/oci-layout"

peat-blobctl keygen "$work/formation" >/dev/null
for node in alpha bravo; do
  peat-blobctl enroll --formation "$work/formation" --data "$work/$node" --name "$node" >/dev/null
done
declare -A registry
start() { # start NODE: runs its daemon and waits until it answers
  local node=$1
  peat-blobd --data-dir "$work/$node" --iroh-listen 127.0.0.1:0 --registry-listen "${registry[$node]:-127.0.0.1:0}" --sideload "$work/$node.images/<ref>-<name>.tar.gz" --sideload-interval 1s --log info 2>> "$work/$node.log" &
  daemons+=($!)
  for attempt in {1..300}; do
    if peat-blobctl --daemon "unix://$work/$node/api.sock" status >/dev/null 2>&1; then break; fi
    [ "$attempt" -lt 300 ] || fail "$node does not answer: $(cat "$work/$node.log")"
    read -rt 0.1 <> <(:) || true
  done
  registry[$node]=$(sed 's/\x1b\[[0-9;]*m//g' "$work/$node.log" | sed -n 's/.*the registry serves address=//p' | tail -1)
}
start alpha
start bravo
id=$(peat-blobctl --daemon "unix://$work/alpha/api.sock" --output json status | sed -n 's/.*"endpoint_id": "\(.*\)",/\1/p')
address=$(peat-blobctl --daemon "unix://$work/alpha/api.sock" --output json status | grep -oE '127[0-9.]+:[0-9]+' | head -1)
peat-blobctl --daemon "unix://$work/bravo/api.sock" connect "$id@$address" >/dev/null

policy() { skopeo --insecure-policy "$@"; }
policy copy --quiet --dest-tls-verify=false "oci:$layout:1" "docker://${registry[alpha]}/team/app:1"
say "skopeo pushed to alpha"
policy copy --quiet --src-tls-verify=false --dest-tls-verify=false "docker://${registry[alpha]}/team/app:1" "oci:$work/back:1"
diff -r "$layout/blobs" "$work/back/blobs" || fail "what alpha gives back differs"

# The tag crosses to bravo as a document.
for attempt in {1..300}; do
  if curl -fsS -o "$work/tag" -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://${registry[bravo]}/v2/team/app/manifests/1" 2>/dev/null; then break; fi
  [ "$attempt" -lt 300 ] || fail "bravo does not know the tag"
  read -rt 0.1 <> <(:) || true
done
pulls=()
for n in 1 2 3 4 5; do
  policy copy --quiet --src-tls-verify=false "docker://${registry[bravo]}/team/app:1" "oci:$work/cold$n:1" &
  pulls+=($!)
done
for pull in "${pulls[@]}"; do wait "$pull" || fail "a pull from bravo failed"; done
for n in 1 2 3 4 5; do diff -r "$layout/blobs" "$work/cold$n/blobs" || fail "what bravo gives differs"; done
say "five skopeos pulled from bravo what only alpha had, at once and cold"

# Alpha as a registry like any other: bravo is its client.
ctl() { peat-blobctl --daemon "unix://$work/bravo/api.sock" "$@"; }
policy copy --quiet --dest-tls-verify=false "oci:$layout:1" "docker://${registry[alpha]}/other/thing:9"
ctl image pull "${registry[alpha]}/other/thing:9" --insecure >/dev/null
ctl image export other/thing:9 "$work/thing.tar" >/dev/null
policy copy --quiet "oci-archive:$work/thing.tar:9" "oci:$work/thing:9"
diff -r "$layout/blobs" "$work/thing/blobs" || fail "what was pulled from a registry differs"
say "bravo pulled from a registry as its client"

# As Nix leaves an image: an archive in gzip whose name says what it is.
policy copy --quiet "oci:$layout:1" "docker-archive:$work/side.tar:any/name:3"
gzip "$work/side.tar"
mkdir "$work/alpha.images"
mv "$work/side.tar.gz" "$work/alpha.images/0a1b2c-side.tar.gz"
for attempt in {1..600}; do
  if curl -fsS -o "$work/tag" "http://${registry[bravo]}/v2/side/manifests/0a1b2c" 2>/dev/null; then break; fi
  [ "$attempt" -lt 600 ] || fail "bravo does not know what lies in a file of alpha's"
  read -rt 0.1 <> <(:) || true
done
policy copy --quiet --src-tls-verify=false "docker://${registry[bravo]}/side:0a1b2c" "dir:$work/side"
for diff in $(grep -oE '[0-9a-f]{64}' <<< "$diffs"); do [ -f "$work/side/$diff" ] || fail "a layer of the file did not come"; done
say "skopeo pulled from bravo what lies in a file of alpha's"
if command -v podman >/dev/null; then
  storage=(--root "$work/podman" --runroot "$work/podman.run" --storage-driver vfs)
  podman "${storage[@]}" pull --quiet --tls-verify=false "${registry[bravo]}/side:0a1b2c" >/dev/null
  say "podman too"
fi

kill "${daemons[0]}"; wait "${daemons[0]}" || true
policy copy --quiet --src-tls-verify=false "docker://${registry[bravo]}/team/app:1" "oci:$work/warm:1"
diff -r "$layout/blobs" "$work/warm/blobs" || fail "what bravo gives without alpha differs"
say "bravo serves it with alpha gone"

# What CLI and other clients make of it.
policy copy --quiet "oci:$layout:1" "docker-archive:$work/saved.tar:team/saved:2"
gzip "$work/saved.tar"
ctl image import "$work/saved.tar.gz" >/dev/null
ctl image export team/saved:2 "$work/exported.tar" --format docker >/dev/null
config=$(skopeo inspect --config --raw "docker-archive:$work/exported.tar:team/saved:2")
grep -qF "\"diff_ids\":[$diffs]" <<< "$config" || fail "the docker-archive that was exported has other layers"
ctl image export team/app:1 "$work/app.tar" >/dev/null
policy copy --quiet "oci-archive:$work/app.tar:1" "oci:$work/unpacked:1"
diff -r "$layout/blobs" "$work/unpacked/blobs" || fail "what was exported differs"
[ "$(ctl image ls --output jsonl | wc -l)" = 4 ] || fail "image ls lists something else"
say "an archive of docker's went in and out, and an oci-archive out"
if command -v podman >/dev/null; then
  storage=(--root "$work/podman" --runroot "$work/podman.run" --storage-driver vfs)
  podman "${storage[@]}" pull --quiet --tls-verify=false "${registry[bravo]}/team/saved:2" >/dev/null
  podman "${storage[@]}" image inspect "${registry[bravo]}/team/saved:2" --format '{{.Architecture}}' | grep -qx amd64
  say "podman pulled it"
fi
