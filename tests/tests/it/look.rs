//! The tools for people, as people run them, over a running subnet.

use std::{path::Path, process::Stdio};

use bistro_api::Role;
use bistro_protocol::{object::Kind, record::Scores, tensor_file};
use bistro_tests::process::program;
use serde_json::Value;

use crate::support::Subnet;

/// Runs `bistro-worker` beside the nodes; gives exit code, output and errors.
async fn run(subnet: &Subnet, arguments: &[&str]) -> (i32, String, String) {
    let environment = subnet.environment("onlooker");
    let mut command = tokio::process::Command::new(program("bistro-worker"));
    command.args(arguments).env("BISTRO_LOG", "warn").stdin(Stdio::null());
    command.env("BISTRO_SETTINGS", &environment.settings).env("BISTRO_STATE", &environment.state);
    command.env("BISTRO_SECRETS", &environment.secrets).env("BISTRO_THREADS", "1");
    let ran = command.output().await.expect("cargo test --workspace builds it");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let left = std::fs::read_dir(&environment.state).expect("its folder").count();
    assert_eq!(left, 0, "it leaves nothing behind");
    (ran.status.code().expect("it was not killed"), text(&ran.stdout), text(&ran.stderr))
}

async fn rows(subnet: &Subnet, arguments: &[&str]) -> Vec<Value> {
    let (code, out, errors) = run(subnet, &[arguments, &["--format", "json"]].concat()).await;
    assert_eq!(code, 0, "{errors}");
    serde_json::from_str(&out).expect("an array")
}

fn is_in(rows: &[Value], hotkey: &str) -> Value {
    rows.iter().find(|row| row["hotkey"] == hotkey).unwrap_or_else(|| panic!("{hotkey} is not in {rows:?}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_can_be_listed_fetched_and_explained() {
    let subnet = Subnet::start().await;
    let nodes = [(Role::Averager, "averager"), (Role::Validator, "validator"), (Role::Miner, "a"), (Role::Miner, "b")];
    let nodes = nodes.map(|(role, name)| subnet.node(role, name));
    let idle = subnet.register(Role::Miner, "idle").await;
    let [validator, a] = [(Role::Validator, "validator"), (Role::Miner, "a")].map(|(r, name)| subnet.wallet(r, name));
    let (validator_key, hotkey) = (validator.hotkey.ss58(), a.hotkey.ss58());
    nodes[1].until(|s| s.first_weights_block.is_some() && s.windows >= 3).await;
    // Records come once their weights are on the chain: the last one of these is two windows old then.
    let window = nodes[1].status().await.expect("it answers").base_window.expect("it follows") - 2;
    let scores: Scores = subnet.object(&validator, window, Kind::Scores).await;

    let miner = is_in(&rows(&subnet, &["runs", "miners"]).await, &hotkey);
    assert_eq!((&miner["verdict"], miner["loss"].as_f64().map(|l| l > 1.0)), (&Value::from("accepted"), Some(true)));
    assert!(
        miner["bytes"].as_u64() > Some(1000) && miner["time"].as_str().is_some_and(|t| t.ends_with('Z')),
        "{miner}"
    );
    let seen = is_in(&rows(&subnet, &["runs", "validators"]).await, &validator_key);
    assert!(seen["window"].as_u64() >= Some(window) && seen["drawn"].as_u64() >= Some(1), "{seen}");
    let (code, table, _) = run(&subnet, &["runs", "miners"]).await;
    assert!(code == 0 && table.starts_with("UID  HOTKEY") && table.lines().count() == 3, "{table}");
    let (_, csv, _) = run(&subnet, &["runs", "miners", "--format", "csv"]).await;
    assert!(csv.starts_with("uid,hotkey,incentive,window,verdict,bytes,loss,score,time\r\n"), "{csv}");
    let measured = rows(&subnet, &["runs", "scores", "--window", &window.to_string()]).await;
    let drawn: Vec<String> = scores.miners.iter().filter(|m| m.drawn.is_some()).map(|m| m.hotkey.ss58()).collect();
    assert_eq!(measured.iter().filter_map(|row| row["hotkey"].as_str()).collect::<Vec<_>>(), drawn);

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("work.safetensors");
    let to = file.to_str().expect("a plain name");
    let (code, line, errors) = run(&subnet, &["fetch", "--hotkey", &hotkey, "--to", to]).await;
    assert!(code == 0 && line.contains("signed and as committed"), "{line}{errors}");
    let (_, work) = tensor_file::read(&std::fs::read(&file).expect("written")).expect("a sound file");
    assert!(!work.is_empty() && work.all_finite());

    let recompute = window.to_string();
    let (code, text, errors) = run(&subnet, &["explain", "--hotkey", &hotkey, "--recompute", &recompute]).await;
    assert_eq!(code, 0, "{errors}");
    for part in
        ["of the incentive", "of its weights", "accepted: its work counts", "drawn: score", "the difference is 0.0e0"]
    {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let (_, text, _) = run(&subnet, &["explain", "--hotkey", &idle.hotkey.ss58()]).await;
    assert!(text.contains("no-commit: it published nothing"), "{text}");

    nobody_and_nonsense(&subnet, &idle.hotkey.ss58(), to).await;
    for node in nodes {
        node.stop().await;
    }
    subnet.devnet.shutdown().await;
}

/// One line that says what is wrong, exit code 2, and no file.
async fn nobody_and_nonsense(subnet: &Subnet, idle: &str, to: &str) {
    std::fs::remove_file(to).expect("it was there");
    let stranger = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    let (_, text, _) = run(subnet, &["explain", "--hotkey", stranger]).await;
    assert!(text.contains("is not registered on subnet 1"), "{text}");
    for (arguments, says) in [
        (vec!["fetch", "--hotkey", idle, "--to", to], "explain --hotkey"),
        (vec!["fetch", "--hotkey", "5nonsense", "--to", to], "--hotkey 5nonsense"),
        (vec!["explain", "--hotkey", stranger, "--recompute", "100000"], "no window 100000"),
    ] {
        let (code, _, errors) = run(subnet, &arguments).await;
        assert!(code == 2 && errors.trim_end().lines().count() == 1 && errors.contains(says), "{code}: {errors}");
    }
    assert!(!Path::new(to).exists());
}
