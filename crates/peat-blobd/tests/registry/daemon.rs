//! Who may speak, and that the registry is off unless it is asked for.

use peat_blob_tests::fleet::Fleet;
use peat_blobd::config::{Token, UpstreamAt, Users};
use peat_blobd::{Config, Running};

use crate::images::{push_blob, push_image, sha256};
use crate::serve_with;

const TOKEN: &str = "a-token-of-16-bytes";

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_shown_as_a_bearers_or_as_a_password() {
    let mut served = serve_with(|config| config.token = Some(Token::new(TOKEN))).await;
    // `anybody:a-token-of-16-bytes`, `anybody:another`, and no pair.
    let (right, wrong, none) = ("YW55Ym9keTphLXRva2VuLW9mLTE2LWJ5dGVz", "YW55Ym9keTphbm90aGVy", "YW55Ym9keQ==");
    for (given, status) in [
        (None, 401),
        (Some(format!("Bearer {TOKEN}")), 200),
        (Some("Bearer another".to_owned()), 401),
        (Some(format!("Basic {right}")), 200),
        (Some(format!("Basic {wrong}")), 401),
        (Some(format!("Basic {none}")), 401),
        (Some("Basic %".to_owned()), 401),
    ] {
        served.client.headers = given.iter().map(|given| ("authorization".to_owned(), given.clone())).collect();
        let answer = served.client.get("/v2/").await;
        assert_eq!(answer.status, status, "{given:?}");
        if status == 401 {
            assert!(answer.is_error(401, "UNAUTHORIZED") && answer.header("www-authenticate").is_some(), "{given:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_no_page_of_a_browser_is_let_in() {
    let served = serve_with(|_| {}).await;
    let answer = served.client.send("GET", "/v2/", &[("origin", "http://example.com")], b"").await;
    assert!(answer.is_error(401, "UNAUTHORIZED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_served_unless_it_is_asked_for() {
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    let running = Running::start(Config { iroh_listen: vec![([127, 0, 0, 1], 0).into()], ..Config::new(fleet.path("alpha")) });
    let running = running.await.expect("it starts");
    assert!(running.registry_addresses().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_may_do_what_their_file_says_in_its_repositories() {
    let file = "[ci]\ntoken = 'the-token-of-the-ci'\npull = ['apps/*']\npush = ['apps/*']\n\
                [field]\ntoken = 'the-token-of-the-field'\npull = ['*']\n";
    let served = serve_with(|config| {
        config.token = Some(Token::new(TOKEN));
        config.registry_users = Some(Users::parse(file).expect("users"));
        let hosts = vec![("127.0.0.1:1".to_owned(), true)];
        config.registry_upstream = vec![UpstreamAt { name: Some("registry.example".to_owned()), hosts }];
    });
    let mut served = served.await;
    let as_user = |name: &str, token: &str| {
        let basic = data_encoding::BASE64.encode(format!("{name}:{token}").as_bytes());
        vec![("authorization".to_owned(), format!("Basic {basic}"))]
    };
    let (ci, field) = (as_user("ci", "the-token-of-the-ci"), as_user("field", "the-token-of-the-field"));
    // The token of the API is anybody's who may do everything.
    served.client.headers = as_user("anybody", TOKEN);
    let (_, secret) = push_image(&served.client, "secret", "v1", 1).await;
    served.client.headers = as_user("ci", "the-token-of-the-field");
    assert!(served.client.get("/v2/").await.is_error(401, "UNAUTHORIZED"));
    served.client.headers = ci;
    assert_eq!(served.client.get("/v2/").await.status, 200);
    push_image(&served.client, "apps/one", "v1", 2).await;
    let digest = sha256(&secret);
    for (method, path) in [
        ("GET", "/v2/secret/manifests/v1".to_owned()),
        ("HEAD", format!("/v2/secret/blobs/{digest}")),
        ("GET", "/v2/secret/tags/list".to_owned()),
        ("POST", "/v2/secret/blobs/uploads/".to_owned()),
        ("DELETE", "/v2/apps/one/manifests/v1".to_owned()),
        // Who names another registry asks for a repository beneath its name.
        ("GET", "/v2/apps/one/manifests/v1?ns=registry.example".to_owned()),
    ] {
        let answer = served.client.send(method, &path, &[], b"").await;
        assert!(answer.status == 403 && (method == "HEAD" || answer.is_error(403, "DENIED")), "{method} {path}");
    }
    assert_eq!(served.client.get("/v2/_catalog").await.text(), r#"{"repositories":["apps/one"]}"#);
    // What he may not pull is not his by mounting it, and what he may is.
    for from in ["&from=secret", ""] {
        let mount = served.client.send("POST", &format!("/v2/apps/one/blobs/uploads/?mount={digest}{from}"), &[], b"").await;
        assert_eq!(mount.status, 202, "{from}");
    }
    let own = push_blob(&served.client, "apps/two", b"own").await;
    let mount = served.client.send("POST", &format!("/v2/apps/one/blobs/uploads/?mount={own}&from=apps/two"), &[], b"").await;
    assert_eq!(mount.status, 201);
    served.client.headers = field;
    assert_eq!(served.client.get("/v2/secret/manifests/v1").await.status, 200);
    assert!(served.client.get("/v2/_catalog").await.text().contains("apps/one"));
    assert!(served.client.send("PUT", "/v2/apps/one/manifests/v2", &[], b"{}").await.is_error(403, "DENIED"));
}
