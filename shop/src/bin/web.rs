//! The program `web`, on its own.

fn main() -> std::process::ExitCode {
    shop::web::main(std::env::args_os().collect())
}
