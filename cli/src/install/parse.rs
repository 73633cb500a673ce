//! The text of a template in, its parts out: what of Go's templates the charts use, and nothing more.
//!
//! Bounded by what reads it: the charts are a part of the program, and a test renders all of them.

use anyhow::{Context, Result, bail};

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// As it stands.
    Text(String),
    /// What an expression comes to.
    Out(Expression),
    /// The first branch whose expression holds, else the last one.
    If(Vec<(Expression, Vec<Self>)>, Vec<Self>),
    /// With the expression as the dot, if it holds; else the other one.
    With(Expression, Vec<Self>, Vec<Self>),
    /// Once for each item, as the dot.
    Range(Expression, Vec<Self>),
    /// What `include` finds.
    Define(String, Vec<Self>),
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    /// A text or number.
    Literal(serde_json::Value),
    /// A field of the dot, or of `$`.
    Path {
        /// From `$`.
        root: bool,
        /// The names on the way.
        names: Vec<String>,
    },
    /// A function.
    Call(String, Vec<Self>),
}

/// The parts of a template.
pub(super) fn template(text: &str) -> Result<Vec<Node>> {
    let mut pieces = pieces(text)?.into_iter();
    let (nodes, end) = block(&mut pieces)?;
    match end {
        None => Ok(nodes),
        Some(end) => bail!("{{{{ {end} }}}} ends nothing"),
    }
}

/// Text, or what is between braces.
#[derive(Debug)]
enum Piece {
    Text(String),
    Action(String),
}

fn pieces(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").context("{{ without }}")?;
        let before = if trim { before.trim_start() } else { before };
        let before = if action.starts_with("- ") {
            before.trim_end()
        } else {
            before
        };
        pieces.push(Piece::Text(before.to_owned()));
        trim = action.ends_with(" -");
        let action = action.strip_prefix("- ").unwrap_or(action);
        let action = action.strip_suffix(" -").unwrap_or(action).trim();
        if !action.starts_with("/*") {
            pieces.push(Piece::Action(action.to_owned()));
        }
        rest = after;
    }
    pieces.push(Piece::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(pieces)
}

/// What stands before the next `end` or `else` of this level, and that.
fn block(pieces: &mut impl Iterator<Item = Piece>) -> Result<(Vec<Node>, Option<String>)> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) if text.is_empty() => continue,
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action.split_once(' ').unwrap_or((&action, ""));
        nodes.push(match word {
            "end" | "else" => return Ok((nodes, Some(action))),
            "if" => branches(rest, pieces)?,
            "with" => {
                let (then, end) = block(pieces)?;
                let other = otherwise(end, pieces)?;
                Node::With(expression(rest)?, then, other)
            }
            "range" => Node::Range(expression(rest)?, body(pieces)?),
            "define" => Node::Define(rest.trim_matches('"').to_owned(), body(pieces)?),
            _ => Node::Out(expression(&action)?),
        });
    }
    Ok((nodes, None))
}

fn body(pieces: &mut impl Iterator<Item = Piece>) -> Result<Vec<Node>> {
    match block(pieces)? {
        (nodes, Some(end)) if end == "end" => Ok(nodes),
        (_, end) => bail!("{end:?} instead of end"),
    }
}

fn otherwise(end: Option<String>, pieces: &mut impl Iterator<Item = Piece>) -> Result<Vec<Node>> {
    match end.as_deref() {
        Some("end") => Ok(Vec::new()),
        Some("else") => body(pieces),
        other => bail!("{other:?} instead of end"),
    }
}

fn branches(condition: &str, pieces: &mut impl Iterator<Item = Piece>) -> Result<Node> {
    let mut branches = Vec::new();
    let mut condition = condition.to_owned();
    loop {
        let (then, end) = block(pieces)?;
        branches.push((expression(&condition)?, then));
        match end.as_deref().and_then(|end| end.strip_prefix("else if ")) {
            Some(next) => condition = next.to_owned(),
            None => return Ok(Node::If(branches, otherwise(end, pieces)?)),
        }
    }
}

/// An expression: functions with their arguments, and pipes, whose left side is the last argument of the right one.
fn expression(text: &str) -> Result<Expression> {
    let mut words = words(text)?.into_iter().peekable();
    let whole = pipe(&mut words).with_context(|| format!("in {{{{ {text} }}}}"))?;
    match words.next() {
        None => Ok(whole),
        Some(word) => bail!("{word:?} is too much in {{{{ {text} }}}}"),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Open,
    Close,
    Pipe,
    Text(String),
    Name(String),
}

fn words(text: &str) -> Result<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let single = match first {
            '(' => Some(Word::Open),
            ')' => Some(Word::Close),
            '|' => Some(Word::Pipe),
            _ => None,
        };
        if let Some(word) = single {
            words.push(word);
            rest = rest[1..].trim_start();
        } else if let Some(after) = rest.strip_prefix('"') {
            // The charts have no text with a quote or a backslash in it.
            let (text, after) = after.split_once('"').context("a text without an end")?;
            words.push(Word::Text(text.to_owned()));
            rest = after.trim_start();
        } else {
            let end = rest.find([' ', '(', ')', '|', '\n']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            words.push(Word::Name(name.to_owned()));
            rest = after.trim_start();
        }
    }
    Ok(words)
}

type Words = std::iter::Peekable<std::vec::IntoIter<Word>>;

fn pipe(words: &mut Words) -> Result<Expression> {
    let mut value = call(words, None)?;
    while words.next_if_eq(&Word::Pipe).is_some() {
        value = call(words, Some(value))?;
    }
    Ok(value)
}

fn call(words: &mut Words, piped: Option<Expression>) -> Result<Expression> {
    let mut all = Vec::new();
    while let Some(word) = words.next_if(|word| !matches!(word, Word::Close | Word::Pipe)) {
        all.push(match word {
            Word::Open => {
                let inner = pipe(words)?;
                if words.next() != Some(Word::Close) {
                    bail!("( without )");
                }
                inner
            }
            Word::Text(text) => Expression::Literal(text.into()),
            Word::Name(name) => operand(&name),
            Word::Close | Word::Pipe => bail!("an argument is missing"),
        });
    }
    all.extend(piped);
    let mut all = all.into_iter();
    match all.next().context("an expression is missing")? {
        Expression::Call(name, _) => Ok(Expression::Call(name, all.collect())),
        single if all.len() == 0 => Ok(single),
        _ => bail!("no function, but arguments"),
    }
}

fn operand(name: &str) -> Expression {
    if let Ok(number) = name.parse::<i64>() {
        return Expression::Literal(number.into());
    }
    let from_root = name.strip_prefix('$');
    match from_root.or_else(|| name.starts_with('.').then_some(name)) {
        Some(path) => {
            let names = path.split('.').filter(|name| !name.is_empty());
            Expression::Path {
                root: from_root.is_some(),
                names: names.map(str::to_owned).collect(),
            }
        }
        // Without arguments so far; they follow.
        None => Expression::Call(name.to_owned(), Vec::new()),
    }
}
