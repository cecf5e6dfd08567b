//! A flag of one thread that its tasks can wait for. Cheaper than a channel to look at, which
//! each request does, and to wait for, which each idle connection does: a place in a list.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

#[derive(Debug, Default)]
pub(crate) struct Flag {
    up: Cell<bool>,
    waiting: RefCell<Slab<Waker>>,
}

/// One task's waiting for a flag.
#[derive(Debug)]
pub(crate) struct Raised {
    flag: Rc<Flag>,
    place: Option<usize>,
}

impl Flag {
    pub(crate) fn is_up(&self) -> bool {
        self.up.get()
    }

    pub(crate) fn raise(&self) {
        self.up.set(true);
        // A place stays taken until its owner gives it up.
        for (_, waker) in self.waiting.borrow().iter() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn lower(&self) {
        self.up.set(false);
    }

    /// Ends when the flag is up.
    pub(crate) fn raised(self: &Rc<Self>) -> Raised {
        Raised { flag: self.clone(), place: None }
    }
}

impl Raised {
    pub(crate) fn is_up(&self) -> bool {
        self.flag.is_up()
    }
}

impl Future for Raised {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.flag.is_up() {
            return Poll::Ready(());
        }
        let mut waiting = this.flag.waiting.borrow_mut();
        match this.place {
            Some(place) => waiting[place].clone_from(cx.waker()),
            None => this.place = Some(waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.flag.waiting.borrow_mut().remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_wait_are_woken_and_leave_nothing_behind() {
        let flag = Rc::new(Flag::default());
        let waiting = async { tokio::join!(flag.raised(), flag.raised()) };
        let raise = async {
            tokio::task::yield_now().await;
            assert_eq!(flag.waiting.borrow().len(), 2);
            flag.raise();
        };
        tokio::join!(waiting, raise);
        assert!(flag.waiting.borrow().is_empty());
        flag.raised().await;
        flag.lower();
        let mut wait = flag.raised();
        let noop = &mut Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut wait).poll(noop).is_pending());
        drop(wait);
        assert!(flag.waiting.borrow().is_empty());
    }
}
