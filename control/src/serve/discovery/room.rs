//! Room for what callers say before they are let in: bytes that are read, and what is made of them while a pod is waited for. Who
//! finds none calls again. Without it whoever has a certificate could begin Hellos by the thousand, each as large as one may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tonic::Status;

/// Bytes of all callers together.
const ALL: usize = 64 << 20;
/// Of those that call from one address, so that one does not take what others need.
const SHARE: usize = ALL / 4;
/// That each has in any case: a pod that is new holds nothing, and how many may call at once is bounded.
const FREE: usize = 16 << 10;

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// What one caller takes of it. Given back when it is let in, or gone.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    address: IpAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    read: usize,
    taken: usize,
    is_in: bool,
}

/// What a caller says, which takes room for as long as it is not let in.
pub(super) struct Entering<B> {
    said: B,
    place: Arc<Place>,
}

impl Room {
    /// For a caller at an address.
    pub(super) fn place(self: &Arc<Self>, address: IpAddr) -> Arc<Place> {
        Arc::new(Place {
            room: self.clone(),
            address: address.to_canonical(),
            state: Mutex::default(),
        })
    }

    fn take(&self, address: IpAddr, bytes: usize) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by.get(&address).copied().unwrap_or_default();
        let has_room = bytes <= ALL - taken.all && bytes <= SHARE - own;
        if has_room && bytes > 0 {
            taken.all += bytes;
            taken.by.insert(address, own + bytes);
        }
        has_room
    }

    fn give_back(&self, address: IpAddr, bytes: usize) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= bytes;
        if let Some(own) = taken.by.get_mut(&address) {
            *own -= bytes;
            if *own == 0 {
                taken.by.remove(&address);
            }
        }
    }
}

impl Place {
    /// Whether there is room for so many bytes more that were read.
    fn read(&self, bytes: usize) -> bool {
        let mut state = self.state();
        let before = state.read.saturating_sub(FREE);
        state.read = state.read.saturating_add(bytes);
        let more = state.read.saturating_sub(FREE) - before;
        state.is_in || self.take(&mut state, more)
    }

    /// Whether there is room for what was made of it, of so many bytes.
    pub(super) fn keep(&self, bytes: usize) -> bool {
        bytes <= FREE || self.take(&mut self.state(), bytes)
    }

    /// The caller is let in: what it says from now on is bounded otherwise.
    pub(super) fn let_in(&self) {
        let mut state = self.state();
        state.is_in = true;
        self.room.give_back(self.address, std::mem::take(&mut state.taken));
    }

    fn take(&self, state: &mut State, bytes: usize) -> bool {
        let has_room = self.room.take(self.address, bytes);
        state.taken += if has_room { bytes } else { 0 };
        has_room
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = self.state().taken;
        self.room.give_back(self.address, taken);
    }
}

/// Why no more is read of a caller.
fn no_room() -> Status {
    Status::aborted("too much is being said by callers that are not let in yet; try again")
}

impl<B> Entering<B> {
    pub(super) fn new(said: B, place: Arc<Place>) -> Self {
        Self { said, place }
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Body for Entering<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.said).poll_frame(context));
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => 0,
        };
        Poll::Ready(match self.place.read(bytes) {
            true => frame,
            false => Some(Err(no_room())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn taken(room: &Room) -> (usize, usize) {
        let taken = room.0.lock().unwrap();
        (taken.all, taken.by.len())
    }

    #[test]
    fn what_is_read_takes_room_until_its_caller_is_let_in_or_gone() {
        let room = Arc::<Room>::default();
        let [enters, goes] = [room.place(address(1)), room.place(address(2))];
        for place in [&enters, &goes] {
            assert!(place.read(FREE));
        }
        assert_eq!(taken(&room), (0, 0), "each has this in any case");
        assert!(enters.read(100) && goes.read(50) && goes.keep(FREE + 1));
        assert_eq!(taken(&room), (150 + FREE + 1, 2));
        enters.let_in();
        assert!(enters.read(usize::MAX), "that is bounded otherwise");
        assert_eq!(taken(&room), (50 + FREE + 1, 1));
        drop(goes);
        assert_eq!(taken(&room), (0, 0));
    }

    #[test]
    fn who_finds_no_room_is_refused_and_one_address_does_not_take_it_all() {
        let room = Arc::<Room>::default();
        let greedy = [room.place(address(1)), room.place(address(1))];
        assert!(greedy[0].keep(SHARE) && !greedy[1].read(FREE + 1) && !greedy[1].keep(FREE + 1));
        assert!(greedy[1].keep(FREE), "it is small");
        let others: Vec<_> = (2..=4).map(|last| room.place(address(last))).collect();
        assert!(others.iter().all(|place| place.keep(SHARE)));
        let late = room.place(address(5));
        assert!(late.read(FREE) && !late.read(1));
        drop(others);
        assert!(
            late.read(1) && taken(&room) == (SHARE + 1, 2),
            "what was refused is not counted"
        );
    }
}
