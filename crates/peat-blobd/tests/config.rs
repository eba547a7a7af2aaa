//! What a daemon's configuration comes to, from each of its sources and their mistakes.
#![allow(clippy::unwrap_used, reason = "in a test")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peat_blobcore::OutboxOptions;
use peat_blobcore::content;
use peat_blobcore::exchange::Owner;
use peat_blobcore::model::{NodeRef, Priority, Scope};
use peat_blobcore::reconcile::Policy;
use peat_blobd::config::{Config, ConfigError, Listen, Loaded, LogFormat, SETTINGS, Sources, WITHOUT_EFFECT};

const KEY: &str = "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio=";
const ID_A: &str = "4229afe8d9c12d0acfd98cb56d4e2edd0e844442651a70a6995c2ed7ef100684";
const ID_B: &str = "f0782d206a443de24a744a6682851c11b71813fd1c03c9447ddecd9a5e9df279";

/// A directory with at most a configuration file in it.
struct Machine {
    directory: tempfile::TempDir,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, arguments: vec!["peat-blobd".into()], environment: BTreeMap::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(self, text: &str) -> Self {
        std::fs::write(self.path("peat-blobd.toml"), text).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        let (arguments, environment) = (self.arguments.clone(), self.environment.clone());
        Sources { arguments, environment, default_file: self.path("peat-blobd.toml") }.load()
    }

    fn config(&self) -> Config {
        self.load().unwrap().config
    }

    /// The error, with the directory left out.
    fn error(&self) -> String {
        let error = self.load().expect_err("this is wrong").to_string();
        error.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

#[test]
fn nothing_given_is_the_default() {
    let config = Machine::new().config();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::new("/var/lib/peat-blobd")));
    assert_eq!(config.listen, [Listen::Unix("/var/lib/peat-blobd/api.sock".into())]);
    assert_eq!(config.policy(), Policy { inbox: false, ..Policy::default() });
    assert_eq!(config.store().reserve, content::Options::default().reserve);
    assert!(config.inbox().is_none() && config.deterministic().is_none());
}

#[test]
fn the_defaults_that_the_table_tells_are_those_in_force() {
    let plain = format!("{:?}", Config::new("/var/lib/peat-blobd"));
    let told = SETTINGS.iter().filter(|setting| !setting.default.is_empty()).fold(Machine::new(), |machine, setting| {
        machine.variable(&setting.variable(), &setting.default.replace("{data-dir}", "/var/lib/peat-blobd"))
    });
    assert_eq!(format!("{:?}", told.config()), plain);
}

#[test]
fn a_flag_wins_over_a_variable_over_one_of_peat_node_over_the_file() {
    let stall = |machine: Machine| machine.config().max_files_per_bundle;
    let file = || Machine::new().file("max_files_per_bundle = 1");
    let compat = || file().variable("PEAT_NODE_ATTACHMENT_MAX_FILES_PER_BUNDLE", "2");
    let ours = || compat().variable("PEAT_BLOBD_MAX_FILES_PER_BUNDLE", "3");
    assert_eq!(stall(file()), 1);
    assert_eq!(stall(compat()), 2);
    assert_eq!(stall(ours()), 3);
    assert_eq!(stall(ours().arguments(&["--max-files-per-bundle", "4"])), 4);
}

#[test]
fn of_two_ways_to_say_one_thing_the_one_that_wins_by_its_origin_stands() {
    let listen = |machine: Machine| machine.config().iroh_listen[0].to_string();
    let compat = || Machine::new().file("iroh_listen = ['127.0.0.1:1']").variable("PEAT_NODE_IROH_UDP_PORT", "2");
    assert_eq!(listen(compat()), "0.0.0.0:2");
    assert_eq!(listen(compat().variable("PEAT_BLOBD_IROH_LISTEN", "127.0.0.1:3")), "127.0.0.1:3");
    assert_eq!(listen(compat().arguments(&["--iroh-udp-port=4"])), "0.0.0.0:4");
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    let machine = Machine::new().file("inbox = '/file'").variable("PEAT_BLOBD_INBOX", "");
    assert_eq!(machine.variable("PEAT_NODE_ATTACHMENT_INBOX", "").config().inbox, Some("/file".into()));
}

