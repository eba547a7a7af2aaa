//! Lists, page by page.

use super::fake::Others;
use super::*;

#[test]
fn tags_come_in_order_in_pages_and_only_those_of_the_repository() {
    let place = Place::new();
    let (a, b) = (repository("a"), repository("a/b"));
    for name in ["2", "10", "1", "B", "a"] {
        place.push_image(&a, name, 1);
    }
    place.push_image(&b, "x", 1);
    let names = |after: Option<&str>, most| {
        let page = place.tags(&a, after, most).unwrap();
        (page.items.iter().map(ToString::to_string).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(names(None, 10), (["1", "10", "2", "B", "a"].map(str::to_owned).to_vec(), false));
    assert_eq!(names(Some("10"), 2), (["2", "B"].map(str::to_owned).to_vec(), true));
    assert_eq!(names(Some("B"), 1), (vec!["a".to_owned()], false));
    assert_eq!(names(Some("z"), 1), (vec![], false));
    assert!(names(None, 0).0.is_empty());
    assert!(matches!(place.tags(&repository("b"), None, 1), Err(RegistryError::NoRepository(_))));
}

#[test]
fn repositories_with_manifests_come_in_order_in_pages() {
    let place = Place::new();
    for name in ["b", "a/c", "a", "a-b", "c"] {
        place.push_image(&repository(name), "1", 1);
        place.push_image(&repository(name), "2", 2);
    }
    place.push_blob(&repository("no-manifests"), b"x");
    let names = |after: Option<&str>, most| {
        let page = place.repositories(after, most).unwrap();
        (page.items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), page.more)
    };
    assert_eq!(names(None, 10), ("a a-b a/c b c".to_owned(), false));
    assert_eq!(names(Some("a"), 2), ("a-b a/c".to_owned(), true));
    assert_eq!(names(Some("b"), 1), ("c".to_owned(), false));
}

#[test]
fn referrers_are_found_by_their_subject_and_type_also_before_it_is_here() {
    let (place, here) = (Place::new(), repository("a"));
    let config = place.push_blob(&here, b"config");
    let subject = sha256(b"not here yet");
    let mut all = Vec::new();
    for number in 0..5 {
        let kind = if number % 2 == 0 { "even/type" } else { "odd/type" };
        let text = image(&[(config, 6)], Some((subject, 9))).replacen(
            "\"config\"",
            &format!(r#""artifactType":"{kind}","number":{number},"config""#),
            1,
        );
        let put = place.put(&here, &sha256(text.as_bytes()).to_string(), &text).unwrap();
        assert_eq!(put.subject, Some(subject));
        all.push(put.digest);
    }
    let page =
        |artifact_type, after: Option<&Digest>, most| place.referrers(&here, &subject, artifact_type, after, most).unwrap();
    assert_eq!(page(None, None, 10).items.len(), 5);
    assert_eq!((page(Some("even/type"), None, 10).items.len(), page(Some("even/type"), None, 2).more), (3, true));
    let first = page(Some("odd/type"), None, 1);
    let second = page(Some("odd/type"), Some(&first.items[0].digest), 1);
    assert_eq!((first.more, second.more, second.items.len()), (true, false, 1));
    assert_eq!(second.items[0].annotations["a"], "b");
    assert!(place.referrers(&repository("b"), &subject, None, None, 10).unwrap().items.is_empty());
    place.delete_manifest(&here, &Reference::Digest(all[0])).unwrap();
    assert_eq!(page(None, None, 10).items.len(), 4);
}

#[test]
fn what_others_have_is_listed_too_each_once_and_not_what_was_deleted_here() {
    let (place, here) = (Place::new(), repository("a"));
    let others = Others::new();
    others.offer_tags(&here, &["1", "3", "5"]);
    others.offer_tags(&repository("z"), &["1"]);
    place.set_elsewhere(Some(others));
    for name in ["2", "3", "5"] {
        place.push_image(&here, name, 1);
    }
    place.delete_manifest(&here, &by_tag("5")).unwrap();
    let tags = |after, most| place.tags(&here, after, most).unwrap().items;
    assert_eq!(tags(None, 10), ["1", "2", "3"].map(tag));
    assert_eq!(tags(Some("1"), 1), [tag("2")]);
    assert_eq!(place.tags(&repository("z"), None, 10).unwrap().items, [tag("1")]);
    assert_eq!(place.repositories(None, 10).unwrap().items, [here, repository("z")]);
}
