//! What is logged to standard error.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Logs what the environment asks for, or `unless_told`.
pub(super) fn start(unless_told: &str) {
    let asked = ["STAUNCH_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.trim().is_empty())?)));
    let filter = match &asked {
        Some((name, text)) => filter(text).unwrap_or_else(|why| {
            eprintln!("staunch: {name}={text} is not understood ({why}); logs {unless_told}");
            EnvFilter::new(unless_told)
        }),
        None => EnvFilter::new(unless_told),
    };
    let is_coloured =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").unwrap_or_default().is_empty();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match is_journal() {
        true => subscriber.with_ansi(false).event_format(Journal::default()).init(),
        false => subscriber.with_ansi(is_coloured).init(),
    }
}

/// Whether standard error is the journal's: it is named by device and inode, since the variable is inherited by those
/// whose standard error is another (systemd.exec(5)).
fn is_journal() -> bool {
    let Some(named) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let own = io::stderr().as_fd().try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
    own.is_ok_and(|own| named == format!("{}:{}", own.dev(), own.ino()))
}

/// Lines as the journal wants them: a priority before each (sd-daemon(3)), and no time, which it adds itself.
struct Journal(Format<Full, ()>);

impl Default for Journal {
    fn default() -> Journal {
        Journal(Format::default().without_time().with_level(false).with_target(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

/// A filter as the environment gives it. A single word must be a level: taken for the name of a module, as the library
/// does, a misspelt level would log nothing. Traces are not compiled in, so they are taken for debug.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let text = text.trim().to_ascii_lowercase();
    let text = if text == "trace" { "debug" } else { text.as_str() };
    let is_word = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_word && text.parse::<LevelFilter>().is_err() {
        return Err("it is no level".to_owned());
    }
    text.parse().map_err(|error| format!("{error}"))
}
