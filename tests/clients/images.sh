# What the tests with real clients of images share: an image made by hand, and daemons that are started, joined and ended.
# Sourced, not run, from the directory of the repository; PEAT_BLOB_BIN_DIR names the directory of the programs.

PATH="$(realpath "${PEAT_BLOB_BIN_DIR:-target/debug}"):$PATH"
work=$(mktemp -d)
declare -A registry daemon
others=()
finish() {
  local pid
  for pid in "${others[@]}" "${daemon[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap finish EXIT
say() { printf -- '- %s\n' "$*"; }
fail() { echo "$(basename "$0" .sh): $*" >&2; exit 1; }

# until_true WHAT COMMAND...: waits until the command succeeds, half a minute at most.
until_true() {
  local what=$1 attempt; shift
  for attempt in {1..600}; do
    if "$@" >/dev/null 2>&1; then return; fi
    read -rt 0.05 <> <(:) || true
  done
  fail "$what, and that is not so: $*"
}

put() { # put FILE: moves it into the layout, prints its digest and size
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1) size=$(stat -c %s "$1")
  mv "$1" "$layout/blobs/sha256/$digest"
  printf '"digest":"sha256:%s","size":%s' "$digest" "$size"
}
make_image() { # make_image NAME BYTES: an OCI layout of three layers in $layout, tag 1, its digest in $manifest; a layout is files and their hashes
  local layers='' config about n
  layout=$work/$1 diffs=''
  mkdir -p "$layout/blobs/sha256"
  for n in 1 2 3; do
    # composefs takes no image without /usr.
    mkdir -p "$work/rootfs/$n" "$work/rootfs/usr"
    head -c $((n * $2)) /dev/urandom > "$work/rootfs/$n/data"
    tar --sort=name --mtime=@0 --owner=0 --group=0 -C "$work/rootfs" -cf "$work/layer.tar" usr "$n"
    diffs+="${diffs:+,}\"sha256:$(sha256sum "$work/layer.tar" | cut -d' ' -f1)\""
    gzip -n "$work/layer.tar"
    layers+="${layers:+,}{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",$(put "$work/layer.tar.gz")}"
  done
  printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%s]},"config":{"Cmd":["/1/data"]}}' "$diffs" > "$work/config"
  config="{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",$(put "$work/config")}"
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' "$config" "$layers" > "$work/manifest"
  manifest=sha256:$(sha256sum "$work/manifest" | cut -d' ' -f1)
  about=$(put "$work/manifest")
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"org.opencontainers.image.ref.name":"1"}}]}' "$about" > "$layout/index.json"
  printf '{"imageLayoutVersion":"1.0.0"}' > "$layout/oci-layout"
}

on_xfs() { # on_xfs MIB: a file system of its own, of that size, whose files can share blocks, in $xfs
  xfs=$work/xfs
  mkdir "$xfs"
  truncate -s "$1M" "$work/disk"
  mkfs.xfs -q -m reflink=1 "$work/disk"
  mount -o loop "$work/disk" "$xfs"
  trap unmount EXIT
}
# What still has a file open there keeps it no longer than its own end.
unmount() { umount -l "$xfs"; finish; }
used() { sync -f "$xfs"; df -B1 --output=used "$xfs" | tail -1; } # bytes of the file system of on_xfs that are taken

enroll() { # enroll NODE...: members of one formation
  local node
  peat-blobctl keygen "$work/formation" >/dev/null
  for node; do peat-blobctl enroll --formation "$work/formation" --data "$work/$node" --name "$node" >/dev/null; done
}
ctl() { local node=$1; shift; peat-blobctl --daemon "unix://$work/$node/api.sock" "$@"; }
start() { # start NODE [SETTING...]: runs its daemon until it answers; its registry is registry[NODE] then
  local node=$1; shift
  peat-blobd --data-dir "$work/$node" --iroh-listen 127.0.0.1:0 --registry-listen "${registry[$node]:-127.0.0.1:0}" --log info "$@" 2>> "$work/$node.log" &
  daemon[$node]=$!
  until_true "$node answers" ctl "$node" status
  registry[$node]=$(sed 's/\x1b\[[0-9;]*m//g' "$work/$node.log" | sed -n 's/.*the registry serves address=//p' | tail -1)
}
end() { # end NODE SIGNAL
  kill "-$2" "${daemon[$1]}"
  wait "${daemon[$1]}" 2>/dev/null || true
  unset "daemon[$1]"
}
join() { # join NODE OTHER: has NODE dial OTHER
  local status id address
  status=$(ctl "$2" --output json status)
  id=$(sed -n 's/.*"endpoint_id": "\(.*\)",/\1/p' <<< "$status" | head -1)
  address=$(grep -oE '127[0-9.]+:[0-9]+' <<< "$status" | head -1)
  ctl "$1" connect "$id@$address" >/dev/null
}
knows() { # knows NODE REPOSITORY: waits until it knows of tag 1 there, without having any of it fetched
  until_true "$1 knows the tag" curl -fsS -I -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://${registry[$1]}/v2/$2/manifests/1"
}
policy() { skopeo --insecure-policy "$@"; }
push() { policy copy --quiet --dest-tls-verify=false "oci:$layout:1" "docker://${registry[$1]}/$2:1"; }
pull() { policy copy --quiet --src-tls-verify=false "docker://${registry[$1]}/$2:1" "oci:$3:1"; }
same() { diff -r "$layout/blobs" "$1/blobs" || fail "$2"; }
