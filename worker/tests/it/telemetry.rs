//! What a node shows, over HTTP.

use bistro_api::{
    NodeStatus, Role,
    status::{Phase, Scored},
};
use bistro_worker::telemetry::{Telemetry, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::support::soon;

/// Status code and body of a GET.
async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
    (code, body.to_owned())
}

#[tokio::test]
async fn a_node_shows_itself_over_http_until_it_is_stopped() {
    let telemetry = Telemetry::new(Role::Validator);
    let stop = CancellationToken::new();
    let server = serve("127.0.0.1:0", telemetry.clone(), stop.clone()).await.expect("a free port");
    let address = server.address;

    let (code, why) = get(address, "/readyz").await;
    assert_eq!(code, 503);
    assert!(why.contains("chain") && why.contains("bucket") && why.contains("settings"), "{why}");
    telemetry.loaded();
    telemetry.chain(Ok(()));
    telemetry.bucket(Ok(()));
    telemetry.chain(Err("down".into()));
    assert_eq!(get(address, "/readyz").await.0, 200, "an outage never unreadies a node that was ready");

    let heart = telemetry.health.watch("trainer", std::time::Duration::ZERO);
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let (code, why) = get(address, "/healthz").await;
    assert_eq!(code, 503);
    assert!(why.contains("trainer"), "{why}");
    drop(heart);
    assert_eq!(get(address, "/healthz").await.0, 200);

    telemetry.phase(Phase::Scoring);
    telemetry.status.update(|s| (s.block, s.window, s.base_window) = (Some(481), Some(12), Some(11)));
    telemetry.metrics.upload_bytes.inc_by(1500);
    telemetry.metrics.download_bytes.inc_by(7);
    let (code, body) = get(address, "/status").await;
    assert_eq!(code, 200);
    let status: NodeStatus = serde_json::from_str(&body).expect("a node status");
    assert_eq!((status.phase, status.block), (Phase::Scoring, Some(481)));
    assert_eq!((status.uploaded_bytes, status.downloaded_bytes), (1500, 7));
    assert!(!status.chain.reachable && status.chain.error.as_deref() == Some("down"));

    assert_eq!(get(address, "/nothing").await.0, 404);
    stop.cancel();
    soon(server.finished()).await;
    assert!(TcpStream::connect(address).await.is_err(), "it no longer listens");
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_use() {
    let telemetry = Telemetry::new(Role::Validator);
    let server = serve("127.0.0.1:0", telemetry.clone(), CancellationToken::new()).await.expect("a free port");
    let scored = |uid, hotkey: &str| Scored {
        uid,
        hotkey: hotkey.into(),
        raw: Some(0.5),
        average: 0.9,
        weight: 0.25,
        verdict: "accepted".into(),
        behind: None,
    };
    telemetry.metrics.scored(&[scored(3, "5Old")]);
    telemetry.metrics.scored(&[scored(3, "5New")]);
    telemetry.metrics.artifacts.with_label_values(&["accepted"]).inc();
    telemetry.metrics.chain_requests.with_label_values(&["state_call", "ok"]).inc();
    telemetry.metrics.bucket_requests.with_label_values(&["get", "absent"]).inc();
    telemetry.phase(Phase::Scoring);
    telemetry.phase(Phase::Waiting);
    telemetry.metrics.weights_set_in(9);
    telemetry.chain(Err("down".into()));
    telemetry.status.update(|s| (s.block, s.window, s.base_window) = (Some(481), Some(12), Some(10)));
    telemetry.status.update(|s| (s.uid, s.hotkey) = (Some(4), Some("5Self".into())));
    let (code, text) = get(server.address, "/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "bistro_block 481",
        "bistro_window 12",
        "bistro_windows_behind 2",
        "bistro_phase_seconds{phase=\"scoring\"}",
        "bistro_loss 0",
        "bistro_tokens_total 0",
        "bistro_steps_total 0",
        "bistro_upload_bytes_total 0",
        "bistro_download_bytes_total 0",
        "bistro_artifacts_total{verdict=\"accepted\"} 1",
        "bistro_score{hotkey=\"5New\",uid=\"3\"} 0.5",
        "bistro_score_average{hotkey=\"5New\",uid=\"3\"} 0.9",
        "bistro_weight{hotkey=\"5New\",uid=\"3\"} 0.25",
        "bistro_weights_window 9",
        "bistro_reachable{service=\"chain\"} 0",
        "bistro_node_info{hotkey=\"5Self\",uid=\"4\"} 1",
        "bistro_incentive 0",
        "bistro_bucket_requests_total{op=\"get\",outcome=\"absent\"} 1",
        "bistro_chain_requests_total{method=\"state_call\",outcome=\"ok\"} 1",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("5Old"), "a miner that is gone is not shown");
    assert!(!text.contains("service=\"bucket\""), "nothing is said of a service that was not asked yet");
}
