//! Identities that are made, loaded, damaged, and open to others.

use super::*;
use crate::model::{CertificateBody, Labels, Role, Timestamp};

struct Place {
    data: tempfile::TempDir,
    authority: AuthorityKey,
    key: FormationKey,
}

impl Place {
    fn new() -> Self {
        Self { data: tempfile::tempdir().unwrap(), authority: AuthorityKey::generate(), key: FormationKey::generate() }
    }

    /// A data directory that does not exist yet.
    fn path(&self) -> PathBuf {
        self.data.path().join("var/node")
    }

    fn create(&self) -> EndpointId {
        create_enrolled(&self.path(), &self.key, self.authority.id()).unwrap()
    }

    fn certificate(&self, endpoint: EndpointId, key: &FormationKey) -> Certificate {
        let body = CertificateBody {
            formation: key.id(),
            endpoint,
            name: "vehicle-7".into(),
            labels: Labels::new(),
            role: Role::Member,
            expiry: Timestamp::from_millis(1),
        };
        self.authority.certify(body).unwrap()
    }

    fn enrolled(&self) -> Identity {
        let id = self.create();
        enroll(&self.path(), self.certificate(id, &self.key)).unwrap()
    }
}

#[test]
fn an_enrolled_identity_loads_as_it_was_made_even_after_its_certificate_expired() {
    let place = Place::new();
    let made = place.enrolled();
    let (loaded, warnings) = load(&place.path()).unwrap();
    assert_eq!((loaded.id(), loaded.incarnation(), loaded.name()), (made.id(), made.incarnation(), "vehicle-7"));
    assert_eq!(loaded.credential(), made.credential());
    assert_eq!((loaded.formation().id(), loaded.formation().authority()), (place.key.id(), Some(place.authority.id())));
    assert_eq!(warnings, []);
}

#[test]
fn only_the_owner_can_read_what_is_written_and_no_temporary_file_stays() {
    let place = Place::new();
    place.enrolled();
    let directory = place.path().join(DIRECTORY);
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, [AUTHORITY, CERTIFICATE, FORMATION_KEY, INCARNATION, NODE_KEY]);
}

#[test]
fn a_secret_that_others_can_read_is_warned_of() {
    let place = Place::new();
    place.enrolled();
    let path = file(&place.path(), NODE_KEY);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, warnings) = load(&place.path()).unwrap();
    assert_eq!(warnings, [Warning { path, mode: 0o644 }]);
    assert!(warnings[0].to_string().contains("chmod go= "), "{}", warnings[0]);
}

#[test]
fn a_node_key_is_never_overwritten() {
    let place = Place::new();
    let id = place.create();
    let error = create_enrolled(&place.path(), &place.key, place.authority.id()).unwrap_err();
    assert!(matches!(error, IdentityError::Exists(_)), "{error}");
    let waiting = load(&place.path()).unwrap_err();
    assert!(matches!(waiting, IdentityError::NotEnrolled(waiting) if waiting == id));
    assert!(waiting.hint().unwrap().contains(&id.to_string()));
}

#[test]
fn a_certificate_of_another_node_is_not_taken() {
    let place = Place::new();
    place.create();
    let other = NodeKey::generate().endpoint_id();
    let error = enroll(&place.path(), place.certificate(other, &place.key)).unwrap_err();
    assert!(matches!(error, IdentityError::Rejected(Rejection::OtherEndpoint(id)) if id == other), "{error}");
    assert!(matches!(load(&place.path()), Err(IdentityError::NotEnrolled(_))), "nothing was written");
}

#[test]
fn an_identity_copied_half_over_another_is_refused() {
    let place = Place::new();
    place.enrolled();
    write(&file(&place.path(), NODE_KEY), &NodeKey::generate().to_base64()).unwrap();
    let error = load(&place.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Rejected(Rejection::OtherEndpoint(_))), "{error}");
}

#[test]
fn a_certificate_in_the_data_directory_wins_over_a_deterministic_identity() {
    let place = Place::new();
    let fallback = || Some((Formation::deterministic(place.key.clone()), "node-a"));
    let (identity, _) = open(&place.path(), fallback()).unwrap();
    assert!(matches!(identity.credential(), Credential::Derived { node_id } if node_id == "node-a"));
    assert_eq!(open(&place.path(), fallback()).unwrap().0.incarnation(), identity.incarnation());

    let enrolled = place.enrolled();
    let (identity, _) = open(&place.path(), fallback()).unwrap();
    assert_eq!((identity.id(), identity.credential()), (enrolled.id(), enrolled.credential()));
}

#[test]
fn an_empty_data_directory_has_no_identity() {
    let place = Place::new();
    let error = open(&place.path(), None).unwrap_err();
    assert!(matches!(&error, IdentityError::Missing(path) if path.ends_with("identity/node.key")), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().is_some());
}

