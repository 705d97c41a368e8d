//! What is logged to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    subscriber.with_target(false).with_ansi(is_coloured).init();
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
