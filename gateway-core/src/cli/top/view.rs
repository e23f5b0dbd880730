//! What is shown: the table of all shards, and one of them in full.

use std::{fmt::Write, time::Instant};

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table, TableState, Wrap},
};

use super::{
    columns::{Column, short},
    feed::FeedError,
};
use crate::control::{Finding, ShardReport, Shards, Spread};

/// Everything that decides what is shown.
pub(super) struct View {
    admin: String,
    sort: Column,
    reversed: bool,
    ns: bool,
    told: Option<Shards>,
    /// Why the newest question got no answer, and since when.
    lost: Option<(FeedError, Instant)>,
    table: TableState,
}

const KEYS: &str = "left/right sort by  r reverse  up/down shard  n ns per message  q quit";
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

impl View {
    pub(super) fn new(admin: &str, sort: Column, ns: bool) -> Self {
        Self {
            admin: admin.to_owned(),
            sort,
            reversed: false,
            ns,
            told: None,
            lost: None,
            table: TableState::new().with_selected(Some(0)),
        }
    }

    /// The gateway has answered, or has not. What it said last stays.
    pub(super) fn told(&mut self, answer: Result<Shards, FeedError>) {
        match answer {
            Ok(shards) => (self.told, self.lost) = (Some(shards), None),
            Err(error) => {
                let since = self
                    .lost
                    .take()
                    .map_or_else(Instant::now, |(_, since)| since);
                self.lost = Some((error, since));
            }
        }
    }

    pub(super) fn sort_beside(&mut self, right: bool) {
        self.sort = self.sort.beside(right);
    }

    pub(super) fn reverse(&mut self) {
        self.reversed = !self.reversed;
    }

    pub(super) fn toggle_ns(&mut self) {
        self.ns = !self.ns;
    }

    pub(super) fn select(&mut self, down: bool) {
        let shards = self.told.as_ref().map_or(0, |told| told.shards.len());
        let at = self.table.selected().unwrap_or(0);
        let at = if down { at + 1 } else { at.saturating_sub(1) };
        self.table.select(Some(at.min(shards.saturating_sub(1))));
    }

    /// The shards in order: the largest first, but by number the smallest.
    fn sorted(&self) -> Vec<&ShardReport> {
        let mut shards: Vec<_> = self.told.iter().flat_map(|told| &told.shards).collect();
        let value = |report: &ShardReport| self.sort.value(report, self.ns).unwrap_or(-1.0);
        shards.sort_by(|a, b| value(b).total_cmp(&value(a)));
        if (self.sort == Column::Shard) != self.reversed {
            shards.reverse();
        }
        shards
    }

    // ---------------------------------------------------------------------------------------------------- as a screen --

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let shards = self.told.as_ref().map_or(0, |told| told.shards.len()) as u16;
        let rows = (shards + 1).clamp(2, frame.area().height.saturating_sub(14).max(2));
        let [head, table, detail, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(rows),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        self.draw_table(frame, table);
        if let Some(report) = self.selected() {
            let detail_lines: Vec<_> = Self::in_full(report).into_iter().map(styled).collect();
            let text = Paragraph::new(detail_lines).wrap(Wrap { trim: false });
            frame.render_widget(text, detail);
        }
        frame.render_widget(Line::styled(KEYS, DIM), keys);
    }

    fn head(&self) -> Line<'_> {
        if let Some((error, since)) = &self.lost {
            let text = format!(
                "{}: {error}; lost for {} s, trying again",
                self.admin,
                since.elapsed().as_secs()
            );
            return Line::styled(text, Style::new().fg(Color::Red));
        }
        match &self.told {
            None => Line::raw(format!("{}: asking", self.admin)),
            Some(told) => Line::styled(title(told, &self.admin), BOLD),
        }
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let heads = Column::ALL.map(|column| {
            let (name, width) = column.head();
            let style = match column == self.sort {
                true => BOLD.add_modifier(Modifier::UNDERLINED),
                false => DIM,
            };
            Cell::new(right(name, width)).style(style)
        });
        let rows: Vec<_> = (self.sorted().into_iter())
            .map(|report| {
                let cells = Column::ALL.map(|column| {
                    let text = right(&column.cell(report, self.ns), column.head().1);
                    Cell::new(text).style(self.alarm(column, report))
                });
                Row::new(cells)
            })
            .collect();
        let widths = Column::ALL.map(|column| Constraint::Length(column.head().1));
        let style = if self.lost.is_some() {
            DIM
        } else {
            Style::new()
        };
        let table = Table::new(rows, widths)
            .header(Row::new(heads))
            .column_spacing(1)
            .style(style)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    /// Colour only for what needs somebody to look.
    fn alarm(&self, column: Column, report: &ShardReport) -> Style {
        let value = column.value(report, false).unwrap_or(0.0);
        match column {
            Column::Wait if value >= 0.10 => Style::new().fg(Color::Red),
            Column::Cpu if value >= 0.90 => Style::new().fg(Color::Yellow),
            _ => Style::new(),
        }
    }

