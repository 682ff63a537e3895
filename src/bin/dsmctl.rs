//! dsmctl, the command-line client of the memory; see dsmctl(1).

fn main() -> std::process::ExitCode {
    dsm_service::cli::main()
}
