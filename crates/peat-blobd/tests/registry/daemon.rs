//! Who may speak, and that the registry is off unless it is asked for.

use peat_blob_tests::fleet::Fleet;
use peat_blobd::config::Token;
use peat_blobd::{Config, Running};

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
