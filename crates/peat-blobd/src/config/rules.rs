//! What must hold between settings.

use std::cmp::Ordering;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use peat_blobcore::oci::Repository;

use super::layers::GivenValues;
use super::{Config, ConfigError, Given, Listen, Origin, Watched};

/// The longest path of a Unix socket on Linux, without the final zero (`sun_path` of unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Settings that are two ways to say one thing.
const TWINS: [(&str, &str); 2] = [("shared-key", "shared-key-file"), ("iroh-listen", "iroh-udp-port")];

/// Of two ways to say one thing the one that wins by its origin stays.
pub(super) fn settle_twins(given: &mut GivenValues) -> Result<(), ConfigError> {
    for (one, other) in TWINS {
        let (Some(first), Some(second)) = (given.get(one), given.get(other)) else { continue };
        match first.origin.rank().cmp(&second.origin.rank()) {
            Ordering::Less => given.remove(one),
            Ordering::Greater => given.remove(other),
            Ordering::Equal => {
                let (keys, at) = ((one.replace('-', "_"), other.replace('-', "_")), first.origin.clone());
                let message = format!("{} and {} ({}) are two ways to say one thing; give one", keys.0, keys.1, second.origin);
                return Err(ConfigError::Rule { at, message });
            }
        };
    }
    Ok(())
}

/// Refuses what contradicts itself and warns of what is dangerous.
pub(super) fn check(config: &mut Config, given: &mut GivenValues, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    contradictions(config, given)?;
    open_secrets(given, warnings);
    guard_api(config, given, warnings)
}

fn origin(given: &GivenValues, name: &str) -> Origin {
    given.get(name).map_or(Origin::Default, |given| given.origin.clone())
}

fn contradictions(config: &Config, given: &GivenValues) -> Result<(), ConfigError> {
    let refuse = |name: &str, message: String| Err(ConfigError::Rule { at: origin(given, name), message });
    match (&config.node_id, &config.shared_key) {
        (Some(_), None) => return refuse("node-id", "node_id wants a shared key; give shared_key_file too".to_owned()),
        (None, Some(_)) => {
            let name = if given.contains_key("shared-key") { "shared-key" } else { "shared-key-file" };
            return refuse(name, "a shared key wants a node id; give node_id too".to_owned());
        }
        _ => {}
    }
    match (&config.tls_cert, &config.tls_key) {
        (Some(_), None) => return refuse("tls-cert", "tls_cert wants its key; give tls_key too".to_owned()),
        (None, Some(_)) => return refuse("tls-key", "tls_key wants its certificate; give tls_cert too".to_owned()),
        (None, None) if config.tls_client_ca.is_some() => {
            return refuse(
                "tls-client-ca",
                "tls_client_ca wants a certificate of this daemon; give tls_cert and tls_key too".to_owned(),
            );
        }
        _ => {}
    }
    if let Watched::Named(roots) = &config.outbox_watch
        && let Some(name) = roots.keys().find(|name| !config.outbox.contains_key(*name))
    {
        return refuse("outbox-watch", format!("outbox_watch names the root {name:?}, which outbox does not have; add it there"));
    }
    if config.inbox_hook.is_some() && config.inbox.is_none() {
        return refuse("inbox-hook", "inbox_hook wants an inbox; give inbox too".to_owned());
    }
    let mut in_clear = config.registry_upstream.iter().flat_map(|upstream| &upstream.hosts);
    if let Some((host, _)) = in_clear.find(|(host, insecure)| *insecure && !is_loopback(host))
        && !config.registry_upstream_insecure
    {
        let message = format!(
            "http://{host} would be spoken to in clear; write https://, or give `registry_upstream_insecure` if whoever is between may read and cut"
        );
        return refuse("registry-upstream", message);
    }
    let known = |host: &String| config.registry_upstream.iter().any(|upstream| upstream.hosts.iter().any(|(at, _)| at == host));
    if let Some(host) = config.registry_upstream_credentials.keys().find(|host| !known(host)) {
        return refuse("registry-upstream-credentials", format!("{host} is no host of registry_upstream"));
    }
    let is_beneath = |repository: &Repository| {
        config.registry_upstream.iter().any(|upstream| match &upstream.name {
            None => true,
            Some(name) => repository.as_str().strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/')),
        })
    };
    if let Some(watched) = config.registry_watch.iter().find(|watched| !is_beneath(&watched.repository)) {
        return refuse("registry-watch", format!("{} is beneath no name of registry_upstream", watched.repository));
    }
    if config.listen.is_empty() {
        return refuse("listen", "listen is empty, so nobody could use the daemon; name a socket or leave it out".to_owned());
    }
    for listen in &config.listen {
        if let Listen::Unix(path) = listen
            && path.as_os_str().len() > MAX_SOCKET_PATH_BYTES
        {
            let name = if given.contains_key("listen") { "listen" } else { "data-dir" };
            let length = path.as_os_str().len();
            return refuse(
                name,
                format!(
                    "{listen} has a path of {length} bytes, and a Unix socket's has {MAX_SOCKET_PATH_BYTES} at most; give listen a shorter one"
                ),
            );
        }
    }
    if let Some(path) = &config.varlink {
        let length = path.as_os_str().len();
        if length > MAX_SOCKET_PATH_BYTES {
            let message = format!(
                "varlink has a path of {length} bytes, and a Unix socket's has {MAX_SOCKET_PATH_BYTES} at most; give a shorter one"
            );
            return refuse("varlink", message);
        }
        if config.listen.contains(&Listen::Unix(path.clone())) {
            return refuse("varlink", format!("{} is the socket of the API; give another", path.display()));
        }
    }
    Ok(())
}

