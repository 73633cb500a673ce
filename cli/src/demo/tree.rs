//! Draws a trace as a tree with timings. Pure.

use super::collector::Span;

const WIDTH: usize = 24;

/// The lines of a trace: service, what it did, when it began after the first span, how long it took, and a bar.
pub(super) fn draw(spans: &[Span]) -> Vec<String> {
    let begin = spans.iter().map(|span| span.start_ns).min().unwrap_or(0);
    let end = spans.iter().map(|span| span.end_ns).max().unwrap_or(0);
    let known = |id: &str| spans.iter().any(|span| span.id == id);
    let mut rows = Vec::new();
    for root in sorted(spans.iter().filter(|span| !known(&span.parent))) {
        visit(spans, root, "", "", 0, &mut rows);
    }
    let label_width = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    rows.into_iter()
        .map(|(label, span)| {
            let pad = " ".repeat(label_width - label.chars().count());
            let offset = ms(span.start_ns.saturating_sub(begin));
            let took = ms(span.end_ns.saturating_sub(span.start_ns));
            format!(
                "{label}{pad}  {offset:>6.2} ms  {took:>6.2} ms  {}",
                bar(span, begin, end)
            )
        })
        .collect()
}

/// How many spans lie on the longest way from a root to a leaf.
pub(super) fn depth(spans: &[Span]) -> usize {
    fn below(spans: &[Span], id: &str, left: usize) -> usize {
        let children = spans.iter().filter(|span| span.parent == id && left > 0);
        children
            .map(|child| 1 + below(spans, &child.id, left - 1))
            .max()
            .unwrap_or(0)
    }
    let known = |id: &str| spans.iter().any(|span| span.id == id);
    let roots = spans.iter().filter(|span| !known(&span.parent));
    roots
        .map(|root| 1 + below(spans, &root.id, spans.len()))
        .max()
        .unwrap_or(0)
}

fn visit<'a>(
    spans: &'a [Span],
    span: &'a Span,
    own: &str,
    rest: &str,
    level: usize,
    rows: &mut Vec<(String, &'a Span)>,
) {
    let side = match span.kind {
        2 => "in ",
        3 => "out",
        _ => "   ",
    };
    rows.push((format!("{own}{} {side} {}", span.service, span.name), span));
    // A circle of parents can't come from our proxies; a bound costs nothing.
    if level > spans.len() {
        return;
    }
    let children = sorted(spans.iter().filter(|child| child.parent == span.id));
    let last = children.len().saturating_sub(1);
    for (i, child) in children.into_iter().enumerate() {
        let (branch, below) = if i == last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        visit(
            spans,
            child,
            &format!("{rest}{branch}"),
            &format!("{rest}{below}"),
            level + 1,
            rows,
        );
    }
}

fn sorted<'a>(spans: impl Iterator<Item = &'a Span>) -> Vec<&'a Span> {
    let mut spans: Vec<&Span> = spans.collect();
    spans.sort_by_key(|span| span.start_ns);
    spans
}

fn bar(span: &Span, begin: u64, end: u64) -> String {
    let whole = end.saturating_sub(begin).max(1) as f64;
    let at = |time: u64| (time.saturating_sub(begin) as f64 / whole * WIDTH as f64).round() as usize;
    let from = at(span.start_ns).min(WIDTH - 1);
    let length = at(span.end_ns).saturating_sub(from).max(1);
    format!("{}{}", " ".repeat(from), "━".repeat(length))
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(service: &str, kind: i32, id: &str, parent: &str, start_ns: u64, end_ns: u64) -> Span {
        let [service, id, parent] = [service, id, parent].map(str::to_owned);
        Span {
            service,
            name: "GET".to_owned(),
            kind,
            trace: "t".to_owned(),
            id,
            parent,
            start_ns,
            end_ns,
        }
    }

    #[test]
    fn children_hang_below_their_parents_in_order_of_time() {
        let spans = [
            span("c", 2, "3", "1", 2_000_000, 3_000_000),
            span("b", 2, "2", "1", 1_000_000, 2_000_000),
            span("a", 3, "1", "", 0, 4_000_000),
        ];
        let lines = draw(&spans);
        let begins = ["a out GET", "├─ b in  GET", "└─ c in  GET"];
        assert_eq!(lines.len(), begins.len());
        assert!(
            lines.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)),
            "{lines:#?}"
        );
        assert_eq!(depth(&spans), 2);
    }

    #[test]
    fn a_span_whose_parent_is_not_there_is_a_root() {
        assert_eq!(depth(&[span("a", 2, "2", "gone", 0, 1)]), 1);
    }
}
