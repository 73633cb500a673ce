//! Gateway: who has vanished.
//!
//! In: the two sockets of a connection that is passed on, looked at while it lasts. Out: that one of them leads to nobody any
//! more. Between two pods the kernel of either says so within seconds (`connect::Carries`). Here the gateway's kernel
//! acknowledges what each of them says, so neither would hear of it before the gateway's gives up, and that takes it a quarter
//! of an hour (tcp(7), `tcp_retries2`). That setting would not do: it also counts the time that an app takes nothing, and an
//! app may. Who takes nothing still acknowledges the question whether that has changed (RFC 9293 section 3.8.6.1).

use std::io;
use std::mem::offset_of;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};
use tokio::time::{Instant, Sleep, sleep};

use crate::forward::tcp::Ended;
use crate::io::Io;

/// How often, in the time that a side may be silent, it is looked at.
const LOOKS: u32 = 6;
/// What was sent again so often has not been lost by chance.
const RETRANSMITS: u8 = 2;
/// The same of questions whether anything is taken again: these are minutes apart in the end.
const PROBES: u8 = 3;

/// Looks after the two sides of a connection. One on which nothing is under way has no timer, and is not looked at.
#[derive(Debug)]
pub struct Watch {
    silence: Duration,
    timer: Pin<Box<Sleep>>,
    armed: bool,
    client: Side,
    endpoint: Side,
}

/// What is known of a side.
#[derive(Debug, Default)]
struct Side {
    /// Since when something is on its way there each time that it is looked at.
    since: Option<Instant>,
}

/// What a look at a side shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It has all that was sent.
    HasAll,
    /// Something is on its way.
    Waits,
    /// It has not answered for too long.
    Vanished,
}

/// As much of the kernel's `struct tcp_info` as every kernel since Linux 4.9 tells. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct TcpInfo {
    _states: [u8; 2],
    /// How often in a row the kernel has sent again what is not acknowledged; not counted while the other side takes nothing.
    retransmits: u8,
    /// Questions to one that takes nothing whether it does again, which it has not answered.
    probes: u8,
    _options: [u8; 4],
    _sizes: [u32; 4],
    /// Segments that are not acknowledged.
    unacked: u32,
    _segments: [u32; 4],
    _last_sent: [u32; 2],
    /// Since the last data has come.
    last_data_recv: u32,
    /// Since the last acknowledgement has come.
    last_ack_recv: u32,
    _path: [u32; 11],
    _rates: [u64; 4],
    _counts: [u32; 2],
    /// Bytes that were not sent yet.
    notsent_bytes: u32,
    _min_rtt: u32,
}

const _: () = {
    assert!(offset_of!(TcpInfo, retransmits) == offset_of!(libc::tcp_info, tcpi_retransmits));
    assert!(offset_of!(TcpInfo, probes) == offset_of!(libc::tcp_info, tcpi_probes));
    assert!(offset_of!(TcpInfo, unacked) == offset_of!(libc::tcp_info, tcpi_unacked));
    assert!(offset_of!(TcpInfo, last_data_recv) == offset_of!(libc::tcp_info, tcpi_last_data_recv));
    assert!(offset_of!(TcpInfo, last_ack_recv) == offset_of!(libc::tcp_info, tcpi_last_ack_recv));
    assert!(offset_of!(TcpInfo, notsent_bytes) == offset_of!(libc::tcp_info, tcpi_notsent_bytes));
};

sockopt_impl!(
    /// How a connection is, as the kernel sees it.
    Info,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo
);

impl Watch {
    /// A side that acknowledges nothing for so long has vanished.
    pub fn new(silence: Duration) -> Self {
        Self {
            silence,
            timer: Box::pin(sleep(Duration::ZERO)),
            armed: false,
            client: Side::default(),
            endpoint: Side::default(),
        }
    }

    /// To be polled whenever something may have been sent to either side. Ready: that one has vanished. It is broken off, so
    /// that the kernel tries no more.
    pub fn poll(&mut self, cx: &mut Context<'_>, client: &Io, endpoint: &Io) -> Poll<Ended> {
        if !self.armed {
            self.arm();
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let (now, gone) = (Instant::now(), || io::ErrorKind::TimedOut.into());
            let looks = [
                self.client.look(client, self.silence, now),
                self.endpoint.look(endpoint, self.silence, now),
            ];
            match looks {
                [_, Look::Vanished] => {
                    endpoint.break_off();
                    return Poll::Ready(Ended::Upstream(gone()));
                }
                [Look::Vanished, _] => {
                    client.break_off();
                    return Poll::Ready(Ended::Downstream(gone()));
                }
                [Look::HasAll, Look::HasAll] => {
                    self.armed = false;
                    return Poll::Pending;
                }
                _ => self.arm(),
            }
        }
        Poll::Pending
    }

