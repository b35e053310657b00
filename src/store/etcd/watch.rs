//! A watch that outlives the connections it runs over.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error as ClientError, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};

use super::fault::Subject;
use super::members::{Asked, Members, Nature};
use super::{MAX_ANSWER, translate};
use crate::store::{Change, Keys, Revision, StoreError, Watched};

/// How long a watch may be silent before the member is asked for a sign of life, and between such questions.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// After so many questions without a sign of life the watch is opened elsewhere: a member that hangs, or that the
/// network has taken away, is left after some four seconds.
const PROBES: u32 = 3;

/// How long to wait before a watch that could not be opened again is tried once more.
const REOPEN_AFTER: Duration = Duration::from_millis(500);

/// A watch, and how far it has got.
pub(super) struct Watcher {
    members: Arc<Members>,
    keys: Keys,
    /// The first revision that has not been reported.
    next: Revision,
}

/// A stream that was opened.
pub(super) struct Opened {
    pub stream: WatchStream,
    /// How far the member was when it began.
    pub at: Revision,
}

/// Why a stream is read no further.
enum StreamEnd {
    /// Open another and go on.
    Broken(String),
    /// There is nothing more to report, or no receiver.
    Over,
}

impl Watcher {
    pub(super) fn new(members: Arc<Members>, keys: Keys, from: Revision) -> Watcher {
        // To etcd, 0 would mean "from now on".
        Watcher { members, keys, next: from.max(Revision(1)) }
    }

    /// Opens a stream, on whichever member lets it.
    pub(super) async fn open(&self) -> Result<Opened, StoreError> {
        let (key, end) = translate::bounds(&self.keys)?;
        let mut options = WatchOptions::new().with_start_revision(translate::number(self.next));
        if let Some(end) = end {
            options = options.with_range(end);
        }
        let asked = Asked {
            nature: Nature::Read,
            subject: Subject::default(),
            patience: self.members.config().timeouts().attempt,
        };
        self.members.call(asked, |client| open_on(client, key, options.clone())).await
    }

    /// Reports to `reports` until it has no receiver any more.
    pub(super) async fn run(mut self, mut stream: WatchStream, reports: Sender<Watched>) {
        loop {
            match self.follow(&mut stream, &reports).await {
                StreamEnd::Over => return,
                StreamEnd::Broken(why) => tracing::debug!(keys = ?self.keys, why, "a watch broke, and is opened again"),
            }
            drop(stream);
            stream = match self.reopen(&reports).await {
                Some(stream) => stream,
                None => return,
            };
            if let Some(now) = self.went_back().await {
                tracing::error!(keys = ?self.keys, "a watch ends: the store is at revision {now}, before what it reported");
                drop(reports.send(Watched::Compacted(now)).await);
                return;
            }
        }
    }

    async fn reopen(&self, reports: &Sender<Watched>) -> Option<WatchStream> {
        loop {
            let opened = tokio::select! {
                () = reports.closed() => return None,
                opened = self.open() => opened,
            };
            match opened {
                Ok(opened) => return Some(opened.stream),
                Err(error) if error.is_passing() => sleep(REOPEN_AFTER).await,
                Err(error) => {
                    tracing::warn!(keys = ?self.keys, %error, "a watch ends: it can not be opened again");
                    return None;
                }
            }
        }
    }

    /// The store's revision, where it is older than what was reported: the store was restored from a backup, and would
    /// pass over what comes next in silence. A member that lags behind is not believed: a majority is asked. Where there
    /// is no answer, the next break asks again.
    async fn went_back(&self) -> Option<Revision> {
        let (key, _) = translate::bounds(&self.keys).ok()?;
        let asked = Asked {
            nature: Nature::Read,
            subject: Subject::default(),
            patience: self.members.config().timeouts().attempt,
        };
        let count = || GetOptions::new().with_count_only();
        let answer = self.members.call(asked, |client| async move { client.kv_client().get(key, Some(count())).await });
        let header = answer.await.ok()?.header().map(|header| translate::revision(header.revision()))?;
        (header.next() < self.next).then_some(header)
    }

    /// Reports what one stream brings.
    async fn follow(&mut self, stream: &mut WatchStream, reports: &Sender<Watched>) -> StreamEnd {
        let mut probes = 0;
        loop {
            let received = tokio::select! {
                () = reports.closed() => return StreamEnd::Over,
                received = timeout(PROBE_EVERY, stream.message()) => received,
            };
            let response = match received {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => return StreamEnd::Broken("the member ended the stream".into()),
                Ok(Err(error)) => return StreamEnd::Broken(error.to_string()),
                Err(_) if probes == PROBES => return StreamEnd::Broken("the member fell silent".into()),
                Err(_) => {
                    probes += 1;
                    match stream.request_progress().await {
                        Ok(()) => continue,
                        Err(error) => return StreamEnd::Broken(error.to_string()),
                    }
                }
            };
            probes = 0;
            if let Some(ended) = self.report(&response, reports).await {
                return ended;
            }
        }
    }

    /// Reports one response. All changes of one revision are in it: etcd splits them only for watches that request
    /// fragments.
    async fn report(&mut self, response: &WatchResponse, reports: &Sender<Watched>) -> Option<StreamEnd> {
        let next = self.next;
        let changes: Vec<Change> =
            response.events().iter().filter_map(translate::change).filter(|change| change.revision() >= next).collect();
        if let Some(last) = changes.last() {
            self.next = last.revision().next();
            if reports.send(Watched::Changes(changes)).await.is_err() {
                return Some(StreamEnd::Over);
            }
        }
        if response.compact_revision() > 0 {
            let compacted = Watched::Compacted(translate::revision(response.compact_revision()));
            // A missing receiver makes no difference at the end.
            drop(reports.send(compacted).await);
            return Some(StreamEnd::Over);
        }
        response.canceled().then(|| StreamEnd::Broken(format!("cancelled by etcd: {}", response.cancel_reason())))
    }
}

/// Opens a watch, and waits until the member confirms it. A watch from a revision that is past by then receives nothing
/// for up to 100 ms: etcd looks only so often for what such watches have missed.
async fn open_on(client: Client, key: &str, options: WatchOptions) -> Result<Opened, ClientError> {
    let mut stream = client.watch_client().max_decoding_message_size(MAX_ANSWER).watch(key, Some(options)).await?;
    match stream.message().await? {
        Some(created) if created.canceled() => Err(ClientError::WatchError(created.cancel_reason().to_owned())),
        Some(created) => {
            let at = created.header().map_or(Revision(0), |header| translate::revision(header.revision()));
            Ok(Opened { stream, at })
        }
        None => Err(ClientError::WatchError("the member ended the stream".into())),
    }
}

/// From which revision on the store keeps the history of `key`, which does not reach back to `asked`. Only a watch
/// learns it.
pub(super) async fn kept_from(client: Client, key: &str, asked: Revision) -> Result<Revision, ClientError> {
    let options = WatchOptions::new().with_start_revision(translate::number(asked.max(Revision(1))));
    let mut stream = client.watch_client().watch(key, Some(options)).await?;
    let mut compacted = Revision(0);
    while let Some(response) = stream.message().await? {
        compacted = translate::revision(response.compact_revision());
        if response.canceled() {
            break;
        }
    }
    Ok(compacted.max(asked.next()))
}
