//! How the daemon is reached: its address, what it is shown, and a client. Never starts a daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use buffa::view::{MessageView, OwnedView};
use clap::Args;
use connectrpc::client::{ClientConfig, Http2Connection, SharedHttp2Connection, UnaryResponse};
use connectrpc::{ConnectError, Protocol};
use http::Uri;
use peat_blobapi::blob::{
    BlobServiceClient, GetDistributionRequest, GetDistributionResponse, ImageServiceClient, StoreServiceClient,
};
use peat_blobapi::tls::{self, Pair};

use crate::failure::{Failure, Kind, of_daemon};

/// The socket's name in the data directory.
const SOCKET: &str = "api.sock";
/// Calls that wait for the connection: one verb makes few.
const WAITING_CALLS: usize = 16;

/// Where the daemon is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Address {
    /// Where the daemon is: unix:///path, https://host:port or http://host:port. Without it, the socket in the data directory.
    #[arg(long, global = true, env = "PEAT_BLOBCTL_DAEMON", value_name = "URL", hide_env_values = true)]
    daemon: Option<String>,
    /// A file with the token that the daemon wants.
    #[arg(long, global = true, env = "PEAT_BLOBCTL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A file with the authority of the daemon's certificate, for https.
    #[arg(long, global = true, env = "PEAT_BLOBCTL_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// A file with the certificate that the daemon wants, for https.
    #[arg(long, global = true, env = "PEAT_BLOBCTL_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// A file with its key.
    #[arg(long, global = true, env = "PEAT_BLOBCTL_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl Address {
    /// What a connection over https is made with.
    fn tls(&self) -> Result<Arc<tls::ClientConfig>, Failure> {
        let Some(ca) = &self.tls_ca else {
            return Err(
                Failure::usage("https wants to know whose certificates to trust").hint("name a file of them with --tls-ca")
            );
        };
        let own = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let own = own.map(|(certificate, key)| Pair { certificate, key });
        Ok(tls::client(ca, own)?)
    }
}

/// A daemon's address, understood.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Unix(PathBuf),
    Http(String),
    Https(String),
}

impl Place {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("http", rest)) if !rest.is_empty() => Ok(Self::Http(text.to_owned())),
            Some(("https", rest)) if !rest.is_empty() => Ok(Self::Https(text.to_owned())),
            _ => Err(Failure::usage(format!("{text:?} is no address of a daemon"))
                .hint("write unix:///path/to/api.sock, https://host:port or http://host:port")),
        }
    }
}

/// The data directory that a daemon of this user has unless it is told otherwise.
pub(crate) fn data_directory() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set("PEAT_BLOBD_DATA_DIR") {
        return directory;
    }
    // The owner of what this process makes: no call of the system needs to be named for it.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    match (is_root, set("XDG_DATA_HOME"), set("HOME")) {
        (false, Some(data), _) => data.join("peat-blob"),
        (false, None, Some(home)) => home.join(".local/share/peat-blob"),
        _ => "/var/lib/peat-blobd".into(),
    }
}

/// A connection with the daemon.
pub(crate) struct Daemon {
    pub(crate) client: BlobServiceClient<SharedHttp2Connection>,
    pub(crate) images: ImageServiceClient<SharedHttp2Connection>,
    pub(crate) store: StoreServiceClient<SharedHttp2Connection>,
    /// Whether paths mean the same to it as to this program.
    pub(crate) is_local: bool,
}

impl Daemon {
    pub(crate) async fn connect(address: &Address) -> Result<Self, Failure> {
        let place = match &address.daemon {
            Some(text) => Place::parse(text)?,
            None => Place::Unix(data_directory().join(SOCKET)),
        };
        let token = address.token_file.as_deref().map(read_token).transpose()?;
        let (connected, uri, shown) = match &place {
            Place::Unix(path) => {
                let authority = "http://localhost".parse().expect("a well-formed address");
                (Http2Connection::connect_unix(path, authority).await, "http://localhost", path.display().to_string())
            }
            Place::Http(url) => (Http2Connection::connect_plaintext(uri_of(url)?).await, url.as_str(), url.clone()),
            Place::Https(url) => (tls::connect(uri_of(url)?, address.tls()?).await, url.as_str(), url.clone()),
        };
        let connection = connected.map_err(|error| unreachable(&shown, &error, address.daemon.is_some()))?;
        let mut config = ClientConfig::new(uri.parse().expect("it was parsed before")).with_protocol(Protocol::Connect);
        if let Some(token) = token {
            config = config.with_default_header("authorization", format!("Bearer {token}"));
        }
        let connection = connection.shared(WAITING_CALLS);
        let images = ImageServiceClient::new(connection.clone(), config.clone());
        let store = StoreServiceClient::new(connection.clone(), config.clone());
        let client = BlobServiceClient::new(connection, config);
        Ok(Self { client, images, store, is_local: matches!(place, Place::Unix(_)) })
    }

    /// A distribution by its id or the beginning of it.
    pub(crate) async fn distribution(&self, id: &str, files: bool) -> Result<GetDistributionResponse, Failure> {
        let request = GetDistributionRequest { distribution_id: id.to_owned(), files, ..Default::default() };
        answer(self.client.get_distribution(request).await)
    }

    /// The whole id of the distribution that `id` begins.
    pub(crate) async fn whole_id(&self, id: &str) -> Result<String, Failure> {
        Ok(self.distribution(id, false).await?.distribution.distribution_id.clone())
    }
}

fn uri_of(url: &str) -> Result<Uri, Failure> {
    url.parse().map_err(|why| Failure::usage(format!("{url:?} is no address of a daemon: {why}")))
}

/// The answer of a call, or why there is none.
pub(crate) fn answer<V>(result: Result<UnaryResponse<OwnedView<V>>, ConnectError>) -> Result<V::Owned, Failure>
where
    V: MessageView<'static>,
{
    result.map(UnaryResponse::into_owned).map_err(|error| of_daemon(&error))
}

fn unreachable(place: &str, error: &ConnectError, named: bool) -> Failure {
    // The innermost cause says it without the layers round it.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let io = cause.downcast_ref::<io::Error>();
    let denied = io.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let tls = io.and_then(|error| error.get_ref()?.downcast_ref::<tls::Error>());
    Failure::new(Kind::UNREACHABLE, format!("no daemon answers at {place}: {cause}")).hint(match tls {
        Some(tls::Error::InvalidCertificate(_)) => "the file of --tls-ca must lead to the daemon's certificate",
        Some(_) => "the daemon may want a certificate of its own authority: --tls-cert and --tls-key",
        None if denied => "the socket is for the daemon's own user: run this as that user",
        None if named => "start peat-blobd there, or name another place with --daemon",
        None => "start peat-blobd, or say where it is with --daemon unix:///path or http://host:port",
    })
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(Failure::io(format!("cannot read the token in {}", path.display())))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(format!("{} holds no token", path.display())).hint("it must be one line of ASCII"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_and_http_urls_and_nothing_else() {
        assert_eq!(Place::parse("unix:///run/api.sock").unwrap(), Place::Unix("/run/api.sock".into()));
        assert_eq!(Place::parse("http://[::1]:50051").unwrap(), Place::Http("http://[::1]:50051".to_owned()));
        assert_eq!(Place::parse("https://depot:50051").unwrap(), Place::Https("https://depot:50051".to_owned()));
        for text in ["", "unix://relative", "ftp://host:1", "host:1", "http://", "https://"] {
            let failure = Place::parse(text).unwrap_err();
            assert_eq!(failure.kind, Kind::USAGE);
            assert!(failure.hint.unwrap().contains("unix:///"), "{text}");
        }
    }
}
