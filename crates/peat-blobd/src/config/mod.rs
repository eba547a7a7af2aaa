//! What the daemon is told to do: [`Config`] is the outcome, plain data. It never reads a clock, a socket or the process
//! environment: flags and environment come in as values.
//!
//! - `settings`: the one table; `parse`, `values`: from text to values
//! - `layers`: what comes from where, and what wins; `command`, `file`: two of its sources; `rules`: what must hold in the end
//! - `users`: who may do what in which repository
//! - `print`: the outcome, with the origin of each value

mod command;
mod error;
mod file;
mod layers;
mod parse;
mod print;
mod rules;
mod settings;
mod users;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use peat_blobcore::exchange::{InboxPolicy, Layout, Owner};
use peat_blobcore::handoff::CacheOptions;
use peat_blobcore::identity::{Formation, FormationKey};
use peat_blobcore::model::{EndpointId, Labels, NodeRef, Priority};
use peat_blobcore::network::Relay;
use peat_blobcore::reconcile::Policy;
use peat_blobcore::registry::sideload::Pattern;
use peat_blobcore::registry::upstream::WatchedRepository;
use peat_blobcore::{Limits, OutboxOptions, Period, Rate, Rates, content};

pub use command::command;
pub use error::ConfigError;
pub use layers::{DEFAULT_FILE, Loaded, Origin, Sources};
use layers::{Given, nearest, split};
pub use settings::{SETTINGS, Setting, WITHOUT_EFFECT};
pub use users::Users;
pub use values::{Listen, LogFormat, StaticPeer, Token, UpstreamAt, ValueError, WatchTerms, Watched};

