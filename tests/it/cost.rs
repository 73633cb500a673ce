//! What a request costs a sidecar, counted in instructions and allocations: figures that a busy machine doesn't change.

use std::io::Write as _;

use weft_bench::count::{Cost, count};
use weft_bench::pairs::Side;

/// The most that a request may cost, with a margin of a few percent over what was counted last. Who makes it cheaper
/// lowers it; who must raise it says why.
fn budget(protocol: &str, side: Side) -> Cost {
    let (instructions, allocations) = match (protocol, side) {
        ("HTTP/1.1", Side::Client) => (44_500.0, 4.5),
        ("HTTP/1.1", Side::Server) => (45_500.0, 4.5),
        (_, Side::Client) => (101_000.0, 13.0),
        (_, Side::Server) => (105_000.0, 20.0),
    };
    Cost {
        instructions,
        allocations,
    }
}

#[test]
fn a_request_costs_no_more_instructions_and_allocations_than_its_budget() {
    let lines = count(&weft_tests::mesh::weft_bin(), None).expect("the count");
    let mut over = Vec::new();
    for line in &lines {
        let (cost, budget) = (line.cost, budget(line.protocol, line.side));
        let said = format!("{line} (budget {:.0}, {:.1})", budget.instructions, budget.allocations);
        // Past the capture of tests: these figures are to be read.
        writeln!(std::io::stdout(), "  {said}").expect("standard output");
        if cost.instructions > budget.instructions || cost.allocations > budget.allocations {
            over.push(said);
        }
    }
    assert_eq!(lines.len(), 4, "both protocols, both sides");
    assert!(over.is_empty(), "over budget:\n{}", over.join("\n"));
}
