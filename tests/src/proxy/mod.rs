//! Faults between a node and the services that it needs: one proxy per node and service, each with a fault that a test
//! switches at run time. The product has no switches for this.

mod bucket;
mod chain;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use bucket::{BucketFault, BucketProxy};
pub use chain::{ChainFault, ChainProxy};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A loopback address that nobody else binds ports of: a closed port stays closed until it is opened again here.
const PROXIES: [u8; 4] = [127, 77, 0, 1];

/// How often a listener is tried again whose port is not free yet.
const AGAIN: Duration = Duration::from_millis(20);

/// A fault that can close the port.
trait Closes: Clone + Send + Sync + 'static {
    /// Nobody listens.
    fn closes(&self) -> bool;
}

/// The switch of one proxy, as its connections see it.
#[derive(Clone)]
struct Switch<F> {
    fault: watch::Receiver<F>,
    met: Arc<AtomicU64>,
}

impl<F: Closes> Switch<F> {
    fn now(&self) -> F {
        self.fault.borrow().clone()
    }

    /// Something was disturbed.
    fn count(&self) {
        self.met.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the fault is as asked; for ever if the proxy is gone, because then its connections are too.
    async fn until(&self, mut asked: impl FnMut(&F) -> bool) {
        let mut fault = self.fault.clone();
        if fault.wait_for(|fault| asked(fault)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What both proxies are: a port, a switch, and a task that accepts connections while the port is open.
struct Door<F> {
    address: SocketAddr,
    fault: watch::Sender<F>,
    met: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl<F: Closes> Door<F> {
    /// Every connection is handed to `serve`, in a task of its own, and ends when the port closes.
    async fn open<S>(fault: F, serve: impl Fn(TcpStream, Switch<F>) -> S + Send + 'static) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(SocketAddr::from((PROXIES, 0))).await.expect("a free port of loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let fault = watch::Sender::new(fault);
        let met = Arc::new(AtomicU64::new(0));
        let switch = Switch { fault: fault.subscribe(), met: met.clone() };
        let task = tokio::spawn(accept(listener, address, switch, serve));
        Self { address, fault, met, task }
    }

    fn set(&self, fault: F) {
        self.fault.send_replace(fault);
    }
}

impl<F> Drop for Door<F> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept<F: Closes, S>(
    listener: TcpListener,
    address: SocketAddr,
    switch: Switch<F>,
    serve: impl Fn(TcpStream, Switch<F>) -> S,
) where
    S: Future<Output = ()> + Send + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let Some(open) = &listener else {
            switch.until(|fault| !fault.closes()).await;
            match TcpListener::bind(address).await {
                Ok(opened) => listener = Some(opened),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
            continue;
        };
        tokio::select! {
            () = switch.until(F::closes) => {
                switch.count();
                listener = None;
                connections.abort_all();
            }
            accepted = open.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                // Small answers must not wait for the next packet.
                let _ = socket.set_nodelay(true);
                connections.spawn(serve(socket, switch.clone()));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}
