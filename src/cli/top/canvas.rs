//! The terminal that is drawn on: taken over for as long as there is a [`Canvas`], and given back however that ends.

use std::io::{self, IsTerminal as _};
use std::thread;

use nix::sys::signal::{Signal as Number, raise};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::layout::Rect;
use ratatui::{DefaultTerminal, Frame, Terminal, TerminalOptions, Viewport};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How many keys may wait to be answered.
const WAITING: usize = 64;

/// Whether there is a terminal to draw on and to read keys from.
pub(super) fn is_there() -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    !is_dumb && io::stdin().is_terminal() && io::stdout().is_terminal()
}

pub(super) struct Canvas {
    terminal: DefaultTerminal,
    /// Columns and lines.
    size: (u16, u16),
}

impl Canvas {
    /// Takes the terminal over. A panic gives it back before it is reported.
    pub fn open() -> io::Result<Canvas> {
        let size = terminal::size()?;
        let mut canvas = Canvas { terminal: ratatui::try_init_with_options(covering(size))?, size };
        // With options, the library stays on the screen of the shell, and draws between what stands there.
        execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All))?;
        canvas.terminal.hide_cursor()?;
        Ok(canvas)
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        if terminal::size()? != self.size {
            self.anew()?;
        }
        self.terminal.draw(draw).map(|_| ())
    }

    /// Forgets what stands on the terminal, so that all of it is drawn. (Left to do so itself, the library asks the
    /// terminal where the cursor is; the answer would come in among the keys, which another thread waits for.)
    fn anew(&mut self) -> io::Result<()> {
        self.size = terminal::size()?;
        execute!(io::stdout(), Clear(ClearType::All))?;
        self.terminal = Terminal::with_options(CrosstermBackend::new(io::stdout()), covering(self.size))?;
        self.terminal.hide_cursor()
    }

    /// Gives the terminal back and stops this process, as Ctrl-Z does; returns when the process goes on.
    pub fn stop(&mut self) -> io::Result<()> {
        self.terminal.show_cursor()?;
        ratatui::try_restore()?;
        raise(Number::SIGSTOP)?;
        self.again()
    }

    /// Takes the terminal over again, after something else may have used it.
    pub fn again(&mut self) -> io::Result<()> {
        // What is remembered of the mode has to be forgotten first, or nothing is set.
        disable_raw_mode()?;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        self.anew()
    }
}

impl Drop for Canvas {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        self.terminal.show_cursor().ok();
        ratatui::try_restore().ok();
    }
}

fn covering((width, height): (u16, u16)) -> TerminalOptions {
    TerminalOptions { viewport: Viewport::Fixed(Rect::new(0, 0, width, height)) }
}

/// What comes from the terminal.
pub(super) enum Input {
    Key(KeyEvent),
    Resized,
    /// Nothing comes any more.
    Ended(io::Error),
}

/// Reads the terminal in a thread of its own, which waits for keys as long as the process lives.
pub(super) fn input() -> io::Result<mpsc::Receiver<Input>> {
    let (send, input) = mpsc::channel(WAITING);
    let read = move || {
        loop {
            let input = match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Input::Key(key),
                Ok(Event::Resize(..)) => Input::Resized,
                Ok(_) => continue,
                Err(error) => Input::Ended(error),
            };
            let has_ended = matches!(input, Input::Ended(_));
            if send.blocking_send(input).is_err() || has_ended {
                return;
            }
        }
    };
    thread::Builder::new().name("fencron-keys".into()).spawn(read)?;
    Ok(input)
}

/// The signals by which a shell stops a process and lets it go on.
pub(super) struct Stops {
    stop: Signal,
    goes_on: Signal,
}

pub(super) enum Stop {
    Stop,
    Continued,
}

impl Stops {
    pub fn listen() -> io::Result<Stops> {
        let listen = |number: Number| signal(SignalKind::from_raw(number as i32));
        Ok(Stops { stop: listen(Number::SIGTSTP)?, goes_on: listen(Number::SIGCONT)? })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Stop {
        tokio::select! {
            Some(()) = self.stop.recv() => Stop::Stop,
            Some(()) = self.goes_on.recv() => Stop::Continued,
            else => std::future::pending().await,
        }
    }
}