#[test]
fn each_setting_can_be_given_in_each_of_its_ways() {
    let machine = Machine::new();
    std::fs::write(machine.path("secret"), KEY).unwrap();
    std::fs::write(machine.path("users"), format!("[ci]\ntoken = '{KEY}'\npull = ['*']\n")).unwrap();
    for setting in SETTINGS {
        let secret = machine.path("secret").display().to_string();
        let users = machine.path("users").display().to_string();
        let text = match setting.name {
            "data-dir" | "inbox" | "inbox-hook" | "tls-cert" | "tls-key" | "tls-client-ca" => "/some/where",
            "listen" => "tcp://127.0.0.1:1,unix:///some/where",
            "registry-listen" => "127.0.0.1:1,[::1]:2",
            "registry-read-only" => "true",
            "sideload" => "/a/<name>/<ref>.tar,/b/<ref>-<name>",
            "sideload-interval" => "5m",
            "registry-upstream" => "registry.example=https://registry.example,registry.example=https://mirror.example:5000",
            "registry-upstream-credentials" => "registry.example=/some/where",
            "registry-upstream-insecure" => "true",
            "registry-upstream-keep" | "registry-upstream-stall" | "registry-watch-interval" => "7m",
            "registry-watch" => "a/app:v1.*,a/tools",
            "varlink" => "unix:///some/where",
            "insecure" | "gossip" | "carry" | "inbox-mtime" | "inbox-deletions" | "outbox-notices" => "false",
            "token-file" | "shared-key-file" => &secret,
            "registry-users" => &users,
            "shared-key" => KEY,
            "iroh-listen" => "127.0.0.1:1,[::1]:2",
            "peers" => &format!("{ID_A}@host.example:1,{ID_A}@[::1]:2"),
            "relays" => "https://relay.example,http://192.0.2.1:3340",
            "stall" => "5m",
            "inbox-owner" => "sender",
            "inbox-layout" => "origin",
            "inbox-mode" => "0640",
            "outbox" => "maps=/maps,orders=/orders",
            "outbox-watch" => "maps=to=hq;priority=low;deletions=true,orders",
            "labels" => "role=edge,tier=1",
            "default-priority" => "critical",
            "accepted-senders" | "serve-stock" => ID_A,
            "log" => "info,peat_blobcore::network=debug",
            "log-format" => "json",
            "mdns" | "metered" | "inbox-only" | "inbox-sidecar" => "true",
            "limit-up" | "limit-down" => "2Mbit/s",
            "limit-class" => "bulk=100KiB/s,low=up=none down=1MiB/s",
            "limit-peer" => "bravo=up=100KiB/s",
            "limit-schedule" => "22:00-06:00 unlimited,Mon-Fri 08:00-18:00 up=256KiB/s down=1MiB/s",
            _ => "17",
        };
        // A setting that wants another one gets it.
        let beside = |machine: Machine| match setting.name {
            "node-id" => machine.variable("PEAT_BLOBD_SHARED_KEY", KEY),
            "shared-key" | "shared-key-file" => machine.variable("PEAT_BLOBD_NODE_ID", "a"),
            "outbox-watch" => machine.variable("PEAT_BLOBD_OUTBOX", "maps=/maps,orders=/orders"),
            "registry-upstream-credentials" | "registry-watch" => {
                machine.variable("PEAT_BLOBD_REGISTRY_UPSTREAM", "a=https://registry.example")
            }
            "inbox-hook" => machine.variable("PEAT_BLOBD_INBOX", "/inbox"),
            "tls-cert" => machine.variable("PEAT_BLOBD_TLS_KEY", "/key"),
            "tls-key" => machine.variable("PEAT_BLOBD_TLS_CERT", "/cert"),
            "tls-client-ca" => machine.variable("PEAT_BLOBD_TLS_KEY", "/key").variable("PEAT_BLOBD_TLS_CERT", "/cert"),
            _ => machine,
        };
        let shown = |machine: Machine| format!("{:?}", beside(machine).config());
        let expected = shown(Machine::new().variable(&setting.variable(), text));
        let does_something = expected != format!("{:?}", Machine::new().config());
        assert!(does_something || setting.name == "insecure", "{} does nothing", setting.name);
        assert_eq!(shown(Machine::new().file(&format!("{} = '{text}'", setting.key()))), expected, "{}", setting.name);
        if let Some(compat) = setting.compat {
            assert_eq!(shown(Machine::new().variable(compat, text)), expected, "{compat}");
        }
        if !setting.secret {
            assert_eq!(shown(Machine::new().arguments(&[&format!("--{}={text}", setting.name)])), expected, "{}", setting.name);
        }
    }
}

