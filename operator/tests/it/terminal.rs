//! `bistro up` on a terminal: a pseudo-terminal whose screen is read.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{Termios, tcgetattr},
    },
    unistd::Pid,
};
use serde_json::json;

use crate::{
    support::text,
    up::{Scene, roles, signal, three_nodes, until},
};

/// Rows and columns.
const SIZE: (u16, u16) = (30, 120);

/// `bistro up` and the terminal that it runs on.
struct Terminal {
    up: Child,
    /// What a user sees.
    screen: Arc<Mutex<vt100::Parser>>,
    reader: JoinHandle<()>,
    /// The side that `up` has.
    line: OwnedFd,
    before: Termios,
}

impl Terminal {
    fn open(scene: &Scene, arguments: &[&str], term: &str) -> Self {
        let size = Winsize { ws_row: SIZE.0, ws_col: SIZE.1, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a pseudo-terminal");
        let side = || Stdio::from(slave.try_clone().expect("a descriptor more"));
        let before = tcgetattr(&slave).expect("its modes");
        let mut command = scene.command(arguments);
        command.stdin(side()).stdout(side()).stderr(side()).env("TERM", term).env_remove("NO_COLOR");
        let up = command.spawn().expect("bistro runs");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(SIZE.0, SIZE.1, 1000)));
        let reader = std::thread::spawn({
            let screen = screen.clone();
            move || {
                let (mut master, mut bytes) = (File::from(master), [0; 4096]);
                // The last side that closes ends it with EIO.
                while let Ok(count @ 1..) = master.read(&mut bytes) {
                    screen.lock().expect("nobody panicked").process(&bytes[..count]);
                }
            }
        });
        Self { up, screen, reader, line: slave, before }
    }

    fn shows(&self, what: &str) -> bool {
        self.contents().contains(what)
    }

    fn contents(&self) -> String {
        rows(self.screen.lock().expect("nobody panicked").screen())
    }

    /// As a user who drags the corner of the window: the line knows first, then what is shown.
    fn narrow(&self, columns: u16) {
        let line = Stdio::from(self.line.try_clone().expect("a descriptor more"));
        let stty = Command::new("stty").args(["cols", &columns.to_string()]).stdin(line).status();
        assert!(stty.expect("stty runs").success());
        self.screen.lock().expect("nobody panicked").screen_mut().set_size(SIZE.0, columns);
    }

    /// The exit code and what is on the screen at the end; the terminal is as it was.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.up.wait().expect("ended").code();
        assert_eq!(tcgetattr(&self.line).expect("its modes"), self.before, "no mode was changed");
        drop(self.line);
        self.reader.join().expect("read to its end");
        let parser = self.screen.lock().expect("nobody panicked");
        let screen = parser.screen();
        assert!(!screen.hide_cursor(), "the cursor is back");
        assert!(!screen.alternate_screen() && !screen.application_cursor() && !screen.bracketed_paste());
        assert_eq!((screen.fgcolor(), screen.bold(), screen.dim()), (vt100::Color::Default, false, false));
        assert_eq!(screen.cursor_position().1, 0, "the prompt begins on a line of its own");
        (code, rows(screen))
    }
}

/// What is shown, a line per row. (`contents` joins rows of which one once went on in the next, also where something
/// else has been written over both since: so it is after a window became narrow while a frame was drawn.)
fn rows(screen: &vt100::Screen) -> String {
    screen.rows(0, screen.size().1).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_table_is_drawn_in_its_place_and_stays() {
    let mut scenario = roles();
    scenario["miner-ibex-0"]["message"] = json!("\u{1b}[2J\u{1b}[31mall yours");
    let scene = Scene::new(&three_nodes(), scenario);
    let terminal = Terminal::open(&scene, &[], "xterm-256color");
    until(|| terminal.shows("accepted") && terminal.shows("[31mall yours"));
    let (_, id, _) = scene.notes().into_iter().find(|(pod, _, _)| pod == "validator-eagle-0").expect("started");
    kill(Pid::from_raw(id), Signal::SIGKILL).expect("killed");
    until(|| terminal.shows("eagle-0 was ended by signal 9") && terminal.shows("restarts"));
    signal(&terminal.up, Signal::SIGINT);
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    for once in ["subnet  alps", "alps  netuid 7  run 1   block ", "train ", "node ", "marmot-0 ", "ibex-0 "] {
        let lines = screen.lines().filter(|line| line.starts_with(once)).count();
        assert_eq!(lines, 1, "{once} stands once:\n{screen}");
    }
    let ibex = screen.lines().find(|line| line.starts_with("ibex-0")).expect("a row");
    assert!(ibex.contains("waiting") && ibex.contains("0.75") && ibex.contains("1.5 kB"), "{ibex}");
    scene.nothing_runs();
}

#[test]
fn a_terminal_that_becomes_narrow_gets_fewer_columns() {
    let scene = Scene::new(&three_nodes(), roles());
    let terminal = Terminal::open(&scene, &[], "xterm");
    until(|| terminal.shows("trend") && terminal.shows("block "));
    terminal.narrow(60);
    until(|| !terminal.shows("trend"));
    signal(&terminal.up, Signal::SIGINT);
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    for once in ["alps   block ", "train ", "node ", "marmot-0 ", "ibex-0 "] {
        let lines = screen.lines().filter(|line| line.starts_with(once)).count();
        assert_eq!(lines, 1, "{once} stands once:\n{screen}");
    }
}

#[test]
fn an_error_stands_below_the_table() {
    let mut scenario = roles();
    scenario["miner-ibex-0"]["differsAt"] = json!(11);
    let scene = Scene::new(&three_nodes(), scenario);
    let (code, screen) = Terminal::open(&scene, &["--windows", "3"], "xterm").end();
    assert_eq!(code, Some(1), "{screen}");
    let at =
        |what: &str| screen.lines().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}:\n{screen}"));
    assert!(at("of 3 windows") < at("hold different bases"), "{screen}");
}

#[test]
fn a_plain_terminal_gets_lines() {
    for (arguments, term) in [(["--windows", "1", "--plain"].as_slice(), "xterm"), (&["--windows", "1"], "dumb")] {
        let scene = Scene::new(&three_nodes(), roles());
        let (code, screen) = Terminal::open(&scene, arguments, term).end();
        assert_eq!(code, Some(0), "{screen}");
        assert!(screen.lines().any(|line| line.starts_with("window ") && line.contains("ibex-0")), "{screen}");
        assert!(!screen.contains("restarts") && !screen.contains('█'), "{screen}");
    }
}

#[test]
fn a_node_commands_no_terminal_by_lines_either() {
    let mut scenario = roles();
    scenario["miner-ibex-0"]["message"] = json!("\u{1b}[2J\u{9b}31m\rgone");
    let scene = Scene::new(&three_nodes(), scenario);
    let shown = text(&scene.run(&["--windows", "1"]).stdout);
    assert!(shown.contains("\u{fffd}[2J\u{fffd}31m\u{fffd}gone"), "{shown}");
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
}