/// Whether a host, with its port if it has one, is this machine.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Warns of files with secrets that everybody on the machine can read.
fn open_secrets(given: &GivenValues, warnings: &mut Vec<String>) {
    let named = ["token-file", "registry-users", "shared-key-file", "tls-key"]
        .into_iter()
        .filter_map(|name| given.get(name)?.items.first().map(Path::new));
    let configuration = given.get("shared-key").and_then(|given| match &given.origin {
        Origin::File { path, .. } => Some(path.as_path()),
        _ => None,
    });
    let of_upstreams = given.get("registry-upstream-credentials").into_iter().flat_map(|given| &given.items);
    let of_upstreams = of_upstreams.filter_map(|item| Some(Path::new(item.split_once('=')?.1)));
    for path in named.chain(configuration).chain(of_upstreams) {
        if std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o004 != 0) {
            let path = path.display();
            warnings.push(format!(
                "everybody on this machine can read the secret in {path}; make it the daemon's own: chmod 600 {path}"
            ));
        }
    }
}

/// Beyond loopback the API wants to know who speaks, or somebody's word that it does not.
fn guard_api(config: &mut Config, given: &mut GivenValues, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    if config.token.is_some() || config.tls_client_ca.is_some() {
        return Ok(());
    }
    guard_registry(config, given, warnings)?;
    let Some(open) = config.listen.iter().find(|listen| listen.is_beyond_loopback()) else { return Ok(()) };
    let at = origin(given, "listen");
    if !config.insecure {
        if !matches!(&at, Origin::Variable(name) if name == "PEAT_NODE_LISTEN") {
            let message = format!(
                "{open} can be reached from other machines; give token_file or tls_client_ca, or `insecure` if all of them may command this node"
            );
            return Err(ConfigError::Rule { at, message });
        }
        config.insecure = true;
        given.insert("insecure", Given { origin: at, items: vec!["true".to_owned()] });
    }
    warnings.push(format!(
        "the API is served without a token or client certificates on {open}: whoever reaches it commands this node"
    ));
    Ok(())
}

/// The same for the registry.
fn guard_registry(config: &Config, given: &GivenValues, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    let beyond = |address: &&std::net::SocketAddr| Listen::Tcp(**address).is_beyond_loopback();
    if config.registry_users.is_some() {
        return Ok(());
    }
    let Some(open) = config.registry_listen.iter().find(beyond) else { return Ok(()) };
    if !config.insecure {
        let message = format!(
            "the registry at {open} can be reached from other machines; give token_file, registry_users or tls_client_ca, or `insecure` if all of them may push"
        );
        return Err(ConfigError::Rule { at: origin(given, "registry-listen"), message });
    }
    let may = if config.registry_read_only { "pull" } else { "push and delete" };
    warnings
        .push(format!("the registry is served without a token or client certificates on {open}: whoever reaches it may {may}"));
    Ok(())
}
