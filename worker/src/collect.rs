//! Collecting a window's work: commits, then artifacts, each checked in the order of the protocol.
//!
//! Averager and validator do this alone and on their own; what they find is the same unless the bucket shows
//! them different things.

use bistro_protocol::{
    artifact,
    base::Base,
    check::{Commit, MAX_COMMIT, Rules, Stored, Verdict, lower_median, norm_is_excessive},
    hotkey::Hotkey,
    object::{Hex32, Kind},
    slice::Slice,
    tensors::Tensors,
};
use futures::{StreamExt, stream};

use crate::{
    bucket::{self, Object},
    facts::{Facts, Models},
    failure::Failure,
    node::Node,
};

/// Requests in flight.
const CONCURRENCY: usize = 16;

/// What one registered hotkey did in a window.
pub struct Work {
    /// Its number.
    pub uid: u16,
    /// The hotkey.
    pub hotkey: Hotkey,
    /// What its work would change, or why it does not count.
    pub outcome: Result<Tensors, Verdict>,
    /// What it committed to, if that commit was valid.
    pub commit: Option<Commit>,
    /// Of a whole model: the block since which its hotkey has been committed to it.
    pub since: Option<u64>,
    /// Of work that started from another base: which one, if it says so under its hotkey's signature.
    pub started_from: Option<[u8; 32]>,
}

impl Work {
    /// The one word.
    pub fn verdict(&self) -> Verdict {
        self.outcome.as_ref().err().copied().unwrap_or(Verdict::Accepted)
    }

    /// Windows between the base that rejected work started from and that of `window`; `None` also where this node does not
    /// remember such a base.
    pub fn behind(&self, node: &Node, window: u64) -> Option<u64> {
        let digest = hex::encode(self.started_from?);
        let history = node.telemetry.status.read().history;
        let found = history.iter().rfind(|r| r.window < window && r.base_digest == digest)?;
        Some(window - found.window)
    }

    /// Digest of the committed artifact.
    pub fn artifact(&self) -> Option<Hex32> {
        self.commit.as_ref().map(|c| c.digest)
    }
}

/// All of it, by uid.
pub struct Collected {
    /// One entry for every registered hotkey.
    pub works: Vec<Work>,
    /// Lower median of the norms of what passed all other checks.
    pub median_norm: Option<f64>,
    /// The entries that were published.
    pub slice: Slice,
}

/// Collects the work of `facts.window`, whose uploads are closed. `base` is the base before it. `None`: the chain forgot
/// when the window's deadlines were.
pub async fn collect(
    node: &Node,
    facts: &Facts,
    base: &Base,
    base_digest: [u8; 32],
) -> Result<Option<Collected>, Failure> {
    let window = facts.window;
    let shape = node.work_shape(&base.parameters);
    let slice = node.slice(window, &base.parameters).await?;
    let Some(models) = models(node, window).await? else { return Ok(None) };
    let Some(rules) = rules(node, window, base_digest, &shape, models.as_ref()).await? else { return Ok(None) };
    // An upload of the last tolerated second must be visible before anybody looks.
    node.bucket_shows_ms(node.clock.upload_opens_ms(rules.uploads_close_ms)).await?;
    let works = stream::iter(facts.neurons.iter().copied())
        .map(|(uid, hotkey)| work_of(node, &rules, (&slice, base), uid, hotkey));
    let works: Vec<Result<Work, Failure>> = works.buffered(CONCURRENCY).collect().await;
    let mut works = works.into_iter().collect::<Result<Vec<_>, _>>()?;
    if !node.mechanism().has_common_base() {
        node.state.keep_cached(&works.iter().filter_map(Work::artifact).collect::<Vec<_>>())?;
    }
    // Nothing is gained by the size of a whole model.
    let median_norm = if node.mechanism().has_common_base() { judge_norms(&mut works) } else { None };
    for work in &works {
        if work.verdict() != Verdict::NoCommit {
            tracing::info!(window, uid = work.uid, verdict = %work.verdict(), "checked");
        }
    }
    Ok(Some(Collected { works, median_norm, slice }))
}

/// Who is committed to which model in `window`, for mechanisms where miners publish models. `None`: the chain forgot it.
pub async fn models(node: &Node, window: u64) -> Result<Option<Option<Models>>, Failure> {
    if node.mechanism().has_common_base() {
        return Ok(Some(None));
    }
    Ok(node.models(window).await?.map(Some))
}

/// The facts that the work of `window` is checked against, once its uploads are closed; `shape` is that of the work and
/// `models` what [`models`] gave. `None`: the chain forgot when its deadlines were.
pub async fn rules<'a>(
    node: &'a Node,
    window: u64,
    base: [u8; 32],
    shape: &'a [(String, Vec<usize>)],
    models: Option<&'a Models>,
) -> Result<Option<Rules<'a>>, Failure> {
    let Some(deadlines) = node.deadlines(window).await? else { return Ok(None) };
    Ok(Some(Rules {
        agreement: &node.agreement,
        clock: &node.clock,
        window,
        kind: node.mechanism().kind(),
        base,
        shape,
        form: node.mechanism().form(),
        commits_close_ms: deadlines.commits_close_ms,
        uploads_close_ms: deadlines.uploads_close_ms,
        models,
    }))
}