    fn arm(&mut self) {
        self.armed = true;
        self.timer.as_mut().reset(Instant::now() + self.silence / LOOKS);
    }
}

impl Side {
    fn look(&mut self, io: &Io, silence: Duration, now: Instant) -> Look {
        // Of what can't be looked at nothing is known.
        let info = io.socket().and_then(|socket| getsockopt(socket, Info).ok());
        self.judge(&info.unwrap_or_default(), silence, now)
    }

    fn judge(&mut self, info: &TcpInfo, silence: Duration, now: Instant) -> Look {
        if info.unacked == 0 && info.probes == 0 && info.notsent_bytes == 0 {
            self.since = None;
            return Look::HasAll;
        }
        // A connection may have been silent for hours before something was sent again.
        let since = *self.since.get_or_insert(now);
        let heard = info.last_ack_recv.min(info.last_data_recv);
        let silent = Duration::from_millis(heard.into()).min(now - since);
        let asked = info.retransmits >= RETRANSMITS || info.probes >= PROBES;
        if asked && silent >= silence {
            Look::Vanished
        } else {
            Look::Waits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(3);
    /// What was sent is neither acknowledged nor sent for the first time.
    const UNANSWERED: TcpInfo = TcpInfo {
        retransmits: 3,
        unacked: 1,
        ..IDLE
    };
    /// Everything is acknowledged, for a minute.
    const IDLE: TcpInfo = TcpInfo {
        last_data_recv: 60_000,
        last_ack_recv: 60_000,
        _states: [0; 2],
        retransmits: 0,
        probes: 0,
        _options: [0; 4],
        _sizes: [0; 4],
        unacked: 0,
        _segments: [0; 4],
        _last_sent: [0; 2],
        _path: [0; 11],
        _rates: [0; 4],
        _counts: [0; 2],
        notsent_bytes: 0,
        _min_rtt: 0,
    };

    /// What looks a second apart show of it.
    fn looks(infos: &[TcpInfo]) -> Vec<Look> {
        let (mut side, now) = (Side::default(), Instant::now());
        let seconds = (0..).map(Duration::from_secs);
        let each = infos.iter().zip(seconds);
        each.map(|(info, at)| side.judge(info, SILENCE, now + at)).collect()
    }

    #[test]
    fn a_side_that_answers_nothing_for_long_enough_has_vanished_however_long_it_was_idle_before() {
        use Look::{HasAll, Vanished, Waits};
        assert_eq!(looks(&[UNANSWERED; 4]), [Waits, Waits, Waits, Vanished]);
        let again = [UNANSWERED, UNANSWERED, IDLE, UNANSWERED, UNANSWERED, UNANSWERED];
        assert_eq!(looks(&again), [Waits, Waits, HasAll, Waits, Waits, Waits]);
        let asked = TcpInfo {
            probes: PROBES,
            notsent_bytes: 1,
            ..IDLE
        };
        assert_eq!(looks(&[asked; 4]), [Waits, Waits, Waits, Vanished]);
    }

    #[test]
    fn a_side_that_is_heard_of_is_there_whatever_is_on_its_way() {
        for heard in [
            TcpInfo {
                last_ack_recv: 2_900,
                ..UNANSWERED
            },
            TcpInfo {
                last_data_recv: 2_900,
                ..UNANSWERED
            },
        ] {
            assert_eq!(looks(&[heard; 60]), [Look::Waits; 60]);
        }
    }

    #[test]
    fn a_side_that_takes_nothing_is_there_while_it_is_asked_ever_more_seldom() {
        for takes_nothing in [
            // Its last answer is a minute old, and so is the question.
            TcpInfo {
                notsent_bytes: 100_000,
                ..IDLE
            },
            // Asked just now, and once more since one question was lost.
            TcpInfo {
                notsent_bytes: 100_000,
                probes: PROBES - 1,
                ..IDLE
            },
            // It has taken back what it said that it would take.
            TcpInfo {
                unacked: 1,
                notsent_bytes: 100_000,
                ..IDLE
            },
        ] {
            assert_eq!(looks(&[takes_nothing; 60]), [Look::Waits; 60]);
        }
    }
}
