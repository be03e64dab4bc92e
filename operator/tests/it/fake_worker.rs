//! Workers that do as a test says. `up` starts a script named `bistro-worker`, which runs this test binary
//! again with [`SCRIPT`] set; then the one test here is a node (or a Job) and no test at all.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Variable with the folder of the scenario.
const SCRIPT: &str = "FAKE_WORKER";
/// One window of a fake node.
const WINDOW: Duration = Duration::from_millis(1500);

/// How the nodes of a scenario behave, by the name of the pod.
pub fn install(folder: &Path, scenario: &Value) {
    fs::write(folder.join("scenario.json"), scenario.to_string()).expect("written");
    let this = std::env::current_exe().expect("this binary");
    for name in ["bistro-worker", "bistro-devnet"] {
        let script = format!(
            "#!/bin/sh\n{SCRIPT}='{}' FAKE_NAME={name} FAKE_ARGS=\"$*\" exec '{}' --exact fake_worker::plays_its_part --nocapture --quiet\n",
            folder.display(),
            this.display()
        );
        let path = folder.join(name);
        fs::write(&path, script).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
}

#[test]
fn plays_its_part() {
    let Ok(folder) = std::env::var(SCRIPT) else { return };
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let pod = std::env::current_dir().expect("a folder").file_name().expect("a pod").to_string_lossy().into_owned();
    let scenario: Value =
        serde_json::from_str(&fs::read_to_string(Path::new(&folder).join("scenario.json")).expect("a scenario"))
            .expect("JSON");
    let mut note =
        fs::OpenOptions::new().create(true).append(true).open(Path::new(&folder).join("notes")).expect("notes");
    // In one write: other processes append lines too, and writeln! writes piece by piece.
    note.write_all(format!("{pod} {} {}\n", process::id(), variable("FAKE_ARGS")).as_bytes()).expect("noted");
    let part = &scenario[&pod];
    if let Some(code) = part["exits"].as_i64() {
        println!("some output\n{}", part["says"].as_str().unwrap_or_default());
        process::exit(i32::try_from(code).expect("a code"));
    }
    if variable("FAKE_NAME") == "bistro-devnet" {
        println!("bistro-devnet ready rpc=ws://127.0.0.1:19944 s3=http://127.0.0.1:19000 genesis=0x00");
        std::thread::sleep(Duration::from_secs(60));
        process::exit(0);
    }
    serve(&variable("BISTRO_HTTP"), part, &Path::new(&folder).join("asked"));
}

/// Answers `/status`: the windows go by with the time, or as the scenario says.
fn serve(address: &str, part: &Value, asked: &Path) {
    let listener = TcpListener::bind(address).expect("the address that up chose");
    let started = Instant::now();
    for connection in listener.incoming() {
        let mut connection = connection.expect("a connection");
        let mut lines = BufReader::new(connection.try_clone().expect("cloned")).lines();
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        if part.get("role").is_none() && !part.is_null() {
            let mut asked = fs::OpenOptions::new().create(true).append(true).open(asked).expect("a file");
            asked.write_all(b".").expect("noted");
            misbehave(part, connection);
            continue;
        }
        let body = status(part, started).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        // Whoever asked may be gone.
        let _ = connection.write_all((head + &body).as_bytes());
    }
}

/// Answers nothing for a while, something else, or far too much.
fn misbehave(part: &Value, mut connection: TcpStream) {
    if part["mute"] == true {
        // Whoever asks waits for it, and others do not.
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(60));
            drop(connection);
        });
        return;
    }
    let body = vec![b'{'; if part["floods"] == true { 100 << 20 } else { 100 }];
    // Whoever asked has heard enough.
    let _ = write!(connection, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = connection.write_all(&body);
}

fn status(part: &Value, started: Instant) -> Value {
    let block = 400 + u64::try_from(40 * started.elapsed().as_millis() / WINDOW.as_millis()).expect("small");
    let reached = block / 40;
    let reached = reached.min(part["stopsAt"].as_u64().unwrap_or(u64::MAX));
    let history: Vec<Value> = (10..=reached)
        .map(|window| {
            let digest =
                if part["differsAt"].as_u64() == Some(window) { "ff".to_owned() } else { format!("d{window}") };
            json!({"window": window, "baseDigest": digest, "heldOutLoss": 4.0 - 0.1 * (window - 10) as f64,
                   "admitted": u32::from(window < reached)})
        })
        .collect();
    let role = part["role"].as_str().unwrap_or("miner");
    let reachable = json!({"reachable": true});
    let mut status = json!({"role": role, "phase": "waiting", "windows": reached - 10, "history": history,
        "block": block, "uploadedBytes": 1500,
        "chain": reachable, "bucket": reachable, "hotkey": format!("5{role}"), "uid": 3, "weight": 0.5, "incentive": 1.0,
        "verdicts": {"accepted": reached - 10}, "message": part["message"].as_str().unwrap_or_default()});
    if role == "validator" {
        status["firstWeightsBlock"] = json!(if reached > 10 { json!(440) } else { Value::Null });
        status["scores"] =
            json!([{"uid": 3, "hotkey": "5miner", "average": 0.75, "weight": 1.0, "verdict": "accepted"}]);
    }
    status
}