#[test]
fn a_file_has_numbers_booleans_arrays_and_tables() {
    let config = Machine::new()
        .file(&format!(
            "listen = ['unix:///a', 'unix:///b']\ncarry = false\nmax_file_bytes = 0x10\nstall = 90\nlog_format = 'json'\n\
             peers = ['{ID_A}@host:1', '{ID_B}@10.0.0.1:2']\ninbox_owner = 'sender'\n\
             [outbox]\nmaps = '/maps, and more'\n[labels]\nrole = 'edge'\n"
        ))
        .config();
    assert_eq!(config.listen, [Listen::Unix("/a".into()), Listen::Unix("/b".into())]);
    assert_eq!(config.policy().carry_quota_bytes, 0);
    assert_eq!((config.max_file_bytes, config.stall, config.log_format), (Some(16), Duration::from_secs(90), LogFormat::Json));
    assert_eq!(config.peers.iter().map(|peer| peer.id.to_string()).collect::<Vec<_>>(), [ID_A, ID_B]);
    assert_eq!(config.inbox_owner, Owner::Sender);
    assert_eq!(config.outbox["maps"], Path::new("/maps, and more"));
    assert_eq!(config.labels["role"], "edge");
}

#[test]
fn a_file_has_limits_as_people_write_them() {
    let limits = Machine::new()
        .file(
            "limit_up = '2Mbit/s'\nlimit_down = 1048576\nmetered = true\n\
             limit_schedule = ['22:00-06:00 unlimited', 'Mon-Fri 08:00-18:00 up=256KiB/s']\n\
             [limit_class]\nbulk = 'up=100KiB/s'\n[limit_peer]\nbravo = '50kB/s'\n",
        )
        .config()
        .limits();
    assert_eq!(limits.node.to_string(), "up=250kB/s down=1MiB/s");
    assert_eq!(limits.classes[&Priority::Bulk].to_string(), "up=100KiB/s down=none");
    assert_eq!(limits.peers[&NodeRef::Name("bravo".into())].to_string(), "up=50kB/s down=50kB/s");
    assert_eq!(
        limits.schedule.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        "22:00-06:00 unlimited; Mon-Fri 08:00-18:00 up=256KiB/s"
    );
    assert!(limits.metered);
}

#[test]
fn flags_of_lists_repeat_and_switches_stand_alone() {
    let machine =
        Machine::new().arguments(&["--listen", "unix:///a", "--listen=unix:///b,unix:///c", "--insecure", "--carry=off"]);
    let config = machine.config();
    assert_eq!(config.listen.len(), 3);
    assert!(config.insecure && !config.carry);
}

