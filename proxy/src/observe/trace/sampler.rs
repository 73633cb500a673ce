//! Observe: which traces are kept (OpenTelemetry's `OTEL_TRACES_SAMPLER`).

use super::context::{Context, SAMPLED};

/// Which traces are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Whether the caller's decision counts.
    parent_based: bool,
    /// Kept are traces whose id's low 63 bits lie below this.
    below: u64,
}

/// One more than the highest value of 63 bits: all traces.
const ALL: u64 = 1 << 63;

impl Sampler {
    /// Reads `OTEL_TRACES_SAMPLER` and its argument. Errors name what would be right.
    pub fn parse(name: &str, argument: &str) -> Result<Self, String> {
        let (parent_based, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let below = match kind {
            "always_on" => ALL,
            "always_off" => 0,
            "traceidratio" if argument.is_empty() => ALL,
            "traceidratio" => match argument.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => (ratio * ALL as f64) as u64,
                _ => {
                    return Err(format!(
                        "OTEL_TRACES_SAMPLER_ARG {argument:?} must be a number from 0 to 1, as in 0.1"
                    ));
                }
            },
            _ => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER {name:?} must be always_on, always_off, traceidratio, or one of them with parentbased_ before it"
                ));
            }
        };
        Ok(Self { parent_based, below })
    }

    /// Whether a trace whose caller sent a context is kept.
    pub fn with_parent(&self, parent: &Context) -> bool {
        if self.parent_based {
            parent.flags & SAMPLED != 0
        } else {
            self.without_parent(&parent.trace)
        }
    }

    /// Whether a trace is kept whose caller may have decided, without W3C's flags. `None`: it left that to us.
    pub fn with_decision(&self, trace: &[u8; 16], decision: Option<bool>) -> bool {
        match decision.filter(|_| self.parent_based) {
            Some(sampled) => sampled,
            None => self.without_parent(trace),
        }
    }

    /// Whether a trace that begins here is kept. By its id alone, so that all hops with the same ratio agree.
    pub fn without_parent(&self, trace: &[u8; 16]) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&trace[8..]);
        u64::from_be_bytes(low) >> 1 < self.below
    }
}
