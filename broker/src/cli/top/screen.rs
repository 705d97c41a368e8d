//! The ledger on a terminal.

use std::io;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Row, Table};
use staunch_protocols::schema::ledger::State;

use super::amount::span;
use super::model::Model;
use super::order::Order;
use super::plain::{
    ACCOUNT_COLUMNS, HOLDING_COLUMNS, account_cells, holding_cells, is_number, rates, rest, summary, told,
};

/// So many lines tell of cycles.
const CYCLE_LINES_MAX: usize = 4;
/// What is not news any more.
const STALE: Duration = Duration::from_secs(3);

/// What somebody wants who has pressed keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    More,
    End,
}

/// A terminal that is drawn on; put back in order when this is dropped.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    look: Look,
}

/// What is shown, and how.
struct Look {
    address: String,
    order: Order,
    is_reversed: bool,
    /// How many connections have been scrolled over.
    above: usize,
    has_colours: bool,
    /// What is shown while it stands still.
    still: Option<Model>,
    /// How many updates there were, and since when so many.
    news: (u64, Instant),
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it is none that can be.
    pub(super) fn open(address: &str, order: Order) -> io::Result<Screen> {
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let look = Look {
            address: address.to_owned(),
            order,
            is_reversed: false,
            above: 0,
            has_colours,
            still: None,
            news: (0, Instant::now()),
        };
        Ok(Screen { terminal: ratatui::try_init()?, look })
    }

    /// Draws what holds.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub(super) fn draw(&mut self, model: &Model) -> io::Result<()> {
        if self.look.news.0 != model.updates() {
            self.look.news = (model.updates(), Instant::now());
        }
        let look = &mut self.look;
        let still = look.still.take();
        let drawn =
            self.terminal.draw(|frame| look.draw(still.as_ref().unwrap_or(model), still.is_some(), frame));
        drawn.map(|_| ())?;
        look.still = still;
        Ok(())
    }

    /// Does what the keys say that have been pressed.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub(super) fn take_keys(&mut self, model: &Model) -> io::Result<Wanted> {
        while event::poll(Duration::ZERO)? {
            let Event::Key(key) = event::read()? else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(Wanted::End),
                KeyCode::Char('c') if is_control => return Ok(Wanted::End),
                KeyCode::Char('r') => self.look.is_reversed ^= true,
                KeyCode::Char(' ') if self.look.still.is_some() => self.look.still = None,
                KeyCode::Char(' ') => self.look.still = Some(model.clone()),
                KeyCode::Up | KeyCode::Char('k') => self.look.above = self.look.above.saturating_sub(1),
                KeyCode::Down | KeyCode::Char('j') => self.look.above += 1,
                KeyCode::PageUp => self.look.above = self.look.above.saturating_sub(10),
                KeyCode::PageDown => self.look.above += 10,
                KeyCode::Home => self.look.above = 0,
                KeyCode::Char(key) => self.look.sort_by(key),
                _ => {}
            }
        }
        Ok(Wanted::More)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

impl Look {
    fn sort_by(&mut self, key: char) {
        if let Some(order) = Order::of_key(key) {
            (self.order, self.is_reversed, self.above) = (order, false, 0);
        }
    }

    /// A style, if there are colours.
    fn colour(&self, colour: Color) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn draw(&mut self, model: &Model, is_still: bool, frame: &mut Frame<'_>) {
        let holdings = model.holdings().len();
        let cycles = self.cycles(model, frame.area().width);
        let height = frame.area().height;
        // At most a third, with the titles and a line before them.
        let below = if holdings == 0 { 0 } else { (holdings as u16 + 2).min(height / 3 + 1) };
        let [head, middle, accounts, holders, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(cycles.len() as u16 + 1),
            Constraint::Fill(1),
            Constraint::Length(below),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_head(model, is_still, frame, head);
        frame.render_widget(Text::from(cycles), middle);
        self.draw_accounts(model, frame, accounts);
        if below > 0 {
            let [_, rows] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(holders);
            self.draw_holders(model, frame, rows);
        }
        let keys = "q quit  sort: o owes h holds i in u out e ev n name s since  r turn  space stop";
        frame.render_widget(Line::styled(keys, Style::new().add_modifier(Modifier::DIM)), foot);
    }

    fn draw_head(&self, model: &Model, is_still: bool, frame: &mut Frame<'_>, area: Rect) {
        let Some(broker) = model.broker() else { return };
        let [first, second] = summary(broker, rates(model));
        let room = usize::from(area.width).saturating_sub(first.chars().count() + 2);
        let text = Text::from(vec![Line::from(first), Line::from(second)]);
        frame.render_widget(text, area);
        let age = self.news.1.elapsed();
        let note = match is_still {
            true => "stands still".to_owned(),
            false if age > STALE => format!("no news for {}", span(age.as_secs_f64())),
            false if self.address.chars().count() > room => return,
            false => self.address.clone(),
        };
        frame.render_widget(
            Line::styled(note, Modifier::BOLD).alignment(Alignment::Right),
            Rect { height: 1, ..area },
        );
    }

    /// Who waits for each other, as lines.
    fn cycles(&self, model: &Model, width: u16) -> Vec<Line<'static>> {
        let style = self.colour(Color::Red).add_modifier(Modifier::BOLD);
        let told = model.cycles().into_iter().map(|cycle| told(cycle, model.at()));
        let lines = told.flat_map(|text| wrapped(&text, usize::from(width)));
        lines.take(CYCLE_LINES_MAX).map(|line| Line::styled(line, style)).collect()
    }

