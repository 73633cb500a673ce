//! The load of the end-to-end tests, inside pods: `serve`, which says `CLUSTER`, or `drive HOST PROTOCOL RATE COUNT`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use weft_tests::load;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-load-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args[..] {
        ["serve"] => {
            let name = std::env::var("CLUSTER").context("CLUSTER")?;
            runtime.block_on(load::serve(&name))
        }
        ["drive", host, protocol, rate, count] => {
            let (rate, count) = (rate.parse().context("RATE")?, count.parse().context("COUNT")?);
            let tally = runtime.block_on(load::drive(host, protocol.parse()?, rate, count))?;
            for (who, count) in tally {
                println!("{count} {who}");
            }
            Ok(())
        }
        _ => bail!("weft-load-peer serve | drive HOST PROTOCOL RATE COUNT"),
    }
}
