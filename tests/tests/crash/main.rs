//! Nodes in processes of their own are killed at each place where durable state changes, again while they recover, and at
//! random moments. Whatever happened, deliveries complete, stores are clean, and nothing is delivered twice.

mod child;
mod scene;
mod traffic;

use peat_blobcore::CRASH_POINTS;

use scene::{Part, Scene};

/// Places that only what follows a crash reaches, and a crash after which it does.
const RECOVERIES: [(&str, &str); 2] =
    [("content.open.recovered", "content.commit.renamed:3"), ("exchange.recover", "exchange.rename:2")];
/// Places that only a node with a damaged blob reaches.
const HEALING: [&str; 2] = ["content.damage.marked", "content.assembly.salvaged"];
/// A place that only a blob that is large or slow to come reaches.
const LARGE: &str = "content.assembly.synced";
/// Places that only a file that its sender removed reaches: the inbox's own tests kill there.
const REMOVALS: [&str; 2] = ["exchange.remove", "exchange.removed"];
/// Which of the times that a place is reached are tried: the first ones, and some of what comes later.
const HITS: [usize; 5] = [1, 2, 3, 5, 9];

/// Every place of some modules that a healthy node can reach.
fn places(modules: &[&str]) -> impl Iterator<Item = &'static str> {
    let wanted = |name: &str| modules.iter().any(|module| name.starts_with(module));
    // Nothing here is like what is here already: the store's own tests kill what is put together from other blobs.
    let is_delta = |name: &str| ["content.draft.", "content.recipe."].iter().any(|part| name.starts_with(part));
    let special = move |name: &str| {
        name == LARGE
            || is_delta(name)
            || HEALING.contains(&name)
            || REMOVALS.contains(&name)
            || RECOVERIES.iter().any(|(place, _)| *place == name)
    };
    CRASH_POINTS.iter().map(|(name, _)| *name).filter(move |name| wanted(name) && !special(name))
}

/// Kills the node that has this part at each of the places, and once more when it recovers.
async fn kill_at_each(part: Part, places: impl Iterator<Item = &'static str>, hits: &[usize]) {
    let mut number = 0;
    for place in places {
        let mut reached = 0;
        for hit in hits {
            // The second kill is at another place each time: all pairs of places would add minutes and little else.
            let recovery = RECOVERIES[number % RECOVERIES.len()].0;
            let other = CRASH_POINTS[number % CRASH_POINTS.len()].0;
            let second = format!("{}:{}", if number % 3 == 0 { recovery } else { other }, 1 + number % 2);
            number += 1;
            let kills = [format!("{place}:{hit}"), second];
            println!("{part:?}: {kills:?}");
            // Only what belongs together reaches every place, what does not goes other ways.
            if !Scene::new(part, *hit != 2).await.run(&kills).await[0] {
                break;
            }
            reached = *hit;
        }
        assert!(reached > 0, "{part:?} never reaches {place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_wherever_its_store_changes_is_delivered_in_the_end() {
    kill_at_each(Part::Receiver, places(&["content."]), &HITS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_wherever_its_inbox_or_its_documents_change_is_delivered_in_the_end() {
    kill_at_each(Part::Receiver, places(&["exchange.", "replica."]), &HITS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_in_each_recovery_is_delivered_in_the_end() {
    for (place, first) in RECOVERIES {
        for hit in 1..=2 {
            let kills = [first.to_owned(), format!("{place}:{hit}"), format!("{place}:1")];
            let reached = Scene::new(Part::Receiver, true).await.run(&kills).await;
            assert!(reached[0] && (reached[1] || hit > 1), "{kills:?} {reached:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_while_it_mends_a_damaged_blob_mends_it_in_the_end() {
    for place in HEALING {
        for second in ["content.open.marked", "content.assembly.salvaged", "content.assembly.marked", "content.commit.moved"] {
            let kills = [format!("{place}:1"), format!("{second}:1")];
            assert!(Scene::new(Part::Mender, true).await.run(&kills).await[0], "{place} is never reached");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_killed_anywhere_has_sent_all_or_nothing() {
    // What belongs to assemblies, garbage and damage a sender does not reach.
    let reached = |name: &&str| !["content.assembly.", "content.delete."].iter().any(|part| name.starts_with(part));
    kill_at_each(Part::Sender, places(&["content.", "replica."]).filter(reached), &[1, 2, 4]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_killed_anywhere_still_carries() {
    let reached = |name: &&str| !["content.delete.", "content.ingest."].iter().any(|part| name.starts_with(part));
    kill_at_each(Part::Carrier, places(&["content.", "replica."]).filter(reached), &[1, 3]).await;
}
