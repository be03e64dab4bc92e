//! Faults of an S3 service: refused, hanging, slow, busy, denying, with broken bodies or with stale reads.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri,
    body::{Frame, Incoming},
    header::{CONTENT_LENGTH, CONTENT_TYPE, LAST_MODIFIED},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::TcpStream;

use super::{Closes, Door, Switch};

/// Largest body that passes: what is slowed or broken is held in memory.
const LARGEST: usize = 64 << 20;

/// A slowed body comes in so many pieces a second.
const PIECES: u32 = 10;

/// What is wrong with the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketFault {
    /// Nothing.
    None,
    /// The port is closed and open connections are cut.
    Refused,
    /// Requests are taken and never answered.
    Hanging,
    /// Answers come late, and their bodies at this rate.
    Slow {
        /// Before every answer.
        delay: Duration,
        /// Of bodies, both ways.
        bytes_per_second: u32,
    },
    /// 503 SlowDown.
    Busy,
    /// 403 AccessDenied, as while keys are being changed.
    Denied,
    /// Bodies end after their first half, and what is written is stored without an answer.
    Truncated,
    /// One bit of every body that is read is wrong, another one each time.
    Corrupted,
    /// Reads show the bucket as it was at this moment.
    Stale(SystemTime),
}

impl Closes for BucketFault {
    fn closes(&self) -> bool {
        *self == BucketFault::Refused
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Upstream = Client<HttpConnector, Full<Bytes>>;

/// A proxy before an S3 service that speaks HTTP. It changes no header of a request, so signatures hold.
pub struct BucketProxy {
    door: Door<BucketFault>,
}

impl BucketProxy {
    /// Passes requests to `server`, an address such as `127.0.0.1:9000`.
    pub async fn to(server: SocketAddr) -> Self {
        let upstream: Upstream = Client::builder(TokioExecutor::new()).build_http();
        let door = Door::open(BucketFault::None, move |client, switch| serve(client, server, upstream.clone(), switch));
        Self { door: door.await }
    }

    /// What a node's settings name.
    pub fn url(&self) -> String {
        format!("http://{}", self.door.address)
    }

    /// From now on this is wrong, or nothing.
    pub fn set(&self, fault: BucketFault) {
        self.door.set(fault);
    }

    /// How often a fault was met.
    pub fn met(&self) -> u64 {
        self.door.met.load(Ordering::Relaxed)
    }
}

async fn serve(client: TcpStream, server: SocketAddr, upstream: Upstream, switch: Switch<BucketFault>) {
    let service = service_fn(|request| answer(request, server, &upstream, &switch));
    // Connections that break are what this is for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(client), service).await;
}

/// One request with the fault that holds when it comes. An error closes the connection without an answer.
async fn answer(
    request: Request<Incoming>,
    server: SocketAddr,
    upstream: &Upstream,
    switch: &Switch<BucketFault>,
) -> Result<Response<Body>, io::Error> {
    let fault = switch.now();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match fault {
        BucketFault::None | BucketFault::Stale(_) => {}
        _ => switch.count(),
    }
    match fault {
        BucketFault::Refused => Err(broken()),
        BucketFault::Hanging => {
            switch.until(|now| *now != fault).await;
            Err(broken())
        }
        BucketFault::Busy => Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
        BucketFault::Denied => Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied")),
        BucketFault::None => pass(request, server, upstream).await.map(whole),
        BucketFault::Slow { delay, bytes_per_second } => {
            let sent = request.headers().get(CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok()).unwrap_or(0);
            tokio::time::sleep(delay + Duration::from_secs_f64(f64::from(sent) / f64::from(bytes_per_second))).await;
            pass(request, server, upstream).await.map(|answer| trickle(answer, bytes_per_second))
        }
        BucketFault::Truncated => match pass(request, server, upstream).await? {
            answer if reads && !answer.body().is_empty() => Ok(half(answer)),
            answer if reads => Ok(whole(answer)),
            _ => Err(broken()),
        },
        BucketFault::Corrupted => pass(request, server, upstream)
            .await
            .map(|answer| whole(corrupted(answer, switch.met.load(Ordering::Relaxed)))),
        BucketFault::Stale(since) => match pass(request, server, upstream).await? {
            answer if reads && is_newer(answer.headers(), since) => {
                switch.count();
                Ok(refusal(StatusCode::NOT_FOUND, "NoSuchKey"))
            }
            answer => Ok(whole(answer)),
        },
    }
}

/// Sends the request on with all its headers, and takes the whole answer.
async fn pass(request: Request<Incoming>, server: SocketAddr, upstream: &Upstream) -> io::Result<Response<Bytes>> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = format!("http://{server}{path}").parse::<Uri>().map_err(io::Error::other)?;
    let body = http_body_util::Limited::new(body, LARGEST).collect().await.map_err(io::Error::other)?.to_bytes();
    let answer = upstream.request(Request::from_parts(head, Full::new(body))).await.map_err(io::Error::other)?;
    let (head, body) = answer.into_parts();
    Ok(Response::from_parts(head, body.collect().await.map_err(io::Error::other)?.to_bytes()))
}

fn broken() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

fn whole(answer: Response<Bytes>) -> Response<Body> {
    answer.map(|bytes| Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync())
}

/// An error in S3's own words.
fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>a fault of a test</Message></Error>"
    );
    let mut answer = Response::new(Bytes::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/xml"));
    whole(answer)
}

