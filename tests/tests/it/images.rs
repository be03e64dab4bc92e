//! Container images: the same bytes for the same program, and nothing in them that the program does not need.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use bistro_tests::process::program;
use serde_json::Value;

/// What an operator's image may take, packed and unpacked.
const LARGEST: u64 = 30_000_000;

fn hack_image() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack/image"))
}

fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program can be started");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// The image of `bistro` in `folder`, with `more`.
fn pack(folder: &Path, tar: &str, more: &[&str]) -> PathBuf {
    let tar = folder.join(tar);
    succeed(hack_image().arg("bistro").arg(program("bistro")).arg(&tar).args(more));
    tar
}

fn unpack(tar: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    succeed(Command::new("tar").arg("--extract").arg("--file").arg(tar).arg("--directory").arg(to));
}

fn read_json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).expect("a file of the image")).expect("JSON")
}

/// The blob of a descriptor, whose digest and size are what the descriptor says.
fn blob(image: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().and_then(|d| d.strip_prefix("sha256:")).expect("a digest");
    let file = image.join("blobs/sha256").join(digest);
    assert!(succeed(Command::new("sha256sum").arg(&file)).starts_with(digest), "{} has another digest", file.display());
    assert_eq!(descriptor["size"].as_u64(), Some(fs::metadata(&file).expect("a blob").len()), "{}", file.display());
    file
}

/// Files and links below `root`, as paths in the image.
fn files(root: &Path) -> BTreeSet<String> {
    let all = succeed(Command::new("find").arg(root).args(["-not", "-type", "d", "-printf", "/%P\n"]));
    all.lines().map(str::to_owned).collect()
}

fn libraries(program: &Path) -> BTreeSet<String> {
    let listed = succeed(Command::new("ldd").arg(program));
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    listed.lines().filter_map(path).collect()
}

#[test]
fn the_same_program_makes_the_same_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = folder.path().join("text");
    fs::create_dir_all(text.join("b")).expect("a folder");
    for name in ["z", "a", "b/c"] {
        fs::write(text.join(name), name).expect("a file");
    }
    let first = pack(folder.path(), "first.tar", &[&format!("{}=/corpus", text.display())]);
    // Another folder with other times and rights, another umask, another zone, other wishes of the caller.
    let copy = folder.path().join("copy");
    succeed(Command::new("cp").arg("-r").arg(&text).arg(&copy));
    fs::set_permissions(copy.join("a"), fs::Permissions::from_mode(0o600)).expect("a file");
    let second = folder.path().join("second.tar");
    let script = r#"umask 077 && exec "$0" bistro "$1" "$2" "$3=/corpus""#;
    succeed(
        Command::new("sh")
            .args(["-c", script])
            .arg(hack_image().get_program())
            .arg(program("bistro"))
            .args([&second, &copy])
            .envs([("TZ", "Asia/Tokyo"), ("LC_ALL", "C.UTF-8"), ("GZIP", "-1"), ("TAR_OPTIONS", "--owner=7")]),
    );
    assert!(fs::read(first).expect("an image") == fs::read(second).expect("an image"), "the images differ");
}

#[test]
fn an_image_holds_the_program_its_libraries_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, root) = (folder.path().join("image"), folder.path().join("root"));
    let tar = pack(folder.path(), "bistro.tar", &[]);
    unpack(&tar, &image);
    let index = read_json(&image.join("index.json"));
    let manifest = read_json(&blob(&image, &index["manifests"][0]));
    let layer = blob(&image, &manifest["layers"][0]);
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    unpack(&layer, &root);

    let mut expected = libraries(&program("bistro"));
    assert!(expected.len() >= 2, "the program links a loader and libc: {expected:?}");
    expected.extend(["/usr/bin/bistro", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"].map(str::to_owned));
    assert_eq!(files(&root), expected);
    let mode = |path: &str| fs::metadata(root.join(path)).expect(path).permissions().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("usr/bin/bistro"), mode("etc/passwd")), (0o1777, 0o755, 0o644));
    let size = |file: &Path| fs::metadata(file).expect("a file").len();
    let unpacked = files(&root).iter().map(|file| size(&root.join(&file[1..]))).sum::<u64>();
    assert!(size(&tar) <= LARGEST && unpacked <= LARGEST, "{} bytes packed, {unpacked} unpacked", size(&tar));
}

#[test]
fn an_image_has_the_name_user_and_entrypoint_that_kubernetes_expects() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    unpack(&pack(folder.path(), "bistro.tar", &[]), folder.path());
    let descriptor = &read_json(&folder.path().join("index.json"))["manifests"][0];
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        descriptor["annotations"],
        serde_json::json!({
            "io.containerd.image.name": format!("docker.io/library/bistro:{version}"),
            "org.opencontainers.image.ref.name": version,
        }),
    );
    let manifest = read_json(&blob(folder.path(), descriptor));
    let config = read_json(&blob(folder.path(), &manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/bin/bistro"]));
    assert_eq!(config["created"], "1970-01-01T00:00:00Z");
    let packed = blob(folder.path(), &manifest["layers"][0]);
    let unpacked =
        succeed(Command::new("sh").args(["-c", r#"gzip --decompress --stdout "$0" | sha256sum"#]).arg(packed));
    let digest = format!("sha256:{}", unpacked.split_whitespace().next().expect("a digest"));
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([digest]));
}

#[test]
fn what_cannot_be_packed_is_refused_with_one_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tar = folder.path().join("image.tar");
    let bistro = program("bistro").display().to_string();
    for (program, more, epoch, says) in [
        ("/nowhere/bistro", "", "0", "there is no program /nowhere/bistro: run make build"),
        (&bistro, "/nowhere=/corpus", "0", "there is no /nowhere"),
        (&bistro, "corpus", "0", "not FROM=/TO: corpus"),
        (&bistro, "", "yesterday", "SOURCE_DATE_EPOCH is not a number of seconds: yesterday"),
    ] {
        let mut command = hack_image();
        command.arg("bistro").arg(program).arg(&tar).args((!more.is_empty()).then_some(more));
        let Output { status, stderr, .. } =
            command.env("SOURCE_DATE_EPOCH", epoch).output().expect("it can be started");
        assert_eq!(status.code(), Some(2), "{command:?}");
        assert_eq!(String::from_utf8_lossy(&stderr), format!("hack/image: {says}\n"));
        assert!(!tar.exists(), "{command:?} wrote an image");
    }
}
