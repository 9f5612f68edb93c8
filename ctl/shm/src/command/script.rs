//! A command in a line of text, as after `weirctl`.

use clap::Parser;

use super::PoolCommand;

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(String);

#[derive(Debug, Parser)]
#[command(
    name = "weirctl",
    disable_help_flag = true,
    disable_help_subcommand = true,
    subcommand_required = true
)]
struct Line {
    #[command(subcommand)]
    command: PoolCommand,
}

/// Reads one command, with words quoted as in a shell.
///
/// # Errors
/// As `weirctl` would say it.
pub fn parse_line(line: &str) -> Result<PoolCommand, Usage> {
    let words = shlex::split(line)
        .ok_or_else(|| Usage(format!("a quotation mark is not closed in: {line}")))?;
    let words = std::iter::once("weirctl".to_owned()).chain(words);
    match Line::try_parse_from(words) {
        Ok(line) => Ok(line.command),
        Err(error) => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            Err(Usage(text.trim_end().to_owned()))
        }
    }
}
