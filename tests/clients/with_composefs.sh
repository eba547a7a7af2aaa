#!/usr/bin/env bash
# Images into and out of repositories of composefs through its own service, on a file system that shares blocks and between two
# that do not, with either algorithm of its objects. Ends with 0 only if all holds.
#
#   tests/clients/with_composefs.sh      # as root, after: cargo build --workspace, and the same in tests/composefs; wants xfsprogs
#
# PEAT_BLOB_BIN_DIR names the directory of our programs; cfsctl, which tests/composefs makes, is found by PATH.
set -euo pipefail
. "$(dirname "$0")/images.sh"
size=${SIZE:-48}
on_xfs $((size * 8 + 1024))
make_image layout $((size * 1024 * 1024 / 6))
copy() { peat-blobctl --output json image copy team/app:1 "$@" > "$work/report"; }
count() { # count WAY: files or layers that came so, by the last report
  sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$work/report" | head -1
}
serve() { # serve NAME: the service of composefs; its pid is daemon[NAME]
  rm -f "$work/$1.sock"
  cfsctl varlink --address "$work/$1.sock" 2> "$work/$1.log" & daemon[$1]=$!
  until_true "the service of composefs listens" test -S "$work/$1.sock"
}
named() { cfsctl --repo "$1" oci images --json; }
nameless() { [ "$(named "$1" | tr -d ' \n')" = '{"images":[]}' ]; }
layers() { # layers LAYOUT: it has every layer, plain
  local diff
  for diff in $(grep -oE '[0-9a-f]{64}' <<< "$diffs"); do
    [ "$(sha256sum < "$1/blobs/sha256/$diff" | cut -d' ' -f1)" = "$diff" ] || fail "layer $diff is not in $1"
  done
}
copy --from "oci:$layout" --to "dir:$xfs/ours"

for algorithm in fsverity-sha512-12 fsverity-sha256-12; do
  repo=$xfs/$algorithm store=composefs:$work/$algorithm.sock,$xfs/$algorithm
  cfsctl init --insecure --algorithm $algorithm "$repo" >/dev/null
  serve $algorithm

  before=$(used)
  copy --from "dir:$xfs/ours" --to "$store" --zerocopy
  grown=$((($(used) - before) / 1024))
  [ "$(count reflinked)" = 3 ] && [ "$(count copied)" = 0 ] || fail "it is not shared: $(cat "$work/report")"
  # The layers were packed: what is new is one plain copy of each, which ours keeps and theirs shares.
  if [ $algorithm = fsverity-sha512-12 ]; then limit=$((size * 1024 * 5 / 4)); else limit=$((size * 1024 / 8)); fi
  [ $grown -lt $limit ] || fail "$grown KiB of new blocks for $size MiB"
  grep -qF "$manifest" <<< "$(named "$repo")" || fail "composefs does not name the image: $(named "$repo")"
  cfsctl --repo "$repo" oci fsck > "$work/fsck"
  grep -q '^oci images: 1/1 ok' "$work/fsck" || fail "composefs finds fault: $(cat "$work/fsck")"
  say "$algorithm: into composefs by reflink alone, $grown KiB of new blocks for $size MiB, and its own check finds all well"

  copy --from "dir:$xfs/ours" --to "$store"
  [ "$(count layers_present)" = 3 ] || fail "what is there is taken again: $(cat "$work/report")"
  before=$(used)
  copy --from "$store" --to "dir:$xfs/back.$algorithm" --zerocopy
  grown=$((($(used) - before) / 1024))
  [ "$(count reflinked)" = 3 ] && [ "$(count copied)" = 0 ] || fail "it is not shared: $(cat "$work/report")"
  copy --from "dir:$xfs/back.$algorithm" --to "oci:$work/back.$algorithm"
  layers "$work/back.$algorithm"
  say "$algorithm: what is there is not taken again; back out of it by reflink alone, $grown KiB of new blocks"
done

status=0; copy --from "oci:$layout" --to "$store" 2> "$work/why" || status=$?
[ $status = 2 ] || fail "a layout and composefs are said to share a form: $status"
status=0; copy --from "dir:$xfs/ours" --to "${store%,*}" 2> "$work/why" || status=$?
[ $status = 2 ] && grep -q 'composefs:SOCKET,REPOSITORY' "$work/why" || fail "who names no repository is not told how: $status, $(cat "$work/why")"

