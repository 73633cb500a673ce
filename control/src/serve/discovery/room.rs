//! Room for what callers say before they are let in: bytes that are read, and what is made of them while a pod is waited for. Who
//! finds none calls again. Without it whoever has a certificate could begin Hellos by the thousand, each as large as one may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::serve::rate::Lines;

/// Bytes that each may say in any case: a pod that is new says less, and needs nothing of what others take who say much. How many
/// may call at once is bounded.
const FREE: usize = 2 << 10;
/// Bytes of what is more, for all callers together.
const ALL: usize = 64 << 20;
/// Of these for those who share a name. Two of the largest messages fit.
const SHARE: usize = ALL / 4;

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<Arc<str>, usize>,
    lines: Lines,
}

/// What one caller takes of it. Given back when it is let in, or gone.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    whose: Arc<str>,
    read: usize,
    taken: usize,
    is_in: bool,
}

impl Room {
    /// For a caller. `whose`: who shares with it, so that each hurts nobody but those.
    pub(super) fn place(self: &Arc<Self>, whose: &str) -> Place {
        Place {
            room: self.clone(),
            whose: whose.into(),
            read: 0,
            taken: 0,
            is_in: false,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Takes so many in the place of those that one has; or leaves it these.
    fn exchange(&mut self, whose: &Arc<str>, had: usize, wants: usize) -> bool {
        let own = self.by.get(whose).copied().unwrap_or_default() - had;
        let all = self.all - had;
        if wants > ALL - all || wants > SHARE - own {
            return false;
        }
        self.all = all + wants;
        match own + wants {
            0 => drop(self.by.remove(whose)),
            own => drop(self.by.insert(whose.clone(), own)),
        }
        true
    }
}

impl Place {
    /// Whether there is room for so many bytes more that were read.
    pub(super) fn read(&mut self, bytes: usize) -> bool {
        let before = self.read.saturating_sub(FREE);
        self.read = self.read.saturating_add(bytes);
        let more = self.read.saturating_sub(FREE) - before;
        let has_room = self.is_in || self.takes(self.taken.saturating_add(more));
        if !has_room && self.room.taken().lines.take(Instant::now()) {
            let whose = &*self.whose;
            tracing::warn!(
                whose,
                "callers are refused: more is being said than there is room for before they are let in"
            );
        }
        has_room
    }

    /// Whether there is room for what was made of all that was read, of so many bytes, in the place of that.
    pub(super) fn keep(&mut self, bytes: usize) -> bool {
        self.takes(bytes.saturating_sub(FREE))
    }

    /// The caller is let in: what it says from now on is bounded otherwise.
    pub(super) fn let_in(&mut self) {
        self.is_in = true;
        self.takes(0);
    }

    fn takes(&mut self, bytes: usize) -> bool {
        let has_room = self.room.taken().exchange(&self.whose, self.taken, bytes);
        if has_room {
            self.taken = bytes;
        }
        has_room
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.takes(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much is taken, and by how many.
    fn taken(room: &Room) -> (usize, usize) {
        let taken = room.taken();
        (taken.all, taken.by.len())
    }

    #[test]
    fn what_is_read_takes_room_until_its_caller_is_let_in_or_gone() {
        let room = Arc::<Room>::default();
        let [mut enters, mut goes] = ["a", "b"].map(|whose| room.place(whose));
        assert!(enters.read(FREE - 1) && goes.read(FREE));
        assert_eq!(taken(&room), (0, 0), "each has this in any case");
        assert!(enters.read(101) && goes.read(50));
        assert_eq!(taken(&room), (150, 2));
        assert!(goes.keep(FREE + 7));
        assert_eq!(taken(&room), (107, 2), "in the place of what it said");
        assert!(!goes.keep(FREE + SHARE + 1));
        assert_eq!(taken(&room), (107, 2), "what it has said is still there");
        enters.let_in();
        assert!(enters.read(usize::MAX), "that is bounded otherwise");
        assert_eq!(taken(&room), (7, 1));
        drop((enters, goes));
        assert_eq!(taken(&room), (0, 0));
    }

    #[test]
    fn who_finds_no_room_is_refused_and_nobody_takes_what_is_for_others() {
        let room = Arc::<Room>::default();
        let mut greedy = [room.place("a"), room.place("a")];
        assert!(greedy[0].read(FREE + SHARE) && !greedy[1].read(FREE + 1) && !greedy[1].keep(FREE + 1));
        assert!(greedy[1].keep(FREE), "it is small");
        let mut others = ["b", "c", "d"].map(|whose| room.place(whose));
        assert!(others.iter_mut().all(|place| place.keep(FREE + SHARE)));
        let mut late = room.place("late");
        assert!(late.read(FREE) && !late.read(1));
        drop(others);
        assert!(late.read(1));
        assert_eq!(taken(&room), (SHARE + 1, 2), "what was refused is not counted");
    }
}