#[test]
fn the_environment_of_a_peat_node_runs_a_daemon() {
    let peers = format!("{ID_B}@node-b:4242,");
    let loaded = Machine::new()
        .variable("PEAT_NODE_LISTEN", "tcp://0.0.0.0:50051")
        .variable("PEAT_NODE_DATA_DIR", "/data")
        .variable("PEAT_NODE_NODE_ID", "node-a")
        .variable("PEAT_NODE_SHARED_KEY", KEY)
        .variable("PEAT_NODE_PEERS", &peers)
        .variable("PEAT_NODE_IROH_UDP_PORT", "4242")
        .variable("PEAT_NODE_ATTACHMENT_ROOT", "outbox=/outbox")
        .variable("PEAT_NODE_ATTACHMENT_INBOX", "/inbox")
        .variable("PEAT_NODE_ATTACHMENT_MAX_FILE_BYTES", "268435456")
        .variable("PEAT_NODE_ATTACHMENT_DEFAULT_PRIORITY", "ROUTINE")
        .variable("PEAT_NODE_ATTACHMENT_OUTBOX_WATCH", "true")
        .variable("PEAT_NODE_ATTACHMENT_OUTBOX_POLL_SECS", "5")
        .variable("PEAT_NODE_SOMETHING_NEW", "1");
    let loaded = WITHOUT_EFFECT.iter().fold(loaded, |machine, (name, _)| machine.variable(name, "2")).load().unwrap();
    let printed = loaded.print();
    let config = loaded.config;
    assert_eq!(config.listen, [Listen::Tcp("0.0.0.0:50051".parse().unwrap())]);
    assert_eq!(config.data_dir, Path::new("/data"));
    assert_eq!(config.deterministic().map(|(_, node_id)| node_id), Some("node-a".to_owned()));
    assert_eq!(config.peers[0].hosts, ["node-b:4242"]);
    assert_eq!(config.iroh_listen, ["0.0.0.0:4242".parse().unwrap()]);
    assert_eq!(config.outbox["outbox"], Path::new("/outbox"));
    let watched = OutboxOptions {
        interval: Duration::from_secs(5),
        max_file_bytes: config.max_file_bytes,
        ..OutboxOptions::new("/outbox", "outbox")
    };
    assert_eq!(config.watches().into_values().collect::<Vec<_>>(), [watched]);
    assert_eq!(config.inbox().unwrap().0, Path::new("/inbox"));
    assert_eq!((config.max_file_bytes, config.default_priority), (Some(256 << 20), Priority::Routine));
    assert!(config.insecure, "the variable is taken for the permission");
    assert!(
        printed.lines().any(|line| line.starts_with("insecure = true ") && line.ends_with("# PEAT_NODE_LISTEN")),
        "{printed}"
    );
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("PEAT_NODE_SOMETHING_NEW"), "{:?}", loaded.warnings);
    assert!(
        loaded.warnings[1].contains("without a token or client certificates on tcp://0.0.0.0:50051"),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn watched_roots_have_terms_of_their_own() {
    let watches = |text: &str| {
        let loaded = Machine::new().variable("PEAT_BLOBD_OUTBOX", "a=/a,b=/b").file(text).load().unwrap();
        loaded.config.watches()
    };
    assert!(watches("").is_empty());
    assert!(watches("outbox_watch = false").is_empty());
    assert_eq!(watches("outbox_watch = 'all'").len(), 2);
    let all = watches("outbox_watch = ['a = to=hq; to=depot; priority=critical; expires=7d', 'b']\ndefault_priority = 'low'");
    assert_eq!(all["a"].scope, Scope::Nodes(["hq", "depot"].map(NodeRef::from).to_vec()));
    assert_eq!((all["a"].priority, all["a"].lifetime), (Priority::Critical, Duration::from_secs(7 * 24 * 3600)));
    assert_eq!((&all["b"].scope, all["b"].priority), (&Scope::All, Priority::Low));
    let table = watches("[outbox_watch]\nb = 'labels=role=edge,region in (x,y)'");
    assert_eq!(table["b"].scope, Scope::Labels("role=edge,region in (x,y)".parse().unwrap()));
}

#[test]
fn the_variables_that_kubernetes_makes_of_a_service_do_not_stop_it() {
    let machine = Machine::new().variable("PEAT_BLOBD_SERVICE_HOST", "10.0.0.1").variable("PEAT_BLOBD_PORT", "tcp://10.0.0.1:1");
    assert_eq!(machine.load().unwrap().warnings.len(), 2);
}

#[test]
fn a_variable_that_is_not_text_is_refused_if_it_is_ours() {
    let with = |name: &str| {
        let mut machine = Machine::new();
        machine.environment.insert(name.into(), OsString::from_vec(vec![0xff]));
        machine
    };
    assert_eq!(with("PEAT_BLOBD_INBOX").error(), "PEAT_BLOBD_INBOX: the value is not UTF-8");
    with("OTHER").load().unwrap();
}

#[test]
fn files_with_secrets_that_all_can_read_are_warned_of() {
    let machine = Machine::new();
    let path = machine.path("token").display().to_string();
    std::fs::write(&path, "0123456789abcdef").unwrap();
    let machine = machine.variable("PEAT_BLOBD_TOKEN_FILE", &path);
    for (mode, warnings) in [(0o644, 1), (0o640, 0), (0o600, 0)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(machine.load().unwrap().warnings.len(), warnings, "{mode:o}");
    }
}

#[test]
fn beyond_loopback_the_api_wants_a_token_or_the_users_word() {
    let open = || Machine::new().variable("PEAT_BLOBD_LISTEN", "tcp://192.0.2.1:50051");
    let error = open().error();
    assert!(error.starts_with("PEAT_BLOBD_LISTEN: tcp://192.0.2.1:50051 can be reached"), "{error}");
    assert!(error.contains("token_file") && error.contains("insecure"), "{error}");

    assert_eq!(open().arguments(&["--insecure"]).load().unwrap().warnings.len(), 1);
    let guarded = open();
    std::fs::write(guarded.path("token"), "0123456789abcdef\n").unwrap();
    std::fs::set_permissions(guarded.path("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = guarded.path("token").display().to_string();
    let loaded = guarded.variable("PEAT_BLOBD_TOKEN_FILE", &path).load().unwrap();
    assert_eq!(loaded.config.token.unwrap().expose(), "0123456789abcdef");
    assert!(loaded.warnings.is_empty() && !loaded.config.insecure);

    let encrypted = || open().arguments(&["--tls-cert=/cert", "--tls-key=/key"]);
    assert!(encrypted().error().contains("tls_client_ca"), "encryption alone says nothing of who speaks");
    let known = encrypted().variable("PEAT_BLOBD_TLS_CLIENT_CA", "/ca").load().unwrap();
    assert!(known.warnings.is_empty() && !known.config.insecure);

    for near in ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1", "tcp://[::ffff:127.0.0.1]:1", "unix:///a"] {
        Machine::new().variable("PEAT_BLOBD_LISTEN", near).load().unwrap();
    }
    for far in ["tcp://0.0.0.0:1", "tcp://[::]:1", "unix:///a,tcp://192.0.2.1:1"] {
        let _ = Machine::new().variable("PEAT_BLOBD_LISTEN", far).error();
    }
}

#[test]
fn errors_name_the_origin_the_setting_the_value_and_what_is_allowed() {
    let variable = |name: &str, value: &str| Machine::new().variable(name, value).error();
    let file = |text: &str| Machine::new().file(text).error();
    for (error, expected) in [
        (
            file("\nmax_file_bytes = '12 parsecs'"),
            "peat-blobd.toml:2: max_file_bytes cannot be \"12 parsecs\"; give a number of bytes such as 1048576, 256MiB or 10GiB",
        ),
        (file("carry = 'maybe'"), "peat-blobd.toml:1: carry cannot be \"maybe\"; give true or false"),
        (file("stall = 0.5"), "peat-blobd.toml:1: stall cannot be a number with a fraction; give one value"),
        (
            variable("PEAT_BLOBD_LIMIT_UP", "2Mb/s"),
            "PEAT_BLOBD_LIMIT_UP: limit_up cannot be \"2Mb/s\"; give 2MB/s if it is bytes, 2Mbit/s if it is bits",
        ),
        (file("limit_down = 0"), "peat-blobd.toml:1: limit_down cannot be \"0\"; give `none` for no limit"),
        (
            file("[limit_class]\nurgent = '1MiB/s'"),
            "peat-blobd.toml:1: limit_class cannot be \"urgent=1MiB/s\"; give priority=limits",
        ),
        (
            file("[limit_peer]\nbravo = 'left=1MiB/s'"),
            "peat-blobd.toml:1: limit_peer cannot be \"bravo=left=1MiB/s\"; give up=RATE",
        ),
        (
            file("limit_schedule = ['22:00 unlimited']"),
            "peat-blobd.toml:1: limit_schedule cannot be \"22:00 unlimited\"; give [DAY[-DAY]] HH:MM-HH:MM LIMITS",
        ),
        (file("limits_up = '1MiB/s'"), "peat-blobd.toml:1: limits_up is not a setting; did you mean limit_up?"),
        (file("inbox = ['/a']"), "peat-blobd.toml:1: inbox cannot be an array of these; give one value"),
        (file("peers = [1.5]"), "peat-blobd.toml:1: peers cannot be an array of these; give texts"),
        (file("[listen]\na = 'b'"), "peat-blobd.toml:1: listen cannot be a table; give texts"),
        (file("# head\nmax_file_byte = 1"), "peat-blobd.toml:2: max_file_byte is not a setting; did you mean max_file_bytes?"),
        (file("nothing_like_it_at_all = 1"), "peat-blobd.toml:1: nothing_like_it_at_all is not a setting"),
        (file("carry = true\nlisten = ="), "peat-blobd.toml:2: not TOML: "),
        (file("carry = true\ncarry = true"), "peat-blobd.toml:2: not TOML: duplicate key"),
        (variable("PEAT_BLOBD_LISTENN", "x"), "PEAT_BLOBD_LISTENN: it is not a setting; did you mean PEAT_BLOBD_LISTEN?"),
        (variable("PEAT_BLOBD_ZZZZZZZZZ", "x"), "PEAT_BLOBD_ZZZZZZZZZ: it is not a setting"),
        (
            variable("PEAT_NODE_LISTEN", "0.0.0.0:50051"),
            "PEAT_NODE_LISTEN: listen cannot be \"0.0.0.0:50051\"; give unix:///absolute/path, or tcp://address:port such as tcp://127.0.0.1:50051",
        ),
        (
            variable("PEAT_NODE_PEERS", "abc@host:1"),
            "PEAT_NODE_PEERS: peers cannot be \"abc@host:1\"; give endpoint_id@host:port items",
        ),
        (variable("PEAT_NODE_PEERS", &format!("{ID_A}@host")), "PEAT_NODE_PEERS: peers cannot be"),
        (variable("PEAT_NODE_PEERS", &format!("{ID_A}@::1:5")), "PEAT_NODE_PEERS: peers cannot be"),
        (
            variable("PEAT_NODE_ATTACHMENT_OUTBOX_WATCH", "maps"),
            "PEAT_NODE_ATTACHMENT_OUTBOX_WATCH: outbox_watch names the root \"maps\", which outbox does not have; add it there",
        ),
        (
            file("outbox_watch = ['a=to=b;labels=c=d']"),
            "peat-blobd.toml:1: outbox_watch cannot be \"a=to=b;labels=c=d\"; give either to=NODE or labels=SELECTOR",
        ),
        (file("outbox_watch = ['a=now']"), "peat-blobd.toml:1: outbox_watch cannot be \"a=now\"; give all, or roots such as"),
        (variable("PEAT_BLOBD_PRINT_CONFIG", "perhaps"), "PEAT_BLOBD_PRINT_CONFIG: it cannot be \"perhaps\"; give true or false"),
        (variable("PEAT_BLOBD_LOG", "loud"), "PEAT_BLOBD_LOG: log cannot be \"loud\"; give a level"),
        (variable("PEAT_BLOBD_OUTBOX", "/maps"), "PEAT_BLOBD_OUTBOX: outbox cannot be \"/maps\"; give name=path pairs"),
        (variable("PEAT_BLOBD_OUTBOX", "a=/1,a=/2"), "PEAT_BLOBD_OUTBOX: outbox cannot be"),
        (
            variable("PEAT_BLOBD_IROH_UDP_PORT", "65536"),
            "PEAT_BLOBD_IROH_UDP_PORT: iroh_udp_port cannot be \"65536\"; give a port",
        ),
        (variable("PEAT_BLOBD_STALL", "0"), "PEAT_BLOBD_STALL: stall cannot be \"0\"; give a duration such as 30s"),
        (variable("PEAT_BLOBD_QUOTA", "99999999999TiB"), "PEAT_BLOBD_QUOTA: quota cannot be"),
        (
            variable("PEAT_BLOBD_TOKEN_FILE", "/does/not/exist"),
            "PEAT_BLOBD_TOKEN_FILE: cannot read /does/not/exist: No such file",
        ),
        (variable("PEAT_BLOBD_CONFIG", "/does/not/exist"), "PEAT_BLOBD_CONFIG: cannot read /does/not/exist: No such file"),
        (Machine::new().arguments(&["--config", "/no"]).error(), "--config: cannot read /no: No such file"),
        (Machine::new().arguments(&["--stall=x"]).error(), "--stall: stall cannot be \"x\"; give a duration"),
        (Machine::new().arguments(&["--max-file-byte=1"]).error(), "a similar argument exists: '--max-file-bytes'"),
        (Machine::new().arguments(&["send"]).error(), "unexpected argument 'send'"),
    ] {
        assert!(error.contains(expected), "\n{error}\ndoes not contain\n{expected}");
    }
}

#[test]
fn settings_that_contradict_or_need_each_other_are_refused() {
    let both = Machine::new().file("iroh_udp_port = 2\niroh_listen = ['127.0.0.1:1']").error();
    assert!(both.starts_with("peat-blobd.toml:2: iroh_listen and iroh_udp_port (peat-blobd.toml:1) are two ways"), "{both}");
    let keyless = Machine::new().variable("PEAT_NODE_NODE_ID", "a").error();
    assert!(keyless.starts_with("PEAT_NODE_NODE_ID: node_id wants a shared key"), "{keyless}");
    let nameless = Machine::new().variable("PEAT_NODE_SHARED_KEY", KEY).error();
    assert!(nameless.starts_with("PEAT_NODE_SHARED_KEY: a shared key wants a node id"), "{nameless}");
    let deaf = Machine::new().file("listen = []").error();
    assert!(deaf.starts_with("peat-blobd.toml:1: listen is empty"), "{deaf}");
    let long = Machine::new().arguments(&["--data-dir", &format!("/{}", "d".repeat(120))]).error();
    assert!(long.contains("Unix socket"), "{long}");
    let long = Machine::new().file(&format!("varlink = 'unix:/{}'", "d".repeat(120))).error();
    assert!(long.starts_with("peat-blobd.toml:1: varlink has a path of 121 bytes"), "{long}");
    let taken = Machine::new().file("listen = ['unix:///a']\nvarlink = 'unix:/a'").error();
    assert!(taken.starts_with("peat-blobd.toml:2: /a is the socket of the API"), "{taken}");
    let open = Machine::new().file("varlink = 'tcp://127.0.0.1:1'").error();
    assert!(open.contains("unix:///absolute/path"), "{open}");
}

#[test]
fn a_secret_is_in_no_error_and_in_no_output() {
    let wrong = Machine::new().variable("PEAT_NODE_SHARED_KEY", "c2VjcmV0").error();
    assert_eq!(
        wrong,
        "PEAT_NODE_SHARED_KEY: shared_key cannot be the value given; give 32 bytes in base64, 44 characters with the final `=`"
    );
    let machine = Machine::new().variable("PEAT_NODE_NODE_ID", "a");
    std::fs::write(machine.path("key"), "c2VjcmV0").unwrap();
    std::fs::write(machine.path("token"), "secret secret secret").unwrap();
    let key = machine.path("key").display().to_string();
    let token = machine.path("token").display().to_string();
    assert!(!Machine::new().arguments(&["--shared-key-file", &key]).error().contains("c2VjcmV0"));
    assert!(!Machine::new().arguments(&["--token-file", &token]).error().contains("secret secret"));

    let loaded = machine.variable("PEAT_NODE_SHARED_KEY", KEY).load().unwrap();
    assert!(!loaded.print().contains(KEY) && !format!("{loaded:?}").contains(KEY), "{loaded:?}");
    let flag = Machine::new().arguments(&["--shared-key", KEY]).error();
    assert!(flag.contains("'--shared-key-file'"), "a flag can be seen by everybody: {flag}");
}

#[test]
fn print_config_shows_each_value_with_its_origin() {
    let machine = Machine::new()
        .file(&format!("# A comment.\ncarry = false\npeers = ['{ID_A}@host:1']\n"))
        .variable("PEAT_NODE_ATTACHMENT_INBOX", "/in \"box\"")
        .variable("PEAT_NODE_NODE_ID", "007")
        .variable("PEAT_BLOBD_SHARED_KEY", KEY)
        .variable("PEAT_NODE_PRINT_CONFIG", "1")
        .arguments(&["--data-dir", "/data", "--outbox", "a=/a,b=/b"]);
    let loaded = machine.load().unwrap();
    assert!(loaded.print_config);
    let printed = loaded.print().replace(&format!("{}/", machine.directory.path().display()), "");
    assert_eq!(printed, include_str!("print-config.golden"));

    // It can be read again.
    let again = Machine::new().file(&printed).variable("PEAT_BLOBD_SHARED_KEY", KEY).config();
    assert_eq!(format!("{again:?}"), format!("{:?}", loaded.config));
}

#[test]
fn a_reload_changes_what_can_be_changed_and_tells_of_the_rest() {
    let before = Machine::new().file("log = 'info'\ndata_dir = '/a'\ncarry = true").load().unwrap();
    let after = Machine::new().file("log = 'debug'\ndata_dir = '/b'\nquota = 5").load().unwrap();
    let reloaded = before.reloaded(after).unwrap();
    assert_eq!((reloaded.config.log.as_str(), reloaded.config.quota), ("debug", Some(5)));
    assert_eq!(reloaded.config.data_dir, Path::new("/a"));
    assert_eq!(reloaded.warnings, ["data_dir has changed and takes effect at the next start"]);
}

#[test]
fn a_reload_reads_the_token_again_and_does_not_open_the_api_without_one() {
    let machine = Machine::new();
    std::fs::write(machine.path("token"), "first token 1234".replace(' ', "-")).unwrap();
    let path = machine.path("token").display().to_string();
    let machine = machine.file(&format!("listen = ['tcp://192.0.2.1:1']\ntoken_file = '{path}'"));
    let before = machine.load().unwrap();
    std::fs::write(&path, "second-token-1234").unwrap();
    let reloaded = before.reloaded(machine.load().unwrap()).unwrap();
    assert_eq!(reloaded.config.token.unwrap().expose(), "second-token-1234");

    let tokenless = Machine::new().load().unwrap();
    assert!(before.reloaded(tokenless).is_err(), "the socket stays open, so the token cannot go");
    let certificates = "tls_cert = '/cert'\ntls_key = '/key'\ntls_client_ca = '/ca'";
    let swapped = Machine::new().file(&format!("listen = ['tcp://192.0.2.1:1']\n{certificates}")).load().unwrap();
    let error = before.reloaded(swapped).unwrap_err().to_string();
    assert!(error.contains("come and go with a start only"), "connections from before would need neither: {error}");
}

#[test]
fn help_has_every_flag() {
    let help = Machine::new().arguments(&["--help"]).error();
    for setting in SETTINGS.iter().filter(|setting| !setting.secret) {
        assert!(help.contains(&format!("--{}", setting.name)) && help.contains(&setting.help[..20]), "{}", setting.name);
    }
}

/// The tables of docs/daemon.md, as the code has them.
fn documented() -> String {
    let mut text = String::from("| key of the file | also | default | reload | what |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let compat = setting.compat.map_or(String::new(), |name| format!("`{name}`"));
        let default = if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
        let (value, reload) = (setting.value.replace('|', "\\|"), if setting.reload { "yes" } else { "" });
        let no_flag = if setting.secret { " No flag: everybody on the machine could read it." } else { "" };
        text += &format!("| `{}` {value} | {compat} | {default} | {reload} | {}{no_flag} |\n", setting.key(), setting.help);
    }
    text += "\n| accepted, without effect | since |\n|---|---|\n";
    for (name, reason) in WITHOUT_EFFECT {
        text += &format!("| `{name}` | {reason} |\n");
    }
    text
}

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/daemon.md")).unwrap()
}

#[test]
fn the_documents_have_the_table_of_settings() {
    let document = document();
    let (_, rest) = document.split_once("<!-- settings -->\n").expect("a mark where the tables begin");
    let (table, _) = rest.split_once("<!-- end of settings -->").expect("a mark where the tables end");
    let documented = documented();
    assert!(table == documented, "docs/daemon.md is not in step with the settings; between its marks put\n{documented}");
}

#[test]
fn the_file_in_the_documents_is_one() {
    let document = document();
    let (_, rest) = document.split_once("```toml\n").expect("an example of a file");
    let config = Machine::new().file(rest.split_once("```").expect("its end").0).config();
    assert_eq!((config.listen.len(), config.peers.len(), config.outbox.len(), config.labels.len()), (2, 1, 1, 1));
}
