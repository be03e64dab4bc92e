//! How fast the quickstart learns, in process: the protocol's functions without bucket and chain.
//!
//! `make bench-convergence` prints a line per run. Losses of two runs compare only on the same text.

use bistro_api::Run;
use bistro_protocol::{
    mechanism::cosine::outer_step,
    merge::merge,
    page::Pages,
    seed,
    slice::{Slice, SliceOf},
    tensors::Tensors,
};
use bistro_worker::{
    data::{self, Dataset, Folder, FolderDocuments},
    engine::{Engine, Optimizer, Work},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Stand-ins for block hashes: one per window and purpose.
fn hash(purpose: &str, window: u64) -> [u8; 32] {
    seed::seed(purpose, &window)
}

/// The quickstart's run at another ratio and gain.
fn quickstart(digest: &str, ratio: u32, gain: Option<&str>) -> Run {
    let mut cosine = json!({ "sliceRatio": ratio });
    if let Some(gain) = gain {
        cosine["gain"] = json!(gain);
    }
    let run = json!({
        "id": 1, "from": { "seed": 42 },
        "schedule": { "windowBlocks": 40, "commitBlocks": 8, "uploadBlocks": 8, "mergeBlocks": 8 },
        "dataset": { "prefix": "d", "digest": digest, "sequenceLength": 128, "pageSequences": 16, "pagesPerWindow": 4 },
        "model": { "preset": "tiny" },
        "training": { "learningRate": "3e-3", "batchSequences": 8, "innerSteps": 8 },
        "mechanism": { "cosine": cosine }
    });
    serde_json::from_value(run).expect("a sound run")
}

/// Held-out loss of the base after so many windows of so many miners.
async fn learn(dataset: &Dataset<Folder>, run: &Run, miners: u16, windows: u64) -> f64 {
    let pages = Pages::new(&run.dataset, dataset.tokens()).expect("large enough");
    let mut engine = Engine::new(&run.model, 256, run.dataset.sequence_length, 2).expect("a preset");
    let cosine = run.mechanism.cosine.as_ref().expect("cosine");
    let mut base = engine.initial(42).expect("drawn");
    let mut optimizers = vec![Optimizer::fresh(); miners.into()];
    for window in 0..windows {
        let reveal = hash("reveal", window);
        let of = SliceOf { netuid: 1, run: 1, window, reveal: &reveal, ratio: cosine.slice_ratio };
        let slice = Slice::derive(of, &base);
        let order = seed::pages(1, 1, window, &hash("start", window));
        let mut works: Vec<Tensors> = Vec::new();
        for (uid, optimizer) in (0..miners).zip(&mut optimizers) {
            let sequences = read(dataset, &pages, &pages.own(&order, uid, run.dataset.pages_per_window)).await;
            let work = Work { base: &base, sequences: &sequences, training: &run.training, windows: window };
            let trained = engine.train(&work, optimizer, &CancellationToken::new(), |_| ()).expect("it trains");
            works.push(slice.gather(&trained.parameters.minus(&base)));
        }
        let works: Vec<&Tensors> = works.iter().collect();
        let merged = merge(&run.merge.rule, &works).expect("somebody works");
        outer_step(&mut base, &slice, &merged, cosine, &run.training);
    }
    let held_out = read(dataset, &pages, &pages.displayed()).await;
    engine.loss(&base, &held_out).expect("finite")
}

async fn read(dataset: &Dataset<Folder>, pages: &Pages, numbers: &[u64]) -> Vec<Vec<u32>> {
    let mut sequences = Vec::new();
    for page in numbers {
        sequences.extend(dataset.page(pages, *page).await.expect("readable"));
    }
    sequences
}

/// The corpus is named by BISTRO_CORPUS, which the Makefile sets.
#[tokio::test]
#[ignore = "a benchmark: make bench-convergence"]
async fn bench_convergence() {
    let corpus = std::env::var("BISTRO_CORPUS").expect("BISTRO_CORPUS names the folder of text: use make");
    let windows = std::env::var("WINDOWS").ok().and_then(|w| w.parse().ok()).unwrap_or(20);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let documents = FolderDocuments::new(corpus.as_ref(), &["rs".to_owned()]).expect("a folder");
    let tokens = Folder(folder.path().join("tokens"));
    let digest = data::prepare(&documents, &tokens, None, |_| ()).await.expect("text").digest;
    let runs =
        [("single", 1, 1, Some("1")), ("dense", 3, 1, Some("1")), ("c4", 3, 4, None), ("c4-no-gain", 3, 4, Some("1"))];
    for (name, miners, ratio, gain) in runs {
        let run = quickstart(&digest, ratio, gain);
        let dataset = Dataset::open_in(tokens.clone(), &run.dataset, &folder.path().join("cache")).await;
        let dataset = dataset.expect("sound").expect("just prepared");
        let loss = learn(&dataset, &run, miners, windows).await;
        println!("BENCH convergence run={name} miners={miners} windows={windows} loss={loss:.3}");
    }
}