/// Everything that a daemon can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// Where the API is served.
    pub listen: Vec<Listen>,
    /// What clients show on TCP. Unix sockets are guarded by their file mode alone.
    pub token: Option<Token>,
    /// The file of the certificate that is shown on TCP.
    pub tls_cert: Option<PathBuf>,
    /// The file of its key; there with `tls_cert` or not at all.
    pub tls_key: Option<PathBuf>,
    /// The file of the authorities of whose certificates clients on TCP show one; none without `tls_cert`.
    pub tls_client_ca: Option<PathBuf>,
    /// Whether the API may be served beyond loopback without a token or `tls_client_ca`.
    pub insecure: bool,
    /// Where the registry is served; none for nowhere.
    pub registry_listen: Vec<SocketAddr>,
    /// Who may do what in which repository, beside whoever has the token. None: whoever is let in may do everything.
    pub registry_users: Option<Users>,
    /// Whether clients of the registry can read only.
    pub registry_read_only: bool,
    /// Which files are served as images.
    pub sideload: Vec<Pattern>,
    /// How often they are looked for.
    pub sideload_interval: Duration,
    /// Registries that the node's stands before, each name once.
    pub registry_upstream: Vec<UpstreamAt>,
    /// Files that say who asks, by the host of an upstream.
    pub registry_upstream_credentials: BTreeMap<String, PathBuf>,
    /// Whether upstreams beyond loopback may be plain http.
    pub registry_upstream_insecure: bool,
    /// How long what was pulled from upstreams is kept; `None` is for good.
    pub registry_upstream_keep: Option<Duration>,
    /// How long an upstream may say nothing.
    pub registry_upstream_stall: Duration,
    /// What upstreams have that is brought before anybody asks.
    pub registry_watch: Vec<WatchedRepository>,
    /// How often `registry_watch` is looked at.
    pub registry_watch_interval: Duration,
    /// The Unix socket at which other stores of this machine get layers and give them; none for nowhere.
    pub varlink: Option<PathBuf>,
    /// Bytes that layers may take which were made ready for them.
    pub layer_cache_quota: u64,
    /// The node id of the deterministic identity; there with `shared_key` or not at all.
    pub node_id: Option<String>,
    /// The formation key of the deterministic identity.
    pub shared_key: Option<FormationKey>,
    /// UDP sockets of the node; none for every interface and any port.
    pub iroh_listen: Vec<SocketAddr>,
    /// Peers that a connection is kept with, each once.
    pub peers: Vec<StaticPeer>,
    /// Relays that peers are reached through as well.
    pub relays: Vec<Relay>,
    /// Whether hints spread beyond direct neighbours.
    pub gossip: bool,
    /// Whether to look for members on the local network, and to be found there.
    pub mdns: bool,
    /// Stock clients of iroh-blobs that may fetch what was named for them.
    pub serve_stock: BTreeSet<EndpointId>,
    /// How long a source may send nothing before another is asked.
    pub stall: Duration,
    /// The directory that files are delivered into; without one the node sends and carries only.
    pub inbox: Option<PathBuf>,
    /// Who may replace a file of the inbox.
    pub inbox_owner: Owner,
    /// Where files go in the inbox.
    pub inbox_layout: Layout,
    /// Which permission bits a file of the inbox may keep of its sender's.
    pub inbox_mode: u32,
    /// Whether a file of the inbox keeps the time at which its sender's was modified.
    pub inbox_mtime: bool,
    /// Whether a sidecar is written beside each file of the inbox.
    pub inbox_sidecar: bool,
    /// Whether the store keeps nothing of what was delivered.
    pub inbox_only: bool,
    /// Whether files go from the inbox that their sender has removed.
    pub inbox_deletions: bool,
    /// What is run for each file that came into the inbox.
    pub inbox_hook: Option<PathBuf>,
    /// How long one run may take.
    pub inbox_hook_deadline: Duration,
    /// The roots that files may be sent from, by name.
    pub outbox: BTreeMap<String, PathBuf>,
    /// Which of them are watched, and how what is put there is sent.
    pub outbox_watch: Watched,
    /// How often watched roots are looked at.
    pub outbox_poll: Duration,
    /// How long a file there is not written to before it is sent.
    pub outbox_stable: Duration,
    /// Whether they are looked at sooner when the kernel tells of a change.
    pub outbox_notices: bool,
    /// Labels that selectors match; a certificate's win over them.
    pub labels: Labels,
    /// The priority of what is sent without one.
    pub default_priority: Priority,
    /// Bytes of the largest file that is sent or taken.
    pub max_file_bytes: Option<u64>,
    /// Bytes that the files of one send call may have together.
    pub max_bundle_bytes: Option<u64>,
    /// Files that one send call may name.
    pub max_files_per_bundle: u32,
    /// Nodes that one send call may name.
    pub max_node_list_len: u32,
    /// Whose distributions are taken; `None` is any member.
    pub accepted_senders: Option<BTreeSet<EndpointId>>,
    /// Bytes that may be held at once of what is meant for this node.
    pub quota: Option<u64>,
    /// Whether the node holds for others what is not meant for it.
    pub carry: bool,
    /// Bytes that may be held at once for others.
    pub carry_quota: u64,
    /// Bytes of the store above which it drops what is not pinned.
    pub store_quota: Option<u64>,
    /// Bytes of the store's file system that are left to others.
    pub store_reserve: u64,
    /// How much of blobs may go to others.
    pub limit_up: Option<Rate>,
    /// How much of blobs may come from others.
    pub limit_down: Option<Rate>,
    /// Limits of priorities.
    pub limit_class: BTreeMap<Priority, Rates>,
    /// Limits of peers.
    pub limit_peer: BTreeMap<NodeRef, Rates>,
    /// Times at which other limits hold.
    pub limit_schedule: Vec<Period>,
    /// Whether of blobs only what is critical crosses.
    pub metered: bool,
    /// What is logged: a level, and levels by module.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

