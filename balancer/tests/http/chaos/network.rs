//! A network that delays, cuts, resets, stalls, garbles and flips bits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::Kind;
use crate::fleet::{Endpoint, H2c};

/// Numbers that a seed makes; the same seed makes the same ones.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[derive(Debug, Default)]
pub(super) struct Weather {
    pub(super) is_well: AtomicBool,
    /// Directions of connections that have been broken.
    pub(super) broke: AtomicU64,
}

/// What happens to one direction of a connection.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Passes,
    /// Each read waits so many milliseconds.
    Slow(u64),
    /// After so many bytes...
    Ends(usize),
    Resets(usize),
    Stalls(usize),
    Garbles(usize),
    /// One bit, and all goes on.
    Flips(usize),
}

/// What comes in place of the rest.
pub(super) const GARBAGE: [u8; 32] = [0xff; 32];

impl Fate {
    fn of(dice: &mut Dice, kind: Kind, is_from_app: bool) -> Fate {
        let after = [20, 500, 5_000, 60_000][dice.roll(4) as usize];
        let after = dice.roll(after) as usize;
        match dice.roll(10) {
            0 => Fate::Passes,
            1 => Fate::Slow(dice.roll(20)),
            2 | 3 => Fate::Ends(after),
            4 => Fate::Resets(after),
            5 => Fate::Stalls(after),
            // Garbled bytes within a body of cleartext HTTP/1.1 could not be told from good ones, nor could a flipped
            // bit in any: that takes TLS.
            6 if kind.is_tls || kind.protocol == H2c && is_from_app => Fate::Garbles(after),
            7 | 8 if kind.is_tls => Fate::Flips(after),
            _ => Fate::Slow(1),
        }
    }
}

/// The way to an app, as the balancer knows it.
pub(super) async fn in_front_of(
    app: std::net::SocketAddr,
    name: &str,
    kind: Kind,
    seed: u64,
    weather: Arc<Weather>,
) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = Endpoint::elsewhere(name, listener.local_addr().unwrap()).await;
    let dice = Arc::new(Mutex::new(Dice(seed)));
    tokio::spawn(async move {
        while let Ok((balancer, _)) = listener.accept().await {
            let Ok(app) = TcpStream::connect(app).await else { return };
            let (from_balancer, to_balancer) = balancer.into_split();
            let (from_app, to_app) = app.into_split();
            for (from, to, is_from_app) in [(from_balancer, to_app, false), (from_app, to_balancer, true)] {
                let fate = match weather.is_well.load(Ordering::Relaxed) {
                    true => Fate::Passes,
                    false => Fate::of(&mut dice.lock().unwrap(), kind, is_from_app),
                };
                tokio::spawn(carry(from, to, fate, weather.clone()));
            }
        }
    });
    network
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, fate: Fate, weather: Arc<Weather>) {
    let mut buffer = vec![0; 16 * 1024];
    let mut left = match fate {
        Fate::Passes | Fate::Slow(_) => usize::MAX,
        Fate::Ends(left) | Fate::Resets(left) | Fate::Stalls(left) | Fate::Garbles(left) | Fate::Flips(left) => left,
    };
    loop {
        let Ok(n @ 1..) = from.read(&mut buffer).await else { return };
        if let Fate::Slow(ms) = fate {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        if weather.is_well.load(Ordering::Relaxed) {
            // What has not happened yet will not; what hangs goes on hanging.
            left = usize::MAX;
        }
        let mut passed = n.min(left);
        left -= passed;
        if left == 0 && matches!(fate, Fate::Flips(_)) {
            buffer[passed.saturating_sub(1)] ^= 0x10;
            (passed, left) = (n, usize::MAX);
            weather.broke.fetch_add(1, Ordering::Relaxed);
        }
        if to.write_all(&buffer[..passed]).await.is_err() {
            return;
        }
        if left > 0 {
            continue;
        }
        weather.broke.fetch_add(1, Ordering::Relaxed);
        match fate {
            Fate::Ends(_) => return,
            Fate::Resets(_) => {
                let _ = socket2::SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO));
                return;
            }
            Fate::Stalls(_) => {
                // Half open: it neither passes anything nor says that it does not.
                while let Ok(1..) = from.read(&mut buffer).await {}
                std::future::pending::<()>().await;
            }
            Fate::Garbles(_) => {
                let _ = to.write_all(&GARBAGE).await;
                return;
            }
            Fate::Passes | Fate::Slow(_) | Fate::Flips(_) => unreachable!("they pass all"),
        }
    }
}
