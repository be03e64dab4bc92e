//! The watches: one stream per kind of object and namespace, each with its own pauses after errors.
//!
//! kube's controller merges all streams under one pause, so that one that fails holds up all others; and a stream that
//! can never start again would go unnoticed. Here each has its own loop, tells the metrics of each error, and the
//! client notes when its requests succeed, which `/healthz` looks at.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::StreamExt;
use kube::{
    Client,
    api::{Api, ApiResource},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use tokio::sync::Notify;

use super::{metrics::Metrics, seen::Object};

/// Seconds after which a watch is asked for anew: less than the four minutes after which some load balancers drop
/// an idle connection without telling anybody.
const WATCH_SECONDS: u32 = 120;
/// Objects per page of a list; bounds what is in memory at a time.
const PAGE: u32 = 200;

/// What to watch.
#[derive(Clone, Debug)]
pub struct Target {
    /// The kind.
    pub resource: ApiResource,
    /// Label selector.
    pub labels: Option<&'static str>,
    /// Field selector.
    pub fields: Option<&'static str>,
    /// Namespaces; empty: all.
    pub namespaces: Vec<String>,
}

/// What a watch found.
#[derive(Debug)]
pub enum Change {
    /// The object is there like this.
    Applied(Box<Object>),
    /// The object is gone.
    Deleted(Box<Object>),
    /// A new list is complete: whatever of this namespace (or of all) is not among these is gone. Namespace and name.
    Listed(Option<String>, Vec<(String, String)>),
}

/// What is done with each change.
pub type Handle = Arc<dyn Fn(Change) + Send + Sync>;

/// Counts the watches that have not seen their first list yet.
#[derive(Debug, Default)]
pub struct Synced {
    missing: AtomicUsize,
    changed: Notify,
}

impl Synced {
    /// Waits until every watch has seen a list.
    pub async fn wait(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is() {
                return;
            }
            changed.await;
        }
    }

    /// Every watch has seen a list.
    pub fn is(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }

    fn expect_one(&self) {
        self.missing.fetch_add(1, Ordering::AcqRel);
    }

    fn one_came(&self) {
        self.missing.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}

/// Starts the watches of a target; each calls `handle` for each change, in order, for ever.
pub fn start(
    client: &Client,
    target: &Target,
    synced: &Arc<Synced>,
    metrics: &Metrics,
    handle: &Handle,
) -> Vec<tokio::task::JoinHandle<()>> {
    let all = vec![None];
    let namespaces = match target.namespaces.is_empty() {
        true => all,
        false => target.namespaces.iter().cloned().map(Some).collect(),
    };
    let one = |namespace: Option<String>| {
        let api: Api<Object> = match &namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &target.resource),
            None => Api::all_with(client.clone(), &target.resource),
        };
        synced.expect_one();
        let config = watcher::Config {
            label_selector: target.labels.map(str::to_owned),
            field_selector: target.fields.map(str::to_owned),
            timeout: Some(WATCH_SECONDS),
            page_size: Some(PAGE),
            ..watcher::Config::default()
        };
        let errors = metrics.watch_errors(&target.resource.kind);
        tokio::spawn(follow(api, config, namespace, synced.clone(), errors, handle.clone()))
    };
    namespaces.into_iter().map(one).collect()
}

async fn follow(
    api: Api<Object>,
    config: watcher::Config,
    namespace: Option<String>,
    synced: Arc<Synced>,
    errors: prometheus::IntCounter,
    handle: Handle,
) {
    let kind = api.resource_url().to_owned();
    let mut stream = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    let mut listed = Vec::new();
    let mut first = true;
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.push(name_of(&object));
                handle(Change::Applied(Box::new(object)));
            }
            Ok(Event::InitDone) => {
                handle(Change::Listed(namespace.clone(), std::mem::take(&mut listed)));
                if std::mem::take(&mut first) {
                    synced.one_came();
                }
            }
            Ok(Event::Apply(object)) => handle(Change::Applied(Box::new(object))),
            Ok(Event::Delete(object)) => handle(Change::Deleted(Box::new(object))),
            Err(error) => {
                errors.inc();
                tracing::warn!(kind, error = crate::cli::one_line(&error), "watch failed; trying again");
            }
        }
    }
}

/// Namespace and name.
pub fn name_of(object: &Object) -> (String, String) {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
