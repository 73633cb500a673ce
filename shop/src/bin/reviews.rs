//! The program `reviews`, on its own.

fn main() -> std::process::ExitCode {
    shop::reviews::main(std::env::args_os().collect())
}
