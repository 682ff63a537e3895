//! dsmd, the server of one segment; see dsmd(8).

fn main() -> std::process::ExitCode {
    dsm_service::server::main()
}
