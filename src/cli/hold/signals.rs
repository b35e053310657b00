//! What this process is told, on its way to the command.

use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What is passed on to the command. While there is none, the first four end the wait for it.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// How many signals may wait to be passed on.
const WAITING: usize = 16;

pub(super) struct Signals {
    told: mpsc::Receiver<Signal>,
    tell: mpsc::Sender<Signal>,
    stays_in_place: bool,
    told_to_end: bool,
}

impl Signals {
    /// From now on nothing of this ends the process. What it was told to ignore, as by nohup(1), it goes on to ignore,
    /// and so does the command.
    pub fn listen() -> io::Result<Signals> {
        let (tell, told) = mpsc::channel(WAITING);
        let signals = Signals { told, tell, stays_in_place: false, told_to_end: false };
        let ignored = ignored();
        for wanted in PASSED_ON.into_iter().filter(|wanted| !ignores(ignored, *wanted)) {
            signals.hear(wanted)?;
        }
        Ok(signals)
    }

    fn hear(&self, wanted: Signal) -> io::Result<()> {
        let mut heard = signal(SignalKind::from_raw(wanted as i32))?;
        let tell = self.tell.clone();
        tokio::spawn(async move {
            while heard.recv().await.is_some() {
                if wanted != Signal::SIGTSTP && tell.send(wanted).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// From now on the key that stops does not: whoever is stopped while it holds something keeps all others waiting, and
    /// loses it after a while.
    pub fn stay_in_place(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.stays_in_place, true) && !ignores(ignored(), Signal::SIGTSTP) {
            self.hear(Signal::SIGTSTP)?;
        }
        Ok(())
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        match self.told.recv().await {
            Some(signal) => {
                self.told_to_end |= !matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2);
                signal
            }
            // Not while `self` keeps a sender.
            None => std::future::pending().await,
        }
    }

    /// Whether there was one that tells to end, whatever the command made of it.
    pub fn told_to_end(&self) -> bool {
        self.told_to_end
    }

    /// The next one that ends who waits. Cancel safe.
    pub async fn ending(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if !matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2) {
                return signal;
            }
        }
    }
}

/// What this process ignores, a bit for each signal, as proc(5) has it. Where that cannot be read: nothing.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn ignores(ignored: u64, signal: Signal) -> bool {
    ignored >> (signal as i32 - 1) & 1 == 1
}
