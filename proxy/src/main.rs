//! `weft-proxy`: the data plane as a program of its own.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

// TLS records are copied into fresh buffers; an allocator that hands warm memory out again decides what a stream costs.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    weft_proxy::main(std::env::args_os())
}
