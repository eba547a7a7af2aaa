#!/usr/bin/env bash
# Images between stores of one machine: directories, layouts, daemons, containers-storage, on a file system that shares blocks and
# between two that do not. Ends with 0 only if all holds; prints what it measured.
#
#   tests/clients/with_copy.sh      # as root, after: cargo build --workspace; wants xfsprogs and skopeo
#   SIZE=1024 tests/clients/with_copy.sh      # an image of 1 GiB; PEAT_BLOB_BIN_DIR=target/release for figures
set -euo pipefail
. "$(dirname "$0")/images.sh"
size=${SIZE:-48}
on_xfs $((size * 8 + 1024))
make_image layout $((size * 1024 * 1024 / 6))
copy() { peat-blobctl --output json image copy "$@" > "$work/report"; }
count() { # count WAY: bytes that came so, by the last report
  sed -n "/\"$1\"/,/}/s/.*\"bytes\": \([0-9]*\).*/\1/p" "$work/report"
}
same_image() { # same_image LAYOUT: it has the very image
  grep -qF "$manifest" "$1/index.json" || fail "$1 does not name the image"
  same "$1" "what is in $1 differs"
}

# Across file systems there is nothing to share.
copy team/app:1 --from "oci:$layout" --to "dir:$xfs/a"
[ "$(count copied)" -gt $((size * 1000000)) ] && [ "$(count reflinked)" = 0 ] || fail "a copy across file systems is not called one"
status=0; copy team/app:1 --from "oci:$layout" --to "dir:$xfs/refused" --zerocopy 2> "$work/why" || status=$?
[ $status = 8 ] && grep -q 'different file systems' "$work/why" || fail "a copy is not refused: $status, $(cat "$work/why")"
say "across file systems it is copied and says so, and with --zerocopy refused: $(head -1 "$work/why")"

# Within one its blocks are shared.
before=$(used); began=$(date +%s%N)
copy team/app:1 --from "dir:$xfs/a" --to "dir:$xfs/b" --zerocopy
took=$((($(date +%s%N) - began) / 1000000)); grown=$((($(used) - before) / 1024))
[ "$(count reflinked)" -gt $((size * 1000000)) ] || fail "nothing was shared: $(cat "$work/report")"
[ $grown -lt $((size * 1024 / 8)) ] || fail "$grown KiB of new blocks for $size MiB"
began=$(date +%s%N)
policy copy --quiet "oci:$layout:1" "oci:$xfs/by-skopeo:1"
by_skopeo=$((($(date +%s%N) - began) / 1000000))
say "$size MiB from store to store in $took ms with $grown KiB of new blocks; skopeo copy took $by_skopeo ms, $((took * 100 / by_skopeo)) % of that"
copy team/app:1 --from "dir:$xfs/b" --to "oci:$xfs/layout" --zerocopy
same_image "$xfs/layout"
policy copy --quiet "oci:$xfs/layout:1" "dir:$work/plain"
say "and into a layout, which skopeo reads"

# Killed half way it leaves nothing that has a name, and the next one is not hindered. The kernel kills who writes a longer file than
# its limit, as suddenly as by SIGKILL, and on no machine too late.
for store in oci dir; do
  status=0
  { (ulimit -c 0 -f $((size * 1024 / 4)); exec peat-blobctl image copy team/app:1 --from "dir:$xfs/b" --to "$store:$work/killed-$store") > "$work/why" 2>&1; } 2>/dev/null || status=$?
  [ $status = $((128 + $(kill -l XFSZ))) ] || fail "a copy was not killed half way: $status, $(cat "$work/why")"
  find "$work/killed-$store" -path '*/content/tmp/*' -o -name '.*.part' | grep . >/dev/null || fail "nothing of a copy into $store was under way"
  status=0; peat-blobctl image copy team/app:1 --from "$store:$work/killed-$store" --to "oci:$work/none-$store" >/dev/null 2>&1 || status=$?
  [ $status = 4 ] || fail "a killed copy left an image in $store: $status"
  copy team/app:1 --from "dir:$xfs/b" --to "$store:$work/killed-$store"
  copy team/app:1 --from "$store:$work/killed-$store" --to "oci:$work/whole-$store"
  same_image "$work/whole-$store"
  ! ls "$work/killed-$store"/blobs/sha256/.*.part >/dev/null 2>&1 || fail "parts are left"
