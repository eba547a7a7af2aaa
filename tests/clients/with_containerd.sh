#!/usr/bin/env bash
# Real clients when things go wrong, against three daemons of which one is asked: containerd pulls through it as the mirror of a
# registry that does not exist, and skopeo goes on when the holder that serves it is killed half way and another is left.
# Ends with 0 only if all holds.
#
#   tests/clients/with_containerd.sh   # as root, after: cargo build --workspace; wants curl, skopeo, containerd; podman, umoci
#
# PEAT_BLOB_BIN_DIR names the directory of the programs.
set -euo pipefail
. "$(dirname "$0")/images.sh"
enroll alpha bravo charlie
start alpha; start bravo; start charlie
join bravo alpha
join charlie alpha

if command -v podman >/dev/null; then
  make_image first 300000
  push alpha team/first
  knows charlie team/first
  storage=(--root "$work/podman" --runroot "$work/podman.run" --storage-driver vfs)
  podman "${storage[@]}" pull --quiet --tls-verify=false "${registry[charlie]}/team/first:1" >/dev/null
  podman "${storage[@]}" image inspect "${registry[charlie]}/team/first:1" --format '{{.Digest}}' | grep -qxF "$manifest" || fail "podman has another manifest"
  say "skopeo pushed to alpha, and podman pulled from charlie"
fi

# Containerd's own registry is one that nobody has: what it gets comes from the mirror.
make_image second 300000
push alpha team/app
knows charlie team/app
mkdir -p "$work/hosts/registry.invalid"
printf "server = 'https://registry.invalid'\n[host.'http://%s']\ncapabilities = ['pull', 'resolve']\n" "${registry[charlie]}" > "$work/hosts/registry.invalid/hosts.toml"
printf "version = 2\nroot = '%s'\nstate = '%s'\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n[grpc]\naddress = '%s'\n" \
  "$work/containerd" "$work/containerd.run" "$work/containerd.sock" > "$work/containerd.toml"
containerd --config "$work/containerd.toml" 2> "$work/containerd.log" &
others+=($!)
container() { ctr --address "$work/containerd.sock" "$@"; }
until_true "containerd answers" container version
image=registry.invalid/team/app:1
container content fetch --hosts-dir "$work/hosts" "$image" > "$work/ctr.log" 2>&1 || fail "containerd fetches nothing: $(cat "$work/ctr.log")"
for blob in "$layout"/blobs/sha256/*; do
  container content get "sha256:${blob##*/}" | cmp - "$blob" || fail "containerd has something else as ${blob##*/}"
done
say "containerd fetched what only alpha had, through charlie as the mirror of a registry that is not there"

# Alpha is killed while charlie gets from it, slowly; bravo has the image too, and came back only then.
make_image third 600000
push alpha team/slow
knows bravo team/slow
ctl alpha image send team/slow:1 --to bravo >/dev/null
has() { curl -fsS -I -H 'peat-blob-passed-on: 1' "http://${registry[$1]}/v2/$2/manifests/$manifest"; }
until_true "bravo has the image" has bravo team/slow
knows charlie team/slow
end bravo TERM
ctl charlie limits set --down 400KB/s >/dev/null
pulls=()
for n in 1 2 3 4 5; do
  pull charlie team/slow "$work/slow$n" &
  pulls+=($!)
done
came() { [ "$(du -sb "$work/slow1" | cut -f1)" -ge "$1" ]; }
until_true "the image comes" came 400000
start bravo
join charlie bravo
connected() { [ "$(ctl charlie --output json peers | grep -c '"connected": true')" = 2 ]; }
until_true "charlie is with both" connected
end alpha KILL
! came 3600000 || fail "all of it had come when alpha was killed"
for pull in "${pulls[@]}"; do wait "$pull" || fail "a pull failed when alpha was killed: $(tail -5 "$work/charlie.log")"; done
for n in 1 2 3 4 5; do same "$work/slow$n" "what came from two holders differs"; done
say "five skopeos pulled cold and at once, and none noticed that the holder was killed half way"

if command -v umoci >/dev/null; then
  ctl charlie image export team/slow:1 "$work/slow.tar" >/dev/null
  mkdir "$work/exported" && tar -C "$work/exported" -xf "$work/slow.tar"
  umoci unpack --rootless --image "$work/exported:1" "$work/bundle" >/dev/null
  for n in 1 2 3; do cmp "$work/rootfs/$n/data" "$work/bundle/rootfs/$n/data" || fail "umoci unpacked something else"; done
  umoci config --image "$work/exported:1" --tag 2 --config.cmd /2/data
  umoci insert --rootless --image "$work/exported:2" "$work/formation" /formation >/dev/null
  ctl charlie image import "$work/exported" --name team/changed >/dev/null
  policy copy --quiet --src-tls-verify=false "docker://${registry[charlie]}/team/changed:2" "oci:$work/changed:2"
  for blob in "$work"/changed/blobs/sha256/*; do cmp "$blob" "$work/exported/blobs/sha256/${blob##*/}" || fail "what umoci made differs"; done
  say "umoci unpacked and changed what was exported, and skopeo pulled what it made"
fi
