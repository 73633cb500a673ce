//! The program `ratings`, on its own.

fn main() -> std::process::ExitCode {
    shop::ratings::main(std::env::args_os().collect())
}
