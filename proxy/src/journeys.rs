//! Whole journeys in one process: an app, its proxy, the peer's proxy and the peer's app, over loopback sockets and real TLS,
//! without redirection: original destinations are given.

mod access;
mod answers;
mod context;
mod cut_short;
mod deadlines;
mod filters;
mod forgeries;
mod gateways;
mod held;
mod http;
mod http2;
mod mirrors;
mod named_streams;
mod refusals;
mod retries;
mod routes;
mod script;
mod streams;
mod tries;
mod trust;
mod upgrades;
mod verdicts;
mod versions;
mod world;
