//! The command line over the whole memory; see dsmctl(1).

fn main() -> std::process::ExitCode {
    dsm_service::cli::main()
}
