#!/usr/bin/env bash
# Real clients against the registries of two daemons: an image that is pushed to alpha is pulled from bravo, byte for byte, while
# no other registry is there, also by several at once, and from bravo alone when alpha is gone. Ends with 0 only if all holds.
#
#   tests/clients/with_skopeo.sh      # after: cargo build --workspace; wants skopeo
#
# A docker-archive in a folder of alpha's is pulled from bravo by a pattern. Users of charlie's have what is theirs.
#
# PEAT_BLOB_BIN_DIR names the directory of the programs.
set -euo pipefail
. "$(dirname "$0")/images.sh"
make_image layout 2500000
enroll alpha bravo charlie
start alpha --sideload "$work/alpha.images/<ref>-<name>.tar.gz" --sideload-interval 1s
start bravo
join bravo alpha

push alpha team/app
say "skopeo pushed to alpha"
policy copy --quiet --src-tls-verify=false --dest-tls-verify=false "docker://${registry[alpha]}/team/app:1" "oci:$work/back:1"
same "$work/back" "what alpha gives back differs"

# The tag crosses to bravo as a document.
knows bravo team/app
pulls=()
for n in 1 2 3 4 5; do
  pull bravo team/app "$work/cold$n" &
  pulls+=($!)
done
for pull in "${pulls[@]}"; do wait "$pull" || fail "a pull from bravo failed"; done
for n in 1 2 3 4 5; do same "$work/cold$n" "what bravo gives differs"; done
say "five skopeos pulled from bravo what only alpha had, at once and cold"

# Alpha as a registry like any other: bravo is its client.
policy copy --quiet --dest-tls-verify=false "oci:$layout:1" "docker://${registry[alpha]}/other/thing:9"
ctl bravo image pull "${registry[alpha]}/other/thing:9" --insecure >/dev/null
ctl bravo image export other/thing:9 "$work/thing.tar" >/dev/null
policy copy --quiet "oci-archive:$work/thing.tar:9" "oci:$work/thing:9"
same "$work/thing" "what was pulled from a registry differs"
say "bravo pulled from a registry as its client"

# As Nix leaves an image: an archive in gzip whose name says what it is.
policy copy --quiet "oci:$layout:1" "docker-archive:$work/side.tar:any/name:3"
gzip "$work/side.tar"
mkdir "$work/alpha.images"
mv "$work/side.tar.gz" "$work/alpha.images/0a1b2c-side.tar.gz"
until_true "bravo knows what lies in a file of alpha's" curl -fsS "http://${registry[bravo]}/v2/side/manifests/0a1b2c"
policy copy --quiet --src-tls-verify=false "docker://${registry[bravo]}/side:0a1b2c" "dir:$work/side"
for diff in $(grep -oE '[0-9a-f]{64}' <<< "$diffs"); do [ -f "$work/side/$diff" ] || fail "a layer of the file did not come"; done
say "skopeo pulled from bravo what lies in a file of alpha's"
if command -v podman >/dev/null; then
  storage=(--root "$work/podman" --runroot "$work/podman.run" --storage-driver vfs)
  podman "${storage[@]}" pull --quiet --tls-verify=false "${registry[bravo]}/side:0a1b2c" >/dev/null
  say "podman too"
fi

# Users, each with a password and repositories of his own.
cat > "$work/users" <<'EOF'
[ci]
token = "the-password-of-ci"
pull = ["apps/*"]
push = ["apps/*"]
[field]
token = "the-password-of-field"
pull = ["apps/web"]
EOF
chmod 600 "$work/users"
start charlie --registry-users "$work/users"
as() { # as USER REPOSITORY: whether he gets its image
  rm -rf "$work/as.$1"
  policy copy --quiet --src-tls-verify=false --src-creds "$1:the-password-of-$1" "docker://${registry[charlie]}/$2:1" "oci:$work/as.$1:1" 2>> "$work/as.log"
}
send() { policy copy --quiet --dest-tls-verify=false --dest-creds ci:the-password-of-ci "oci:$layout:1" "docker://${registry[charlie]}/$1:1" 2>> "$work/as.log"; }
for app in apps/web apps/other; do send "$app" || fail "ci may not push to $app"; done
send base && fail "ci may push where he may not"
as field apps/web || fail "field does not get what is his"
same "$work/as.field" "what field gets differs"
as field apps/other && fail "field gets what is not his"
as nobody apps/web && fail "somebody who is not known gets something"
grep -q 'may not pull in apps/other' "$work/as.log" || fail "skopeo does not show why"
say "skopeo pushed and pulled as users, where they may and nowhere else"

end alpha TERM
pull bravo team/app "$work/warm"
same "$work/warm" "what bravo gives without alpha differs"
say "bravo serves it with alpha gone"

# What CLI and other clients make of it.
policy copy --quiet "oci:$layout:1" "docker-archive:$work/saved.tar:team/saved:2"
gzip "$work/saved.tar"
ctl bravo image import "$work/saved.tar.gz" >/dev/null
ctl bravo image export team/saved:2 "$work/exported.tar" --format docker >/dev/null
config=$(skopeo inspect --config --raw "docker-archive:$work/exported.tar:team/saved:2")
grep -qF "\"diff_ids\":[$diffs]" <<< "$config" || fail "the docker-archive that was exported has other layers"
ctl bravo image export team/app:1 "$work/app.tar" >/dev/null
policy copy --quiet "oci-archive:$work/app.tar:1" "oci:$work/unpacked:1"
same "$work/unpacked" "what was exported differs"
[ "$(ctl bravo image ls --output jsonl | wc -l)" = 4 ] || fail "image ls lists something else"
say "an archive of docker's went in and out, and an oci-archive out"
if command -v podman >/dev/null; then
  storage=(--root "$work/podman" --runroot "$work/podman.run" --storage-driver vfs)
  podman "${storage[@]}" pull --quiet --tls-verify=false "${registry[bravo]}/team/saved:2" >/dev/null
  podman "${storage[@]}" image inspect "${registry[bravo]}/team/saved:2" --format '{{.Architecture}}' | grep -qx amd64
  say "podman pulled it"
fi