    fn selected(&self) -> Option<&ShardReport> {
        let shards = self.sorted();
        let last = shards.len().checked_sub(1)?;
        let at = self.table.selected().unwrap_or(0);
        shards.get(at.min(last)).copied()
    }

    // ------------------------------------------------------------------------------------------------------- as text --

    /// The table, and every shard in full.
    ///
    /// # Errors
    /// The gateway did not answer.
    pub(super) fn into_text(self) -> Result<String, FeedError> {
        let Some(told) = &self.told else {
            let lost = self.lost.map(|(error, _)| error);
            return Err(lost.unwrap_or(FeedError::Refused("no answer".to_owned())));
        };
        let mut text = title(told, &self.admin) + "\n";
        let heads = Column::ALL.map(|column| right(column.head().0, column.head().1));
        let _ = writeln!(text, "{}", heads.join(" "));
        for report in self.sorted() {
            let cell = |column: Column| right(&column.cell(report, self.ns), column.head().1);
            let _ = writeln!(text, "{}", Column::ALL.map(cell).join(" "));
        }
        for report in self.sorted() {
            for (name, value) in Self::in_full(report) {
                let _ = writeln!(text, "{name:<14} {value}");
            }
        }
        Ok(text)
    }

    /// A shard in full: what each line is about, and what it says.
    fn in_full(report: &ShardReport) -> Vec<(String, String)> {
        let mut lines = vec![(
            format!("shard {}", report.shard),
            found(report.findings.first(), report),
        )];
        let others = report.findings.iter().skip(1);
        lines.extend(others.map(|other| (String::new(), found(Some(other), report))));
        let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
        line("tick us", spread(&report.tick_us));
        line("bytes/tick", spread(&report.tick_bytes));
        line("ready/tick", spread(&report.completions));
        line("msgs/send", spread(&report.messages_per_send));
        line("queue age us", spread(&report.queue_age_us));
        if report.lane_depth != Spread::default() {
            line("lane depth", spread(&report.lane_depth));
            line("lane wait us", spread(&report.lane_wait_us));
        }
        for link in report.busiest.links.iter().take(3) {
            let who = match &*link.service {
                "" => link.peer.to_string(),
                service => format!("{} {service:?}", link.peer),
            };
            let bytes = short(link.bytes as f64);
            line(
                "link",
                format!("{who}: {} commands, {bytes} bytes", link.commands),
            );
        }
        for fanout in report.busiest.fanouts.iter().take(3) {
            let (who, members) = (&fanout.audience, fanout.members);
            line(
                "fan-out",
                format!("{who}: {} deliveries, {members} members", fanout.deliveries),
            );
        }
        for lane in report.busiest.lanes.iter().take(2) {
            line(
                "lane",
                format!("from shard {}: {} commands", lane.shard, lane.commands),
            );
        }
        for slow in report.slow.iter().rev().take(3) {
            let at = slow.at_ms as f64 / 1e3;
            let (took, cause) = (slow.took_us as f64 / 1e3, slow.cause.label());
            line(
                "slow tick",
                format!("{took:.1} ms at {at:.1} s: {cause}: {}", slow.culprit),
            );
        }
        lines
    }
}

/// A finding; `None`: there is none.
fn found(finding: Option<&Finding>, report: &ShardReport) -> String {
    let Some(Finding {
        cause,
        culprit,
        because,
    }) = finding
    else {
        return format!(
            "has time left: busy for {:.0} % of it",
            report.busy() * 100.0
        );
    };
    match &**culprit {
        "" => format!("{}: {because}", cause.label()),
        culprit => format!("{}: {culprit}: {because}", cause.label()),
    }
}

fn title(told: &Shards, admin: &str) -> String {
    let sum = |of: fn(&ShardReport) -> f64| told.shards.iter().map(of).sum::<f64>();
    let connections: u64 = told.shards.iter().map(|shard| shard.connections).sum();
    format!(
        "{} at {admin}, {}, up {} s: {connections} conns, {} msg/s",
        told.gateway,
        told.driver,
        told.up_ms / 1_000,
        short(sum(|shard| shard.messages_in + shard.messages_out)),
    )
}

fn spread(of: &Spread) -> String {
    let [mean, p50, p99, max] = [of.mean, of.p50, of.p99, of.max].map(short);
    format!("mean {mean}, p50 < {p50}, p99 < {p99}, all < {max}")
}

fn styled((name, value): (String, String)) -> Line<'static> {
    let style = if name.starts_with("shard") { BOLD } else { DIM };
    Line::from(vec![
        Span::styled(format!("{name:<13}"), style),
        Span::raw(value),
    ])
}

fn right(text: &str, width: u16) -> String {
    format!("{text:>width$}", width = usize::from(width))
}
