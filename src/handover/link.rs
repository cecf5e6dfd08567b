//! The connection between two processes of one node, from when the sockets have passed until one has ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidelock_core::report::NodeReport;
use tidelock_core::state::State;
use tidelock_core::table::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::{ANSWERS_WITHIN, LETS_GO_WITHIN, Others, SERVES_WITHIN};

/// No state of a fleet, and no report, is as long.
const FRAME_MAX: u32 = 256 << 20;
/// For the last report on the way out.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What this process is to the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It has the control plane: it tells the states, and counts what the other reports.
    Owner,
    /// Its clients end: it tells its reports, and follows the states.
    Guest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Serving,
    Leaving,
    Owns,
    Revoked,
    Released,
}

impl Word {
    const ALL: [Word; 5] = [Word::Serving, Word::Leaving, Word::Owns, Word::Revoked, Word::Released];

    fn byte(self) -> u8 {
        match self {
            Word::Serving => b'R',
            Word::Leaving => b'L',
            Word::Owns => b'O',
            Word::Revoked => b'X',
            Word::Released => b'F',
        }
    }
}

const REPORT: u8 = b'r';
const STATE: u8 = b's';

#[derive(Serialize, Deserialize)]
struct Said {
    report: NodeReport,
    /// It counts what runs on further processes, of which only this one knows.
    for_others: bool,
}

/// What this process shares with others.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) others: Others,
    /// This node's, as far as this process knows it.
    pub(crate) reports: watch::Receiver<NodeReport>,
    /// The newest that are known, whoever told.
    pub(crate) states: watch::Sender<Arc<State>>,
    pub(crate) tables: watch::Sender<Arc<Table>>,
    /// By then the clients of every process that ends have ended.
    pub(crate) clients_end_within: Duration,
}

impl Process {
    /// As a guest: the owner's word. What a newer build says may not be understood; this process stays where it
    /// was then, and the node with it as far as drains are concerned.
    fn follow(&self, state: &[u8]) {
        let state = match State::decode(state) {
            Ok(state) => Arc::new(state),
            Err(error) => return warn!(%error, "the process that took over says what this one cannot read"),
        };
        let before = self.tables.borrow().clone();
        if state.epoch.is_none_or(|epoch| epoch <= before.epoch) {
            return;
        }
        self.tables.send_replace(Arc::new(Table::compile(&state, Some(&before))));
        self.states.send_replace(state);
    }
}

pub(crate) struct Link {
    number: u64,
    others: Others,
    words: mpsc::Receiver<Word>,
    say: mpsc::Sender<Word>,
    role: watch::Sender<Role>,
    writer: AbortOnDropHandle<()>,
    _reader: AbortOnDropHandle<()>,
}

impl Link {
    pub(crate) fn start(stream: UnixStream, role: Role, process: &Process) -> Link {
        let number = process.others.number();
        if role == Role::Owner {
            process.others.enters(number);
        }
        let (from, to) = stream.into_split();
        // A few words in all pass each way.
        let (heard, words) = mpsc::channel(8);
        let (say, said) = mpsc::channel(8);
        let (role, role_seen) = watch::channel(role);
        let reader = tokio::spawn(read(from, number, heard, process.clone()));
        let writer = tokio::spawn(write(to, said, role_seen, process.clone()));
        let (reader, writer) = (AbortOnDropHandle::new(reader), AbortOnDropHandle::new(writer));
        Link { number, others: process.others.clone(), words, say, role, writer, _reader: reader }
    }

    /// None when the other process has ended.
    async fn heard(&mut self) -> Option<Word> {
        self.words.recv().await
    }

    async fn say(&self, word: Word) {
        // It has ended, which is heard.
        let _ = self.say.send(word).await;
    }

    /// Returns when it has said what runs on it, or does not in time.
    pub(crate) async fn first_report(&self) {
        let _ = tokio::time::timeout(ANSWERS_WITHIN, self.others.first_word(self.number)).await;
    }

    /// Returns when the other process has ended.
    pub(crate) async fn gone(mut self) {
        while self.heard().await.is_some() {}
    }

    /// The last report is on its way when this returns, if the other one hears at all.
    pub(crate) async fn close(self) {
        let Link { say, writer, .. } = self;
        drop(say);
        let _ = tokio::time::timeout(LAST_WORD, writer).await;
    }

    // --- The old one ---

    /// Waits until the new process serves and owns the node.
    pub(crate) async fn until_it_owns(&mut self) -> io::Result<()> {
        let late =
            |limit: Duration| io::Error::new(io::ErrorKind::TimedOut, format!("not within {} s", limit.as_secs()));
        self.expect(Word::Serving, SERVES_WITHIN).await.unwrap_or_else(|| Err(late(SERVES_WITHIN)))?;
        self.say(Word::Leaving).await;
        // One that serves and does not say so has the node all the same.
        self.expect(Word::Owns, ANSWERS_WITHIN).await.unwrap_or(Ok(()))
    }

