//! The signals that this process receives, on their way to the command.

use std::{fs, io};

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The signals that are passed on to the command. While there is no command, the first four end the wait.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// How many signals may wait to be passed on.
const WAITING: usize = 16;

pub(in crate::cli) struct Signals {
    received: mpsc::Receiver<Signal>,
    pass_on: mpsc::Sender<Signal>,
    stays_in_place: bool,
    asked_to_end: bool,
}

impl Signals {
    /// From now on these signals do not end the process. Signals that it was started to ignore, as by nohup(1), it goes
    /// on to ignore, and so does the command.
    pub fn listen() -> io::Result<Signals> {
        let (pass_on, received) = mpsc::channel(WAITING);
        let signals = Signals { received, pass_on, stays_in_place: false, asked_to_end: false };
        let ignored = ignored();
        for wanted in PASSED_ON.into_iter().filter(|wanted| !ignores(ignored, *wanted)) {
            signals.receive(wanted)?;
        }
        Ok(signals)
    }

    fn receive(&self, wanted: Signal) -> io::Result<()> {
        let mut arrivals = signal(SignalKind::from_raw(wanted as i32))?;
        let pass_on = self.pass_on.clone();
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                if wanted != Signal::SIGTSTP && pass_on.send(wanted).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// From now on the key that stops a program (Ctrl-Z) does not: a program that is stopped while it holds something
    /// keeps all others waiting, and loses it after a while.
    pub fn stay_in_place(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.stays_in_place, true) && !ignores(ignored(), Signal::SIGTSTP) {
            self.receive(Signal::SIGTSTP)?;
        }
        Ok(())
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        match self.received.recv().await {
            Some(signal) => {
                self.asked_to_end |= !matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2);
                signal
            }
            // Not while `self` keeps a sender.
            None => std::future::pending().await,
        }
    }

    /// Whether a signal to end arrived, also if the command ignored it.
    pub fn asked_to_end(&self) -> bool {
        self.asked_to_end
    }

    /// The next signal that ends the wait. Cancel safe.
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