#[test]
fn a_missing_or_malformed_file_is_named() {
    for (name, content) in [
        (NODE_KEY, "KioqKg=="),
        (NODE_KEY, "?"),
        (FORMATION_KEY, ""),
        (AUTHORITY, "abc"),
        (AUTHORITY, "a5"),
        (CERTIFICATE, "KioqKg=="),
        (INCARNATION, "0"),
    ] {
        let place = Place::new();
        place.enrolled();
        let path = file(&place.path(), name);
        fs::write(&path, content).unwrap();
        let error = load(&place.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert!(error.to_string().contains(name) && error.hint().is_some(), "{error}");
    }
    for name in [NODE_KEY, FORMATION_KEY, AUTHORITY] {
        let place = Place::new();
        place.enrolled();
        fs::remove_file(file(&place.path(), name)).unwrap();
        let error = load(&place.path()).unwrap_err();
        assert!(matches!(&error, IdentityError::Missing(path) if path.ends_with(name)), "{error}");
    }
}

#[test]
fn a_whole_identity_is_restored_elsewhere_for_a_new_life_and_over_nobody() {
    let place = Place::new();
    let made = place.enrolled();
    let Credential::Certificate(certificate) = made.credential().clone() else { panic!("it is enrolled") };
    let put = |data: &Path, key: &NodeKey| restore(data, key.clone(), made.formation().clone(), certificate.clone());
    let elsewhere = place.data.path().join("elsewhere");
    assert!(matches!(put(&elsewhere, &NodeKey::generate()), Err(IdentityError::Rejected(_))), "the key is another's");
    assert!(!elsewhere.exists(), "nothing was written");
    let restored = put(&elsewhere, made.key()).unwrap();
    let (loaded, _) = load(&elsewhere).unwrap();
    assert_eq!((loaded.id(), loaded.credential()), (made.id(), made.credential()));
    assert_eq!(loaded.incarnation(), restored.incarnation());
    assert_ne!(loaded.incarnation(), made.incarnation());
    assert!(matches!(put(&place.path(), made.key()), Err(IdentityError::Exists(_))));
}

#[test]
fn a_huge_file_is_not_read_into_memory() {
    let place = Place::new();
    place.enrolled();
    File::create(file(&place.path(), NODE_KEY)).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(load(&place.path()).unwrap_err().kind(), ErrorKind::Integrity);
}

#[test]
fn an_incarnation_stays_until_it_is_renewed_or_lost() {
    let place = Place::new();
    let first = incarnation(&place.path()).unwrap();
    assert_eq!(incarnation(&place.path()).unwrap(), first);
    let second = renew_incarnation(&place.path()).unwrap();
    assert_ne!(second, first);
    assert_eq!(incarnation(&place.path()).unwrap(), second);
    fs::remove_file(file(&place.path(), INCARNATION)).unwrap();
    assert_ne!(incarnation(&place.path()).unwrap(), second);
}

#[test]
fn a_formation_key_is_changed_in_two_steps() {
    let place = Place::new();
    let id = place.enrolled().id();
    let new = FormationKey::generate();
    change_formation_key(&place.path(), &new).unwrap();
    change_formation_key(&place.path(), &new).unwrap();
    let keys = |identity: &Identity| identity.formation().keys().map(FormationKey::id).collect::<Vec<_>>();
    assert_eq!(keys(&load(&place.path()).unwrap().0), [new.id(), place.key.id()]);

    let error = end_key_change(&place.path()).unwrap_err();
    assert!(
        matches!(error, IdentityError::Rejected(Rejection::OtherFormation(_))),
        "the certificate is for the old key: {error}"
    );
    enroll(&place.path(), place.certificate(id, &new)).unwrap();
    end_key_change(&place.path()).unwrap();
    end_key_change(&place.path()).unwrap();
    assert_eq!(keys(&load(&place.path()).unwrap().0), [new.id()]);
}

#[test]
fn an_authoritys_key_is_kept_in_a_file_of_its_own_and_not_overwritten() {
    let place = Place::new();
    let path = place.data.path().join("authority.key");
    save_authority(&path, &place.authority).unwrap();
    assert_eq!(load_authority(&path).unwrap().id(), place.authority.id());
    assert!(matches!(save_authority(&path, &AuthorityKey::generate()), Err(IdentityError::Exists(_))));
    assert_eq!(load_authority(&path).unwrap().id(), place.authority.id());
}

#[test]
fn what_a_crash_left_of_a_write_does_not_stop_the_next() {
    let place = Place::new();
    fs::create_dir_all(place.path().join(DIRECTORY)).unwrap();
    fs::write(file(&place.path(), "node.key.new"), "half a li").unwrap();
    let made = place.enrolled();
    assert_eq!(load(&place.path()).unwrap().0.id(), made.id());
}
