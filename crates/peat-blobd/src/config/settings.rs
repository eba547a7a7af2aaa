//! The one table of settings. Flags, environment, file, help, `--print-config` and docs/daemon.md all come from it.

use std::collections::BTreeSet;

use super::parse::{self, Parsed};
use super::{Config, Listen, Users};

/// How a setting takes its value.
pub(super) enum Apply {
    /// True or false. The flag alone is true.
    Switch(fn(&mut Config, bool)),
    /// One text.
    One(fn(&mut Config, &str) -> Parsed<()>),
    /// Any number of texts: separated by commas, or an array of the file, or the flag several times.
    Many(fn(&mut Config, &[String]) -> Parsed<()>),
    /// The text of a file that the value names.
    File(fn(&mut Config, &str) -> Parsed<()>),
}

/// What a daemon can be told under one name.
pub struct Setting {
    /// The flag without its dashes. The file has `_` for `-`, the environment `PEAT_BLOBD_` and upper case.
    pub name: &'static str,
    /// The variable of peat-node that stands for it where nothing else does.
    pub compat: Option<&'static str>,
    /// What the value looks like.
    pub value: &'static str,
    /// The value where nothing says otherwise; empty for none.
    pub default: &'static str,
    /// What it is for, in a sentence.
    pub help: &'static str,
    /// Whether it is never shown, and has no flag, which everybody on the machine could read.
    pub secret: bool,
    /// Whether a reload changes it.
    pub reload: bool,
    pub(super) apply: Apply,
}

impl Setting {
    /// The key in the configuration file.
    #[must_use]
    pub fn key(&self) -> String {
        self.name.replace('-', "_")
    }

