//! `image inspect`: what an image is, and where.

use std::collections::BTreeSet;

use indicatif::HumanBytes;
use peat_blobapi::blob::{InspectImageRequest, InspectImageResponse};
use serde_json::{Value, json};

use crate::daemon::{Daemon, answer};
use crate::failure::Failure;
use crate::output::Output;
use crate::show;

/// Looks at an image.
pub(super) async fn run(daemon: &Daemon, output: &Output, image: &str) -> Result<(), Failure> {
    let request = InspectImageRequest { image: image.to_owned(), ..Default::default() };
    let found = answer(daemon.images.inspect_image(request).await)?;
    output.result(&document(&found), || text(&found))
}

fn document(found: &InspectImageResponse) -> Value {
    let image = &found.image;
    // Parsed for whoever reads this; the bytes that the digest is of come from `blob export DIGEST -`.
    let parsed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or(Value::Null);
    json!({
        "repository": image.repository,
        "tags": image.tags,
        "digest": image.digest,
        "media_type": found.media_type,
        "artifact_type": found.artifact_type,
        "subject": found.subject,
        "bytes": image.bytes,
        "here": image.here,
        "holders": image.holders,
        "platforms": platforms(found),
        "manifest": parsed(&found.manifest),
        "config": parsed(&found.config),
        "parts": found.parts.iter().map(|part| json!({
            "digest": part.digest,
            "media_type": part.media_type,
            "size": part.size,
            "platform": part.platform,
            "named_by": part.named_by,
            "here": part.here,
        })).collect::<Vec<_>>(),
        "referrers": found.referrers.iter().map(|referrer| json!({
            "digest": referrer.digest,
            "media_type": referrer.media_type,
            "artifact_type": referrer.artifact_type,
            "size": referrer.size,
        })).collect::<Vec<_>>(),
    })
}

/// What it runs on: as an index says, or as the configuration of a single image does.
fn platforms(found: &InspectImageResponse) -> BTreeSet<String> {
    let named = found.parts.iter().map(|part| part.platform.clone()).filter(|platform| !platform.is_empty());
    let config: Option<Value> = serde_json::from_slice(&found.config).ok();
    let own = config.and_then(|config| {
        let word = |name: &str| config.get(name)?.as_str().filter(|word| !word.is_empty()).map(str::to_owned);
        let variant = word("variant").map(|variant| format!("/{variant}")).unwrap_or_default();
        Some(format!("{}/{}{variant}", word("os")?, word("architecture")?))
    });
    named.chain(own).collect()
}

fn text(found: &InspectImageResponse) -> String {
    let image = &found.image;
    let holders = image.holders.iter().zip(&image.holder_names).map(|(id, name)| show::node(name, id));
    let fields = [
        ("image", show::printable(&image.repository)),
        ("tags", show::printable(&image.tags.join(", "))),
        ("digest", image.digest.clone()),
        ("type", show::printable(&found.media_type)),
        ("artifact", show::printable(&found.artifact_type)),
        ("about", found.subject.clone()),
        ("platforms", show::printable(&platforms(found).into_iter().collect::<Vec<_>>().join(", "))),
        ("size", HumanBytes(image.bytes).to_string()),
        ("here", if image.here { "yes" } else { "no" }.to_owned()),
        ("holders", holders.collect::<Vec<_>>().join(", ")),
    ];
    let mut text = show::fields(&fields.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>());
    if !found.parts.is_empty() {
        let rows = found.parts.iter().map(|part| {
            [
                part.digest.clone(),
                HumanBytes(part.size).to_string(),
                if part.here { "yes" } else { "no" }.to_owned(),
                show::printable(&part.platform),
                show::printable(&part.media_type),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&show::table(["part", "size", "here", "platform", "type"], rows));
    }
    if !found.referrers.is_empty() {
        let rows = found.referrers.iter().map(|referrer| {
            [referrer.digest.clone(), HumanBytes(referrer.size).to_string(), show::printable(&referrer.artifact_type)]
        });
        text.push_str("\n\n");
        text.push_str(&show::table(["referrer", "size", "artifact"], rows));
    }
    text
}
