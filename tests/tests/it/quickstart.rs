//! The quickstart's manifest against what it promises.

use std::{path::Path, process::Command};

use bistro_worker::data::{self, FolderDocuments, Nowhere};

/// Whoever follows the README must end up with the dataset that the manifest names.
#[tokio::test]
async fn the_manifest_names_the_dataset_of_this_lock_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let corpus = tempfile::tempdir().expect("a temporary folder");
    let built = Command::new(env!("CARGO_BIN_EXE_corpus")).arg(root.join("Cargo.toml")).arg(corpus.path()).output();
    let built = built.expect("the program starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let documents = FolderDocuments::new(corpus.path(), &["rs".to_owned()]).expect("a folder");
    let made = data::prepare(&documents, &Nowhere, None, |_| ()).await.expect("text");
    let manifest = std::fs::read_to_string(root.join("manifests/quickstart.yaml")).expect("it is there");
    let named = format!("digest: \"{}\"", made.digest);
    assert!(manifest.contains(&named), "the dataset has the digest {}: run make generate", made.digest);
}
