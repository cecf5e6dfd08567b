//! Alarms that may be late by a tick. All of one length lie in one list, in the order in which they
//! were set, which is the order in which they are due: setting one and giving it up touch its
//! neighbours only, and a tick looks at the first of each list.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

const TICK: Duration = Duration::from_millis(100);
/// The most ticks that pass at once.
const AT_ONCE: u32 = 10;

thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::default();
}

#[derive(Debug, Default)]
struct Clock {
    running: bool,
    /// Ticks so far.
    now: u64,
    entries: Slab<Entry>,
    lists: Vec<List>,
}

#[derive(Debug)]
struct List {
    ticks: u64,
    first: Option<usize>,
    last: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    due: u64,
    waker: Option<Waker>,
    list: usize,
    before: Option<usize>,
    behind: Option<usize>,
    fired: bool,
}

/// One alarm; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Alarm(usize);

impl Alarm {
    /// None on a thread where nothing ticks.
    pub(super) fn set(limit: Duration) -> Option<Alarm> {
        CLOCK.with_borrow_mut(|clock| clock.running.then(|| Alarm(clock.set(limit))))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (polled, _dropped_outside) = CLOCK.with_borrow_mut(|clock| {
            let entry = &mut clock.entries[self.0];
            match &mut entry.waker {
                _ if entry.fired => (Poll::Ready(()), None),
                Some(waker) if waker.will_wake(cx.waker()) => (Poll::Pending, None),
                waker => (Poll::Pending, waker.replace(cx.waker().clone())),
            }
        });
        polled
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Its waker goes outside of the clock's borrow: it may be the last handle of a task.
        let _entry = CLOCK.with_borrow_mut(|clock| clock.give_up(self.0));
    }
}

impl Clock {
    fn set(&mut self, limit: Duration) -> usize {
        // Never early: the tick under way does not count.
        let ticks = limit.as_millis().div_ceil(TICK.as_millis()) as u64 + 1;
        let list = self.lists.iter().position(|list| list.ticks == ticks).unwrap_or_else(|| {
            // A length that nothing waits for any more gives its place.
            let list = List { ticks, first: None, last: None };
            match self.lists.iter().position(|list| list.first.is_none()) {
                Some(free) => {
                    self.lists[free] = list;
                    free
                }
                None => {
                    self.lists.push(list);
                    self.lists.len() - 1
                }
            }
        });
        let before = self.lists[list].last;
        let entry = Entry { due: self.now + ticks, waker: None, list, before, behind: None, fired: false };
        let key = self.entries.insert(entry);
        match before {
            Some(before) => self.entries[before].behind = Some(key),
            None => self.lists[list].first = Some(key),
        }
        self.lists[list].last = Some(key);
        key
    }

    fn give_up(&mut self, key: usize) -> Entry {
        let entry = self.entries.remove(key);
        if !entry.fired {
            self.unlink(&entry);
        }
        entry
    }

    fn unlink(&mut self, entry: &Entry) {
        let list = &mut self.lists[entry.list];
        match entry.before {
            Some(before) => self.entries[before].behind = entry.behind,
            None => list.first = entry.behind,
        }
        match entry.behind {
            Some(behind) => self.entries[behind].before = entry.before,
            None => list.last = entry.before,
        }
    }

    /// The wakers of what is due.
    fn advance(&mut self, ticks: u64) -> Vec<Waker> {
        self.now += ticks;
        let mut due = Vec::new();
        for list in &mut self.lists {
            while let Some(first) = list.first
                && self.entries[first].due <= self.now
            {
                let entry = &mut self.entries[first];
                entry.fired = true;
                due.extend(entry.waker.take());
                list.first = entry.behind;
                match list.first {
                    Some(next) => self.entries[next].before = None,
                    None => list.last = None,
                }
            }
        }
        due
    }
}

/// Runs the alarms of this thread, for as long as it is polled.
pub(crate) async fn tick() {
    struct Running;
    impl Drop for Running {
        fn drop(&mut self) {
            CLOCK.with_borrow_mut(|clock| clock.running = false);
        }
    }
    CLOCK.with_borrow_mut(|clock| clock.running = true);
    let _running = Running;
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut last = Instant::now();
    loop {
        interval.tick().await;
        let ticks = (last.elapsed().as_millis() / TICK.as_millis()) as u32;
        last += TICK * ticks;
        // A process that stood still has lost the time for everybody, and alarms that were set since it goes on know
        // nothing of that.
        let ticks = u64::from(ticks.min(AT_ONCE));
        // Woken outside of the clock's borrow: a waker may drop an alarm.
        let due = CLOCK.with_borrow_mut(|clock| clock.advance(ticks));
        due.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A worker that has stood still does not take what it begins then for late.
    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "to stand still is what this is about")]
    async fn a_standstill_fires_nothing_that_was_set_behind_it() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                tokio::task::spawn_local(tick());
                tokio::time::sleep(TICK).await;
                std::thread::sleep(Duration::from_secs(3));
                let begun = std::time::Instant::now();
                let mut alarm = Alarm::set(Duration::from_secs(2)).expect("it ticks");
                std::future::poll_fn(|cx| alarm.poll(cx)).await;
                assert!(begun.elapsed() >= TICK * AT_ONCE, "{:?}", begun.elapsed());
            })
            .await;
    }

    proptest! {
        /// Against a plain model: an alarm fires when its time has come, unless it was given up.
        #[test]
        fn alarms_fire_in_time_and_only_then(steps in prop::collection::vec((0u8..4, 0usize..20, 1u64..40), 1..200)) {
            let mut clock = Clock::default();
            let mut alive: Vec<(usize, u64)> = Vec::new();
            for (kind, which, number) in steps {
                match kind {
                    0 | 1 => {
                        let key = clock.set(TICK * number as u32);
                        alive.push((key, clock.now + number + 1));
                    }
                    2 if !alive.is_empty() => {
                        let (key, _) = alive.swap_remove(which % alive.len());
                        drop(clock.give_up(key));
                    }
                    _ => drop(clock.advance(number / 4)),
                }
                for (key, due) in &alive {
                    prop_assert_eq!(clock.entries[*key].fired, *due <= clock.now);
                }
                prop_assert_eq!(clock.entries.len(), alive.len());
            }
            prop_assert!(clock.lists.len() <= 40);
        }
    }
}
