//! Collects the corpus of the quickstart: Rust sources that every build of this workspace has on disk anyway.
//!
//! The crates of Cargo.lock that come from a registry, by name and version; of each the `.rs` files, by the
//! bytes of their paths; until the next file would exceed [`LIMIT`]. Crates are numbered, so that the order of
//! the keys in a bucket is that order.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use serde::Deserialize;

/// Bytes of text: enough for 200 windows of the quickstart without a page read twice.
const LIMIT: u64 = 16 << 20;
/// A copy of the Cargo.lock that the corpus was made from.
const MARKER: &str = ".cargo-lock";

/// What `cargo metadata` says, as far as it matters.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Absent for the crates of the workspace itself.
    source: Option<String>,
    manifest_path: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [manifest, folder] = arguments.as_slice() else {
        eprintln!("usage: corpus CARGO_TOML DIR");
        return ExitCode::from(2);
    };
    match collect(manifest, folder) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("failed to build the corpus: {error}");
            ExitCode::FAILURE
        }
    }
}

fn collect(manifest: &Path, folder: &Path) -> Result<String, Box<dyn Error>> {
    let lock = fs::read(manifest.with_file_name("Cargo.lock"))?;
    let marker = folder.join(MARKER);
    if fs::read(&marker).is_ok_and(|made_from| made_from == lock) {
        return Ok(format!("{} is up to date", folder.display()));
    }
    clear(folder)?;
    let (mut bytes, mut files) = (0, 0);
    'all: for (number, package) in packages(manifest)?.iter().enumerate() {
        let root = package.manifest_path.parent().ok_or("a manifest without a folder")?;
        for path in sources(root)? {
            let text = fs::read(root.join(&path))?;
            bytes += u64::try_from(text.len())?;
            if bytes > LIMIT {
                break 'all;
            }
            let to = folder.join(format!("{number:05}-{}-{}", package.name, package.version)).join(&path);
            fs::create_dir_all(to.parent().unwrap_or(folder))?;
            fs::write(to, text)?;
            files += 1;
        }
    }
    // Last, so that an interrupted call is done again.
    fs::write(marker, lock)?;
    Ok(format!("{files} files of Rust in {}", folder.display()))
}

/// Removes what an earlier call made, and refuses to remove anything else.
fn clear(folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.split('-').next().unwrap_or_default();
        if name == MARKER {
            fs::remove_file(path)?;
        } else if number.len() == 5 && number.bytes().all(|b| b.is_ascii_digit()) {
            fs::remove_dir_all(path)?;
        } else {
            return Err(format!("{} is not part of a corpus: choose an empty folder", path.display()).into());
        }
    }
    Ok(())
}

/// The registry's crates for all platforms, in order.
fn packages(manifest: &Path) -> Result<Vec<Package>, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version", "1", "--locked", "--manifest-path"];
    let output = Command::new(cargo).args(arguments).arg(manifest).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    let mut packages: Vec<Package> = metadata.packages.into_iter().filter(|p| p.source.is_some()).collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(packages)
}

/// The `.rs` files below a folder, by the bytes of their paths with `/`.
fn sources(root: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let (Ok(name), kind) = (entry.file_name().into_string(), entry.file_type()?) else { continue };
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && path.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
