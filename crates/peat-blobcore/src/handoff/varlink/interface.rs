//! What the service says of itself: its interfaces in the language of varlink (<https://varlink.org/Interface-Definition>). Names and
//! types are those of composefs 0.9; what is left out here is not served.

/// `org.varlink.service` is known to every client as it is.
pub(super) const SERVICE: &str = "\
# What every service of varlink has
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
";

pub(super) const REPOSITORY: &str = "\
# Repositories: here there is one, the registry of the node
interface org.composefs.Repository

# Opens it: with nothing said, or with the node's data directory as the path. The handle is of this connection
method OpenRepository(path: ?string, user: ?bool, system: ?bool) -> (handle: int, hash_algorithm: ?string, objects_device_id: ?int)

method CloseRepository(handle: int) -> ()

error RepoNotFound (message: string)
error InvalidHandle (handle: int)
error InvalidSpec (message: string)
error InternalError (message: string)
";

pub(super) const OCI: &str = "\
# Images of the node's registry and their layers. Images are named repository:tag, repository@digest or @digest
interface org.composefs.Oci

type ImageEntry (
  name: string,
  manifest_digest: string,
  is_container: bool,
  architecture: string,
  os: string,
  created: ?string,
  layer_count: int,
  referrer_count: int
)

type FsckReply (
  ok: bool,
  has_metadata: bool,
  objects_checked: int,
  objects_corrupted: int,
  streams_checked: int,
  streams_corrupted: int,
  images_checked: int,
  images_corrupted: int,
  broken_links: int,
  missing_objects: int,
  errors: []string
)

type StorageLocator (storage_path: string, layer_id: string)

type GetLayerParams (diff_id: ?string, storage: ?StorageLocator, consumer_has_cap_dac_override: bool)

type LayerRef (diff_id: string, layer_verity: string)

method GetInfo() -> (features: []string)

method ListImages(handle: int, filter: ?string) -> (images: []ImageEntry)

method Inspect(handle: int, image: string) -> (
  manifest: string,
  config: string,
  referrers: []string,
  composefs_erofs: ?string,
  composefs_boot_erofs: ?string
)

method Check(handle: int, image: ?string) -> (
  ok: bool,
  images_checked: int,
  images_corrupted: int,
  errors: []string,
  repo: FsckReply
)

method Tag(handle: int, manifest_digest: string, name: string) -> ()

method Untag(handle: int, name: string) -> ()

method HasLayer(handle: int, diff_id: string) -> (present: bool, layer_verity: ?string)

# With `more` in several replies. Descriptors, over all replies: the end of a pipe, dir_count directories or others, lifetimes
method GetLayer(handle: int, params: GetLayerParams) -> (dir_count: int)

# Descriptors: the end of a pipe, directories or others
method PutLayer(handle: int, diff_id: string, zerocopy: bool) -> (
  layer_verity: string,
  already_present: bool,
  objects_reflinked: int,
  objects_hardlinked: int,
  objects_copied: int,
  objects_already_present: int
)

# The digest of the manifest is another where its layers had to be named anew, as plain archives
method FinalizeImage(
  handle: int,
  manifest_json: string,
  config_json: string,
  layers: []LayerRef,
  name: ?string
) -> (manifest_digest: string, manifest_verity: string, config_digest: string, config_verity: string)

error RepoNotFound (message: string)
error InvalidHandle (handle: int)
error NoSuchImage (image: string)
error InternalError (message: string)
error NoSuchLayer (diff_id: string)
error InvalidDigest (message: string)
error DiffIdMismatch (expected: string, actual: string)
error InvalidRequest (message: string)
error FdLimitExceeded (fd_count: int, max_per_frame: int)
";

pub(super) const STORE: &str = "\
# The node's registry blob by blob, each as it travels, for stores that keep them so: files go by descriptor and share their
# blocks. A handle is of org.composefs.Repository. Digests are sha256:… or sha512:…
interface peat.blob.Store

type Descriptor (media_type: string, digest: string, size: int)

# repository:tag or repository@digest
method FindImage(handle: int, image: string) -> (media_type: string, digest: string, size: int, manifest: string)

# The manifests that are about one and whole here
method ListReferrers(handle: int, repository: string, digest: string) -> (referrers: []Descriptor)

# Descriptors: a file that is the blob, unless its text is in the reply
method OpenBlob(handle: int, repository: string, digest: string, size: int, media_type: string) -> (text: ?string)

# Whether it is in the repository, or is now that another repository here was found to have it
method HasBlob(handle: int, repository: string, digest: string, size: int, media_type: string) -> (present: bool)

# Descriptors: a regular file that is the blob. It is kept for a day, and for good once a manifest names it. With zerocopy it is not copied
method PutBlob(handle: int, repository: string, digest: string, size: int, media_type: string, zerocopy: bool) -> (
  method: (reflinked, hardlinked, copied)
)

# All that it names was put before
method PutManifest(
  handle: int,
  repository: string,
  digest: string,
  size: int,
  media_type: string,
  manifest: string,
  tag: ?string
) -> ()

error InvalidHandle (handle: int)
error NoSuchImage (image: string)
error NoSuchLayer (diff_id: string)
error InvalidDigest (message: string)
error DiffIdMismatch (expected: string, actual: string)
error InvalidRequest (message: string)
error InternalError (message: string)
";
