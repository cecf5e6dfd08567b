//! Whether a failed attempt may be made again elsewhere (rule H5).
//!
//! A request runs twice only if nobody can tell: the endpoint said that it did not look at it, or
//! the method is idempotent and no response began. The body must still be at hand.

use http::Method;

/// Attempts in all, the first included.
pub const MAX_ATTEMPTS: u32 = 3;
/// Attempts in all of a request that nobody has looked at: connections that many share come to their end together (nginx
/// closes one after 1,000 requests), so that a second and a third attempt may meet the same.
pub const MAX_UNPROCESSED: u32 = 8;

/// How an attempt ended before the first byte of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection came about: nothing was sent.
    Connect,
    /// As much runs there as the pool allows, and nothing ended in time: nothing was sent.
    Full,
    /// The endpoint says that it did not process the request: REFUSED_STREAM, or a GOAWAY below
    /// the stream (RFC 9113 section 8.7); or the connection closed before it took a byte.
    Unprocessed,
    /// A kept connection ended before the first byte of the response: the endpoint may have closed
    /// it while the request was on its way.
    Stale,
    /// The connection or the stream broke; the request may have been processed.
    Broken,
    /// No response in time: the endpoint may still be at work.
    Timeout,
    /// The response was no HTTP.
    Protocol,
    /// The endpoint found the request malformed (RST_STREAM with PROTOCOL_ERROR), which says nothing of the endpoint. Another
    /// one may see it otherwise, a third would not.
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try the next endpoint.
    Again,
    /// Answer the client with an error.
    GiveUp,
}

/// `attempts` were made, the failed one included; `replayable` says that every body byte sent so
/// far is still held.
pub fn verdict(failure: Failure, method: &Method, replayable: bool, attempts: u32) -> Verdict {
    let safe = match failure {
        Failure::Connect | Failure::Full | Failure::Unprocessed => true,
        Failure::Stale | Failure::Broken | Failure::Malformed => method.is_idempotent(),
        Failure::Timeout | Failure::Protocol => false,
    };
    let most = match failure {
        Failure::Unprocessed => MAX_UNPROCESSED,
        Failure::Malformed => 2,
        _ => MAX_ATTEMPTS,
    };
    if safe && replayable && attempts < most { Verdict::Again } else { Verdict::GiveUp }
}

/// How many second tries a pool's requests may cost, by how many requests there are: when endpoints
/// break under their load, trying again must not be what keeps them down. Only what an endpoint may
/// have worked on counts; a refused connection or stream costs nobody anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// A second try costs 1,000.
    saved: u32,
}

impl Budget {
    /// One second try for five requests, as Finagle has it.
    const A_REQUEST: u32 = 200;
    const A_TRY: u32 = 1_000;
    /// What is saved at most, and there at the start: 50 tries.
    const MOST: u32 = 50 * Self::A_TRY;

    /// A request has come.
    pub fn with_request(self) -> Budget {
        Budget { saved: (self.saved + Self::A_REQUEST).min(Self::MOST) }
    }

    /// Takes a try; none when it is spent.
    pub fn without_try(self) -> Option<Budget> {
        self.saved.checked_sub(Self::A_TRY).map(|saved| Budget { saved })
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget { saved: Self::MOST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_can_tell_runs_twice() {
        use Failure::*;
        let again = |failure, method: &Method| verdict(failure, method, true, 1) == Verdict::Again;
        assert!(again(Connect, &Method::POST));
        assert!(again(Full, &Method::POST));
        assert!(again(Unprocessed, &Method::POST));
        assert!(again(Broken, &Method::GET));
        assert!(again(Broken, &Method::PUT));
        assert!(!again(Broken, &Method::POST));
        assert!(again(Stale, &Method::DELETE) && !again(Stale, &Method::POST));
        assert!(!again(Timeout, &Method::GET));
        assert!(!again(Protocol, &Method::GET));
        assert!(again(Malformed, &Method::GET) && !again(Malformed, &Method::POST));
        assert_eq!(verdict(Malformed, &Method::GET, true, 2), Verdict::GiveUp);
    }

    #[test]
    fn a_lost_body_or_the_last_attempt_ends_it() {
        assert_eq!(verdict(Failure::Connect, &Method::GET, false, 1), Verdict::GiveUp);
        assert_eq!(verdict(Failure::Connect, &Method::GET, true, MAX_ATTEMPTS), Verdict::GiveUp);
        let unprocessed = |attempts| verdict(Failure::Unprocessed, &Method::POST, true, attempts);
        assert_eq!((unprocessed(MAX_UNPROCESSED - 1), unprocessed(MAX_UNPROCESSED)), (Verdict::Again, Verdict::GiveUp));
    }

    #[test]
    fn second_tries_are_a_fifth_of_the_requests_in_the_long_run() {
        let mut budget = Budget::default();
        let (mut tries, requests) = (0, 10_000);
        for _ in 0..requests {
            budget = budget.with_request();
            if let Some(less) = budget.without_try() {
                budget = less;
                tries += 1;
            }
        }
        assert!((2_000..=2_060).contains(&tries), "{tries}");
    }
}
