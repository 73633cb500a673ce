//! The program `visitor`, on its own.

fn main() -> std::process::ExitCode {
    shop::visitor::main(std::env::args_os().collect())
}
