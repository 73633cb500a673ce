//! `weft-control`: the control plane as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_control::main(std::env::args_os())
}
