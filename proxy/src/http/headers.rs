//! Which headers end at a hop, which are ours alone, and who the caller is.

use http::HeaderMap;
use weft_model::identity::Identity;

/// Says in `x-forwarded-client-cert` who calls: `By=<own>;URI=<peer>`. Replaces whatever stood there.
pub fn set_caller(_headers: &mut HeaderMap, _own: &Identity, _peer: &Identity) {
    todo!()
}
