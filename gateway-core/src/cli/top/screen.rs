//! The terminal: draws, and takes keys.

use std::{io, time::Duration};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};

use super::{feed::Feed, view::View};

/// How long a key waits at most.
const LOOK: Duration = Duration::from_millis(100);

/// Shows it until the user has seen enough. The terminal is as before then, also after a panic.
///
/// # Errors
/// The terminal does not do as it is told.
pub(super) fn run(view: View, feed: &Feed) -> io::Result<()> {
    let terminal = ratatui::try_init()?;
    let result = show(terminal, view, feed);
    ratatui::try_restore()?;
    result
}

fn show(mut terminal: DefaultTerminal, mut view: View, feed: &Feed) -> io::Result<()> {
    loop {
        if let Some(answer) = feed.newest() {
            view.told(answer);
        }
        terminal.draw(|frame| view.draw(frame))?;
        if event::poll(LOOK)?
            && let Event::Key(key) = event::read()?
            && !take(&mut view, key)
        {
            return Ok(());
        }
    }
}

/// Follows a key; `false`: it ends the show.
pub(super) fn take(view: &mut View, key: KeyEvent) -> bool {
    if key.kind == KeyEventKind::Release {
        return true;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if control => return false,
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Left | KeyCode::Char('h') => view.sort_beside(false),
        KeyCode::Right | KeyCode::Char('l') => view.sort_beside(true),
        KeyCode::Up | KeyCode::Char('k') => view.select(false),
        KeyCode::Down | KeyCode::Char('j') => view.select(true),
        KeyCode::Char('r') => view.reverse(),
        KeyCode::Char('n') => view.toggle_ns(),
        _ => {}
    }
    true
}