impl Config {
    /// The defaults of a node whose data directory is this.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        let (policy, inbox, store) = (Policy::default(), InboxPolicy::default(), content::Options::default());
        Self {
            listen: vec![Listen::Unix(data_dir.join("api.sock"))],
            data_dir,
            token: None,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            insecure: false,
            registry_listen: Vec::new(),
            registry_users: None,
            registry_read_only: false,
            sideload: Vec::new(),
            sideload_interval: Duration::from_secs(30),
            registry_upstream: Vec::new(),
            registry_upstream_credentials: BTreeMap::new(),
            registry_upstream_insecure: false,
            registry_upstream_keep: None,
            registry_upstream_stall: Duration::from_secs(10),
            registry_watch: Vec::new(),
            registry_watch_interval: Duration::from_secs(300),
            varlink: None,
            layer_cache_quota: CacheOptions::default().quota,
            node_id: None,
            shared_key: None,
            iroh_listen: Vec::new(),
            peers: Vec::new(),
            relays: Vec::new(),
            gossip: true,
            mdns: false,
            serve_stock: BTreeSet::new(),
            stall: Duration::from_secs(45),
            inbox: None,
            inbox_owner: inbox.owner,
            inbox_layout: inbox.layout,
            inbox_mode: inbox.mode,
            inbox_mtime: inbox.mtime,
            inbox_sidecar: inbox.sidecar,
            inbox_only: policy.inbox_only,
            inbox_deletions: policy.deletions,
            inbox_hook: None,
            inbox_hook_deadline: Duration::from_secs(60),
            outbox: BTreeMap::new(),
            outbox_watch: Watched::Named(BTreeMap::new()),
            outbox_poll: Duration::from_secs(2),
            outbox_stable: Duration::from_secs(2),
            outbox_notices: true,
            labels: Labels::new(),
            default_priority: Priority::Routine,
            max_file_bytes: policy.max_file_bytes,
            max_bundle_bytes: None,
            max_files_per_bundle: 4096,
            max_node_list_len: 256,
            accepted_senders: policy.accepted_senders,
            quota: policy.quota_bytes,
            carry: true,
            carry_quota: policy.carry_quota_bytes,
            store_quota: store.quota,
            store_reserve: store.reserve,
            limit_up: None,
            limit_down: None,
            limit_class: BTreeMap::new(),
            limit_peer: BTreeMap::new(),
            limit_schedule: Vec::new(),
            metered: false,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }

    /// What a client on TCP has to do with: a token, TLS, a certificate of its own.
    pub(crate) fn door(&self) -> (bool, bool, bool) {
        (self.token.is_some(), self.tls_cert.is_some(), self.tls_client_ca.is_some())
    }

    /// What the node is willing to do.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            accepted_senders: self.accepted_senders.clone(),
            max_file_bytes: self.max_file_bytes,
            quota_bytes: self.quota,
            carry_quota_bytes: if self.carry { self.carry_quota } else { 0 },
            inbox: self.inbox.is_some(),
            inbox_only: self.inbox_only,
            deletions: self.inbox_deletions,
            ..Policy::default()
        }
    }

    /// How much may cross.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            node: Rates { up: self.limit_up, down: self.limit_down },
            classes: self.limit_class.clone(),
            peers: self.limit_peer.clone(),
            schedule: self.limit_schedule.clone(),
            metered: self.metered,
        }
    }

    /// The outboxes to watch, by the names of their roots.
    #[must_use]
    pub fn watches(&self) -> BTreeMap<String, OutboxOptions> {
        let named = match &self.outbox_watch {
            Watched::All => self.outbox.keys().map(|name| (name.clone(), WatchTerms::default())).collect(),
            Watched::Named(roots) => roots.clone(),
        };
        let options = |(name, terms): (String, WatchTerms)| {
            let options = OutboxOptions {
                scope: terms.scope,
                priority: terms.priority.unwrap_or(self.default_priority),
                lifetime: terms.lifetime,
                deletions: terms.deletions,
                max_file_bytes: self.max_file_bytes,
                stable: self.outbox_stable,
                interval: self.outbox_poll,
                notices: self.outbox_notices,
                ..OutboxOptions::new(self.outbox.get(&name)?, name.clone())
            };
            Some((name, options))
        };
        named.into_iter().filter_map(options).collect()
    }

    /// Limits of the store.
    #[must_use]
    pub fn store(&self) -> content::Options {
        content::Options { quota: self.store_quota, reserve: self.store_reserve }
    }

    /// The inbox and its rules, where there is one.
    #[must_use]
    pub fn inbox(&self) -> Option<(PathBuf, InboxPolicy)> {
        let policy = InboxPolicy {
            owner: self.inbox_owner,
            layout: self.inbox_layout,
            mode: self.inbox_mode,
            mtime: self.inbox_mtime,
            sidecar: self.inbox_sidecar,
            arrivals: self.inbox_hook.is_some(),
        };
        self.inbox.clone().map(|directory| (directory, policy))
    }

    /// The deterministic identity, where there is one.
    #[must_use]
    pub fn deterministic(&self) -> Option<(Formation, String)> {
        Some((Formation::deterministic(self.shared_key.clone()?), self.node_id.clone()?))
    }
}
