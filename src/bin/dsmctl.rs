//! dsmctl: see `dsm::cli`.

fn main() -> std::process::ExitCode {
    dsm::cli::main()
}