done
say "killed half way nothing has the name, and the next copy is whole"

# From one daemon to another, a hundred times: descriptors and files stay as many.
enroll alpha bravo
for node in alpha bravo; do mv "$work/$node" "$xfs/$node"; ln -s "$xfs/$node" "$work/$node"; done
for node in alpha bravo; do start $node --varlink "unix://$xfs/$node.layers"; done
copy team/app:1 --from "dir:$xfs/b" --to "unix://$xfs/alpha.layers" --zerocopy
before=$(used)
copy team/app:1 --from "unix://$xfs/alpha.layers" --to "unix://$xfs/bravo.layers" --zerocopy
grown=$((($(used) - before) / 1024))
[ $grown -lt $((size * 1024 / 8)) ] || fail "$grown KiB of new blocks from daemon to daemon"
held() { for node in alpha bravo; do ls "/proc/${daemon[$node]}/fd" | wc -l; find "$xfs/$node/" -type f | wc -l; done | xargs; }
pull bravo team/app "$work/pulled"; same "$work/pulled" "what bravo serves differs"
steady() { [ "$(held)" = "$(read -rt 0.2 <> <(:) || true; held)" ]; }
until_true "the daemons are at rest" steady
before=$(held)
for n in $(seq 100); do copy team/app:1 --from "unix://$xfs/alpha.layers" --to "unix://$xfs/bravo.layers" --zerocopy; done
until_true "descriptors and files are as many as before ($before)" bash -c "$(declare -f held); $(declare -p daemon); xfs=$xfs; [ \"\$(held)\" = '$before' ]"
say "from daemon to daemon with $grown KiB of new blocks; after 100 copies descriptors and files are as before: $before"

# Layer by layer, as composefs has it: packed layers come out plain where they were not there before, and the same where they were.
peat-blobctl image copy team/app:1 --from "composefs:$xfs/alpha.layers" --to "dir:$xfs/c" --as by/layers:1 > "$work/by-layers"
copy by/layers:1 --from "dir:$xfs/c" --to "oci:$work/plain-layers"
for diff in $(grep -oE '[0-9a-f]{64}' <<< "$diffs"); do
  [ "$(sha256sum < "$work/plain-layers/blobs/sha256/$diff" | cut -d' ' -f1)" = "$diff" ] || fail "layer $diff did not come"
done
copy team/app:1 --from "composefs:$xfs/alpha.layers" --to "unix://$xfs/bravo.layers" --as by/layers:1
grep -qF "$manifest" "$work/report" || fail "an image whose layers were there is another"
say "layer by layer as well: $(grep -oE '^(reflinked|hard-linked|copied|there before) +[0-9]+' "$work/by-layers" | xargs)"

# containers-storage by its own tool, with its own configuration and an additional store.
mkdir -p "$work/home/.config/containers"
printf '{"default":[{"type":"insecureAcceptAnything"}]}' > "$work/home/.config/containers/policy.json"
configured() { printf '[storage]\ndriver="vfs"\ngraphroot="%s"\nrunroot="%s"\n[storage.options]\nadditionalimagestores=[%s]\n' "$work/$1" "$work/$1.run" "${2:-}" > "$work/$1.conf"; }
configured first; configured second "\"$work/first\""
in_storage() { HOME=$work/home XDG_CONFIG_HOME=$work/home/.config CONTAINERS_STORAGE_CONF=$work/$1.conf copy "${@:2}"; }
in_storage first team/app:1 --from "dir:$xfs/b" --to containers-storage: --as localhost/team/app:1
in_storage second localhost/team/app:1 --from containers-storage: --to "dir:$xfs/d"
copy team/app:1 --from "dir:$xfs/d" --to "oci:$work/stored"
grep -q '"digest"' "$work/report"
status=0; in_storage first team/app:1 --from containers-storage: --to "dir:$xfs/e" --zerocopy 2>/dev/null || status=$?
[ $status = 8 ] || fail "containers-storage copies though it may not"
say "into containers-storage and out of it, through another's additional store"
echo "images copied between stores: all held"
