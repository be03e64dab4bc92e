//! `bistro-worker`: one node of a subnet, or a tool for people.

fn main() -> std::process::ExitCode {
    bistro_worker::cli::main()
}