    fn draw_accounts(&mut self, model: &Model, frame: &mut Frame<'_>, area: Rect) {
        let mut accounts = model.accounts();
        self.order.sort(&mut accounts, self.is_reversed);
        // The last page stays a page.
        let room = usize::from(area.height.saturating_sub(1));
        self.above = self.above.min(accounts.len().saturating_sub(room));
        let at = model.at();
        let mut rows: Vec<Row<'_>> = Vec::new();
        for account in accounts.into_iter().skip(self.above).take(room) {
            let style = match account.state {
                State::Throttled { .. } => self.colour(Color::Yellow),
                State::Gone => Style::new().add_modifier(Modifier::DIM),
                State::Open => Style::new(),
            };
            rows.push(row(&ACCOUNT_COLUMNS, account_cells(account, at)).style(style));
        }
        if rows.len() < room
            && let Some(rest) = model.broker().and_then(rest)
        {
            rows.push(Row::new([Cell::from(rest)]));
        }
        frame.render_widget(table(&ACCOUNT_COLUMNS, rows, Some(self.order.column())), area);
    }

    fn draw_holders(&self, model: &Model, frame: &mut Frame<'_>, area: Rect) {
        let at = model.at();
        let holdings = model.holdings();
        let rows = holdings.iter().take(usize::from(area.height));
        let rows = rows.map(|holding| row(&HOLDING_COLUMNS, holding_cells(holding, at))).collect();
        frame.render_widget(table(&HOLDING_COLUMNS, rows, None), area);
    }
}

/// A table with a line of titles, of which that is marked by which it is sorted; names share what room there is.
fn table<'a, const N: usize>(
    columns: &[(&'static str, u16); N],
    rows: Vec<Row<'a>>,
    sorted: Option<&str>,
) -> Table<'a> {
    let widths = columns.iter().map(|(title, width)| match is_number(title) {
        true => Constraint::Length(*width),
        false => Constraint::Fill(*width),
    });
    let marked = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    let titles = columns.map(|(title, _)| {
        let style = if Some(title) == sorted { marked } else { Style::new() };
        Cell::from(Text::from(title).alignment(alignment(title))).style(style)
    });
    let titles = Row::new(titles).style(Style::new().add_modifier(Modifier::REVERSED));
    Table::new(rows, widths).header(titles).column_spacing(1)
}

fn row<'a, const N: usize>(columns: &[(&str, u16); N], cells: [String; N]) -> Row<'a> {
    let cells = columns
        .iter()
        .zip(cells)
        .map(|((title, _), text)| Cell::from(Text::from(text).alignment(alignment(title))));
    Row::new(cells)
}

fn alignment(title: &str) -> Alignment {
    if is_number(title) { Alignment::Right } else { Alignment::Left }
}

/// Lines of so many characters at most, broken between words where that can be.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        match line.is_empty() {
            true => line.push_str(word),
            false if line.chars().count() + 1 + word.chars().count() > width => {
                lines.push(format!("  {word}"))
            }
            false => {
                line.push(' ');
                line.push_str(word);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "  three"]);
        assert_eq!(wrapped("longer-than-that it", 5), ["longer-than-that", "  it"]);
        assert_eq!(wrapped("", 5), [""]);
    }
}
