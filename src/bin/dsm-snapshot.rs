//! dsm-snapshot, the snapshot agent and the master of snapshots; see dsm-snapshot(8).

fn main() -> std::process::ExitCode {
    dsm_service::agent::main()
}