    /// None: not in time.
    async fn expect(&mut self, wanted: Word, limit: Duration) -> Option<io::Result<()>> {
        let heard = tokio::time::timeout(limit, self.heard()).await.ok()?;
        Some(match heard {
            Some(word) if word == wanted => Ok(()),
            Some(word) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("it says {word:?}"))),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended")),
        })
    }

    /// Takes the node back, and returns when the other process has let go of the data directory.
    pub(crate) async fn revoke(&mut self, pid: Option<i32>) {
        self.say(Word::Revoked).await;
        if self.has_let_go().await {
            return;
        }
        // It is the one that we know: its end of the stream is open.
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            warn!(pid = pid.as_raw_nonzero(), "the process that did not take over does not end: it is killed");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            self.has_let_go().await;
        }
    }

    async fn has_let_go(&mut self) -> bool {
        let let_go = async { while !matches!(self.heard().await, None | Some(Word::Released)) {} };
        tokio::time::timeout(LETS_GO_WITHIN, let_go).await.is_ok()
    }

    /// This process owns the node again, and the other one is its guest if it is still there.
    pub(crate) fn own(&self) {
        self.others.enters(self.number);
        self.role.send_replace(Role::Owner);
    }

    // --- The new one ---

    /// Returns when the old process has taken the node back. Where it has ended this never returns.
    pub(crate) async fn revoked(&mut self) {
        while let Some(word) = self.heard().await {
            if word == Word::Revoked {
                return;
            }
        }
        std::future::pending().await
    }

    /// Says that this process serves. False: it is too late, the old one has taken the node back.
    pub(crate) async fn takes_over(&mut self) -> bool {
        self.say(Word::Serving).await;
        loop {
            match self.heard().await {
                Some(Word::Leaving) => return true,
                Some(Word::Revoked) => return false,
                Some(_) => {}
                None => {
                    warn!("the old process has ended without a word: the node is this one's");
                    return true;
                }
            }
        }
    }

    pub(crate) async fn owns(&self) {
        self.say(Word::Owns).await;
    }

    /// This process has no control plane any more: its clients end, as the other one's guests.
    pub(crate) async fn release(&self) {
        self.others.owns(self.number);
        self.role.send_replace(Role::Guest);
        self.say(Word::Released).await;
    }
}

async fn read(mut from: OwnedReadHalf, number: u64, words: mpsc::Sender<Word>, process: Process) {
    let mut for_others = false;
    let ended = loop {
        let (tag, payload) = match read_frame(&mut from).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        match tag {
            REPORT => match serde_json::from_slice::<Said>(&payload) {
                Ok(said) => {
                    for_others = said.for_others;
                    process.others.says(number, said.report);
                }
                // What runs there is not known; it is not nothing.
                Err(error) => {
                    warn!(%error, "another process of this node reports what this one cannot read");
                    process.others.is_silent(number);
                }
            },
            STATE => process.follow(&payload),
            byte => {
                let Some(word) = Word::ALL.into_iter().find(|word| word.byte() == byte) else { continue };
                // Nobody listens: it is this process that ends.
                let _ = words.send(word).await;
            }
        }
    };
    if let Err(error) = ended {
        warn!(%error, "the connection to another process of this node has broken");
    }
    drop(words);
    // Those that it spoke for may be there still, and nobody else hears of them.
    if for_others {
        process.others.is_silent(number);
        tokio::time::sleep(process.clients_end_within).await;
    }
    process.others.ends(number);
}

async fn write(
    mut to: OwnedWriteHalf,
    mut words: mpsc::Receiver<Word>,
    mut role: watch::Receiver<Role>,
    mut process: Process,
) {
    let mut states = process.states.subscribe();
    let told: io::Result<()> = async {
        let mut is = *role.borrow_and_update();
        process.reports.mark_changed();
        states.mark_changed();
        loop {
            tokio::select! {
                biased;
                word = words.recv() => match word {
                    Some(word) => write_frame(&mut to, word.byte(), &[]).await?,
                    None if is == Role::Guest => return write_frame(&mut to, REPORT, &report(&mut process)?).await,
                    None => return Ok(()),
                },
                Ok(()) = role.changed() => {
                    is = *role.borrow_and_update();
                    process.reports.mark_changed();
                    states.mark_changed();
                }
                Ok(()) = process.reports.changed(), if is == Role::Guest => {
                    let report = report(&mut process)?;
                    write_frame(&mut to, REPORT, &report).await?;
                }
                Ok(()) = states.changed(), if is == Role::Owner => {
                    let state = states.borrow_and_update().clone();
                    if state.epoch.is_some() {
                        write_frame(&mut to, STATE, &state.encode()).await?;
                    }
                }
            }
        }
    }
    .await;
    match told {
        // Its end, which is heard on the other way.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
        Err(error) => warn!(%error, "another process of this node is not told what happens"),
        Ok(()) => {}
    }
}

fn report(process: &mut Process) -> io::Result<Vec<u8>> {
    let report = process.reports.borrow_and_update().clone();
    Ok(serde_json::to_vec(&Said { report, for_others: process.others.is_any() })?)
}

async fn write_frame(to: &mut OwnedWriteHalf, tag: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length <= FRAME_MAX);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too long to be passed on"))?;
    to.write_u8(tag).await?;
    to.write_u32(length).await?;
    to.write_all(payload).await
}

/// None at the end.
async fn read_frame(from: &mut OwnedReadHalf) -> io::Result<Option<(u8, Vec<u8>)>> {
    let tag = match from.read_u8().await {
        Ok(tag) => tag,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = from.read_u32().await?;
    if length > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload).await?;
    Ok(Some((tag, payload)))
}
