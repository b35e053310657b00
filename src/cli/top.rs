//! `fencron top`: Now, Jobs, Run and Leadership in the terminal, from the store alone.
//!
//! It follows the ledger as a node does, into a board of its own, and asks the store for what the board does not have. It
//! writes nothing to the store. What stands on the terminal is a function of [`Top`] and the time.

mod ask;
mod canvas;
mod draw;
mod rows;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use self::ask::Said;
use self::canvas::{Canvas, Input};
use self::state::{Act, Top};
use super::hold::{Signals, by_signal};
use super::look::config_beside;
use super::terminal::{Terminal, is_coloured};
use super::{Exit, Failure, Global};
use crate::board::{Board, PLANNED_AT_ONCE};
use crate::ledger::{News, pass_on};
use crate::lock::{Backoff, LockName};
use crate::time::Clock;

/// How often what has changed is drawn; keys are answered at once.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// After how many of those all is drawn anew, since what is said of distances in time changes by itself.
const DRAWS_A_SECOND: u32 = 10;

/// How much may wait to be shown.
const WAITING: usize = 16;

#[derive(Args)]
pub(super) struct TopArgs {
    /// The jobs file that says when they are due [default: jobs.yaml, where there is one]
    #[arg(long, value_name = "FILE", env = "FENCRON_FILE")]
    file: Vec<PathBuf>,
}

/// Shows the cluster until the user quits.
pub(super) async fn top(args: &TopArgs, global: &Global, terminal: &Terminal) -> anyhow::Result<Exit> {
    if !canvas::is_there() {
        let why = "there is no terminal to draw on (stdin or stdout is none, or TERM is dumb): use `fencron status` and \
                   `fencron jobs`, which print";
        return Err(Failure::wrong(why).into());
    }
    let config = config_beside(&args.file, terminal)?;
    let place = global.open(config.as_ref().map(|config| config.namespace.as_str())).await?;
    let (ledger, locks) = (place.ledger(), place.recalling(global));
    let board = match &config {
        Some(config) => {
            let mut board = Board::default();
            board.configured(&config.jobs);
            board
        }
        None => Board::without_file(),
    };
    let mut top = Top::new(board, config.is_some(), is_coloured(true));
    top.namespace = place.namespace.to_string();
    top.store = place.url.to_string();
    top.owner_key = locks.election(LockName::leader()).owner_key().to_owned();

    let (wanted, wants) = watch::channel(top.wanted());
    let (say, said) = mpsc::channel(WAITING);
    let (news, heard) = mpsc::channel(WAITING);
    // They end with this function.
    let mut tasks = JoinSet::new();
    tasks.spawn(ask::ask((ledger.clone(), locks), place.clock.clone(), wants, say.clone()));
    tasks.spawn(async move {
        let away = say.clone();
        let error = pass_on(ledger, news, Backoff::new(), |error| {
            // Where there is no room, as much is said already.
            away.try_send(Said::Unheard(error.to_string())).ok();
        });
        say.send(Said::Ended(error.await)).await.ok();
    });
    Shown { top, clock: place.clock.clone(), said, heard, wanted }.until_it_ends().await
}

/// What is shown, and where news of it come from.
struct Shown {
    top: Top,
    clock: Clock,
    said: mpsc::Receiver<Said>,
    heard: mpsc::Receiver<News>,
    wanted: watch::Sender<ask::Wanted>,
}

impl Shown {
    async fn until_it_ends(mut self) -> anyhow::Result<Exit> {
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        let mut stops = canvas::Stops::listen().context("cannot listen for signals")?;
        let mut canvas = Canvas::open().context("cannot draw on the terminal")?;
        let mut input = canvas::input().context("cannot start the thread that reads the keys")?;
        let mut ticks = interval(DRAW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut ticked, mut has_news) = (0_u32, true);
        loop {
            let is_planning = self.top.board.has_unplanned();
            let draws = tokio::select! {
                biased;
                signal = signals.ending() => return Ok(by_signal(signal as i32)),
                stop = stops.next() => {
                    match stop {
                        canvas::Stop::Stop => canvas.stop()?,
                        canvas::Stop::Continued => canvas.again()?,
                    }
                    true
                }
                event = input.recv() => match event {
                    Some(Input::Key(key)) => match self.top.key(key, self.clock.both()) {
                        Act::Quit => return Ok(Exit::Done),
                        Act::Stop => {
                            canvas.stop()?;
                            true
                        }
                        Act::Show => true,
                    },
                    Some(Input::Resized) => true,
                    Some(Input::Ended(error)) => return Err(error).context("cannot read from the terminal"),
                    None => return Ok(Exit::Done),
                },
                Some(said) = self.said.recv() => {
                    match said {
                        Said::Ended(error) => return Err(error.into()),
                        said => self.top.said(said),
                    }
                    has_news = true;
                    false
                }
                Some(news) = self.heard.recv() => {
                    self.top.heard(&news, self.clock.wall());
                    has_news = true;
                    false
                }
                _ = ticks.tick() => {
                    ticked += 1;
                    std::mem::take(&mut has_news) || ticked.is_multiple_of(DRAWS_A_SECOND)
                }
                () = tokio::task::yield_now(), if is_planning => {
                    has_news |= !self.top.board.plan(self.clock.wall(), PLANNED_AT_ONCE);
                    false
                }
            };
            if draws {
                let now = self.clock.both();
                canvas.draw(|frame| draw::draw(frame, &mut self.top, now)).context("cannot draw on the terminal")?;
                self.want();
            }
        }
    }

    /// Has the store asked for what the screen shows.
    fn want(&self) {
        let wanted = self.top.wanted();
        self.wanted.send_if_modified(|before| {
            let is_news = *before != wanted;
            *before = wanted;
            is_news
        });
    }
}

#[cfg(test)]
mod tests;
