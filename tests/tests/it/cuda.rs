//! What `make build-cuda` adds around the compiler: a driver that may be missing, and libraries beside the program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const MAIN: &str = r#"
#include <stdio.h>
int cuInit(unsigned);
int cuGetErrorString(int, const char **);
int cuNewerThanTheDriver(void);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
int main(void) {
    const char *text = "";
    int started = cuInit(7), launched = cuLaunchKernel((void *)1, 2, 3, 4, 5, 6, 7, 8, (void *)9, (void *)10, (void *)11);
    cuGetErrorString(started, &text);
    printf("%d %d %d %s\n", started, launched, cuNewerThanTheDriver(), text);
}
"#;

const DRIVER: &str = r#"
int cuInit(unsigned flags) { return flags != 7; }
int cuGetErrorString(int error, const char **text) { *text = "from the driver"; return error; }
int cuLaunchKernel(void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned h, void *s, void **p, void **x) {
    return !(f == (void *)1 && a == 2 && b == 3 && c == 4 && d == 5 && e == 6 && g == 7 && h == 8 && s == (void *)9 &&
             p == (void *)10 && x == (void *)11);
}
"#;

fn hack(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hack").join(path)
}

fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program can be started");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

fn cc(folder: &Path, arguments: &[&str]) {
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    succeed(
        Command::new(compiler)
            .current_dir(folder)
            .args(["-O2", "-fPIC", "-Wall", "-Wextra", "-Werror"])
            .args(arguments),
    );
}

#[test]
fn the_driver_is_found_when_there_is_one_and_named_when_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let functions = ["cuInit", "cuGetErrorString", "cuNewerThanTheDriver", "cuLaunchKernel"];
    let lines: String = functions.iter().map(|name| format!("FUNCTION({name})\n")).collect();
    for (name, text) in [("functions.h", lines.as_str()), ("main.c", MAIN), ("driver.c", DRIVER)] {
        fs::write(at.join(name), text).expect("a file");
    }
    let source = hack("cuda/driver.c").display().to_string();
    // All symbols at once, as Rust's programs are linked.
    cc(at, &["-I.", "main.c", &source, "-o", "main", "-Wl,-z,now", "-Wl,-z,relro"]);
    let run = |libraries: &Path| succeed(Command::new(at.join("main")).env("LD_LIBRARY_PATH", libraries));
    // A driver of this machine would be found, and called with these.
    if Command::new("nvidia-smi").output().is_err() {
        let alone = run(&at.join("nothing"));
        assert!(alone.starts_with("34 34 34 there is no libcuda.so.1: "), "{alone}");
    }
    fs::create_dir(at.join("driver")).expect("a folder");
    cc(at, &["-shared", "driver.c", "-o", "driver/libcuda.so.1"]);
    assert_eq!(run(&at.join("driver")), "0 0 34 from the driver\n");
}

#[test]
fn libraries_beside_a_program_stand_beside_it_in_its_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    for (name, text) in
        [("x.c", "int x(void) { return 0; }"), ("main.c", "int x(void); int main(void) { return x(); }")]
    {
        fs::write(at.join(name), text).expect("a file");
    }
    for name in ["bin", "lib", "lib/cuda"] {
        fs::create_dir(at.join(name)).expect("a folder");
    }
    cc(at, &["-shared", "x.c", "-o", "lib/cuda/libx.so"]);
    cc(at, &["main.c", "-o", "bin/main", "-Llib/cuda", "-lx", "-Wl,-rpath,$ORIGIN/../lib/cuda"]);
    let root = at.join("root");
    succeed(Command::new(hack("image")).args(["--root", "main"]).args([&at.join("bin/main"), &root]));
    assert!(root.join("usr/lib/cuda/libx.so").is_file());
    fs::remove_dir_all(at.join("lib")).expect("the folder");
    succeed(&mut Command::new(root.join("usr/bin/main")));
}

#[test]
fn variables_of_an_image_are_checked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for wrong in ["A", "a=b", "A=\"", "=x"] {
        let mut command = Command::new(hack("image"));
        command.args(["--env", wrong, "name", "/bin/true"]).arg(folder.path().join("image.tar"));
        let Output { status, stderr, .. } = command.output().expect("it can be started");
        assert_eq!(
            (status.code(), String::from_utf8_lossy(&stderr).into_owned()),
            (Some(2), format!("hack/image: not NAME=VALUE: {wrong}\n"))
        );
    }
}
