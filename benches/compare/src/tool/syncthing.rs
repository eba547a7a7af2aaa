//! syncthing, each with all others: a folder of the sender's that the others receive. Discovery, relays and reports are off.
//!
//! Its files are put into the folder in the timed step, by hard links, and it is told to look. It syncs them by itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use peat_blob_lab::Seat;

use super::{Step, all_end_well, answers, quiet, until};
use crate::Outcome;
use crate::payload::arrived;
use crate::work::Scene;

const PORT: u16 = 22000;
const API_PORT: u16 = 8384;
const API_KEY: &str = "compare";

pub(super) fn prepare<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    let folder = scene.directory.join("folder");
    fs::create_dir_all(folder.join(".stfolder"))?;
    let homes: Vec<PathBuf> = scene.seats.iter().map(|seat| scene.directory.join(format!("{}-syncthing", seat.name))).collect();
    let ids = homes.iter().map(|home| identity(home)).collect::<Outcome<Vec<String>>>()?;
    for (index, seat) in scene.seats.iter().enumerate() {
        let (path, kind) = if index == 0 { (folder.clone(), "sendonly") } else { (scene.inbox(seat), "receiveonly") };
        fs::create_dir_all(path.join(".stfolder"))?;
        fs::write(homes[index].join("config.xml"), configuration(scene, &ids, seat, &path, kind))?;
        let mut program = seat.host.command("syncthing");
        program.arg("serve").arg("--home").arg(&homes[index]).args(["--no-browser", "--no-restart", "--no-default-folder"]);
        quiet(&mut program).spawn()?;
        answers(seat.host, (seat.address, API_PORT).into(), scene.deadline)?;
    }
    let others = scene.receivers().len();
    until(scene.deadline, "syncthing is not connected", || {
        let said = ask(scene.sender(), "GET", "/rest/system/connections")?;
        let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        let connections = said["connections"].as_object().into_iter().flat_map(|all| all.values());
        Ok(connections.filter(|one| one["connected"] == true).count() >= others)
    })?;
    // Folders are compared when they are first connected.
    until(scene.deadline, "syncthing is not idle", || {
        let said = ask(scene.sender(), "GET", "/rest/db/status?folder=payload")?;
        Ok(serde_json::from_str::<serde_json::Value>(&said).unwrap_or_default()["state"] == "idle")
    })?;
    Ok(Box::new(move || {
        let mut put = Command::new("cp");
        put.args(["--recursive", "--link", "--force"]).arg(scene.outbox().join(".")).arg(&folder);
        all_end_well(vec![quiet(&mut put).spawn()?], "cp", scene.deadline)?;
        ask(scene.sender(), "POST", "/rest/db/scan?folder=payload")?;
        for seat in scene.receivers() {
            for entry in fs::read_dir(scene.outbox())? {
                let entry = entry?;
                let received = scene.inbox(seat).join(entry.file_name());
                until(scene.deadline, "syncthing is not done", || Ok(arrived(&entry.path(), &received)))?;
            }
        }
        Ok(())
    }))
}

/// Makes a key, and tells its id.
fn identity(home: &Path) -> Outcome<String> {
    let mut generate = Command::new("syncthing");
    generate.arg("generate").arg("--home").arg(home).args(["--no-default-folder", "--skip-port-probing"]);
    all_end_well(vec![quiet(&mut generate).spawn()?], "syncthing generate", Duration::from_secs(120))?;
    let said = Command::new("syncthing").arg("--home").arg(home).arg("--device-id").output()?;
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

fn configuration(scene: &Scene<'_>, ids: &[String], seat: &Seat<'_>, path: &Path, kind: &str) -> String {
    let shared: String = ids.iter().map(|id| format!("<device id=\"{id}\"/>")).collect();
    let device = |(id, seat): (&String, &Seat<'_>)| {
        format!("<device id=\"{id}\" name=\"{}\"><address>tcp://{}:{PORT}</address></device>\n", seat.name, seat.address)
    };
    let devices: String = ids.iter().zip(scene.seats).map(device).collect();
    let off: String = ["globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled", "crashReportingEnabled"]
        .iter()
        .map(|name| format!("<{name}>false</{name}>"))
        .collect();
    format!(
        "<configuration version=\"36\">\n\
         <folder id=\"payload\" path=\"{}\" type=\"{kind}\" fsWatcherEnabled=\"false\">{shared}</folder>\n{devices}\
         <gui enabled=\"true\"><address>{1}:{API_PORT}</address><apikey>{API_KEY}</apikey></gui>\n\
         <options><listenAddress>tcp://{1}:{PORT}</listenAddress>{off}<urAccepted>-1</urAccepted>\
         <reconnectionIntervalS>1</reconnectionIntervalS></options>\n</configuration>\n",
        path.display(),
        seat.address,
    )
}

/// One request to its API, answered or not by the end of it.
fn ask(seat: &Seat<'_>, method: &str, path: &str) -> Outcome<String> {
    let mut stream = seat.host.enter(|| TcpStream::connect((seat.address, API_PORT)))??;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or_default();
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(format!("syncthing answers {method} {path} with {:?}", head.lines().next()).into()),
    }
}
