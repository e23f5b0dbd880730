//! `ringway top`: where the time of each shard goes, live.

mod columns;
mod feed;
mod screen;
#[cfg(test)]
mod tests;
mod view;

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use clap::Args;

use super::{FAILED, duration::duration};
use columns::Column;
use feed::{Feed, FeedError};
use view::View;

const REFUSED: u8 = 4;
const UNREACHABLE: u8 = 6;

const EXIT_CODES: &str = "\
Keys: left and right choose the column to sort by, r reverses, up and down choose the shard that is shown in full,
n shows nanoseconds per message instead of shares of the time, q quits.

Exit codes:
  0  quit, or the table was printed
  1  there is no terminal (with --once none is needed)
  2  wrong flags
  4  refused by the gateway, or it is of another version
  6  --once: unreachable";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Arguments {
    /// The gateway's admin port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9900")]
    admin: String,
    /// Print the table once, as text, and end.
    #[arg(long)]
    once: bool,
    /// Print what the gateway tells once, as JSON, and end.
    #[arg(long, conflicts_with = "once")]
    json: bool,
    /// Sort by this column.
    #[arg(long, value_name = "COLUMN", value_enum, default_value_t = Column::Shard)]
    sort: Column,
    /// Nanoseconds per message instead of shares of the time.
    #[arg(long)]
    ns: bool,
    /// Ask this often. (The gateway looks at its shards once a second.)
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    interval: Duration,
}

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}: {1}")]
    Feed(String, FeedError),
    #[error("this is no terminal; use --once or --json")]
    NoTerminal,
    #[error("cannot use the terminal: {0}")]
    Terminal(#[from] std::io::Error),
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match arguments.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway: {error}");
            ExitCode::from(match error {
                Failure::Feed(_, FeedError::Unreachable(_)) => UNREACHABLE,
                Failure::Feed(..) => REFUSED,
                Failure::NoTerminal | Failure::Terminal(_) => FAILED,
            })
        }
    }
}

impl Arguments {
    fn run(&self) -> Result<(), Failure> {
        let failed = |error| Failure::Feed(self.admin.clone(), error);
        if self.json {
            print!("{}", feed::text(&self.admin).map_err(failed)?);
            return Ok(());
        }
        let mut view = View::new(&self.admin, self.sort, self.ns);
        if self.once {
            view.told(feed::ask(&self.admin));
            print!("{}", view.into_text().map_err(failed)?);
            return Ok(());
        }
        if !std::io::stdout().is_terminal() {
            return Err(Failure::NoTerminal);
        }
        let feed = Feed::start(&self.admin, self.interval);
        Ok(screen::run(view, &feed)?)
    }
}
