//! `doctor`: what is well with the node and what is not, by numbered checks with the fix for each. The daemon judges; without one this
//! says what can be said from outside.

use peat_blobapi::blob::{DiagnoseRequest, Finding, Health};
use serde_json::{Value, json};

use crate::daemon::{Address, Daemon, answer, data_directory};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::show;

/// The checks, in the order of their numbers.
const CHECKS: [&str; 8] = ["daemon", "clock", "disk", "ports", "mtu", "peers", "key", "clone"];

/// Looks, and fails where something is to be mended.
pub(crate) async fn run(output: &Output, address: &Address) -> Result<(), Failure> {
    let (findings, failure) = match Daemon::connect(address).await {
        Ok(daemon) => {
            let found = answer(daemon.client.diagnose(DiagnoseRequest::default()).await)?.findings;
            let answers = finding("daemon", Health::HEALTH_WELL, "it answers", "");
            let problems = found.iter().filter(|finding| is(finding, Health::HEALTH_PROBLEM)).count() as u64;
            let message = || format!("{} to be mended", show::count(problems, "thing"));
            let failure = (problems > 0).then(|| Failure::new(Kind::FAILED, message()).hint("each has its fix below it"));
            (std::iter::once(answers).chain(found).collect(), failure)
        }
        Err(failure) => (without_daemon(&failure), Some(failure)),
    };
    let document = json!({ "well": failure.is_none(), "findings": findings.iter().map(finding_json).collect::<Vec<_>>() });
    output.result(&document, || findings.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    failure.map_or(Ok(()), Err)
}

fn without_daemon(failure: &Failure) -> Vec<Finding> {
    let fix = failure.hint.as_deref().unwrap_or("start peat-blobd; its log says why it ended");
    let data = data_directory();
    let disk = match std::fs::read_dir(&data) {
        Ok(_) => {
            finding("disk", Health::HEALTH_NOTE, format!("the data directory {} can be read by this user", data.display()), "")
        }
        Err(error) => {
            let message = format!("the data directory {} cannot be read by this user: {error}", data.display());
            finding("disk", Health::HEALTH_NOTE, message, "if the daemon has another, say so with PEAT_BLOBD_DATA_DIR")
        }
    };
    let mut findings = vec![finding("daemon", Health::HEALTH_PROBLEM, failure.message.clone(), fix), disk];
    let unknown = CHECKS.iter().filter(|check| !["daemon", "disk"].contains(check));
    findings.extend(unknown.map(|check| finding(check, Health::HEALTH_UNSPECIFIED, "only the daemon knows", "")));
    findings.sort_by_key(|finding| number(&finding.check));
    findings
}

fn finding(check: &str, health: Health, message: impl Into<String>, fix: &str) -> Finding {
    Finding { check: check.to_owned(), health: health.into(), message: message.into(), fix: fix.to_owned(), ..Default::default() }
}

fn is(finding: &Finding, health: Health) -> bool {
    finding.health == health
}

/// Checks of daemons to come have the number after the last.
fn number(check: &str) -> usize {
    CHECKS.iter().position(|known| *known == check).unwrap_or(CHECKS.len()) + 1
}

fn word(finding: &Finding) -> &'static str {
    match finding.health.as_known() {
        Some(Health::HEALTH_WELL) => "well",
        Some(Health::HEALTH_NOTE) => "note",
        Some(Health::HEALTH_PROBLEM) => "problem",
        Some(Health::HEALTH_UNSPECIFIED) | None => "unknown",
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "number": number(&finding.check),
        "check": finding.check,
        "health": word(finding),
        "message": finding.message,
        "fix": finding.fix,
    })
}

fn text(finding: &Finding) -> String {
    let check = show::printable(&finding.check);
    let line = format!("{}. {check:6}  {:7}  {}", number(&finding.check), word(finding), show::printable(&finding.message));
    if finding.fix.is_empty() { line } else { format!("{line}\n{:20}fix: {}", "", show::printable(&finding.fix)) }
}