# Across file systems there is nothing to share.
cfsctl init --insecure "$work/elsewhere" >/dev/null
store=composefs:$work/$algorithm.sock,$work/elsewhere
status=0; copy --from "dir:$xfs/ours" --to "$store" --zerocopy 2> "$work/why" || status=$?
[ $status = 8 ] || fail "a copy is not refused: $status, $(cat "$work/why")"
nameless "$work/elsewhere" || fail "a refused copy left an image"
copy --from "dir:$xfs/ours" --to "$store"
[ "$(count copied)" = 3 ] && [ "$(count reflinked)" = 0 ] || fail "a copy across file systems is not called one: $(cat "$work/report")"
cfsctl --repo "$work/elsewhere" oci fsck > "$work/fsck"
say "across file systems it is refused with --zerocopy ($(sed -n 's/.*"message":"\([^"]*\)".*/\1/p' "$work/why")), and copied without"

# Killed half way, on either side, nothing has the name; the next copy is whole.
for who in ours theirs; do
  repo=$work/killed.$who store=composefs:$work/$who.sock,$work/killed.$who
  cfsctl init --insecure "$repo" >/dev/null
  serve $who
  for attempt in {1..20}; do
    peat-blobctl image copy team/app:1 --from "dir:$xfs/ours" --to "$store" >/dev/null 2>&1 & copying=$!
    until_true "the copy has begun" bash -c "find '$repo/objects' '$repo'/.??* -type f -size +0 2>/dev/null | grep -q . || ! kill -0 $copying"
    [ $who = ours ] && victim=$copying || victim=${daemon[theirs]}
    kill -9 "$victim" 2>/dev/null || true
    status=0; wait $copying 2>/dev/null || status=$?
    [ $status = 0 ] || break
    # One that had come to its end was not killed half way.
    rm -rf "$repo"; cfsctl init --insecure "$repo" >/dev/null
    [ $who = ours ] || { wait "${daemon[theirs]}" 2>/dev/null || true; serve theirs; }
  done
  [ $status != 0 ] || fail "no copy was killed half way"
  [ $who = ours ] || { wait "${daemon[theirs]}" 2>/dev/null || true; serve theirs; }
  nameless "$repo" || fail "a killed copy left an image: $(named "$repo")"
  copy --from "dir:$xfs/ours" --to "$store"
  cfsctl --repo "$repo" oci fsck > "$work/fsck"
  grep -q '^oci images: 1/1 ok' "$work/fsck" || fail "after a killed copy composefs finds fault: $(cat "$work/fsck")"
done
say "killed half way, ours or theirs, nothing has the name, and the next copy is whole"

# The client of composefs imports an image from our daemon.
enroll alpha
mv "$work/alpha" "$xfs/alpha"; ln -s "$xfs/alpha" "$work/alpha"
start alpha --varlink "unix://$xfs/alpha.layers"
copy --from "dir:$xfs/ours" --to "unix://$xfs/alpha.layers" --zerocopy
files() { ls "/proc/${daemon[alpha]}/fd" | wc -l; }
repo=$xfs/imported
cfsctl init --insecure "$repo" >/dev/null
cfs-copy "$xfs/alpha.layers" "$work/theirs.sock" "$repo" team/app:1 > "$work/imported" # makes the layers
steady() { [ "$(files)" = "$(read -rt 0.2 <> <(:) || true; files)" ]; }
until_true "the daemon is at rest" steady
before=$(files)
for n in 1 2 3 4 5; do
  rm -rf "$repo"; cfsctl init --insecure "$repo" >/dev/null
  blocks=$(used)
  cfs-copy "$xfs/alpha.layers" "$work/theirs.sock" "$repo" team/app:1 zerocopy > "$work/imported"
  grown=$((($(used) - blocks) / 1024))
done
grep -qF "$manifest" "$work/imported" || fail "another image came: $(cat "$work/imported")"
cfsctl --repo "$repo" oci fsck > "$work/fsck"
grep -q '^oci images: 1/1 ok' "$work/fsck" || fail "composefs finds fault: $(cat "$work/fsck")"
[ $grown -lt $((size * 1024 / 8)) ] || fail "$grown KiB of new blocks for $size MiB"
no_more() { [ "$(files)" -le "$before" ]; }
until_true "the daemon has $before files open, as before" no_more
say "the client of composefs imports it from a daemon of ours, with $grown KiB of new blocks; after five more the daemon has as many files open: $before"

# Fifty copies, and its service has no more descriptors open than before.
held() { ls "/proc/${daemon[theirs]}/fd" | wc -l; }
before=$(held)
for n in $(seq 50); do copy --from "$store" --to "dir:$xfs/many"; done
after=$(held)
no_more() { after=$(held); [ "$after" -le "$before" ]; }
until_true "the service of composefs has $before descriptors open, as before" no_more
say "after 50 more copies its service has $after descriptors open; before it had $before"
echo "images copied to and from composefs: all held"
