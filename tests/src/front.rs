//! Stands in front of an API server and does to requests what networks and loaded servers do.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Request, Response, StatusCode, body::Incoming, http::request::Parts, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::{Client, client::Body};
use tokio::net::TcpListener;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Pass,
    /// It is refused with this code, as an API server does.
    Refuse(u16),
    /// It never reaches the server, and nobody says so.
    Vanish,
    /// The server does it, and its answer is lost.
    LoseAnswer,
}

/// Decides what becomes of a request.
pub type Rule = dyn Fn(&Parts) -> Fate + Send + Sync;

/// The stand-in.
pub struct Front {
    folder: tempfile::TempDir,
    rule: Arc<Mutex<Arc<Rule>>>,
    served: tokio::task::JoinHandle<()>,
}

impl Front {
    /// In front of the server of this client; everything passes.
    pub async fn start(client: Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "front",
            "clusters": [{"name": "front", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "front", "user": {}}],
            "contexts": [{"name": "front", "context": {"cluster": "front", "user": "front"}}],
        });
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).expect("JSON is YAML");
        let pass: Arc<Rule> = Arc::new(|_: &Parts| Fate::Pass);
        let rule = Arc::new(Mutex::new(pass));
        let served = tokio::spawn(serve(listener, client, rule.clone()));
        Self { folder, rule, served }
    }

    /// For clients.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// From now on, this is what becomes of requests.
    pub fn rule(&self, rule: impl Fn(&Parts) -> Fate + Send + Sync + 'static) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// From now on, all requests pass.
    pub fn heal(&self) {
        self.rule(|_| Fate::Pass);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// A request that changes something other than the lease.
pub fn is_write(request: &Parts) -> bool {
    request.method != hyper::Method::GET && !request.uri.path().contains("/leases")
}

async fn serve(listener: TcpListener, client: Client, rule: Arc<Mutex<Arc<Rule>>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (client, rule) = (client.clone(), rule.clone());
        connections.spawn(async move {
            let answer = service_fn(move |request| answer(client.clone(), rule.clone(), request));
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A client that goes away is no fault of the front's.
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(
    client: Client,
    rule: Arc<Mutex<Arc<Rule>>>,
    request: Request<Incoming>,
) -> Result<Response<AnyBody>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let rule = rule.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let fate = rule(&parts);
    if let Fate::Refuse(code) = fate {
        return Ok(refusal(code));
    }
    if fate == Fate::Vanish {
        return std::future::pending().await;
    }
    let Ok(body) = body.collect().await else { return Ok(refusal(400)) };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    parts.uri = path.parse().expect("a path is a URI");
    parts.headers.remove("host");
    parts.headers.remove("accept-encoding");
    let answered = client.send(Request::from_parts(parts, Body::from(body.to_bytes().to_vec()))).await;
    if fate == Fate::LoseAnswer {
        return std::future::pending().await;
    }
    let Ok(answer) = answered else { return Ok(refusal(503)) };
    Ok(answer.map(|body| body.map_err(BoxError::from).boxed_unsync()))
}

fn refusal(code: u16) -> Response<AnyBody> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "test",
    });
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}
