//! The end-to-end tests, one module per promise.

mod routes;