/// The length that was promised, half of the bytes, and a cut.
fn half(answer: Response<Bytes>) -> Response<Body> {
    pieces(answer, |bytes| {
        let first = bytes.slice(..bytes.len() / 2);
        stream::iter([Ok(first), Err(broken())]).boxed()
    })
}

fn trickle(answer: Response<Bytes>, bytes_per_second: u32) -> Response<Body> {
    let size = (bytes_per_second / PIECES).max(1) as usize;
    pieces(answer, move |bytes| {
        let starts = (0..bytes.len()).step_by(size);
        let parts: Vec<Bytes> = starts.map(|at| bytes.slice(at..bytes.len().min(at + size))).collect();
        let slowly = stream::iter(parts).then(|part| async {
            tokio::time::sleep(Duration::from_secs(1) / PIECES).await;
            Ok(part)
        });
        slowly.boxed()
    })
}

type Pieces = stream::BoxStream<'static, io::Result<Bytes>>;

/// The same answer with its body cut into pieces. An answer to HEAD has none, and keeps the length that it names.
fn pieces(answer: Response<Bytes>, cut: impl FnOnce(Bytes) -> Pieces) -> Response<Body> {
    let (mut head, bytes) = answer.into_parts();
    if bytes.is_empty() {
        return whole(Response::from_parts(head, bytes));
    }
    head.headers.insert(CONTENT_LENGTH, bytes.len().into());
    let frames = cut(bytes).map(|part| part.map(Frame::data));
    Response::from_parts(head, BodyExt::boxed_unsync(StreamBody::new(frames)))
}

fn corrupted(answer: Response<Bytes>, draw: u64) -> Response<Bytes> {
    if !answer.status().is_success() || answer.body().is_empty() {
        return answer;
    }
    answer.map(|bytes| {
        let mut bytes = bytes.to_vec();
        // Far apart for draws that follow each other, in objects of any size.
        let at = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize % bytes.len();
        bytes[at] ^= 1;
        bytes.into()
    })
}

/// Whether the object came after this moment; the bucket knows whole seconds.
fn is_newer(headers: &HeaderMap, since: SystemTime) -> bool {
    let modified = headers.get(LAST_MODIFIED).and_then(|value| value.to_str().ok());
    let modified = modified.and_then(|text| aws_smithy_types::DateTime::from_str(text, HTTP_DATE).ok());
    let since = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    modified.is_some_and(|modified| modified.secs() > since.cast_signed())
}

const HTTP_DATE: aws_smithy_types::date_time::Format = aws_smithy_types::date_time::Format::HttpDate;
