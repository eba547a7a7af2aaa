//! The API within TLS: who is let in, with certificates that are made here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use connectrpc::client::ClientConfig;
use connectrpc::{ConnectError, ErrorCode, Protocol};
use peat_blobapi::blob::{BlobServiceClient, GetNodeRequest};
use peat_blobapi::tls::{self, Pair};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::service::{Service, command};

/// An authority, whose certificate is the file `NAME.ca`.
struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        std::fs::write(directory.join(format!("{name}.ca")), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { directory: directory.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// Writes `NAME.cert` and `NAME.key` for 127.0.0.1.
    fn issue(&self, name: &str) {
        self.issue_until(name, 2999);
    }

    fn issue_until(&self, name: &str, year: i32) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.directory.join(format!("{name}.cert")), certificate.pem()).unwrap();
        std::fs::write(self.directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// What a daemon is told to serve the files of this name to clients of the authority `ours`.
fn file(directory: &Path, name: &str) -> String {
    let at = directory.display();
    format!(
        "listen = ['tcp://127.0.0.1:0']\ntls_cert = '{at}/{name}.cert'\ntls_key = '{at}/{name}.key'\n\
         tls_client_ca = '{at}/ours.ca'\n"
    )
}

/// A client that trusts `ca` and has the files of the name `own`.
fn client(directory: &Path, ca: &str, own: Option<&str>) -> Arc<tls::ClientConfig> {
    let path = |name: &str, kind: &str| directory.join(format!("{name}.{kind}"));
    let files = own.map(|own| (path(own, "cert"), path(own, "key")));
    let own = files.as_ref().map(|(certificate, key)| Pair { certificate, key });
    tls::client(&path(ca, "ca"), own).unwrap()
}

/// The name of the node at this address, if the daemon lets the client in.
async fn ask(address: &str, client: Arc<tls::ClientConfig>, protocol: Protocol) -> Result<String, ConnectError> {
    let uri: http::Uri = format!("https://{address}").parse().unwrap();
    let connection = tls::connect(uri.clone(), client).await?.shared(4);
    let config = ClientConfig::new(uri).with_protocol(protocol).with_default_timeout(Duration::from_secs(60));
    let node = BlobServiceClient::new(connection, config).get_node(GetNodeRequest::default()).await?;
    Ok(node.into_owned().name)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_let_in_with_a_certificate_of_the_daemons_authority_and_not_without() {
    let made = tempfile::tempdir().unwrap();
    let at = made.path();
    let (ours, theirs) = (Authority::new(at, "ours"), Authority::new(at, "theirs"));
    ours.issue("daemon");
    ours.issue("friend");
    ours.issue_until("late", 2000);
    theirs.issue("stranger");
    let mut service = Service::start(&file(at, "daemon"), &[("WATCHDOG_USEC", "1000000")]);
    let address = service.tcp().to_owned();
    for protocol in [Protocol::Connect, Protocol::Grpc, Protocol::GrpcWeb] {
        assert_eq!(ask(&address, client(at, "ours", Some("friend")), protocol).await.unwrap(), "node-a");
        for other in [None, Some("stranger"), Some("late")] {
            let error = ask(&address, client(at, "ours", other), protocol).await.expect_err("turned away");
            assert_eq!(error.code, ErrorCode::Unavailable, "{other:?}: {error}");
        }
    }
    let error = ask(&address, client(at, "theirs", Some("stranger")), Protocol::Connect).await.expect_err("not its authority");
    assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
    assert!(service.log().contains("a client of the API is turned away"), "{}", service.log());
    // The daemon has no certificate of a client, and knows all the same that it lives.
    service.hears("WATCHDOG=1");
    service.hears("WATCHDOG=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_new_certificates_and_leaves_the_old_ones_where_the_new_are_wrong() {
    let made = tempfile::tempdir().unwrap();
    let at = made.path();
    let (ours, theirs) = (Authority::new(at, "ours"), Authority::new(at, "theirs"));
    ours.issue("daemon");
    ours.issue("friend");
    theirs.issue("stranger");
    let mut service = Service::start(&file(at, "daemon"), &[]);
    let address = service.tcp().to_owned();
    let friend = |ca: &str| client(at, ca, Some("friend"));
    ask(&address, friend("ours"), Protocol::Grpc).await.unwrap();
    let key = std::fs::read(at.join("daemon.key")).unwrap();
    std::fs::copy(at.join("stranger.key"), at.join("daemon.key")).unwrap();
    service.signal("HUP");
    service.hears("READY=1");
    assert!(service.log().contains("daemon.key is not that of the first certificate in"), "{}", service.log());
    ask(&address, friend("ours"), Protocol::Grpc).await.unwrap();
    std::fs::write(at.join("daemon.key"), key).unwrap();
    theirs.issue("daemon");
    service.signal("HUP");
    service.hears("READY=1");
    ask(&address, friend("theirs"), Protocol::Grpc).await.unwrap();
    ask(&address, friend("ours"), Protocol::Grpc).await.expect_err("the certificate is another now");
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_starts() {
    let made = tempfile::tempdir().unwrap();
    let at = made.path();
    let ours = Authority::new(at, "ours");
    ours.issue("daemon");
    ours.issue("other");
    for (spoil, code, expected) in [
        ("rm other.key", 4, "cannot read"),
        ("cp daemon.key other.key", 2, "other.key is not that of the first certificate in"),
        ("cp other.cert other.key", 2, "other.key holds no private key in PEM"),
        (": > other.cert", 2, "other.cert holds no certificate in PEM"),
        ("sed -i 3d other.cert", 2, "other.cert cannot be used"),
    ] {
        ours.issue("other");
        let spoilt = std::process::Command::new("sh").args(["-c", spoil]).current_dir(at).status().unwrap();
        assert!(spoilt.success());
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config"), file(at, "other")).unwrap();
        let output = command(&directory).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{spoil}: {log}");
        assert!(log.contains(expected) && log.contains("name PEM files"), "{spoil}: {log}");
        assert!(!directory.path().join("data").exists());
    }
}

#[test]
fn a_certificate_that_has_expired_is_told_of_and_the_node_goes_on() {
    let made = tempfile::tempdir().unwrap();
    Authority::new(made.path(), "ours").issue_until("daemon", 2000);
    let service = Service::start(&file(made.path(), "daemon"), &[]);
    assert!(service.log().contains("no client trusts the daemon's certificate: it expired"), "{}", service.log());
}
