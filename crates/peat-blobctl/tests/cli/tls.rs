//! A daemon within TLS, as the program reaches it.

use std::path::Path;

use peat_blobd::config::Listen;
use peat_blobd::{Config, Running};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::{Run, ctl, formation};

/// Writes an authority, `NAME.ca`, and a certificate of it, `NAME.cert` and `NAME.key`, for 127.0.0.1.
fn issue(directory: &Path, name: &str) {
    let write = |kind: &str, text: String| std::fs::write(directory.join(format!("{name}.{kind}")), text).expect("written");
    let mut params = CertificateParams::new(Vec::new()).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    write("ca", params.self_signed(&key).expect("signed").pem());
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    write(
        "cert",
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name").signed_by(&key, &issuer).expect("signed").pem(),
    );
    write("key", key.serialize_pem());
}

#[test]
fn a_daemon_within_tls_is_reached_by_who_trusts_it_and_is_trusted() {
    let work = tempfile::tempdir().unwrap();
    let at = work.path();
    issue(at, "ours");
    issue(at, "theirs");
    formation(at, &["alpha"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut config = Config::new(at.join("alpha"));
    config.listen = vec!["tcp://127.0.0.1:0".parse().unwrap()];
    config.iroh_listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.tls_cert = Some(at.join("ours.cert"));
    config.tls_key = Some(at.join("ours.key"));
    config.tls_client_ca = Some(at.join("ours.ca"));
    let running = runtime.block_on(Running::start(config)).unwrap();
    let Listen::Tcp(address) = running.addresses()[0] else { panic!("it serves on TCP") };
    let status = |flags: &[&str]| -> Run {
        let daemon = format!("https://{address}");
        ctl(at, &[&["--daemon", &daemon, "--output", "json", "status"], flags].concat())
    };
    let own = ["--tls-cert", "ours.cert", "--tls-key", "ours.key"];
    assert_eq!(status(&[&["--tls-ca", "ours.ca"], &own[..]].concat()).ok().json()["name"], "alpha");
    let strange = ["--tls-ca", "ours.ca", "--tls-cert", "theirs.cert", "--tls-key", "theirs.key"];
    for (flags, code, hint) in [
        (&own[..], 2, "--tls-ca"),
        (&[&["--tls-ca", "theirs.ca"], &own[..]].concat(), 5, "must lead to the daemon's certificate"),
        (&["--tls-ca", "ours.ca"], 5, "--tls-cert and --tls-key"),
        (&strange, 5, "--tls-cert and --tls-key"),
    ] {
        let run = status(flags);
        assert_eq!(run.code, Some(code), "{flags:?}: {}", run.err);
        let error = run.error();
        assert!(error["hint"].as_str().is_some_and(|text| text.contains(hint)), "{flags:?}: {error}");
    }
    runtime.block_on(running.stop());
}
