#!/usr/bin/env bash
# Two nodes on this machine, as on two terminals of README.md: a formation, two daemons, a directory from the one to the other.
# It ends with 0 only if every byte has arrived. Everything is in a directory that goes in the end.
#
#   examples/two-nodes.sh            # after: cargo build --release -p peat-blobd -p peat-blobctl
#
# PEAT_BLOB_BIN_DIR names the directory of the programs (target/release).
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$(realpath "${PEAT_BLOB_BIN_DIR:-target/release}"):$PATH"
work=$(mktemp -d)
daemons=()
finish() {
  [ ${#daemons[@]} -eq 0 ] || kill "${daemons[@]}" 2>/dev/null || true
  wait
  rm -rf "$work"
}
trap finish EXIT

# Once, anywhere: the formation, and a member's identity for each node.
peat-blobctl keygen "$work/formation"
peat-blobctl enroll --formation "$work/formation" --data "$work/alpha" --name alpha
peat-blobctl enroll --formation "$work/formation" --data "$work/bravo" --name bravo --label role=edge

# Terminal 1: alpha, which sends.
peat-blobd --data-dir "$work/alpha" --iroh-listen 127.0.0.1:0 --log warn &
daemons+=($!)

# Terminal 2: bravo, which delivers into its inbox.
peat-blobd --data-dir "$work/bravo" --iroh-listen 127.0.0.1:0 --inbox "$work/inbox" --log warn &
daemons+=($!)

alpha() { peat-blobctl --daemon "unix://$work/alpha/api.sock" "$@"; }
bravo() { peat-blobctl --daemon "unix://$work/bravo/api.sock" "$@"; }

# A daemon answers once it is ready; it is asked again until then.
for node in alpha bravo; do
  for attempt in {1..300}; do
    if "$node" status >/dev/null 2>&1; then break; fi
    [ "$attempt" -lt 300 ] || { echo "$node does not answer" >&2; exit 1; }
    read -rt 0.1 <> <(:) || true
  done
done

# It is enough that one of them knows where the other is.
id=$(alpha --output json status | sed -n 's/.*"endpoint_id": "\(.*\)",/\1/p')
address=$(alpha --output json status | grep -oE '127[0-9.]+:[0-9]+')
bravo connect "$id@$address"

# Something to send.
mkdir -p "$work/outbox/maps"
head -c 5000000 /dev/urandom > "$work/outbox/maps/north.bin"
echo "orders of the day" > "$work/outbox/orders.txt"

alpha send "$work/outbox" --to bravo --wait --timeout 60s
alpha ls
bravo peers
diff -r "$work/outbox" "$work/inbox"
echo "every byte has arrived"
