//! Discover: what is there, as the control plane streams it.
//!
//! | file | what it is |
//! |---|---|
//! | [`state`] | everything that the proxy believes, as one immutable value |
//! | [`view`] | the workers' side: look up, wait, follow changes |

pub mod state;
pub mod view;

pub use state::State;
pub use view::View;
