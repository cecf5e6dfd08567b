//! Endpoints' names, each looked up once at a time.
//!
//! The system's resolver blocks a thread for as long as it likes, of a number that all share: whoever wants a name that is
//! being looked up waits for that, so that a name which hangs costs one thread, and not one for each request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use tokio::time::Instant;

/// A lookup that takes longer is begun again beside it; what it finds after that is of the past.
const FRESH: Duration = Duration::from_secs(30);

/// Errors are told to all who wait.
type Found = Result<Rc<[IpAddr]>, Rc<io::Error>>;

#[derive(Debug, Default)]
pub(crate) struct Names(RefCell<HashMap<String, Lookup>>);

#[derive(Debug)]
struct Lookup {
    begun: Instant,
    found: Shared<LocalBoxFuture<'static, Found>>,
}

impl Names {
    /// Where `host` is now: nothing is kept, so that a name that moves is followed. It may be given up at any time; the lookup
    /// then goes on for those who come next.
    pub(crate) async fn look_up(&self, host: &str) -> io::Result<Rc<[IpAddr]>> {
        self.by(host, |host| async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|at| at.ip()).collect()) })
            .await
    }

    async fn by<F>(&self, host: &str, ask: impl FnOnce(String) -> F) -> io::Result<Rc<[IpAddr]>>
    where
        F: Future<Output = io::Result<Rc<[IpAddr]>>> + 'static,
    {
        let lookup = {
            let mut all = self.0.borrow_mut();
            all.retain(|_, lookup| lookup.begun.elapsed() < FRESH);
            let begin = || Lookup {
                begun: Instant::now(),
                found: ask(host.to_owned()).map(|found| found.map_err(Rc::new)).boxed_local().shared(),
            };
            all.entry(host.to_owned()).or_insert_with(begin).found.clone()
        };
        let found = lookup.await;
        // This one, and not one that was begun since.
        self.0.borrow_mut().retain(|_, lookup| lookup.found.peek().is_none());
        found.map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_once_at_a_time() {
        let (names, asked) = (Names::default(), Rc::new(Cell::new(0)));
        let ask = |_| {
            let asked = asked.clone();
            async move {
                asked.set(asked.get() + 1);
                sleep(Duration::from_secs(10)).await;
                Ok(Rc::from([IpAddr::from([192, 0, 2, asked.get()])]))
            }
        };
        // Who gives up leaves it to the others.
        assert!(timeout(Duration::from_secs(3), names.by("app", ask)).await.is_err());
        let (one, two) = tokio::join!(names.by("app", ask), names.by("app", ask));
        let first: Rc<[IpAddr]> = Rc::from([IpAddr::from([192, 0, 2, 1])]);
        assert_eq!((one.unwrap(), two.unwrap(), asked.get()), (first.clone(), first, 1));
        names.by("other", ask).await.unwrap();
        assert_eq!(names.by("app", ask).await.unwrap()[0], IpAddr::from([192, 0, 2, 3]), "asked anew");
        assert!(names.0.borrow().is_empty());
    }
}
