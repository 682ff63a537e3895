//! dsm-snapshot: see [`dsm::snapshot`].

fn main() -> std::process::ExitCode {
    dsm::snapshot::main()
}
