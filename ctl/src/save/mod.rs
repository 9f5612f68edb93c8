//! `save`: writes the pool in force back into the configuration file.
//!
//! Only what differs is touched, so comments and order stay. The new text is read back and compared
//! with the pool before it takes the file's place, in one step.

mod edit;
mod health;
mod quic;
mod tables;

use std::io::Write;
use std::path::Path;

use serde_json::json;
use toml_edit::DocumentMut;
use weir_shm::client::Client;
use weir_shm::command::Difference;
use weir_shm::document;
use weir_shm::model::Pool;

use crate::Failure;
use crate::cli::{Cli, Output};
use crate::output::json as write_json;

pub(crate) fn run(cli: &Cli, client: &Client, out: &mut dyn Write) -> Result<(), Failure> {
    let pool = client.running()?.pool;
    let named = client.config_path();
    // A link stays a link: what it points to is replaced.
    let path = named.canonicalize().map_err(|source| Failure::File {
        what: format!("cannot save to {}", named.display()),
        source,
    })?;
    let text = std::fs::read_to_string(&path).map_err(|source| Failure::File {
        what: format!("cannot read {}", path.display()),
        source,
    })?;
    let saved = saved(&path.to_string_lossy(), &text, &pool)?;
    if let Some((text, _)) = &saved {
        replace(&path, text).map_err(|source| Failure::File {
            what: format!("cannot write {}", path.display()),
            source,
        })?;
    }
    let lines = saved.map(|(_, lines)| lines).unwrap_or_default();
    if cli.output == Output::Json {
        let picture = json!({ "file": path, "changed": !lines.is_empty(), "changes": lines });
        return Ok(write_json(out, &picture)?);
    }
    for line in &lines {
        writeln!(out, "{line}")?;
    }
    if lines.is_empty() {
        writeln!(
            out,
            "{} says what is in force; nothing to save",
            path.display()
        )?;
    } else {
        writeln!(out, "saved to {}", path.display())?;
    }
    Ok(())
}

/// The text that says what `pool` is, and what changes in it; `None` when it says so already.
fn saved(file: &str, text: &str, pool: &Pool) -> Result<Option<(String, Vec<String>)>, Failure> {
    let before = document::parse_services(file, text)?;
    let difference = Difference::between(&before.pool, pool);
    if difference.is_empty() {
        return Ok(None);
    }
    let mut tree: DocumentMut = text
        .parse()
        .map_err(|error| Failure::Other(format!("cannot save: {file}: {error}")))?;
    edit::bring_up_to_date(tree.as_table_mut(), &before.pool, pool)
        .map_err(|reason| Failure::Other(format!("cannot save: {file}: {reason}")))?;
    let text = tree.to_string();
    let after = document::parse_services(file, &text)?;
    if !Difference::between(&after.pool, pool).is_empty() {
        return Err(Failure::Other(format!(
            "cannot save: {file} is written in a way that weirctl cannot change; change it by hand: {}",
            difference.lines().join("; ")
        )));
    }
    Ok(Some((text, difference.lines())))
}

/// Puts a text in a file's place, so that every reader sees the old one or the new one whole.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};
    let folder = path.parent().unwrap_or(Path::new("."));
    let old = std::fs::metadata(path)?;
    let mut new = tempfile::Builder::new()
        .prefix(".weir-save-")
        .tempfile_in(folder)?;
    new.write_all(text.as_bytes())?;
    new.as_file().set_permissions(old.permissions())?;
    let made = new.as_file().metadata()?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        // Whoever may not give files away becomes the owner, as with any editor.
        chown(new.path(), Some(old.uid()), Some(old.gid())).ok();
    }
    new.as_file().sync_all()?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests;