/// One hotkey's work, published at these entries of this base. An error of the bucket is an error of ours, never a verdict
/// on the miner.
pub async fn work_of(
    node: &Node,
    rules: &Rules<'_>,
    (slice, base): (&Slice, &Base),
    uid: u16,
    hotkey: Hotkey,
) -> Result<Work, Failure> {
    let reject =
        |verdict, commit| Ok(Work { uid, hotkey, outcome: Err(verdict), commit, since: None, started_from: None });
    let key = node.key(&hotkey, rules.window, Kind::Commit);
    let check = |found: Option<(&[u8], i64)>| rules.commit(&hotkey, true, found);
    // Larger than any commit: whatever it is, it is late or unreadable, in this order.
    let too_large = |stored: Stored| check(Some((&[0; MAX_COMMIT as usize + 1], stored.last_modified)));
    let commit = bounded(node, &key, MAX_COMMIT, |found| check(Some((&found.bytes, found.last_modified))), too_large);
    let commit = match commit.await?.unwrap_or_else(|| check(None)) {
        Ok(commit) => commit,
        Err(verdict) => return reject(verdict, None),
    };
    let (rules, since) = match rules.of_model(&hotkey, &commit) {
        Ok(found) => found,
        Err(verdict) => return reject(verdict, Some(commit)),
    };
    let key = node.key(&hotkey, rules.window, rules.kind);
    let stored = node.bucket.head(&key).await?.map(|h| Stored { size: h.size, last_modified: h.last_modified });
    if let Err(verdict) = rules.stored(&commit, stored) {
        return reject(verdict, Some(commit));
    }
    let check = |bytes: &[u8]| {
        rules.artifact(&hotkey, &commit, bytes).map_err(|verdict| {
            let file = artifact::decode(bytes).ok().filter(|_| verdict == Verdict::StaleBase);
            (verdict, file.map(|file| file.base))
        })
    };
    // A model is judged in many windows, and downloaded once.
    let cached = match since {
        Some(_) => node.state.cached(&commit.digest)?.and_then(|bytes| check(&bytes).ok()),
        None => None,
    };
    let outcome = match cached {
        Some(model) => Some(Ok(model)),
        None => {
            let check = |found: &Object| check(&found.bytes).map(|work| (work, found.bytes.clone()));
            // Larger than it was a moment ago: not what was committed.
            let found = bounded(node, &key, commit.size, check, |_| Err((Verdict::NotCommitted, None))).await?;
            if let (Some(_), Some(Ok((_, bytes)))) = (since, &found) {
                // A full disk costs a download in every window, and nothing else.
                if let Err(failure) = node.state.cache(&commit.digest, bytes) {
                    tracing::warn!(?failure, "a model is not kept on disk");
                }
            }
            found.map(|found| found.map(|(work, _)| work))
        }
    };
    let effect = |work| match node.mechanism().effect(work, slice, base) {
        effect if effect.all_finite() => Ok(effect),
        _ => Err(Verdict::NotFinite),
    };
    let outcome = outcome.unwrap_or(Err((Verdict::NoArtifact, None)));
    let started_from = outcome.as_ref().err().and_then(|(_, base)| *base);
    let outcome = outcome.map_err(|(verdict, _)| verdict).and_then(effect);
    Ok(Work { uid, hotkey, outcome, commit: Some(commit), since, started_from })
}

/// Reads and checks an object of at most `most` bytes; `None` where there is none.
async fn bounded<T, E>(
    node: &Node,
    key: &str,
    most: u64,
    check: impl Fn(&Object) -> Result<T, E>,
    too_large: impl Fn(Stored) -> Result<T, E>,
) -> Result<Option<Result<T, E>>, Failure> {
    match node.read(key, most, check).await {
        Err(bucket::Error::TooLarge { .. }) => {
            let head = node.bucket.head(key).await?;
            Ok(head.map(|h| too_large(Stored { size: h.size, last_modified: h.last_modified })))
        }
        other => Ok(other?),
    }
}

/// After all other checks on all work: rejects norms far above the median, and gives that median.
fn judge_norms(works: &mut [Work]) -> Option<f64> {
    let norms: Vec<f64> = works.iter().filter_map(|w| w.outcome.as_ref().ok()).map(Tensors::norm).collect();
    let median = lower_median(&norms)?;
    for work in works {
        if work.outcome.as_ref().is_ok_and(|t| norm_is_excessive(t.norm(), norms.len(), median)) {
            work.outcome = Err(Verdict::Norm);
        }
    }
    Some(median)
}
