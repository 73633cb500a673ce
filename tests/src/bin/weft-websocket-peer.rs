//! A WebSocket peer for the end-to-end tests: `serve PORT`, or `drive HOST PORT`.

use std::process::ExitCode;

use weft_tests::websocket;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    let done = match args[..] {
        ["serve", port] => match port.parse() {
            Ok(port) => runtime.block_on(websocket::serve(port)),
            Err(_) => return failed("no such port"),
        },
        ["drive", host, port] => match port.parse() {
            Ok(port) => runtime.block_on(websocket::drive(host, port)),
            Err(_) => return failed("no such port"),
        },
        _ => return failed("weft-websocket-peer serve PORT | drive HOST PORT"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