    /// The environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("PEAT_BLOBD_{}", self.key().to_ascii_uppercase())
    }

    const fn compat(mut self, variable: &'static str) -> Self {
        self.compat = Some(variable);
        self
    }

    const fn default(mut self, text: &'static str) -> Self {
        self.default = text;
        self
    }

    const fn reloaded(mut self) -> Self {
        self.reload = true;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

const fn setting(name: &'static str, value: &'static str, help: &'static str, apply: Apply) -> Setting {
    Setting { name, compat: None, value, default: "", help, secret: false, reload: false, apply }
}

/// Sets a field to what `parse` makes of the text.
macro_rules! one {
    ($field:ident, $parse:expr) => {
        Apply::One(|config, text| {
            config.$field = $parse(text)?;
            Ok(())
        })
    };
}

macro_rules! many {
    ($field:ident, $parse:expr) => {
        Apply::Many(|config, items| {
            config.$field = $parse(items)?;
            Ok(())
        })
    };
}

macro_rules! switch {
    ($field:ident) => {
        Apply::Switch(|config, on| config.$field = on)
    };
}

/// Every setting, in the order in which they are shown.
pub static SETTINGS: &[Setting] = &[
    setting("data-dir", "PATH", "The node's data directory. One process at a time uses it.", one!(data_dir, parse::path))
        .compat("PEAT_NODE_DATA_DIR")
        .default("/var/lib/peat-blobd"),
    setting(
        "listen",
        "URL,…",
        "Where the API is served: unix:///path or tcp://address:port. Beyond loopback it wants a token, `tls_client_ca`, or `insecure`.",
        many!(listen, |items: &[String]| items.iter().map(|item| item.parse::<Listen>()).collect::<Parsed<Vec<_>>>()),
    )
    .compat("PEAT_NODE_LISTEN")
    .default("unix://{data-dir}/api.sock"),
    setting(
        "token-file",
        "PATH",
        "A file with the token that clients show on TCP. Unix sockets are guarded by their file mode alone.",
        Apply::File(|config, text| {
            config.token = Some(parse::token(text)?);
            Ok(())
        }),
    )
    .reloaded(),
    setting(
        "tls-cert",
        "PATH",
        "A PEM file with the certificate for TCP, followed by those that lead to its authority. With it TCP is TLS alone.",
        one!(tls_cert, |text| parse::path(text).map(Some)),
    )
    .reloaded(),
    setting("tls-key", "PATH", "A PEM file with the key of `tls_cert`.", one!(tls_key, |text| parse::path(text).map(Some)))
        .reloaded(),
    setting(
        "tls-client-ca",
        "PATH",
        "A PEM file with authorities: who comes over TCP shows a certificate of one of them, and a token too where there is one.",
        one!(tls_client_ca, |text| parse::path(text).map(Some)),
    )
    .reloaded(),
    setting(
        "insecure",
        "BOOL",
        "Serves the API beyond loopback without a token or `tls_client_ca`: whoever reaches it is obeyed.",
        switch!(insecure),
    )
    .default("false")
    .reloaded(),
    setting(
        "registry-listen",
        "ADDRESS,…",
        "Where clients of images (skopeo, podman, containerd) find the node's registry, as address:port. None: it is not served. Tokens and TLS are those of the API.",
        many!(registry_listen, |items: &[String]| {
            items.iter().map(|item| parse::from_text(item, "address:port items")).collect::<Parsed<Vec<_>>>()
        }),
    ),
    setting(
        "registry-users",
        "PATH",
        "A TOML file with the users of the registry: a table for each, with `token` (his password) and repositories as `pull`, `push` and `delete`. None: whoever is let in may do everything.",
        Apply::File(|config, text| {
            config.registry_users = Some(Users::parse(text)?);
            Ok(())
        }),
    )
    .reloaded(),
    setting("registry-read-only", "BOOL", "Clients of the registry cannot push or delete.", switch!(registry_read_only))
        .default("false"),
    setting(
        "sideload",
        "PATTERN,…",
        "Files that are served as images, by their paths: `<name>` is the repository (`<name...>` over several directories) and `<ref>` the tag, as in /opt/images/<name>/<ref>.tar. None: none are.",
        many!(sideload, |items: &[String]| items.iter().map(|item| parse::pattern(item)).collect::<Parsed<Vec<_>>>()),
    ),
    setting(
        "sideload-interval",
        "DURATION",
        "How often `sideload` looks for new, changed and removed files. What a client asks for by its tag is found at once.",
        one!(sideload_interval, parse::duration),
    )
    .default("30s"),
    setting(
        "registry-upstream",
        "NAME=URL,…",
        "Registries that this node's stands before, as registry.example=https://registry.example: their repositories are beneath the name here, and `?ns=` may say it. Several items of one name are mirrors, asked in this order; the name * is for every repository, by its own name.",
        many!(registry_upstream, parse::upstreams),
    ),
    setting(
        "registry-upstream-credentials",
        "HOST=PATH,…",
        "Files with `user:password`, or a bearer token, for hosts of `registry_upstream`. In the file a table.",
        many!(registry_upstream_credentials, parse::roots),
    ),
    setting(
        "registry-upstream-insecure",
        "BOOL",
        "Upstreams beyond loopback may be plain http.",
        switch!(registry_upstream_insecure),
    )
    .default("false"),
    setting(
        "registry-upstream-keep",
        "DURATION",
        "How long what was pulled from upstreams is kept, by this node alone. None: images that were pulled whole are kept for good, and other nodes may have them.",
        one!(registry_upstream_keep, |text| parse::optional(text, parse::duration)),
    )
    .default("none"),
    setting(
        "registry-upstream-stall",
        "DURATION",
        "How long an upstream may say nothing before the next mirror is asked.",
        one!(registry_upstream_stall, parse::duration),
    )
    .default("10s"),
    setting(
        "registry-watch",
        "REPOSITORY[:TAGS],…",
        "Repositories of `registry_upstream` whose images are brought here before anybody asks, and kept, as registry.example/team/app:v1.*; no tags: all of them.",
        many!(registry_watch, |items: &[String]| {
            items.iter().map(|item| parse::from_text(item, "repositories, and behind a colon tags, with * for any characters")).collect::<Parsed<Vec<_>>>()
        }),
    ),
    setting(
        "registry-watch-interval",
        "DURATION",
        "How often `registry_watch` is looked at. A look costs a few requests, and one or two for each tag.",
        one!(registry_watch_interval, parse::duration),
    )
    .default("5m"),
    setting(
        "varlink",
        "URL",
        "Where other stores of this machine (composefs) get images of the registry and give them, layers by file descriptor: unix:///path, a socket of this user alone. None: nowhere.",
        one!(varlink, |text| parse::optional(text, parse::unix_socket)),
    )
    .default("none"),
    setting(
        "layer-cache-quota",
        "BYTES",
        "How much the layers may take that are made ready for `varlink`, in the data directory.",
        one!(layer_cache_quota, parse::bytes),
    )
    .default("8GiB"),
    setting(
        "node-id",
        "NAME",
        "The node id of the deterministic identity, together with a shared key. A certificate in the data directory wins.",
        one!(node_id, |text: &str| Ok(Some(text.to_owned()))),
    )
    .compat("PEAT_NODE_NODE_ID"),
    setting(
        "shared-key",
        "BASE64",
        "The formation key of the deterministic identity: 32 bytes.",
        one!(shared_key, |text| parse::shared_key(text).map(Some)),
    )
    .compat("PEAT_NODE_SHARED_KEY")
    .secret(),
    setting(
        "shared-key-file",
        "PATH",
        "A file with the formation key, instead of `shared_key`.",
        Apply::File(|config, text| {
            config.shared_key = Some(parse::shared_key(text)?);
            Ok(())
        }),
    ),
    setting(
        "iroh-listen",
        "ADDRESS,…",
        "UDP addresses that other nodes dial, as address:port. None: every interface, any port.",
        many!(iroh_listen, |items: &[String]| {
            items.iter().map(|item| parse::from_text(item, "address:port items")).collect::<Parsed<Vec<_>>>()
        }),
    ),
    setting(
        "iroh-udp-port",
        "PORT",
        "The UDP port on every IPv4 interface, instead of `iroh_listen`.",
        Apply::One(|config, text| {
            let port: u16 = parse::from_text(text, "a port from 0 (any) to 65535")?;
            config.iroh_listen = vec![([0, 0, 0, 0], port).into()];
            Ok(())
        }),
    )
    .compat("PEAT_NODE_IROH_UDP_PORT"),
    setting(
        "peers",
        "ID@HOST:PORT,…",
        "Peers that a connection is kept with. Several items with one endpoint id are several ways to it; behind a relay the id is enough.",
        many!(peers, parse::peers),
    )
    .compat("PEAT_NODE_PEERS")
    .reloaded(),
    setting(
        "relays",
        "URL,…",
        "Relays of your own that peers are reached through as well, the same at every node: https://host[:port] or http://host[:port].",
        many!(relays, |items: &[String]| {
            items.iter().map(|item| parse::from_text(item, "https://host[:port] or http://host[:port] items")).collect::<Parsed<Vec<_>>>()
        }),
    ),
    setting("gossip", "BOOL", "Spreads hints beyond direct neighbours; never over thin links.", switch!(gossip))
        .default("true"),
    setting(
        "mdns",
        "BOOL",
        "Looks for members on the local network, and lets itself be found there by everybody.",
        switch!(mdns),
    )
    .default("false"),
    setting(
        "serve-stock",
        "ID,…",
        "Stock clients of iroh-blobs (sendme) that may fetch what `peat-blobctl stock allow` names, by endpoint id. None: none is served.",
        many!(serve_stock, |items: &[String]| {
            items.iter().map(|item| parse::from_text(item, "endpoint ids")).collect::<Parsed<BTreeSet<_>>>()
        }),
    ),
    setting(
        "stall",
        "DURATION",
        "How long a source may send nothing before another is asked: longer than the outages that are to be ridden out.",
        one!(stall, parse::duration),
    )
    .default("45s"),
    setting(
        "inbox",
        "PATH",
        "The directory that files are delivered into. None: the node sends and carries only.",
        one!(inbox, |text| parse::optional(text, parse::path)),
    )
    .compat("PEAT_NODE_ATTACHMENT_INBOX")
    .default("none"),
    setting(
        "inbox-owner",
        "all|sender",
        "Who may replace a file of the inbox: any accepted sender, or only the one that it came from.",
        one!(inbox_owner, parse::owner),
    )
    .default("all"),
    setting(
        "inbox-layout",
        "shared|origin",
        "Where files go: beneath the inbox by their paths, or so in a folder for each sender that has its endpoint id for a name.",
        one!(inbox_layout, parse::layout),
    )
    .default("shared"),
    setting(
        "inbox-mode",
        "OCTAL",
        "The permissions that a file may keep of its sender's, in quotes in the file. Set-uid, set-gid and sticky, and who owns it, are never kept.",
        one!(inbox_mode, parse::mode),
    )
    .default("0755"),
    setting("inbox-mtime", "BOOL", "A file keeps the time at which its sender's was modified.", switch!(inbox_mtime))
        .default("true"),
    setting(
        "inbox-sidecar",
        "BOOL",
        "Writes beside each file what is known of it, as <name>.peat.json, unless something else has that name.",
        switch!(inbox_sidecar),
    )
    .default("false"),
    setting(
        "inbox-only",
        "BOOL",
        "The store drops its copy of what was delivered once the receipt is signed: the inbox has the only one, and others are not served from here.",
        switch!(inbox_only),
    )
    .default("false")
    .reloaded(),
    setting(
        "inbox-deletions",
        "BOOL",
        "A file goes from the inbox when its sender has removed it and says so (`deletions=true` of `outbox_watch`), if it is as it was delivered.",
        switch!(inbox_deletions),
    )
    .default("true")
    .reloaded(),
    setting(
        "inbox-hook",
        "PATH",
        "A program that is run for each file that came into the inbox, with what is known of it in its environment. None: nothing is run.",
        one!(inbox_hook, |text| parse::optional(text, parse::path)),
    )
    .default("none"),
    setting(
        "inbox-hook-deadline",
        "DURATION",
        "How long one run of `inbox_hook` may take before it is killed.",
        one!(inbox_hook_deadline, parse::duration),
    )
    .default("60s"),
    setting(
        "outbox",
        "NAME=PATH,…",
        "The roots that clients may have files sent from, each under a name. In the file a table.",
        many!(outbox, parse::roots),
    )
    .compat("PEAT_NODE_ATTACHMENT_ROOT")
    .reloaded(),
    setting(
        "outbox-watch",
        "NAME[=TERMS],…|all",
        "The roots of `outbox` that are watched: what is put there is sent by itself, each version once. Terms, with a `;` between: to=NODE, labels=SELECTOR, priority=PRIORITY, expires=DURATION, deletions=BOOL.",
        many!(outbox_watch, parse::watched),
    )
    .compat("PEAT_NODE_ATTACHMENT_OUTBOX_WATCH")
    .reloaded(),
    setting("outbox-poll", "DURATION", "How often watched roots are looked at.", one!(outbox_poll, parse::duration))
        .compat("PEAT_NODE_ATTACHMENT_OUTBOX_POLL_SECS")
        .default("2s")
        .reloaded(),
    setting(
        "outbox-stable",
        "DURATION",
        "How long a file of a watched root is not written to before it is sent.",
        one!(outbox_stable, parse::duration),
    )
    .default("2s")
    .reloaded(),
    setting(
        "outbox-notices",
        "BOOL",
        "A watched root is looked at as soon as the kernel tells of a file that was closed or moved there (inotify), not only at each `outbox_poll`.",
        switch!(outbox_notices),
    )
    .default("true")
    .reloaded(),
    setting(
        "labels",
        "KEY=VALUE,…",
        "Labels that selectors match; a certificate's win. In the file a table.",
        many!(labels, parse::labels),
    ),
    setting(
        "default-priority",
        "bulk|low|routine|priority|critical",
        "The priority of what is sent without one.",
        one!(default_priority, parse::priority),
    )
    .compat("PEAT_NODE_ATTACHMENT_DEFAULT_PRIORITY")
    .default("routine")
    .reloaded(),
    setting(
        "max-file-bytes",
        "BYTES",
        "The largest file that is sent from here or taken from others.",
        one!(max_file_bytes, |text| parse::optional(text, parse::bytes)),
    )
    .compat("PEAT_NODE_ATTACHMENT_MAX_FILE_BYTES")
    .default("none")
    .reloaded(),
    setting(
        "max-bundle-bytes",
        "BYTES",
        "The most that the files of one send call have together.",
        one!(max_bundle_bytes, |text| parse::optional(text, parse::bytes)),
    )
    .compat("PEAT_NODE_ATTACHMENT_MAX_BUNDLE_BYTES")
    .default("none")
    .reloaded(),
    setting(
        "max-files-per-bundle",
        "COUNT",
        "The most files that one send call names.",
        one!(max_files_per_bundle, parse::count),
    )
    .compat("PEAT_NODE_ATTACHMENT_MAX_FILES_PER_BUNDLE")
    .default("4096")
    .reloaded(),
    setting("max-node-list-len", "COUNT", "The most nodes that one send call names.", one!(max_node_list_len, parse::count))
        .compat("PEAT_NODE_ATTACHMENT_MAX_NODE_LIST_LEN")
        .default("256")
        .reloaded(),
    setting(
        "accepted-senders",
        "ID,…|any",
        "Whose distributions are taken, by endpoint id.",
        many!(accepted_senders, parse::senders),
    )
    .default("any")
    .reloaded(),
    setting(
        "quota",
        "BYTES",
        "How much may be held at once of what is meant for this node. More waits; what alone is over it is refused.",
        one!(quota, |text| parse::optional(text, parse::bytes)),
    )
    .default("none")
    .reloaded(),
    setting("carry", "BOOL", "Holds for others what is not meant for this node, while they are out of reach.", switch!(carry))
        .default("true")
        .reloaded(),
    setting("carry-quota", "BYTES", "How much may be held at once for others.", one!(carry_quota, parse::bytes))
        .default("10GiB")
        .reloaded(),
    setting(
        "store-quota",
        "BYTES",
        "The size of the store above which it drops what nothing needs. None: it is dropped only when asked.",
        one!(store_quota, |text| parse::optional(text, parse::bytes)),
    )
    .default("none"),
    setting("store-reserve", "BYTES", "What is left to others of the store's file system.", one!(store_reserve, parse::bytes))
        .default("64MiB"),
    setting(
        "limit-up",
        "RATE",
        "How much of blobs may go to others: 256KiB/s, 2MB/s or 2Mbit/s. Documents are never held back.",
        one!(limit_up, parse::rate),
    )
    .default("none")
    .reloaded(),
    setting("limit-down", "RATE", "How much of blobs may come from others.", one!(limit_down, parse::rate))
        .default("none")
        .reloaded(),
    setting(
        "limit-class",
        "PRIORITY=LIMITS,…",
        "Limits of what has a priority: up=RATE, down=RATE, both with a space between, or a RATE for each of the two. In the file a table.",
        many!(limit_class, parse::limits_of_classes),
    )
    .reloaded(),
    setting(
        "limit-peer",
        "NODE=LIMITS,…",
        "Limits of what crosses with a peer, by its endpoint id or its name. In the file a table.",
        many!(limit_peer, parse::limits_of_peers),
    )
    .reloaded(),
    setting(
        "limit-schedule",
        "TIME LIMITS,…",
        "Times of the week, in UTC, at which others than `limit_up` and `limit_down` hold: 22:00-06:00 unlimited, Mon-Fri 08:00-18:00 up=256KiB/s.",
        many!(limit_schedule, parse::schedule),
    )
    .reloaded(),
    setting(
        "metered",
        "BOOL",
        "The link costs by the byte: of blobs only what is critical is fetched and served.",
        switch!(metered),
    )
    .default("false")
    .reloaded(),
    setting("log", "LEVEL[,MODULE=LEVEL…]", "What is logged, to stderr.", one!(log, parse::log)).default("info").reloaded(),
    setting("log-format", "text|json", "How a line of the log looks.", one!(log_format, parse::log_format)).default("text"),
];

/// Variables of peat-node that are accepted and have no effect, each with the reason.
pub static WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("PEAT_NODE_DISABLE_MDNS", "nodes look for each other on the local network only where `mdns` says so"),
    ("PEAT_NODE_ATTACHMENT_HANDLE_RETENTION_SECS", "a distribution is known until it expires, also after a restart"),
    ("PEAT_NODE_ATTACHMENT_INBOX_POLL_SECS", "what arrives is delivered at once"),
];

/// The setting of this name, which the code names.
pub(super) fn named(name: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.name == name).expect("the code names settings that are in the table")
}
