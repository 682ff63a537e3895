//! The snapshot agent, and the master; see dsm-snapshot(8).

fn main() -> std::process::ExitCode {
    dsm_service::agent::main()
}
